"""The calls that are recorded: the providers' real SDKs against the local server, each with a usage of its own.

A call is a function of the server's address. Its SDK is imported within, since each SDK is installed for its own
recordings only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from support.llm_server import Usage
from wire import GEMINI, GEMINI_EMBED

HI: list[Any] = [{"role": "user", "content": "hi"}]
PLAIN = Usage(input=137, output=61)
CACHED = Usage(input=164, cache_read=1024, output=93, reasoning=64)
# Mistral does not count reasoning apart.
CACHED_ONLY = Usage(input=164, cache_read=1024, output=93)
BOTH_CACHES = Usage(input=137, cache_read=2048, cache_write=512, output=61)
EMBEDDED = Usage(input=77, output=0)
GROQ, MISTRAL, MISTRAL_EMBED = "openai/gpt-oss-120b", "mistral-large-2512", "mistral-embed"
COHERE, COHERE_EMBED = "command-a-03-2025", "embed-v4.0"
GPT, CLAUDE, GPT_EMBED = "gpt-5-mini-2025-08-07", "claude-sonnet-4-5-20250929", "text-embedding-3-small"
GOOGLE_CLIENTS: list[Any] = []


@dataclass(frozen=True)
class Call:
    """One recording: what is done, and what the server says that it used; of several calls, each."""

    do: Callable[[str], object]
    usage: Usage | tuple[Usage, ...] = PLAIN


def drained(stream: Any) -> None:
    """Reads a stream to its end."""
    for _ in stream:
        pass


def _groq(url: str, **more: Any) -> Any:
    from groq import Groq

    return Groq(api_key="x", base_url=url, max_retries=0).chat.completions.create(model=GROQ, messages=HI, **more)


def _groq_async(url: str) -> None:
    from groq import AsyncGroq

    client = AsyncGroq(api_key="x", base_url=url, max_retries=0)
    asyncio.run(client.chat.completions.create(model=GROQ, messages=HI))


def _mistral(url: str) -> Any:
    try:
        from mistralai.client import Mistral
    except ImportError:  # Before 2.0.
        from mistralai import Mistral

    return Mistral(api_key="x", server_url=url + "/mistral")


def _mistral_stream(url: str) -> None:
    # Some instrumentations give a plain generator in the place of the SDK's stream, which has to be closed.
    drained(_mistral(url).chat.stream(model=MISTRAL, messages=HI))


def _cohere(url: str) -> Any:
    import cohere

    return cohere.ClientV2(api_key="x", base_url=url)


def _cohere_embed(url: str) -> None:
    _cohere(url).embed(model=COHERE_EMBED, input_type="search_query", texts=["hi"], embedding_types=["float"])


def _litellm(url: str, model: str, **more: Any) -> Any:
    import litellm

    return litellm.completion(model=model, messages=HI, api_key="x", api_base=url, num_retries=0, **more)


def _litellm_async(url: str) -> None:
    import litellm

    async def ask() -> None:
        await litellm.acompletion(model=f"openai/{GPT}", messages=HI, api_key="x", api_base=f"{url}/v1")
        await asyncio.sleep(1)  # LiteLLM's callbacks run later in the same loop.

    asyncio.run(ask())


def _litellm_embedding(url: str) -> None:
    import litellm

    litellm.embedding(model=f"openai/{GPT_EMBED}", input=["hi"], api_key="x", api_base=f"{url}/v1")


def _gpt(url: str, **more: Any) -> Any:
    return _litellm(url + "/v1", f"openai/{GPT}", **more)


def _claude(url: str, **more: Any) -> Any:
    return _litellm(url, f"anthropic/{CLAUDE}", max_tokens=9, **more)


def weather(city: str) -> str:
    """Says what the weather is like: a function that Google's SDK calls itself."""
    return f"rain in {city}"


async def weather_later(city: str) -> str:
    """The same for async clients."""
    return weather(city)


def _google(url: str) -> Any:
    """A client, which is kept: one that nobody holds is closed, and an asynchronous one is for one loop."""
    from google import genai

    GOOGLE_CLIENTS.append(genai.Client(api_key="x", http_options={"base_url": url}))
    return GOOGLE_CLIENTS[-1]


def _gemini(tools: Any, **more: Any) -> Any:
    from google.genai import types

    config = types.GenerateContentConfig(tools=list(tools), **more)
    return {"model": GEMINI, "contents": "hi", "config": config}


def _declared() -> Any:
    """A function that the caller calls itself."""
    from google.genai import types

    schema = types.Schema(type=types.Type.OBJECT, properties={"city": types.Schema(type=types.Type.STRING)})
    return types.Tool(function_declarations=[types.FunctionDeclaration(name="weather", parameters=schema)])


def _gemini_now(url: str, *tools: Any, **more: Any) -> None:
    _google(url).models.generate_content(**_gemini(tools, **more))


def _gemini_stream(url: str, *tools: Any) -> None:
    drained(_google(url).models.generate_content_stream(**_gemini(tools)))


def _gemini_async(url: str, *tools: Any) -> None:
    asyncio.run(_google(url).aio.models.generate_content(**_gemini(tools)))


def _gemini_async_stream(url: str, *tools: Any) -> None:
    async def read() -> None:
        async for _ in await _google(url).aio.models.generate_content_stream(**_gemini(tools)):
            pass

    asyncio.run(read())


def _gemini_chat(url: str, stream: bool) -> None:
    from google.genai import types

    chat = _google(url).chats.create(model=GEMINI, config=types.GenerateContentConfig(tools=[weather]))
    drained(chat.send_message_stream("hi")) if stream else chat.send_message("hi")


def _gemini_url_context(url: str) -> None:
    """A tool of Gemini's own, whose text is billed as input."""
    from google.genai import types

    _gemini_now(url, types.Tool(url_context=types.UrlContext()))


def _gemini_off(url: str) -> None:
    """A Python function, but the caller calls it."""
    from google.genai import types

    _gemini_now(url, weather, automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True))


def _anthropic(url: str, **more: Any) -> Any:
    from anthropic import Anthropic

    client = Anthropic(api_key="x", base_url=url, max_retries=0)
    return client.messages.create(model=CLAUDE, max_tokens=99, messages=HI, **more)


def _anthropic_async(url: str) -> None:
    from anthropic import AsyncAnthropic

    client = AsyncAnthropic(api_key="x", base_url=url, max_retries=0)
    asyncio.run(client.messages.create(model=CLAUDE, max_tokens=99, messages=HI))


def _anthropic_helper(url: str) -> None:
    from anthropic import Anthropic

    client = Anthropic(api_key="x", base_url=url, max_retries=0)
    with client.messages.stream(model=CLAUDE, max_tokens=99, messages=HI) as stream:
        stream.get_final_message()


def _openai(url: str) -> Any:
    from openai import OpenAI

    return OpenAI(api_key="x", base_url=f"{url}/v1", max_retries=0)


def _openai_chat(url: str, **more: Any) -> Any:
    return _openai(url).chat.completions.create(model=GPT, messages=HI, **more)


def _openai_responses(url: str, **more: Any) -> Any:
    return _openai(url).responses.create(model=GPT, input="hi", **more)


def _agent(url: str, model: str) -> Any:
    """An agent of PydanticAI's."""
    from pydantic_ai import Agent

    if model == CLAUDE:
        from anthropic import AsyncAnthropic
        from pydantic_ai.models.anthropic import AnthropicModel
        from pydantic_ai.providers.anthropic import AnthropicProvider

        client: Any = AsyncAnthropic(api_key="x", base_url=url, max_retries=0)
        return Agent(AnthropicModel(model, provider=AnthropicProvider(anthropic_client=client)))
    from openai import AsyncOpenAI
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    client = AsyncOpenAI(api_key="x", base_url=f"{url}/v1", max_retries=0)
    return Agent(OpenAIChatModel(model, provider=OpenAIProvider(openai_client=client)))


def _embedder(url: str) -> None:
    from openai import AsyncOpenAI
    from pydantic_ai import Embedder
    from pydantic_ai.embeddings.openai import OpenAIEmbeddingModel
    from pydantic_ai.providers.openai import OpenAIProvider

    client = AsyncOpenAI(api_key="x", base_url=f"{url}/v1", max_retries=0)
    model = OpenAIEmbeddingModel(GPT_EMBED, provider=OpenAIProvider(openai_client=client))
    asyncio.run(Embedder(model).embed_query("hi"))


def _agent_run(url: str, model: str) -> None:
    asyncio.run(_agent(url, model).run("hi"))


def _agent_stream(url: str, model: str) -> None:
    async def read() -> None:
        async with _agent(url, model).run_stream("hi") as result:
            async for _ in result.stream_text():
                pass

    asyncio.run(read())


WITH_USAGE: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
# A call whose answer asks for a function, and the one that brings its result.
ASKED, TOLD = replace(CACHED, calls="weather"), replace(PLAIN, input=2111)
ASKED_LATER = replace(ASKED, calls="weather_later")
# Of what Anthropic writes to the cache, some or all lives an hour.
BOTH_LIVES, ONE_HOUR = replace(BOTH_CACHES, cache_write_1h=212), replace(BOTH_CACHES, cache_write_1h=512)
PRIORITY, FLEX = replace(BOTH_CACHES, tier="priority"), replace(CACHED, tier="flex")
CALLS: Mapping[str, Mapping[str, Call]] = {
    "anthropic": {
        "plain": Call(_anthropic),
        "cached": Call(_anthropic, BOTH_CACHES),
        "both_lifetimes": Call(_anthropic, BOTH_LIVES),
        "only_1h": Call(_anthropic, ONE_HOUR),
        "async_1h": Call(_anthropic_async, ONE_HOUR),
        "both_lifetimes_stream": Call(lambda url: drained(_anthropic(url, stream=True)), BOTH_LIVES),
        "mgr_stream_1h": Call(_anthropic_helper, ONE_HOUR),
        "stream_now": Call(lambda url: drained(_anthropic(f"{url}/now", stream=True))),
        "stream_now_cached": Call(lambda url: drained(_anthropic(f"{url}/now", stream=True)), BOTH_CACHES),
        "mgr_stream_now": Call(lambda url: _anthropic_helper(f"{url}/now")),
        "mgr_stream_now_cached": Call(lambda url: _anthropic_helper(f"{url}/now"), BOTH_CACHES),
        "priority": Call(_anthropic, PRIORITY),
        "standard_1h": Call(_anthropic, replace(ONE_HOUR, tier="standard")),
    },
    "openai": {
        "plain": Call(_openai_chat),
        "cached": Call(_openai_chat, CACHED),
        "stream": Call(lambda url: drained(_openai_chat(url, **WITH_USAGE)), CACHED),
        "stream_plain": Call(lambda url: drained(_openai_chat(url, **WITH_USAGE))),
        "stream_nousage": Call(lambda url: drained(_openai_chat(url, stream=True))),
        "responses_cached": Call(_openai_responses, CACHED),
        "responses_stream": Call(lambda url: drained(_openai_responses(url, stream=True)), CACHED),
        "responses_stream_plain": Call(lambda url: drained(_openai_responses(url, stream=True))),
        "flex": Call(lambda url: _openai_chat(url, service_tier="flex"), FLEX),
        "flex_stream": Call(lambda url: drained(_openai_chat(url, service_tier="flex", **WITH_USAGE)), FLEX),
        "responses_flex": Call(lambda url: _openai_responses(url, service_tier="flex"), FLEX),
        "flex_by_project": Call(_openai_chat, FLEX),
        "embeddings": Call(lambda url: _openai(url).embeddings.create(model=GPT_EMBED, input=["hi"]), EMBEDDED),
    },
    "pydantic": {
        "anthropic_1h": Call(lambda url: _agent_run(url, CLAUDE), ONE_HOUR),
        "anthropic_both_lifetimes": Call(lambda url: _agent_run(url, CLAUDE), BOTH_LIVES),
        "anthropic_both_lifetimes_stream": Call(lambda url: _agent_stream(url, CLAUDE), BOTH_LIVES),
        "anthropic_priority": Call(lambda url: _agent_run(url, CLAUDE), PRIORITY),
        "openai_cached": Call(lambda url: _agent_run(url, GPT), CACHED),
        "openai_flex": Call(lambda url: _agent_run(url, GPT), FLEX),
        "openai_stream": Call(lambda url: _agent_stream(url, GPT), CACHED),
        "openai_embeddings": Call(_embedder, EMBEDDED),
    },
    "google": {
        "afc": Call(lambda url: _gemini_now(url, weather), (ASKED, TOLD)),
        "afc_stream": Call(lambda url: _gemini_stream(url, weather), (ASKED, TOLD)),
        "afc_async": Call(lambda url: _gemini_async(url, weather_later), (ASKED_LATER, TOLD)),
        "afc_async_sync_tool": Call(lambda url: _gemini_async(url, weather), (ASKED, TOLD)),
        "afc_async_stream": Call(lambda url: _gemini_async_stream(url, weather_later), (ASKED_LATER, TOLD)),
        "afc_thrice": Call(lambda url: _gemini_now(url, weather), (ASKED, ASKED, TOLD)),
        "afc_chat": Call(lambda url: _gemini_chat(url, False), (ASKED, TOLD)),
        "afc_chat_stream": Call(lambda url: _gemini_chat(url, True), (ASKED, TOLD)),
        "afc_not_asked": Call(lambda url: _gemini_now(url, weather), CACHED),
        "afc_not_asked_stream": Call(lambda url: _gemini_stream(url, weather), CACHED),
        "afc_off": Call(_gemini_off, ASKED),
        "url_context": Call(_gemini_url_context, replace(PLAIN, tool_use=300)),
        "declared": Call(lambda url: _gemini_now(url, _declared()), ASKED),
        "declared_stream": Call(lambda url: _gemini_stream(url, _declared()), ASKED),
        "plain": Call(_gemini_now),
        "async_cached": Call(_gemini_async, CACHED),
        "stream_cached": Call(_gemini_stream, CACHED),
        "embeddings": Call(lambda url: _google(url).models.embed_content(model=GEMINI_EMBED, contents="hi"), EMBEDDED),
    },
    "groq": {
        "plain": Call(_groq),
        "cached": Call(_groq, CACHED),
        "async": Call(_groq_async),
        "stream": Call(lambda url: drained(_groq(url, stream=True))),
        "stream_cached": Call(lambda url: drained(_groq(url, stream=True)), CACHED),
    },
    "mistral": {
        "plain": Call(lambda url: _mistral(url).chat.complete(model=MISTRAL, messages=HI)),
        "cached": Call(lambda url: _mistral(url).chat.complete(model=MISTRAL, messages=HI), CACHED_ONLY),
        "stream": Call(_mistral_stream),
        "stream_cached": Call(_mistral_stream, CACHED_ONLY),
        "embeddings": Call(lambda url: _mistral(url).embeddings.create(model=MISTRAL_EMBED, inputs=["hi"]), EMBEDDED),
    },
    "cohere": {
        "plain": Call(lambda url: _cohere(url).chat(model=COHERE, messages=HI)),
        "stream": Call(lambda url: drained(_cohere(url).chat_stream(model=COHERE, messages=HI))),
        "embeddings": Call(_cohere_embed, EMBEDDED),
    },
    "litellm": {
        "openai": Call(_gpt),
        "openai_cached": Call(_gpt, CACHED),
        "openai_async": Call(_litellm_async),
        "openai_stream": Call(lambda url: drained(_gpt(url, **WITH_USAGE)), CACHED),
        "openai_stream_nousage": Call(lambda url: drained(_gpt(url, stream=True)), CACHED),
        "openai_embeddings": Call(_litellm_embedding, EMBEDDED),
        "anthropic": Call(_claude),
        "anthropic_cached": Call(_claude, BOTH_CACHES),
        "anthropic_stream": Call(lambda url: drained(_claude(url, stream=True)), BOTH_CACHES),
        "groq_cached": Call(lambda url: _litellm(f"{url}/openai/v1", f"groq/{GROQ}"), CACHED),
        "mistral_cached": Call(lambda url: _litellm(f"{url}/mistral/v1", f"mistral/{MISTRAL}"), CACHED_ONLY),
    },
}
