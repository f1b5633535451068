"""hypothesis strategies for OTLP traffic: what apps, SDKs, Collectors and their faults can make of usage.

A :class:`Traffic` is a few inserts of a few requests each, with a price book and billing rules. Its spans and points say
what `otlp_random_attributes.py` makes up, at moments from a small pool, so that month ends are frequent.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import HistogramDataPoint
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from support import otlp_build as names
from support.oracle import Price
from support.oracle_calls import Convention
from support.oracle_rules import Rule
from support.otlp_build import metric, metrics, point, resource_spans, span
from support.otlp_random_attributes import ACTIONS, ATTRIBUTES, UNIT_NAMES, one_in, who_and_what
from support.otlp_random_json import JSON_CONVENTIONS

__all__ = ["CONVENTIONS", "Insert", "Traffic", "traffic"]

# Known emitters; those called tests.* are made up.
CONVENTIONS = [
    Convention("opentelemetry.instrumentation.genai.anthropic", finish_attribute=names.FINISH_REASONS, preference=2),
    Convention(
        "com.anthropic.sdk.python",
        finish_attribute=names.STOP_REASON,
        cache_write_1h_attribute="tests.cache_write_1h",
        service_tier_attribute="tests.tier",
        price_attributes=("tests.mode",),
        preference=1,
    ),
    Convention("opentelemetry.instrumentation.genai.openai", preference=2),
    Convention(
        "tests.cache.apart", input_includes_cache=False, stream_attributes=("tests.stream",), stream_flaw="cache_zero"
    ),
    Convention("tests.other.names", version_until="2", stream_attributes=("tests.stream",), stream_flaw="output"),
    Convention(
        "tests.other.names",
        version_from="2",
        version_until="3",
        input_attribute="llm.token_count.prompt",
        output_attribute="llm.token_count.completion",
        cache_read_attribute="llm.token_count.read",
        cache_write_attribute="llm.token_count.write",
        reasoning_attribute="llm.token_count.reasoning",
        input_audio_attribute="llm.token_count.audio_in",
        output_audio_attribute="llm.token_count.audio_out",
        model_attribute="llm.model_name",
        cache_unknown_from=1024,
        preference=3,
    ),
    Convention(
        "tests.other.names",
        version_from="2",
        provider="acme",
        stream_attributes=("tests.stream",),
        stream_flaw="cache_absent",
        preference=4,
    ),
    Convention("tests.several.calls", several_calls=True, preference=5),
    Convention(
        "tests.sound",
        service_tier_attribute="tests.tier",
        price_attributes=("tests.mode",),
        input_audio_attribute="tests.audio_in",
        stream_attributes=("tests.stream",),
        stream_flaw="output",
        preference=4,
    ),
    *JSON_CONVENTIONS,
]
SCOPES = [*sorted({row.scope_name for row in CONVENTIONS}), "app", ""]
VERSIONS = ["", "1.9", "2.0b1", "2.10.0", "3"]
SERVICES = ["shop", "worker", None]
# The units that most usages have, so that prices which differ in their date or model are asked for.
OFTEN_USED = ["call", "call", "input_token", "output_token", "second"]


def _us(*when: int) -> int:
    return int(datetime(*when, tzinfo=UTC).timestamp()) * 10**6


# Month ends, a leap day, and the moments at which prices change, each with the microsecond before it.
_EDGES_US = [
    _us(2025, 1, 1),
    _us(2025, 12, 1),
    _us(2026, 1, 1),
    _us(2024, 2, 29),
    _us(2024, 3, 1),
    _us(2025, 6, 15, 12),
]
MOMENTS_US = st.one_of(
    st.sampled_from([edge - before for edge in _EDGES_US for before in (0, 1)]),
    st.integers(_us(2024, 1, 1), _us(2026, 6, 1)),
)
# Within a second, on both sides of where it may matter.
CLOSE_MOMENTS_US = [_us(2025, 6, 15, 12) + tenths * 100_000 for tenths in (0, 1, 2, 3, 5, 8)]
ODD_ENDS_NS = [0, 1, 2**64 - 1, (-11_644_473_600 * 10**9) % 2**64, _us(1999, 12, 31) * 1000]
ODD_IDS = [
    {"trace_id": b""},
    {"trace_id": bytes(16)},
    {"span_id": b"short"},
    {"span_id": bytes(8)},
    {"trace_id": b"x" * 32},
]


# What a billing rule may ask for beside attributes.
SPAN_NAMES = ["GET /films", "GET /", "run/report", "SELECT"]
_SHAPES = st.fixed_dictionaries(
    {
        "name": st.sampled_from(SPAN_NAMES),
        "kind": st.integers(0, 5),
        "status": st.sampled_from([{}, {}, {"code": 1}, {"code": 2}]),
    }
)


@st.composite
def _span(draw: st.DrawFn, number: int) -> Span:
    """The span of this number; two numbers have different ids unless both are odd."""
    # Six spans are a trace, each of which may be the parent of any later one.
    trace, place = divmod(number - 1, 6)
    parent = draw(st.sampled_from([0, *range(trace * 6 + 1, number)])) if place else 0
    fields: dict[str, Any] = {"trace_id": (trace + 1).to_bytes(16), "span_id": number.to_bytes(8)}
    fields |= {"parent_span_id": parent.to_bytes(8) if parent else b""}
    end_ns = draw(st.one_of(MOMENTS_US, st.sampled_from(CLOSE_MOMENTS_US))) * 1000 + draw(st.sampled_from([0, 999]))
    oddity = draw(st.sampled_from([""] * 40 + ["ids", "end", "twice"]))
    if oddity == "ids":
        fields |= draw(st.sampled_from(ODD_IDS))
    elif oddity == "end":
        end_ns = draw(st.sampled_from(ODD_ENDS_NS))
    fields |= draw(_SHAPES)
    if one_in(draw, 4):
        fields["start_ns"] = max(min(end_ns + draw(st.sampled_from([-(10**10), -1, 0, 1, 10**9])), 2**64 - 1), 0)
    attributes = list(draw(ATTRIBUTES).items())
    if oddity == "twice" and attributes:
        attributes.append(attributes[0])
    return span(attributes, end_ns=end_ns, **fields)


def _without_user(one: Span) -> Span:
    """A copy of a span from which the users were lost."""
    copy = Span()
    copy.CopyFrom(one)
    kept = [
        attribute
        for attribute in one.attributes
        if attribute.key not in (names.USER, names.CREDITS_USER, names.END_USER)
    ]
    del copy.attributes[:]
    copy.attributes.extend(kept)
    return copy


@st.composite
def _point(draw: st.DrawFn, number: int) -> Any:
    attributes = draw(who_and_what()) | {names.ACTION: draw(st.sampled_from([*ACTIONS * 4, ""]))}
    unit = draw(st.sampled_from([None, "second", "image", "call"]))
    attributes |= {names.UNIT: unit} if unit else {}
    value = draw(st.one_of(st.integers(0, 10**6), st.floats(0, 1e6).map(abs), st.integers(0, 9)))
    value = draw(st.sampled_from([value] * 15 + [-1, -0.5, float("nan"), None, 2**62]))
    end_ns = (draw(MOMENTS_US) + number) * 1000
    return point(value, attributes, end_ns=end_ns, flags=draw(st.sampled_from([0] * 8 + [1])))


@st.composite
def _trace_requests(draw: st.DrawFn, pool: list[Span]) -> list[ExportTraceServiceRequest]:
    """One to three requests with spans of the pool, some of them several times."""
    requests = []
    for _ in range(draw(st.integers(1, 3))):
        groups = []
        for _ in range(draw(st.integers(1, 3))):
            spans = draw(st.lists(st.sampled_from(pool), min_size=2, max_size=10))
            if one_in(draw, 5):
                spans.append(_without_user(draw(st.sampled_from(pool))))
            scope, version = draw(st.sampled_from(SCOPES)), draw(st.sampled_from(VERSIONS))
            service = draw(st.sampled_from(SERVICES))
            groups.append(resource_spans(spans, scope=scope, version=version, service=service))
        requests.append(ExportTraceServiceRequest(resource_spans=groups))
    return requests


@st.composite
def _metric_requests(draw: st.DrawFn, pool: list[Any]) -> list[ExportMetricsServiceRequest]:
    those = []
    for _ in range(draw(st.integers(1, 4))):
        points = draw(st.lists(st.sampled_from(pool), min_size=1, max_size=4))
        form = draw(st.sampled_from(["sum"] * 9 + ["gauge", "histogram"]))
        if form == "histogram":
            points = [HistogramDataPoint(time_unix_nano=names.SOME_TIME_NS) for _ in points]
        name = draw(st.sampled_from([names.USAGE_METRIC] * 4 + ["http.requests"]))
        temporality = draw(st.sampled_from([names.DELTA] * 9 + [names.CUMULATIVE, 0]))
        monotonic = draw(st.sampled_from([True] * 9 + [False]))
        those.append(metric(*points, name=name, form=form, temporality=temporality, monotonic=monotonic))
    return [metrics(*those, scope=draw(st.sampled_from(SCOPES)), service=draw(st.sampled_from(SERVICES)))]


@dataclass(frozen=True)
class Insert:
    """The requests of one insert, all of one signal, and the settings they are read with."""

    requests: list[Any]
    settings: dict[str, Any]


@dataclass(frozen=True)
class Traffic:
    """A price book, billing rules, and inserts in their order."""

    prices: list[Price]
    inserts: list[Insert]
    rules: list[Rule]


_SETTINGS = st.fixed_dictionaries(
    {
        "charge_genai": st.sampled_from([True, True, False]),
        "default_user": st.sampled_from(["", "", "house"]),
        "estimated": st.sampled_from(["charge", "quarantine", "ignore"]),
        "keep_attributes": st.sampled_from([(), (), ("tenant", names.RESPONSE_ID, "nothing.of.it")]),
        "user_attributes": st.sampled_from(
            [(names.CREDITS_USER, names.USER, names.END_USER)] * 3 + [("tenant", names.USER)]
        ),
    }
)
_PRICE_CREDITS = st.one_of(
    st.integers(0, 10**13).map(lambda n: Decimal(n).scaleb(-12)), st.sampled_from([Decimal(0), Decimal("0.000003")])
)


@st.composite
def _price(draw: st.DrawFn, number: int) -> Price:
    # Two rows are never made in the same microsecond, since nothing would say which of them counts.
    created_us = _us(2025, 3, 1) + number
    effective_us = draw(st.sampled_from([created_us, *_EDGES_US]))
    action = draw(st.sampled_from([*ACTIONS, "ai_call", "*", "*"]))
    model = draw(st.sampled_from(["claude-x", "claude-x-20250929", "gpt-y", "*", "*"]))
    return Price(action, model, draw(st.sampled_from(OFTEN_USED)), draw(_PRICE_CREDITS), effective_us, created_us)


@st.composite
def _book(draw: st.DrawFn) -> list[Price]:
    basic = draw(st.lists(st.sampled_from(UNIT_NAMES), unique=True, min_size=5))
    rows = [
        Price("*", "*", unit, draw(_PRICE_CREDITS), _us(2000, 1, 1), _us(2025, 2, 1) + n)
        for n, unit in enumerate(basic)
    ]
    return rows + [draw(_price(number)) for number in range(draw(st.integers(3, 12)))]


# Conditions, of which a rule has one or two.
_CONDITIONS: list[dict[str, Any]] = [
    {"attributes": {"http.route": "/"}},
    {"attributes": {"rows": "5"}},
    {"attribute_prefixes": {"http.route": "/"}},
    {"attribute_prefixes": {"rows": ""}},
    {"attribute_prefixes": {names.INPUT: ""}},
    {"span_name": "run/report"},
    {"span_name_prefix": "GET "},
    {"kind": "server"},
    {"kind": "internal"},
    {"scope_name": "app"},
    {"service_name": "shop"},
    {"status": "unset"},
    {"status": "error", "charge_failed": True},
]
_SOURCES = ["one"] * 4 + ["seconds"] * 2 + ["attribute:rows"] * 3 + ["attribute:missing", "attribute:" + names.INPUT]


@st.composite
def _rule(draw: st.DrawFn, number: int) -> Rule:
    conditions: dict[str, Any] = {}
    for condition in draw(st.lists(st.sampled_from(_CONDITIONS), min_size=1, max_size=2)):
        conditions |= condition
    if "charge_failed" not in conditions:
        conditions["charge_failed"] = draw(st.booleans())
    elif conditions.get("status") != "error":
        conditions["charge_failed"] = True
    quantities = draw(st.dictionaries(st.sampled_from(UNIT_NAMES), st.sampled_from(_SOURCES), min_size=1, max_size=2))
    priority, action = draw(st.sampled_from([1, 100, 100])), draw(st.sampled_from([*ACTIONS, "task"]))
    return Rule(f"rule-{number}", action, priority, quantities=quantities, **conditions)


@st.composite
def traffic(draw: st.DrawFn, spans_max: int = 24, inserts_max: int = 3) -> Traffic:
    """A price book and inserts that use it."""
    spans = [draw(_span(number)) for number in range(1, draw(st.integers(spans_max // 2, spans_max)) + 1)]
    points = [draw(_point(number)) for number in range(draw(st.integers(0, 5)))]
    inserts = []
    for _ in range(draw(st.integers(1, inserts_max))):
        of_points = bool(points) and one_in(draw, 4)
        requests = draw(_metric_requests(points)) if of_points else draw(_trace_requests(spans))
        inserts.append(Insert(requests, draw(_SETTINGS)))
    return Traffic(draw(_book()), inserts, [draw(_rule(number)) for number in range(draw(st.integers(1, 5)))])
