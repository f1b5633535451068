"""A FastAPI and Celery app that never imports otel_credits, for `opentelemetry-instrument`. Run by test_zero_code.py.

It authenticates its callers by a signed token, calls the Anthropic SDK in every place there is, and knows nothing of
credits.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import anthropic
import jwt
from celery import Celery
from fastapi import BackgroundTasks, Depends, FastAPI, Header, HTTPException
from fastapi.responses import StreamingResponse

KEY = Path(os.environ["APP_KEY_FILE"]).read_bytes()
LLM = {"api_key": "x", "base_url": os.environ["LLM_URL"], "max_retries": 0}
QUESTION = {"model": "claude-test", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
celery_app = Celery("shop_app", broker=os.environ["BROKER"], backend=os.environ["BROKER"])
client = anthropic.Anthropic(**LLM)
async_client = anthropic.AsyncAnthropic(**LLM)
pool = ThreadPoolExecutor(2)
app = FastAPI()


@celery_app.task
def answer() -> str:
    """Ask in a worker."""
    return client.messages.create(**QUESTION).id


def authenticated(authorization: Annotated[str, Header()]) -> str:
    """The caller, or 401."""
    try:
        return str(jwt.decode(authorization.removeprefix("Bearer "), KEY, algorithms=["ES256"])["sub"])
    except jwt.InvalidTokenError:
        raise HTTPException(401) from None


User = Annotated[str, Depends(authenticated)]


@app.get("/ask")
def ask(user: User) -> str:
    """Ask in a sync endpoint."""
    return client.messages.create(**QUESTION).id


@app.get("/ask-async")
async def ask_async(user: User) -> str:
    """Ask in an async endpoint."""
    return (await async_client.messages.create(**QUESTION)).id


@app.get("/pool")
def ask_in_pool(user: User) -> str:
    """Ask in another thread."""
    return pool.submit(client.messages.create, **QUESTION).result().id


@app.get("/stream")
async def stream(user: User) -> StreamingResponse:
    """Pass an answer on as it comes."""

    async def body() -> AsyncIterator[str]:
        async for event in await async_client.messages.create(**QUESTION, stream=True):
            yield event.type + "\n"

    return StreamingResponse(body())


@app.get("/background")
def background(user: User, tasks: BackgroundTasks) -> None:
    """Ask after the response."""
    tasks.add_task(client.messages.create, **QUESTION)


@app.get("/task")
def task(user: User) -> str:
    """Let a worker ask, and wait for it."""
    return str(answer.delay().get(timeout=60))
