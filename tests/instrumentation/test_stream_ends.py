"""How streams end: what track_stream records of those that break off, are left, dropped, cancelled, or outlive their process."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Callable

import anthropic
import openai
import pytest
from otel_credits import flush, shutdown
from otel_credits.testing import CapturedUsages
from support.llm_server import LlmServer, Usage
from support.otlp_sink import OtlpSink
from support.streams import ASK, CACHED, GPT, WITH_USAGE, check_aborted, check_complete, check_unknown, tracked


def test_anthropic_left_with_block(claude: anthropic.Anthropic, usages: CapturedUsages) -> None:
    """A reader that leaves the with-block early is charged the input and the output reported so far, as aborted."""
    with tracked(claude.messages.create(**ASK, stream=True)) as stream:
        for event in stream:
            if event.type == "content_block_delta":
                break
    check_aborted(usages.last(), 4)
    assert usages.last().attributes["credits.metadata.estimated"] is True
    with tracked(claude.messages.stream(**ASK)) as stream:
        for _ in stream.text_stream:
            break
    assert len(usages) == 2
    check_aborted(usages.last(), 4)


def test_anthropic_closed(claude: anthropic.Anthropic, usages: CapturedUsages) -> None:
    """close() records once, also when the stream is dropped afterwards."""
    stream = tracked(claude.messages.create(**ASK, stream=True))
    next(stream)
    stream.close()
    stream.close()
    del stream
    gc.collect()
    assert len(usages) == 1
    check_aborted(usages.last(), 4)


def test_anthropic_dropped(claude: anthropic.Anthropic, usages: CapturedUsages) -> None:
    """A stream that nobody holds any more is recorded at once, without waiting for the garbage collector."""
    gc.disable()
    try:
        for _ in tracked(claude.messages.create(**ASK, stream=True)):
            break
        assert len(usages) == 1
    finally:
        gc.enable()
    check_aborted(usages.last(), 4)


def test_anthropic_never_read(claude: anthropic.Anthropic, usages: CapturedUsages) -> None:
    """A stream that was opened and dropped unread is unknown usage: the provider was already working."""
    stream = tracked(claude.messages.create(**ASK, stream=True))
    del stream
    gc.collect()
    check_unknown(usages.last())


def test_anthropic_connection_breaks(claude: anthropic.Anthropic, server: LlmServer, usages: CapturedUsages) -> None:
    """A connection that breaks in the middle raises in the app and leaves what was reported."""
    server.next = Usage(**{**vars(CACHED), "break_after": 3})
    with pytest.raises(Exception, match=r"(?i)incomplete|closed|peer|reset|connection"):
        list(tracked(claude.messages.create(**ASK, stream=True)))
    assert len(usages) == 1
    check_aborted(usages.last(), 4)


def test_anthropic_stops_after_the_last_event(
    claude: anthropic.Anthropic, server: LlmServer, usages: CapturedUsages
) -> None:
    """A reader that stops at message_stop, without exhausting the stream, read all of it."""
    with tracked(claude.messages.create(**ASK, stream=True)) as stream:
        for event in stream:
            if event.type == "message_stop":
                break
    check_complete(usages.last(), server)


async def test_anthropic_cancelled(
    async_claude: anthropic.AsyncAnthropic, server: LlmServer, usages: CapturedUsages
) -> None:
    """A task that is cancelled while it waits for the next event leaves what was reported."""
    server.next = Usage(**{**vars(CACHED), "delay_s": 0.2})
    started = asyncio.Event()

    async def read() -> None:
        async for _ in tracked(await async_claude.messages.create(**ASK, stream=True)):
            started.set()

    task = asyncio.create_task(read())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(usages) == 1
    check_aborted(usages.last(), 4)


async def test_generator_around_a_stream_is_closed(
    async_claude: anthropic.AsyncAnthropic, usages: CapturedUsages
) -> None:
    """An endpoint's generator that is closed in the middle (its client hung up) leaves what was reported."""

    async def endpoint() -> AsyncIterator[str]:
        async for event in tracked(await async_claude.messages.create(**ASK, stream=True)):
            yield event.type

    body = endpoint()
    assert await anext(body) == "message_start"
    await body.aclose()
    assert len(usages) == 1
    check_aborted(usages.last(), 4)


def test_openai_chat_aborted(gpt: openai.OpenAI, usages: CapturedUsages) -> None:
    """A chat stream that is left before its last chunk is unknown usage, with the response's id and model."""
    with tracked(gpt.chat.completions.create(**WITH_USAGE)) as stream:
        next(stream)
    check_unknown(usages.last())
    assert usages.last().attributes["credits.metadata.stream"] == "aborted"
    assert usages.last().model == GPT


def test_openai_responses_aborted(gpt: openai.OpenAI, usages: CapturedUsages) -> None:
    """A Responses stream that is left early is unknown usage."""
    for _ in tracked(gpt.responses.create(model=GPT, input="hi", stream=True)):
        break
    check_unknown(usages.last())


def test_open_stream_at_the_end_of_the_process(
    configured: Callable[..., OtlpSink], claude: anthropic.Anthropic
) -> None:
    """A stream that is still open when the process ends is recorded before the last flush."""
    sink = configured()
    stream = tracked(claude.messages.create(**ASK, stream=True))
    next(stream)
    assert shutdown(60)
    assert sink.spans()[0].attributes["credits.metadata.stream"] == "aborted"


def test_forked_child_does_not_record_its_parents_streams(
    configured: Callable[..., OtlpSink], claude: anthropic.Anthropic
) -> None:
    """A child that drops its copy of an open stream records nothing; the parent records it once."""
    sink = configured()
    stream = tracked(claude.messages.create(**ASK, stream=True))
    next(stream)
    pid = os.fork()
    if pid == 0:
        del stream
        gc.collect()
        os._exit(0 if flush(5) else 1)
    os.waitpid(pid, 0)
    list(stream)
    assert flush(60)
    assert len(sink.spans()) == 1
