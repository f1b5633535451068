"""A language model that is not one: the Anthropic Messages API on this machine, with usage chosen at random.

    python examples/llm_server.py --port 9000 --seed 1
    ANTHROPIC_BASE_URL=http://127.0.0.1:9000 ANTHROPIC_API_KEY=any python your_app.py

The official ``anthropic`` SDK works against it, streaming or not. What a request uses depends only on the seed, the
user and the prompt, so a run can be repeated. Cached tokens occur where the request asks for caching.
`GET /_served` tells what was really served, request by request, which is what a provider would put on its invoice; the
demo compares every balance with it.

A prompt that contains ``LONG_ANSWER`` gets an answer that does not end by itself: after some text the server goes on
"thinking" (it sends pings) until the client hangs up, or for ``--patience-s`` seconds. Half of these answers report
their usage once in the middle, as the protocol allows: "one or more message_delta events", whose counts are cumulative
(https://docs.anthropic.com/en/docs/build-with-claude/streaming). Half of all answers repeat the input's figures in
message_delta, as the real API does: who adds events up charges twice.

With ``ANTHROPIC_API_KEY`` set, requests go to the real API (see ``llm_proxy.py``), and `/_served` tells what that
served.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import uuid
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

LONG_ANSWER = "LONG_ANSWER"
PING_INTERVAL_S = 0.2
# Some models are asked for by a name and answer by that of a dated snapshot, which is what a charge then names.
SNAPSHOTS = {
    "claude-haiku-4-5": "claude-haiku-4-5-20251001",
    "claude-opus-4-5": "claude-opus-4-5-20251101",
    "claude-sonnet-4-5": "claude-sonnet-4-5-20250929",
}
WORDS = ["credits", "are", "counted", "where", "the", "work", "is", "done", "and", "paid", "by", "whom", "it", "serves"]


@dataclass
class Served:
    """What one request was served, kept up to date while the answer goes out.

    ``output_tokens`` is the last figure that was put on the wire, and this server generates no token that it does
    not report: an answer that was cut off had used exactly that much.
    """

    message_id: str
    model: str
    user_id: str
    input_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    output_tokens: int = 0
    status: Literal["running", "completed", "aborted"] = "running"


@dataclass(frozen=True)
class Plan:
    """How an answer will go: its final output, its text, and whether it stops only when the client hangs up."""

    output_tokens: int
    first_tokens: int  # reported by message_start, before anything else is known
    middle_tokens: int | None  # reported once in the middle of a long answer, or not
    chunks: list[str]
    is_long: bool
    repeats_input: bool


def plan_request(seed: int, body: dict[str, Any]) -> tuple[Served, Plan]:
    """Draw the usage of a request from the seed, the user and the prompt; nothing else decides it."""
    user_id = (body.get("metadata") or {}).get("user_id", "")
    prompt = json.dumps(body["messages"])
    caches = "cache_control" in json.dumps(body)
    rng = random.Random(f"{seed}/{user_id}/{prompt}")
    served = Served(
        message_id=f"msg_{uuid.uuid4().hex[:24]}",
        model=SNAPSHOTS.get(body["model"], body["model"]),
        user_id=user_id,
        input_tokens=rng.randint(5, 900),
        cache_read_tokens=rng.choice([0, rng.randint(1024, 4096)]) * caches,
        cache_write_tokens=rng.choice([0, 0, rng.randint(1024, 2048)]) * caches,
    )
    first = rng.randint(1, 8)
    output = rng.randint(9, max(9, min(body["max_tokens"], 700)))
    is_long = LONG_ANSWER in prompt
    middle = rng.randint(first, output) if is_long and rng.random() < 0.5 else None
    chunks = [" ".join(rng.choices(WORDS, k=4)) + " " for _ in range(6 if is_long else rng.randint(2, 6))]
    return served, Plan(output, first, middle, chunks, is_long, repeats_input=rng.random() < 0.5)


def usage_json(served: Served) -> dict[str, int]:
    """Return the ``usage`` object, complete."""
    return {
        "input_tokens": served.input_tokens,
        "cache_creation_input_tokens": served.cache_write_tokens,
        "cache_read_input_tokens": served.cache_read_tokens,
        "output_tokens": served.output_tokens,
    }


def message_json(served: Served, text: str | None) -> dict[str, Any]:
    """Return a Message; without text it is the one that message_start announces."""
    return {
        "id": served.message_id,
        "type": "message",
        "role": "assistant",
        "model": served.model,
        "content": [] if text is None else [{"type": "text", "text": text}],
        "stop_reason": None if text is None else "end_turn",
        "stop_sequence": None,
        "usage": usage_json(served),
    }


def event(kind: str, **fields: Any) -> bytes:
    """Encode one server-sent event the way the Messages API does."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def usage_event(served: Served, plan: Plan, output_tokens: int, stop_reason: str | None) -> bytes:
    """Encode a message_delta, and take note that this figure is now on the wire."""
    served.output_tokens = output_tokens
    delta = {"stop_reason": stop_reason, "stop_sequence": None}
    usage = usage_json(served) if plan.repeats_input else {"output_tokens": output_tokens}
    return event("message_delta", delta=delta, usage=usage)


def text_event(text: str) -> bytes:
    """Encode a piece of the answer."""
    return event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})


async def answer(served: Served, plan: Plan, patience_s: float) -> AsyncIterator[bytes]:
    """Yield the events of a streamed answer; being closed in the middle is how a client's hang-up arrives here."""
    try:
        served.output_tokens = plan.first_tokens
        yield event("message_start", message=message_json(served, None))
        yield event("content_block_start", index=0, content_block={"type": "text", "text": ""})
        yield event("ping")
        for number, chunk in enumerate(plan.chunks):
            if number == 2 and plan.middle_tokens is not None:
                yield usage_event(served, plan, plan.middle_tokens, None)
            yield text_event(chunk)
        if plan.is_long:
            async for ping in think(patience_s):
                yield ping
        yield event("content_block_stop", index=0)
        yield usage_event(served, plan, plan.output_tokens, "end_turn")
        yield event("message_stop")
        served.status = "completed"
    finally:
        if served.status == "running":
            served.status = "aborted"


async def think(patience_s: float) -> AsyncIterator[bytes]:
    """Yield pings until the client is gone or the patience is over."""
    for _ in range(round(patience_s / PING_INTERVAL_S)):
        await asyncio.sleep(PING_INTERVAL_S)
        yield event("ping")


def whole_answer(served: Served, plan: Plan) -> Response:
    """Return an answer that is not streamed."""
    served.output_tokens = plan.output_tokens
    served.status = "completed"
    return JSONResponse(message_json(served, "".join(plan.chunks)))


def fault(message: str) -> Response:
    """Return the Messages API's error for a request it cannot read."""
    error = {"type": "invalid_request_error", "message": message}
    return JSONResponse({"type": "error", "error": error}, status_code=400)


def build_app(seed: int, patience_s: float) -> Starlette:
    """Return the server; its state is the list of what it served."""
    served_requests: list[Served] = []

    async def messages(request: Request) -> Response:
        body = await request.json()
        missing = [field for field in ("model", "max_tokens", "messages") if not body.get(field)]
        if missing:
            return fault(f"{missing[0]}: Field required")
        served, plan = plan_request(seed, body)
        served_requests.append(served)
        if body.get("stream"):
            return StreamingResponse(answer(served, plan, patience_s), media_type="text/event-stream")
        return whole_answer(served, plan)

    async def served(_: Request) -> Response:
        return JSONResponse([asdict(entry) for entry in served_requests])

    routes = [Route("/v1/messages", messages, methods=["POST"]), Route("/_served", served)]
    return Starlette(routes=routes)


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description="The Anthropic Messages API on this machine, with random usage.")
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--patience-s", type=float, default=30.0, help="how long a LONG_ANSWER waits for the hang-up")
    options = parser.parse_args()
    if os.environ.get("ANTHROPIC_API_KEY"):
        from llm_proxy import build_proxy

        app = build_proxy(os.environ["ANTHROPIC_API_KEY"])
    else:
        app = build_app(options.seed, options.patience_s)
    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
