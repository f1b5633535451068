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

from otel_credits._attributes import CHARGE_PREFIXES, CREDITS_USER_ID, USER_ID
from otel_credits._context import UsageContext

_ON_THE_SPAN = "_otel_credits_memory"


class SpanMemory:
    """The usage context of a span, and the attributes that it started with."""

    __slots__ = ("__weakref__", "_attributes", "usage")

    def __init__(self, usage: UsageContext | None, attributes: Mapping[str, Any]) -> None:
        self.usage = usage
        self._attributes = attributes

    def may_not_be_lost(self) -> dict[str, Any]:
        """Those attributes that decide about a charge."""
        return {name: value for name, value in self._attributes.items() if name.startswith(CHARGE_PREFIXES)}


# A memory lives as long as its span does, which holds it: a span that never ends is forgotten when it is collected.
_memories: WeakValueDictionary[tuple[int, int], SpanMemory] = WeakValueDictionary()


def remember(span: Span, usage: UsageContext | None, attributes: Mapping[str, Any]) -> None:
    """Remember the usage context of a span that starts, and its attributes if they may decide about a charge."""
    if usage is not None or has_charge(attributes):
        _keep(span, SpanMemory(usage, attributes))


def has_charge(attributes: Mapping[str, Any]) -> bool:
    """Whether one of the attributes decides about a charge."""
    for name in attributes:  # noqa: SIM110  (a generator takes twice the time, on the app's thread)
        if name.startswith(CHARGE_PREFIXES):
            return True
    return False


def bind(span: Span, usage: UsageContext) -> None:
    """Say that a span that started earlier (a server span, a task's span) belongs to this usage context."""
    if not span.is_recording():
        return
    memory = recall(span)
    if memory is None:
        _keep(span, SpanMemory(usage, {}))
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


def name_user(span: Any, user: str | None) -> None:
    """Name the user on a span that started before the user was known, unless it is named already."""
    if user is None or not span.is_recording():
        return
    present = getattr(span, "attributes", None) or {}
    if present.get(CREDITS_USER_ID) != user or present.get(USER_ID) != user:
        span.set_attributes({USER_ID: user, CREDITS_USER_ID: user})
