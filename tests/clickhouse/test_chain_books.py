"""An insert that was cut off and is repeated after someone changed the books charges as its first attempt did."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from otel_credits_aggregator.books import books_now
from support.chain import Chain
from support.otlp_build import (
    ACTION,
    AMOUNT,
    FINISH_REASONS,
    INPUT,
    OPERATION,
    OUTPUT,
    RESPONSE_ID,
    RESPONSE_MODEL,
    USER,
    span,
    traces,
    usage_span,
)
from support.samples import others_long

# What an insert that dies may leave undone: the events, or everything but them.
_CUT_OFF = {
    "events": ("credit_usage_events_mv", "event_ids_by_second_mv", "event_ids_by_key_mv", "charged_batches_mv"),
    "all but events": (
        "user_month_usage_mv",
        "usage_month_totals_mv",
        "judged_outcomes_mv",
        "credit_quarantine_mv",
        "other_spans_mv",
        "ruled_spans_mv",
        "call_links_mv",
    ),
}


@contextmanager
def cut_off(chain: Chain, views: tuple[str, ...]) -> Iterator[None]:
    """Within the block, what these views store is not stored."""
    for view in views:
        chain.command(f"DETACH TABLE {view} SYNC")
    yield
    for view in views:
        chain.command(f"ATTACH TABLE {view}")


def reports() -> ExportTraceServiceRequest:
    return traces(*(usage_span({ACTION: "report", AMOUNT: None}) for _ in range(3)))


def llm_calls(scope: str = "opentelemetry.instrumentation.genai.anthropic") -> ExportTraceServiceRequest:
    return traces(*map(llm_call, ("a", "b", "c")), scope=scope)


def llm_call(response_id: str) -> Span:
    told = {OPERATION: "chat", INPUT: 10, OUTPUT: 5, FINISH_REASONS: ["stop"]}
    return span({**told, RESPONSE_MODEL: "house-model", RESPONSE_ID: response_id, USER: "ada"})


def rule_spans() -> ExportTraceServiceRequest:
    return traces(*(span({"film": "1", USER: "ada"}, kind=2) for _ in range(3)))


def price(chain: Chain, credits: str, action: str = "report", unit: str = "call", model: str = "*") -> None:
    """A price for all time."""
    chain.command(
        "INSERT INTO credit_action_costs (action_type, model, unit, credits_per_unit, effective_from)"
        f" VALUES ('{action}', '{model}', '{unit}', {credits}, '2000-01-01')"
    )


def price_tokens(chain: Chain, credits: str, model: str = "*") -> None:
    for unit in ("input_token", "output_token"):
        price(chain, credits, "ai_call", unit, model)


def rule(chain: Chain, action: str) -> None:
    """A rule that says it is older than everything, as one of a store whose clock is behind."""
    chain.command(
        "INSERT INTO credit_rules (rule_id, enabled, attribute_prefixes, action_type, created_at)"
        f" VALUES ('films', true, map('film', ''), '{action}', '2000-01-01 00:00:00' + INTERVAL {len(action)} SECOND)"
    )


def convention(chain: Chain) -> None:
    chain.command("INSERT INTO credit_conventions (scope_name, source) VALUES ('house.scope', 'test')")


def alias(chain: Chain) -> None:
    chain.command("INSERT INTO credit_model_aliases (model, price_model) VALUES ('house-model', 'other-model')")


Change = Callable[[Chain], None]
CASES: dict[str, tuple[Change, Change, Callable[[], ExportTraceServiceRequest], list[str], list[str]]] = {
    # What is there at first, what comes between, what is sent; what it is charged, and why it is not.
    "another price": (lambda c: price(c, "0.05"), lambda c: price(c, "0.07"), reports, ["0.05"] * 3, []),
    "the first price": (lambda c: None, lambda c: price(c, "0.07"), reports, [], ["unpriced"] * 3),
    "the first rule": (lambda c: price(c, "1", "film"), lambda c: rule(c, "film"), rule_spans, [], []),
    "another rule": (
        lambda c: (price(c, "1", "film"), price(c, "2", "films"), rule(c, "film"))[0],
        lambda c: rule(c, "films"),
        rule_spans,
        ["1"] * 3,
        [],
    ),
    "a convention": (
        lambda c: price_tokens(c, "0.1"),
        convention,
        lambda: llm_calls("house.scope"),
        [],
        ["unknown_convention"] * 3,
    ),
    "an alias": (
        lambda c: (price_tokens(c, "0.1"), price_tokens(c, "0.2", "other-model"))[0],
        alias,
        llm_calls,
        ["1.5"] * 3,
        [],
    ),
}


@pytest.mark.parametrize("cut", others_long(_CUT_OFF, short={"all but events"}))
@pytest.mark.parametrize("case", CASES)
def test_a_repetition_reads_the_books_of_its_first_attempt(chain: Chain, case: str, cut: str) -> None:
    """Whatever the first attempt had stored when it was cut off, every table is in the end as that attempt would have made it."""
    before, between, requests, charges, reasons = CASES[case]
    before(chain)
    batch = chain.compose(requests(), charge_genai=True)
    with cut_off(chain, _CUT_OFF[cut]):
        chain.insert(batch)
    between(chain)
    chain.insert(batch)
    chain.insert(batch)
    assert chain.charges() == [Decimal(charge) for charge in charges]
    assert chain.reasons() == reasons
    chain.assert_sums_agree()


@pytest.mark.parametrize("case", CASES)
def test_what_is_composed_after_the_change_is_charged_by_it(chain: Chain, case: str) -> None:
    """Each of these changes counts from the next batch on: what it says of the same usage is another charge."""
    before, between, requests, charges, reasons = CASES[case]
    before(chain)
    between(chain)
    chain.send(requests(), charge_genai=True)
    assert (chain.charges(), chain.reasons()) != ([Decimal(charge) for charge in charges], reasons)
    chain.assert_sums_agree()


def test_a_price_that_is_dated_back_or_forth_does_not_count_before_it_was_there(chain: Chain) -> None:
    """How far a book goes is told by the order in which its rows came, not by what they say of their time."""
    price(chain, "0.05")
    chain.command(
        "INSERT INTO credit_action_costs (action_type, credits_per_unit, created_at) VALUES ('far', 1, '2090-01-01')"
    )
    batch = chain.compose(reports())
    for created_at in ("2001-01-01", "2089-01-01"):
        chain.command(
            "INSERT INTO credit_action_costs (action_type, credits_per_unit, effective_from, created_at)"
            f" VALUES ('report', 9, '2001-01-01', '{created_at}')"
        )
    chain.command("OPTIMIZE TABLE credit_action_costs FINAL")
    chain.insert(batch)
    assert chain.charges() == [Decimal("0.05")] * 3


def test_a_book_that_is_read_to_its_end_is_the_whole_book(chain: Chain) -> None:
    """Without a change in between, every row of every book is seen."""
    seen = chain.client.query(
        "SELECT (SELECT count() FROM credit_action_costs), (SELECT count() FROM credit_conventions)",
        settings={"additional_table_filters": books_now(chain.client)},
    ).first_row
    there = chain.client.query(
        "SELECT (SELECT count() FROM credit_action_costs), (SELECT count() FROM credit_conventions)"
    ).first_row
    assert seen == there
    assert min(there) > 1
