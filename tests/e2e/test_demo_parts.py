"""The parts of the demo that decide whether it may say "exact": the plan, the oracle, the comparison."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from otel_credits_aggregator.demo import DemoOptions
from otel_credits_aggregator.demo._options import DemoError
from otel_credits_aggregator.demo._oracle import Expected, PriceBook, cost_of_request, expected_accounts
from otel_credits_aggregator.demo._plan import Action, Pattern, make_plan, make_users
from otel_credits_aggregator.demo._report import Account, exactly, find_differences

MODEL = "claude-sonnet-4-5"
NOW = datetime(2026, 6, 1, tzinfo=UTC)


def price_row(unit: str, credits: str, *, model: str = MODEL, since: str = "2020-01-01T00:00:00Z") -> dict[str, Any]:
    """Return a row of the price book as the API writes it."""
    return {"action_type": "*", "model": model, "unit": unit, "credits_per_unit": credits, "effective_from": since}


def served_row(**figures: Any) -> dict[str, Any]:
    """Return a row of the model server's record."""
    nothing = {"input_tokens": 0, "cache_read_tokens": 0, "cache_write_tokens": 0, "output_tokens": 0}
    return nothing | {"message_id": "m", "model": MODEL, "user_id": "u", "status": "completed"} | figures


@pytest.mark.parametrize("usages", [24, 40, 320, 1000])
def test_the_plan_gives_everybody_and_every_pattern_a_share(usages: int) -> None:
    """A plan has exactly the usages asked for, of every pattern and every user."""
    users = make_users(24, seed=1)
    plan = make_plan(users, [MODEL], usages, seed=1)
    charged = [action for action in plan if action.pattern.is_usage]
    assert len(charged) == usages
    assert {action.pattern for action in charged} == set(Pattern) - {Pattern.COMMENT_THANKS}
    assert {action.user for action in plan} == set(users)


def test_the_seed_decides_the_plan() -> None:
    """The same seed gives the same users and actions; another one gives others."""
    plans = [make_plan(make_users(20, seed), [MODEL, "other"], 100, seed) for seed in (1, 1, 2)]
    assert plans[0] == plans[1] != plans[2]


def test_options_out_of_range_are_refused() -> None:
    """Options that make no sense raise ValueError when they are made, not later."""
    for users, usages in ((0, 320), (30, 29)):
        with pytest.raises(ValueError, match="users"):
            DemoOptions(users=users, usages=usages)


def test_a_served_request_costs_each_token_once() -> None:
    """The oracle prices uncached, cached and output tokens apart, and sums without rounding."""
    units = ("input_token", "cache_read_token", "cache_write_token", "output_token")
    prices = ("0.000003", "0.0000003", "0.00000375", "0.000015")
    book = PriceBook([price_row(unit, price) for unit, price in zip(units, prices, strict=True)], NOW)
    served = served_row(input_tokens=7, cache_read_tokens=2048, cache_write_tokens=3, output_tokens=61)
    assert cost_of_request(served, book) == Decimal("0.00156165")


def test_the_newest_price_of_a_snapshots_model_holds() -> None:
    """A dated model has its model's price, the newest row's in effect; no price is an error, not free."""
    years = {"2024": "1", "2025": "2", "2027": "3"}
    rows = [price_row("output_token", price, since=f"{year}-01-01T00:00:00Z") for year, price in years.items()]
    book = PriceBook(reversed(rows), at=NOW)
    assert book.price(f"{MODEL}-20251001", "output_token") == Decimal(2)
    with pytest.raises(DemoError, match="no price"):
        book.price("unknown", "output_token")


def test_a_request_that_still_runs_cannot_be_compared() -> None:
    """The oracle refuses a record that is not final."""
    with pytest.raises(DemoError, match="still answering"):
        cost_of_request(served_row(status="running"), PriceBook([], NOW))


def test_expected_accounts_add_fixed_costs_and_served_tokens() -> None:
    """What a user must have consumed is the fixed costs of the plan plus what the model server served."""
    [user] = make_users(1, seed=1)
    plan = [Action(0, user, Pattern.SYNC, MODEL), Action(1, user, Pattern.CHAT_TRACKED, MODEL)]
    book = PriceBook([price_row("output_token", "0.000000000001")], NOW)
    served = [served_row(user_id=str(user.id), output_tokens=3)]
    [expected] = expected_accounts([user], plan, served, book).values()
    assert expected == Expected(granted=user.granted, consumed=Decimal("0.005000000003"))


def test_the_last_decimal_makes_a_difference() -> None:
    """A balance that is off by 0.000000000001 is reported with both figures; an equal one is not."""
    [user] = make_users(1, seed=1)
    must = {str(user.id): Expected(Decimal(5), Decimal("1.000000000001"))}
    same = Account(Decimal(5), Decimal("1.000000000001"), Decimal("3.999999999999"), Decimal("1.000000000001"))
    assert find_differences([user], {str(user.id): same}, must, same_month=True) == []
    off = replace(same, balance=Decimal(4))
    [difference] = find_differences([user], {str(user.id): off}, must, same_month=True)
    assert "balance is 4 in the ledger and must be 3.999999999999" in str(difference)


def test_a_missing_account_is_a_difference() -> None:
    """A user whom the ledger does not know differs in every figure."""
    [user] = make_users(1, seed=1)
    must = {str(user.id): Expected(Decimal(5), Decimal(1))}
    figures = Counter(difference.figure for difference in find_differences([user], {}, must, same_month=False))
    assert figures == Counter(["granted", "consumed", "balance"])


@pytest.mark.parametrize(
    ("amount", "text"), [("1.500000000000", "1.5"), ("1E-12", "0.000000000001"), ("10", "10"), ("0E-12", "0")]
)
def test_amounts_are_printed_exactly(amount: str, text: str) -> None:
    """Amounts lose the zeros at their end, never a digit, and have no exponent."""
    assert exactly(Decimal(amount)) == text
