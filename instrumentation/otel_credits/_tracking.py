"""The tracking calls. Each has recorded before it returns, and returns something that may be awaited."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opentelemetry.context import Context

from otel_credits._amounts import (
    AttributeValue,
    BadArgument,
    CreditsLike,
    UserId,
    credits_text,
    metadata_attributes,
    token_count,
    user_text,
)
from otel_credits._attributes import (
    ACTION_TYPE,
    AMOUNT,
    CACHE_READ_TOKENS,
    CACHE_WRITE_TOKENS,
    DESCRIPTION,
    IDEMPOTENCY_KEY,
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    PROVIDER_NAME,
    REASONING_TOKENS,
    REQUEST_MODEL,
    RESOURCE_ID,
    RESOURCE_TYPE,
    RESPONSE_ID,
    USAGE_UNKNOWN,
    USER_ID,
)
from otel_credits._context import current_usage, current_user
from otel_credits._guard import note_fault
from otel_credits._recorded import RECORDED, Recorded
from otel_credits._runtime import active

Attributes = dict[str, AttributeValue]


def track_ai_usage(
    user_id: UserId | None = None,
    action_type: str | None = None,
    input_tokens: int | None = None,
    output_tokens: int | None = None,
    model: str | None = None,
    description: str | None = None,
    resource_id: object = None,
    resource_type: str | None = None,
    *,
    metadata: Mapping[str, Any] | None = None,
    idempotency_key: str | None = None,
    cache_read_tokens: int | None = None,
    cache_write_tokens: int | None = None,
    reasoning_tokens: int | None = None,
    provider: str | None = None,
    response_id: str | None = None,
) -> Recorded:
    """Record one use of a model. The price book makes credits of it.

    Args:
        user_id: who pays: UUID, str or int. Without it, the user of the usage context.
        action_type: an `ActionType` or any other string. Without it, that of the usage context.
        input_tokens: all input tokens, cached ones INCLUDED (OpenAI's `prompt_tokens`; with Anthropic's API, where
            `usage.input_tokens` excludes them, the sum of `input_tokens`, `cache_read_input_tokens` and
            `cache_creation_input_tokens`). Where no caching is used, both are the same.
        output_tokens: all output tokens, reasoning ones included.
        model: as the provider names it.
        cache_read_tokens, cache_write_tokens: how many of the input tokens were read from or written to a cache.
        reasoning_tokens: how many of the output tokens were reasoning (informative).
        metadata: kept with the usage; scalars stay scalars, the rest becomes JSON.
        idempotency_key: two usages with the same key are charged once. Without it, each call is a usage of its own.
        provider: `anthropic`, `openai`, ... (informative).
        response_id: the provider's name of its answer (`response.id`), by which the aggregator recognises the span that an
            instrumentation made of the same call: one charge. An `idempotency_key` goes before it.

    Without any token count the usage is not free: it is marked as unknown, and the aggregator quarantines it.
    A bad argument is logged once and counted, not raised (strict mode raises it as ValueError).
    """
    pipeline = active()
    if pipeline is None:
        return RECORDED
    try:
        attributes = common_attributes(
            user_id, action_type, description, resource_id, resource_type, metadata, idempotency_key
        )
        if model is not None:
            attributes[REQUEST_MODEL] = str(model)
        if provider is not None:
            attributes[PROVIDER_NAME] = str(provider)
        if response_id is not None:
            attributes[RESPONSE_ID] = str(response_id)
        add_tokens(attributes, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens)
        pipeline.record(attributes)
    except Exception as error:
        pipeline.drop("track_ai_usage", error)
    return RECORDED


def track_compute_usage(
    user_id: UserId | None = None,
    action_type: str | None = None,
    credits: CreditsLike | None = None,
    description: str | None = None,
    resource_id: object = None,
    resource_type: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    *,
    idempotency_key: str | None = None,
    response_id: str | None = None,
) -> Recorded:
    """Record one use of something that is not priced by tokens.

    Args:
        credits: the charge itself. A float counts as the decimal it prints as, rounded half-even to 12 places;
            a Decimal or str with more than 12 decimals is a bad argument. Without it, the price book decides: one
            `call` of the action.
        others: as in `track_ai_usage`; `response_id` for the charge of an LLM call that an instrumentation sees, too.

    A bad argument is logged once and counted, not raised (strict mode raises it as ValueError).
    """
    record_compute(
        "track_compute_usage",
        credits,
        (user_id, action_type, description, resource_id, resource_type, metadata, idempotency_key),
        response_id=response_id,
    )
    return RECORDED


def record_compute(
    where: str,
    credits: CreditsLike | None,
    common: tuple[Any, ...],
    parent: Context | None = None,
    response_id: str | None = None,
) -> None:
    """Record a usage with a fixed charge (or none); `common` are the arguments of `common_attributes`."""
    pipeline = active()
    if pipeline is None:
        return
    try:
        attributes = common_attributes(*common)
        if credits is not None:
            attributes[AMOUNT] = credits_text(credits)
        if response_id is not None:
            attributes[RESPONSE_ID] = str(response_id)
        pipeline.record(attributes, parent)
    except Exception as error:
        pipeline.drop(where, error)


def common_attributes(
    user_id: object,
    action_type: object,
    description: object,
    resource_id: object,
    resource_type: object,
    metadata: object,
    idempotency_key: object,
    context: Context | None = None,
) -> Attributes:
    """The attributes that every usage has. What is not given comes from the usage context.

    Raises:
        BadArgument: there is no action type.
    """
    usage = current_usage(context)
    if usage is not None:
        action_type = action_type or usage.action_type
        description = description if description is not None else usage.description
        resource_id = resource_id if resource_id is not None else usage.resource_id
        resource_type = resource_type if resource_type is not None else usage.resource_type
    if not isinstance(action_type, str) or not action_type:
        raise BadArgument("action_type", f"expected an action type, got {action_type!r}")
    attributes: Attributes = {ACTION_TYPE: str(action_type)}
    _add_user(attributes, user_id, context)
    if description is not None:
        attributes[DESCRIPTION] = str(description)
    if resource_id is not None:
        attributes[RESOURCE_ID] = str(resource_id)
    if resource_type is not None:
        attributes[RESOURCE_TYPE] = str(resource_type)
    if idempotency_key is not None:
        attributes[IDEMPOTENCY_KEY] = str(idempotency_key)
    if usage is not None and usage.metadata:
        _add_metadata(attributes, usage.metadata)
    if metadata is not None:
        _add_metadata(attributes, metadata)
    return attributes


def _add_user(attributes: Attributes, user_id: object, context: Context | None) -> None:
    """Who pays. A usage whose user is missing or no use is recorded without one: the aggregator quarantines it, and
    it can be assigned later. To drop it would be to give it away."""
    try:
        if user_id is not None:
            attributes[USER_ID] = user_text(user_id)
        elif (user := current_user(context)) is not None:
            attributes[USER_ID] = user
        else:
            raise BadArgument("user_id", "is not given, and there is no usage context with a user")
    except BadArgument as error:
        note_fault("tracking call", error)


def _add_metadata(attributes: Attributes, metadata: object) -> None:
    try:
        attributes.update(metadata_attributes(metadata))
    except BadArgument as error:
        note_fault("tracking call", error)


def add_tokens(
    attributes: Attributes,
    input_tokens: object,
    output_tokens: object,
    cache_read: object = None,
    cache_write: object = None,
    reasoning: object = None,
) -> None:
    """Token counts as the GenAI conventions name them; `input_tokens` includes the cached ones.

    Raises:
        BadArgument: a count is not an integer from 0 to 2^63-1.
    """
    if input_tokens is not None:
        attributes[INPUT_TOKENS] = token_count(input_tokens, "input_tokens")
    if output_tokens is not None:
        attributes[OUTPUT_TOKENS] = token_count(output_tokens, "output_tokens")
    if cache_read is not None or cache_write is not None:
        _add_cached_tokens(attributes, cache_read, cache_write)
    if reasoning is not None:
        attributes[REASONING_TOKENS] = token_count(reasoning, "reasoning_tokens")
    if input_tokens is None and output_tokens is None:
        attributes[USAGE_UNKNOWN] = True


def _add_cached_tokens(attributes: Attributes, cache_read: object, cache_write: object) -> None:
    """More cached tokens than input tokens proves that the input count excludes them: it is not what this call asks
    for, and how much was used is then unknown."""
    cached = 0
    for name, value, argument in (
        (CACHE_READ_TOKENS, cache_read, "cache_read_tokens"),
        (CACHE_WRITE_TOKENS, cache_write, "cache_write_tokens"),
    ):
        if value is not None:
            attributes[name] = count = token_count(value, argument)
            cached += count
    if cached > int(attributes.get(INPUT_TOKENS, 0)):
        attributes[USAGE_UNKNOWN] = True
        note_fault(
            "tracking call", BadArgument("input_tokens", "is less than the cached tokens, which it must include")
        )
