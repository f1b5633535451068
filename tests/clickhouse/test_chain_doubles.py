"""What two aggregators charged twice, because neither saw the other's insert, is taken back once, and every sum agrees."""

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from otel_credits_aggregator.otlp import Signal
from otel_credits_aggregator.replay import VOID, Treatment, charges_taken_back, run_replay
from otel_credits_aggregator.spool import Batch, Spool
from otel_credits_aggregator.voids import (
    charges_of,
    double_batch,
    doubles_of_the_gone,
    doubles_to_take_back,
    note_copies_of_void,
    note_doubles,
    void_batch,
)
from support.chain import Chain
from support.otlp_build import AMOUNT, KEY, USER, span, traces, usage_span
from support.samples import others_long


@pytest.fixture
def other(chain: Chain, tmp_path: Path) -> Iterator[Chain]:
    """Another aggregator on the same store."""
    with Spool(tmp_path / "other.sqlite", 1 << 30, 1.0) as spool:
        yield Chain(chain.client, spool, chain.settings)


def take_back(chain: Chain) -> int:
    """Takes back what is noted of this aggregator's charges, as its inserter does; returns how many."""
    doubles = doubles_to_take_back(chain.client, chain.spool.receiver, chain.spool.batches())
    if doubles:
        run_replay(chain.client, double_batch(doubles, chain.spool.receiver))
    return len(doubles)


def charged_twice(one: Chain, other: Chain, request: ExportTraceServiceRequest) -> None:
    """Both charge a request; each looks for doubles after its insert, and forgets the batch."""
    batches = [(one, one.compose(request)), (other, other.compose(request))]
    for chain, batch in batches:
        chain.insert_unseeing(batch)
    for chain, batch in batches:
        note_doubles(chain.client, batch.batch_id)
        chain.spool.forget(batch)


def mixed_usage() -> ExportTraceServiceRequest:
    """Usages found by their second and by their key, of two users."""
    return traces(
        *(usage_span({AMOUNT: "0.25", USER: f"user-{n % 2}"}) for n in range(6)),
        *(usage_span({AMOUNT: "1.5", KEY: f"job-{n}"}) for n in range(3)),
        usage_span({USER: None}),
    )


def outcomes(chain: Chain) -> dict[str, Any]:
    """What became of what this aggregator received."""
    query = (
        "SELECT outcome, sum(items) AS n FROM ingest_outcomes WHERE receiver = {receiver:String}"
        " GROUP BY outcome HAVING n != 0"
    )
    return {row["outcome"]: row["n"] for row in chain.rows(query, receiver=chain.spool.receiver)}


def test_what_was_charged_twice_is_taken_back_once(chain: Chain, other: Chain) -> None:
    """Events, balances, months and the accounting of both aggregators are as if the second copy had been a duplicate."""
    charged_twice(chain, other, mixed_usage())
    assert sum(chain.charges()) == 2 * (6 * Decimal("0.25") + 3 * Decimal("1.5"))
    assert take_back(chain) + take_back(other) == 9
    assert take_back(chain) + take_back(other) == 0
    assert sum(chain.charges()) == 6 * Decimal("0.25") + 3 * Decimal("1.5")
    totals = [outcomes(each) for each in (chain, other)]
    assert sorted(totals, key=str) == sorted(
        [{"charged": 9, "quarantined": 1}, {"duplicate": 9, "quarantined": 1}], key=str
    )
    assert chain.differences() == []


def test_only_the_aggregator_that_charged_takes_back(chain: Chain, other: Chain) -> None:
    """Of two batches the one with the smaller id stays, whoever looks, and its aggregator has nothing to take back."""
    charged_twice(chain, other, traces(*(usage_span() for _ in range(5))))
    taken = {take_back(chain), take_back(other)}
    assert taken == {0, 5}
    (row,) = chain.rows("SELECT min(toString(batch_id)) AS smallest FROM credit_usage_events")
    assert chain.rows("SELECT * FROM credit_voids WHERE toString(batch_id) = {smallest:String}", **row) == []


@pytest.mark.parametrize("cut_off", [["user_month_usage_mv", "credit_usage_events_mv"], ["judged_outcomes_mv"]])
def test_a_batch_that_was_cut_off_is_completed_before_it_is_taken_back(
    chain: Chain, other: Chain, cut_off: list[str]
) -> None:
    """Charged in part, charged by another aggregator, repeated: it is charged in whole, and one of the two is taken back."""
    request = mixed_usage()
    batches = [(one, one.compose(request)) for one in (chain, other)]
    for view in cut_off:
        chain.command(f"DETACH TABLE {view} SYNC")
    Chain.insert_unseeing(*batches[0])
    for view in cut_off:
        chain.command(f"ATTACH TABLE {view}")
    Chain.insert_unseeing(*batches[1])
    for one, batch in batches:
        one.insert(batch)
        note_doubles(one.client, batch.batch_id)
        one.spool.forget(batch)
    assert take_back(chain) + take_back(other) == 9
    assert sum(chain.charges()) == 6 * Decimal("0.25") + 3 * Decimal("1.5")
    assert sum(outcomes(one).get("charged", 0) for one in (chain, other)) == 9
    assert chain.differences() == []


def test_three_aggregators_charge_once(chain: Chain, other: Chain, tmp_path: Path) -> None:
    """Whoever sees what when: of three charges of one usage one stays."""
    request = traces(usage_span({AMOUNT: "3"}))
    with Spool(tmp_path / "third.sqlite", 1 << 30, 1.0) as spool:
        third = Chain(chain.client, spool, chain.settings)
        charged_twice(chain, other, request)
        taken = take_back(chain) + take_back(other)
        batch = third.compose(request)
        third.insert_unseeing(batch)
        note_doubles(third.client, batch.batch_id)
        third.spool.forget(batch)
        taken += sum(map(take_back, (chain, other, third)))
    assert taken == 2
    assert sum(chain.charges()) == 3
    assert chain.differences() == []


def test_a_cut_off_correction_is_completed(chain: Chain, other: Chain) -> None:
    """A correction that is repeated, wholly or after it was cut off in any table, corrects once."""
    charged_twice(chain, other, mixed_usage())
    for each in (chain, other):
        if doubles := doubles_to_take_back(each.client, each.spool.receiver, ()):
            batch = double_batch(doubles, each.spool.receiver)
            for view in ("usage_month_voids_mv", "voided_events_mv"):
                chain.command(f"DETACH TABLE {view} SYNC")
                run_replay(each.client, batch)
                chain.command(f"ATTACH TABLE {view}")
            run_replay(each.client, batch)
            run_replay(each.client, batch)
    assert sum(chain.charges()) == 6 * Decimal("0.25") + 3 * Decimal("1.5")
    assert chain.differences() == []


def test_nothing_is_taken_back_before_the_other_charge_is_there(chain: Chain, other: Chain) -> None:
    """As long as the charge that is to stay has not reached the events, the noted one is the only one, and stays."""
    charged_twice(chain, other, traces(usage_span({AMOUNT: "2"})))
    chain.command("DROP TABLE IF EXISTS hidden")
    chain.command("CREATE TABLE hidden AS credit_usage_events")
    chain.command("INSERT INTO hidden SELECT * FROM credit_usage_events ORDER BY toString(batch_id) LIMIT 1")
    chain.command("DELETE FROM credit_usage_events WHERE batch_id IN (SELECT batch_id FROM hidden)")
    assert take_back(chain) + take_back(other) == 0
    chain.command("INSERT INTO credit_usage_events SELECT * FROM hidden")
    assert take_back(chain) + take_back(other) == 1
    assert sum(chain.charges()) == 2
    chain.command("DROP TABLE hidden SYNC")


def test_a_batch_under_way_is_left_alone(chain: Chain, other: Chain) -> None:
    """A charge is taken back only after its own batch has reached every total."""
    charged_twice(chain, other, traces(usage_span()))
    (row,) = chain.rows("SELECT max(toString(batch_id)) AS last FROM credit_usage_events")
    under_way = [Batch(row["last"], Signal.TRACES, 1, 1, b"")]
    for each in (chain, other):
        assert doubles_to_take_back(each.client, each.spool.receiver, under_way) == []


def test_usage_that_was_charged_once_is_not_noted(chain: Chain, other: Chain) -> None:
    """Copies that came one after the other, in a batch or again, are duplicates and nothing is noted."""
    request = traces(usage_span(), usage_span({KEY: "a"}), span())
    for each in (chain, other, chain):
        batch = each.send(request)
        note_doubles(each.client, batch.batch_id)
    assert chain.rows("SELECT * FROM double_charges") == []


@pytest.fixture
def third(chain: Chain, tmp_path: Path) -> Iterator[Chain]:
    """One more aggregator on the same store."""
    with Spool(tmp_path / "third.sqlite", 1 << 30, 1.0) as spool:
        yield Chain(chain.client, spool, chain.settings)


def left_behind(chain: Chain, at_least_s: int = 0) -> list[Batch]:
    """Batches that take back what others have left for so long, as this aggregator's inserter makes them."""
    receiver = chain.spool.receiver
    gone = doubles_of_the_gone(chain.client, receiver, at_least_s)
    return [double_batch([double], made_by) for made_by, doubles in gone.items() for double in doubles]


@pytest.mark.parametrize("looked", [False, True], ids=["before its look", "after it"])
def test_what_an_aggregator_left_that_is_gone_is_taken_back_by_another(
    chain: Chain, other: Chain, third: Chain, looked: bool
) -> None:
    """Dead for good after its insert, before or after its look for doubles: its charges are taken back once, in its name."""
    request = mixed_usage()
    batches = {one.spool.receiver: one.compose(request) for one in (chain, other)}
    stays, gone = sorted((chain, other), key=lambda one: batches[one.spool.receiver].batch_id)
    for one in (stays, gone):
        one.insert_unseeing(batches[one.spool.receiver])
    if looked:
        note_doubles(gone.client, batches[gone.spool.receiver].batch_id)
    assert take_back(stays) == 0
    assert left_behind(third, at_least_s=3600) == []
    for batch in left_behind(third):
        run_replay(third.client, batch)
    assert sum(chain.charges()) == 6 * Decimal("0.25") + 3 * Decimal("1.5")
    assert outcomes(gone) == {"duplicate": 9, "quarantined": 1}
    assert outcomes(stays) == {"charged": 9, "quarantined": 1}
    assert left_behind(third) == left_behind(stays) == []
    assert chain.differences() == []


def test_several_take_back_what_one_has_left_and_it_comes_back(chain: Chain, other: Chain, third: Chain) -> None:
    """Two take the same charges back at once, and then the one that was held to be gone repeats its own correction: once."""
    charged_twice(chain, other, mixed_usage())
    gone = max((chain, other), key=lambda one: max(str(row["batch_id"]) for row in batches_of(one)))
    own = double_batch(doubles_to_take_back(gone.client, gone.spool.receiver, ()), gone.spool.receiver)
    takers = [one for one in (chain, other, third) if one is not gone]
    both = [left_behind(taker) for taker in takers]
    assert [len(batches) for batches in both] == [9, 9]
    for one, another in zip(*both, strict=True):
        run_replay(chain.client, one)
        run_replay(chain.client, another)
    run_replay(chain.client, own)
    assert chain.rows("SELECT count() AS n FROM credit_voids") == [{"n": 9}]
    assert sum(chain.charges()) == 6 * Decimal("0.25") + 3 * Decimal("1.5")
    assert chain.differences() == []


def batches_of(chain: Chain) -> list[dict[str, Any]]:
    """The batches that this aggregator has charged."""
    query = "SELECT toString(batch_id) AS batch_id FROM charged_batches WHERE receiver = {receiver:String}"
    return chain.rows(query, receiver=chain.spool.receiver)


def test_a_correction_for_another_that_was_cut_off_is_completed(chain: Chain, other: Chain, third: Chain) -> None:
    """Cut off in any table and repeated, or taken up by yet another aggregator, it corrects once."""
    charged_twice(chain, other, mixed_usage())
    gone = max((chain, other), key=lambda one: max(str(row["batch_id"]) for row in batches_of(one)))
    for batch in left_behind(third):
        for view in ("usage_month_voids_mv", "voided_events_mv"):
            chain.command(f"DETACH TABLE {view} SYNC")
            run_replay(third.client, batch)
            chain.command(f"ATTACH TABLE {view}")
        run_replay(third.client, batch)
    assert left_behind(next(one for one in (chain, other) if one is not gone)) == []
    assert sum(chain.charges()) == 6 * Decimal("0.25") + 3 * Decimal("1.5")
    assert chain.differences() == []


def decide(chain: Chain, event_id: str) -> Batch:
    """A batch that takes a charge back because someone wants it, of what is visible now."""
    (charge, *_) = charges_of(chain.client, [event_id])
    return void_batch([charge], Treatment(VOID, "", "grace", "empty report", 1_700_000_000_000_000))


def carry_out(chain: Chain, decision: Batch) -> None:
    run_replay(chain.client, decision)
    note_copies_of_void(chain.client, charges_taken_back(decision))


ORDERS = ["decided, looked", "looked, decided", "chosen, looked, decided"]


@pytest.mark.parametrize("attributes", [{AMOUNT: "3"}, {AMOUNT: "3", KEY: "job"}], ids=["span", "key"])
@pytest.mark.parametrize("smaller_first", others_long([True, False], short=[True]))
@pytest.mark.parametrize(
    "order",
    others_long(ORDERS, short=ORDERS[2:]),
)
def test_a_copy_that_is_charged_while_someone_takes_the_charge_back_is_taken_back_too(
    chain: Chain, other: Chain, order: str, smaller_first: bool, attributes: dict[str, Any]
) -> None:
    """Whichever of the two insert ids is smaller and whoever ends first: what someone takes back stays void, copies included."""
    request = traces(usage_span(attributes))
    batches = [chain.compose(request), other.compose(request)]
    owners = dict(zip([batch.batch_id for batch in batches], [chain, other], strict=True))
    batches.sort(key=lambda batch: batch.batch_id, reverse=not smaller_first)
    first, copy = batches
    owners[first.batch_id].insert(first)
    (row,) = chain.rows("SELECT toString(event_id) AS id FROM credit_usage_events")
    decision = decide(chain, row["id"])
    if order == "decided, looked":
        carry_out(chain, decision)
    owners[copy.batch_id].insert_unseeing(copy)
    if order != "decided, looked":
        note_doubles(chain.client, copy.batch_id)
    if order == "looked, decided":
        decision = decide(chain, row["id"])
    if order != "decided, looked":
        carry_out(chain, decision)
    note_doubles(chain.client, copy.batch_id)
    for one, batch in ((owners[batch.batch_id], batch) for batch in batches):
        one.spool.forget(batch)
    take_back(chain)
    take_back(other)
    assert sum(chain.charges()) == 0
    (usage,) = chain.rows("SELECT sum(sign) AS net FROM credit_usage_events")
    assert usage["net"] == 0
    assert chain.rows("SELECT kind, count() AS n FROM credit_voids GROUP BY kind ORDER BY kind") == [
        {"kind": "duplicate", "n": 1},
        {"kind": "void", "n": 1},
    ]
    assert sum(outcomes(one).get("charged", 0) for one in (chain, other)) == 1
    assert sum(outcomes(one).get("duplicate", 0) for one in (chain, other)) == 1
    assert chain.differences() == []
