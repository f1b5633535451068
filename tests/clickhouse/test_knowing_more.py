"""Two spans of one LLM call, of which one knows what the other does not: a compaction, a mode, a country, a tier, a lifetime."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from otel_credits_aggregator.replay import replay_batch, run_replay
from support.chain import Chain
from support.explicit_calls import price, said
from support.more_recordings import PRICES, bill, spans_of
from support.otlp_build import (
    CACHE_CREATION,
    CACHE_READ,
    FINISH_REASONS,
    INPUT,
    OPERATION,
    OUTPUT,
    PROVIDER,
    RESPONSE_ID,
    RESPONSE_MODEL,
    resource_spans,
    span,
    traces,
)
from support.samples import others_long

# Instrumentations that report the counts of a call and nothing else that sets its price.
UNKNOWING = {
    "opentelemetry.instrumentation.genai.anthropic": ("1.3b0", 2697),
    "opentelemetry.instrumentation.anthropic": ("0.62.4", 2697),
    "openlit.instrumentation.anthropic": ("", 137),
    "pydantic-ai": ("2.68.0", 2697),
}
COMPACTED = others_long(
    [f"{emitter}-anthropic.compacted" for emitter in ("oi", "own", "logfire")], short=["oi-anthropic.compacted"]
)
OWN_PRICES = others_long(
    [f"{emitter}-anthropic.{name}" for emitter in ("oi", "logfire") for name in ("fast", "country")],
    short=["logfire-anthropic.fast"],
)
TIMES_MORE = 6


@pytest.fixture(params=others_long(UNKNOWING, short=list(UNKNOWING)[:1]))
def scope(request: pytest.FixtureRequest) -> str:
    """Each instrumentation that knows of the counts alone."""
    return str(request.param)


@pytest.fixture
def sent(chain: Chain) -> Callable[..., None]:
    """Sends requests as one insert, with one price for each unit."""
    chain.command("TRUNCATE TABLE credit_action_costs")
    for unit, credits in PRICES.items():
        price(chain, str(credits), unit)

    def send(*requests: ExportTraceServiceRequest) -> None:
        chain.send(*requests, charge_genai=True, default_user="ada", user_attributes=("no.such.attribute",))
        assert chain.differences() == []
        chain.assert_totals_are_the_events()

    return send


def recorded(case: str) -> ExportTraceServiceRequest:
    """The span of a recording that knows something of its call."""
    return ExportTraceServiceRequest.FromString(spans_of(case) or b"")


def told(request: ExportTraceServiceRequest) -> tuple[Any, str]:
    """The one span of a recording, and the response id that it tells."""
    (one,) = request.resource_spans[0].scope_spans[0].spans
    texts = {attribute.key: attribute.value.string_value for attribute in one.attributes}
    return one, texts[RESPONSE_ID] if RESPONSE_ID in texts else json.loads(texts["output.value"])["id"]


def unknowing(request: ExportTraceServiceRequest, scope: str, **changed: Any) -> ExportTraceServiceRequest:
    """What an instrumentation that knows of the counts alone says of the same call; by its id, unless something is changed."""
    one, response_id = told(request)
    version, counted = UNKNOWING[scope]
    attributes = {
        OPERATION: "chat",
        PROVIDER: "anthropic",
        RESPONSE_MODEL: "claude-sonnet-4-5-20250929",
        RESPONSE_ID: response_id,
        FINISH_REASONS: ["end_turn"],
        INPUT: counted,
        OUTPUT: 61,
        CACHE_READ: 2048,
        CACHE_CREATION: 512,
    }
    fields: dict[str, Any] = {"end_ns": one.end_time_unix_nano} | changed
    attributes |= fields.pop("attributes", {})
    spans = [span({name: value for name, value in attributes.items() if value is not None}, **fields)]
    return ExportTraceServiceRequest(resource_spans=[resource_spans(spans, scope=scope, version=version)])


def in_all_ways(case: str, scope: str) -> list[tuple[ExportTraceServiceRequest, ExportTraceServiceRequest]]:
    """The two spans of one call: with one id, and as parent and child of which one has no id, or neither."""
    found = [(knowing := recorded(case), unknowing(knowing, scope))]
    for known_id in (True, False):
        for child in (True, False):
            knowing = recorded(case)
            one, response_id = told(knowing)
            if not known_id:
                _hide(one, response_id)
            place = {"parent_span_id": one.span_id} if child else {"span_id": b"p" * 8}
            if not child:
                one.parent_span_id = b"p" * 8
            for sent_id in [None] if known_id else [None, "msg_another_that_is_known"]:
                attributes = {RESPONSE_ID: sent_id}
                found.append(
                    (knowing, unknowing(knowing, scope, trace_id=one.trace_id, attributes=attributes, **place))
                )
    return found


def _hide(one: Any, response_id: str) -> None:
    for attribute in one.attributes:
        if response_id in attribute.value.string_value:
            text = attribute.value.string_value
            attribute.value.string_value = text.replace(response_id, "")


def charged(chain: Chain) -> list[dict[str, Decimal]]:
    """What each event counts, but for what is 0."""
    return [{unit: n for unit, n in event["units"].items() if n} for event in chain.events()]


def replay_all(chain: Chain) -> None:
    waiting = chain.rows("SELECT toString(quarantine_id) AS id FROM credit_quarantine ORDER BY received_at, id")
    run_replay(chain.client, replay_batch([row["id"] for row in waiting]))


@pytest.mark.parametrize("case", COMPACTED)
def test_a_call_waits_as_a_whole_if_one_of_its_spans_knows_that_not_all_of_it_is_counted(
    chain: Chain, sent: Callable[..., None], case: str, scope: str
) -> None:
    """A compaction that one span tells of is not left out, however the other span is known to be of the same call."""
    for pair in in_all_ways(case, scope):
        for order in (pair, pair[::-1]):
            chain.empty()
            sent(*order)
            assert (charged(chain), chain.reasons()) == ([], ["emitter_unreliable"])
            replay_all(chain)
            assert (charged(chain), chain.reasons()) == ([], ["emitter_unreliable"])


@pytest.mark.parametrize("case", OWN_PRICES)
def test_a_call_is_charged_as_the_span_tells_it_that_knows_of_its_price(
    chain: Chain, sent: Callable[..., None], case: str, scope: str
) -> None:
    """A mode or a country that one span tells of sets the price: without one the call waits, and is then charged at it, once."""
    knowing = recorded(case)
    sent(unknowing(knowing, scope), knowing)
    assert (charged(chain), chain.reasons()) == ([], ["unpriced"])
    for unit in bill(case):
        price(chain, str(TIMES_MORE * PRICES[unit.rsplit("_", 1)[0]]), unit)
    replay_all(chain)
    assert (charged(chain), chain.reasons()) == ([bill(case)], [])
    for pair in in_all_ways(case, scope):
        chain.empty()
        sent(*pair)
        assert (charged(chain), chain.reasons()) == ([bill(case)], [])


@pytest.mark.parametrize("case", ["oi-anthropic.only_1h", "oi-anthropic.both_lifetimes_stream", "oi-openai.flex"])
def test_a_lifetime_and_a_tier_are_not_lost_beside_a_span_that_does_not_tell_them(
    chain: Chain, sent: Callable[..., None], case: str
) -> None:
    """Tokens written for an hour, and a tier, are charged as such if one of two spans tells it, whichever is preferred."""
    for unit in bill(case):
        price(chain, "0.5", unit)
    knowing = recorded(case)
    other = unknowing(knowing, "opentelemetry.instrumentation.genai.anthropic")
    sent(other, knowing)
    assert (charged(chain), chain.reasons()) == ([bill(case)], [])


def test_a_span_that_came_before_holds_back_one_that_does_not_know(
    chain: Chain, sent: Callable[..., None], scope: str
) -> None:
    """A call that waits for what one span knows is charged by no other span of it in a later insert, nor in a replay."""
    for case in ("oi-anthropic.compacted", "oi-anthropic.fast"):
        for knowing, other in in_all_ways(case, scope):
            chain.empty()
            sent(knowing)
            waiting = chain.reasons()
            sent(other)
            sent(other)
            replay_all(chain)
            assert (charged(chain), chain.reasons()) == ([], waiting)
            assert chain.outcomes() == {"quarantined": 1, "duplicate": 2}


def test_what_was_charged_before_stays_charged(chain: Chain, sent: Callable[..., None], scope: str) -> None:
    """If the span that does not know came in an earlier insert, its charge stays, and the one that knows is a duplicate."""
    knowing = recorded("oi-anthropic.compacted")
    sent(unknowing(knowing, scope))
    sent(knowing)
    assert (len(charged(chain)), chain.reasons()) == (1, [])
    assert chain.outcomes() == {"charged": 1, "duplicate": 1}


def test_a_span_that_waits_for_its_price_does_not_come_back_beside_one_that_knows_more(
    chain: Chain, sent: Callable[..., None], scope: str
) -> None:
    """A price that is added charges no span of a call that cannot be known from its counts."""
    chain.command("TRUNCATE TABLE credit_action_costs")
    knowing = recorded("oi-anthropic.compacted")
    sent(unknowing(knowing, scope), knowing)
    for unit, credits in PRICES.items():
        price(chain, str(credits), unit)
    replay_all(chain)
    assert (charged(chain), chain.reasons()) == ([], ["emitter_unreliable"])


def test_an_emitter_that_is_merely_unreliable_stops_no_other(chain: Chain, sent: Callable[..., None]) -> None:
    """A stream whose output one instrumentation counts wrong is charged as the other one counts it."""
    call = recorded("oi-anthropic.compacted")
    streamed = {"gen_ai.is_streaming": True}
    sent(
        unknowing(call, "opentelemetry.instrumentation.anthropic", attributes=streamed),
        unknowing(call, "opentelemetry.instrumentation.genai.anthropic"),
    )
    assert (len(charged(chain)), chain.reasons()) == (1, [])
    assert chain.outcomes() == {"charged": 1, "duplicate": 1}


def test_what_the_app_says_goes_before_what_a_span_knows(chain: Chain, sent: Callable[..., None], scope: str) -> None:
    """An app that charges the call itself knows what it wants for it: that is charged, and all the spans of it are duplicates."""
    knowing = recorded("oi-anthropic.compacted")
    _, response_id = told(knowing)
    usage = traces(said({RESPONSE_ID: response_id}), scope="app")
    sent(knowing, unknowing(knowing, scope), usage)
    assert (chain.charges(), chain.reasons()) == ([Decimal(3)], [])
    assert chain.outcomes() == {"charged": 1, "duplicate": 2}


def test_other_calls_beside_it_are_charged(chain: Chain, sent: Callable[..., None], scope: str) -> None:
    """A call with the same counts under the same parent, or a child with an id of its own, is another call."""
    knowing = recorded("oi-anthropic.compacted")
    one, _ = told(knowing)
    child = {RESPONSE_ID: "msg_01_of_a_child_of_it"}
    beside = {RESPONSE_ID: "msg_02_of_one_beside_it"}
    one.parent_span_id = b"p" * 8
    sent(
        knowing,
        unknowing(knowing, scope, trace_id=one.trace_id, parent_span_id=one.span_id, attributes=child),
        unknowing(knowing, scope, trace_id=one.trace_id, parent_span_id=b"p" * 8, attributes=beside),
    )
    assert (len(charged(chain)), chain.reasons()) == (2, ["emitter_unreliable"])
