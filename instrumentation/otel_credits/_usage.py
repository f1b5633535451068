"""Making the span of one usage.

The span is made directly, not by a tracer: whether a usage is recorded may not depend on the app's sampler, on a
client's `traceparent`, on the SDK's attribute limits (which drop or cut attributes), nor on which tracer provider the
app has or has not. The app's own exporters do not see it. It continues the current trace, as a child of the current
span, so that a charge can be followed to the request that caused it.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import time_ns
from typing import Any

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


# A span of the app's that is a usage, until it is sent: what `span_like` is told. The copy is made by the export thread.
AppSpan = tuple[ReadableSpan, dict[str, Any], Resource]


def finished(span: ReadableSpan | AppSpan) -> ReadableSpan:
    """A usage's span as it is sent."""
    return span_like(*span) if isinstance(span, tuple) else span


def usage_span(
    attributes: dict[str, AttributeValue], resource: Resource, parent_context: Context | None = None
) -> ReadableSpan:
    """A finished span with `attributes`, ended now, under the current span (or that of `parent_context`)."""
    parent: SpanContext | None = get_current_span(parent_context).get_span_context()
    if parent is not None and parent.is_valid:
        trace_id = parent.trace_id
    else:
        parent, trace_id = None, new_trace_id()
    now_ns = time_ns()
    return ReadableSpan(
        name=f"credits {attributes[ACTION_TYPE]}",
        context=SpanContext(trace_id, new_span_id(), False, _SAMPLED),
        parent=parent,
        resource=resource,
        attributes=attributes,
        kind=SpanKind.INTERNAL,
        status=_UNSET,
        start_time=now_ns,
        end_time=now_ns,
        instrumentation_scope=SCOPE,
    )
