"""The real Anthropic API behind the same local address, with the same record of what it served.

`llm_server.py` uses this when ``ANTHROPIC_API_KEY`` is set. Requests and answers pass through unchanged; the usage is
read beside them, independently of the SDK and of otel-credits, so that the demo has something to compare balances with.
``ANTHROPIC_UPSTREAM_URL`` names another address than https://api.anthropic.com.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

import httpx
from llm_server import Served
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

UPSTREAM_URL = os.environ.get("ANTHROPIC_UPSTREAM_URL", "https://api.anthropic.com")
FORWARDED_HEADERS = ("anthropic-version", "anthropic-beta", "content-type")
ANSWER_TIMEOUT_S = 120.0


def note_usage(served: Served, usage: dict[str, Any]) -> None:
    """Take over the figures that an answer reports; they are cumulative, and those not named stay."""
    names = {
        "input_tokens": "input_tokens",
        "output_tokens": "output_tokens",
        "cache_read_input_tokens": "cache_read_tokens",
        "cache_creation_input_tokens": "cache_write_tokens",
    }
    for theirs, ours in names.items():
        if usage.get(theirs) is not None:
            setattr(served, ours, usage[theirs])


def note_message(served: Served, message: dict[str, Any]) -> None:
    """Take over a Message: its id, the model that really answered, its usage so far."""
    served.message_id = message["id"]
    served.model = message["model"]
    note_usage(served, message["usage"])


def note_line(served: Served, line: str) -> None:
    """Read one line of a stream of server-sent events."""
    if not line.startswith("data:"):
        return
    data = json.loads(line.removeprefix("data:"))
    if data["type"] == "message_start":
        note_message(served, data["message"])
    elif data["type"] == "message_delta":
        note_usage(served, data["usage"])
    elif data["type"] == "message_stop":
        served.status = "completed"


async def pass_stream(served: Served, upstream: httpx.Response) -> AsyncIterator[bytes]:
    """Yield the answer line by line, each line noted before it goes on."""
    try:
        async for line in upstream.aiter_lines():
            note_line(served, line)
            yield f"{line}\n".encode()
    finally:
        await upstream.aclose()
        if served.status == "running":
            served.status = "aborted"


def build_proxy(api_key: str) -> Starlette:
    """Return the proxy; ``api_key`` goes upstream in place of whatever key the app sent."""
    client = httpx.AsyncClient(base_url=UPSTREAM_URL, timeout=ANSWER_TIMEOUT_S)
    served_requests: list[Served] = []

    async def messages(request: Request) -> Response:
        content = await request.body()
        body = json.loads(content)
        headers = {name: request.headers[name] for name in FORWARDED_HEADERS if name in request.headers}
        call = client.build_request("POST", "/v1/messages", content=content, headers=headers | {"x-api-key": api_key})
        upstream = await client.send(call, stream=True)
        media_type = upstream.headers.get("content-type")
        if upstream.is_error:
            return Response(await upstream.aread(), upstream.status_code, media_type=media_type)
        served = Served("", body["model"], (body.get("metadata") or {}).get("user_id", ""), 0, 0, 0)
        served_requests.append(served)
        if body.get("stream"):
            return StreamingResponse(pass_stream(served, upstream), media_type=media_type)
        answer = await upstream.aread()
        note_message(served, json.loads(answer))
        served.status = "completed"
        return Response(answer, media_type=media_type)

    async def served(_: Request) -> Response:
        return JSONResponse([asdict(entry) for entry in served_requests])

    return Starlette(routes=[Route("/v1/messages", messages, methods=["POST"]), Route("/_served", served)])
