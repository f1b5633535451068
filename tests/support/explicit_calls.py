"""An app's own usage and an instrumentation's span of the same LLM call: the ways in which they are known to be of one call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from otel_credits_aggregator.spool import Batch, Spool

from support.chain import Chain
from support.otlp_build import (
    AMOUNT,
    CACHE_READ,
    FINISH_REASONS,
    INPUT,
    KEY,
    OPERATION,
    OUTPUT,
    RESPONSE_ID,
    USER,
    span,
    traces,
    usage_span,
)
from support.samples import others_long

__all__ = [
    "CALL_ID",
    "CASES",
    "COUNTS",
    "PARENT",
    "TRACE",
    "Case",
    "around",
    "assert_charged_as_said",
    "below",
    "call",
    "compose",
    "looked",
    "net",
    "other_chain",
    "price",
    "said",
    "send",
    "third_chain",
    "token_prices",
    "told_so",
    "told_twice",
]

_SCOPE = "opentelemetry.instrumentation.genai.anthropic"
CALL_ID = "msg_01_the_only_one"
TRACE, PARENT = b"t" * 16, b"p" * 8
COUNTS = {INPUT: 10, OUTPUT: 5}


def call(attributes: dict[str, Any] | None = None, **fields: Any) -> Span:
    """An instrumentation's span of a call: 15 tokens."""
    told = {OPERATION: "chat", FINISH_REASONS: ["stop"], USER: "ada", **COUNTS, **(attributes or {})}
    return span(told, **fields)


def below(attributes: dict[str, Any] | None = None) -> Span:
    """The same as a child of the app's usage."""
    return call(attributes, trace_id=TRACE, parent_span_id=PARENT)


def said(attributes: dict[str, Any], **fields: Any) -> Span:
    """What the app says of it: 3 credits."""
    return usage_span({USER: "ada", AMOUNT: "3", **attributes}, **fields)


def around(attributes: dict[str, Any]) -> Span:
    """The same as the parent of the call."""
    return said(attributes, trace_id=TRACE, span_id=PARENT)


@dataclass(frozen=True)
class Case:
    """Spans of the same call, or calls: those of instrumentations, and the app's."""

    automatic: Callable[[], list[Span]]
    explicit: Callable[[], Span]


CASES = {
    "one response id": Case(lambda: [call({RESPONSE_ID: CALL_ID})], lambda: said({RESPONSE_ID: CALL_ID, **COUNTS})),
    "one response id, no tokens": Case(lambda: [call({RESPONSE_ID: CALL_ID})], lambda: said({RESPONSE_ID: CALL_ID})),
    "one response id, other tokens": Case(
        lambda: [call({RESPONSE_ID: CALL_ID})], lambda: said({RESPONSE_ID: CALL_ID, INPUT: 9, OUTPUT: 9})
    ),
    "parent": Case(lambda: [below()], lambda: around(COUNTS)),
    "parent of a call with an id": Case(lambda: [below({RESPONSE_ID: CALL_ID})], lambda: around(COUNTS)),
    "parent with the same id": Case(
        lambda: [below({RESPONSE_ID: CALL_ID})], lambda: around({RESPONSE_ID: CALL_ID, **COUNTS})
    ),
    "parent with a key": Case(lambda: [below()], lambda: around({KEY: "job-1", **COUNTS})),
    "parent with other counts": Case(lambda: [below({CACHE_READ: 8})], lambda: around({INPUT: 2, OUTPUT: 5})),
    "parent of two": Case(
        lambda: [below({RESPONSE_ID: f"msg_{n}_of_two_of_them", INPUT: n}) for n in (1, 2)],
        lambda: around({INPUT: 3, OUTPUT: 10}),
    ),
}


@pytest.fixture(params=others_long(CASES, short={"one response id, other tokens", "parent", "parent with a key"}))
def told_twice(request: pytest.FixtureRequest) -> Case:
    """Each way in which they are known to be of the same call."""
    return CASES[request.param]


@pytest.fixture(params=others_long(["one response id", "parent with a key", "parent of two"], short={"parent of two"}))
def told_so(request: pytest.FixtureRequest) -> Case:
    """The same, one way of a kind."""
    return CASES[request.param]


@pytest.fixture
def token_prices(chain: Chain) -> None:
    """0.01 credits a token."""
    price(chain, "0.01", "input_token", "output_token", "cache_read_token")


@pytest.fixture
def other_chain(chain: Chain, tmp_path: Path) -> Iterator[Chain]:
    """Another aggregator on the same store."""
    with Spool(tmp_path / "other_chain.sqlite", 1 << 30, 1.0) as spool:
        yield Chain(chain.client, spool, chain.settings)


@pytest.fixture
def third_chain(chain: Chain, tmp_path: Path) -> Iterator[Chain]:
    """One more."""
    with Spool(tmp_path / "third_chain.sqlite", 1 << 30, 1.0) as spool:
        yield Chain(chain.client, spool, chain.settings)


def price(chain: Chain, credits: str, *units: str, action: str = "*") -> None:
    """A price of these units, for all time."""
    chain.command(
        "INSERT INTO credit_action_costs (action_type, unit, credits_per_unit, effective_from)"
        f" SELECT '{action}', arrayJoin({list(units)}), {credits}, '2000-01-01'"
    )


def send(chain: Chain, *spans: Span) -> Batch:
    """Inserts each span under its scope in one request, looks, and forgets it."""
    batch = compose(chain, *spans)
    chain.insert(batch)
    return looked(chain, batch)


def compose(chain: Chain, *spans: Span) -> Batch:
    scopes = [_SCOPE if any(one.key == OPERATION for one in each.attributes) else "app" for each in spans]
    requests = [traces(each, scope=scope) for each, scope in zip(spans, scopes, strict=True)]
    return chain.compose(*requests, charge_genai=True)


def looked(chain: Chain, batch: Batch) -> Batch:
    chain.look(batch)
    chain.spool.forget(batch)
    return batch


def net(chain: Chain) -> Decimal:
    """What is charged, of all users."""
    return sum(chain.charges(), Decimal(0))


def assert_charged_as_said(chain: Chain, *others: Chain) -> None:
    """One usage is charged, the app's, and every sum says so."""
    for one in (chain, *others):
        one.take_back()
    for one in (chain, *others):
        assert one.take_back() == 0
    assert net(chain) == 3
    (left,) = chain.rows(
        "SELECT any(action_type) AS action FROM credit_usage_events GROUP BY event_id, batch_id HAVING sum(sign) > 0"
    )
    assert left["action"] == "some_action"
    assert chain.outcomes()["charged"] == 1
    assert chain.differences() == []
    chain.assert_totals_are_the_events()
