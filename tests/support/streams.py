"""What the tests of track_stream ask a model, what it serves, and checks of what is recorded of it."""

from __future__ import annotations

from typing import Any

from otel_credits import track_stream
from otel_credits.testing import CapturedUsage

from support.llm_server import LlmServer, Usage

__all__ = [
    "ASK",
    "CACHED",
    "CHAT",
    "GPT",
    "MODEL",
    "WITH_USAGE",
    "check_aborted",
    "check_complete",
    "check_unknown",
    "tracked",
]

CACHED = Usage(input=137, cache_read=2048, cache_write=512, output=61)
MODEL = "claude-test"
GPT = "gpt-5-mini"

ASK: dict[str, Any] = {"model": MODEL, "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}]}
CHAT: dict[str, Any] = {"model": GPT, "messages": [{"role": "user", "content": "hi"}], "stream": True}
WITH_USAGE: dict[str, Any] = {**CHAT, "stream_options": {"include_usage": True}}


def tracked(stream: Any) -> Any:
    """The stream, counted for one user."""
    return track_stream(stream, user_id="u", action_type="ai_chat_message", description="chat")


def check_complete(usage: CapturedUsage, server: LlmServer) -> None:
    """The usage is exactly what the server served, as completed."""
    served = server.served[-1]
    attributes = usage.attributes
    assert usage.user_id == "u"
    assert usage.action_type == "ai_chat_message"
    assert usage.input_tokens == served.usage.all_input
    assert usage.output_tokens == served.usage.output
    assert attributes["gen_ai.usage.cache_read.input_tokens"] == served.usage.cache_read
    assert attributes["gen_ai.usage.cache_write.input_tokens"] == served.usage.cache_write
    assert attributes["gen_ai.response.id"] == served.id
    assert attributes["gen_ai.response.model"] == served.model
    assert attributes["credits.metadata.stream"] == "completed"
    assert "credits.usage_unknown" not in attributes
    assert "credits.metadata.estimated" not in attributes


def check_aborted(usage: CapturedUsage, output: int) -> None:
    """The usage is what Anthropic had reported when the stream broke off."""
    assert (usage.input_tokens, usage.output_tokens) == (2697, output)
    assert usage.attributes["credits.metadata.stream"] == "aborted"


def check_unknown(usage: CapturedUsage) -> None:
    """The provider reported nothing: the usage says so."""
    assert usage.attributes["credits.usage_unknown"] is True
    assert (usage.input_tokens, usage.output_tokens) == (None, None)
