"""A real OTLP/gRPC receiver for tests: it keeps every request and can be told to fail.

    with OtlpSink() as sink:
        configure(endpoint=sink.endpoint)
        ...
        sink.wait_for_spans(3)

It answers from a script: `sink.answer_with(grpc.StatusCode.UNAVAILABLE)` until it is told otherwise. A request that
is answered with an error is kept in `refused`, one that is acknowledged in `requests`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

_TRACES = "opentelemetry.proto.collector.trace.v1.TraceService"
_METRICS = "opentelemetry.proto.collector.metrics.v1.MetricsService"


@dataclass(frozen=True)
class SinkSpan:
    """One received span, with plain Python values."""

    name: str
    trace_id: str
    span_id: str
    parent_span_id: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    resource: dict[str, Any]
    scope: str


@dataclass
class Script:
    """How requests are answered now."""

    code: grpc.StatusCode | None = None
    detail: str = "told to"
    retry_after_s: float | None = None
    delay_s: float = 0.0
    store_before_failing: bool = False
    rejected_spans: int = 0
    # Decides request by request; True means refuse with `code`.
    refuse_if: Callable[[ExportTraceServiceRequest], bool] | None = None


@dataclass
class OtlpSink:
    """Receives OTLP/gRPC traces on a free port of 127.0.0.1 (or on `port`)."""

    port: int = 0
    # Serve TLS with this (PEM of the private key, PEM of the certificate).
    tls: tuple[bytes, bytes] | None = None
    script: Script = field(default_factory=Script)
    requests: list[bytes] = field(default_factory=list)
    refused: list[bytes] = field(default_factory=list)
    metadata: list[dict[str, str]] = field(default_factory=list)
    # Metrics requests, acknowledged or not as traces are.
    metrics: list[ExportMetricsServiceRequest] = field(default_factory=list)
    metrics_metadata: list[dict[str, str]] = field(default_factory=list)
    # Trace requests that were received and wait for their answer because of `Script.delay_s`.
    answering: int = 0

    def __post_init__(self) -> None:
        self._server: grpc.Server | None = None
        self._changed = threading.Condition()

    def __enter__(self) -> OtlpSink:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def endpoint(self) -> str:
        """The address, as `OTEL_EXPORTER_OTLP_ENDPOINT` wants it."""
        return f"http://127.0.0.1:{self.port}" if self.tls is None else f"https://localhost:{self.port}"

    def start(self) -> None:
        """Listen. After `stop()`, on the same port again."""
        server = grpc.server(futures.ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        for service, receive in ((_TRACES, self._export), (_METRICS, self._export_metrics)):
            handler = grpc.unary_unary_rpc_method_handler(
                receive, request_deserializer=None, response_serializer=lambda r: r.SerializeToString()
            )
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": handler}),))
        address = f"127.0.0.1:{self.port}"
        if self.tls is None:
            self.port = server.add_insecure_port(address)
        else:
            self.port = server.add_secure_port(address, grpc.ssl_server_credentials([self.tls]))
        server.start()
        self._server = server

    def stop(self) -> None:
        """Stop listening; what was received stays."""
        if self._server is not None:
            self._server.stop(None).wait()
            self._server = None

    def answer_with(self, code: grpc.StatusCode | None, **changes: Any) -> None:
        """Answer with `code` from now on (None: accept)."""
        self.script = Script(code=code, **changes)

    def _export(self, raw: bytes, context: grpc.ServicerContext) -> ExportTraceServiceResponse:
        script = self.script
        with self._changed:
            self.answering += 1
        time.sleep(script.delay_s)
        with self._changed:
            self.answering -= 1
        refuse = script.code is not None
        if script.refuse_if is not None:
            refuse = script.refuse_if(ExportTraceServiceRequest.FromString(raw))
        self._keep(raw, context, refuse and not script.store_before_failing)
        if refuse:
            if script.retry_after_s is not None:
                info = RetryInfo(retry_delay=Duration(nanos=int(script.retry_after_s * 1e9)))
                context.set_trailing_metadata((("google.rpc.retryinfo-bin", info.SerializeToString()),))
            context.abort(script.code or grpc.StatusCode.INVALID_ARGUMENT, script.detail)
        response = ExportTraceServiceResponse()
        if script.rejected_spans:
            response.partial_success.rejected_spans = script.rejected_spans
            response.partial_success.error_message = script.detail
        return response

    def _export_metrics(self, raw: bytes, context: grpc.ServicerContext) -> ExportMetricsServiceResponse:
        script = self.script
        if script.code is None or script.store_before_failing:
            with self._changed:
                self.metrics.append(ExportMetricsServiceRequest.FromString(raw))
                self.metrics_metadata.append({k: v for k, v in context.invocation_metadata() if isinstance(v, str)})
                self._changed.notify_all()
        if script.code is not None:
            context.abort(script.code, script.detail)
        return ExportMetricsServiceResponse()

    def counters(self) -> dict[str, dict[str, int]]:
        """The library's counters as last reported by each process, by its instance id; a reason follows a colon."""
        with self._changed:
            requests = list(self.metrics)
        return {instance: points for request in requests for instance, points in counters_of(request)}

    def _keep(self, raw: bytes, context: grpc.ServicerContext, refused: bool) -> None:
        with self._changed:
            (self.refused if refused else self.requests).append(raw)
            self.metadata.append({k: v for k, v in context.invocation_metadata() if isinstance(v, str)})
            self._changed.notify_all()

    def spans(self) -> list[SinkSpan]:
        """All acknowledged spans, in the order they came, copies included."""
        with self._changed:
            raws = list(self.requests)
        return [span for raw in raws for span in spans_of(ExportTraceServiceRequest.FromString(raw))]

    def usages(self) -> list[SinkSpan]:
        """Those with an action type."""
        return [span for span in self.spans() if "credits.action_type" in span.attributes]

    def wait_for(self, condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
        """Wait until `condition()` holds; it is asked after each request. AssertionError at the timeout."""
        with self._changed:
            assert self._changed.wait_for(condition, timeout_s), (
                f"not within {timeout_s} s; {len(self.requests)} requests taken, {len(self.refused)} refused"
            )

    def wait_for_spans(self, count: int, timeout_s: float = 60.0) -> list[SinkSpan]:
        """Wait until at least `count` spans were acknowledged, and return them all."""
        self.wait_for(lambda: len(self.spans()) >= count, timeout_s)
        return self.spans()

    def clear(self) -> None:
        """Forget what was received."""
        with self._changed:
            self.requests.clear()
            self.refused.clear()
            self.metadata.clear()


def spans_of(request: ExportTraceServiceRequest) -> Iterator[SinkSpan]:
    """The spans of a request."""
    for resource_spans in request.resource_spans:
        resource = _plain(resource_spans.resource.attributes)
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                yield SinkSpan(
                    name=span.name,
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_span_id=span.parent_span_id.hex(),
                    start_ns=span.start_time_unix_nano,
                    end_ns=span.end_time_unix_nano,
                    attributes=_plain(span.attributes),
                    resource=resource,
                    scope=scope_spans.scope.name,
                )


def counters_of(request: ExportMetricsServiceRequest) -> Iterator[tuple[str, dict[str, int]]]:
    """The instance and the counts of each resource of a request."""
    for of_resource in request.resource_metrics:
        points: dict[str, int] = {}
        for of_scope in of_resource.scope_metrics:
            for metric in of_scope.metrics:
                data = metric.sum if metric.HasField("sum") else metric.gauge
                name = metric.name.removeprefix("credits.client.")
                for point in data.data_points:
                    points[":".join([name, *_plain(point.attributes).values()])] = point.as_int
        yield _plain(of_resource.resource.attributes)["service.instance.id"], points


def _plain(attributes: Any) -> dict[str, Any]:
    return {attribute.key: _value(attribute.value) for attribute in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return None if kind is None else getattr(value, kind)
