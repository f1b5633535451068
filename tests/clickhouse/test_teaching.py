"""Rows of `credit_conventions` that are added while the store is in use: which of them counts for a span."""

import json
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from otel_credits_aggregator.batch_insert import named_attributes
from otel_credits_aggregator.otlp import Signal
from otel_credits_aggregator.privacy import stripped
from otel_credits_aggregator.replay import Selection, Treatment, quarantined_ids, replay_batch, run_replay
from support.chain import Chain
from support.otlp_build import OPERATION, RESPONSE_ID, USER, resource_spans, span, traces

IN, OUT = "acme.tokens.in", "acme.tokens.out"


def teach(chain: Chain, **columns: Any) -> None:
    """Adds a row."""
    row = {"scope_name": "acme.llm", "input_attribute": IN, "output_attribute": OUT, "input_includes_cache": True}
    row |= columns
    chain.client.insert("credit_conventions", [list(row.values())], column_names=list(row))


def call(chain: Chain, version: str, provider: str = "acme", **attributes: Any) -> str:
    """Sends a call of that version; returns the number of input tokens it was charged for, else the reason."""
    one = span(
        {
            OPERATION: "chat",
            USER: "ada",
            "gen_ai.provider.name": provider,
            IN: 7,
            "acme.tokens.in2": 8,
            OUT: 1,
            **attributes,
        }
    )
    request = traces()
    request.resource_spans.append(resource_spans([one], scope="acme.llm", version=version))
    chain.send(request, charge_genai=True)
    # Each call comes to what the ones before are forgotten for.
    charged = [str(row["input_tokens"]) for row in chain.rows("SELECT input_tokens FROM credit_usage_events")]
    found = [*charged, *chain.reasons()]
    chain.empty()
    (result,) = found
    return result


def prices(chain: Chain) -> None:
    """Any token costs a credit."""
    for unit in ("input_token", "output_token"):
        chain.command(
            f"INSERT INTO credit_action_costs (unit, credits_per_unit, effective_from) VALUES ('{unit}', 1, '1990-01-01')"
        )


def test_the_newest_row_of_a_key_counts(chain: Chain) -> None:
    """A further row of the same scope, first version and provider replaces the one before, also where it covers less."""
    prices(chain)
    assert call(chain, "1.0") == "unknown_convention"
    teach(chain)
    assert call(chain, "1.0") == "7"
    teach(chain, input_attribute="acme.tokens.in2", version_until="2")
    assert (call(chain, "1.0"), call(chain, "2.0")) == ("8", "unknown_convention")


def test_a_row_that_ends_one_lets_the_others_be(chain: Chain) -> None:
    """After a removal the next that matches counts: that of an earlier version, or of any provider; else the call waits."""
    prices(chain)
    second = {"input_attribute": "acme.tokens.in2"}
    teach(chain)
    teach(chain, **second, version_from="1.5")
    assert (call(chain, "1.4"), call(chain, "1.5")) == ("7", "8")
    teach(chain, version_from="1.5", enabled=False)
    assert (call(chain, "1.4"), call(chain, "1.5")) == ("7", "7")
    teach(chain, **second, provider="other")
    assert (call(chain, "1.5"), call(chain, "1.5", "other")) == ("7", "8")
    teach(chain, provider="other", enabled=False)
    assert call(chain, "1.5", "other") == "7"
    teach(chain, enabled=False)
    assert call(chain, "1.4") == "unknown_convention"
    teach(chain)
    assert call(chain, "1.4", **{RESPONSE_ID: "again"}) == "7"


def test_what_is_shipped_can_be_ended(chain: Chain) -> None:
    """A row of the migrations is ended like any, and the migrations, applied again, do not bring it back."""
    shipped = chain.rows("SELECT scope_name, version_from, provider FROM credit_conventions LIMIT 3")
    for row in shipped:
        teach(chain, **row, enabled=False)
    left = chain.rows(
        "SELECT count() AS n FROM"
        " (SELECT * FROM credit_conventions ORDER BY created_at DESC LIMIT 1 BY scope_name, version_from, provider)"
        " WHERE enabled"
    )
    assert left == [{"n": chain.rows("SELECT count() AS n FROM credit_conventions")[0]["n"] - 2 * len(shipped)}]


COUNTS = (
    *("acme.tokens.in", "acme.tokens_out", "tokens.used", "acme.token.count", "acme.usage.tokens", "llm.token_count.x"),
    *("acme.promptTokens", "input_tokens", "total_token_count", "acme.tokens.output"),
)
NO_COUNTS = ("gen_ai.request.max_tokens", "acme.tokens_per_second", "token_index", "acme.token.id", "tokens.included")


def test_names_of_counts_wait_and_others_are_no_usage(chain: Chain) -> None:
    """A span without any mark waits if an attribute is called like a count of tokens used; limits and rates are none."""
    spans = [span({USER: "ada", name: 7}, name=name) for name in (*COUNTS, *NO_COUNTS)]
    chain.send(traces(*spans, scope="acme.llm"), charge_genai=True)
    waiting = {
        row["name"] for row in chain.rows("SELECT name FROM credit_quarantine WHERE reason = 'unknown_convention'")
    }
    assert waiting == set(COUNTS)
    assert chain.outcomes() == {"quarantined": len(COUNTS), "not_usage": len(NO_COUNTS)}
    chain.assert_sums_agree()


# What an emitter tells within the JSON of what the model answered, and in words of its own.
PLACES = {
    "cache_write_attribute": "acme.tokens.written",
    "cache_write_1h_attribute": "acme.reply#/usage/0/hour~1long",
    "response_id_attribute": "acme.reply#/id",
    "service_tier_attribute": "acme.reply#/tier",
    "request_service_tier_attribute": "acme.asked#/tier",
    "answers_attribute": "acme.replies#",
    "earlier_calls_attribute": "acme.reply#/before",
    "stream_attributes": ["acme.live", "acme.asked#/stream"],
    "stream_flaw": "output",
    "finish_attribute": "acme.done",
}
REPLY = {
    "id": "reply_of_sixteen_bytes",
    "tier": "fast",
    "usage": [{"hour/long": 2}],
    "before": [],
    "said": "PRIVATE-WORDS",
}


def reply_span(reply: Any = REPLY, replies: int = 1, asked: Any = None, **attributes: Any) -> ExportTraceServiceRequest:
    """A call that is told in JSON."""
    told = {
        "acme.reply": json.dumps(reply),
        "acme.replies": json.dumps(["PRIVATE-WORDS"] * replies),
        "acme.done": "yes",
    }
    told |= {"acme.asked": json.dumps(asked or {"prompt": "PRIVATE-WORDS"})}
    counts = {IN: 9, OUT: 1, "acme.tokens.written": 4}
    one = span({OPERATION: "chat", USER: "ada", **counts, **told, **attributes})
    request = traces()
    request.resource_spans.append(resource_spans([one], scope="acme.llm", version="1"))
    return request


def charge_all(chain: Chain) -> None:
    """Gives every unit that waits a price, and replays all that waits."""
    tiers = ("", "_fast", "_slow")
    units = [
        unit + tier
        for unit in ("input_token", "output_token", "cache_write_token", "cache_write_1h_token")
        for tier in tiers
    ]
    columns = ["unit", "credits_per_unit", "effective_from"]
    chain.client.insert("credit_action_costs", [[unit, 1, 0] for unit in units], column_names=columns)
    run_replay(chain.client, replay_batch(quarantined_ids(chain.client, chain.spool.receiver, Selection())))


def became(chain: Chain) -> tuple[list[dict[str, int]], list[str]]:
    """The quantities of each event, and the reasons of what waits."""
    events = [{unit: int(n) for unit, n in event["units"].items() if n} for event in chain.events()]
    return events, chain.reasons()


FAST = {"input_token_fast": 5, "output_token_fast": 1, "cache_write_token_fast": 2, "cache_write_1h_token_fast": 2}
UNRELIABLE: tuple[list[dict[str, int]], list[str]] = ([], ["emitter_unreliable"])
CASES: dict[str, tuple[ExportTraceServiceRequest, tuple[list[dict[str, int]], list[str]]]] = {
    "told": (reply_span(), ([FAST], [])),
    "tier that was asked for": (
        reply_span(REPLY | {"tier": None}, asked={"tier": "slow"}),
        ([{unit.replace("fast", "slow"): n for unit, n in FAST.items()}], []),
    ),
    "two answers": (reply_span(replies=2), UNRELIABLE),
    "answers not told": (reply_span(**{"acme.replies": "no JSON"}), UNRELIABLE),
    "two calls": (reply_span(REPLY | {"before": ["PRIVATE-WORDS"]}), UNRELIABLE),
    "stream": (reply_span(**{"acme.live": True}), UNRELIABLE),
    "stream that was asked for": (reply_span(asked={"stream": True}), UNRELIABLE),
    "cut off": (reply_span(**{"acme.done": None}), ([], ["usage_unknown"])),
    "negative count": (reply_span(REPLY | {"usage": [{"hour/long": -2}]}), ([], ["negative_number"])),
    "list for a count": (reply_span(REPLY | {"usage": [{"hour/long": [2]}]}), ([], ["not_a_number"])),
    "nothing in JSON": (
        reply_span("PRIVATE-WORDS"),
        ([{"input_token": 5, "output_token": 1, "cache_write_token": 4}], []),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_told_within_json_counts_now_and_later(chain: Chain, case: str) -> None:
    """What a row says of JSON counts at once, after a wait for prices or a payer, and of a request that was kept raw, while
    nothing that was said is stored."""
    request, expected = CASES[case]
    teach(chain, **PLACES)
    chain.send(request, charge_genai=True, user_attributes=("no.such.attribute",))
    stored = str(chain.rows("SELECT attributes FROM credit_quarantine"))
    assert "acme.tokens.written" in stored
    assert "PRIVATE-WORDS" not in stored
    waiting = quarantined_ids(chain.client, chain.spool.receiver, Selection())
    run_replay(chain.client, replay_batch(waiting, Treatment(payer="ada")))
    charge_all(chain)
    assert became(chain) == expected
    chain.empty()
    chain.send(request, charge_genai=True)
    assert became(chain) == expected
    chain.empty()
    raw = stripped(Signal.TRACES, request.SerializeToString(), (), named_attributes(chain.client))
    assert b"PRIVATE-WORDS" not in raw
    chain.send(ExportTraceServiceRequest.FromString(raw), charge_genai=True)
    assert became(chain) == expected


def test_a_response_id_within_json_is_that_of_the_call(chain: Chain) -> None:
    """Two spans that tell the same id in JSON are one call, also where one of them waited."""
    teach(chain, **PLACES)
    chain.send(reply_span(), charge_genai=True)
    assert chain.reasons() == ["unpriced"]
    charge_all(chain)
    chain.send(reply_span(), charge_genai=True)
    assert chain.outcomes() == {"charged": 1, "duplicate": 1}
    assert [event["identity"] for event in chain.events()] == ["response"]
    chain.assert_sums_agree()


def test_what_came_before_its_row_waits_for_a_decision(chain: Chain) -> None:
    """Nothing in JSON is kept of an emitter that is not known: if the row then names places in it, what waits is not charged
    as if it had told nothing there."""
    chain.send(reply_span(), charge_genai=True)
    assert chain.reasons() == ["unknown_convention"]
    teach(chain, **PLACES)
    charge_all(chain)
    assert became(chain) == ([], ["usage_unknown"])
    teach(chain, cache_write_attribute="acme.tokens.written")
    charge_all(chain)
    assert became(chain) == ([{"input_token": 5, "output_token": 1, "cache_write_token": 4}], [])


def test_what_a_model_said_is_not_read_as_its_providers_answer(chain: Chain) -> None:
    """An answer whose text is JSON, on a span that does not call it that, tells no id: a model may be asked to say one."""
    prices(chain)
    teach(chain, response_id_attribute="acme.value#/id")
    for kind in ("text/plain", None):
        for _ in range(2):
            chain.send(reply_span(**{"acme.value": json.dumps(REPLY), "acme.mime_type": kind}), charge_genai=True)
    assert [event["identity"] for event in chain.events()] == ["span"] * 4
    for _ in range(2):
        chain.send(
            reply_span(**{"acme.value": json.dumps(REPLY), "acme.mime_type": "application/json"}), charge_genai=True
        )
    assert [event["identity"] for event in chain.events()].count("response") == 1
