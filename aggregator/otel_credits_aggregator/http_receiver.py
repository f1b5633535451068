"""OTLP over HTTP, protobuf and JSON (https://opentelemetry.io/docs/specs/otlp/#otlphttp)."""

import asyncio
import math
import zlib
from collections.abc import Callable, Coroutine
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
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


def create_http_receiver(intake: Intake) -> Starlette:
    """The ASGI application with ``/v1/traces``, ``/v1/metrics`` and ``/v1/logs``."""
    return Starlette(routes=[Route(f"/v1/{signal}", _endpoint(signal, intake), methods=["POST"]) for signal in RECEIVED])


def _endpoint(signal: Signal, intake: Intake) -> _Endpoint:
    async def export(request: Request) -> Response:
        content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        try:
            body = await _body(request, content_type, intake.request_bytes_max)
            future = await run_in_threadpool(_accept, intake, signal, body, request.headers.get("content-encoding", ""), content_type)
            await asyncio.wrap_future(future)
        except Refusal as refusal:
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


def _accept(intake: Intake, signal: Signal, body: bytes, encoding: str, content_type: str) -> Any:
    try:
        plain = _decompressed(body, encoding.strip().lower(), intake.request_bytes_max)
        payload = from_json(signal, plain) if content_type == _JSON else plain
    except Refusal as refusal:
        intake.count_refusal(refusal)
        raise
    return intake.accept(signal, payload)


def _decompressed(body: bytes, encoding: str, bytes_max: int) -> bytes:
    """Undoes gzip or deflate, never to more than the limit, so that a small bomb stays small."""
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "deflate"):
        raise UnsupportedMediaType(f"content encoding {encoding}: send gzip, deflate or none")
    decompressor = zlib.decompressobj(wbits=31 if encoding == "gzip" else 15)
    try:
        plain = decompressor.decompress(body, bytes_max + 1)
    except zlib.error as error:
        raise BadRequest(f"the body is not {encoding}: {error}") from error
    if len(plain) > bytes_max:
        raise RequestTooLarge(f"the request, uncompressed, is larger than {bytes_max} bytes: send smaller batches")
    if not decompressor.eof:
        raise BadRequest(f"the {encoding} body ends too early")
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
