"""OTLP requests as the aggregator sees them: valid or not, and how many spans or data points they carry.

Nothing here looks at an attribute: ClickHouse decodes the bytes (clickhouse/otlp.proto).
"""

import base64
import json
from enum import StrEnum
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from otel_credits_aggregator.lenient import without_utf8_check
from otel_credits_aggregator.outcomes import BadRequest

__all__ = ["ENVELOPE_FIELD", "RECEIVED", "Signal", "from_json", "item_count", "parse", "response_type"]


class Signal(StrEnum):
    """What a request carries; the value is the last part of its OTLP/HTTP path."""

    TRACES = "traces"
    METRICS = "metrics"
    LOGS = "logs"
    REPLAY = "replay"  # not received: what an insert takes from the quarantine


# Where the aggregator adds what it knows of a request (Envelope in clickhouse/otlp.proto).
ENVELOPE_FIELD = 1000

RECEIVED = (Signal.TRACES, Signal.METRICS, Signal.LOGS)

_REQUESTS: dict[Signal, type[Message]] = {
    Signal.TRACES: ExportTraceServiceRequest,
    Signal.METRICS: ExportMetricsServiceRequest,
    Signal.LOGS: ExportLogsServiceRequest,
}
_LENIENT_REQUESTS = {signal: without_utf8_check(request) for signal, request in _REQUESTS.items()}
_RESPONSES: dict[Signal, type[Message]] = {
    Signal.TRACES: ExportTraceServiceResponse,
    Signal.METRICS: ExportMetricsServiceResponse,
    Signal.LOGS: ExportLogsServiceResponse,
}


def response_type(signal: Signal) -> type[Message]:
    """The message that answers a request of this signal."""
    return _RESPONSES[signal]


def parse(signal: Signal, payload: bytes) -> Message:
    """The request in these bytes; its texts are bytes, UTF-8 or not.

    Raises:
        BadRequest: they are not a protobuf message of the signal's request type, or have a field that is ours to add.
    """
    try:
        request = _LENIENT_REQUESTS[signal].FromString(payload)
    except DecodeError as error:
        raise BadRequest(f"not an OTLP {signal} request: {error}") from error
    # Messages concatenate: an envelope within the request would be merged with the one that the insert appends.
    unknown = UnknownFieldSet(request)
    if any(unknown[number].field_number == ENVELOPE_FIELD for number in range(len(unknown))):
        raise BadRequest(f"field {ENVELOPE_FIELD} of a request is the aggregator's own")
    return request


def item_count(signal: Signal, request: Any) -> int:
    """How many spans, data points or log records the request carries."""
    if signal is Signal.TRACES:
        return sum(len(scope.spans) for resource in request.resource_spans for scope in resource.scope_spans)
    if signal is Signal.LOGS:
        return sum(len(scope.log_records) for resource in request.resource_logs for scope in resource.scope_logs)
    metrics = (
        metric for resource in request.resource_metrics for scope in resource.scope_metrics for metric in scope.metrics
    )
    return sum(_point_count(metric) for metric in metrics)


def _point_count(metric: Any) -> int:
    form = metric.WhichOneof("data")
    return len(getattr(metric, form).data_points) if form else 0


def from_json(signal: Signal, body: bytes) -> bytes:
    """The protobuf bytes of an OTLP/JSON request.

    OTLP's JSON differs from protobuf's own in one thing: trace and span ids are hex
    (https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding).

    Raises:
        BadRequest: the body is no JSON, or not of the request's shape.
    """
    try:
        request = json.loads(body)
        if not isinstance(request, dict):
            raise ValueError("not a JSON object")
        message = json_format.ParseDict(_ids_to_base64(request), _REQUESTS[signal](), ignore_unknown_fields=True)
    except Exception as error:
        # Protobuf's converter raises whatever an odd value makes it meet: OverflowError, SystemError, RecursionError ...
        reason = str(error).encode(errors="replace").decode()
        raise BadRequest(f"not an OTLP/JSON {signal} request: {reason}") from error
    return message.SerializeToString()


_ID_FIELDS = frozenset({"traceId", "spanId", "parentSpanId", "trace_id", "span_id", "parent_span_id"})


def _ids_to_base64(value: Any) -> Any:
    if isinstance(value, list):
        return [_ids_to_base64(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {key: _id_to_base64(item) if key in _ID_FIELDS else _ids_to_base64(item) for key, item in value.items()}


def _id_to_base64(value: Any) -> Any:
    return base64.b64encode(bytes.fromhex(value)).decode() if isinstance(value, str) else value
