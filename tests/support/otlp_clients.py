"""Raw OTLP clients, which send what no SDK would, and say exactly what was answered."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import grpc
import httpx
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from support import plain_http

__all__ = ["JSON", "PROTOBUF", "GrpcClient", "Refusal", "post", "refusal", "status_of"]

PROTOBUF: Final = "application/x-protobuf"
JSON: Final = "application/json"

_SERVICES = {
    "traces": "opentelemetry.proto.collector.trace.v1.TraceService",
    "metrics": "opentelemetry.proto.collector.metrics.v1.MetricsService",
    "logs": "opentelemetry.proto.collector.logs.v1.LogsService",
}
_TIMEOUT_S = 60.0
# A server that is killed and started again must not wait for gRPC's own pause between attempts, up to 120 s. The last of the
# three is how long an attempt may take, whatever its name: one that is accepted late, on a busy machine, is no failure.
_CHANNEL_OPTIONS = (
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 20_000),
    ("grpc.max_send_message_length", -1),
)


class GrpcClient:
    """Sends bytes to ``Export`` over OTLP/gRPC; a context manager that closes its channel.

    One that is patient waits for a connection as long as it waits for an answer.
    """

    def __init__(
        self,
        port: int,
        compression: grpc.Compression = grpc.Compression.NoCompression,
        *,
        token: str = "",
        is_patient: bool = False,
    ) -> None:
        self._is_patient = is_patient
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=_CHANNEL_OPTIONS, compression=compression)
        self._export = {
            signal: self._channel.unary_unary(f"/{service}/Export") for signal, service in _SERVICES.items()
        }

    def export(self, payload: bytes, signal: str = "traces", *, timeout_s: float = _TIMEOUT_S) -> bytes:
        """Send one request and return the bytes of its answer. Raises grpc.RpcError."""
        answer: bytes = self._export[signal](
            payload, timeout=timeout_s, metadata=self._metadata, wait_for_ready=self._is_patient
        )
        return answer

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class Refusal:
    """What a gRPC call was refused with: the status, its details, and the delay that they ask for, in seconds."""

    code: grpc.StatusCode
    message: str
    status: Status | None
    retry_delay_s: float | None


def refusal(error: grpc.RpcError) -> Refusal:
    """Read an error as a sender does: code, message, and the google.rpc.Status in the trailer."""
    call: Any = error
    trailer = dict(call.trailing_metadata() or ())
    raw = trailer.get("grpc-status-details-bin")
    status = Status.FromString(raw) if raw is not None else None
    return Refusal(call.code(), call.details(), status, _retry_delay_s(status))


def _retry_delay_s(status: Status | None) -> float | None:
    for detail in status.details if status is not None else ():
        info = RetryInfo()
        if detail.Unpack(info):
            return float(info.retry_delay.seconds + info.retry_delay.nanos / 1e9)
    return None


def post(
    base_url: str,
    body: bytes,
    signal: str = "traces",
    *,
    content_type: str = PROTOBUF,
    compress: bool = False,
    token: str = "",
    timeout_s: float = _TIMEOUT_S,
) -> httpx.Response:
    """Send one request over OTLP/HTTP, with gzip if `compress`."""
    headers = {"content-type": content_type}
    if token:
        headers["authorization"] = f"Bearer {token}"
    if compress:
        body, headers["content-encoding"] = gzip.compress(body), "gzip"
    return plain_http.post(f"{base_url}/v1/{signal}", content=body, headers=headers, timeout=timeout_s)


def status_of(response: httpx.Response) -> Status:
    """The google.rpc.Status in the body of a refusal, which is in the encoding that the content type names."""
    assert response.headers["content-type"] == PROTOBUF, response.text
    return Status.FromString(response.content)
