"""What people decide of the quarantine, to whom usage is assigned and what is discarded, counts once and is recorded."""

from decimal import Decimal

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from otel_credits_aggregator.replay import (
    ASSIGN,
    DISCARD,
    Selection,
    Treatment,
    halves_of_replay,
    quarantined_ids,
    run_replay,
)
from support.chain import Chain
from support.otlp_build import AMOUNT, UNITS, USER, traces, usage_span
from support.replays import DyingClient, Killed, compose, repeat_after, replay_all, set_price, waiting
from support.samples import others_long

TO_ADA = Treatment(ASSIGN, "ada", "grace", "her trial", 1_700_000_000_000_000)
AWAY = Treatment(DISCARD, decided_by="grace", comment="load test", decided_at_us=1_700_000_000_000_000)
DECISIONS = """
    SELECT decision, decided_by, comment, toYear(decided_at) AS year, reason, user_id, count() AS n FROM quarantine_decisions
    GROUP BY ALL ORDER BY ALL
"""

RECORDED = "SELECT reason, sum(items) AS n, sum(raw_bytes) AS b FROM quarantine_decisions GROUP BY ALL ORDER BY ALL"


def nameless(number: int = 3) -> list[Span]:
    """Usages of 1, 2, ... credits that name nobody."""
    return [usage_span({USER: None, AMOUNT: str(n + 1)}) for n in range(number)]


@pytest.mark.parametrize("statements", others_long([0, 1, 2, 3, None], short=[2, None]))
def test_usage_without_a_user_is_charged_to_whom_it_is_assigned(chain: Chain, statements: int | None) -> None:
    """Assigned usage is charged to its payer once, with a record of who decided, wherever a kill cuts it off."""
    spans = nameless()
    chain.send(traces(*spans, spans[0], usage_span({AMOUNT: "x"}), usage_span({USER: "named", AMOUNT: "y"})))
    batch = compose(chain, treatment=TO_ADA)
    if statements is None:
        run_replay(chain.client, batch)
    else:
        repeat_after(statements)(chain, batch)
    run_replay(chain.client, batch)
    assert sorted((e["user_id"], e["credits_charged"]) for e in chain.events()) == [
        ("ada", Decimal(n)) for n in (1, 2, 3)
    ]
    assert chain.outcomes() == {"charged": 3, "duplicate": 1, "quarantined": 2}
    (decision,) = chain.rows(DECISIONS)
    assert tuple(decision.values()) == ("assigned", "grace", "her trial", 2023, "no_user", "ada", 4)
    chain.assert_sums_agree()


def test_a_decision_that_is_halved_is_recorded_once(chain: Chain) -> None:
    """If the store refuses a batch after its decisions were recorded, its halves do not record them again."""
    chain.send(traces(*nameless(4)))
    batch = compose(chain, treatment=TO_ADA)
    with pytest.raises(Killed):
        run_replay(DyingClient(chain, 1), batch)
    assert chain.rows("SELECT count() AS n FROM quarantine_decisions") == [{"n": 4}]
    for half in halves_of_replay(batch):
        run_replay(chain.client, half)
    (decision,) = chain.rows(DECISIONS)
    assert decision["n"] == 4
    assert chain.outcomes() == {"charged": 4}
    chain.assert_sums_agree()


def test_a_payer_is_not_changed(chain: Chain) -> None:
    """Usage that names a user is not assigned to another, whatever is selected."""
    chain.send(traces(*waiting(), *nameless(1)))
    assert len(quarantined_ids(chain.client, chain.spool.receiver, Selection(), TO_ADA)) == 1


def test_an_assigned_payer_stays(chain: Chain) -> None:
    """Usage that cannot be charged yet, when it is assigned, is charged to its payer when it can be."""
    chain.send(traces(usage_span({USER: None, AMOUNT: None, UNITS + "page": 2})), default_user="")
    batch = compose(chain, treatment=TO_ADA)
    run_replay(chain.client, batch)
    assert chain.rows("SELECT reason, user_id FROM credit_quarantine") == [{"reason": "unpriced", "user_id": "ada"}]
    set_price(chain, "0.1", "page")
    replay_all(chain, "unpriced")
    assert [(e["user_id"], e["credits_charged"]) for e in chain.events()] == [("ada", Decimal("0.2"))]
    chain.assert_sums_agree()


@pytest.mark.parametrize("statements", others_long([0, 1, 2, None], short=[1, None]))
def test_what_is_discarded_is_counted_and_recorded(chain: Chain, statements: int | None) -> None:
    """Discarded usage is never charged, stays in the accounting, and leaves a record, wherever a kill cuts it off."""
    chain.send(traces(*waiting(), usage_span({USER: None})))
    chain.command(
        "INSERT INTO credit_quarantine (event_id, reason, receiver, raw_request, items, signal)"
        f" SELECT generateUUIDv4(), 'request_not_insertable', '{chain.spool.receiver}', 'abc', 7, 'span'"
    )
    batch = compose(chain, "unpriced", "request_not_insertable", treatment=AWAY)
    if statements is None:
        run_replay(chain.client, batch)
    else:
        repeat_after(statements)(chain, batch)
    assert chain.reasons() == ["no_user"]
    outcomes = "SELECT reason, sum(items) AS n FROM ingest_outcomes GROUP BY reason HAVING n != 0 ORDER BY reason"
    # The seven items of the raw row were put into the quarantine by this test alone, so they are missing from the count.
    assert chain.rows(outcomes) == [
        {"reason": "discarded", "n": 10},
        {"reason": "no_user", "n": 1},
        {"reason": "request_not_insertable", "n": -7},
    ]
    assert chain.rows(RECORDED) == [
        {"reason": "request_not_insertable", "n": 7, "b": 3},
        {"reason": "unpriced", "n": 3, "b": 0},
    ]
    set_price(chain, "0.1", "page")
    replay_all(chain)
    assert chain.events() == []
