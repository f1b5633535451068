"""Google's SDK calls Python functions itself, and the model again with what they returned: one span of several calls, with the
counts of the last one."""

from decimal import Decimal

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from otel_credits_aggregator.batch_insert import named_attributes
from otel_credits_aggregator.otlp import Signal
from otel_credits_aggregator.privacy import stripped
from otel_credits_aggregator.replay import replay_batch, run_replay
from support.chain import Chain
from support.more_recordings import CASES, Charged, bill, charge, charge_requests, spans_of

ASKED = ("afc", "afc_async", "afc_async_sync_tool", "afc_stream", "afc_async_stream", "afc_thrice")
# Functions that the model may ask for, but that it did not, or that someone else calls.
ONE_CALL_EACH = (
    "afc_chat",
    "afc_chat_stream",
    "afc_not_asked",
    "afc_not_asked_stream",
    "afc_off",
    "declared",
    "declared_stream",
)
NESTED = ("ga__oi-google", "oi__ga-google")


def cases(emitters: tuple[str, ...], names: tuple[str, ...]) -> list[str]:
    """The recordings of each emitter with each name."""
    return [f"{emitter}.{name}" for emitter in emitters for name in names]


def span_by_span(case: str) -> list[ExportTraceServiceRequest]:
    """The spans of a recording in the order in which they ended, each in a request of its own."""
    payload = spans_of(case)
    assert payload is not None
    found = []
    for resource in ExportTraceServiceRequest.FromString(payload).resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                request = ExportTraceServiceRequest()
                request.resource_spans.add(resource=resource.resource).scope_spans.add(scope=scope.scope, spans=[span])
                found.append((span.end_time_unix_nano, request))
    return [request for _, request in sorted(found, key=lambda one: one[0])]


def replay_all(chain: Chain) -> None:
    """Replays whatever waits."""
    waiting = chain.rows("SELECT toString(quarantine_id) AS id FROM credit_quarantine ORDER BY received_at, id")
    run_replay(chain.client, replay_batch([row["id"] for row in waiting]))


@pytest.mark.parametrize("emitter", ["ga-google", "oi-google", *NESTED])
def test_the_last_of_several_calls_is_not_charged_as_if_it_were_all(chain: Chain, emitter: str) -> None:
    """A span of several calls waits, in one insert and with each of its spans in an insert of its own."""
    wanted = cases((emitter,), ("afc", "afc_stream") if emitter in NESTED else ASKED)
    found = charge(chain, wanted)
    assert {case: found[case].events for case in wanted} == dict.fromkeys(wanted, 0)
    assert {reason for case in wanted for reason in found[case].reasons} == {"emitter_unreliable"}
    chain.empty()
    for case in wanted:
        for request in span_by_span(case):
            chain.send(request, charge_genai=True, default_user=case)
    assert not chain.events()
    assert set(chain.reasons()) == {"emitter_unreliable"}
    chain.assert_sums_agree()


@pytest.mark.parametrize("emitter", ["ga-google", "oi-google"])
def test_a_call_that_might_have_been_several_is_charged(chain: Chain, emitter: str) -> None:
    """Each call is charged where each has its own span: chats, functions that are not asked for, those that the app calls."""
    wanted = cases((emitter,), ONE_CALL_EACH)
    found = charge(chain, wanted)
    assert {case: dict(found[case].units) for case in wanted} == {case: bill(case) for case in wanted}


def test_a_replay_does_not_charge_the_last_call_either(chain: Chain) -> None:
    """What waits because it tells of the last call only waits again when it is replayed, also after the spans below it are
    forgotten."""
    assert charge(chain, cases(("ga-google", "oi-google"), ASKED))
    waiting = chain.reasons()
    chain.command("TRUNCATE TABLE call_links")
    replay_all(chain)
    assert not chain.events()
    assert chain.reasons() == waiting


def test_a_replay_knows_what_only_the_answer_told(chain: Chain) -> None:
    """What OpenInference tells within the JSON of an answer alone (how long cache writes live, the tier) is charged like that
    after it waited for a price, although the answer was not kept."""
    wanted = ("oi-anthropic.only_1h", "oi-anthropic.both_lifetimes_stream", "oi-openai.flex")
    chain.command("TRUNCATE TABLE credit_action_costs")
    for case in wanted:
        for request in span_by_span(case):
            chain.send(request, charge_genai=True, default_user=case)
    assert set(chain.reasons()) == {"unpriced"}
    rows = [[unit, 1, 0] for unit in {unit for case in wanted for unit in bill(case)}]
    chain.client.insert("credit_action_costs", rows, column_names=["unit", "credits_per_unit", "effective_from"])
    replay_all(chain)
    found = {
        event["user_id"]: {unit: n for unit, n in event["units"].items() if n and unit != "reasoning_token"}
        for event in chain.events()
    }
    assert found == {case: bill(case) for case in wanted}


def test_a_request_that_was_kept_raw_is_charged_like_the_original(chain: Chain) -> None:
    """Of a recording without what was said, as a request is kept that the store refused, the charges are those of the whole."""
    told = [
        (case, payload)
        for case in CASES
        if case.startswith(("oi-", "ollm-langchain", "openlit-")) and (payload := spans_of(case)) is not None
    ]
    whole = _charges(charge_requests(chain, told))
    chain.empty()
    kept = [(case, stripped(Signal.TRACES, payload, (), named_attributes(chain.client))) for case, payload in told]
    assert _charges(charge_requests(chain, kept)) == whole


def _charges(found: dict[str, Charged]) -> dict[str, tuple[dict[str, Decimal], set[str]]]:
    return {case: (dict(charged.units), set(charged.reasons)) for case, charged in found.items()}
