"""The wire formats of further providers for the local server (support.llm_server): Groq, Mistral, Cohere, Gemini, embeddings.

Written after the providers' SDKs (groq 1.7.0, mistralai 3.7.0, cohere 7.3.1) and their documentation:
https://console.groq.com/docs/prompt-caching (cached tokens are part of prompt_tokens),
https://docs.mistral.ai/studio-api/conversations/advanced/prompt-caching (the same), and
https://docs.cohere.com/v2/docs/how-does-cohere-pricing-work.md (billed_units is what is billed; `tokens`, which counts what
the provider adds to a prompt, is not). Gemini's is after google-genai 2.34.0 and https://ai.google.dev/api/generate-content.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from support import llm_server
from support.llm_server import Event, Served, Usage

GEMINI_PATH = "/v1beta/models/"
GEMINI, GEMINI_EMBED = "gemini-2.5-flash", "gemini-embedding-001"
# What Cohere adds to a prompt and an answer on its own account: processed, not billed.
COHERE_OWN_INPUT, COHERE_OWN_OUTPUT = 70, 3


def _groq_usage(usage: Usage) -> dict[str, Any]:
    return {
        "queue_time": 0.01,
        "prompt_tokens": usage.all_input,
        "prompt_time": 0.01,
        "completion_tokens": usage.output,
        "completion_time": 0.1,
        "total_tokens": usage.all_input + usage.output,
        "total_time": 0.11,
        "prompt_tokens_details": {"cached_tokens": usage.cache_read},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }


def _mistral_usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.all_input,
        "completion_tokens": usage.output,
        "total_tokens": usage.all_input + usage.output,
        "prompt_tokens_details": {"cached_tokens": usage.cache_read},
    }


def _chat_answer(served: Served, usage: dict[str, Any]) -> dict[str, Any]:
    message = {"role": "assistant", "content": "hello"}
    return {
        "id": served.id,
        "object": "chat.completion",
        "created": 1,
        "model": served.model,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": usage,
    }


def _chunks(served: Served, last: dict[str, Any]) -> Iterator[Event]:
    """A stream in OpenAI's form; `last` is what its last chunk has beside the finish reason."""
    base = {"id": served.id, "object": "chat.completion.chunk", "created": 1, "model": served.model}
    for number in range(served.usage.text_events):
        delta = {"role": "assistant", "content": f"word{number} "}
        yield None, {**base, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    yield None, {**base, "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "stop"}], **last}


def _groq_events(served: Served, body: dict[str, Any]) -> Iterator[Event]:
    yield from _chunks(
        served, {"x_groq": {"id": "req_1", "usage": _groq_usage(served.usage)}, "service_tier": "on_demand"}
    )
    if (body.get("stream_options") or {}).get("include_usage"):
        chunk = {"id": served.id, "object": "chat.completion.chunk", "created": 1, "model": served.model, "choices": []}
        yield None, chunk | {"usage": _groq_usage(served.usage)}


def _mistral_events(served: Served, body: dict[str, Any]) -> Iterator[Event]:
    yield from _chunks(served, {"usage": _mistral_usage(served.usage)})


def _cohere_usage(usage: Usage) -> dict[str, Any]:
    return {
        "billed_units": {"input_tokens": usage.input, "output_tokens": usage.output},
        "tokens": {
            "input_tokens": usage.input + COHERE_OWN_INPUT,
            "output_tokens": usage.output + COHERE_OWN_OUTPUT,
        },
        "cached_tokens": 0,
    }


def _cohere_answer(served: Served) -> dict[str, Any]:
    message = {"role": "assistant", "content": [{"type": "text", "text": "hello"}]}
    return {"id": served.id, "finish_reason": "COMPLETE", "message": message, "usage": _cohere_usage(served.usage)}


def _cohere_events(served: Served, body: dict[str, Any]) -> Iterator[Event]:
    start = {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}
    yield None, {"type": "message-start", "id": served.id, "delta": {"message": start}}
    text = {"message": {"content": {"type": "text", "text": ""}}}
    yield None, {"type": "content-start", "index": 0, "delta": text}
    for number in range(served.usage.text_events):
        delta = {"message": {"content": {"text": f"word{number} "}}}
        yield None, {"type": "content-delta", "index": 0, "delta": delta}
    yield None, {"type": "content-end", "index": 0}
    yield None, {"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": _cohere_usage(served.usage)}}


def _cohere_embeddings(served: Served) -> dict[str, Any]:
    meta = {"api_version": {"version": "2"}, "billed_units": {"input_tokens": served.usage.input}}
    return {
        "id": served.id,
        "embeddings": {"float": [[0.1, 0.2]]},
        "texts": ["hi"],
        "meta": meta,
        "response_type": "embeddings_by_type",
    }


def _embeddings(served: Served) -> dict[str, Any]:
    return {
        "id": served.id,
        "object": "list",
        "model": served.model,
        "data": [{"object": "embedding", "index": 0, "embedding": [0.1, 0.2]}],
        "usage": {"prompt_tokens": served.usage.input, "total_tokens": served.usage.input, "completion_tokens": 0},
    }


def _gemini_usage(usage: Usage) -> dict[str, Any]:
    found = {
        "promptTokenCount": usage.input + usage.cache_read,
        "candidatesTokenCount": usage.output - usage.reasoning,
        "totalTokenCount": usage.input + usage.cache_read + usage.tool_use + usage.output,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": usage.input + usage.cache_read}],
    }
    counts = {"cachedContentTokenCount": usage.cache_read, "thoughtsTokenCount": usage.reasoning}
    counts["toolUsePromptTokenCount"] = usage.tool_use
    return found | {name: number for name, number in counts.items() if number}


def _gemini_chunk(served: Served, part: dict[str, Any], last: bool) -> dict[str, Any]:
    candidate = {"index": 0, "content": {"role": "model", "parts": [part]}}
    return {
        "candidates": [candidate | ({"finishReason": "STOP"} if last else {})],
        "usageMetadata": _gemini_usage(served.usage),
        "modelVersion": served.model,
        "responseId": served.id,
    }


def _gemini_answer(served: Served) -> dict[str, Any]:
    call = {"functionCall": {"name": served.usage.calls, "args": {"city": "Kiel"}}}
    return _gemini_chunk(served, call if served.usage.calls else {"text": "hello"}, True)


def _gemini_events(served: Served, body: dict[str, Any]) -> Iterator[Event]:
    if not served.usage.calls:
        for number in range(served.usage.text_events):
            yield None, _gemini_chunk(served, {"text": f"word{number} "}, False)
    yield None, _gemini_answer(served)


def _gemini_embeddings(served: Served) -> dict[str, Any]:
    return {"embeddings": [{"values": [0.1, 0.2]}], "usageMetadata": {"promptTokenCount": served.usage.input}}


def _lifetimes(usage: Usage) -> dict[str, Any]:
    lives = {
        "ephemeral_5m_input_tokens": usage.cache_write - usage.cache_write_1h,
        "ephemeral_1h_input_tokens": usage.cache_write_1h,
    }
    return {"cache_creation": lives, "service_tier": usage.tier or "standard"}


def _messages_events(deltas: int, cumulative: bool) -> Callable[[Served, dict[str, Any]], Iterator[Event]]:
    """A stream of Anthropic's with so many message_delta events, which tell all counts so far, or those of the output only."""

    def events(served: Served, body: dict[str, Any]) -> Iterator[Event]:
        usage = served.usage
        for name, data in llm_server.EVENTS["messages"](served, body):
            if name == "message_start":
                data["message"]["usage"] |= _lifetimes(usage)
            if name != "message_delta":
                yield name, data
            elif data["usage"]["output_tokens"] == usage.output or deltas > 1:
                ends = data["usage"]["output_tokens"] == usage.output
                data["delta"] |= {} if ends else {"stop_reason": None}
                yield name, data | {"usage": (llm_server._anthropic_input(usage) if cumulative else {}) | data["usage"]}

    return events


def _messages_answer(served: Served) -> dict[str, Any]:
    answer = llm_server.WHOLE["messages"](served)
    return answer | {"usage": answer["usage"] | _lifetimes(served.usage)}


def _two_choices(served: Served) -> dict[str, Any]:
    """An answer to n=2: two texts, one usage."""
    answer = llm_server.WHOLE["chat"](served)
    first = answer["choices"][0]
    return answer | {"choices": [first, first | {"index": 1}]}


def _two_choices_events(served: Served, body: dict[str, Any]) -> Iterator[Event]:
    for name, data in llm_server.EVENTS["chat"](served, body):
        yield name, data
        if data["choices"]:
            yield name, data | {"choices": [data["choices"][0] | {"index": 1}]}


def speak() -> None:
    """Adds these formats to the server's tables."""
    llm_server.PATHS |= {
        "/openai/v1/chat/completions": "groq",
        "/mistral/v1/chat/completions": "mistral",
        "/mistral/v1/embeddings": "mistral-embeddings",
        "/v2/chat": "cohere",
        "/v2/embed": "cohere-embeddings",
        "/v1/embeddings": "embeddings",
        **{f"/{told}/v1/messages": f"messages-{told}" for told in ("now", "before", "twice")},
        "/two/v1/chat/completions": "chat-two",
        f"{GEMINI_PATH}{GEMINI}:generateContent": "gemini-generateContent",
        f"{GEMINI_PATH}{GEMINI}:streamGenerateContent": "gemini-generateContent",
        f"{GEMINI_PATH}{GEMINI_EMBED}:batchEmbedContents": "gemini-embedContent",
    }
    llm_server.TOLD_BY_PATH |= {
        f"{GEMINI_PATH}{GEMINI}:generateContent": {"model": GEMINI},
        f"{GEMINI_PATH}{GEMINI}:streamGenerateContent": {"model": GEMINI, "stream": True},
        f"{GEMINI_PATH}{GEMINI_EMBED}:batchEmbedContents": {"model": GEMINI_EMBED},
    }
    apis = ("groq", "mistral", "mistral-embeddings", "cohere", "cohere-embeddings", "embeddings")
    apis += ("gemini-generateContent", "gemini-embedContent")
    messages = {
        "messages-now": _messages_events(1, cumulative=True),
        "messages-before": _messages_events(1, cumulative=False),
        "messages-twice": _messages_events(2, cumulative=True),
    }
    llm_server.ID_PREFIXES |= dict.fromkeys(apis, "") | dict.fromkeys(("groq", "chat-two"), "chatcmpl-")
    llm_server.ID_PREFIXES |= dict.fromkeys(messages, "msg_")
    llm_server.WITHOUT_DONE |= {"cohere", "gemini-generateContent", *messages}
    llm_server.EVENTS |= {
        "groq": _groq_events,
        "mistral": _mistral_events,
        "cohere": _cohere_events,
        "gemini-generateContent": _gemini_events,
        "chat-two": _two_choices_events,
        **messages,
    }
    llm_server.WHOLE |= {
        "groq": lambda served: _chat_answer(served, _groq_usage(served.usage)) | {"service_tier": "on_demand"},
        "mistral": lambda served: _chat_answer(served, _mistral_usage(served.usage)),
        "mistral-embeddings": _embeddings,
        "cohere": _cohere_answer,
        "cohere-embeddings": _cohere_embeddings,
        "embeddings": _embeddings,
        "gemini-generateContent": _gemini_answer,
        "gemini-embedContent": _gemini_embeddings,
        "chat-two": _two_choices,
        **dict.fromkeys(messages, _messages_answer),
    }
