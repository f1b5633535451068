"""Sampling, and the app's tracer provider: all usage is charged, and the app's own traces stay as they were.

Each scenario runs in a process of its own, as a global tracer provider can be set only once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from typing import Any

import pytest
from support.otlp_sink import OtlpSink, SinkSpan
from support.samples import others_long

PRELUDE = """
    import json, random, sys
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    from opentelemetry.sdk.trace.id_generator import IdGenerator
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, TraceIdRatioBased
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context
    import otel_credits

    class Seeded(IdGenerator):
        def __init__(self): self.random = random.Random(7)
        def generate_trace_id(self): return self.random.getrandbits(128)
        def generate_span_id(self): return self.random.getrandbits(64)

    exporter = InMemorySpanExporter()
    def provider(ratio=0.01):
        made = TracerProvider(sampler=ParentBased(TraceIdRatioBased(ratio)), id_generator=Seeded())
        made.add_span_processor(SimpleSpanProcessor(exporter))
        return made
    def own_spans():
        return [(f"{s.context.trace_id:x}", f"{s.context.span_id:x}", s.name) for s in exporter.get_finished_spans()]
    def serve(tracer, count, track):
        for number in range(count):
            with tracer.start_as_current_span("request"):
                with tracer.start_as_current_span("work"):
                    if track:
                        otel_credits.track_compute_usage(f"u{number}", "a", credits=1)
"""


def run_app(code: str, sink: OtlpSink | None = None, **env: str) -> Any:
    """Run the prelude and `code` in a fresh interpreter; what it prints is JSON."""
    if sink is not None:
        env["OTEL_CREDITS_ENDPOINT"] = sink.endpoint
    if "PYTHONPATH" in os.environ:
        env["PYTHONPATH"] = os.environ["PYTHONPATH"]
    source = textwrap.dedent(PRELUDE) + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=120, env=env, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return json.loads(done.stdout)


def without_number(span: SinkSpan) -> dict[str, Any]:
    """A usage's attributes without its number among the usages of the process."""
    return {name: value for name, value in span.attributes.items() if name != "credits.seq"}


WITHOUT_US = """
    tracer = provider().get_tracer("app")
    serve(tracer, 3000, track=False)
    print(json.dumps(own_spans()))
"""


@pytest.mark.parametrize(
    "set_up",
    [
        "p = provider(); trace.set_tracer_provider(p); otel_credits.configure()",
        "otel_credits.configure(); p = provider(); trace.set_tracer_provider(p)",
        "p = provider(); trace.set_tracer_provider(p); t = trace.get_tracer('app'); otel_credits.configure()",
        "t = trace.get_tracer('app'); otel_credits.configure(); trace.set_tracer_provider(provider())",
    ],
    ids=["app first", "credits first", "tracer before credits", "proxy tracer before both"],
)
def test_one_percent_traced_all_charged(sink: OtlpSink, set_up: str) -> None:
    """An app that traces 1 % is charged for 100 %, and its own exporter gets the very same spans as without us."""
    code = f"""
    {set_up}
    tracer = trace.get_tracer("app")
    serve(tracer, 3000, track=True)
    assert otel_credits.flush(30)
    print(json.dumps(own_spans()))
    """
    own = run_app(code, sink)
    alone = run_app(WITHOUT_US)
    assert own == alone
    assert 0.005 < len(own) / 6000 < 0.02
    assert sorted(s.attributes["user.id"] for s in sink.spans()) == sorted(f"u{number}" for number in range(3000))


# Each sampler as the app would choose it, by code or by environment.
SAMPLERS = {
    "never": ("ALWAYS_OFF", {"OTEL_TRACES_SAMPLER": "always_off"}),
    "1 %": ("TraceIdRatioBased(0.01)", {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01"}),
    "1 %, parent-based": (
        "ParentBased(TraceIdRatioBased(0.01))",
        {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01"},
    ),
    "always": ("ALWAYS_ON", {"OTEL_TRACES_SAMPLER": "always_on"}),
    "parent-based": ("ParentBased(ALWAYS_ON)", {"OTEL_TRACES_SAMPLER": "parentbased_always_on"}),
}
# Requests of clients that sampled, of clients that did not, and of none; tracked usages, LLM spans, spans of the app.
MIXED = """
    def remote(number):
        flags = TraceFlags(number % 2)
        parent = SpanContext(number + 1, number + 1, True, flags)
        return set_span_in_context(NonRecordingSpan(parent)) if number % 3 else None
    def mixed(tracer, ours):
        for number in range(600):
            with tracer.start_as_current_span("request", context=remote(number)):
                attributes = {"gen_ai.operation.name": "chat", "user.id": f"llm{number}"}
                with tracer.start_as_current_span("chat m", attributes=attributes):
                    pass
                attributes = {"credits.action_type": "own", "user.id": f"own{number}"}
                with tracer.start_as_current_span("usage", attributes=attributes):
                    pass
                if ours:
                    otel_credits.track_compute_usage(f"tracked{number}", "a", credits=1)
"""


@pytest.mark.parametrize("by", others_long(["code", "environment"], short={"environment"}))
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_whatever_is_sampled_all_is_charged(sink: OtlpSink, sampler: str, by: str) -> None:
    """Under every sampler, set by code or by the environment, with parents that are sampled and others that are not:
    each usage and each LLM call is sent, and the app's own exporter gets the very same spans as without us."""
    expression, variables = SAMPLERS[sampler]
    own = f"TracerProvider(sampler={expression if by == 'code' else None}, id_generator=Seeded())"
    env = variables if by == "environment" else {}
    code = """
    made = {own}
    made.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(made)
    {configure}
    mixed(trace.get_tracer("app"), {ours})
    {flush}
    print(json.dumps(own_spans()))
    """
    ours = {"configure": "otel_credits.configure(charge_genai=True)", "flush": "assert otel_credits.flush(30)"}
    traced = run_app(MIXED + code.format(own=own, ours=True, **ours), sink, **env)
    alone = run_app(MIXED + code.format(own=own, ours=False, configure="", flush=""), **env)
    assert traced == alone
    assert (len(traced) == 0) == (sampler == "never")
    users = sorted(span.attributes["user.id"] for span in sink.spans())
    assert users == sorted(f"{kind}{number}" for kind in ("llm", "own", "tracked") for number in range(600))


def test_client_that_says_not_sampled(sink: OtlpSink) -> None:
    """A client's traceparent with the sampled flag off decides about traces, not about charges."""
    code = """
    trace.set_tracer_provider(provider(1.0))
    otel_credits.configure()
    tracer = trace.get_tracer("app")
    remote = SpanContext(0xabc, 0xdef, True, TraceFlags(0))
    with tracer.start_as_current_span("request", context=set_span_in_context(NonRecordingSpan(remote))):
        otel_credits.track_compute_usage("u", "a", credits=1)
        with tracer.start_as_current_span("mine", attributes={"credits.action_type": "b", "user.id": "v"}):
            pass
    assert otel_credits.flush(60)
    print(json.dumps(own_spans()))
    """
    assert run_app(code, sink) == []
    spans = {span.attributes["credits.action_type"]: span for span in sink.spans()}
    assert spans["a"].trace_id == f"{0xABC:032x}"
    assert without_number(spans["b"]) == {"credits.action_type": "b", "user.id": "v"}


@pytest.mark.parametrize("sampler", ["ALWAYS_OFF", "ALWAYS_ON"])
def test_spans_that_the_app_makes_itself(sink: OtlpSink, sampler: str) -> None:
    """A span with credits.action_type is sent whatever the sampler says, with the attributes it started with; other
    spans are not sent."""
    code = f"""
    trace.set_tracer_provider(TracerProvider(sampler={sampler}))
    otel_credits.configure()
    tracer = trace.get_tracer("app")
    with tracer.start_as_current_span("not usage"):
        with tracer.start_as_current_span("usage", attributes={{"user.id": "u", "credits.units.page": 3}}) as span:
            span.set_attribute("credits.action_type", "export")
    with tracer.start_as_current_span("chat m", attributes={{"gen_ai.usage.input_tokens": 5}}):
        pass
    assert otel_credits.flush(60)
    print(json.dumps(otel_credits.stats().recorded))
    """
    assert run_app(code, sink) == 1
    (span,) = sink.spans()
    assert without_number(span) == {"user.id": "u", "credits.units.page": 3, "credits.action_type": "export"}
    assert span.scope == "app"


def test_llm_spans_when_they_are_charged(sink: OtlpSink) -> None:
    """With OTEL_CREDITS_CHARGE_GENAI=on, LLM spans of any instrumentation are sent, with the user of the context."""
    code = """
    otel_credits.configure()
    tracer = trace.get_tracer("some.instrumentation")
    with otel_credits.usage_context("payer"), tracer.start_as_current_span("request"):
        tracer.start_span("chat m", attributes={"gen_ai.operation.name": "chat"}).end()
        tracer.start_span("ChatCompletion", attributes={"openinference.span.kind": "LLM"}).end()
        tracer.start_span("SELECT", attributes={"db.system": "x"}).end()
    assert otel_credits.flush(60)
    print("null")
    """
    run_app(code, sink, OTEL_CREDITS_CHARGE_GENAI="on", OTEL_TRACES_SAMPLER="always_off")
    assert {span.name: span.attributes["user.id"] for span in sink.spans()} == {
        "chat m": "payer",
        "ChatCompletion": "payer",
    }


def test_spans_of_the_kinds_that_are_forwarded(sink: OtlpSink) -> None:
    """OTEL_CREDITS_FORWARD_SPANS sends spans of its kinds, sampled or not, with the user of the context, also those without
    attributes; a kind that there is not is an error, and nothing is forwarded."""
    code = """
    from opentelemetry.trace import SpanKind
    otel_credits.configure()
    tracer = trace.get_tracer("app")
    with tracer.start_as_current_span("nobody's", kind=SpanKind.SERVER):
        with otel_credits.usage_context("payer"):
            for kind in SpanKind:
                tracer.start_span(kind.name, kind=kind).end()
    assert otel_credits.flush(60)
    print("null")
    """
    run_app(code, sink, OTEL_CREDITS_FORWARD_SPANS="surfer", OTEL_TRACES_SAMPLER="always_off")
    assert sink.spans() == []
    run_app(code, sink, OTEL_CREDITS_FORWARD_SPANS=" server, Consumer", OTEL_TRACES_SAMPLER="always_off")
    assert {span.name: span.attributes.get("credits.user_id") for span in sink.spans()} == {
        "nobody's": None,
        "SERVER": "payer",
        "CONSUMER": "payer",
    }


def test_user_survives_many_attributes(sink: OtlpSink) -> None:
    """A span that lost its oldest attributes past 128 is sent with the user of the context all the same."""
    code = """
    otel_credits.configure()
    tracer = trace.get_tracer("app")
    with otel_credits.usage_context("payer"), tracer.start_as_current_span("usage") as span:
        for number in range(200):
            span.set_attribute(f"filler.{number}", number)
        span.set_attribute("credits.action_type", "a")
    assert otel_credits.flush(60)
    print("null")
    """
    run_app(code, sink)
    assert sink.spans()[0].attributes["credits.user_id"] == "payer"


def test_usage_survives_many_attributes(sink: OtlpSink) -> None:
    """So is a span that lost what made it a usage, and its amount; and a client's baggage on it does not pay."""
    code = """
    otel_credits.configure()
    tracer = trace.get_tracer("app")
    mine = {"credits.action_type": "a", "credits.amount": "0.5", "other": 1}
    with otel_credits.usage_context("payer"), tracer.start_as_current_span("usage", attributes=mine) as span:
        for number in range(200):
            span.set_attribute(f"filler.{number}", number)
        span.set_attribute("user.id", "evil")
    assert otel_credits.flush(60)
    print("null")
    """
    run_app(code, sink)
    (span,) = sink.spans()
    wanted = ("credits.action_type", "credits.amount", "credits.user_id", "filler.199", "other")
    assert [span.attributes.get(name) for name in wanted] == ["a", "0.5", "payer", 199, None]


def test_user_who_is_known_at_the_end(sink: OtlpSink) -> None:
    """A span that started before anybody knew the user is charged to the user who is known when it ends."""
    code = """
    otel_credits.configure()
    tracer = trace.get_tracer("app")
    with otel_credits.usage_context():
        span = tracer.start_span("usage", attributes={"credits.action_type": "a"})
        otel_credits.set_user("late")
    span.end()
    assert otel_credits.flush(60)
    print("null")
    """
    run_app(code, sink)
    assert sink.spans()[0].attributes["credits.user_id"] == "late"


def test_sdk_limits_do_not_cut_usage(sink: OtlpSink) -> None:
    """The SDK's limits on attributes, and a provider that cannot be touched, do not reach tracking calls."""
    code = """
    trace.set_tracer_provider(trace.NoOpTracerProvider())
    otel_credits.configure()
    otel_credits.track_compute_usage("a-long-user-id", "action", credits="0.123456789012", description="d" * 500)
    assert otel_credits.flush(60)
    print("null")
    """
    run_app(code, sink, OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT="2", OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT="5")
    (span,) = sink.spans()
    assert span.attributes["user.id"] == "a-long-user-id"
    assert span.attributes["credits.amount"] == "0.123456789012"
    assert len(span.attributes["credits.description"]) == 500


def test_service_of_a_provider_that_comes_later(sink: OtlpSink) -> None:
    """Usage names the service of the app's provider, also when that is set up after us and after the first usage."""
    code = """
    from opentelemetry.sdk.resources import Resource
    otel_credits.configure()
    otel_credits.track_compute_usage("before", "a", credits=1)
    trace.set_tracer_provider(TracerProvider(resource=Resource.create({"service.name": "shop"})))
    otel_credits.track_compute_usage("after", "a", credits=1)
    assert otel_credits.flush(60)
    print("null")
    """
    run_app(code, sink)
    assert {s.attributes["user.id"]: s.resource["service.name"] for s in sink.spans()}["after"] == "shop"


def test_capture_can_be_switched_off(sink: OtlpSink) -> None:
    """With OTEL_CREDITS_CAPTURE_SPANS=off the app's provider is left alone."""
    code = """
    p = provider(); trace.set_tracer_provider(p)
    otel_credits.configure()
    print(json.dumps(type(p.sampler).__name__))
    """
    assert run_app(code, sink, OTEL_CREDITS_CAPTURE_SPANS="off") == "ParentBased"
