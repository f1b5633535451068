"""Reading what a provider reports in the events of a stream.

Known shapes: Anthropic's Messages API (docs.anthropic.com, "Streaming messages": `message_start` has the input and
cache counts, `usage` of `message_delta` is cumulative), OpenAI's Chat Completions (platform.openai.com, "Streaming":
`usage` in the last chunk, only with `stream_options.include_usage`) and OpenAI's Responses API (`response.completed`,
`.incomplete`, `.failed`). Events may be the SDKs' objects or plain dicts of the same shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from otel_credits._attributes import (
    METADATA_ESTIMATED,
    METADATA_WEB_SEARCHES,
    PROVIDER_NAME,
    RESPONSE_ID,
    RESPONSE_MODEL,
)
from otel_credits._tracking import Attributes, add_tokens

# What an estimate of the output counts as one token.
_CHARACTERS_PER_TOKEN = 4
_RESPONSE_ENDS = {"response.completed", "response.incomplete", "response.failed"}


def _get(thing: Any, *path: str) -> Any:
    """`thing.a.b`, of objects or mappings; None where something is missing."""
    for name in path:
        thing = thing.get(name) if isinstance(thing, Mapping) else getattr(thing, name, None)
        if thing is None:
            return None
    return thing


@dataclass(slots=True)
class StreamUsage:
    """What the events so far have said."""

    provider: str | None = None
    response_id: str | None = None
    model: str | None = None
    # Anthropic's input count excludes cached tokens, OpenAI's includes them.
    input_excludes_cached: bool = False
    # The output count so far is a placeholder, not what was generated (Anthropic before its first message_delta).
    output_is_placeholder: bool = False
    # The provider said that nothing more will come (a reader may stop here without exhausting the stream).
    said_last_word: bool = False
    events: int = 0
    # Of what was generated and went by, where the provider may never count it (OpenAI).
    characters: int = 0
    counts: dict[str, int] = field(default_factory=dict)

    def read(self, event: Any) -> None:
        """Take note of one event."""
        self.events += 1
        kind = _get(event, "type")
        if kind == "message_start":
            self._anthropic_start(_get(event, "message"))
        elif kind == "message_delta":
            self._anthropic_delta(_get(event, "usage"))
        elif kind == "message_stop":
            self.said_last_word = True
        elif kind == "chunk":  # the OpenAI SDK's `chat.completions.stream()` helper wraps the chunks
            self._openai_chunk(_get(event, "chunk"))
        elif isinstance(kind, str) and kind.startswith("response."):
            self.said_last_word = self.said_last_word or kind in _RESPONSE_ENDS
            self._openai_response(_get(event, "response"))
            self._text(_get(event, "delta"))
        elif _get(event, "object") == "chat.completion.chunk":
            self._openai_chunk(event)

    def _anthropic_start(self, message: Any) -> None:
        self._identify("anthropic", message)
        self.input_excludes_cached = True
        self.output_is_placeholder = True
        self._anthropic_counts(_get(message, "usage"))

    def _anthropic_delta(self, usage: Any) -> None:
        self._anthropic_counts(usage)
        self.output_is_placeholder = False

    def _anthropic_counts(self, usage: Any) -> None:
        """Each count that is present replaces the one before: they are cumulative, and an absent one is not zero."""
        self._count("input", _get(usage, "input_tokens"))
        self._count("cache_read", _get(usage, "cache_read_input_tokens"))
        self._count("cache_write", _get(usage, "cache_creation_input_tokens"))
        self._count("output", _get(usage, "output_tokens"))
        self._count("reasoning", _get(usage, "output_tokens_details", "thinking_tokens"))
        self._count("web_searches", _get(usage, "server_tool_use", "web_search_requests"))

    def _openai_chunk(self, chunk: Any) -> None:
        self._identify("openai", chunk)
        for choice in _get(chunk, "choices") or ():
            self._text(_get(choice, "delta", "content"))
            for call in _get(choice, "delta", "tool_calls") or ():
                self._text(_get(call, "function", "arguments"))
        usage = _get(chunk, "usage")
        self.said_last_word = self.said_last_word or usage is not None
        self._count("input", _get(usage, "prompt_tokens"))
        self._count("output", _get(usage, "completion_tokens"))
        self._count("cache_read", _get(usage, "prompt_tokens_details", "cached_tokens"))
        self._count("cache_write", _get(usage, "prompt_tokens_details", "cache_write_tokens"))
        self._count("reasoning", _get(usage, "completion_tokens_details", "reasoning_tokens"))

    def _openai_response(self, response: Any) -> None:
        self._identify("openai", response)
        usage = _get(response, "usage")
        self._count("input", _get(usage, "input_tokens"))
        self._count("output", _get(usage, "output_tokens"))
        self._count("cache_read", _get(usage, "input_tokens_details", "cached_tokens"))
        self._count("cache_write", _get(usage, "input_tokens_details", "cache_write_tokens"))
        self._count("reasoning", _get(usage, "output_tokens_details", "reasoning_tokens"))

    def _identify(self, provider: str, response: Any) -> None:
        self.provider = provider
        self.response_id = _get(response, "id") or self.response_id
        self.model = _get(response, "model") or self.model

    def _text(self, text: Any) -> None:
        if isinstance(text, str):
            self.characters += len(text)

    def _count(self, name: str, value: Any) -> None:
        if isinstance(value, int) and not isinstance(value, bool):
            self.counts[name] = value

    def add_to(self, attributes: Attributes, estimated_input_tokens: int | None = None) -> None:
        """Write what is known as attributes of a usage; where no count is, and an estimate of the input is given, an estimate."""
        for name, value in (
            (PROVIDER_NAME, self.provider),
            (RESPONSE_ID, self.response_id),
            (RESPONSE_MODEL, self.model),
        ):
            if value is not None:
                attributes[name] = str(value)
        if self.counts.get("web_searches"):
            attributes[METADATA_WEB_SEARCHES] = self.counts["web_searches"]
        get = self.counts.get
        if estimated_input_tokens is not None and get("input") is None and get("output") is None:
            attributes[METADATA_ESTIMATED] = True
            add_tokens(attributes, estimated_input_tokens, -(-self.characters // _CHARACTERS_PER_TOKEN))
            return
        add_tokens(
            attributes, self._input_tokens(), get("output"), get("cache_read"), get("cache_write"), get("reasoning")
        )

    def _input_tokens(self) -> int | None:
        """All input tokens, cached ones included."""
        count = self.counts.get("input")
        if count is None or not self.input_excludes_cached:
            return count
        return count + self.counts.get("cache_read", 0) + self.counts.get("cache_write", 0)
