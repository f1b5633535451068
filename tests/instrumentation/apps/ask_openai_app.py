"""A FastAPI app that never imports otel_credits and asks OpenAI, for `opentelemetry-instrument`. Run by test_zero_code_openai.py.

Its proxy authenticates the callers and names them in a header; the app calls the OpenAI SDK in every way there is.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

LLM = {"api_key": "x", "base_url": os.environ["LLM_URL"] + "/v1", "max_retries": 0}
CHAT: dict[str, Any] = {"model": "gpt-test", "messages": [{"role": "user", "content": "hi"}]}
RESPONSES: dict[str, Any] = {"model": "gpt-test", "input": "hi"}
WITH_USAGE: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
client = openai.OpenAI(**LLM)
async_client = openai.AsyncOpenAI(**LLM)
app = FastAPI()


@app.get("/chat")
def chat() -> str:
    """Ask in a sync endpoint."""
    return client.chat.completions.create(**CHAT).id


@app.get("/chat-async")
async def chat_async() -> str:
    """Ask in an async endpoint."""
    return (await async_client.chat.completions.create(**CHAT)).id


@app.get("/stream")
def stream() -> StreamingResponse:
    """Pass an answer on as it comes, and let OpenAI say what it used."""

    def body() -> Iterator[str]:
        for chunk in client.chat.completions.create(**CHAT, **WITH_USAGE):
            yield chunk.id + "\n"

    return StreamingResponse(body())


@app.get("/stream-async")
async def stream_async() -> StreamingResponse:
    """The same, async."""

    async def body() -> AsyncIterator[str]:
        async for chunk in await async_client.chat.completions.create(**CHAT, **WITH_USAGE):
            yield chunk.id + "\n"

    return StreamingResponse(body())


@app.get("/stream-without-usage")
def stream_without_usage() -> int:
    """Read a stream that nobody asked for its usage."""
    return sum(1 for _ in client.chat.completions.create(**CHAT, stream=True))


@app.get("/abandoned")
def abandoned() -> str:
    """Leave a stream after its first chunk."""
    with client.chat.completions.create(**CHAT, **WITH_USAGE) as chunks:
        return next(iter(chunks)).id


@app.get("/refused")
def refused() -> str:
    """Ask, and be refused."""
    try:
        return client.chat.completions.create(**CHAT, extra_headers={"x-llm-usage": '{"error_status": 429}'}).id
    except openai.RateLimitError:
        return "refused"


@app.get("/responses")
def responses() -> str:
    """Ask with the Responses API."""
    return client.responses.create(**RESPONSES).id


@app.get("/responses-stream")
def responses_stream() -> int:
    """The same, as a stream: this API always says what it used."""
    return sum(1 for _ in client.responses.create(**RESPONSES, stream=True))
