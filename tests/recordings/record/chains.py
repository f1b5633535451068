"""The calls of LangChain that are recorded, over Anthropic and OpenAI: plain, cached, streams, several answers.

Like those of calls.py, each is a function of the server's address.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from typing import Any

from calls import BOTH_CACHES, CACHED, CLAUDE, EMBEDDED, GPT, GPT_EMBED, Call, drained


def _chat_claude(url: str, **more: Any) -> Any:
    from langchain_anthropic import ChatAnthropic

    return ChatAnthropic(model=CLAUDE, max_tokens=9, api_key="x", base_url=url, max_retries=0, **more)


def _chat_claude_async(url: str, **more: Any) -> None:
    async def ask() -> None:
        async for _ in _chat_claude(url, **more).astream("hi"):
            pass

    asyncio.run(ask())


def _chat_gpt(url: str, **more: Any) -> Any:
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(model=GPT, api_key="x", base_url=f"{url}/v1", max_retries=0, **more)


def _embeddings(url: str) -> Any:
    from langchain_openai import OpenAIEmbeddings

    # Or it asks the network how tokens are counted.
    return OpenAIEmbeddings(
        model=GPT_EMBED, api_key="x", base_url=f"{url}/v1", max_retries=0, check_embedding_ctx_length=False
    )


def _hidden(url: str, **more: Any) -> None:
    """With content tracing off, as OpenLLMetry names it."""
    os.environ["TRACELOOP_TRACE_CONTENT"] = "false"
    try:
        _chat_gpt(url, **more).invoke("hi")
    finally:
        del os.environ["TRACELOOP_TRACE_CONTENT"]


def _claude_streams() -> dict[str, Call]:
    """Streams of LangChain's from Anthropic: as its API tells usage today, as it did before, and in two parts."""

    def stream(told: str, **more: Any) -> Callable[[str], object]:
        return lambda url: drained(_chat_claude(f"{url}/{told}", **more).stream("hi"))

    return {
        "claude_stream": Call(stream("now")),
        "claude_stream_cached": Call(stream("now"), BOTH_CACHES),
        "claude_astream_cached": Call(lambda url: _chat_claude_async(f"{url}/now"), BOTH_CACHES),
        "claude_stream_usage_cached": Call(stream("now", stream_usage=True), BOTH_CACHES),
        "claude_stream_nousage": Call(stream("now", stream_usage=False), BOTH_CACHES),
        "claude_streaming_invoke": Call(
            lambda url: _chat_claude(f"{url}/now", streaming=True).invoke("hi"), BOTH_CACHES
        ),
        "claude_stream_before": Call(stream("before")),
        "claude_stream_before_cached": Call(stream("before"), BOTH_CACHES),
        "claude_stream_twice": Call(stream("twice")),
        "claude_stream_twice_cached": Call(stream("twice"), BOTH_CACHES),
    }


CHAINS: Mapping[str, Mapping[str, Call]] = {
    "langchain": {
        "claude": Call(lambda url: _chat_claude(f"{url}/now").invoke("hi")),
        "claude_cached": Call(lambda url: _chat_claude(f"{url}/now").invoke("hi"), BOTH_CACHES),
        **_claude_streams(),
        "gpt": Call(lambda url: _chat_gpt(url).invoke("hi"), CACHED),
        "gpt_stream": Call(lambda url: drained(_chat_gpt(url, stream_usage=True).stream("hi")), CACHED),
        "embed_query": Call(lambda url: _embeddings(url).embed_query("hi"), EMBEDDED),
        "embed_documents": Call(lambda url: _embeddings(url).embed_documents(["hi", "ho"]), EMBEDDED),
        "embed_async": Call(lambda url: asyncio.run(_embeddings(url).aembed_query("hi")), EMBEDDED),
        "gpt_two": Call(lambda url: _chat_gpt(f"{url}/two", n=2).invoke("hi"), CACHED),
        "gpt_two_plain": Call(lambda url: _chat_gpt(f"{url}/two", n=2).invoke("hi")),
        "gpt_hidden": Call(_hidden),
        "gpt_two_hidden": Call(lambda url: _hidden(f"{url}/two", n=2)),
        "gpt_two_stream": Call(
            lambda url: drained(_chat_gpt(f"{url}/two", n=2, stream_usage=True).stream("hi")), CACHED
        ),
    },
}
