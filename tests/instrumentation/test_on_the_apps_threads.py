"""What is done for each of the app's spans, on the app's threads: as little as possible, and nothing that the app can notice."""

from __future__ import annotations

import copy
import pickle
import weakref
from collections.abc import Callable, Iterator

import fastapi
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.context import attach, detach
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider, sampling
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags, TraceState, set_span_in_context
from otel_credits import set_user, usage_context
from otel_credits._context import UsageContext, with_usage
from otel_credits._names import KnownNames
from otel_credits._processor import CreditsSpanProcessor
from otel_credits._sampler import RecordingSampler, recording
from otel_credits._settings import Settings
from otel_credits._span_memory import take_memory
from starlette.responses import StreamingResponse
from starlette.testclient import TestClient

NAMES = st.sampled_from(
    ["gen_ai.system", "gen_ai.usage.input_tokens", "http.route", "user.id", "db.statement", "gen_a", ""]
)


def watched(exporter: InMemorySpanExporter, limits: SpanLimits | None = None) -> TracerProvider:
    provider = TracerProvider(span_limits=limits)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    provider.add_span_processor(CreditsSpanProcessor(lambda span: None, lambda timeout_s: True, Settings()))
    return provider


@given(st.lists(st.dictionaries(NAMES, st.integers()), max_size=20))
def test_a_name_matters_however_oftenothers_were_seen(spans: list[dict[str, int]]) -> None:
    """Whether attributes have a name that matters does not depend on the spans before."""
    names = KnownNames(lambda name: name.startswith("gen_ai."))
    for attributes in spans:
        assert names.among(attributes) == any(name.startswith("gen_ai.") for name in attributes)


def test_names_made_of_data_take_no_memory() -> None:
    """However many names there are, few of them are kept."""
    names = KnownNames(lambda name: name == "wanted")
    for number in range(20_000):
        assert not names.among({f"header.{number}": 1})
    assert len(names.others) < 5_000
    assert names.among({"header.1": 1, "wanted": 1})


def test_a_span_context_can_be_sent_to_another_process() -> None:
    """What we remember of a span stays here: a copy of its context, pickled or deep, is equal and knows nothing of it."""
    tracer = watched(InMemorySpanExporter()).get_tracer("app")
    with usage_context(42), tracer.start_as_current_span("call", attributes={"gen_ai.system": "openai"}) as span:
        context = span.get_span_context()
        for copied in (pickle.loads(pickle.dumps(context)), copy.deepcopy(context), copy.copy(context)):
            assert copied == context
        remembered = take_memory(span.get_span_context())
        assert remembered is not None
        assert remembered[0] is not None
        assert remembered[0].user == "42"


class Request:
    """What knows the user, and is large."""

    def __init__(self, user: str | None) -> None:
        self.user = user


@pytest.mark.parametrize("user", ["ada", None])
def test_spans_that_wait_do_not_keep_their_request(user: str | None) -> None:
    """A span that ended and waits for its exporter keeps neither the usage context nor the request alive."""
    request = Request(user)
    usage, gone = UsageContext(resolve=lambda request=request: request.user), weakref.ref(request)
    exporter = InMemorySpanExporter()
    token = attach(with_usage(usage))
    with (
        watched(exporter)
        .get_tracer("app")
        .start_as_current_span("call", attributes={"gen_ai.system": "openai"}) as span
    ):
        pass
    detach(token)
    del request, usage, span, token
    (ended,) = exporter.get_finished_spans()
    assert (ended.attributes or {}).get("user.id") == user
    assert gone() is None


def test_a_usage_context_that_knows_its_user_does_not_keep_the_request() -> None:
    """Once the user is known, nobody asks who it is, also if a thread goes on with the usage context for long."""
    request = Request("ada")
    usage, gone = UsageContext(resolve=lambda request=request: request.user), weakref.ref(request)
    assert usage.user == "ada"
    del request
    assert gone() is None
    assert usage.user == "ada"


def test_a_limit_of_a_texts_length_is_kept() -> None:
    """Where the app limits the length of its attributes, the user's is limited, too."""
    exporter = InMemorySpanExporter()
    tracer = watched(exporter, SpanLimits(max_attribute_length=4)).get_tracer("app")
    with usage_context("somebody"), tracer.start_as_current_span("call"):
        pass
    (span,) = exporter.get_finished_spans()
    assert dict(span.attributes or {}) == {"user.id": "some", "credits.user_id": "some"}


def test_a_limit_of_attributes_is_kept() -> None:
    """A span has no more attributes than the app allows, with the user among them."""
    exporter = InMemorySpanExporter()
    tracer = watched(exporter, SpanLimits(max_span_attributes=3)).get_tracer("app")
    with usage_context("ada"), tracer.start_as_current_span("call", attributes={"a": 1, "b": 2}):
        pass
    (span,) = exporter.get_finished_spans()
    assert dict(span.attributes or {}) == {"b": 2, "user.id": "ada", "credits.user_id": "ada"}


def test_sending_a_response_is_not_somebodys_span() -> None:
    """The server span and what the endpoint does name the user; the spans of the response's messages do not."""
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
    from otel_credits.fastapi import CreditsMiddleware

    exporter = InMemorySpanExporter()
    provider, app = watched(exporter), fastapi.FastAPI()

    @app.get("/ask")
    def ask() -> str:
        with provider.get_tracer("app").start_as_current_span("work"):
            return "answer"

    app.add_middleware(CreditsMiddleware, user="header:X-User-ID")
    FastAPIInstrumentor.instrument_app(app, tracer_provider=provider)
    with TestClient(app) as client:
        client.get("/ask", headers={"x-user-id": "ada"})
    named = {(span.name, span.kind): (span.attributes or {}).get("user.id") for span in exporter.get_finished_spans()}
    assert named == {
        ("GET /ask", SpanKind.SERVER): "ada",
        ("work", SpanKind.INTERNAL): "ada",
        ("GET /ask http send", SpanKind.INTERNAL): None,
    }


def server_app(exporter: InMemorySpanExporter, stream: Callable[[], Iterator[str]]) -> fastapi.FastAPI:
    """An app with both instrumentations, whose users are in a header and whose answer is `stream`."""
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
    from otel_credits.fastapi import CreditsMiddleware

    app = fastapi.FastAPI()

    @app.get("/ask")
    def ask() -> StreamingResponse:
        return StreamingResponse(stream())

    app.add_middleware(CreditsMiddleware, user="header:X-User-ID")
    FastAPIInstrumentor.instrument_app(app, tracer_provider=watched(exporter))
    return app


@pytest.mark.parametrize("headers", [{"x-user-id": "ada"}, {}], ids=["known before", "not known before"])
def test_a_user_that_is_set_while_the_response_streams(headers: dict[str, str]) -> None:
    """Whoever is set as the user while a response streams is the one that the server span names."""

    def stream() -> Iterator[str]:
        yield "a"
        set_user("bob")
        yield "b"

    exporter = InMemorySpanExporter()
    with TestClient(server_app(exporter, stream)) as client:
        assert client.get("/ask", headers=headers).text == "ab"
    (server,) = (span for span in exporter.get_finished_spans() if span.kind is SpanKind.SERVER)
    assert {name: (server.attributes or {}).get(name) for name in ("user.id", "credits.user_id")} == {
        "user.id": "bob",
        "credits.user_id": "bob",
    }


SAMPLERS = st.recursive(
    st.sampled_from([sampling.ALWAYS_ON, sampling.ALWAYS_OFF, sampling.TraceIdRatioBased(0.5)]),
    lambda parts: st.builds(sampling.ParentBased, parts, parts, parts, parts, parts),
    max_leaves=8,
)
PARENTS = st.none() | st.builds(
    lambda remote, sampled: SpanContext(1, 2, remote, TraceFlags(int(sampled)), TraceState([("a", "b")])),
    st.booleans(),
    st.booleans(),
)


@given(SAMPLERS, PARENTS, st.integers(1, 2**128 - 1))
def test_what_a_sampler_drops_is_recorded_and_nothing_else_changes(
    sampler: sampling.Sampler, parent: SpanContext | None, trace_id: int
) -> None:
    """However the app's sampler is made of others: what it drops is only recorded, with its attributes, the rest is as it was."""
    context = None if parent is None else set_span_in_context(NonRecordingSpan(parent))
    ours, whole = (
        made.should_sample(context, trace_id, "call", attributes={"credits.action_type": "chat"})
        for made in (recording(recording(sampler)), RecordingSampler(sampler))
    )
    assert (ours.decision, ours.attributes, ours.trace_state) == (whole.decision, whole.attributes, whole.trace_state)
    assert ours.decision is not sampling.Decision.DROP
    assert recording(sampler).get_description() == sampler.get_description()


class Elsewhere:
    """A finished span of an SDK that keeps nothing where ours looks: it gives out what the interface says."""

    def __init__(self, span: ReadableSpan) -> None:
        self.attributes, self.context, self.kind, self.name = span.attributes, span.context, span.kind, span.name
        self.instrumentation_scope, self.resource = span.instrumentation_scope, span.resource
        self.parent, self.events, self.links, self.status = span.parent, span.events, span.links, span.status
        self.start_time, self.end_time, self.dropped_attributes = span.start_time, span.end_time, 0


def test_a_span_that_keeps_its_parts_elsewhere_is_usage_all_the_same() -> None:
    """Where the SDK's spans do not have the parts that are read, what they give out is read."""
    exporter, accepted = InMemorySpanExporter(), []
    with watched(exporter).get_tracer("app").start_as_current_span("call", attributes={"gen_ai.system": "openai"}):
        pass
    settings = Settings(charge_genai=True)
    processor = CreditsSpanProcessor(lambda span, present: accepted.append(dict(present)), lambda _: True, settings)
    with usage_context("ada"):
        processor.on_end(Elsewhere(exporter.get_finished_spans()[0]))
    assert accepted == [{"gen_ai.system": "openai", "credits.user_id": "ada"}]
