"""A billing rule that is changed while the server runs: the next span goes by it, and what was charged keeps its charge."""

from __future__ import annotations

import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from support.accounting import Accounting, assert_exact, settle
from support.command import asked
from support.otlp_build import ACTION, RESPONSE_MODEL, SOME_TIME_NS, USER, span, traces
from support.otlp_clients import post
from support.processes import AggregatorProcess, wait_until

SERVER = 2
RULE = ("rules", "set", "films", "--kind", "server", "--attribute", "http.route=/films")


@pytest.fixture
def aggregator(tmp_path: Path) -> Iterator[AggregatorProcess]:
    """A running aggregator with an embedded store."""
    with AggregatorProcess(tmp_path) as started:
        yield started


def set_price(aggregator: AggregatorProcess, action: str, credits: str) -> None:
    aggregator.request("POST", "/api/v1/prices", json={"action_type": action, "credits_per_unit": credits})


def send(aggregator: AggregatorProcess, *spans: Span) -> None:
    assert post(aggregator.http_endpoint, traces(*spans).SerializeToString()).is_success


def film(end_ns: int = SOME_TIME_NS) -> Span:
    """A request of the route."""
    return span({USER: "ada", "http.route": "/films"}, kind=SERVER, end_ns=end_ns)


def charged(aggregator: AggregatorProcess) -> dict[str, tuple[str, Decimal]]:
    """Action and charge of each event, by its span."""
    settle(aggregator)
    events = aggregator.request("GET", "/api/v1/events")
    return {event["span_id"]: (event["action_type"], Decimal(event["credits_charged"])) for event in events}


def test_the_next_span_goes_by_the_changed_rule(aggregator: AggregatorProcess) -> None:
    """A span that is sent once the change was answered (so within any number of seconds) is priced by the new row: by a rule
    that is set, replaced, switched off and on again, by command and API, and by a new price. Earlier charges stay, also
    when their span is sent again."""
    first, second, unpaid, third = (film() for _ in range(4))
    set_price(aggregator, "view", "0.5")
    set_price(aggregator, "search", "2")
    asked(aggregator, *RULE, "--action", "view", "--on")
    send(aggregator, first)
    expected = {first.span_id.hex(): ("view", Decimal("0.5"))}
    assert charged(aggregator) == expected

    asked(aggregator, *RULE, "--action", "search", "--on")
    send(aggregator, second, first)
    expected[second.span_id.hex()] = ("search", Decimal(2))
    assert charged(aggregator) == expected

    aggregator.request("PUT", "/api/v1/rules/films/enabled", json={"enabled": False})
    send(aggregator, unpaid)
    asked(aggregator, "rules", "on", "films")
    send(aggregator, third)
    expected[third.span_id.hex()] = ("search", Decimal(2))
    assert charged(aggregator) == expected

    set_price(aggregator, "search", "3")
    fourth = film(end_ns=time.time_ns())
    send(aggregator, fourth)
    expected[fourth.span_id.hex()] = ("search", Decimal(3))
    assert charged(aggregator) == expected
    assert settle(aggregator) == Accounting(received=6, charged=4, duplicate=1, not_usage=1)
    assert_exact(aggregator, {"ada": Decimal("7.5")})


def test_a_deployment_that_waits_is_charged_once_it_has_a_model(aggregator: AggregatorProcess) -> None:
    """Usage of an unknown model waits as unpriced; a command that names its model charges it, once, and the next at once."""
    price = {"action_type": "chat", "model": "gpt-5", "credits_per_unit": "0.5"}
    aggregator.request("POST", "/api/v1/prices", json=price)
    call = {ACTION: "chat", USER: "ada", RESPONSE_MODEL: "our-deployment"}
    send(aggregator, span(call))
    assert charged(aggregator) == {}
    asked(aggregator, "aliases", "set", "our-deployment", "gpt-5")
    wait_until(lambda: len(charged(aggregator)) == 1, 60, "what waited is charged")
    send(aggregator, span(call))
    assert [credits for _, credits in charged(aggregator).values()] == [Decimal("0.5")] * 2
    assert settle(aggregator) == Accounting(received=2, charged=2)
    assert_exact(aggregator, {"ada": Decimal(1)})
