"""What waits of a usage, and the OTLP that is made of it: the same as the official encoder makes of the span.

That encoder is the oracle, for spans as the SDK makes them and for attributes of every type that Python lets through.
"""

from __future__ import annotations

import gc
import weakref
from enum import StrEnum
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    TraceFlags,
    TraceState,
    set_span_in_context,
)
from opentelemetry.trace.status import Status, StatusCode
from otel_credits import usage_context
from otel_credits._encoding import encoded_span, encoded_spans
from otel_credits._processor import CreditsSpanProcessor
from otel_credits._settings import Settings
from otel_credits._usage import KeptSpan, finished, kept, span_like

RESOURCES = [
    Resource({"service.name": "shop"}),
    Resource({"service.name": "shop", "host.name": "b"}, "https://schema/1"),
]
SCOPES = [InstrumentationScope("a", "1"), InstrumentationScope("b", None, "https://schema/2", {"x": 1})]


class Word(StrEnum):
    """A text that is not quite a text."""

    YES = "yes"


scalars = st.one_of(
    st.text(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.binary(), st.just("\0")
)
simple = scalars | st.lists(scalars, max_size=3).map(tuple)
# What the official encoder takes besides, and what it leaves out: too large a number, half of a surrogate pair.
odd = st.one_of(
    st.none(),
    st.just(Word.YES),
    st.lists(st.none() | st.lists(scalars, max_size=2).map(tuple), max_size=3).map(tuple),
    st.dictionaries(st.text(max_size=3), st.integers(0, 5), max_size=2),
    st.integers(2**63, 2**70),
    st.just("\ud800"),
)
ids = st.integers(1, 2**64 - 1)
statuses = st.one_of(
    st.none(), st.just(Status(StatusCode.OK)), st.text(max_size=5).map(lambda text: Status(StatusCode.ERROR, text))
)
times_ns = st.integers(0, 2**64 - 1)


@st.composite
def kept_spans(draw: st.DrawFn) -> KeptSpan:
    """What may wait of a span."""
    return KeptSpan(
        name=draw(st.text(max_size=10)),
        trace_id=draw(st.integers(1, 2**128 - 1)),
        span_id=draw(ids),
        trace_flags=TraceFlags(draw(st.integers(0, 3))),
        parent_span_id=draw(st.none() | ids),
        parent_is_remote=False,
        kind=draw(st.sampled_from(SpanKind)),
        status=draw(statuses),
        start_time_ns=draw(times_ns),
        end_time_ns=draw(times_ns),
        instrumentation_scope=draw(st.sampled_from(SCOPES)),
        attributes=draw(st.dictionaries(st.text(), simple | odd if draw(st.booleans()) else simple, max_size=6)),
        resource=draw(st.sampled_from(RESOURCES)),
    )


def official(span: ReadableSpan) -> Any:
    """The one span of the official encoder's request."""
    return encode_spans([span]).resource_spans[0].scope_spans[0].spans[0]


@given(kept_spans(), st.booleans())
def test_a_usage_is_encoded_as_the_official_encoder_does_it(span: KeptSpan, is_remote: bool) -> None:
    """Whatever its attributes are, and whether its parent is in another process."""
    span = span._replace(parent_is_remote=is_remote and span.parent_span_id is not None)
    assert encoded_span(span) == official(finished(span))


@given(st.lists(kept_spans(), min_size=1, max_size=8))
def test_a_batch_has_each_usage_under_its_resource_and_scope(spans: list[KeptSpan]) -> None:
    """In their order there, none left out."""
    assert _told(encoded_spans(spans)) == _told(encode_spans([finished(span) for span in spans]))


def _told(request: Any) -> dict[tuple[bytes, bytes], list[bytes]]:
    told: dict[tuple[bytes, bytes], list[bytes]] = {}
    for of_resource in request.resource_spans:
        for of_scope in of_resource.scope_spans:
            spans = [span.SerializeToString(deterministic=True) for span in of_scope.spans]
            del of_scope.spans[:]
            origin = of_resource.resource.SerializeToString() + of_resource.schema_url.encode()
            told.setdefault((origin, of_scope.SerializeToString()), []).extend(spans)
    return told


class Ended(SpanProcessor):
    """Knows the spans that ended."""

    def __init__(self) -> None:
        self.spans: list[Any] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)


def _span_of_the_sdk(parent: SpanContext | None = None, **made: Any) -> ReadableSpan:
    ended, provider = Ended(), TracerProvider(resource=RESOURCES[1])
    provider.add_span_processor(ended)
    context = None if parent is None else set_span_in_context(NonRecordingSpan(parent))
    tracer = provider.get_tracer("some.scope", "2", attributes={"y": 2})
    span = tracer.start_span("chat", context, SpanKind.CLIENT, **made)
    span.end()
    (readable,) = ended.spans
    return readable  # type: ignore[no-any-return]


REMOTE = SpanContext(5, 6, True, TraceFlags(TraceFlags.SAMPLED))


def test_what_waits_of_a_span_says_all_that_otlp_says_of_it() -> None:
    """With and without a parent, here or elsewhere, links, and a trace state."""
    with_state = SpanContext(5, 6, False, TraceFlags(TraceFlags.SAMPLED), TraceState([("vendor", "1")]))
    for span in (
        _span_of_the_sdk(attributes={"a": 1}),
        _span_of_the_sdk(REMOTE),
        _span_of_the_sdk(SpanContext(5, 6, False, TraceFlags(TraceFlags.SAMPLED))),
        _span_of_the_sdk(with_state),
        _span_of_the_sdk(links=[Link(REMOTE, {"l": 1})]),
    ):
        attributes = {"credits.seq": 7, "user.id": "u"}
        expected = official(span_like(span, attributes, RESOURCES[0]))
        assert encoded_span(kept(span, attributes, RESOURCES[0])) == expected


def test_events_and_a_status_wait_with_their_span() -> None:
    """They are what a failed call says of itself."""
    provider, ended = TracerProvider(), Ended()
    provider.add_span_processor(ended)
    tracer = provider.get_tracer("some.scope")
    failed = tracer.start_span("chat")
    failed.record_exception(ValueError("no"))
    failed.set_status(StatusCode.ERROR, "no")
    failed.end()
    refused = tracer.start_span("chat")
    refused.set_status(StatusCode.ERROR, "no")
    refused.end()
    for span in ended.spans:
        message = encoded_span(kept(span, {}, RESOURCES[0]))
        assert message == official(span_like(span, {}, RESOURCES[0]))
        assert message.status.message == "no"


def test_a_usage_that_waits_keeps_nothing_of_the_apps_span() -> None:
    """It would be gone through by the garbage collector, on the app's threads, for as long as a receiver is away."""
    waiting: list[Any] = []
    processor = CreditsSpanProcessor(
        lambda span, present: waiting.append(kept(span, dict(present), span.resource)),
        lambda _: True,
        Settings(charge_genai=True),
    )
    provider, ended = TracerProvider(), Ended()
    provider.add_span_processor(processor)
    provider.add_span_processor(ended)
    with usage_context(user_id="u"):
        provider.get_tracer("some.scope").start_span("chat", attributes={"gen_ai.usage.input_tokens": 1}).end()
    (span,) = ended.spans
    assert not vars(span.context)
    seen = weakref.ref(span)
    del span
    ended.spans.clear()
    gc.collect()
    assert seen() is None
    (usage,) = waiting
    assert usage.attributes["credits.user_id"] == "u"
