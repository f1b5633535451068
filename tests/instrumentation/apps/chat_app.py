"""A FastAPI app as a user would write it, instrumented by one call. Run by uvicorn in test_fastapi.py.

Who is asking is authenticated by a middleware, from a token; the endpoints use usage in every way there is.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable

import anthropic
from fastapi import BackgroundTasks, Depends, FastAPI, Header, Request, Response
from fastapi.responses import StreamingResponse
from opentelemetry import baggage, trace
from otel_credits import ActionType, configure, set_user, track_ai_usage, track_compute_usage, track_stream
from otel_credits.fastapi import instrument_fastapi

TOKENS = {"token-alice": "alice", "token-bob": "bob"}
configure()
app = FastAPI()
tracer = trace.get_tracer("chat_app")


@app.middleware("http")
async def authenticate(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Put the user into the request's state."""
    request.state.user_id = TOKENS.get(request.headers.get("authorization", ""))
    return await call_next(request)


def by_dependency(token: str = Header(default="")) -> None:
    """A sync dependency, which FastAPI runs in another thread."""
    if token in TOKENS:
        set_user(TOKENS[token])


@app.get("/compute")
async def compute() -> dict[str, str]:
    """Charged to the user of the request."""
    await track_compute_usage(action_type=ActionType.WORKFLOW_EXECUTION, credits="0.001")
    return {"baggage": str(dict(baggage.get_all()))}


@app.get("/pid")
async def pid() -> int:
    """Charged, and says which process answered."""
    track_compute_usage(action_type="pid", credits=1)
    return os.getpid()


@app.get("/threaded")
def threaded() -> None:
    """The same in a sync endpoint."""
    track_compute_usage(action_type="threaded", credits=1)


@app.get("/dependency", dependencies=[Depends(by_dependency)])
async def dependency() -> None:
    """Charged to the user whom a dependency found."""
    track_compute_usage(action_type="dependency", credits=1)


@app.get("/background")
async def background(tasks: BackgroundTasks) -> None:
    """Charged after the response."""
    tasks.add_task(lambda: track_compute_usage(action_type="background", credits=1))


@app.get("/llm-span")
async def llm_span() -> None:
    """An LLM span of some instrumentation, which knows nothing of us."""
    with tracer.start_as_current_span("chat m", attributes={"gen_ai.operation.name": "chat"}):
        await asyncio.sleep(0)


@app.get("/raises")
async def raises() -> None:
    """Tracks, then fails."""
    track_ai_usage(action_type="before_the_error", input_tokens=1, output_tokens=2, model="m")
    raise RuntimeError("after tracking")


@app.get("/stream")
async def stream() -> StreamingResponse:
    """Streams an LLM's answer, counted by track_stream."""
    client = anthropic.AsyncAnthropic(api_key="x", base_url=os.environ["LLM_URL"], max_retries=0)

    async def body() -> AsyncIterator[str]:
        events = await client.messages.create(
            model="claude-test", max_tokens=9, messages=[{"role": "user", "content": "hi"}], stream=True
        )
        async for event in track_stream(events, action_type=ActionType.AI_CHAT_MESSAGE):
            yield event.type + "\n"

    return StreamingResponse(body())


mounted = FastAPI()


@mounted.get("/inner")
async def inner() -> None:
    """An endpoint of a mounted app."""
    track_compute_usage(action_type="mounted", credits=1)


app.mount("/sub", mounted)
instrument_fastapi(app, user=os.environ.get("APP_RESOLVER", "state:user_id"))
