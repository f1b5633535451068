"""Which price a usage is charged: the most specific one in force when it ended, and none is not zero."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from support.chain import Chain
from support.otlp_build import (
    ACTION,
    AMOUNT,
    CACHE_READ,
    CACHE_WRITE,
    INPUT,
    OUTPUT,
    REASONING,
    REQUEST_MODEL,
    RESPONSE_MODEL,
    UNITS,
    USER,
    traces,
    usage_span,
)

ALWAYS = datetime(1990, 1, 1, tzinfo=UTC)
CHANGE = datetime(2026, 3, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
DATED = "claude-x-20250929"


@pytest.fixture(autouse=True)
def _empty_book(chain: Chain) -> None:
    chain.command("TRUNCATE TABLE credit_action_costs")


def set_price(chain: Chain, credits: Any, *, unit: str = "call", since: datetime | None = ALWAYS, **which: str) -> None:
    """Adds a row to the price book; without `since` it applies from now on."""
    row = {"unit": unit, "credits_per_unit": Decimal(credits), **which} | ({"effective_from": since} if since else {})
    chain.client.insert("credit_action_costs", [list(row.values())], column_names=list(row))


def use(chain: Chain, attributes: dict[str, Any] | None = None, *, at: datetime = CHANGE, **ids: bytes) -> None:
    """Sends one usage without an amount, that ends at a time."""
    end_ns = (at - datetime(1970, 1, 1, tzinfo=UTC)) // MICROSECOND * 1000
    chain.send(traces(usage_span({AMOUNT: None, **(attributes or {})}, end_ns=end_ns, **ids)))


def last_charge(chain: Chain) -> Decimal | None:
    """The charge of the event that was received last; None if there is none."""
    found = chain.rows("SELECT credits_charged FROM credit_usage_events ORDER BY received_at DESC LIMIT 1")
    return found[0]["credits_charged"] if found else None


# From the least specific to the most.
ROWS = [
    {},
    {"model": "claude-x"},
    {"model": DATED},
    {"action_type": "some_action"},
    {"action_type": "some_action", "model": "claude-x"},
    {"action_type": "some_action", "model": DATED},
]


@pytest.mark.parametrize("order", [1, -1], ids=["general first", "specific first"])
def test_the_most_specific_row_wins(chain: Chain, order: int) -> None:
    """Action and model go before action, action before model, model with its date before the model, any before none."""
    rows = list(enumerate(ROWS))[::order]
    for credits, which in rows:
        set_price(chain, credits + 1, **which)
    for credits in reversed(range(len(ROWS))):
        use(chain, {RESPONSE_MODEL: DATED})
        assert last_charge(chain) == credits + 1
        chain.command(
            f"ALTER TABLE credit_action_costs DELETE WHERE credits_per_unit = {credits + 1} SETTINGS mutations_sync = 2"
        )
    use(chain, {RESPONSE_MODEL: DATED})
    assert chain.reasons() == ["unpriced"]


def test_a_general_row_in_force_goes_before_a_specific_one_that_is_not(chain: Chain) -> None:
    """A price that applies from tomorrow does not price today, however specific it is."""
    set_price(chain, 1)
    set_price(chain, 2, since=CHANGE, action_type="some_action", model="claude-x")
    for at in (CHANGE - MICROSECOND, CHANGE):
        use(chain, {RESPONSE_MODEL: "claude-x"}, at=at)
    assert chain.charges() == [1, 2]


def test_another_unit_or_action_or_model_does_not_match(chain: Chain) -> None:
    """A price is for its unit, its action and its model only."""
    set_price(chain, 1, unit="second")
    set_price(chain, 1, action_type="other")
    set_price(chain, 1, model="other")
    set_price(chain, 1, action_type="some_actio", model="*")
    set_price(chain, 1, action_type="Some_Action", model="*")
    use(chain, {RESPONSE_MODEL: "claude-x"})
    use(chain)
    assert chain.reasons() == ["unpriced"] * 2


def test_a_price_applies_by_the_usages_own_time(chain: Chain) -> None:
    """Usage that arrives late is charged what it cost when it ended, to the microsecond."""
    set_price(chain, 1)
    set_price(chain, 2, since=CHANGE)
    set_price(chain, 3, since=CHANGE + timedelta(days=30))
    for at in (
        CHANGE + timedelta(days=31),
        CHANGE,
        CHANGE - MICROSECOND,
        ALWAYS.replace(year=2001),
        CHANGE + timedelta(days=29),
    ):
        use(chain, at=at)
    assert chain.charges() == [1, 1, 2, 2, 3]
    chain.assert_sums_agree()


def test_a_usage_before_the_first_dated_price_is_unpriced(chain: Chain) -> None:
    """A price with a date says nothing of the time before it."""
    set_price(chain, 1, since=CHANGE)
    use(chain, at=CHANGE - MICROSECOND)
    assert chain.reasons() == ["unpriced"]


def test_a_corrected_row_of_the_same_date_counts(chain: Chain) -> None:
    """Of rows with the same date the one that was made last counts."""
    for credits in (1, 3, 2):
        set_price(chain, credits)
    use(chain)
    assert chain.charges() == [2]


@pytest.mark.parametrize("model", ["claude-x", DATED, "claude-x-2025-09-29", "claude-x@20250929"])
def test_snapshot_dates(chain: Chain, model: str) -> None:
    """A model's name is priced like the model whose snapshot it is."""
    set_price(chain, 7, model="claude-x")
    use(chain, {RESPONSE_MODEL: model})
    assert chain.charges() == [7]


@pytest.mark.parametrize(
    "model", ["claude-x-2025", "claude-x-20250929-v2", "claude-x-19990101", "claude-x20250929", "claude-x-latest", ""]
)
def test_what_is_no_snapshot_date(chain: Chain, model: str) -> None:
    """Only a date at the end of the name is taken off."""
    set_price(chain, 7, model="claude-x")
    use(chain, {RESPONSE_MODEL: model})
    assert chain.reasons() == ["unpriced"]


def test_the_model_that_answered_is_priced(chain: Chain) -> None:
    """The response's model goes before the request's, which stands in where there is none."""
    set_price(chain, 1, model="asked")
    set_price(chain, 2, model="answered")
    use(chain, {REQUEST_MODEL: "asked", RESPONSE_MODEL: "answered"})
    assert last_charge(chain) == 2
    use(chain, {REQUEST_MODEL: "asked", RESPONSE_MODEL: ""})
    assert last_charge(chain) == 1


def test_no_price_is_not_zero_and_zero_is_a_price(chain: Chain) -> None:
    """A unit that costs 0 is charged 0; a unit without a price keeps the whole usage in the quarantine."""
    set_price(chain, 0, unit="free")
    set_price(chain, 2, unit="dear")
    use(chain, {UNITS + "free": 5})
    use(chain, {UNITS + "free": 5, UNITS + "dear": 1, UNITS + "unknown": 1})
    assert chain.charges() == [0]
    assert chain.reasons() == ["unpriced"]


def test_a_quantity_of_zero_needs_no_price(chain: Chain) -> None:
    """What was not used needs no price, and is kept with the event."""
    set_price(chain, 2, unit="dear")
    use(chain, {UNITS + "dear": 3, UNITS + "unknown": 0})
    (event,) = chain.events()
    assert (event["credits_charged"], event["units"]) == (6, {"dear": 3, "unknown": 0})


def test_reasoning_tokens_are_free_unless_priced(chain: Chain) -> None:
    """Reasoning is part of the output; only a price for the unit itself charges it on top."""
    set_price(chain, "0.5", unit="output_token")
    use(chain, {OUTPUT: 10, REASONING: 8})
    assert last_charge(chain) == 5
    set_price(chain, "0.25", unit="reasoning_token")
    use(chain, {OUTPUT: 10, REASONING: 8})
    assert last_charge(chain) == 7


def test_a_token_is_priced_in_one_unit(chain: Chain) -> None:
    """Cached input tokens cost their own price and are not also input tokens; the totals of the event hold all."""
    for unit, credits in (
        ("input_token", 1),
        ("cache_read_token", "0.1"),
        ("cache_write_token", "1.25"),
        ("output_token", 5),
    ):
        set_price(chain, credits, unit=unit)
    use(chain, {INPUT: 2697, CACHE_READ: 2048, CACHE_WRITE: 512, OUTPUT: 61})
    (event,) = chain.events()
    assert event["units"] == {
        "input_token": 137,
        "cache_read_token": 2048,
        "cache_write_token": 512,
        "output_token": 61,
    }
    assert event["credits_charged"] == Decimal("137") + Decimal("204.8") + Decimal("640") + Decimal("305")
    assert (event["input_tokens"], event["output_tokens"]) == (2697, 61)


def test_the_sum_is_rounded_once(chain: Chain) -> None:
    """The charge is computed in full and rounded once, half to even, to 12 places."""
    set_price(chain, "0.000000000001", unit="a")
    set_price(chain, "0.000000000001", unit="b")
    for first, second, expected in (
        ("0.5", "0", 0),
        ("0.25", "0.25", 0),
        ("1.5", "0", 2),
        ("0.3", "0.3", 1),
        ("1.25", "1.25", 2),
        ("0.4", "0.4", 1),
    ):
        use(chain, {UNITS + "a": first, UNITS + "b": second})
        assert last_charge(chain) == Decimal(expected).scaleb(-12), (first, second)


def test_large_charges_are_exact(chain: Chain) -> None:
    """Quantities and prices of many digits are multiplied without loss, and what is beyond reason is quarantined."""
    set_price(chain, "123456.123456789012", unit="a")
    use(chain, {UNITS + "a": "999999999.999999999999"})
    assert last_charge(chain) == Decimal("123456123456789.011999876544")
    set_price(chain, "1000.000000000001", unit="b")
    use(chain, {UNITS + "b": "1000000000000000"})
    assert chain.reasons() == ["amount_out_of_range"]
    chain.assert_sums_agree()


def test_an_inserted_price_counts_from_the_next_insert(chain: Chain) -> None:
    """A row that is added with plain SQL prices what comes next; what is charged keeps its price."""
    set_price(chain, 1)
    use(chain)
    set_price(chain, 2)
    use(chain)
    assert chain.charges() == [1, 2]
    assert [event["prices"] for event in chain.events()] == [{"call": 1}, {"call": 2}]
    chain.assert_sums_agree()


def test_an_updated_price_counts_from_the_next_insert(chain: Chain) -> None:
    """The same for a row that is changed in place."""
    set_price(chain, 1)
    use(chain)
    chain.command(
        "ALTER TABLE credit_action_costs UPDATE credits_per_unit = 3 WHERE unit = 'call' SETTINGS mutations_sync = 2"
    )
    use(chain)
    assert chain.charges() == [1, 3]


def test_a_charged_usage_keeps_its_price(chain: Chain) -> None:
    """A copy that comes after a price has changed changes nothing."""
    set_price(chain, 1)
    ids = {"trace_id": b"t" * 16, "span_id": b"s" * 8}
    use(chain, **ids)
    set_price(chain, 2)
    use(chain, **ids)
    assert chain.charges() == [1]
    assert chain.outcomes() == {"charged": 1, "duplicate": 1}


def test_the_first_undated_price_applies_to_what_came_before(chain: Chain) -> None:
    """A row without a date, the first of its key, also prices usage before it; a second one only from now on."""
    set_price(chain, 1, since=None)
    use(chain)
    assert last_charge(chain) == 1
    set_price(chain, 2, since=None)
    use(chain)
    assert last_charge(chain) == 1
    use(chain, at=datetime.now(UTC) + timedelta(days=1))
    assert last_charge(chain) == 2


def test_an_undated_price_does_not_replace_one_in_force(chain: Chain) -> None:
    """Usage before an undated row that another row prices keeps that price, however general that row is."""
    set_price(chain, 1)
    set_price(chain, 2, since=None, action_type="some_action")
    use(chain)
    assert chain.charges() == [1]


def test_prices_of_many_keys_in_one_insert(chain: Chain) -> None:
    """Usages of many actions, models and days in one insert are each charged their own price."""
    days = [CHANGE + timedelta(days=day) for day in range(5)]
    expected: dict[tuple[str, str, datetime], int] = {}
    spans = []
    for number, (action, model, day) in enumerate((a, m, d) for a in "abc" for m in "xyz" for d in days):
        set_price(chain, number, action_type=action, model=model, since=day)
        expected[action, model, day] = number
        end_ns = int(day.timestamp()) * 10**9
        spans.append(
            usage_span({AMOUNT: None, ACTION: action, RESPONSE_MODEL: model, USER: action + model}, end_ns=end_ns)
        )
    chain.send(traces(*spans))
    found = {
        (e["action_type"], e["model"], e["created_at"].replace(tzinfo=UTC)): e["credits_charged"]
        for e in chain.events()
    }
    assert found == expected
    chain.assert_sums_agree()


def test_a_neighbours_name_does_not_change_a_price(chain: Chain) -> None:
    """However two usages of one insert spread the same characters over action and model, each has its own price."""
    chain.command(
        "INSERT INTO credit_action_costs (action_type, unit, credits_per_unit, effective_from)"
        " VALUES ('x', 'call', 1, '2000-01-01'), ('x\\0y', 'call', 100, '2000-01-01')"
    )
    names = [("x\0y", "z"), ("x", "y\0z"), ("x\0y\0z", "")]
    chain.send(traces(*(usage_span({AMOUNT: None, ACTION: action, REQUEST_MODEL: model}) for action, model in names)))
    assert {event["action_type"]: event["credits_charged"] for event in chain.events()} == {"x\0y": 100, "x": 1}
    assert chain.reasons() == ["unpriced"]


@pytest.mark.parametrize("row", [{"credits_per_unit": -1}, {"action_type": ""}, {"model": ""}, {"unit": ""}], ids=str)
def test_the_book_refuses_rows_that_mean_nothing(chain: Chain, row: dict[str, Any]) -> None:
    """A negative price, or one for nothing, cannot be entered."""
    values = {"unit": "call", "credits_per_unit": 1} | row
    with pytest.raises(Exception, match="VIOLATED_CONSTRAINT"):
        chain.client.insert("credit_action_costs", [list(values.values())], column_names=list(values))
