"""What tests send through a Collector: usage spans made by hand, each in a trace of its own."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator, Sequence

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as trace_grpc
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

SEND_TIMEOUT_S = 60.0


def usage_span(
    user_id: str = "u1", *, error: bool = False, padding_bytes: int = 0, amount: str = "0.001"
) -> trace_pb2.Span:
    """A usage that ended now, as `track_compute_usage` makes it; ``padding_bytes`` stand for a captured prompt."""
    now_ns = time.time_ns()
    texts = {"credits.action_type": "workflow_execution", "user.id": user_id, "credits.amount": amount}
    if padding_bytes:
        texts["gen_ai.input.messages"] = "x" * padding_bytes
    attributes = [
        common_pb2.KeyValue(key=key, value=common_pb2.AnyValue(string_value=text)) for key, text in texts.items()
    ]
    code = trace_pb2.Status.STATUS_CODE_ERROR if error else trace_pb2.Status.STATUS_CODE_UNSET
    return trace_pb2.Span(
        trace_id=random.randbytes(16),
        span_id=random.randbytes(8),
        name="usage",
        start_time_unix_nano=now_ns - 1_000_000,
        end_time_unix_nano=now_ns,
        attributes=attributes,
        status=trace_pb2.Status(code=code),
    )


def request_of(spans: Sequence[trace_pb2.Span]) -> trace_pb.ExportTraceServiceRequest:
    """One OTLP request with these spans."""
    scope = trace_pb2.ScopeSpans(spans=spans)
    return trace_pb.ExportTraceServiceRequest(resource_spans=[trace_pb2.ResourceSpans(scope_spans=[scope])])


def send(port: int, spans: Sequence[trace_pb2.Span]) -> grpc.StatusCode:
    """Send one request to 127.0.0.1 over OTLP/gRPC, without retries, and return the code of the answer."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            trace_grpc.TraceServiceStub(channel).Export(request_of(spans), timeout=SEND_TIMEOUT_S)
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


def ids_of(spans: Iterable[trace_pb2.Span]) -> set[bytes]:
    """The span ids."""
    return {span.span_id for span in spans}


def chunks(spans: Sequence[trace_pb2.Span], size: int) -> Iterator[Sequence[trace_pb2.Span]]:
    """The spans in pieces of ``size``, the last one shorter."""
    return (spans[start : start + size] for start in range(0, len(spans), size))
