"""The span processor that watches the app's own spans: it names the user on them and picks out those that are usage.

Usage spans are those with `credits.action_type`; with `OTEL_CREDITS_CHARGE_GENAI=on` also those that may be LLM calls
(the aggregator decides which of them is), and with `OTEL_CREDITS_FORWARD_SPANS` those of some kinds, for the billing rules
of the aggregator. No other span leaves through the credits endpoint.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from opentelemetry.context import Context, get_current
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.trace import SpanContext, SpanKind

from otel_credits._attributes import ACTION_TYPE, CREDITS_USER_ID, GENAI_PREFIXES, OPENINFERENCE_KIND, USER_ID
from otel_credits._context import INBOUND, USAGE_KEY, current_user, user_of
from otel_credits._guard import say_once
from otel_credits._names import KnownNames
from otel_credits._settings import Settings
from otel_credits._span_memory import MEMORY, SpanMemory, charges, remember, take_memory
from otel_credits._usage import add_texts, attributes_to_read, span_like

# Their internal spans are "http send" and "http receive", several a request, which no one asks who the user was.
_SERVER_SCOPES = frozenset({"opentelemetry.instrumentation.asgi", "opentelemetry.instrumentation.fastapi"})
# What a usage says of itself, and the GenAI and OpenInference conventions.
_usages = KnownNames(lambda name: name in (ACTION_TYPE, OPENINFERENCE_KIND) or name.startswith(GENAI_PREFIXES))


class CreditsSpanProcessor(SpanProcessor):
    """Hands usage spans to `accept`, with their attributes. It is asked on the app's threads, so it neither blocks nor raises."""

    def __init__(
        self,
        accept: Callable[[ReadableSpan, Mapping[str, Any]], None],
        flush: Callable[[float], bool],
        settings: Settings,
    ) -> None:
        self._accept = accept
        self._flush = flush
        self.settings = settings

    def on_start(self, span: Any, parent_context: Context | None = None) -> None:
        try:
            # Each property of the SDK's spans is a call of Python, of which a request has many. So what is behind them is read.
            try:
                scope, kind, present = span._instrumentation_scope._name, span._kind, span._attributes._dict
                own_context = span._context
            except AttributeError:
                scope, kind, present, own_context = _as_given_out(span)
            if scope in _SERVER_SCOPES and kind is SpanKind.INTERNAL:
                return
            context = get_current() if parent_context is None else parent_context
            usage: Any = context.get(USAGE_KEY)
            if usage is not None or not present.keys() <= charges.others:
                remember(own_context, usage, present)
            user = None if usage is None else usage.known_user
            if user is None and (usage is not None or INBOUND.is_trusted):
                user = user_of(usage, context)
            if user is None:
                return
            if USER_ID in present or CREDITS_USER_ID in present:
                _name_user(span, user, present)
            else:
                add_texts(span, {USER_ID: user, CREDITS_USER_ID: user})
        except Exception as error:
            say_once("span start", logging.ERROR, "credits: a span could not be given its user", exc_info=error)

    def on_end(self, span: Any) -> None:
        try:
            try:
                attributes, context = span._attributes, span._context
                present, dropped = attributes._dict, attributes.dropped
            except AttributeError:
                present, context, dropped = attributes_to_read(span), span.context, span.dropped_attributes
            settings, memory = self.settings, getattr(context, MEMORY, None)
            if memory is not None:
                memory = take_memory(context)
            says_usage = not present.keys() <= _usages.others and (
                not _usages.mattering.isdisjoint(present) or _usages.among(present)
            )
            if not says_usage and not settings.forward_spans and (memory is None or not memory[1]):
                return
            if dropped or CREDITS_USER_ID not in present:
                lost = _lost_attributes(dropped, present, memory)
                if lost:
                    present = {**lost, **present}
                    span, says_usage = span_like(span, present, span.resource), _usages.among(present)
            # With a convention of LLM calls among its attributes it may be usage to the aggregator.
            if (says_usage and settings.charge_genai) or ACTION_TYPE in present or span.kind in settings.forward_spans:
                self._accept(span, present)
        except Exception as error:
            say_once("span end", logging.ERROR, "credits: a span could not be recorded", exc_info=error)

    def shutdown(self) -> None:
        self._flush(5.0)

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._flush(timeout_millis / 1000)


def _as_given_out(span: Span) -> tuple[str | None, SpanKind, Mapping[str, Any], SpanContext | None]:
    """The name of a span's scope, its kind, attributes and context, if the SDK keeps them elsewhere."""
    scope = span.instrumentation_scope
    return None if scope is None else scope.name, span.kind, attributes_to_read(span), span.context


def _name_user(span: Span, user: str, present: Mapping[str, Any]) -> None:
    """Name the user on a span that names one already, where it does not."""
    missing = {name: user for name in (USER_ID, CREDITS_USER_ID) if name not in present}
    if missing:
        span.set_attributes(missing)


def _lost_attributes(dropped: int, present: Mapping[str, Any], memory: SpanMemory | None) -> dict[str, Any]:
    """What the span lost (see _span_memory.py), and the user of its usage context if that was not known before."""
    lost: dict[str, Any] = {}
    if memory is not None and dropped:
        lost = {name: value for name, value in memory.may_not_be_lost().items() if name not in present}
    if CREDITS_USER_ID not in present and CREDITS_USER_ID not in lost:
        usage = None if memory is None else memory[0]
        user = None if usage is None else usage.user
        user = user if user is not None else _user_if_none(present)
        if user is not None:
            lost[CREDITS_USER_ID] = user
    return lost


def _user_if_none(attributes: Mapping[str, Any]) -> str | None:
    """The user of the current context, for a span that names none and belongs to no usage context."""
    return None if USER_ID in attributes else current_user()
