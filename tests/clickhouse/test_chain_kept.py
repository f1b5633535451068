"""Attributes that `OTEL_CREDITS_KEEP_ATTRIBUTES` names are kept with the event; nothing else outside the conventions is."""

from collections.abc import Mapping
from typing import Any

from otel_credits_aggregator.replay import Selection, quarantined_ids, replay_batch, run_replay
from support.chain import Chain
from support.otlp_build import AMOUNT, METADATA, UNITS, USER, metric, metrics, point, span, traces, usage_span

KEEP = ("tenant", "http.route", "size", "flag", "tags", "nothing")
SENT: Mapping[str, Any] = {"tenant": "acme", "size": 7, "flag": True, "tags": ["a"], "region": "eu", "nothing": ""}
KEPT = {"tenant": "acme", "size": "7", "flag": "true", "tags": "a"}


def metadata(chain: Chain) -> list[dict[str, str]]:
    """The metadata of each event."""
    return [event["metadata"] for event in chain.events()]


def test_only_what_is_listed_is_kept(chain: Chain) -> None:
    """Listed attributes of spans and points are metadata by their names, as text; without a list nothing is."""
    chain.send(traces(usage_span(SENT)), keep_attributes=KEEP)
    chain.send(traces(usage_span(SENT)))
    sent = {"credits.action_type": "storage", "credits.unit": "page", USER: "ada", **SENT}
    chain.command(
        "INSERT INTO credit_action_costs (unit, credits_per_unit, effective_from) VALUES ('page', 1, '1990-01-01')"
    )
    chain.send(metrics(metric(point(1, sent))), keep_attributes=KEEP)
    assert sorted(map(str, metadata(chain))) == sorted(map(str, [KEPT, {}, KEPT]))
    chain.assert_sums_agree()


def test_metadata_of_the_app_is_not_replaced(chain: Chain) -> None:
    """Where the app set metadata of the same name, that stays."""
    chain.send(traces(usage_span({**SENT, METADATA + "tenant": "theirs"})), keep_attributes=("tenant",))
    assert metadata(chain) == [{"tenant": "theirs"}]


def test_long_values_are_cut(chain: Chain) -> None:
    """Of a kept attribute 512 characters are kept, whatever alphabet they are of."""
    chain.send(traces(usage_span({"tenant": "\u00e9" * 600})), keep_attributes=("tenant",))
    assert metadata(chain) == [{"tenant": "\u00e9" * 512}]


def test_an_attribute_that_is_there_twice_raises_nothing(chain: Chain) -> None:
    """A span with a kept attribute twice waits for that, as any."""
    twice = [
        *usage_span().attributes,
        *usage_span({"tenant": "a"}).attributes[-1:],
        *usage_span({"tenant": "b"}).attributes[-1:],
    ]
    odd = span()
    odd.attributes.extend(twice)
    chain.send(traces(odd), keep_attributes=("tenant",))
    assert chain.reasons() == ["duplicate_attribute"]


def test_what_waits_keeps_them_too(chain: Chain) -> None:
    """A usage that is charged after a wait in the quarantine has what was listed when it was received."""
    chain.send(traces(usage_span({AMOUNT: None, UNITS + "page": 1, **SENT})), keep_attributes=KEEP)
    assert chain.reasons() == ["unpriced"]
    (row,) = chain.rows("SELECT attributes FROM credit_quarantine")
    assert "region" not in str(row["attributes"])
    chain.command(
        "INSERT INTO credit_action_costs (unit, credits_per_unit, effective_from) VALUES ('page', 1, '1990-01-01')"
    )
    batch = replay_batch(quarantined_ids(chain.client, chain.spool.receiver, Selection()))
    run_replay(chain.client, batch)
    assert metadata(chain) == [KEPT]


def test_spans_that_a_rule_or_a_convention_makes_usage_keep_them(chain: Chain) -> None:
    """A span that a rule prices has its route, an automatic LLM call its tenant."""
    chain.command("INSERT INTO credit_rules (rule_id, enabled, kind, action_type) VALUES ('r', true, 'server', 'work')")
    chain.command(
        "INSERT INTO credit_action_costs (unit, credits_per_unit, effective_from) VALUES ('call', 1, '1990-01-01')"
    )
    call = {
        "gen_ai.operation.name": "chat", "gen_ai.usage.input_tokens": 3, "gen_ai.usage.output_tokens": 2, USER: "ada",
        "gen_ai.response.model": "gpt-5-mini", "gen_ai.response.finish_reasons": ["stop"], **SENT,
    }  # fmt: skip
    chain.send(
        traces(span({USER: "ada", "http.route": "/films", "q": "secret"}, kind=2)),
        traces(span(call), scope="opentelemetry.instrumentation.genai.openai"),
        keep_attributes=KEEP,
        charge_genai=True,
    )
    assert sorted(map(str, metadata(chain))) == sorted(map(str, [{"http.route": "/films"}, KEPT]))
    chain.assert_sums_agree()
