"""track_stream around the real Anthropic and OpenAI SDKs, against a server that speaks their wire formats."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable

import anthropic
import openai
import pytest
from otel_credits import flush, track_stream, usage_context
from otel_credits.testing import CapturedUsages, capture_usage
from support.llm_server import LlmServer, Usage
from support.otlp_sink import OtlpSink
from support.streams import ASK, CHAT, GPT, MODEL, WITH_USAGE, check_aborted, check_complete, check_unknown, tracked


def test_anthropic_create(claude: anthropic.Anthropic, server: LlmServer, usages: CapturedUsages) -> None:
    """messages.create(stream=True): all events pass, one usage, cached tokens added to the input count."""
    events = list(tracked(claude.messages.create(**ASK, stream=True)))
    assert [event.type for event in events][0::10] == ["message_start", "message_stop"]
    assert len(events) == server.served[0].events_sent
    assert len(usages) == 1
    check_complete(usages.last(), server)


def test_anthropic_stream_manager(claude: anthropic.Anthropic, server: LlmServer, usages: CapturedUsages) -> None:
    """messages.stream(): the manager is wrapped; iteration, text_stream and get_final_message are all counted."""
    with tracked(claude.messages.stream(**ASK)) as stream:
        assert [event.type for event in stream][-1] == "message_stop"
    with tracked(claude.messages.stream(**ASK)) as stream:
        assert "".join(stream.text_stream).startswith("word0 word1")
    with tracked(claude.messages.stream(**ASK)) as stream:
        assert stream.get_final_message().usage.output_tokens == 61
    assert len(usages) == 3
    check_complete(usages.last(), server)
    assert {usage.attributes["gen_ai.response.id"] for usage in usages} == {served.id for served in server.served}


def test_anthropic_text_stream_alone(claude: anthropic.Anthropic, server: LlmServer, usages: CapturedUsages) -> None:
    """A text_stream that outlives the wrapper it came from is counted to its end."""
    with claude.messages.stream(**ASK) as stream:
        text = tracked(stream).text_stream
        gc.collect()
        assert len(list(text)) == 5
    assert len(usages) == 1
    check_complete(usages.last(), server)


def test_original_read_instead_of_the_wrapper(
    claude: anthropic.Anthropic, server: LlmServer, usages: CapturedUsages
) -> None:
    """An app that ignores the wrapper and reads the stream itself is charged just the same."""
    stream = claude.messages.create(**ASK, stream=True)
    tracked(stream)
    assert len(list(stream)) == server.served[0].events_sent
    assert len(usages) == 1
    check_complete(usages.last(), server)


async def test_anthropic_async(
    async_claude: anthropic.AsyncAnthropic, server: LlmServer, usages: CapturedUsages
) -> None:
    """The async client: raw stream, manager with iteration, manager with text_stream."""
    async for _ in tracked(await async_claude.messages.create(**ASK, stream=True)):
        pass
    check_complete(usages.last(), server)
    async with tracked(async_claude.messages.stream(**ASK)) as stream:
        async for _ in stream:
            pass
    check_complete(usages.last(), server)
    async with tracked(async_claude.messages.stream(**ASK)) as stream:
        assert len([text async for text in stream.text_stream]) == 5
    check_complete(usages.last(), server)
    assert len(usages) == 3


def test_openai_chat(gpt: openai.OpenAI, server: LlmServer, usages: CapturedUsages) -> None:
    """chat.completions with include_usage: the last chunk's usage, cached tokens included in the input."""
    assert len(list(tracked(gpt.chat.completions.create(**WITH_USAGE)))) == server.served[0].events_sent
    assert len(usages) == 1
    check_complete(usages.last(), server)


def test_openai_chat_reasoning(gpt: openai.OpenAI, server: LlmServer, usages: CapturedUsages) -> None:
    """Reasoning tokens are told apart and are part of the output, not added to it."""
    server.next = Usage(input=164, cache_read=1024, output=93, reasoning=64)
    list(tracked(gpt.chat.completions.create(**WITH_USAGE)))
    usage = usages.last()
    assert (usage.input_tokens, usage.output_tokens) == (1188, 93)
    assert usage.attributes["gen_ai.usage.reasoning.output_tokens"] == 64


def test_openai_chat_without_usage(
    gpt: openai.OpenAI, usages: CapturedUsages, caplog: pytest.LogCaptureFixture
) -> None:
    """Without include_usage the usage is unknown, not free, and a warning says what to add."""
    list(tracked(gpt.chat.completions.create(**CHAT)))
    list(tracked(gpt.chat.completions.create(**CHAT)))
    assert len(usages) == 2
    check_unknown(usages.last())
    assert usages.last().attributes["credits.metadata.stream"] == "completed"
    assert caplog.text.count("include_usage") == 1


@pytest.mark.parametrize("left_early", [False, True])
@pytest.mark.parametrize("api", ["chat", "responses"])
def test_openai_estimated(
    gpt: openai.OpenAI, server: LlmServer, usages: CapturedUsages, api: str, left_early: bool
) -> None:
    """Where OpenAI reports nothing and the app estimates its prompt, the usage is that and what was read, marked as estimate."""
    chat = api == "chat"
    stream = gpt.chat.completions.create(**CHAT) if chat else gpt.responses.create(model=GPT, input="hi", stream=True)
    counted = track_stream(stream, user_id="u", action_type="ai_chat_message", estimated_input_tokens=1200)
    read = ""
    for event in counted:
        text = event.choices[0].delta.content if chat and event.choices else getattr(event, "delta", "")
        read += text or ""
        if left_early and read:
            break
    counted.close()
    usage = usages.last()
    if not chat and not left_early:
        check_complete(usage, server)
        return
    assert read
    assert (usage.input_tokens, usage.output_tokens) == (1200, math.ceil(len(read) / 4))
    assert usage.attributes["credits.metadata.estimated"] is True
    assert "credits.usage_unknown" not in usage.attributes
    assert usage.attributes["gen_ai.response.id"] == server.served[-1].id


def test_an_estimate_never_replaces_what_was_reported(
    gpt: openai.OpenAI, claude: anthropic.Anthropic, server: LlmServer, usages: CapturedUsages
) -> None:
    """With the provider's own counts, of a whole stream or of one that broke off, the app's estimate is not used."""
    for create, ask in ((gpt.chat.completions.create, WITH_USAGE), (claude.messages.create, ASK | {"stream": True})):
        list(track_stream(create(**ask), user_id="u", action_type="ai_chat_message", estimated_input_tokens=5))
        check_complete(usages.last(), server)
    left = track_stream(
        claude.messages.create(**ASK, stream=True), user_id="u", action_type="a", estimated_input_tokens=5
    )
    next(left)
    left.close()
    check_aborted(usages.last(), 4)


def test_a_bad_estimate_costs_only_the_estimate(configured: Callable[..., OtlpSink], gpt: openai.OpenAI) -> None:
    """An estimate that is no number is logged, and the usage recorded as without one; in strict mode it is raised."""
    sink = configured()
    list(track_stream(gpt.chat.completions.create(**CHAT), user_id="u", action_type="a", estimated_input_tokens=-1))
    assert flush(60)
    assert sink.spans()[0].attributes["credits.usage_unknown"] is True
    with capture_usage(), pytest.raises(ValueError, match="estimated_input_tokens"):
        track_stream(iter([]), user_id="u", action_type="a", estimated_input_tokens="many")  # type: ignore[arg-type]


def test_openai_chat_helper(gpt: openai.OpenAI, server: LlmServer, usages: CapturedUsages) -> None:
    """chat.completions.stream() is a manager too."""
    arguments = {key: value for key, value in WITH_USAGE.items() if key != "stream"}
    with tracked(gpt.chat.completions.stream(**arguments)) as stream:
        for _ in stream:
            pass
    check_complete(usages.last(), server)


def test_openai_responses(gpt: openai.OpenAI, server: LlmServer, usages: CapturedUsages) -> None:
    """The Responses API, as a raw stream and through its helper."""
    list(tracked(gpt.responses.create(model=GPT, input="hi", stream=True)))
    check_complete(usages.last(), server)
    with tracked(gpt.responses.stream(model=GPT, input="hi")) as stream:
        stream.until_done()
    assert len(usages) == 2
    check_complete(usages.last(), server)


async def test_openai_async(async_gpt: openai.AsyncOpenAI, server: LlmServer, usages: CapturedUsages) -> None:
    """The async OpenAI client, chat and responses, and one whose reader leaves."""
    async for _ in tracked(await async_gpt.chat.completions.create(**WITH_USAGE)):
        pass
    check_complete(usages.last(), server)
    async for _ in tracked(await async_gpt.responses.create(model=GPT, input="hi", stream=True)):
        pass
    check_complete(usages.last(), server)
    async with tracked(await async_gpt.chat.completions.create(**WITH_USAGE)) as stream:
        await anext(stream)
    assert len(usages) == 3
    check_unknown(usages.last())


def test_attributes_of_the_stream(claude: anthropic.Anthropic, usages: CapturedUsages) -> None:
    """The wrapper has the stream's own attributes."""
    stream = tracked(claude.messages.create(**ASK, stream=True))
    assert stream.response.status_code == 200
    assert len(list(stream)) > 3
    assert len(usages) == 1


def test_stream_that_the_provider_refused(
    claude: anthropic.Anthropic, server: LlmServer, usages: CapturedUsages
) -> None:
    """A request that the provider refuses is not a usage."""
    server.next = Usage(error_status=529)
    with pytest.raises(anthropic.APIStatusError), tracked(claude.messages.stream(**ASK)) as stream:
        list(stream)
    assert len(usages) == 0


def test_plain_iterators(usages: CapturedUsages) -> None:
    """Any iterator of events works, dicts too; the user of the context pays."""
    events = [
        {
            "type": "message_start",
            "message": {"id": "m", "model": MODEL, "usage": {"input_tokens": 3, "output_tokens": 1}},
        },
        {"type": "message_delta", "usage": {"output_tokens": 9}},
    ]
    with usage_context("around"):
        stream = track_stream(iter(events), action_type="a", model="asked-for")
    assert list(stream) == events
    usage = usages.last()
    assert (usage.user_id, usage.input_tokens, usage.output_tokens) == ("around", 3, 9)
    assert usage.attributes["gen_ai.request.model"] == "asked-for"


def test_not_a_stream(usages: CapturedUsages) -> None:
    """What is no stream is a bad argument; in strict mode it is raised, else it is given back."""
    with pytest.raises(ValueError, match="stream"):
        track_stream(object(), user_id="u", action_type="a")
