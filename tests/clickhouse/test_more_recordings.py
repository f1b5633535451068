"""Recordings that no shared sample has (recordings/more): each is charged what its provider billed, or waits; none is wrong."""

from collections.abc import Mapping

import pytest
from support.chain import Chain
from support.more_recordings import CASES, TIER_UNTOLD, TOOLS_UNTOLD, Charged, bill, charge, spans_of

# What an emitter leaves no trace of, so that it cannot be seen in its spans (docs/emitters.md).
LIFETIMES_UNTOLD = {
    case
    for case in CASES
    if case.startswith(
        ("ga-anthropic.", "ollm-anthropic.", "ga-langchain", "oi-langchain__ga-", "own-pydantic.old2.0.0_")
    )
}
# A call that an instrumentation made no span of at all.
NO_SPAN = {case for case in CASES if spans_of(case) is None}
UNTOLD = {case for case in CASES if case.startswith("ga-agents.")} | NO_SPAN


@pytest.fixture(scope="module")
def charged(shared_chain: Chain) -> dict[str, Charged]:
    """What became of each case."""
    found = charge(shared_chain, CASES)
    shared_chain.assert_totals_are_the_events()
    return found


def expected(case: str) -> dict[str, int]:
    """What the provider bills, as far as the emitter tells it."""
    units = bill(case)
    if case in TOOLS_UNTOLD:
        units["input_token"] -= sum(call["tool_use"] for call in CASES[case]["calls"])
    if case in TIER_UNTOLD:
        units = {unit.removesuffix("_priority").removesuffix("_flex"): quantity for unit, quantity in units.items()}
    if case in LIFETIMES_UNTOLD and "cache_write_1h_token" in units:
        units["cache_write_token"] = units.get("cache_write_token", 0) + units.pop("cache_write_1h_token")
    return units


def verdict(case: str, charges: Mapping[str, Charged]) -> str:
    """exact; waits (nothing charged, with a reason); wrong otherwise."""
    found = charges[case]
    if dict(found.units) == expected(case):
        return "exact"
    return "waits" if not found.units and found.reasons else "wrong"


def test_each_call_is_charged_what_was_billed_or_waits(charged: dict[str, Charged]) -> None:
    """No case is charged anything but its provider's bill; one that is not charged has its spans in the quarantine."""
    verdicts = {case: verdict(case, charged) for case in CASES.keys() - UNTOLD}
    wrong = {
        case: (expected(case), dict(charged[case].units), charged[case].reasons)
        for case in verdicts
        if verdicts[case] == "wrong"
    }
    assert not wrong
    assert sum(said == "exact" for said in verdicts.values()) > 0.65 * len(verdicts)


def test_untold_calls_are_not_charged(charged: dict[str, Charged]) -> None:
    """A call that no span tells of is charged nothing; nothing can be known of it."""
    assert not {case for case in UNTOLD if charged[case].units}


@pytest.mark.parametrize("case", sorted(case for case in CASES if "__" in case and case not in UNTOLD))
def test_nested_instrumentations_charge_a_call_once(charged: dict[str, Charged], case: str) -> None:
    """Of several spans that tell of one call, one is charged; the others are duplicates, or wait for someone to decide."""
    completed = [call for call in CASES[case]["calls"] if call.get("completed")]
    assert charged[case].events in (len(completed), 0)
    assert charged[case].events or charged[case].reasons
