"""A destination behind a Collector: an OTLP/gRPC server that keeps what it gets, and can be told to refuse."""

from __future__ import annotations

import threading
from concurrent import futures
from types import TracebackType
from typing import Self

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_pb
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as trace_grpc
from opentelemetry.proto.metrics.v1 import metrics_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

from support.processes import free_port

MESSAGE_BYTES_MAX = 64 * 1024 * 1024


class CollectorSink(trace_grpc.TraceServiceServicer, metrics_grpc.MetricsServiceServicer):
    """Keeps every request; ``start`` and ``stop`` can be called again and again on the same port.

    As a context manager it listens inside the block.
    """

    def __init__(self) -> None:
        self.port = free_port()
        self.trace_requests: list[trace_pb.ExportTraceServiceRequest] = []
        self.metric_requests: list[metrics_pb.ExportMetricsServiceRequest] = []
        self.refused_requests = 0
        self._refusals_left = 0
        self._lock = threading.Lock()
        self._server: grpc.Server | None = None

    @property
    def address(self) -> str:
        """``host:port``, as a Collector's endpoint is written."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> Self:
        """Listen."""
        options = [("grpc.max_receive_message_length", MESSAGE_BYTES_MAX), ("grpc.so_reuseport", 0)]
        self._server = grpc.server(futures.ThreadPoolExecutor(8), options=options)
        trace_grpc.add_TraceServiceServicer_to_server(self, self._server)
        metrics_grpc.add_MetricsServiceServicer_to_server(self, self._server)
        self._server.add_insecure_port(self.address)
        self._server.start()
        return self

    def stop(self) -> None:
        """Close the port and every connection; a request in progress is cut off."""
        if self._server is not None:
            self._server.stop(grace=None).wait()
            self._server = None

    def refuse_next(self, requests: int) -> None:
        """Answer that many requests with RESOURCE_EXHAUSTED and a RetryInfo, as a receiver does whose queue is full."""
        with self._lock:
            self._refusals_left = requests

    def spans(self) -> list[trace_pb2.Span]:
        """Every span of every accepted request, copies included."""
        with self._lock:
            requests = list(self.trace_requests)
        resources = (resource for request in requests for resource in request.resource_spans)
        return [span for resource in resources for scope in resource.scope_spans for span in scope.spans]

    def span_ids(self) -> set[bytes]:
        """The ids of the spans that came at least once."""
        return {span.span_id for span in self.spans()}

    def metrics(self) -> list[metrics_pb2.Metric]:
        """Every metric of every accepted request, in the order of arrival."""
        with self._lock:
            requests = list(self.metric_requests)
        resources = (resource for request in requests for resource in request.resource_metrics)
        return [metric for resource in resources for scope in resource.scope_metrics for metric in scope.metrics]

    def Export(self, request: object, context: grpc.ServicerContext) -> object:
        """Serve both signals; the type of the request tells which."""
        with self._lock:
            refuse = self._refusals_left > 0
            self._refusals_left -= refuse
            self.refused_requests += refuse
            if not refuse and isinstance(request, trace_pb.ExportTraceServiceRequest):
                self.trace_requests.append(request)
            elif not refuse and isinstance(request, metrics_pb.ExportMetricsServiceRequest):
                self.metric_requests.append(request)
        if refuse:
            context.set_trailing_metadata((("grpc-status-details-bin", _full_status().SerializeToString()),))
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        if isinstance(request, trace_pb.ExportTraceServiceRequest):
            return trace_pb.ExportTraceServiceResponse()
        return metrics_pb.ExportMetricsServiceResponse()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _full_status() -> status_pb2.Status:
    retry = any_pb2.Any()
    retry.Pack(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(nanos=200_000_000)))
    return status_pb2.Status(code=grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], message="full", details=[retry])
