"""What a person takes back stays so, whether the app's usage or the call was charged, and whatever comes later."""

from __future__ import annotations

import pytest
from otel_credits_aggregator.replay import VOID, Treatment, run_replay
from otel_credits_aggregator.voids import charges_of, note_copies_of_void, void_batch
from support.chain import Chain
from support.explicit_calls import (
    COUNTS,
    Case,
    around,
    assert_charged_as_said,
    below,
    compose,
    looked,
    net,
    send,
)

pytestmark = pytest.mark.usefixtures("token_prices")


def void(chain: Chain, event_id: str) -> bool:
    """Takes a charge back because someone wants it, as the inserter does; whether there was one."""
    charges = charges_of(chain.client, [event_id])
    if not charges or charges[0].is_void:
        return False
    decision = void_batch(charges[:1], Treatment(VOID, "", "grace", "empty answer", 1_700_000_000_000_000))
    run_replay(chain.client, decision)
    note_copies_of_void(chain.client, [(charges[0].event_id, charges[0].batch_id)])
    return True


def event_ids(chain: Chain) -> list[str]:
    return [str(row["event_id"]) for row in chain.events()]


def test_a_call_that_someone_has_taken_back_stays_so(chain: Chain, told_twice: Case) -> None:
    """The app's usage of a call that a person took back is not charged, whenever it comes; other calls in it stay charged."""
    calls = told_twice.automatic()
    send(chain, *calls)
    charges = chain.charges()
    event = chain.events()[0]
    assert void(chain, str(event["event_id"]))
    for _ in range(2):
        send(chain, told_twice.explicit())
        chain.take_back()
        assert net(chain) == sum(charges) - event["credits_charged"]
        assert chain.differences() == []
        chain.assert_totals_are_the_events()
    send(chain, *calls)
    chain.take_back()
    assert net(chain) == sum(charges) - event["credits_charged"]


def test_a_usage_that_someone_has_taken_back_stays_so(chain: Chain, told_twice: Case) -> None:
    """The app's usage is taken back before or after the call is: neither is charged, and neither comes back."""
    calls, usage = told_twice.automatic(), told_twice.explicit()
    send(chain, *calls)
    send(chain, usage)
    (explicit,) = {str(row["event_id"]) for row in chain.events() if row["action_type"] == "some_action"}
    assert void(chain, explicit)
    assert not void(chain, explicit)
    chain.take_back()
    assert net(chain) == 0
    send(chain, *calls)
    send(chain, usage)
    chain.take_back()
    assert net(chain) == 0
    assert chain.differences() == []
    chain.assert_totals_are_the_events()


def test_a_replaced_call_cannot_be_taken_back_again(chain: Chain) -> None:
    """Who takes back a call that the app's usage has just replaced is told that it is not charged; the usage stays."""
    send(chain, below())
    (replaced,) = event_ids(chain)
    send(chain, around(COUNTS))
    assert not void(chain, replaced)
    chain.take_back()
    assert not void(chain, replaced)
    assert_charged_as_said(chain)


@pytest.mark.parametrize("decided_first", [True, False])
def test_taken_back_at_another_aggregator_in_the_same_moment(
    chain: Chain, other_chain: Chain, told_so: Case, decided_first: bool
) -> None:
    """Taken back while another aggregator inserts the app's usage unseen: nothing is charged that was taken back."""
    send(chain, *told_so.automatic())
    charges, event = chain.charges(), chain.events()[0]
    batch = compose(other_chain, told_so.explicit())
    # What is decided is decided about what was charged by then.
    (automatic,) = charges_of(chain.client, [str(event["event_id"])])
    decision = void_batch([automatic], Treatment(VOID, "", "grace", "empty answer", 1_700_000_000_000_000))
    if decided_first:
        run_replay(chain.client, decision)
    other_chain.insert_unseeing(batch)
    if not decided_first:
        run_replay(chain.client, decision)
    note_copies_of_void(chain.client, [(automatic.event_id, automatic.batch_id)])
    looked(other_chain, batch)
    for one in (chain, other_chain, chain):
        one.take_back()
    assert net(chain) == sum(charges) - event["credits_charged"]
    assert chain.differences() == []
    chain.assert_totals_are_the_events()
