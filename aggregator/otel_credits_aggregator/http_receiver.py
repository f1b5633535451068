"""OTLP over HTTP, protobuf and JSON (https://opentelemetry.io/docs/specs/otlp/#otlphttp)."""

import asyncio
import gzip
import io
import math
import zlib
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any

from anyio import CapacityLimiter, to_thread
from google.protobuf import json_format
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from otel_credits_aggregator.intake import Intake
from otel_credits_aggregator.otlp import RECEIVED, Signal, from_json, response_type
from otel_credits_aggregator.outcomes import BadRequest, Refusal, RequestTooLarge, UnsupportedMediaType

__all__ = ["create_http_receiver"]

_PROTOBUF = "application/x-protobuf"
_JSON = "application/json"

_Endpoint = Callable[[Request], Coroutine[Any, Any, Response]]


def create_http_receiver(intake: Intake, threads: int) -> Starlette:
    """The ASGI application with ``/v1/traces``, ``/v1/metrics`` and ``/v1/logs``; ``threads`` requests are decoded at once."""
    # Threads of its own: the API's may all be waiting for a store that does not answer.
    limiter = CapacityLimiter(threads)
    return Starlette(
        routes=[Route(f"/v1/{signal}", _endpoint(signal, intake, limiter), methods=["POST"]) for signal in RECEIVED]
    )


def _endpoint(signal: Signal, intake: Intake, limiter: CapacityLimiter) -> _Endpoint:
    async def export(request: Request) -> Response:
        content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        try:
            binding = intake.admit(request.headers.get("authorization"))
            body = await _body(request, content_type, intake.request_bytes_max)
            encoding = request.headers.get("content-encoding", "")
            future = await to_thread.run_sync(
                _accept, intake, signal, body, encoding, content_type, binding, limiter=limiter
            )
            await asyncio.wrap_future(future)
        except Refusal as refusal:
            intake.count_refusal(refusal)
            return _refused(refusal, content_type)
        return _response(response_type(signal)(), content_type, 200)

    return export


async def _body(request: Request, content_type: str, bytes_max: int) -> bytes:
    if content_type not in (_PROTOBUF, _JSON):
        raise UnsupportedMediaType(f"content type {content_type or '(none)'}: send {_PROTOBUF} or {_JSON}")
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > bytes_max:
                raise RequestTooLarge(f"the request is larger than {bytes_max} bytes: send smaller batches")
    except ClientDisconnect as error:
        raise BadRequest("the sender closed the connection within the request") from error
    return bytes(body)


def _accept(
    intake: Intake, signal: Signal, body: bytes, encoding: str, content_type: str, binding: bytes
) -> "Future[int]":
    plain = _decompressed(body, encoding.strip().lower(), intake.request_bytes_max)
    return intake.accept(signal, from_json(signal, plain) if content_type == _JSON else plain, binding)


def _decompressed(body: bytes, encoding: str, bytes_max: int) -> bytes:
    """Undoes gzip or deflate, never to more than the limit, so that a small bomb stays small."""
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "deflate"):
        raise UnsupportedMediaType(f"content encoding {encoding}: send gzip, deflate or none")
    decompress = _gunzip if encoding == "gzip" else _inflate
    try:
        plain = decompress(body, bytes_max + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise BadRequest(f"the body is not {encoding}, or ends too early: {error}") from error
    if len(plain) > bytes_max:
        raise RequestTooLarge(f"the request, uncompressed, is larger than {bytes_max} bytes: send smaller batches")
    return plain


def _gunzip(body: bytes, bytes_max: int) -> bytes:
    # All members of the file, one after the other (RFC 1952, 2.2): the second one's spans are acknowledged, too.
    with gzip.GzipFile(fileobj=io.BytesIO(body)) as file:
        return file.read(bytes_max)


def _inflate(body: bytes, bytes_max: int) -> bytes:
    decompressor = zlib.decompressobj()
    plain = decompressor.decompress(body, bytes_max)
    if len(plain) < bytes_max and (decompressor.unused_data or not decompressor.eof):
        raise EOFError("the body is not one whole stream")
    return plain


def _refused(refusal: Refusal, content_type: str) -> Response:
    status = Status(code=refusal.grpc_code.value[0], message=str(refusal))
    response = _response(status, content_type, refusal.http_status)
    if refusal.retry_delay_s is not None:
        response.headers["retry-after"] = str(math.ceil(refusal.retry_delay_s))
    return response


def _response(message: Message, content_type: str, status: int) -> Response:
    """Answers in the encoding of the request, as the specification asks."""
    if content_type == _JSON:
        return Response(json_format.MessageToJson(message, indent=None), status, media_type=_JSON)
    return Response(message.SerializeToString(), status, media_type=_PROTOBUF)
