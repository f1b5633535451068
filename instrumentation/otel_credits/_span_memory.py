"""What is remembered of a span between its start and its end, beside its attributes.

The SDK drops a span's oldest attributes once it has 128 (by default), and the oldest are those that say who pays and
for what. A server span starts before anybody knows the user. So each span that matters has a memory: whose usage
context it belongs to, and the attributes that decide about its charge, as they were when it started.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from opentelemetry.trace import Span

from otel_credits._attributes import CHARGE_PREFIXES, CREDITS_USER_ID, USER_ID
from otel_credits._context import UsageContext
from otel_credits._names import KnownNames
from otel_credits._usage import add_texts, attributes_to_read

# Where the memory is kept: with the span's SpanContext, which is one and the same object in a live span and in the copy of
# it that processors get at its end. It lives until then.
MEMORY = "_otel_credits_memory"


class SpanMemory(tuple[UsageContext | None, Mapping[str, Any]]):
    """The usage context of a span, and the attributes that it started with, if some of them decide about a charge."""

    __slots__ = ()

    def may_not_be_lost(self) -> dict[str, Any]:
        """Those attributes that decide about a charge."""
        return {name: value for name, value in self[1].items() if name.startswith(CHARGE_PREFIXES)}

    def __reduce__(self) -> tuple[Any, ...]:
        # A SpanContext can be copied, and sent to another process. Its memory stays here.
        return _nothing, ()


def _nothing() -> None:
    """What is left of a memory in a copy."""


_NOTHING: dict[str, Any] = {}
charges = KnownNames(lambda name: name.startswith(CHARGE_PREFIXES))


def remember(context: Any, usage: UsageContext | None, attributes: Mapping[str, Any]) -> None:
    """Remember the usage context of a span that starts, and its attributes if they may decide about a charge.

    Args:
        context: the span's own SpanContext.
    """
    if not attributes.keys() <= charges.others and charges.among(attributes):
        memory = SpanMemory((usage, dict(attributes)))
    elif usage is not None:
        memory = SpanMemory((usage, _NOTHING))
    else:
        return
    kept: dict[str, Any] | None = getattr(context, "__dict__", None)
    if kept is not None:
        kept[MEMORY] = memory


def bind(span: Span, usage: UsageContext) -> None:
    """Say that a span that started earlier (a server span, a task's span) belongs to this usage context, and name the
    user on it: now, and whenever another one is set."""
    if not span.is_recording():
        return
    # What has no such dictionary is a span of some other SDK, with slots.
    kept: dict[str, Any] | None = getattr(getattr(span, "_context", None) or span.get_span_context(), "__dict__", None)
    if kept is not None:
        kept[MEMORY] = SpanMemory((usage, kept[MEMORY][1] if MEMORY in kept else _NOTHING))
    usage.on_known = partial(name_user, span)
    user = usage.known_user
    if user is not None:
        add_texts(span, {USER_ID: user, CREDITS_USER_ID: user})


def take_memory(context: Any) -> SpanMemory | None:
    """What is remembered of a span that ends, by its context: the same in a live span and in the copy of it that processors
    get. It is forgotten: spans wait for their exporters, and need not keep the usage context, and the request behind it,
    alive meanwhile."""
    # Not through the context's dictionary, which asking for it would make: most spans have no memory.
    memory = getattr(context, MEMORY, None)
    if type(memory) is not SpanMemory:
        return None
    kept = context.__dict__
    kept.pop(MEMORY, None)
    if not kept:
        try:  # noqa: SIM105  # `suppress` is a function or two more
            del context.__dict__  # nor need the garbage collector go through what is empty
        except TypeError:
            pass
    return memory


def name_user(span: Any, user: str | None) -> None:
    """Name the user on a span that started before the user was known, unless it is named already. In any thread: so it is
    the SDK that sets them, under its lock."""
    if user is None or not span.is_recording():
        return
    present = attributes_to_read(span)
    if present.get(CREDITS_USER_ID) != user or present.get(USER_ID) != user:
        span.set_attributes({USER_ID: user, CREDITS_USER_ID: user})
