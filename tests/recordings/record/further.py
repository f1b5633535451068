"""Further calls of the OpenAI, Anthropic and Google SDKs that are recorded, and the wire formats that they need.

Like those of calls.py, each call is a function of the server's address; a path of its own says how the server answers.
Anthropic's is after anthropic 2.14.0 (types/beta/beta_usage.py) and its documentation
(https://platform.claude.com/docs/en/build-with-claude/compaction): fast mode and the country have prices of their own, and
what a compaction used is not in the counts beside it. Some APIs in OpenAI's form count reasoning beside completion_tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from calls import (
    BOTH_CACHES,
    CACHED,
    CLAUDE,
    FLEX,
    HI,
    WITH_USAGE,
    Call,
    _google,
    _openai,
    _openai_chat,
    _openai_responses,
    drained,
)
from support import llm_server
from support.llm_server import Event, Served, Usage
from wire import GEMINI_PATH

GEMINI_PICTURES = "gemini-2.5-flash-image"
Told = Callable[[Served], dict[str, Any]]


def _iterations(served: Served) -> dict[str, Any]:
    usage = served.usage
    counts = llm_server._anthropic_input(usage) | {"output_tokens": usage.output}
    compaction = dict.fromkeys(counts, 0) | {"input_tokens": usage.tool_use}
    return {"iterations": [{"type": "compaction"} | compaction, {"type": "message"} | counts]}


# What the usage of an answer says besides the counts, by the first part of the path.
_MESSAGES: Mapping[str, Told] = {
    "fast": lambda served: {"service_tier": "standard", "speed": "fast", "inference_geo": "global"},
    "country": lambda served: {"service_tier": "standard", "speed": "standard", "inference_geo": "us"},
    "compacted": _iterations,
}


def _messages(told: Told) -> tuple[Callable[..., Iterator[Event]], Callable[[Served], dict[str, Any]]]:
    def events(served: Served, body: dict[str, Any]) -> Iterator[Event]:
        further = told(served)
        for name, data in llm_server.EVENTS["messages-now"](served, body):
            if name == "message_start":
                data["message"]["usage"] |= {key: said for key, said in further.items() if key != "iterations"}
            if name == "message_delta" and "iterations" in further:
                data["usage"] |= further
            yield name, data

    def whole(served: Served) -> dict[str, Any]:
        answer = llm_server.WHOLE["messages"](served)
        return answer | {"usage": answer["usage"] | told(served)}

    return events, whole


def _reasoning_apart(served: Served) -> dict[str, Any]:
    answer = llm_server.WHOLE["chat"](served)
    answer["usage"]["completion_tokens"] -= served.usage.reasoning
    return answer


def _reasoning_apart_events(served: Served, body: dict[str, Any]) -> Iterator[Event]:
    for name, data in llm_server.EVENTS["chat"](served, body):
        if data.get("usage"):
            data["usage"]["completion_tokens"] -= served.usage.reasoning
        yield name, data


def _beta(url: str, **more: Any) -> Any:
    from anthropic import Anthropic

    client = Anthropic(api_key="x", base_url=url, max_retries=0)
    return client.beta.messages.create(model=CLAUDE, max_tokens=99, messages=HI, **more)


def _written(url: str) -> Any:
    """A call of a model of which OpenAI bills what it writes to the cache."""
    return _openai(url).chat.completions.create(model="gpt-5.6-luna", messages=HI)


def _count_tokens(url: str) -> None:
    from anthropic import Anthropic

    Anthropic(api_key="x", base_url=url, max_retries=0).messages.count_tokens(model=CLAUDE, messages=HI)


def _picture(served: Served) -> dict[str, Any]:
    """An answer of Gemini's that is a picture, which has a price of its own."""
    answer = llm_server.WHOLE["gemini-generateContent"](served)
    answer["candidates"][0]["content"]["parts"] = [{"inlineData": {"mimeType": "image/png", "data": "aGk="}}]
    counts = [{"modality": "IMAGE", "tokenCount": served.usage.output}]
    answer["usageMetadata"]["candidatesTokensDetails"] = counts
    return answer


def speak_further() -> None:
    """Adds these formats to the server's tables."""
    path = f"{GEMINI_PATH}{GEMINI_PICTURES}:generateContent"
    llm_server.PATHS[path], llm_server.TOLD_BY_PATH[path] = "gemini-pictures", {"model": GEMINI_PICTURES}
    llm_server.ID_PREFIXES["gemini-pictures"], llm_server.WHOLE["gemini-pictures"] = "", _picture
    for name, told in _MESSAGES.items():
        api = f"messages-{name}"
        llm_server.PATHS[f"/{name}/v1/messages"] = api
        llm_server.ID_PREFIXES[api] = "msg_"
        llm_server.WITHOUT_DONE.add(api)
        llm_server.EVENTS[api], llm_server.WHOLE[api] = _messages(told)
    llm_server.PATHS |= {"/apart/v1/chat/completions": "chat-apart", "/v1/messages/count_tokens": "messages-count"}
    llm_server.ID_PREFIXES |= {"chat-apart": "chatcmpl-", "messages-count": ""}
    llm_server.EVENTS["chat-apart"] = _reasoning_apart_events
    llm_server.WHOLE |= {
        "chat-apart": _reasoning_apart,
        "messages-count": lambda served: {"input_tokens": served.usage.input},
    }


FAST, COUNTRY = replace(BOTH_CACHES, tier="fast"), replace(BOTH_CACHES, tier="us")
COMPACTED = replace(BOTH_CACHES, tool_use=900)
NOTHING = Usage(input=77, output=0)
FURTHER: Mapping[str, Mapping[str, Call]] = {
    "google": {
        "picture": Call(
            lambda url: _google(url).models.generate_content(model=GEMINI_PICTURES, contents="hi"),
            Usage(input=137, output=1290),
        ),
    },
    "anthropic": {
        "fast": Call(lambda url: _beta(f"{url}/fast", speed="fast"), FAST),
        "fast_stream": Call(lambda url: drained(_beta(f"{url}/fast", speed="fast", stream=True)), FAST),
        "country": Call(lambda url: _beta(f"{url}/country", inference_geo="us"), COUNTRY),
        "compacted": Call(lambda url: _beta(f"{url}/compacted", betas=["compact-2026-01-12"]), COMPACTED),
        "compacted_stream": Call(
            lambda url: drained(_beta(f"{url}/compacted", betas=["compact-2026-01-12"], stream=True)), COMPACTED
        ),
        "count_tokens": Call(_count_tokens, NOTHING),
    },
    "openai": {
        "reasoning_apart": Call(lambda url: _openai_chat(f"{url}/apart"), CACHED),
        "reasoning_apart_stream": Call(lambda url: drained(_openai_chat(f"{url}/apart", **WITH_USAGE)), CACHED),
        "written": Call(_written, replace(CACHED, cache_write=256)),
        "responses_flex_stream": Call(
            lambda url: drained(_openai_responses(url, service_tier="flex", stream=True)), FLEX
        ),
    },
}
