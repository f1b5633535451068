"""The traps that make a credit bill wrong (T1 to T16, as measured), each on recordings of what was really sent.

Recordings are of ../recordings (the shared samples) and ../recordings/more. Truth is what the provider's stand-in served.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from support.chain import Chain
from support.more_recordings import Charged, charge_requests, spans_of

FOLDER = Path(__file__).parents[1] / "recordings"
SAMPLES = {case["id"]: case for case in json.loads((FOLDER / "index.json").read_text("utf-8"))["cases"]}
CLASSES = {
    "input_token": "input_uncached",
    "cache_read_token": "cache_read",
    "cache_write_token": "cache_write",
    "output_token": "output_total",
}


def requests(case: str, signal: str = "traces") -> list[bytes]:
    """The recorded requests of a case, in the order of their arrival."""
    return [(FOLDER / file["path"]).read_bytes() for file in SAMPLES[case]["files"] if file["signal"] == signal]


def truth(case: str) -> dict[str, int]:
    """What was used, by unit."""
    totals = SAMPLES[case]["true_usage"]["totals"]
    return {unit: totals[name] for unit, name in CLASSES.items() if totals[name]}


def charged(chain: Chain, *cases: str) -> dict[str, Charged]:
    """What becomes of cases, each with itself as the payer."""
    found = charge_requests(chain, [(case, payload) for case in cases for payload in requests(case)])
    chain.assert_totals_are_the_events()
    return found


def assert_exact(chain: Chain, *cases: str) -> None:
    """Each case is charged its truth."""
    found = charged(chain, *cases)
    assert {case: dict(found[case].units) for case in cases} == {case: truth(case) for case in cases}


def assert_waiting(chain: Chain, reason: str, *cases: str) -> None:
    """Nothing of the cases is charged; they wait for this reason."""
    found = charged(chain, *cases)
    assert {case: (found[case].events, set(found[case].reasons)) for case in cases} == dict.fromkeys(
        cases, (0, {reason})
    )


def changed(payload: bytes, change: Callable[[Span], None]) -> bytes:
    """A request with each of its spans changed."""
    request = ExportTraceServiceRequest.FromString(payload)
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                change(span)
    return request.SerializeToString()


def test_t01_sdk_and_an_instrumentation_of_it(chain: Chain) -> None:
    """The Anthropic SDK's own spans beside any instrumentation's are one charge, of the true tokens."""
    assert_exact(chain, "sdk+ga-anthropic.stream_cached", "sdk+oi-anthropic.cached", "sdk+ollm-anthropic.cached")


def test_t02_a_framework_and_the_sdk_below_it(chain: Chain) -> None:
    """LangChain's span and the SDK's are one charge, also in two traces; where no id tells, the second one waits, and so it
    does where it may be wrong."""
    waits = {
        "oi-langchain__oi-openai__oi-anthropic.openai_stream_usage": "possible_copy",
        "oi-langchain__oi-openai__oi-anthropic.openai_responses": "possible_copy",
        "oi-langchain__ga-anthropic__ga-openai.anthropic_stream": "emitter_unreliable",
        "ollm-langchain__ollm-openai__ollm-anthropic.openai_responses": "possible_copy",
    }
    found = charge_requests(chain, [(case, spans_of(case) or b"") for case in waits])
    assert {case: (found[case].events, found[case].reasons) for case in waits} == {
        case: (1, [reason]) for case, reason in waits.items()
    }
    chain.empty()
    assert_exact(chain, "oi-langchain+oi-openai.invoke", "ga-langchain+ga-openai.stream_usage")


def by_scope(payload: bytes) -> list[bytes]:
    """A request with the spans of each scope in a request of its own."""
    whole = ExportTraceServiceRequest.FromString(payload)
    parts = []
    for resource in whole.resource_spans:
        for scope in resource.scope_spans:
            part = ExportTraceServiceRequest()
            part.resource_spans.add(resource=resource.resource).scope_spans.append(scope)
            parts.append(part.SerializeToString())
    return parts


@pytest.mark.parametrize("backwards", [False, True], ids=["as sent", "backwards"])
def test_t02_in_inserts_of_their_own(chain: Chain, backwards: bool) -> None:
    """Of a framework's span and the SDK's in two traces, the one that comes second waits, whichever it is."""
    case = "oi-langchain__oi-openai__oi-anthropic.openai_stream_usage"
    for part in by_scope(spans_of(case) or b"")[:: -1 if backwards else 1]:
        found = charge_requests(chain, [(case, part)])[case]
    assert (found.events, found.reasons) == (1, ["possible_copy"])
    chain.assert_totals_are_the_events()


def test_t03_streams_whose_output_is_counted_too_high(chain: Chain) -> None:
    """OpenLLMetry's Anthropic streams, whose output is wrong, are never charged."""
    streams = (
        "stream_cached",
        "stream_start1",
        "stream_multi_delta",
        "stream_tool",
        "mgr_stream_cached",
        "mgr_stream_final",
    )
    assert_waiting(chain, "emitter_unreliable", *[f"ollm-anthropic.{case}" for case in streams])


def test_t04_cached_tokens_are_not_added_where_they_are_included(chain: Chain) -> None:
    """2697 tokens of input, 2560 of them cached, are 2697 tokens and not 5257."""
    assert_exact(chain, "ga-anthropic.cached", "ollm-anthropic.cached", "sdk.cached", "oi-anthropic.stream_cached")
    assert {event["input_tokens"] for event in chain.events()} == {2697}


def test_t05_cached_tokens_are_added_where_they_are_left_out(chain: Chain) -> None:
    """OpenLIT's 137 tokens of Anthropic input are 2697 with the cached ones."""
    assert_exact(chain, "openlit.cached")
    assert [event["input_tokens"] for event in chain.events()] == [2697]


def test_t06_streams_that_lose_cached_tokens(chain: Chain) -> None:
    """A stream of OpenLIT's that may have lost its cached tokens waits; one that reports them is charged exactly."""
    assert_exact(chain, "openlit.stream_cached", "openlit.async_stream_cached")
    chain.empty()
    assert_waiting(chain, "emitter_unreliable", "openlit.stream_tool")


def test_t07_invented_tokens(chain: Chain) -> None:
    """Counts that OpenLIT invents for a stream without usage (4 and 8 for 1188 and 93) are not charged."""

    def invent(span: Span) -> None:
        span.attributes.add(key="gen_ai.request.stream").value.bool_value = True
        for attribute in list(span.attributes):
            if attribute.key in ("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"):
                attribute.value.int_value = 4 if "input" in attribute.key else 8
            elif (
                "cache" in attribute.key
                or "total_tokens" in attribute.key
                or attribute.key == "gen_ai.client.token.usage"
            ):
                span.attributes.remove(attribute)
        first = [attribute for attribute in span.attributes if attribute.key == "gen_ai.request.stream"][:-1]
        for attribute in first:
            span.attributes.remove(attribute)

    found = charge_requests(chain, [("invented", changed(payload, invent)) for payload in requests("openlit-o.plain")])
    assert (found["invented"].events, found["invented"].reasons) == (0, ["emitter_unreliable"])


def test_t08_streams_without_usage_and_placeholders(chain: Chain) -> None:
    """A span without usage, with zeros, or with Anthropic's placeholder of 4 output tokens is no usage of that size: it waits."""
    silent = (
        "ga-openai.stream_nousage",
        "oi-openai.stream_nousage",
        "oi-anthropic.raw_response_stream",
        "ga-anthropic.cancel_close",
    )
    assert_waiting(chain, "usage_unknown", *silent, "oi-anthropic.die_midstream", "ollm-openai.cancel_close")


def test_t09_spans_that_never_come(chain: Chain) -> None:
    """What an instrumentation does not tell at all is not made up from its metrics: nothing is charged."""
    for case in ("ollm-anthropic.die_midstream", "v2.async_task_cancel", "extra.sampler_off_ollm"):
        assert not requests(case)
        chain.send(
            *[ExportMetricsServiceRequest.FromString(payload) for payload in requests(case, "metrics")],
            charge_genai=True,
        )
    assert not chain.events()


def test_t10_metrics_that_repeat_the_spans(chain: Chain) -> None:
    """The token histograms of a call that its span charged charge nothing more."""
    assert_exact(chain, "ga-anthropic.cached")
    for payload in requests("ga-anthropic.cached", "metrics"):
        chain.send(
            ExportMetricsServiceRequest.FromString(payload), charge_genai=True, default_user="ga-anthropic.cached"
        )
    assert len(chain.events()) == 1


def test_t11_a_span_that_is_sent_twice(chain: Chain) -> None:
    """Two processors on one endpoint, or an exporter's retry, are one charge."""
    assert_exact(chain, "extra.dup_two_processors")


def test_t12_reasoning_is_part_of_output_and_embeddings_have_none(chain: Chain) -> None:
    """93 output tokens, of which 64 reasoning, are 93; tokens that were embedded are input."""
    assert_exact(
        chain,
        "oi-openai.cached_reasoning",
        "ga-openai.cached_reasoning",
        "openlit-o.cached_reasoning",
        "ollm-openai.embeddings",
    )


def test_t13_no_cache_split(chain: Chain) -> None:
    """A prompt that may have been cached, of an emitter that does not tell, waits; a shorter one is charged."""
    assert_waiting(chain, "cache_unknown", "v2.cached_reasoning", "v2.stream_usage", "v2.cache_write")
    chain.empty()
    assert_exact(chain, "v2.plain", "v2.embeddings")


def test_t14_spans_are_not_requests(chain: Chain) -> None:
    """Three HTTP attempts below one call are one charge, and the spans of a web framework none."""
    assert_exact(chain, "ga-openai+httpx.retry_ok")
    chain.empty()
    charged(chain, "fastapi.semconv_http", "fastapi-native.all")
    assert {event["user_id"] for event in chain.events()} <= {"fastapi-native.all"}


def test_t15_the_client_does_not_name_the_payer(chain: Chain) -> None:
    """The user that a client put into its baggage pays nothing: an attribute that no setting names is not read."""
    sent = [("e2e.contrib", payload) for payload in requests("e2e.contrib")]
    charge_requests(chain, sent, user_attributes=("credits.user_id", "user.id", "enduser.id"), default_user="")
    assert not chain.events()
    assert set(chain.reasons()) == {"no_user"}


@pytest.mark.parametrize("case", ["celery.basic_import"])
def test_t16_attempts_of_a_job_are_calls(chain: Chain, case: str) -> None:
    """Each attempt of a retried task called the provider, which billed it: each is charged."""
    found = charged(chain, case)
    totals = SAMPLES[case]["true_usage"]["totals"]
    assert found[case].events == totals["completed_calls"]
    assert dict(found[case].units) == truth(case)
