"""Random traffic of a few LLM calls: those that several spans tell of, the app's and instrumentations', sent in several inserts,
and those of which an instrumentation tells something within JSON.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from support import otlp_build as names
from support.oracle import Price
from support.otlp_build import resource_spans, span, traces
from support.otlp_random import Insert, Traffic
from support.otlp_random_json import JSON_CONVENTIONS, TOLD_IN_JSON

__all__ = ["call_traffic", "knowing_traffic", "told_traffic"]

_Kind = st.SearchStrategy[tuple[str, dict[str, Any]]]

_SCOPES = ["opentelemetry.instrumentation.genai.anthropic", "opentelemetry.instrumentation.genai.openai"]
# Those that may know more of a call than the others: of calls before it, of its tier, of how long what it wrote lives.
_KNOWING_SCOPES = ["com.anthropic.sdk.python", "tests.words", "tests.sound", "tests.several.calls"]
_KNOWN: list[dict[str, Any]] = [
    {},
    {"tests.before": 1},
    {"tests.tier": "flex"},
    {"tests.tier": "default"},
    {"tests.tier": "flex", "tests.mode": "quick"},
    {"tests.mode": "dear"},
    {"tests.audio_in": 1},
    {"tests.audio_in": 1, names.CACHE_READ: 1},
    {names.CACHE_WRITE: 2, "tests.cache_write_1h": 1},
    {names.REQUEST_TIER: "flex"},
    {names.REQUEST_TIER: "flex", "tests.tier": "default"},
]
_IDS = st.sampled_from([None, "msg_01_the_first_one", "msg_02_the_second_one"])
_COUNTS = st.sampled_from([{names.INPUT: 10, names.OUTPUT: 5}] * 3 + [{names.INPUT: 7, names.OUTPUT: 2}])
_START_US = int(datetime(2026, 3, 1, tzinfo=UTC).timestamp()) * 10**6
_PRICES = [
    Price("*", "*", unit, Decimal("0.01"), _START_US - 10**12, _START_US - 10**11 + number)
    for number, unit in enumerate(("input_token", "output_token", "call", "input_token_flex", "output_token_flex"))
]
_SETTINGS: dict[str, Any] = {
    "charge_genai": True,
    "default_user": "",
    "estimated": "charge",
    "keep_attributes": (),
    "user_attributes": (names.CREDITS_USER, names.USER, names.END_USER),
}


@st.composite
def _automatic(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    told = {names.OPERATION: "chat", names.FINISH_REASONS: ["stop"], names.USER: "alice", **draw(_COUNTS)}
    return draw(st.sampled_from(_SCOPES)), told | {names.RESPONSE_ID: draw(_IDS)}


@st.composite
def _knowing(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """The same of an emitter that may tell more of it, or may be one that does not finish."""
    _, told = draw(_automatic())
    scope = draw(st.sampled_from(_KNOWING_SCOPES))
    known = draw(st.sampled_from(_KNOWN))
    rare = draw(st.sampled_from([{}] * 6 + [{names.USER: None}, {"tests.stream": True}, {names.OUTPUT: None}]))
    return scope, {"tests.count": 1, names.STOP_REASON: "end_turn"} | told | known | rare


@st.composite
def _explicit(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    amount = {names.AMOUNT: draw(st.sampled_from(["1", "2", "3"]))}
    charge = draw(st.sampled_from([amount] * 4 + [{}, {names.UNITS + "lamp": 1}]))
    user = draw(st.sampled_from(["alice"] * 6 + ["bob", None]))
    key = draw(st.sampled_from([None] * 5 + ["key-1"]))
    said = {names.ACTION: "chat", names.USER: user, names.KEY: key, names.RESPONSE_ID: draw(_IDS)}
    return "app", said | charge | draw(st.sampled_from([True, True, True, False]).flatmap(_counts_if))


def _counts_if(wanted: bool) -> st.SearchStrategy[dict[str, int]]:
    return _COUNTS if wanted else st.just({})


@st.composite
def _request(draw: st.DrawFn, number: int, spans: int, *kinds: _Kind) -> ExportTraceServiceRequest:
    """The span of this number, alone in its request; any other one may be its parent."""
    scope, told = draw(st.one_of(*kinds))
    parent = draw(st.sampled_from([other for other in range(spans + 1) if other != number]))
    one = span(
        {name: value for name, value in told.items() if value is not None},
        trace_id=b"t" * 16,
        span_id=number.to_bytes(8),
        parent_span_id=parent.to_bytes(8) if parent else b"",
        end_ns=(_START_US + draw(st.sampled_from([0, 100_000, 5_000_000]))) * 1000,
    )
    return traces(one, scope=scope)


@st.composite
def call_traffic(draw: st.DrawFn) -> Traffic:
    """Some spans in any order, most in inserts of their own, and some of them again."""
    spans = draw(st.integers(3, 6))
    kinds = (_automatic(), _explicit())
    pool = draw(st.permutations([draw(_request(number, spans, *kinds)) for number in range(1, spans + 1)]))
    rest = [*pool, *draw(st.lists(st.sampled_from(pool), max_size=2))]
    return Traffic(_PRICES, draw(_inserts(rest, [1, 1, 1, 2])), [])


@st.composite
def knowing_traffic(draw: st.DrawFn) -> Traffic:
    """Some spans of a few calls, of which some know more than others, mostly together, and some of them again."""
    spans = draw(st.integers(3, 8))
    kinds = (_automatic(), _knowing(), _knowing(), _knowing(), _knowing(), _explicit())
    pool = draw(st.permutations([draw(_request(number, spans, *kinds)) for number in range(1, spans + 1)]))
    rest = [*pool, *draw(st.lists(st.sampled_from(pool), max_size=2))]
    return Traffic(_PRICES, draw(_inserts(rest, [1, 2, 4, 8])), [])


@st.composite
def _inserts(draw: st.DrawFn, rest: list[ExportTraceServiceRequest], sizes: list[int]) -> list[Insert]:
    """These requests in their order, so many at once."""
    inserts = []
    while rest:
        together = draw(st.sampled_from(sizes))
        inserts.append(Insert(rest[:together], _SETTINGS))
        rest = rest[together:]
    return inserts


_TOLD_PRICES = [
    Price("*", "*", unit, Decimal("0.01") * number, _START_US - 10**12, _START_US - 10**11 + number)
    for number, unit in enumerate(
        f"{kind}{tier}"
        for kind in ("input_token", "output_token", "cache_read_token", "cache_write_token", "cache_write_1h_token")
        for tier in ("", "_flex", "_two words")
    )
]


@st.composite
def _told_request(draw: st.DrawFn, number: int, spans: int) -> ExportTraceServiceRequest:
    """The span of this number, of an emitter that tells something in JSON, alone in its request."""
    marks: list[dict[str, Any]] = [{names.OPERATION: "chat"}] * 6 + [{names.OPERATION: "embeddings"}, {}]
    counts = {names.INPUT: 20 + number, names.OUTPUT: 5, names.CACHE_WRITE: draw(st.sampled_from([0, 9, 9, 9]))}
    told = draw(st.sampled_from(marks)) | counts | draw(TOLD_IN_JSON) | {names.USER: "alice"}
    told |= draw(st.sampled_from([{names.PROVIDER: "acme"}] * 3 + [{}]))
    parent = draw(st.sampled_from([0, *(other for other in range(1, spans + 1) if other != number)]))
    one = span(
        told,
        trace_id=b"t" * 16,
        span_id=number.to_bytes(8),
        parent_span_id=parent.to_bytes(8) if parent else b"",
        end_ns=(_START_US + number * 10_000_000) * 1000,
    )
    scope = draw(st.sampled_from(["tests.several.calls", *(row.scope_name for row in JSON_CONVENTIONS)]))
    version = draw(st.sampled_from(["1", "1", "2"]))
    return ExportTraceServiceRequest(resource_spans=[resource_spans([one], scope=scope, version=version)])


@st.composite
def told_traffic(draw: st.DrawFn) -> Traffic:
    """Some spans that tell something in JSON, together or one after the other, and some of them again."""
    spans = draw(st.integers(4, 10))
    rest = [draw(_told_request(number, spans)) for number in range(1, spans + 1)]
    rest += draw(st.lists(st.sampled_from(rest), max_size=2))
    return Traffic(_TOLD_PRICES, draw(_inserts(rest, [1, 4, 6])), [])
