"""Usages as OTLP.

Encoding takes the interpreter from the app's threads, and usages are simple: ids, times, and attributes that are texts and
numbers. Protobuf makes a message of plain dictionaries in a third of the time of the official encoder, which makes
an object for each value. What is not that simple goes through the official one, and so does what it refuses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.trace import ReadableSpan

from otel_credits._usage import KeptSpan, finished

if TYPE_CHECKING:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span

# The fields of an AnyValue (opentelemetry/proto/common/v1/common.proto).
_FIELDS: Mapping[type, str] = {
    str: "string_value",
    int: "int_value",
    float: "double_value",
    bool: "bool_value",
    bytes: "bytes_value",
}
# SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK and SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK (opentelemetry/proto/trace/v1/trace.proto).
_TELLS_REMOTE, _IS_REMOTE = 0x100, 0x200
# An API's SpanKind begins with INTERNAL, which is OTLP's second.
_KIND_OFFSET = 1


def encoded_spans(spans: Iterable[ReadableSpan | KeptSpan]) -> ExportTraceServiceRequest:
    """The request that delivers these usages. Raises what the official encoder raises."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    request = ExportTraceServiceRequest()
    # By identity, as hashing a resource takes long. Batches keep theirs alive.
    places: dict[tuple[int, int], Any] = {}
    for span in spans:
        key = (id(span.resource), id(span.instrumentation_scope))
        place = places.get(key)
        if place is None:
            request.resource_spans.append(encoded_origin(span))
            place = places[key] = request.resource_spans[-1].scope_spans[0].spans
        place.append(encoded_span(span))
    return request


def encoded_origin(span: ReadableSpan | KeptSpan) -> ResourceSpans:
    """Where the span comes from: its resource and scope, and no span."""
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

    (of_resource,) = encode_spans([finished(span)]).resource_spans
    del of_resource.scope_spans[0].spans[:]
    return of_resource


def encoded_span(span: ReadableSpan | KeptSpan) -> Span:
    """The span, without its resource and scope. Raises what the official encoder raises."""
    if isinstance(span, KeptSpan):
        try:
            return _simple(span)
        except (KeyError, TypeError, ValueError, OverflowError):
            pass
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

    return encode_spans([finished(span)]).resource_spans[0].scope_spans[0].spans[0]


def _simple(span: KeptSpan) -> Span:
    """Raises an error if it is not that simple."""
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

    parent, status = span.parent_span_id, span.status
    return Span(
        trace_id=span.trace_id.to_bytes(16, "big"),
        span_id=span.span_id.to_bytes(8, "big"),
        parent_span_id=b"" if parent is None else parent.to_bytes(8, "big"),
        flags=_TELLS_REMOTE | _IS_REMOTE if span.parent_is_remote else _TELLS_REMOTE,
        name=span.name,
        kind=span.kind.value + _KIND_OFFSET,  # type: ignore[arg-type]
        start_time_unix_nano=span.start_time_ns,
        end_time_unix_nano=span.end_time_ns,
        status={} if status is None else {"code": status.status_code.value, "message": status.description},  # type: ignore[arg-type]
        attributes=[{"key": key, "value": _value(value)} for key, value in span.attributes.items()],  # type: ignore[misc]
    )


def _value(value: Any) -> dict[str, Any]:
    """Of an AnyValue. Raises KeyError."""
    kind = type(value)
    if kind is tuple:
        return {"array_value": {"values": [{_FIELDS[type(one)]: one} for one in value]}}
    return {_FIELDS[kind]: value}
