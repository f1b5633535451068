"""The ledger against an independent one in plain Python: the same events, charges, balances and months."""

from collections import Counter
from dataclasses import asdict, fields
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from support.chain import Chain
from support.oracle import EPOCH, Event, Oracle, Price, Quarantined
from support.oracle_calls import Convention
from support.oracle_rules import Rule
from support.otlp_calls import call_traffic, knowing_traffic, told_traffic
from support.otlp_random import CONVENTIONS, Traffic, traffic

RELAXED = settings(
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def set_up(chain: Chain, prices: list[Price], rules: list[Rule]) -> None:
    """Empties the store, and gives it this price book, these billing rules, and the conventions of the tests."""
    chain.empty()
    for table in ("credit_action_costs", "credit_conventions", "credit_rules"):
        chain.command(f"TRUNCATE TABLE {table}")
    columns = ["action_type", "model", "unit", "credits_per_unit", "effective_from", "created_at"]
    rows = [[p.action, p.model, p.unit, p.credits, moment(p.effective_us), moment(p.created_us)] for p in prices]
    chain.client.insert("credit_action_costs", rows, column_names=columns)
    conventions = [list(asdict(row).values()) for row in CONVENTIONS]
    chain.client.insert("credit_conventions", conventions, column_names=[field.name for field in fields(Convention)])
    if rules:
        names = [field.name for field in fields(Rule)] + ["enabled", "created_at"]
        chain.client.insert(
            "credit_rules", [[*asdict(rule).values(), True, LONG_AGO] for rule in rules], column_names=names
        )


def moment(microseconds: int) -> datetime:
    """A time from microseconds since 1970."""
    return EPOCH + timedelta(microseconds=microseconds)


def run(chain: Chain, made: Traffic) -> Oracle:
    """Sends the traffic to the chain and to the oracle."""
    set_up(chain, made.prices, made.rules)
    oracle = Oracle(made.prices, CONVENTIONS, made.rules)
    for insert in made.inserts:
        batch = chain.compose(*insert.requests, **insert.settings)
        received = [received_us for _, received_us, _ in chain.spool.payloads(batch)]
        chain.insert(batch)
        chain.look(batch)
        chain.spool.forget(batch)
        chain.take_back()
        kept = chain.settings.model_copy(update=insert.settings)
        oracle.insert(zip(insert.requests, received, strict=True), kept)
    return oracle


def stored_events(chain: Chain) -> Counter[Event]:
    """The events of the store that were not taken back, in the oracle's form."""
    return Counter(
        _event(row)
        for row in chain.rows(
            "SELECT * FROM credit_usage_events"
            " WHERE (event_id, batch_id) NOT IN (SELECT event_id, batch_id FROM credit_voids)"
        )
    )


def _event(row: dict[str, Any]) -> Event:
    values = {name: row[name] for name in Event.__dataclass_fields__}
    for name in ("metadata", "units", "prices"):
        values[name] = tuple(sorted(values[name].items()))
    values["created_at"] = values["created_at"].replace(tzinfo=UTC)
    return Event(**values)


def stored_quarantine(chain: Chain) -> Counter[Quarantined]:
    """The quarantined rows of the store, in the oracle's form."""
    found = chain.rows(
        "SELECT reason, user_id, action_type, model, hex(trace_id) AS trace_id, hex(span_id) AS span_id,"
        " end_time_unix_nano AS end_ns FROM credit_quarantine"
    )
    return Counter(
        Quarantined(**row | {name: bytes.fromhex(row[name]) for name in ("trace_id", "span_id")}) for row in found
    )


def stored_outcomes(chain: Chain) -> Counter[tuple[str, str, str]]:
    """How many items of which signal became what, and why."""
    found = chain.rows(
        "SELECT signal, outcome, reason, sum(items) AS n FROM ingest_outcomes"
        " GROUP BY signal, outcome, reason HAVING n != 0"
    )
    return Counter({(row["signal"], row["outcome"], row["reason"]): row["n"] for row in found})


def stored_balances(chain: Chain) -> dict[str, Decimal]:
    """What each user has consumed, by the view."""
    found = chain.rows("SELECT user_id, lifetime_consumed, current_balance FROM user_credit_balances")
    assert all(row["current_balance"] == -row["lifetime_consumed"] for row in found)
    return {row["user_id"]: row["lifetime_consumed"] for row in found}


def stored_months(chain: Chain) -> dict[Any, Any]:
    """The view of months, in the oracle's form."""
    found = chain.rows("SELECT * FROM credit_monthly_usage")
    keys, values = (
        ("user_id", "month", "action_type", "model"),
        ("events", "input_tokens", "output_tokens", "credits_consumed"),
    )
    return {tuple(row[name] for name in keys): tuple(row[name] for name in values) for row in found}


def assert_same_sums(found: dict[Any, Any], expected: dict[Any, Any], nothing: Any) -> None:
    """The same sums, but for those that are nothing."""
    left, right = ({key: value for key, value in sums.items() if value != nothing} for sums in (found, expected))
    assert left == right


def assert_same(chain: Chain, made: Traffic) -> None:
    """The store and the oracle agree on everything that can be known without hashes."""
    oracle = run(chain, made)
    expected, found = Counter(oracle.events), stored_events(chain)
    for text, counter in (("expected", expected - found), ("found", found - expected)):
        note(f"only {text}: {counter}")
    assert stored_outcomes(chain) == oracle.outcomes
    assert found == expected
    assert stored_quarantine(chain) == Counter(oracle.quarantined)
    # Of a charge that was taken back a total of nothing may be left.
    assert_same_sums(stored_balances(chain), oracle.balances, Decimal(0))
    assert_same_sums(stored_months(chain), oracle.months, (0, 0, 0, Decimal(0)))
    chain.assert_totals_are_the_events()


@pytest.mark.timeout(900)
# Without shrinking, which would take minutes; the long one shrinks.
@settings(RELAXED, max_examples=8, phases=[Phase.generate])
@given(made=traffic())
def test_the_ledger_is_what_the_oracle_says(chain: Chain, made: Traffic) -> None:
    """Whatever is sent, events, charges, quarantine, balances and months are the oracle's, to the last of 12 places."""
    assert_same(chain, made)


@pytest.mark.timeout(900)
@settings(RELAXED, max_examples=5, phases=[Phase.generate])
@given(made=call_traffic())
def test_calls_that_several_spans_tell_of(chain: Chain, made: Traffic) -> None:
    """However the spans of the app and of instrumentations are spread over inserts, the oracle says the same."""
    assert_same(chain, made)


@pytest.mark.timeout(900)
@settings(RELAXED, max_examples=5, phases=[Phase.generate])
@given(made=knowing_traffic())
def test_calls_of_which_one_span_knows_more(chain: Chain, made: Traffic) -> None:
    """Whichever span of a call knows most of it, in whatever order they come, the oracle lets the same one decide."""
    assert_same(chain, made)


@pytest.mark.timeout(900)
@settings(RELAXED, max_examples=5, phases=[Phase.generate])
@given(made=told_traffic())
def test_what_is_told_within_json(chain: Chain, made: Traffic) -> None:
    """Ids, tiers, hour-long writes and numbers of calls and answers are read in JSON as the oracle reads them, or not at all."""
    assert_same(chain, made)


@pytest.mark.long
@pytest.mark.timeout(3600)
@settings(RELAXED, max_examples=150, phases=[Phase.generate])
@given(made=traffic(spans_max=30, inserts_max=5))
def test_the_ledger_is_what_the_oracle_says_at_length(chain: Chain, made: Traffic) -> None:
    """The same with more and larger examples."""
    assert_same(chain, made)


@pytest.mark.long
@pytest.mark.timeout(3600)
@settings(RELAXED, max_examples=60, phases=[Phase.generate])
@given(made=call_traffic())
def test_calls_that_several_spans_tell_of_at_length(chain: Chain, made: Traffic) -> None:
    """The same with more examples."""
    assert_same(chain, made)


@pytest.mark.long
@pytest.mark.timeout(3600)
@settings(RELAXED, max_examples=80, phases=[Phase.generate])
@given(made=knowing_traffic())
def test_calls_of_which_one_span_knows_more_at_length(chain: Chain, made: Traffic) -> None:
    """The same with more examples."""
    assert_same(chain, made)


@pytest.mark.long
@pytest.mark.timeout(3600)
@settings(RELAXED, max_examples=100, phases=[Phase.generate])
@given(made=told_traffic())
def test_what_is_told_within_json_at_length(chain: Chain, made: Traffic) -> None:
    """The same with more examples."""
    assert_same(chain, made)
