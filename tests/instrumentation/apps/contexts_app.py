"""A FastAPI app in which the user gets lost in every way there is. Run by uvicorn in test_lost_context.py.

Each route makes LLM spans named after it, in the place that its name says. TELEMETRY says who makes the server spans:
`contrib` (the official instrumentation) or `native` (FastAPI's own). The app exports its own traces too.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

from fastapi import BackgroundTasks, Depends, FastAPI, Header, HTTPException, WebSocket
from fastapi.responses import StreamingResponse
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from otel_credits import configure, set_user
from otel_credits.fastapi import CreditsMiddleware, instrument_fastapi

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(os.environ["OTEL_CREDITS_ENDPOINT"])))
trace.set_tracer_provider(provider)
configure(charge_genai=True)
tracer = trace.get_tracer("some.llm.instrumentation")
pool = ThreadPoolExecutor(1)
pool.submit(int).result()  # its thread starts here, where there is no user
app = FastAPI()


def llm(name: str, fillers: int = 0) -> None:
    """An LLM call, as an instrumentation would report it."""
    with tracer.start_as_current_span(name, attributes={"gen_ai.operation.name": "chat"}) as span:
        for number in range(fillers):
            span.set_attribute(f"llm.input_messages.{number}", "text")


def sync_authentication(token: str = Header()) -> None:
    """Runs in another thread."""
    set_user(token.removeprefix("token-"))


async def async_authentication(token: str = Header()) -> None:
    """Runs under a copied context with FastAPI's native telemetry."""
    set_user(token.removeprefix("token-"))


@app.get("/sync-dependency", dependencies=[Depends(sync_authentication)])
async def sync_dependency() -> None:
    llm("sync-dependency")


@app.get("/async-dependency", dependencies=[Depends(async_authentication)])
def async_dependency() -> None:
    llm("async-dependency")


@app.get("/pool", dependencies=[Depends(async_authentication)])
def thread_pool() -> None:
    list(pool.map(llm, ["pool"]))


@app.get("/executor", dependencies=[Depends(sync_authentication)])
async def executor() -> None:
    await asyncio.get_running_loop().run_in_executor(None, llm, "executor")


@app.get("/background", dependencies=[Depends(async_authentication)])
async def background(tasks: BackgroundTasks) -> None:
    tasks.add_task(llm, "background")


@app.get("/task", dependencies=[Depends(async_authentication)])
async def task() -> None:
    await asyncio.create_task(asyncio.to_thread(llm, "task"))


@app.get("/stream", dependencies=[Depends(sync_authentication)])
async def stream() -> StreamingResponse:
    async def body() -> AsyncIterator[str]:
        yield "first"
        llm("stream")
        yield "last"

    return StreamingResponse(body())


@app.get("/many-attributes", dependencies=[Depends(async_authentication)])
def many_attributes() -> None:
    llm("many-attributes", fillers=200)


@app.get("/fails", dependencies=[Depends(async_authentication)])
def fails() -> None:
    llm("fails")
    raise RuntimeError("after the call")


@app.get("/refused", dependencies=[Depends(async_authentication)])
def refused() -> None:
    llm("refused")
    raise HTTPException(402)


@app.websocket("/websocket")
async def websocket(socket: WebSocket, token: str = Header()) -> None:
    set_user(token.removeprefix("token-"))
    await socket.accept()
    llm("websocket")
    await socket.close()


if os.environ["TELEMETRY"] == "contrib":
    instrument_fastapi(app)
else:
    app.add_middleware(CreditsMiddleware)
