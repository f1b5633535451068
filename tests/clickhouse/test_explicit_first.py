"""An app's own usage and an instrumentation's span of the same LLM call: the app's word is charged, whichever comes first."""

from __future__ import annotations

from decimal import Decimal
from itertools import permutations

import pytest
from otel_credits_aggregator.replay import quarantined_ids, replay_batch, run_replay
from otel_credits_aggregator.voids import double_batch, doubles_to_take_back
from support.chain import STORED_TABLES, Chain
from support.explicit_calls import (
    CALL_ID,
    CASES,
    COUNTS,
    PARENT,
    TRACE,
    Case,
    around,
    assert_charged_as_said,
    below,
    call,
    compose,
    looked,
    net,
    price,
    said,
    send,
)
from support.otlp_build import AMOUNT, RESPONSE_ID, traces

pytestmark = pytest.mark.usefixtures("token_prices")


def test_in_one_request(chain: Chain, told_twice: Case) -> None:
    """In one insert, in whatever order, the app's word is charged and nothing is taken back."""
    send(chain, *told_twice.automatic(), told_twice.explicit())
    assert chain.rows("SELECT * FROM credit_voids") == []
    assert_charged_as_said(chain)


def test_the_app_first(chain: Chain, told_twice: Case) -> None:
    """The instrumentation's span that comes later is a duplicate."""
    send(chain, told_twice.explicit())
    send(chain, *told_twice.automatic())
    assert chain.rows("SELECT * FROM double_charges") == []
    assert chain.outcomes() == {"charged": 1, "duplicate": len(told_twice.automatic())}
    assert_charged_as_said(chain)


def test_the_app_later(chain: Chain, told_twice: Case) -> None:
    """The instrumentation's span is charged until the app's comes, and is then taken back: what the app says is charged."""
    calls = told_twice.automatic()
    for each in calls:
        send(chain, each)
    assert len(chain.charges()) == len(calls)
    send(chain, told_twice.explicit())
    assert_charged_as_said(chain)
    assert chain.outcomes() == {"charged": 1, "duplicate": len(calls)}
    chain.assert_sums_agree()


def test_in_between(chain: Chain) -> None:
    """Of two calls in one usage of the app, one that came before it and one that came after it: the usage alone is charged."""
    first, second = CASES["parent of two"].automatic()
    send(chain, first)
    send(chain, CASES["parent of two"].explicit())
    send(chain, second)
    assert_charged_as_said(chain)


def test_sent_again_in_any_order(chain: Chain, told_twice: Case) -> None:
    """Resent spans of either, before and after the charge was taken back, change nothing."""
    calls, usage = told_twice.automatic(), told_twice.explicit()
    send(chain, *calls)
    send(chain, *calls)
    send(chain, usage)
    send(chain, *calls)
    send(chain, usage)
    assert_charged_as_said(chain)
    send(chain, usage, *calls)
    send(chain, *calls)
    assert_charged_as_said(chain)


def test_the_app_says_it_twice(chain: Chain) -> None:
    """After the app's usage another one of the app with the same response id is a duplicate, and the first one stays."""
    send(chain, call({RESPONSE_ID: CALL_ID}))
    send(chain, said({RESPONSE_ID: CALL_ID}))
    send(chain, said({RESPONSE_ID: CALL_ID, AMOUNT: "5"}))
    assert_charged_as_said(chain)


def test_twice_in_the_insert_that_replaces(chain: Chain) -> None:
    """Two usages of the app with one response id in the insert that replaces the call: the first is charged."""
    send(chain, call({RESPONSE_ID: CALL_ID}))
    send(chain, said({RESPONSE_ID: CALL_ID}), said({RESPONSE_ID: CALL_ID, AMOUNT: "5"}), call({RESPONSE_ID: CALL_ID}))
    assert_charged_as_said(chain)


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_three_aggregators(
    chain: Chain, other_chain: Chain, third_chain: Chain, told_so: Case, order: tuple[int, ...]
) -> None:
    """Two charge the call, unseen, and a third the app's usage: in whatever order they end and look, the usage stays."""
    chains = [chain, other_chain, third_chain]
    spans = [told_so.automatic(), told_so.automatic(), [told_so.explicit()]]
    spans[1] = spans[0]
    batches = [compose(one, *each) for one, each in zip(chains, spans, strict=True)]
    for number in order:
        chains[number].insert_unseeing(batches[number])
    for number in order:
        looked(chains[number], batches[number])
        for one in chains:
            one.take_back()
    assert_charged_as_said(*chains)


@pytest.mark.parametrize(
    "view", ["user_month_usage_mv", "credit_usage_events_mv", "call_links_mv", "event_ids_by_key_mv"]
)
def test_the_insert_that_replaces_is_cut_off_and_repeated(chain: Chain, told_so: Case, view: str) -> None:
    """Cut off in any table and repeated, before and after what it replaces was taken back, it ends the same."""
    send(chain, *told_so.automatic())
    batch = compose(chain, told_so.explicit())
    chain.command(f"DETACH TABLE {view} SYNC")
    chain.insert(batch)
    chain.look(batch)
    chain.command(f"ATTACH TABLE {view}")
    assert chain.take_back() == 0 or view != "credit_usage_events_mv"
    chain.insert(batch)
    chain.insert(batch)
    looked(chain, batch)
    assert_charged_as_said(chain)
    before = {table: content for table, content in chain.contents().items() if table in STORED_TABLES}
    chain.insert(batch)
    chain.look(batch)
    assert chain.take_back() == 0
    assert chain.contents() == before


@pytest.mark.parametrize("views", [("user_month_usage_mv", "credit_usage_events_mv"), ("judged_outcomes_mv",)])
def test_the_call_is_cut_off_and_repeated_after_the_app_was_charged(
    chain: Chain, other_chain: Chain, told_so: Case, views: tuple[str, ...]
) -> None:
    """Calls whose insert was cut off are completed after another aggregator has charged the app's usage, and taken back."""
    batch = compose(chain, *told_so.automatic())
    for view in views:
        chain.command(f"DETACH TABLE {view} SYNC")
    chain.insert(batch)
    for view in views:
        chain.command(f"ATTACH TABLE {view}")
    send(other_chain, told_so.explicit())
    chain.insert(batch)
    looked(chain, batch)
    assert_charged_as_said(chain, other_chain)


def test_killed_before_the_look(chain: Chain, told_so: Case) -> None:
    """A process that dies after the insert and before the look repeats both at its next start."""
    send(chain, *told_so.automatic())
    batch = compose(chain, told_so.explicit())
    chain.insert(batch)
    assert chain.take_back() == 0
    chain.insert(batch)
    looked(chain, batch)
    assert_charged_as_said(chain)


def test_a_correction_that_is_cut_off_is_completed(chain: Chain, told_so: Case) -> None:
    """Cut off in any table and repeated, it takes the call back once."""
    send(chain, *told_so.automatic())
    send(chain, told_so.explicit())
    batch = double_batch(doubles_to_take_back(chain.client, chain.spool.receiver, ()), chain.spool.receiver)
    for view in ("usage_month_voids_mv", "voided_events_mv"):
        chain.command(f"DETACH TABLE {view} SYNC")
        run_replay(chain.client, batch)
        chain.command(f"ATTACH TABLE {view}")
    run_replay(chain.client, batch)
    run_replay(chain.client, batch)
    assert chain.rows("SELECT count() AS n FROM credit_voids") == [{"n": len(told_so.automatic())}]
    assert_charged_as_said(chain)


def replay(chain: Chain) -> None:
    """Replays what waits, as the inserter does."""
    batch = replay_batch(quarantined_ids(chain.client, chain.spool.receiver))
    run_replay(chain.client, batch)
    chain.look(batch)


def test_the_call_is_charged_by_a_replay(chain: Chain, told_so: Case) -> None:
    """A call that waited for its price and was charged by a replay is replaced like any other."""
    chain.command("TRUNCATE TABLE credit_action_costs")
    send(chain, *told_so.automatic())
    assert set(chain.reasons()) == {"unpriced"}
    price(chain, "0.01", "input_token", "output_token", "cache_read_token")
    replay(chain)
    assert len(chain.charges()) == len(told_so.automatic())
    send(chain, told_so.explicit())
    assert_charged_as_said(chain)


@pytest.mark.parametrize("app_first", [True, False])
def test_the_app_waits_for_a_price(chain: Chain, told_twice: Case, app_first: bool) -> None:
    """The app's usage waits for its price, the call is charged meanwhile; the replay charges what the app says."""
    usage = told_twice.explicit()
    (amount,) = (attribute for attribute in usage.attributes if attribute.key == AMOUNT)
    amount.key = "credits.units.lamp"
    sent = [[usage], told_twice.automatic()]
    for spans in sent if app_first else reversed(sent):
        send(chain, *spans)
    assert chain.reasons() == ["unpriced"]
    assert len(chain.charges()) == len(told_twice.automatic())
    price(chain, "1", "lamp")
    price(chain, "0", "input_token", "output_token", action="some_action")
    replay(chain)
    assert_charged_as_said(chain)


def test_after_a_rebuild(chain: Chain, told_so: Case) -> None:
    """Totals that are made anew from the events, before or after the correction, are the same."""
    send(chain, *told_so.automatic())
    send(chain, told_so.explicit())
    for _ in range(2):
        live = chain.rows("SELECT * FROM user_month_totals FINAL ORDER BY ALL")
        rebuilt = chain.rows(
            "SELECT user_id, sum(credits_charged) AS consumed, sum(sign) AS events FROM credit_usage_events GROUP BY user_id"
        )
        assert [(row["user_id"], row["consumed"], row["events"]) for row in live] == [
            (row["user_id"], row["consumed"], row["events"]) for row in rebuilt
        ]
        assert chain.differences() == []
        chain.take_back()
    assert_charged_as_said(chain)


def test_equal_counts_alone_are_no_proof(chain: Chain) -> None:
    """A usage beside a call with the same counts, without a common id, waits as a possible copy; the call stays charged."""
    send(chain, below())
    send(chain, said(COUNTS, trace_id=TRACE, parent_span_id=PARENT))
    assert chain.take_back() == 0
    assert chain.reasons() == ["possible_copy"]
    assert net(chain) == Decimal("0.15")


def test_a_usage_without_tokens_is_something_else(chain: Chain) -> None:
    """A workflow with a price of its own around a call is charged beside it."""
    send(chain, below())
    send(chain, around({}))
    assert chain.take_back() == 0
    assert net(chain) == Decimal("3.15")


def test_with_charge_genai_off_ids_and_parents_are_not_looked_at(chain: Chain) -> None:
    """Without automatic usage nothing is replaced: each usage of the app is one."""
    for each in (said({RESPONSE_ID: CALL_ID}), around(COUNTS), said({RESPONSE_ID: CALL_ID})):
        batch = chain.send(traces(each))
        chain.look(batch)
    assert chain.take_back() == 0
    assert net(chain) == 9
