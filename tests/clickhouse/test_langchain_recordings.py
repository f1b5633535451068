"""LangChain's recordings (recordings/more): which of them are charged what was billed, and which wait, for what reason.

LangChain adds up what each event of a stream from Anthropic says of its usage, though each says the sum of all before;
OpenLLMetry adds up what each of several answers to one call says.
"""

from decimal import Decimal

import pytest
from otel_credits_aggregator.replay import replay_batch, run_replay
from support.chain import Chain
from support.more_recordings import CASES, PRICES, Charged, bill, charge, charge_requests, spans_of

# `old_` is langchain-anthropic 0.3.12. `before` and `twice`: usage as Anthropic's API told it once, and in two events.
ADDED_UP = {
    f"{emitter}-langchain.{case}": "usage_unknown"
    if case in ("claude_stream_nousage", "claude_stream_before_cached")
    else flaw
    for emitter, flaw in (("ga", "emitter_unreliable"), ("oi", "emitter_unreliable"))
    for case in (
        "claude_stream",
        "claude_stream_cached",
        "claude_astream_cached",
        "claude_stream_nousage",
        "claude_stream_before_cached",
        "claude_stream_twice_cached",
        "old_claude_stream",
        "old_claude_stream_cached",
        "old_claude_astream_cached",
    )
}
WAITS = ADDED_UP | {
    "ollm-langchain.claude_cached": "unknown_convention",
    "ollm-langchain.claude_stream_cached": "unknown_convention",
    "ollm-langchain.claude_astream_cached": "unknown_convention",
    "ollm-langchain.claude_stream_before_cached": "unknown_convention",
    "ollm-langchain.gpt_two": "emitter_unreliable",
    "ollm-langchain.gpt_two_plain": "emitter_unreliable",
    # Without the answers on the span it cannot be told how many there were.
    "ollm-langchain.gpt_hidden": "emitter_unreliable",
    "ollm-langchain.gpt_two_hidden": "emitter_unreliable",
}
CHARGED = [
    case
    for case in CASES
    if case.partition(".")[0] in ("ga-langchain", "oi-langchain", "ollm-langchain")
    and case.partition(".")[2].startswith(("claude", "old_claude", "gpt"))
    and case not in WAITS
]


@pytest.fixture(scope="module")
def charged(shared_chain: Chain) -> dict[str, Charged]:
    """What became of each case."""
    return charge(shared_chain, [*WAITS, *CHARGED])


def test_what_may_be_added_up_waits(charged: dict[str, Charged]) -> None:
    """Nothing is charged of a call whose counts may be sums of sums, or that says it had no prompt."""
    assert {case: (charged[case].credits, charged[case].reasons) for case in WAITS} == {
        case: (0, [reason]) for case, reason in WAITS.items()
    }


def test_what_is_told_once_is_charged(charged: dict[str, Charged]) -> None:
    """Calls that are no streams, and answers to n=2 whose usage is told once, are charged what the provider bills."""
    assert len(CHARGED) > 10
    assert {case: (dict(charged[case].units), charged[case].reasons) for case in CHARGED} == {
        case: (bill(case), []) for case in CHARGED
    }


def test_a_replay_decides_the_same(chain: Chain) -> None:
    """What came before there was any price is charged, or waits again, as if it came now, although no answer was kept."""
    cases = [*WAITS, *CHARGED, *(case for case in CASES if case.startswith("openlit-"))]
    sent = [(case, spans_of(case) or b"") for case in cases]
    charge_requests(chain, sent, {("another", "call"): Decimal(1)})
    assert not chain.events()
    rows = [["*", unit, price, 0] for unit, price in PRICES.items()]
    columns = ["model", "unit", "credits_per_unit", "effective_from"]
    chain.client.insert("credit_action_costs", rows, column_names=columns)
    waiting = chain.rows("SELECT toString(quarantine_id) AS id FROM credit_quarantine ORDER BY received_at, id")
    run_replay(chain.client, replay_batch([row["id"] for row in waiting]))
    found = by_payer(chain)
    chain.empty()
    charge(chain, cases)
    assert len(found) > len(CHARGED)
    assert found == by_payer(chain)


def by_payer(chain: Chain) -> dict[str, dict[str, int]]:
    """What each case was charged, in tokens by unit."""
    return {
        event["user_id"]: {unit: int(n) for unit, n in event["units"].items() if n and unit != "reasoning_token"}
        for event in chain.events()
    }
