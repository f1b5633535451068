"""Prompts and answers do not reach the store, whatever instrumentation put them on its spans, and whatever becomes of those."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from otel_credits_aggregator.batch_insert import quarantine_raw
from otel_credits_aggregator.migrations import clickhouse_folder
from otel_credits_aggregator.otlp import Signal
from otel_credits_aggregator.privacy import KEPT, KEPT_ENDINGS, KEPT_PREFIXES, for_rules, stripped
from support import otlp_build
from support.chain import Chain

RECORDINGS = Path(__file__).parents[1] / "recordings"
MARK = "PRIVATE-WORDS"
# What people said and were answered in the recordings.
SAID = ("hello from the stub", "weather in Oslo", "w0 w1 w2", "stub says no")
# What a charge is made of; spelled out here, so that a wider list in the code is noticed.
NEEDED = re.compile(
    r"service\.instance\.id|credits\..*|user\..*|enduser\..*|gen_ai\.usage\..*|llm\.token_count\..*|llm\.usage\..*|anthropic\.usage\..*|gen_ai\.operation\.name"
    r"|gen_ai\.provider\.name|gen_ai\.system|gen_ai\.request\.(model|stream)|gen_ai\.response\.(id|model|finish_reasons)"
    r"|anthropic\.message\.stop_reason|openinference\.span\.kind|llm\.(model_name|system|provider|request\.type)|embedding\.model_name|error\.type"
)


def recorded() -> list[ExportTraceServiceRequest]:
    """Every recorded request, as it came."""
    return [ExportTraceServiceRequest.FromString(path.read_bytes()) for path in sorted(RECORDINGS.glob("*.traces.bin"))]


def marked(request: ExportTraceServiceRequest) -> ExportTraceServiceRequest:
    """The request with private words wherever a sender may put any and no charge is made of it."""
    words = AnyValue(string_value=MARK)
    nested = [
        KeyValue(key=f"{MARK}.key", value=words),
        KeyValue(key="list", value=AnyValue(array_value=ArrayValue(values=[words, words]))),
        KeyValue(key="map", value=AnyValue(kvlist_value=KeyValueList(values=[KeyValue(key=MARK, value=words)]))),
        KeyValue(key="bytes", value=AnyValue(bytes_value=MARK.encode())),
        KeyValue(key="gen_ai.response.text", value=words),
        KeyValue(key="gen_ai.input.messages.all", value=words),
    ]
    for resource in request.resource_spans:
        _mark([one for one in resource.resource.attributes if one.key != "service.name"])
        resource.resource.attributes.extend(nested)
        for scope in resource.scope_spans:
            scope.scope.attributes.extend(nested)
            for span in scope.spans:
                _mark([one for one in span.attributes if NEEDED.fullmatch(one.key) is None])
                span.attributes.extend(nested)
                span.events.add(name=MARK, attributes=nested)
                span.links.add(trace_id=bytes(16), span_id=bytes(8), trace_state=MARK, attributes=nested)
                span.status.message = MARK
                span.trace_state = MARK
    return request


def _mark(attributes: list[Any]) -> None:
    for one in attributes:
        if one.value.WhichOneof("value") == "string_value":
            one.value.string_value = f"{MARK} {one.value.string_value}"


def texts(chain: Chain) -> Iterator[tuple[str, str]]:
    """Every row of every table of the database that keeps anything, as text."""
    tables = chain.rows(
        "SELECT name FROM system.tables WHERE database = currentDatabase() AND engine NOT IN ('Null', 'View', 'MaterializedView')"
    )
    assert {"credit_usage_events", "credit_quarantine"} <= {table["name"] for table in tables}
    for table in tables:
        # Ids are bytes; without this the whole row would come as hex, in which no word is found.
        for row in chain.rows(f"SELECT toValidUTF8(toString(tuple(*))) AS text FROM {table['name']}"):
            yield table["name"], str(row["text"])


def found(chain: Chain, *words: str) -> list[tuple[str, str]]:
    """Table and word of each row in which one of these words is."""
    return [(table, word) for table, text in texts(chain) for word in words if word in text]


@pytest.mark.parametrize("payer", ["", "someone"], ids=["quarantined", "charged"])
def test_nothing_that_was_said_is_stored(chain: Chain, payer: str) -> None:
    """Of all recordings, with private words in every place that may hold some, no word is in any table."""
    settings = {"charge_genai": True, "default_user": payer, "user_attributes": ("no.such.attribute",)}
    chain.send(*recorded(), **settings)
    chain.send(*map(_with_other_ids, map(marked, recorded())), **settings)
    assert chain.outcomes()["quarantined"] > 100
    assert (chain.outcomes()["charged"] > 20) == (payer != "")
    assert found(chain, MARK, *SAID) == []


@pytest.mark.parametrize("payer", ["", "someone"], ids=["quarantined", "charged"])
def test_what_is_to_be_kept_is_all_that_is_stored(chain: Chain, payer: str) -> None:
    """With a list of attributes to keep, their values are in the store, and still no word of all the others."""
    keep = ("tests.kept", "gen_ai.request.temperature")
    settings = {
        "charge_genai": True,
        "default_user": payer,
        "user_attributes": ("no.such.attribute",),
        "keep_attributes": keep,
    }
    requests = [marked(request) for request in recorded()]
    kept = KeyValue(key="tests.kept", value=AnyValue(string_value="KEPT-WORDS" + "x" * 600 + "CUT-WORDS"))
    for span in (span for request in requests for span in _spans(request)):
        span.attributes.append(kept)
    chain.send(*requests, **settings)
    assert found(chain, MARK, *SAID, "CUT-WORDS") == []
    tables = {table for table, _ in found(chain, "KEPT-WORDS")}
    assert tables == ({"credit_quarantine", "credit_usage_events"} if payer else {"credit_quarantine"})


def _with_other_ids(request: ExportTraceServiceRequest) -> ExportTraceServiceRequest:
    """The same request of spans that were not seen before."""
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                span.trace_id, span.span_id = uuid.uuid4().bytes, uuid.uuid4().bytes[:8]
    return request


def test_nothing_that_was_said_is_in_a_request_that_is_kept_raw(chain: Chain) -> None:
    """A request that cannot be inserted is kept without private words, and with all that a charge is made of."""
    for request in map(marked, recorded()):
        batch = chain.compose(request)
        quarantine_raw(chain.client, chain.spool, batch, RuntimeError("refused"))
        chain.spool.forget(batch)
    assert len(chain.reasons()) > 200
    assert found(chain, MARK, *SAID) == []


def test_nothing_that_was_said_is_kept_to_test_rules_on() -> None:
    """Of the recordings, what was said is in no request that is kept for tests of rules, nor is any long text, event or link."""
    for path in sorted(RECORDINGS.rglob("*.traces.bin")):
        kept = for_rules(path.read_bytes())
        assert [word for word in SAID if word.encode() in kept] == [], path.name
    words = {
        "note": MARK + "x" * 300,
        "a.prompt.0": MARK,
        "gen_ai.input.messages": MARK,
        "output": [MARK],
        "map": {"a": MARK},
    }
    one = otlp_build.span({"http.route": "/a", "hits": 3, **words})
    one.events.add(name=MARK)
    one.links.add(trace_state=MARK)
    one.status.message = MARK
    kept = for_rules(otlp_build.traces(one).SerializeToString())
    assert MARK.encode() not in kept
    (left,) = _spans(ExportTraceServiceRequest.FromString(kept))
    assert [attribute.key for attribute in left.attributes] == ["http.route", "hits"]


def test_what_is_kept_raw_can_be_charged() -> None:
    """Stripping takes nothing that a charge is made of: ids, times, names, and every attribute of the conventions."""
    for request in recorded():
        kept = ExportTraceServiceRequest.FromString(
            stripped(Signal.TRACES, request.SerializeToString(), ("session.id",), {})
        )
        assert [_needed(span) for span in _spans(kept)] == [_needed(span) for span in _spans(request)]
        services = [[one for one in request.resource_spans[0].resource.attributes if one.key == "service.name"]]
        assert [list(resource.resource.attributes) for resource in kept.resource_spans[:1]] == services


def _spans(request: ExportTraceServiceRequest) -> list[Any]:
    return [span for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans]


def _needed(span: Any) -> tuple[Any, ...]:
    attributes = [one for one in span.attributes if NEEDED.fullmatch(one.key) or one.key == "session.id"]
    times = (span.start_time_unix_nano, span.end_time_unix_nano)
    return (span.trace_id, span.span_id, span.name, span.kind, *times, span.status.code, attributes)


def test_both_lists_say_the_same() -> None:
    """What Python keeps of a request that cannot be inserted is what the SQL keeps of a span that cannot be charged."""
    sql = (clickhouse_folder() / "migrations" / "0005_targets.sql").read_text("utf-8")
    (keep,) = re.findall(r"mapFilter\(\(key, value\) -> (.*?), attributes\) AS attributes", sql, re.DOTALL)
    assert set(re.findall(r"startsWith\(key, '([^']+)'\)", keep)) == set(KEPT_PREFIXES)
    (endings,) = re.findall(r"match\(key, '\[._\]\((.*?)\)\$'\)", keep)
    assert endings.split("|") == list(KEPT_ENDINGS)
    (names,) = re.findall(r"key IN \((.*?)\)", keep, re.DOTALL)
    assert set(re.findall(r"'([^']+)'", names)) == KEPT
