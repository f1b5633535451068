"""Making the span of one usage.

The span is made directly, not by a tracer: whether a usage is recorded may not depend on the app's sampler, on a
client's `traceparent`, on the SDK's attribute limits (which drop or cut attributes), nor on which tracer provider the
app has or has not. The app's own exporters do not see it. It continues the current trace, as a child of the current
span, so that a charge can be followed to the request that caused it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import time_ns
from typing import Any, NamedTuple

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags, get_current_span
from opentelemetry.trace.status import Status, StatusCode

from otel_credits._amounts import AttributeValue
from otel_credits._attributes import ACTION_TYPE
from otel_credits._ids import new_span_id, new_trace_id
from otel_credits._version import __version__

SCOPE = InstrumentationScope("otel_credits", __version__)
_UNSET = Status(StatusCode.UNSET)
# Where a SpanContext, which is a tuple, has them.
_TRACE_ID, _SPAN_ID, _IS_REMOTE, _TRACE_FLAGS, _TRACE_STATE = range(5)
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)


def attributes_to_read(span: Any) -> Mapping[str, Any]:
    """A span's attributes as they are, for reading at its start or its end, when nobody else changes them.

    What the SDK gives out is a view whose every step is a Python call under a lock; the dictionary behind it is there
    in all versions so far. Where it is not, a copy of the view is as good.
    """
    inner = getattr(getattr(span, "_attributes", None), "_dict", None)
    return inner if type(inner) is dict else dict(span.attributes or {})


def add_texts(span: Any, texts: dict[str, str]) -> None:
    """Sets attributes, which are texts, on a span that is recording.

    The SDK checks and copies each value again and takes two locks, which for two texts takes longer than all the rest of ours.
    """
    attributes = getattr(span, "_attributes", None)
    if (
        type(attributes) is BoundedAttributes
        and attributes.max_value_len is None
        and type(inner := getattr(attributes, "_dict", None)) is dict
        and (attributes.maxlen is None or len(inner) + len(texts) <= attributes.maxlen)
    ):
        inner.update(texts)
    else:
        span.set_attributes(texts)


def span_like(span: ReadableSpan, attributes: dict[str, Any], resource: Resource) -> ReadableSpan:
    """The app's finished `span`, with the same identity, and other attributes and resource."""
    known = vars(span) if type(span) is ReadableSpan else {}
    if "_attributes" in known and "_resource" in known:
        # All the rest is the same, and each property of the SDK's makes a copy of what it gives out.
        copy = ReadableSpan.__new__(ReadableSpan)
        vars(copy).update(known, _attributes=attributes, _resource=resource)
        return copy
    return ReadableSpan(
        name=span.name,
        context=span.context,
        parent=span.parent,
        resource=resource,
        attributes=attributes,
        events=span.events,
        links=span.links,
        kind=span.kind,
        status=span.status,
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


class KeptSpan(NamedTuple):
    """A span of the app's that is a usage, as it waits: what is said of it, without the objects that it is made of.

    These are eleven, which the app's exporter lets go of sooner than a receiver acknowledges the usage. Python's garbage
    collector would go through them meanwhile, on the app's threads.
    """

    name: str
    trace_id: int
    span_id: int
    trace_flags: TraceFlags
    # None: it is the root of its trace.
    parent_span_id: int | None
    parent_is_remote: bool
    kind: SpanKind
    # If one was set.
    status: Status | None
    start_time_ns: int
    end_time_ns: int
    instrumentation_scope: InstrumentationScope
    attributes: dict[str, Any]
    resource: Resource

    def finished(self) -> ReadableSpan:
        """The span as it was. (What OTLP does not tell of the parent is that of the span itself.)"""
        parent = None
        if self.parent_span_id is not None:
            parent = SpanContext(self.trace_id, self.parent_span_id, self.parent_is_remote, self.trace_flags)
        return ReadableSpan(
            name=self.name,
            context=SpanContext(self.trace_id, self.span_id, False, self.trace_flags),
            parent=parent,
            resource=self.resource,
            attributes=self.attributes,
            kind=self.kind,
            status=self.status or _UNSET,
            start_time=self.start_time_ns,
            end_time=self.end_time_ns,
            instrumentation_scope=self.instrumentation_scope,
        )


# As KeptSpan(...) does, without a function of Python in between.
_new_kept: Callable[[type[KeptSpan], tuple[Any, ...]], KeptSpan] = tuple.__new__


def kept(span: Any, attributes: dict[str, Any], resource: Resource) -> ReadableSpan | KeptSpan:
    """The app's finished `span` with other attributes and resource, to wait until it is sent."""
    try:
        context, parent, status = span._context, span._parent, span._status
        # Few have events, links or a trace state.
        if not (span._events._dq or span._links._dq or context[_TRACE_STATE] or context[_IS_REMOTE]):
            return _new_kept(
                KeptSpan,
                (
                    span._name,
                    context[_TRACE_ID],
                    context[_SPAN_ID],
                    context[_TRACE_FLAGS],
                    None if parent is None else parent[_SPAN_ID],
                    parent is not None and parent[_IS_REMOTE],
                    span._kind,
                    None if status._status_code is StatusCode.UNSET else status,
                    span._start_time,
                    span._end_time,
                    span._instrumentation_scope,
                    attributes,
                    resource,
                ),
            )
    except (AttributeError, TypeError, IndexError):
        pass  # an SDK that keeps them elsewhere
    return span_like(span, attributes, resource)


def finished(span: ReadableSpan | KeptSpan) -> ReadableSpan:
    """A usage's span as it is sent."""
    return span.finished() if isinstance(span, KeptSpan) else span


def usage_span(
    attributes: dict[str, AttributeValue], resource: Resource, parent_context: Context | None = None
) -> KeptSpan:
    """A finished span with `attributes`, ended now, under the current span (or that of `parent_context`)."""
    parent = get_current_span(parent_context).get_span_context()
    has_parent = parent is not None and parent.is_valid
    now_ns = time_ns()
    return KeptSpan(
        name=f"credits {attributes[ACTION_TYPE]}",
        trace_id=parent.trace_id if has_parent else new_trace_id(),
        span_id=new_span_id(),
        trace_flags=_SAMPLED,
        parent_span_id=parent.span_id if has_parent else None,
        parent_is_remote=has_parent and parent.is_remote,
        kind=SpanKind.INTERNAL,
        status=None,
        start_time_ns=now_ns,
        end_time_ns=now_ns,
        instrumentation_scope=SCOPE,
        attributes=attributes,
        resource=resource,
    )
