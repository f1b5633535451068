"""Recorded telemetry of real instrumentations, charged against what the provider really served (recordings/index.json).

All cases go through the chain in one insert, and once more file by file. The envelope names the case as the receiver,
so that the outcomes of each case can be told apart.
"""

import json
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from otel_credits_aggregator.batch_insert import token_settings
from otel_credits_aggregator.envelope import framed, settings_fields
from otel_credits_aggregator.migrations import clickhouse_folder
from otel_credits_aggregator.otlp import Signal, item_count, parse
from otel_credits_aggregator.replay import replay_batch, run_replay
from otel_credits_aggregator.spool import Request
from support.chain import Chain
from support.samples import others_long

FOLDER = Path(__file__).parents[1] / "recordings"
CASES = {case["id"]: case for case in json.loads((FOLDER / "index.json").read_text())["cases"]}
LLM_PREFIXES = ("gen_ai.", "llm.", "openinference.")
# The unit, its name in the index, its price.
UNITS = {
    "input_token": ("input_uncached", Decimal("0.000003")),
    "cache_read_token": ("cache_read", Decimal("0.0000003")),
    "cache_write_token": ("cache_write", Decimal("0.00000375")),
    "output_token": ("output_total", Decimal("0.000015")),
}
# Every call completed, yet the spans do not say what was used: not charged, and not as zero.
SILENT = {
    "ga-openai.stream_nousage": "the OpenAI API sends no usage in a stream without include_usage",
    "oi-anthropic.raw_response_stream": "the span ends before the stream does",
    "ga-langchain.stream": "the same as the first, through LangChain",
    "old-ollm-openai.stream_usage": "usage of streams is not reported",
}
# A call that was made and told of by no span.
LOST = {
    "extra.sampled_01_ollm": "a sampler dropped nine of ten spans",
    "e2e.contrib": "one request came with a client's traceparent that says not sampled",
}
# The client names another user in its baggage header, and the recorded app believes it.
SPOOFED = {"e2e.contrib"}
OTLP_TYPES = {Signal.TRACES: ("otlp_traces", "Traces"), Signal.METRICS: ("otlp_metrics", "Metrics")}
NOBODY = ("no.such.attribute",)


@dataclass
class Fate:
    """What became of a case."""

    received: int = 0
    outcomes: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    reasons: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    units: dict[str, Decimal] = field(default_factory=lambda: defaultdict(Decimal))
    credits: Decimal = Decimal(0)


def truth(case: str) -> dict[str, int]:
    """What was really used, by unit."""
    totals = CASES[case]["true_usage"]["totals"]
    return {unit: totals[name] for unit, (name, _) in UNITS.items()}


def files(case: str, signal: Signal) -> list[bytes]:
    """The requests of a case in the order of their arrival."""
    return [(FOLDER / file["path"]).read_bytes() for file in CASES[case]["files"] if file["signal"] == signal.value]


def llm_scopes(case: str) -> set[str]:
    """The scopes of the case's spans that say anything about an LLM."""
    requests = [ExportTraceServiceRequest.FromString(payload) for payload in files(case, Signal.TRACES)]
    return {
        scope.scope.name
        for request in requests
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
        if any(attribute.key.startswith(LLM_PREFIXES) for attribute in span.attributes)
    }


def completed(case: str) -> bool:
    """Whether the provider was called, every call was answered to its end, and spans tell of all of them."""
    totals = CASES[case]["true_usage"]["totals"]
    return totals["billed_calls"] == totals["completed_calls"] > 0 and case not in LOST and bool(llm_scopes(case))


def insert(chain: Chain, signal: Signal, requests: list[tuple[str, bytes]], **settings: Any) -> None:
    """Inserts requests of many cases at once, each with its case as receiver, and as payer if it names none."""
    batch_id, now_us = str(uuid.uuid4()), time.time_ns() // 1000
    parts = []
    for case, payload in requests:
        assert parse(signal, payload) is not None
        kept = chain.settings.model_copy(update={"charge_genai": True, "default_user": case, **settings})
        parts.append(framed(batch_id, settings_fields(kept, receiver=case), [Request(payload, now_us, b"")]))
    table, message = OTLP_TYPES[signal]
    protobuf = {
        "format_schema_source": "string",
        "format_schema": (clickhouse_folder() / "otlp.proto").read_text(),
        "format_schema_message_name": message,
        "input_format_protobuf_oneof_presence": 1,
    }
    chain.client.raw_insert(
        table, insert_block=b"".join(parts), fmt="Protobuf", settings=token_settings(batch_id) | protobuf
    )


def inserts(signal: Signal, together: bool) -> Iterator[list[tuple[str, bytes]]]:
    """The requests of each insert: all in one, or the first file of every case, then the second ..."""
    by_case = [[(case, payload) for payload in files(case, signal)] for case in CASES]
    if together:
        yield [request for requests in by_case for request in requests]
    else:
        for those in zip_longest(*by_case):
            yield [request for request in those if request is not None]


def set_prices(chain: Chain) -> None:
    """One price a unit, whatever the model."""
    chain.command("TRUNCATE TABLE credit_action_costs")
    rows = [[unit, price, 0] for unit, (_, price) in UNITS.items()]
    chain.client.insert("credit_action_costs", rows, column_names=["unit", "credits_per_unit", "effective_from"])


def fates(chain: Chain) -> dict[str, Fate]:
    """What became of each case."""
    found: dict[str, Fate] = defaultdict(Fate)
    for case in CASES:
        for signal in OTLP_TYPES:
            found[case].received += sum(item_count(signal, parse(signal, payload)) for payload in files(case, signal))
    for row in chain.rows(
        "SELECT receiver, outcome, reason, sum(items) AS n FROM ingest_outcomes GROUP BY receiver, outcome, reason"
    ):
        found[row["receiver"]].outcomes[row["outcome"]] += row["n"]
        if row["reason"]:
            found[row["receiver"]].reasons[row["reason"]] += row["n"]
    for event in chain.events():
        fate = found[event["user_id"]]
        fate.credits += event["credits_charged"]
        for unit, quantity in event["units"].items():
            fate.units[unit] += quantity
    return found


def verdict(case: str, fate: Fate) -> str:
    """How the charges of a case compare with the truth: exact, nothing, less, or wrong (more of any unit)."""
    true, charged = truth(case), {unit: fate.units.get(unit, 0) for unit in UNITS}
    if any(charged[unit] > true[unit] for unit in UNITS) or fate.credits != sum(
        charged[u] * UNITS[u][1] for u in UNITS
    ):
        return "WRONG"
    if charged == true:
        return "exact"
    return "less" if any(charged.values()) else "nothing"


def table(found: Mapping[str, Fate], *verdicts: str) -> str:
    """The cases with these verdicts, or all, one a line."""
    lines = []
    for case in sorted(CASES):
        fate = found[case]
        said = verdict(case, fate)
        if not verdicts or said in verdicts:
            charged = "/".join(str(int(fate.units.get(unit, 0))) for unit in UNITS)
            true = "/".join(str(number) for number in truth(case).values())
            lines.append(
                f"{said:8} {case:45} charged {charged:20} true {true:20} {dict(fate.outcomes)} {dict(fate.reasons)}"
            )
    return "\n".join(lines)


@pytest.fixture(scope="module", params=others_long(["one insert", "file by file"], short={"one insert"}))
def charged(request: pytest.FixtureRequest, shared_chain: Chain) -> dict[str, Fate]:
    """What became of each case, charged to itself whatever user its spans name."""
    shared_chain.empty()
    set_prices(shared_chain)
    for signal in OTLP_TYPES:
        for requests in inserts(signal, together=request.param == "one insert"):
            insert(shared_chain, signal, requests, user_attributes=NOBODY)
    shared_chain.assert_totals_are_the_events()
    return fates(shared_chain)


def test_the_recordings_are_complete() -> None:
    """Every file of the index is there, and is of the type that it says."""
    for case in CASES.values():
        for file in case["files"]:
            signal = Signal(file["signal"])
            assert parse(signal, (FOLDER / file["path"]).read_bytes()) is not None
    assert len(CASES) > 200
    assert sum(map(completed, CASES)) == 147


def test_sums_agree_for_each_case(charged: dict[str, Fate]) -> None:
    """Every span and data point of every recording was charged, a duplicate, not usage or quarantined."""
    wrong = {case: fate for case, fate in charged.items() if sum(fate.outcomes.values()) != fate.received}
    assert not wrong


def test_completed_calls_are_charged_exactly_or_wait(charged: dict[str, Fate]) -> None:
    """What instrumentations tell of completed calls is charged exactly, or quarantined if it cannot be known."""
    verdicts = {case: verdict(case, charged[case]) for case in CASES if completed(case)}
    wrong = [case for case, said in verdicts.items() if said != "exact" and not charged[case].outcomes["quarantined"]]
    assert not wrong, "\n" + table(charged)
    assert sum(said == "exact" for said in verdicts.values()) == 117


def test_each_usage_waits_for_a_known_reason(charged: dict[str, Fate]) -> None:
    """What of the recordings is quarantined has a reason that says what cannot be known; no emitter in them is unknown."""
    reasons = {reason for fate in charged.values() for reason in fate.reasons}
    assert reasons == {"usage_unknown", "emitter_unreliable", "cache_unknown"}


def test_nothing_is_charged_too_much(charged: dict[str, Fate]) -> None:
    """No recording is charged more of any unit than the provider served, whoever tells of it."""
    assert not table(charged, "WRONG"), "\n" + table(charged)


def test_what_is_not_charged_is_quarantined_or_never_came(charged: dict[str, Fate]) -> None:
    """A recording that is charged less than the truth has a span in the quarantine, unless none came for the usage."""
    silent = [
        case
        for case, fate in charged.items()
        if verdict(case, fate) in ("less", "nothing")
        and not fate.outcomes["quarantined"]
        and llm_scopes(case)
        and case not in LOST
    ]
    assert not silent, "\n" + table(charged, "less", "nothing")


def test_the_silent_ones_are_quarantined(charged: dict[str, Fate]) -> None:
    """A call whose span says nothing of its usage waits as usage_unknown: neither charged nor taken for free."""
    for case in SILENT:
        assert charged[case].reasons == {"usage_unknown": charged[case].outcomes["quarantined"]}
        assert charged[case].outcomes["quarantined"] > 0


def test_recordings_that_had_to_wait(charged: dict[str, Fate], shared_chain: Chain) -> None:
    """Recordings that came before any price are charged the same when they are replayed, in each unit."""
    shared_chain.empty()
    shared_chain.command("TRUNCATE TABLE credit_action_costs")
    for requests in inserts(Signal.TRACES, together=True):
        insert(shared_chain, Signal.TRACES, requests, user_attributes=NOBODY)
    assert not shared_chain.events()
    set_prices(shared_chain)
    waiting = shared_chain.rows("SELECT toString(quarantine_id) AS id FROM credit_quarantine ORDER BY received_at, id")
    run_replay(shared_chain.client, replay_batch([row["id"] for row in waiting]))
    shared_chain.assert_totals_are_the_events()
    waited = fates(shared_chain)
    assert {case: (waited[case].units, waited[case].credits) for case in CASES} == {
        case: (charged[case].units, charged[case].credits) for case in CASES
    }


def test_recorded_users_pay(shared_chain: Chain) -> None:
    """With the app's own user attribute each user is charged at most what was theirs, and usage of nobody waits."""
    shared_chain.empty()
    set_prices(shared_chain)
    for requests in inserts(Signal.TRACES, together=True):
        insert(shared_chain, Signal.TRACES, requests, user_attributes=("app.user_id",), default_user="")
    shared_chain.assert_totals_are_the_events()
    assert outputs_by_user(shared_chain, "celery.baggage") == {"u-42": 352}
    for case in CASES.keys() - SPOOFED:
        theirs = CASES[case]["true_usage"]["totals"].get("by_true_user", {})
        for user, tokens in outputs_by_user(shared_chain, case).items():
            assert tokens <= theirs[user]["output_total"], case
    assert "no_user" in shared_chain.reasons()


def outputs_by_user(chain: Chain, case: str) -> dict[str, int]:
    """Output tokens charged for a case, by user."""
    requests = [ExportTraceServiceRequest.FromString(payload) for payload in files(case, Signal.TRACES)]
    ids = {
        span.trace_id.hex() for r in requests for rs in r.resource_spans for ss in rs.scope_spans for span in ss.spans
    }
    found = chain.rows(
        "SELECT user_id, sum(output_tokens) AS tokens FROM credit_usage_events"
        " WHERE trace_id IN {ids:Array(String)} GROUP BY user_id",
        ids=sorted(ids),
    )
    return {row["user_id"]: row["tokens"] for row in found}
