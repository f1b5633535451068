"""What Anthropic says beside the counts of a call: fast mode, its country, compactions; and counting tokens, which is no call."""

from decimal import Decimal

import pytest
from otel_credits_aggregator.replay import replay_batch, run_replay
from support.chain import Chain
from support.more_recordings import PRICES, bill, charge, charge_requests, spans_of

OWN_PRICES = [
    "oi-anthropic.fast",
    "oi-anthropic.fast_stream",
    "oi-anthropic.country",
    "logfire-anthropic.fast",
    "logfire-anthropic.country",
]
COMPACTED = [
    f"{emitter}-anthropic.{name}" for emitter in ("oi", "own", "logfire") for name in ("compacted", "compacted_stream")
]
COUNTED = ["oi-anthropic.count_tokens", "own-anthropic.count_tokens"]


def payload(case: str) -> bytes:
    """The recorded request of a case."""
    found = spans_of(case)
    assert found is not None
    return found


def book() -> dict[tuple[str, str], Decimal]:
    """A price for each unit in fast mode and in one country, beside those of every unit."""
    own = {f"{unit}_{mode}": 6 * price for unit, price in PRICES.items() for mode in ("fast", "us")}
    return {("*", unit): price for unit, price in (PRICES | own).items()}


@pytest.mark.parametrize("case", OWN_PRICES)
def test_fast_mode_and_a_country_are_charged_at_prices_of_their_own(chain: Chain, case: str) -> None:
    """Each class of tokens has the mode in its unit's name, and costs what the price book says of that."""
    found = charge_requests(chain, [(case, payload(case))], book())[case]
    assert dict(found.units) == bill(case)
    assert found.credits == sum(6 * PRICES[unit.rsplit("_", 1)[0]] * tokens for unit, tokens in bill(case).items())


def test_fast_mode_and_a_country_without_a_price_wait(chain: Chain) -> None:
    """They are not charged as if they were standard calls, and once there is a price they are charged at it."""
    found = charge(chain, OWN_PRICES)
    assert {case: found[case].reasons for case in OWN_PRICES} == {case: ["unpriced"] for case in OWN_PRICES}
    rows = [[model, unit, price, 0] for (model, unit), price in book().items()]
    columns = ["model", "unit", "credits_per_unit", "effective_from"]
    chain.client.insert("credit_action_costs", rows, column_names=columns)
    waiting = chain.rows("SELECT toString(quarantine_id) AS id FROM credit_quarantine ORDER BY id")
    run_replay(chain.client, replay_batch([row["id"] for row in waiting]))
    charged = {event["user_id"]: event["units"] for event in chain.events()}
    assert charged == {case: bill(case) for case in OWN_PRICES}


def test_a_call_with_a_compaction_waits(chain: Chain) -> None:
    """What the compaction used is billed, and is not in the counts of the call, which is not charged without it."""
    found = charge(chain, COMPACTED)
    assert not chain.events()
    assert {case: set(found[case].reasons) - {"usage_unknown"} for case in COMPACTED} == {
        case: {"emitter_unreliable"} for case in COMPACTED
    }
    waiting = chain.rows("SELECT toString(quarantine_id) AS id FROM credit_quarantine ORDER BY id")
    run_replay(chain.client, replay_batch([row["id"] for row in waiting]))
    assert not chain.events()


def test_counting_tokens_is_no_usage(chain: Chain) -> None:
    """A request that only asks how many tokens a prompt has is free: nothing is charged, and nothing waits."""
    found = charge(chain, COUNTED)
    assert not chain.events()
    assert {case: found[case].reasons for case in COUNTED} == {case: [] for case in COUNTED}
