"""OTLP over gRPC (https://opentelemetry.io/docs/specs/otlp/#otlpgrpc)."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from otel_credits_aggregator.access import TlsFiles
from otel_credits_aggregator.intake import Intake
from otel_credits_aggregator.otlp import RECEIVED, Signal, response_type
from otel_credits_aggregator.outcomes import Refusal
from otel_credits_aggregator.settings import Settings

__all__ = ["start_grpc"]

_SERVICES = {
    Signal.TRACES: "opentelemetry.proto.collector.trace.v1.TraceService",
    Signal.METRICS: "opentelemetry.proto.collector.metrics.v1.MetricsService",
    Signal.LOGS: "opentelemetry.proto.collector.logs.v1.LogsService",
}
_METHODS = {f"/{_SERVICES[signal]}/Export": signal for signal in RECEIVED}


def start_grpc(intake: Intake, settings: Settings, tls: TlsFiles | None) -> grpc.Server:
    """Starts listening on the gRPC port.

    Raises:
        RuntimeError: the port cannot be bound.
    """
    server = grpc.server(
        ThreadPoolExecutor(settings.receive_threads, thread_name_prefix="otlp-grpc"),
        options=[("grpc.max_receive_message_length", settings.request_bytes_max), ("grpc.so_reuseport", 0)],
    )
    server.add_generic_rpc_handlers((_Otlp(intake),))
    host = f"[{settings.host}]" if ":" in settings.host else settings.host  # IPv6
    address = f"{host}:{settings.grpc_port}"
    if tls is None:
        server.add_insecure_port(address)
    else:
        server.add_secure_port(address, tls.grpc_credentials())
    server.start()
    return server


class _Otlp(grpc.GenericRpcHandler):  # type: ignore[misc]
    """``Export`` of the three services."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        signal = _METHODS.get(handler_call_details.method)
        if signal is None:
            return None
        metadata = dict(handler_call_details.invocation_metadata)
        try:
            binding = self._intake.admit(metadata.get("authorization"))
        except Refusal as refusal:
            # As if it took a stream, so that nothing of the request is read before it is refused.
            return grpc.stream_unary_rpc_method_handler(_refuse(self._intake, refusal))
        # No deserializer: the bytes go to the spool as they came.
        return grpc.unary_unary_rpc_method_handler(_export(signal, self._intake, binding))


def _refuse(intake: Intake, refusal: Refusal) -> Callable[[Any, grpc.ServicerContext], None]:
    def refuse(_: Any, context: grpc.ServicerContext) -> None:
        intake.count_refusal(refusal)
        _abort(context, refusal)

    return refuse


def _export(signal: Signal, intake: Intake, binding: bytes) -> Callable[[bytes, grpc.ServicerContext], bytes]:
    response = response_type(signal)().SerializeToString()

    def export(payload: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            intake.accept(signal, payload, binding).result()
        except Refusal as refusal:
            intake.count_refusal(refusal)
            _abort(context, refusal)
        return response

    return export


def _abort(context: grpc.ServicerContext, refusal: Refusal) -> None:
    status = Status(code=refusal.grpc_code.value[0], message=str(refusal))
    trailer: tuple[tuple[str, str | bytes], ...] = ()
    if refusal.retry_delay_s is not None:
        retry = RetryInfo(retry_delay=_duration(refusal.retry_delay_s))
        detail = AnyMessage()
        detail.Pack(retry)
        status.details.append(detail)
        # Where the Python SDK's exporter looks for the delay.
        trailer = (("google.rpc.retryinfo-bin", retry.SerializeToString()),)
    context.set_trailing_metadata((*trailer, ("grpc-status-details-bin", status.SerializeToString())))
    context.abort(refusal.grpc_code, str(refusal))


def _duration(seconds: float) -> Duration:
    return Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))
