"""One attempt to send a batch, through OpenTelemetry's own OTLP exporters, and what its answer means.

The exporters do the encoding, the TLS, the headers and the compression, as the standard `OTEL_EXPORTER_OTLP_*`
variables say. Their own `export()` is not used: it retries for ten seconds, then drops the batch and says only that
it failed. Here each call is one attempt, and the answer is one of three kinds, so that the export thread can keep
what may still be delivered. This is the only file that knows status codes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from enum import Enum, auto
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Protocol, cast

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from otel_credits._encoding import encoded_spans
from otel_credits._endpoint import Endpoint, metrics_url
from otel_credits._guard import say_once
from otel_credits._usage import KeptSpan, finished

if TYPE_CHECKING:
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

    from otel_credits._spool import StoredSpan

Batch = Sequence["ReadableSpan | KeptSpan | StoredSpan"]


class Verdict(Enum):
    """What the answer means for the batch."""

    DELIVERED = auto()
    # Try again, for as long as the queue has room (OTLP's retryable answers, and no answer at all).
    RETRY = auto()
    # OTLP says not to try again, but the answer speaks of the server, not of the batch: a few more attempts.
    UNCLEAR = auto()
    # The answer speaks of the batch: something in it is wrong or it is too large. Halves may be taken.
    REFUSED_DATA = auto()
    # The answer speaks of the sender (credentials, wrong address): no part of the batch will be taken.
    REFUSED_SENDER = auto()


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome of one attempt."""

    verdict: Verdict
    detail: str = ""
    # Given up by the receiver although it took the rest (OTLP's partial success).
    rejected: int = 0
    # The receiver's own wish for the wait until the next attempt, in seconds.
    retry_after_s: float | None = None


class Sender(Protocol):
    """Sends batches to one endpoint."""

    def send(self, spans: Batch, timeout_s: float) -> Answer:
        """Make one attempt to deliver `spans`. Does not raise."""

    def report(self, request: ExportMetricsServiceRequest, timeout_s: float) -> Answer:
        """Make one attempt to deliver the counters, or what the meters counted."""

    def close(self) -> None:
        """Drop connections. An attempt under way ends soon."""


SenderFactory = Callable[[], Sender]

_GRPC_RETRY = {
    "CANCELLED",
    "DEADLINE_EXCEEDED",
    "RESOURCE_EXHAUSTED",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNAVAILABLE",
    "DATA_LOSS",
}
_GRPC_UNCLEAR = {"UNKNOWN", "INTERNAL"}
_GRPC_REFUSED_DATA = {"INVALID_ARGUMENT", "FAILED_PRECONDITION", "ALREADY_EXISTS"}
_HTTP_RETRY = {408, 429, 502, 503, 504}
_HTTP_REFUSED_DATA = {400, 413, 422}
# Quicker to come back than gRPC's defaults (1 s to 120 s), which would hold usage back long after an outage. The one that is
# called minimal is how long an attempt to connect may take, which is left as gRPC has it: a receiver may be far away, or busy.
_CHANNEL_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 250),
    ("grpc.min_reconnect_backoff_ms", 20_000),
    ("grpc.max_reconnect_backoff_ms", 2000),
)


def sender_factory(endpoint: Endpoint, timeout_s: float) -> SenderFactory:
    """How to make a sender for `endpoint`.

    The exporter's modules are imported here, by the thread that configures, and not by the export thread: a fork
    in the middle of an import would leave the child with a locked module.
    """
    return (
        _grpc_factory(endpoint.url, timeout_s)
        if endpoint.protocol == "grpc"
        else _http_factory(endpoint.url, timeout_s)
    )


def _grpc_factory(url: str, timeout_s: float) -> SenderFactory:
    import opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc  # noqa: F401
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    def make() -> Sender:
        exporter: Any = OTLPSpanExporter(endpoint=url, timeout=timeout_s, channel_options=_CHANNEL_OPTIONS)  # type: ignore[arg-type]
        return _single_attempts(exporter, GrpcSender, ("_client.Export", "_headers", "_channel"))

    return make


def _http_factory(url: str, timeout_s: float) -> SenderFactory:
    import opentelemetry.proto.collector.metrics.v1.metrics_service_pb2  # noqa: F401
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    def make() -> Sender:
        exporter: Any = OTLPSpanExporter(endpoint=url, timeout=timeout_s)
        return _single_attempts(exporter, HttpSender, ("_client._compress", "_client._submit", "_client._endpoint"))

    return make


def _single_attempts(exporter: Any, sender: Callable[[Any], Sender], needs: tuple[str, ...]) -> Sender:
    """`sender` around `exporter`, if this version of the exporter has the inner parts that it uses. If not, the
    exporter as a whole, whose failures say nothing of their cause: they are all tried again."""
    try:
        for path in needs:
            attrgetter(path)(exporter)
    except AttributeError as error:
        say_once("exporter", logging.WARNING, "credits: this OTLP exporter is used as a whole: %s", error)
        return ExporterSender(exporter)
    return sender(exporter)


def _request(spans: Batch) -> Any:
    """The request for `spans`. A batch is all from memory or all from disk, where the spans are encoded already."""
    if isinstance(spans[0], (ReadableSpan, KeptSpan)):
        return encoded_spans(cast("Sequence[ReadableSpan | KeptSpan]", spans))
    from otel_credits._spool import request_of

    return request_of(cast("Sequence[StoredSpan]", spans))


class GrpcSender:
    """OTLP/gRPC, over the channel, credentials and headers of the official exporter."""

    def __init__(self, exporter: Any) -> None:
        from grpc import RpcError

        self._exporter = exporter
        self._rpc_error: type[Exception] = RpcError

    def send(self, spans: Batch, timeout_s: float) -> Answer:
        try:
            request = _request(spans)
        except Exception as error:
            return Answer(Verdict.REFUSED_DATA, f"cannot be encoded: {error}")
        try:
            response = self._exporter._client.Export(
                request=request, metadata=self._exporter._headers, timeout=timeout_s
            )
        except self._rpc_error as error:
            return grpc_answer(error)
        return _partial(response.partial_success.rejected_spans, response.partial_success.error_message)

    def report(self, request: ExportMetricsServiceRequest, timeout_s: float) -> Answer:
        from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import MetricsServiceStub

        stub: Any = MetricsServiceStub(self._exporter._channel)  # type: ignore[no-untyped-call]
        try:
            response = stub.Export(request=request, metadata=self._exporter._headers, timeout=timeout_s)
        except self._rpc_error as error:
            return grpc_answer(error)
        return _partial(response.partial_success.rejected_data_points, response.partial_success.error_message)

    def close(self) -> None:
        self._exporter.shutdown()


def grpc_answer(error: Any) -> Answer:
    """What a gRPC error means."""
    code, detail = error.code().name, f"{error.code().name}: {error.details()}"
    if code == "RESOURCE_EXHAUSTED" and "larger than max" in (error.details() or ""):
        return Answer(Verdict.REFUSED_DATA, detail)
    if code in _GRPC_RETRY:
        return Answer(Verdict.RETRY, detail, retry_after_s=_grpc_retry_after_s(error))
    if code in _GRPC_UNCLEAR:
        return Answer(Verdict.UNCLEAR, detail)
    return Answer(Verdict.REFUSED_DATA if code in _GRPC_REFUSED_DATA else Verdict.REFUSED_SENDER, detail)


def _grpc_retry_after_s(error: Any) -> float | None:
    """The delay that the receiver asks for: a google.rpc.RetryInfo, in the rich status that OTLP prescribes or bare."""
    from google.rpc.error_details_pb2 import RetryInfo
    from google.rpc.status_pb2 import Status

    trailers = dict(error.trailing_metadata() or ())
    info = RetryInfo()
    try:
        if "google.rpc.retryinfo-bin" in trailers:
            info.ParseFromString(trailers["google.rpc.retryinfo-bin"])
        elif not any(d.Unpack(info) for d in Status.FromString(trailers.get("grpc-status-details-bin", b"")).details):
            return None
    except Exception:
        return None
    return float(info.retry_delay.seconds + info.retry_delay.nanos / 1e9)


class HttpSender:
    """OTLP/HTTP with protobuf, over the session, headers and compression of the official exporter."""

    def __init__(self, exporter: Any) -> None:
        self._exporter = exporter

    def send(self, spans: Batch, timeout_s: float) -> Answer:
        client = self._exporter._client
        try:
            data = client._compress(_request(spans).SerializeToString())
        except Exception as error:
            return Answer(Verdict.REFUSED_DATA, f"cannot be encoded: {error}")
        try:
            result = client._submit(data, timeout_s)
        except Exception as error:
            return Answer(Verdict.RETRY, repr(error))
        return http_answer(result)

    def report(self, request: ExportMetricsServiceRequest, timeout_s: float) -> Answer:
        client = copy(self._exporter._client)  # the same connections, headers and compression
        client._endpoint = metrics_url(client._endpoint)
        if client._endpoint is None:
            return Answer(Verdict.REFUSED_SENDER, "the endpoint does not end in /v1/traces, so /v1/metrics is unknown")
        try:
            return http_answer(client._submit(client._compress(request.SerializeToString()), timeout_s))
        except Exception as error:
            return Answer(Verdict.RETRY, repr(error))

    def close(self) -> None:
        self._exporter.shutdown()


def http_answer(result: Any) -> Answer:
    """What an HTTP answer, or its absence, means."""
    status = result.status_code
    if status is None:
        return Answer(Verdict.RETRY, repr(result.error))
    if 200 <= status < 300:
        return _http_partial(result)
    detail = f"{status} {result.reason}"
    if status in _HTTP_RETRY:
        return Answer(Verdict.RETRY, detail, retry_after_s=_http_retry_after_s(result))
    if status >= 500:
        return Answer(Verdict.UNCLEAR, detail)
    return Answer(Verdict.REFUSED_DATA if status in _HTTP_REFUSED_DATA else Verdict.REFUSED_SENDER, detail)


def _http_partial(result: Any) -> Answer:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    try:
        partial = ExportTraceServiceResponse.FromString(result.content()).partial_success
    except Exception:  # a 2xx whose body is not OTLP's: some gateways answer so; the status is what counts
        return Answer(Verdict.DELIVERED)
    return _partial(partial.rejected_spans, partial.error_message)


def _http_retry_after_s(result: Any) -> float | None:
    try:
        return max(0.0, float(result.headers().get("Retry-After", "")))
    except Exception:
        return None


def _partial(rejected: int, message: str) -> Answer:
    return Answer(Verdict.DELIVERED, f"{rejected} rejected: {message}" if rejected or message else "", rejected)


class ExporterSender:
    """Any `SpanExporter` of the caller's (in-memory ones in tests). It says only whether it failed, so a failure is
    tried again."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter

    def send(self, spans: Batch, timeout_s: float) -> Answer:
        try:
            result = self._exporter.export(
                [finished(span) for span in cast("Sequence[ReadableSpan | KeptSpan]", spans)]
            )
        except Exception as error:
            return Answer(Verdict.RETRY, repr(error))
        return Answer(Verdict.DELIVERED) if result is SpanExportResult.SUCCESS else Answer(Verdict.RETRY, str(result))

    def report(self, request: ExportMetricsServiceRequest, timeout_s: float) -> Answer:
        return Answer(Verdict.REFUSED_SENDER)  # a SpanExporter takes spans and nothing else

    def close(self) -> None:
        self._exporter.shutdown()
