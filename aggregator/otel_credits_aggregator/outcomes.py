"""Why a request is not accepted, and the one place that maps it to the codes of gRPC and HTTP.

OTLP knows two kinds of refusal: one that the sender should try again and one that it must not
(https://opentelemetry.io/docs/specs/otlp/#failures, #failures-1, #otlpgrpc-throttling, #otlphttp-throttling).
"""

from dataclasses import dataclass
from http import HTTPStatus

import grpc

__all__ = [
    "BadRequest",
    "NotPermitted",
    "Refusal",
    "RequestTooLarge",
    "SpoolFailed",
    "SpoolFull",
    "Stopping",
    "Unauthenticated",
    "UnsupportedMediaType",
]


@dataclass(eq=False)
class Refusal(Exception):
    """A request that was not accepted; nothing of it was kept.

    ``retry_delay_s`` is None where the sender must not try again.
    """

    message: str
    retry_delay_s: float | None = None

    grpc_code = grpc.StatusCode.INTERNAL
    http_status = HTTPStatus.INTERNAL_SERVER_ERROR

    def __str__(self) -> str:
        return self.message


class BadRequest(Refusal):
    """The bytes are not an OTLP request."""

    grpc_code = grpc.StatusCode.INVALID_ARGUMENT
    http_status = HTTPStatus.BAD_REQUEST


class RequestTooLarge(Refusal):
    """The request, uncompressed, is larger than the limit."""

    grpc_code = grpc.StatusCode.INVALID_ARGUMENT
    http_status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class UnsupportedMediaType(Refusal):
    """The content type or encoding is none that OTLP/HTTP names."""

    grpc_code = grpc.StatusCode.UNIMPLEMENTED
    http_status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE


class SpoolFull(Refusal):
    """So much waits for the store that no more is taken. To be tried again after the delay."""

    grpc_code = grpc.StatusCode.RESOURCE_EXHAUSTED
    http_status = HTTPStatus.TOO_MANY_REQUESTS


class SpoolFailed(Refusal):
    """The spool could not be written (disk full, say). To be tried again after the delay."""

    grpc_code = grpc.StatusCode.UNAVAILABLE
    http_status = HTTPStatus.SERVICE_UNAVAILABLE


class Stopping(Refusal):
    """The aggregator is shutting down. To be tried again, with another or after its restart."""

    grpc_code = grpc.StatusCode.UNAVAILABLE
    http_status = HTTPStatus.SERVICE_UNAVAILABLE


class Unauthenticated(Refusal):
    """No token, or one that is not known. OTLP senders do not try again: add the new token before the old one goes."""

    grpc_code = grpc.StatusCode.UNAUTHENTICATED
    http_status = HTTPStatus.UNAUTHORIZED


class NotPermitted(Refusal):
    """The token is known, and is not for this."""

    grpc_code = grpc.StatusCode.PERMISSION_DENIED
    http_status = HTTPStatus.FORBIDDEN
