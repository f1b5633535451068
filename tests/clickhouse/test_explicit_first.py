"""An app's own usage and an instrumentation's span of the same LLM call: the app's word is charged, whichever comes first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from otel_credits_aggregator.replay import VOID, Treatment, quarantined_ids, replay_batch, run_replay
from otel_credits_aggregator.spool import Batch, Spool
from otel_credits_aggregator.voids import (
    charges_of,
    double_batch,
    doubles_to_take_back,
    note_copies_of_void,
    void_batch,
)
from support.chain import STORED_TABLES, Chain
from support.otlp_build import (
    AMOUNT,
    CACHE_READ,
    FINISH_REASONS,
    INPUT,
    KEY,
    OPERATION,
    OUTPUT,
    RESPONSE_ID,
    USER,
    span,
    traces,
    usage_span,
)
from support.samples import others_long

_SCOPE = "opentelemetry.instrumentation.genai.anthropic"
_ID = "msg_01_the_only_one"
_TRACE, _PARENT = b"t" * 16, b"p" * 8
_COUNTS = {INPUT: 10, OUTPUT: 5}


def call(attributes: dict[str, Any] | None = None, **fields: Any) -> Span:
    """An instrumentation's span of a call: 15 tokens."""
    told = {OPERATION: "chat", FINISH_REASONS: ["stop"], USER: "ada", **_COUNTS, **(attributes or {})}
    return span(told, **fields)


def below(attributes: dict[str, Any] | None = None) -> Span:
    """The same as a child of the app's usage."""
    return call(attributes, trace_id=_TRACE, parent_span_id=_PARENT)


def said(attributes: dict[str, Any], **fields: Any) -> Span:
    """What the app says of it: 3 credits."""
    return usage_span({USER: "ada", AMOUNT: "3", **attributes}, **fields)


def around(attributes: dict[str, Any]) -> Span:
    """The same as the parent of the call."""
    return said(attributes, trace_id=_TRACE, span_id=_PARENT)


@dataclass(frozen=True)
class Case:
    """Spans of the same call, or calls: those of instrumentations, and the app's."""

    automatic: Callable[[], list[Span]]
    explicit: Callable[[], Span]


CASES = {
    "one response id": Case(lambda: [call({RESPONSE_ID: _ID})], lambda: said({RESPONSE_ID: _ID, **_COUNTS})),
    "one response id, no tokens": Case(lambda: [call({RESPONSE_ID: _ID})], lambda: said({RESPONSE_ID: _ID})),
    "one response id, other tokens": Case(
        lambda: [call({RESPONSE_ID: _ID})], lambda: said({RESPONSE_ID: _ID, INPUT: 9, OUTPUT: 9})
    ),
    "parent": Case(lambda: [below()], lambda: around(_COUNTS)),
    "parent of a call with an id": Case(lambda: [below({RESPONSE_ID: _ID})], lambda: around(_COUNTS)),
    "parent with the same id": Case(lambda: [below({RESPONSE_ID: _ID})], lambda: around({RESPONSE_ID: _ID, **_COUNTS})),
    "parent with a key": Case(lambda: [below()], lambda: around({KEY: "job-1", **_COUNTS})),
    "parent with other counts": Case(lambda: [below({CACHE_READ: 8})], lambda: around({INPUT: 2, OUTPUT: 5})),
    "parent of two": Case(
        lambda: [below({RESPONSE_ID: f"msg_{n}_of_two_of_them", INPUT: n}) for n in (1, 2)],
        lambda: around({INPUT: 3, OUTPUT: 10}),
    ),
}


@pytest.fixture(params=others_long(CASES, short={"one response id, other tokens", "parent", "parent with a key"}))
def case(request: pytest.FixtureRequest) -> Case:
    """Each way in which they are known to be of the same call."""
    return CASES[request.param]


@pytest.fixture(params=others_long(["one response id", "parent with a key", "parent of two"], short={"parent of two"}))
def kind(request: pytest.FixtureRequest) -> Case:
    """The same, one way of a kind."""
    return CASES[request.param]


def price(chain: Chain, credits: str, *units: str, action: str = "*") -> None:
    """A price of these units, for all time."""
    chain.command(
        "INSERT INTO credit_action_costs (action_type, unit, credits_per_unit, effective_from)"
        f" SELECT '{action}', arrayJoin({list(units)}), {credits}, '2000-01-01'"
    )


@pytest.fixture(autouse=True)
def prices(chain: Chain) -> None:
    """0.01 credits a token."""
    price(chain, "0.01", "input_token", "output_token", "cache_read_token")


@pytest.fixture
def other(chain: Chain, tmp_path: Path) -> Iterator[Chain]:
    """Another aggregator on the same store."""
    with Spool(tmp_path / "other.sqlite", 1 << 30, 1.0) as spool:
        yield Chain(chain.client, spool, chain.settings)


@pytest.fixture
def third(chain: Chain, tmp_path: Path) -> Iterator[Chain]:
    """One more."""
    with Spool(tmp_path / "third.sqlite", 1 << 30, 1.0) as spool:
        yield Chain(chain.client, spool, chain.settings)


def send(chain: Chain, *spans: Span) -> Batch:
    """Inserts each span under its scope in one request, looks, and forgets it."""
    batch = compose(chain, *spans)
    chain.insert(batch)
    return looked(chain, batch)


def compose(chain: Chain, *spans: Span) -> Batch:
    scopes = [_SCOPE if any(one.key == OPERATION for one in each.attributes) else "app" for each in spans]
    requests = [traces(each, scope=scope) for each, scope in zip(spans, scopes, strict=True)]
    return chain.compose(*requests, charge_genai=True)


def looked(chain: Chain, batch: Batch) -> Batch:
    chain.look(batch)
    chain.spool.forget(batch)
    return batch


def net(chain: Chain) -> Decimal:
    """What is charged, of all users."""
    return sum(chain.charges(), Decimal(0))


def assert_charged_as_said(chain: Chain, *others: Chain) -> None:
    """One usage is charged, the app's, and every sum says so."""
    for one in (chain, *others):
        one.take_back()
    for one in (chain, *others):
        assert one.take_back() == 0
    assert net(chain) == 3
    (left,) = chain.rows(
        "SELECT any(action_type) AS action FROM credit_usage_events GROUP BY event_id, batch_id HAVING sum(sign) > 0"
    )
    assert left["action"] == "some_action"
    assert chain.outcomes()["charged"] == 1
    assert chain.differences() == []
    chain.assert_totals_are_the_events()


def test_in_one_request(chain: Chain, case: Case) -> None:
    """In one insert, in whatever order, the app's word is charged and nothing is taken back."""
    send(chain, *case.automatic(), case.explicit())
    assert chain.rows("SELECT * FROM credit_voids") == []
    assert_charged_as_said(chain)


def test_the_app_first(chain: Chain, case: Case) -> None:
    """The instrumentation's span that comes later is a duplicate."""
    send(chain, case.explicit())
    send(chain, *case.automatic())
    assert chain.rows("SELECT * FROM double_charges") == []
    assert chain.outcomes() == {"charged": 1, "duplicate": len(case.automatic())}
    assert_charged_as_said(chain)


def test_the_app_later(chain: Chain, case: Case) -> None:
    """The instrumentation's span is charged until the app's comes, and is then taken back: what the app says is charged."""
    calls = case.automatic()
    for each in calls:
        send(chain, each)
    assert len(chain.charges()) == len(calls)
    send(chain, case.explicit())
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


def test_sent_again_in_any_order(chain: Chain, case: Case) -> None:
    """Resent spans of either, before and after the charge was taken back, change nothing."""
    calls, usage = case.automatic(), case.explicit()
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
    send(chain, call({RESPONSE_ID: _ID}))
    send(chain, said({RESPONSE_ID: _ID}))
    send(chain, said({RESPONSE_ID: _ID, AMOUNT: "5"}))
    assert_charged_as_said(chain)


def test_twice_in_the_insert_that_replaces(chain: Chain) -> None:
    """Two usages of the app with one response id in the insert that replaces the call: the first is charged."""
    send(chain, call({RESPONSE_ID: _ID}))
    send(chain, said({RESPONSE_ID: _ID}), said({RESPONSE_ID: _ID, AMOUNT: "5"}), call({RESPONSE_ID: _ID}))
    assert_charged_as_said(chain)


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_three_aggregators(chain: Chain, other: Chain, third: Chain, kind: Case, order: tuple[int, ...]) -> None:
    """Two charge the call, unseen, and a third the app's usage: in whatever order they end and look, the usage stays."""
    chains = [chain, other, third]
    spans = [kind.automatic(), kind.automatic(), [kind.explicit()]]
    spans[1] = spans[0]
    batches = [compose(one, *each) for one, each in zip(chains, spans, strict=True)]
    for number in order:
        insert_unseeing(chains[number], batches[number])
    for number in order:
        looked(chains[number], batches[number])
        for one in chains:
            one.take_back()
    assert_charged_as_said(*chains)


def insert_unseeing(chain: Chain, batch: Batch) -> None:
    """Inserts a batch whose look for copies sees nothing of what is stored, as if all of that ended a moment later."""
    tables = ("event_ids_by_second", "event_ids_by_key", "call_links")
    for table in tables:
        chain.command(f"CREATE TABLE {table}_unseen AS {table}")
        chain.command(f"EXCHANGE TABLES {table} AND {table}_unseen")
    chain.insert(batch)
    for table in tables:
        chain.command(f"EXCHANGE TABLES {table} AND {table}_unseen")
        chain.command(f"INSERT INTO {table} SELECT * FROM {table}_unseen")
        chain.command(f"DROP TABLE {table}_unseen SYNC")


@pytest.mark.parametrize(
    "view", ["user_month_usage_mv", "credit_usage_events_mv", "call_links_mv", "event_ids_by_key_mv"]
)
def test_the_insert_that_replaces_is_cut_off_and_repeated(chain: Chain, kind: Case, view: str) -> None:
    """Cut off in any table and repeated, before and after what it replaces was taken back, it ends the same."""
    send(chain, *kind.automatic())
    batch = compose(chain, kind.explicit())
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
    chain: Chain, other: Chain, kind: Case, views: tuple[str, ...]
) -> None:
    """Calls whose insert was cut off are completed after another aggregator has charged the app's usage, and taken back."""
    batch = compose(chain, *kind.automatic())
    for view in views:
        chain.command(f"DETACH TABLE {view} SYNC")
    chain.insert(batch)
    for view in views:
        chain.command(f"ATTACH TABLE {view}")
    send(other, kind.explicit())
    chain.insert(batch)
    looked(chain, batch)
    assert_charged_as_said(chain, other)


def test_killed_before_the_look(chain: Chain, kind: Case) -> None:
    """A process that dies after the insert and before the look repeats both at its next start."""
    send(chain, *kind.automatic())
    batch = compose(chain, kind.explicit())
    chain.insert(batch)
    assert chain.take_back() == 0
    chain.insert(batch)
    looked(chain, batch)
    assert_charged_as_said(chain)


def test_a_correction_that_is_cut_off_is_completed(chain: Chain, kind: Case) -> None:
    """Cut off in any table and repeated, it takes the call back once."""
    send(chain, *kind.automatic())
    send(chain, kind.explicit())
    batch = double_batch(doubles_to_take_back(chain.client, chain.spool.receiver, ()), chain.spool.receiver)
    for view in ("usage_month_voids_mv", "voided_events_mv"):
        chain.command(f"DETACH TABLE {view} SYNC")
        run_replay(chain.client, batch)
        chain.command(f"ATTACH TABLE {view}")
    run_replay(chain.client, batch)
    run_replay(chain.client, batch)
    assert chain.rows("SELECT count() AS n FROM credit_voids") == [{"n": len(kind.automatic())}]
    assert_charged_as_said(chain)


def replay(chain: Chain) -> None:
    """Replays what waits, as the inserter does."""
    batch = replay_batch(quarantined_ids(chain.client, chain.spool.receiver))
    run_replay(chain.client, batch)
    chain.look(batch)


def test_the_call_is_charged_by_a_replay(chain: Chain, kind: Case) -> None:
    """A call that waited for its price and was charged by a replay is replaced like any other."""
    chain.command("TRUNCATE TABLE credit_action_costs")
    send(chain, *kind.automatic())
    assert set(chain.reasons()) == {"unpriced"}
    price(chain, "0.01", "input_token", "output_token", "cache_read_token")
    replay(chain)
    assert len(chain.charges()) == len(kind.automatic())
    send(chain, kind.explicit())
    assert_charged_as_said(chain)


@pytest.mark.parametrize("app_first", [True, False])
def test_the_app_waits_for_a_price(chain: Chain, case: Case, app_first: bool) -> None:
    """The app's usage waits for its price, the call is charged meanwhile; the replay charges what the app says."""
    usage = case.explicit()
    (amount,) = (attribute for attribute in usage.attributes if attribute.key == AMOUNT)
    amount.key = "credits.units.lamp"
    sent = [[usage], case.automatic()]
    for spans in sent if app_first else reversed(sent):
        send(chain, *spans)
    assert chain.reasons() == ["unpriced"]
    assert len(chain.charges()) == len(case.automatic())
    price(chain, "1", "lamp")
    price(chain, "0", "input_token", "output_token", action="some_action")
    replay(chain)
    assert_charged_as_said(chain)


def test_after_a_rebuild(chain: Chain, kind: Case) -> None:
    """Totals that are made anew from the events, before or after the correction, are the same."""
    send(chain, *kind.automatic())
    send(chain, kind.explicit())
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


def test_a_call_that_someone_has_taken_back_stays_so(chain: Chain, case: Case) -> None:
    """The app's usage of a call that a person took back is not charged, whenever it comes; other calls in it stay charged."""
    calls = case.automatic()
    send(chain, *calls)
    charges = chain.charges()
    event = chain.events()[0]
    assert void(chain, str(event["event_id"]))
    for _ in range(2):
        send(chain, case.explicit())
        chain.take_back()
        assert net(chain) == sum(charges) - event["credits_charged"]
        assert chain.differences() == []
        chain.assert_totals_are_the_events()
    send(chain, *calls)
    chain.take_back()
    assert net(chain) == sum(charges) - event["credits_charged"]


def test_a_usage_that_someone_has_taken_back_stays_so(chain: Chain, case: Case) -> None:
    """The app's usage is taken back before or after the call is: neither is charged, and neither comes back."""
    calls, usage = case.automatic(), case.explicit()
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
    send(chain, around(_COUNTS))
    assert not void(chain, replaced)
    chain.take_back()
    assert not void(chain, replaced)
    assert_charged_as_said(chain)


@pytest.mark.parametrize("decided_first", [True, False])
def test_taken_back_at_another_aggregator_in_the_same_moment(
    chain: Chain, other: Chain, kind: Case, decided_first: bool
) -> None:
    """Taken back while another aggregator inserts the app's usage unseen: nothing is charged that was taken back."""
    send(chain, *kind.automatic())
    charges, event = chain.charges(), chain.events()[0]
    batch = compose(other, kind.explicit())
    # What is decided is decided about what was charged by then.
    (automatic,) = charges_of(chain.client, [str(event["event_id"])])
    decision = void_batch([automatic], Treatment(VOID, "", "grace", "empty answer", 1_700_000_000_000_000))
    if decided_first:
        run_replay(chain.client, decision)
    insert_unseeing(other, batch)
    if not decided_first:
        run_replay(chain.client, decision)
    note_copies_of_void(chain.client, [(automatic.event_id, automatic.batch_id)])
    looked(other, batch)
    for one in (chain, other, chain):
        one.take_back()
    assert net(chain) == sum(charges) - event["credits_charged"]
    assert chain.differences() == []
    chain.assert_totals_are_the_events()


def test_equal_counts_alone_are_no_proof(chain: Chain) -> None:
    """A usage beside a call with the same counts, without a common id, waits as a possible copy; the call stays charged."""
    send(chain, below())
    send(chain, said(_COUNTS, trace_id=_TRACE, parent_span_id=_PARENT))
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
    for each in (said({RESPONSE_ID: _ID}), around(_COUNTS), said({RESPONSE_ID: _ID})):
        batch = chain.send(traces(each))
        chain.look(batch)
    assert chain.take_back() == 0
    assert net(chain) == 9
