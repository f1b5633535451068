"""OTLP requests for tests, built span by span; and the attribute names of the conventions, spelled out a second time.

The names are written here by hand, not imported from the library: a test that reads them from the code under test
would not notice if one changed.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterable, Mapping
from typing import Any, Final

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric, NumberDataPoint, ResourceMetrics
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span

__all__ = ["attribute_list", "metric", "metrics", "point", "resource_spans", "span", "traces", "usage_span"]

ACTION: Final = "credits.action_type"
USER: Final = "user.id"
CREDITS_USER: Final = "credits.user_id"
END_USER: Final = "enduser.id"
USER_EMAIL: Final = "user.email"
AMOUNT: Final = "credits.amount"
UNITS: Final = "credits.units."
METADATA: Final = "credits.metadata."
ESTIMATED: Final = METADATA + "estimated"
KEY: Final = "credits.idempotency_key"
DESCRIPTION: Final = "credits.description"
RESOURCE_ID: Final = "credits.resource_id"
RESOURCE_TYPE: Final = "credits.resource_type"
USAGE_UNKNOWN: Final = "credits.usage_unknown"
UNIT: Final = "credits.unit"
SERVICE: Final = "service.name"

INPUT: Final = "gen_ai.usage.input_tokens"
OUTPUT: Final = "gen_ai.usage.output_tokens"
CACHE_READ: Final = "gen_ai.usage.cache_read.input_tokens"
CACHE_WRITE: Final = "gen_ai.usage.cache_write.input_tokens"
CACHE_CREATION: Final = "gen_ai.usage.cache_creation.input_tokens"
REASONING: Final = "gen_ai.usage.reasoning.output_tokens"
REQUEST_MODEL: Final = "gen_ai.request.model"
RESPONSE_MODEL: Final = "gen_ai.response.model"
RESPONSE_ID: Final = "gen_ai.response.id"
REQUEST_TIER: Final = "openai.request.service_tier"
PROVIDER: Final = "gen_ai.provider.name"
OPERATION: Final = "gen_ai.operation.name"
FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
STOP_REASON: Final = "anthropic.message.stop_reason"
OPENINFERENCE_KIND: Final = "openinference.span.kind"
LLM_REQUEST_TYPE: Final = "llm.request.type"

USAGE_METRIC: Final = "credits.usage"
DELTA: Final = 1
CUMULATIVE: Final = 2
NO_RECORDED_VALUE: Final = 1

# 2026-03-14 15:09:26.535897 UTC, the end of a usage whose time does not matter.
SOME_TIME_NS: Final = 1_773_500_966_535_897_000

Attributes = Mapping[str, Any] | Iterable[tuple[str, Any]]


def _any_value(value: Any) -> AnyValue:
    """The OTLP value; None is a value that is not set, a dict a kvlist."""
    match value:
        case None:
            return AnyValue()
        case bool():
            return AnyValue(bool_value=value)
        case int():
            return AnyValue(int_value=value)
        case float():
            return AnyValue(double_value=value)
        case str():
            return AnyValue(string_value=value)
        case bytes():
            return AnyValue(bytes_value=value)
        case list():
            return AnyValue(array_value={"values": [_any_value(item) for item in value]})
        case dict():
            return AnyValue(kvlist_value={"values": attribute_list(value)})
    raise TypeError(f"no OTLP value: {value!r}")


def attribute_list(attributes: Attributes) -> list[KeyValue]:
    """The attributes as OTLP sends them; from pairs, the same key may come twice."""
    pairs = attributes.items() if isinstance(attributes, Mapping) else attributes
    return [KeyValue(key=key, value=_any_value(value)) for key, value in pairs]


def span(
    attributes: Attributes = (),
    *,
    trace_id: bytes | None = None,
    span_id: bytes | None = None,
    end_ns: int = SOME_TIME_NS,
    **fields: Any,
) -> Span:
    """A span with ids of its own unless given, that ends at `end_ns` (nanoseconds since 1970)."""
    return Span(
        trace_id=uuid.uuid4().bytes if trace_id is None else trace_id,
        span_id=uuid.uuid4().bytes[:8] if span_id is None else span_id,
        start_time_unix_nano=fields.pop("start_ns", max(end_ns - 1_000_000, 0)),
        end_time_unix_nano=end_ns,
        attributes=attribute_list(attributes),
        **{"name": "test", **fields},
    )


def usage_span(attributes: Mapping[str, Any] | None = None, **fields: Any) -> Span:
    """A span that is charged one credit to user `someone`, unless its attributes say otherwise; None removes one."""
    merged = {ACTION: "some_action", USER: "someone", AMOUNT: "1", **(attributes or {})}
    return span({key: value for key, value in merged.items() if value is not None}, **fields)


def resource_spans(
    spans: Iterable[Span], *, scope: str = "tests", service: str | None = "test-service", version: str = ""
) -> ResourceSpans:
    """Spans of one scope of one service."""
    resource = {"attributes": attribute_list({SERVICE: service} if service is not None else {})}
    return ResourceSpans(
        resource=resource, scope_spans=[{"scope": {"name": scope, "version": version}, "spans": list(spans)}]
    )


def traces(*spans: Span, scope: str = "tests", service: str | None = "test-service") -> ExportTraceServiceRequest:
    """A request with these spans."""
    return ExportTraceServiceRequest(resource_spans=[resource_spans(spans, scope=scope, service=service)])


_POINT_TIMES_NS = itertools.count(SOME_TIME_NS, 1_000)


def point(
    value: float | None, attributes: Attributes = (), *, end_ns: int | None = None, **fields: Any
) -> NumberDataPoint:
    """A data point; without `end_ns` each ends a microsecond after the one made before it. None is no number."""
    end_ns = next(_POINT_TIMES_NS) if end_ns is None else end_ns
    number: dict[str, Any] = {} if value is None else {"as_int" if isinstance(value, int) else "as_double": value}
    start_ns = fields.pop("start_ns", end_ns - 1_000)
    return NumberDataPoint(
        start_time_unix_nano=start_ns, time_unix_nano=end_ns, attributes=attribute_list(attributes), **number, **fields
    )


def metric(
    *points: Any, name: str = USAGE_METRIC, form: str = "sum", temporality: int = DELTA, monotonic: bool = True
) -> Metric:
    """A metric of the given form (sum, gauge, histogram, exponential_histogram, summary)."""
    data: dict[str, Any] = {"data_points": list(points)}
    if form == "sum":
        data |= {"aggregation_temporality": temporality, "is_monotonic": monotonic}
    elif form in ("histogram", "exponential_histogram"):
        data |= {"aggregation_temporality": temporality}
    return Metric(name=name, **{form: data})


def metrics(*those: Metric, scope: str = "tests", service: str | None = "test-service") -> ExportMetricsServiceRequest:
    """A request with these metrics."""
    resource = {"attributes": attribute_list({SERVICE: service} if service is not None else {})}
    one = ResourceMetrics(resource=resource, scope_metrics=[{"scope": {"name": scope}, "metrics": list(those)}])
    return ExportMetricsServiceRequest(resource_metrics=[one])
