"""The span processor that watches the app's own spans: it names the user on them and picks out those that are usage.

Usage spans are those with `credits.action_type`; with `OTEL_CREDITS_CHARGE_GENAI=on` also those that may be LLM calls
(the aggregator decides which of them is), and with `OTEL_CREDITS_FORWARD_SPANS` those of some kinds, for the billing rules
of the aggregator. No other span leaves through the credits endpoint.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.trace import SpanKind

from otel_credits._attributes import ACTION_TYPE, CREDITS_USER_ID, GENAI_PREFIXES, OPENINFERENCE_KIND, USER_ID
from otel_credits._context import current_usage, current_user, user_of
from otel_credits._guard import say_once
from otel_credits._names import KnownNames
from otel_credits._settings import Settings
from otel_credits._span_memory import SpanMemory, remember, take_memory
from otel_credits._usage import add_texts, attributes_to_read, span_like

# Their internal spans are "http send" and "http receive", several a request, which no one asks who the user was.
_SERVER_SCOPES = frozenset({"opentelemetry.instrumentation.asgi", "opentelemetry.instrumentation.fastapi"})
# What a usage says of itself, and the GenAI and OpenInference conventions.
_usages = KnownNames(lambda name: name in (ACTION_TYPE, OPENINFERENCE_KIND) or name.startswith(GENAI_PREFIXES))


class CreditsSpanProcessor(SpanProcessor):
    """Hands usage spans to `accept`. It is asked on the app's threads, so it neither blocks nor raises."""

    def __init__(
        self, accept: Callable[[ReadableSpan], None], flush: Callable[[float], bool], settings: Callable[[], Settings]
    ) -> None:
        self._accept = accept
        self._flush = flush
        self._settings = settings

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        try:
            if span.kind is SpanKind.INTERNAL and _scope_of(span) in _SERVER_SCOPES:
                return
            usage = current_usage(parent_context)
            present = attributes_to_read(span)
            remember(span, usage, present)
            user = user_of(usage, parent_context)
            if user is not None:
                _name_user(span, user, present)
        except Exception as error:
            say_once("span start", logging.ERROR, "credits: a span could not be given its user", exc_info=error)

    def on_end(self, span: ReadableSpan) -> None:
        try:
            settings, present, memory = self._settings(), attributes_to_read(span), take_memory(span)
            says_usage = _usages.among(present)
            if not says_usage and not settings.forward_spans and not span.dropped_attributes:
                return
            lost = _lost_attributes(span, present, memory)
            if lost:
                present = {**lost, **present}
                span, says_usage = span_like(span, present, span.resource), _usages.among(present)
            # With a convention of LLM calls among its attributes it may be usage to the aggregator.
            if ACTION_TYPE in present or (says_usage and settings.charge_genai) or span.kind in settings.forward_spans:
                self._accept(span)
        except Exception as error:
            say_once("span end", logging.ERROR, "credits: a span could not be recorded", exc_info=error)

    def shutdown(self) -> None:
        self._flush(5.0)

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._flush(timeout_millis / 1000)


def _scope_of(span: ReadableSpan) -> str:
    scope = span.instrumentation_scope
    return "" if scope is None else scope.name


def _name_user(span: Span, user: str, present: Mapping[str, Any]) -> None:
    """Name the user on a span, unless the app has."""
    if USER_ID not in present and CREDITS_USER_ID not in present:
        add_texts(span, {USER_ID: user, CREDITS_USER_ID: user})
        return
    missing = {name: user for name in (USER_ID, CREDITS_USER_ID) if name not in present}
    if missing:
        span.set_attributes(missing)


def _lost_attributes(span: ReadableSpan, present: Mapping[str, Any], memory: SpanMemory | None) -> dict[str, Any]:
    """What the span lost (see _span_memory.py), and the user of its usage context if that was not known before."""
    lost: dict[str, Any] = {}
    is_named, dropped = CREDITS_USER_ID in present, span.dropped_attributes
    if is_named and not dropped:
        return lost
    if memory is not None and dropped:
        lost = {name: value for name, value in memory.may_not_be_lost().items() if name not in present}
    if not is_named and CREDITS_USER_ID not in lost:
        user = None if memory is None or memory.usage is None else memory.usage.user
        user = user if user is not None else _user_if_none(present)
        if user is not None:
            lost[CREDITS_USER_ID] = user
    return lost


def _user_if_none(attributes: Mapping[str, Any]) -> str | None:
    """The user of the current context, for a span that names none and belongs to no usage context."""
    return None if USER_ID in attributes else current_user()
