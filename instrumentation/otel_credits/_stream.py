"""`track_stream`: record what an LLM stream used, however it ends.

The stream is wrapped where its events come from, so that everything that reads it is seen: iteration, `text_stream`,
`get_final_message()`. One usage is recorded when the stream ends, raises, is closed, or when its reader goes away:
a cancelled task, a closed generator, a stream that is no longer referenced, the end of the process.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

from otel_credits._amounts import BadArgument, UserId, token_count
from otel_credits._attributes import REQUEST_MODEL
from otel_credits._guard import note_fault
from otel_credits._runtime import active
from otel_credits._stream_meter import StreamMeter
from otel_credits._stream_wrappers import AsyncManager, AsyncTrackedStream, Manager, TrackedStream
from otel_credits._tracking import common_attributes

S = TypeVar("S")


def track_stream(
    stream: S,
    user_id: UserId | None = None,
    action_type: str | None = None,
    *,
    model: str | None = None,
    description: str | None = None,
    resource_id: object = None,
    resource_type: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    idempotency_key: str | None = None,
    estimated_input_tokens: int | None = None,
) -> S:
    """Wrap a stream of the Anthropic or OpenAI SDK; read the result in its place.

    Args:
        stream: what `messages.create(stream=True)`, `messages.stream(...)`, `chat.completions.create(stream=True)`,
            `chat.completions.stream(...)`, `responses.create(stream=True)` or `responses.stream(...)` gave, of the
            sync or the async client (there after `await`); or any iterator of such events.
        model: the model that was asked for, where the stream does not get to say it.
        estimated_input_tokens: how many input tokens you think it is, for where the provider reports nothing.
        others: as in `track_ai_usage`. User and defaults are those of the moment of this call.

    The result yields the same events and has the same attributes. What is recorded is what the provider reported:
    `credits.metadata.stream` says whether the stream was `completed` or `aborted`. A provider that reported nothing
    (OpenAI without `stream_options={"include_usage": True}`, or broken off before the end) leaves a usage marked as
    unknown, which the aggregator quarantines; with `estimated_input_tokens`, one of so many input tokens and a token for
    each four characters that were read, marked as an estimate (`credits.metadata.estimated`). A stream that failed before
    its first event is not recorded: the provider refused it.
    """
    pipeline = active()
    if pipeline is None:
        return stream
    try:
        attributes = common_attributes(
            user_id, action_type, description, resource_id, resource_type, metadata, idempotency_key
        )
        if model is not None:
            attributes[REQUEST_MODEL] = str(model)
        return cast(S, _wrapped(stream, StreamMeter(pipeline, attributes, _estimate(estimated_input_tokens))))
    except Exception as error:
        pipeline.drop("track_stream", error)
        return stream


def _estimate(tokens: object) -> int | None:
    """A number of tokens, if it is one."""
    try:
        return None if tokens is None else token_count(tokens, "estimated_input_tokens")
    except BadArgument as error:
        note_fault("track_stream", error)
        return None


def _wrapped(stream: Any, meter: StreamMeter) -> Any:
    if hasattr(stream, "__anext__"):
        return AsyncTrackedStream(stream, meter)
    if hasattr(stream, "__next__") or hasattr(stream, "__iter__"):
        return TrackedStream(stream, meter)
    if hasattr(stream, "__aiter__"):
        return AsyncTrackedStream(aiter(stream), meter)
    if hasattr(stream, "__aenter__"):
        return AsyncManager(stream, meter)
    if hasattr(stream, "__enter__"):
        return Manager(stream, meter)
    raise BadArgument("stream", f"{type(stream).__name__} is not a stream (of an async client: await it first)")
