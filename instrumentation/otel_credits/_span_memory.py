"""What is remembered of a span between its start and its end, beside its attributes.

The SDK drops a span's oldest attributes once it has 128 (by default), and the oldest are those that say who pays and
for what. A server span starts before anybody knows the user. So each span that matters has a memory: whose usage
context it belongs to, and the attributes that decide about its charge, as they were when it started.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakValueDictionary

from opentelemetry.trace import Span

from otel_credits._attributes import CHARGE_PREFIXES
from otel_credits._context import UsageContext

_ON_THE_SPAN = "_otel_credits_memory"


class SpanMemory:
    """The usage context of a span, and the attributes of its start that may not be lost."""

    __slots__ = ("__weakref__", "attributes", "usage")

    def __init__(self, usage: UsageContext | None, attributes: Mapping[str, Any] | None = None) -> None:
        self.usage = usage
        self.attributes = attributes


# A memory lives as long as its span does, which holds it: a span that never ends is forgotten when it is collected.
_memories: WeakValueDictionary[tuple[int, int], SpanMemory] = WeakValueDictionary()


def remember(span: Span, usage: UsageContext | None, attributes: Mapping[str, Any] | None) -> None:
    """Remember the usage context of a span that starts, and those of its attributes that decide about a charge."""
    kept = (
        {name: value for name, value in attributes.items() if name.startswith(CHARGE_PREFIXES)} if attributes else None
    )
    if usage is not None or kept:
        _keep(span, SpanMemory(usage, kept))


def bind(span: Span, usage: UsageContext) -> None:
    """Say that a span that started earlier (a server span, a task's span) belongs to this usage context."""
    if not span.is_recording():
        return
    memory = recall(span)
    if memory is None:
        _keep(span, SpanMemory(usage))
    else:
        memory.usage = usage


def recall(span: Any) -> SpanMemory | None:
    """What is remembered of a span: a live one, or the copy of it that processors get at its end."""
    context = span.get_span_context()
    return None if context is None else _memories.get((context.trace_id, context.span_id))


def _keep(span: Span, memory: SpanMemory) -> None:
    context = span.get_span_context()
    try:
        setattr(span, _ON_THE_SPAN, memory)
    except AttributeError:  # a span of some other SDK, with slots
        return
    _memories[context.trace_id, context.span_id] = memory
