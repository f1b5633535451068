"""Making the span of one usage.

The span is made directly, not by a tracer: whether a usage is recorded may not depend on the app's sampler, on a
client's `traceparent`, on the SDK's attribute limits (which drop or cut attributes), nor on which tracer provider the
app has or has not. The app's own exporters do not see it. It continues the current trace, as a child of the current
span, so that a charge can be followed to the request that caused it.
"""

from __future__ import annotations

from time import time_ns
from typing import Any

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


def attributes_of(span: Any) -> dict[str, Any]:
    """A copy of a span's attributes.

    What the SDK gives out is a view whose every step is a Python call under a lock; the dictionary behind it is there
    in all versions so far, and is copied in one step. Where it is not, the view is as good.
    """
    inner = getattr(getattr(span, "_attributes", None), "_dict", None)
    if type(inner) is dict:
        return inner.copy()
    return dict(span.attributes or {})


def span_like(span: ReadableSpan, attributes: dict[str, Any], resource: Resource) -> ReadableSpan:
    """The app's finished `span`, with the same identity, and other attributes and resource."""
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
