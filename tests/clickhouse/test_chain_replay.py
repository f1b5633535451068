"""What waits in the quarantine is charged once when it can be, also if a replay is cut off and repeated."""

import json
from collections.abc import Callable
from datetime import UTC, timedelta
from decimal import Decimal
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from otel_credits_aggregator import replay
from otel_credits_aggregator.replay import (
    ASSIGN,
    DISCARD,
    PriceWatch,
    Selection,
    Treatment,
    halves_of_replay,
    quarantined_ids,
    replay_batch,
    run_replay,
)
from otel_credits_aggregator.spool import Batch
from support.chain import Chain
from support.otlp_build import (
    ACTION,
    AMOUNT,
    CACHE_READ,
    DESCRIPTION,
    INPUT,
    KEY,
    METADATA,
    OPERATION,
    OUTPUT,
    RESPONSE_ID,
    SOME_TIME_NS,
    STOP_REASON,
    UNITS,
    USER,
    USER_EMAIL,
    metric,
    metrics,
    point,
    span,
    traces,
    usage_span,
)
from support.samples import others_long


def set_price(chain: Chain, credits: str, unit: str) -> None:
    """Prices a unit for all time."""
    chain.command(
        "INSERT INTO credit_action_costs (unit, credits_per_unit, effective_from)"
        f" VALUES ('{unit}', {credits}, '1990-01-01')"
    )


AGAIN = Treatment()


def compose(chain: Chain, *reasons: str, user_id: str | None = None, treatment: Treatment = AGAIN) -> Batch:
    """Makes it durable that what matches is replayed (or treated otherwise) together."""
    selection = Selection(reasons, user_id)
    batch = replay_batch(quarantined_ids(chain.client, chain.spool.receiver, selection, treatment), treatment)
    chain.spool.compose(batch)
    return batch


def replay_all(chain: Chain, *reasons: str, user_id: str | None = None) -> int:
    """Replays what matches, as the inserter does; returns how many rows were tried."""
    batch = compose(chain, *reasons, user_id=user_id)
    run_replay(chain.client, batch)
    chain.spool.forget(batch)
    return len(json.loads(batch.fields)["ids"])


def waiting(number: int = 3, **attributes: Any) -> list[Span]:
    """Unpriced usages of different quantities of the unit `page`."""
    return [usage_span({AMOUNT: None, UNITS + "page": n + 1, USER: f"user-{n}", **attributes}) for n in range(number)]


def test_unpriced_usage_is_charged_when_the_price_appears(chain: Chain) -> None:
    """What was unpriced leaves the quarantine as events, with all that the span said and at its own time."""
    chain.send(traces(*waiting(**{DESCRIPTION: "pages", METADATA + "colour": True, USER_EMAIL: "u@example.org"})))
    assert chain.outcomes() == {"quarantined": 3}
    set_price(chain, "0.1", "page")
    assert replay_all(chain, "unpriced") == 3
    assert sorted(chain.charges()) == [Decimal("0.1"), Decimal("0.2"), Decimal("0.3")]
    event = chain.events()[0]
    assert (event["description"], event["metadata"], event["service_name"]) == (
        "pages",
        {"colour": "true"},
        "test-service",
    )
    assert {e["created_at"].replace(tzinfo=None).isoformat() for e in chain.events()} == {"2026-03-14T15:09:26.535897"}
    assert chain.outcomes() == {"charged": 3}
    assert chain.rows("SELECT count() AS n FROM credit_quarantine") == [{"n": 0}]
    assert chain.rows("SELECT count() AS n FROM users WHERE email = 'u@example.org'") == [{"n": 3}]
    chain.assert_sums_agree()


def test_a_replay_without_a_price_changes_nothing(chain: Chain) -> None:
    """What still cannot be charged is in the quarantine as before, counted once."""
    chain.send(traces(*waiting()))
    before = chain.contents()
    assert replay_all(chain, "unpriced") == 3
    after = chain.contents()
    ignored = {"batch_id"}
    rows = [
        [{k: v for k, v in row.items() if k not in ignored} for row in some["credit_quarantine"]]
        for some in (before, after)
    ]
    assert rows[0] == rows[1]
    assert chain.outcomes() == {"quarantined": 3}
    chain.assert_sums_agree()


def test_copies_that_wait_are_charged_once(chain: Chain) -> None:
    """A usage that was delivered three times while it was unpriced is charged once, the others are duplicates."""
    usages = waiting()
    for _ in range(2):
        chain.send(traces(*usages, usages[0]))
    assert chain.outcomes() == {"quarantined": 8}
    set_price(chain, "0.1", "page")
    assert replay_all(chain) == 8
    assert chain.outcomes() == {"charged": 3, "duplicate": 5}
    chain.send(traces(*usages))
    assert chain.outcomes() == {"charged": 3, "duplicate": 8}
    chain.assert_sums_agree()


def test_a_usage_that_was_charged_meanwhile_is_a_duplicate(chain: Chain) -> None:
    """If a copy came after the price, the one that waited is not charged again."""
    usages = waiting()
    chain.send(traces(*usages))
    set_price(chain, "0.1", "page")
    chain.send(traces(*usages))
    replay_all(chain)
    assert chain.outcomes() == {"charged": 3, "duplicate": 3}
    chain.assert_sums_agree()


def test_every_kind_of_usage_can_wait(chain: Chain) -> None:
    """Keys, responses, data points, doubles and who pays by default mean the same after the wait."""
    scope = "com.anthropic.sdk.python"
    llm = {
        OPERATION: "chat",
        INPUT: 10,
        OUTPUT: 5,
        CACHE_READ: 4,
        STOP_REASON: "end_turn",
        RESPONSE_ID: "msg_01_the_first_one",
    }
    chain.send(traces(span(llm), scope=scope), charge_genai=True, default_user="house")
    chain.send(
        traces(span({**llm, RESPONSE_ID: "msg_02_the_second_one", "tenant": "acme"}), scope=scope),
        charge_genai=True,
        user_attributes=("tenant",),
    )
    chain.send(traces(usage_span({KEY: "k", AMOUNT: None, UNITS + "page": 0.1 + 0.2})))
    chain.send(metrics(metric(point(0.1 + 0.2, {ACTION: "sync", USER: "someone", "credits.unit": "page"}))))
    assert chain.reasons() == ["unpriced"] * 4
    for unit, credits in (("input_token", "1"), ("cache_read_token", "0.1"), ("output_token", "2"), ("page", "1")):
        set_price(chain, credits, unit)
    replay_all(chain)
    found = {(e["user_id"], e["action_type"], e["identity"], e["credits_charged"]) for e in chain.events()}
    assert found == {
        ("house", "ai_call", "response", Decimal("16.4")),
        ("acme", "ai_call", "response", Decimal("16.4")),
        ("someone", "some_action", "key", Decimal("0.3")),
        ("someone", "sync", "point", Decimal("0.3")),
    }
    chain.assert_sums_agree()


def test_only_what_is_asked_for_is_replayed(chain: Chain) -> None:
    """Reason and user choose what is tried; the rest stays."""
    chain.send(traces(*waiting(), usage_span({USER: None}), usage_span({AMOUNT: "x", USER: "user-0"})))
    set_price(chain, "0.1", "page")
    assert replay_all(chain, "unpriced", user_id="user-0") == 1
    assert chain.reasons() == ["no_user", "not_a_number", "unpriced", "unpriced"]
    assert replay_all(chain, "no_user", "unpriced") == 3
    assert chain.reasons() == ["no_user", "not_a_number"]
    chain.assert_sums_agree()


def test_what_another_aggregator_received_is_left_to_it(chain: Chain) -> None:
    """Rows of another receiver are not replayed, since both could do it at the same moment."""
    chain.send(traces(*waiting()))
    assert quarantined_ids(chain.client, "another receiver") == []


class Killed(Exception):
    """The process ended here."""


class DyingClient:
    """A client whose process is killed before or after its n-th statement."""

    def __init__(self, chain: Chain, statements: int) -> None:
        self._client = chain.client
        self._left = statements

    def command(self, *args: Any, **options: Any) -> Any:
        return self._next(self._client.command, args, options)

    def raw_insert(self, *args: Any, **options: Any) -> Any:
        return self._next(self._client.raw_insert, args, options)

    def raw_query(self, *args: Any, **options: Any) -> bytes:
        return self._client.raw_query(*args, **options)

    def _next(self, statement: Callable[..., Any], args: Any, options: Any) -> Any:
        if self._left == 0:
            raise Killed
        self._left -= 1
        return statement(*args, **options)


def repeat_after(statements: int) -> Callable[[Chain, Any], None]:
    """A replay that is killed after so many of its statements, and repeated."""

    def run(chain: Chain, batch: Any) -> None:
        with pytest.raises(Killed):
            run_replay(DyingClient(chain, statements), batch)
        run_replay(chain.client, batch)

    return run


@pytest.mark.parametrize("statements", others_long([0, 1, 2], short=[1]))
def test_a_replay_that_is_cut_off_is_completed(chain: Chain, statements: int) -> None:
    """A replay that is killed between its statements and repeated leaves exactly what an undisturbed one does."""
    usages = waiting()
    chain.send(traces(*usages, usages[0], usage_span({AMOUNT: None, UNITS + "unknown": 1, USER: "other"})))
    set_price(chain, "0.1", "page")
    batch = compose(chain)
    repeat_after(statements)(chain, batch)
    assert chain.outcomes() == {"charged": 3, "duplicate": 1, "quarantined": 1}
    assert chain.reasons() == ["unpriced"]
    chain.assert_sums_agree()


TREATMENTS = [Treatment(), Treatment(ASSIGN, "ada"), Treatment(DISCARD)]


@pytest.mark.parametrize("treatment", others_long(TREATMENTS, short=TREATMENTS[:1]))
@pytest.mark.parametrize("statements", [1, 2])
def test_a_merge_before_the_repetition_changes_nothing(chain: Chain, statements: int, treatment: Treatment) -> None:
    """A treatment that was cut off is completed, not repeated, though the quarantine's parts were merged meanwhile."""
    for number in range(3):
        chain.send(traces(*(usage_span({USER: None, AMOUNT: str(n + 1)}) for n in range(number + 2))))
    batch = compose(chain, treatment=treatment)
    with pytest.raises(Killed):
        run_replay(DyingClient(chain, statements), batch)
    chain.command("OPTIMIZE TABLE credit_quarantine FINAL")
    run_replay(chain.client, batch)
    left = {"charged": 9} if treatment.action == ASSIGN else {"quarantined": 9}
    assert chain.outcomes() == left
    assert len(chain.events()) == left.get("charged", 0)
    decisions = chain.rows("SELECT count() AS n FROM quarantine_decisions")
    assert decisions == [{"n": 0 if treatment == Treatment() else 9}]
    if treatment.action != DISCARD:
        chain.assert_sums_agree()


def test_a_replay_that_was_complete_may_be_repeated(chain: Chain) -> None:
    """A replay that was killed only before it was forgotten changes nothing when it is repeated."""
    chain.send(traces(*waiting()))
    set_price(chain, "0.1", "page")
    batch = compose(chain)
    run_replay(chain.client, batch)
    before = chain.contents()
    run_replay(chain.client, batch)
    assert chain.contents() == before
    chain.assert_sums_agree()


def test_halves_of_a_replay_are_the_replay(chain: Chain) -> None:
    """A replay that is halved, because the store refuses it, charges the same once."""
    usages = waiting(5)
    chain.send(traces(*usages, *usages[:2]))
    set_price(chain, "0.1", "page")
    parts = [compose(chain)]
    while parts:
        part = parts.pop()
        halves = halves_of_replay(part)
        parts += halves
        if not halves:
            run_replay(chain.client, part)
    assert chain.outcomes() == {"charged": 5, "duplicate": 2}
    chain.assert_sums_agree()


def test_what_arrives_between_the_attempts_is_not_lost(chain: Chain) -> None:
    """Usage that is quarantined after a replay was cut off does not leave with it."""
    chain.send(traces(*waiting()))
    batch = compose(chain)
    with pytest.raises(Killed):
        run_replay(DyingClient(chain, 1), batch)
    chain.send(traces(*waiting(2)))
    run_replay(chain.client, batch)
    assert chain.outcomes() == {"quarantined": 5}
    set_price(chain, "0.1", "page")
    replay_all(chain)
    assert chain.outcomes() == {"charged": 5}
    chain.assert_sums_agree()


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


def test_ids_and_times_choose_rows(chain: Chain) -> None:
    """A selection by event ids or by the time of receiving means those rows and no others."""
    chain.send(traces(*waiting()))
    rows = chain.rows(
        "SELECT toString(event_id) AS event, received_at, toString(quarantine_id) AS id FROM credit_quarantine"
    )
    received = rows[0]["received_at"].replace(tzinfo=UTC)
    second = timedelta(seconds=1)

    def chosen(**selection: Any) -> set[str]:
        return set(quarantined_ids(chain.client, chain.spool.receiver, Selection(**selection)))

    everything = {row["id"] for row in rows}
    assert chosen(event_ids=(rows[1]["event"],)) == {rows[1]["id"]}
    assert chosen(since=received) == chosen(until=received + second) == everything
    assert chosen(since=received + second) == chosen(until=received) == set()


def test_raw_requests_are_left_alone(chain: Chain) -> None:
    """A request that is kept as bytes is not replayed through the chain."""
    chain.command(
        "INSERT INTO credit_quarantine (reason, receiver, raw_request) SELECT 'request_not_insertable', '"
        + chain.spool.receiver
        + "', 'x'"
    )
    assert replay_all(chain) == 0
    assert chain.reasons() == ["request_not_insertable"]


def test_the_price_watch_sees_every_change(chain: Chain) -> None:
    """The book is looked at again after an insert, an update and a delete, and not when nothing changed."""
    watch = PriceWatch()
    changes = [
        "SELECT 1",
        "INSERT INTO credit_action_costs (unit, credits_per_unit) VALUES ('page', 1)",
        "ALTER TABLE credit_action_costs UPDATE credits_per_unit = 2 WHERE unit = 'page' SETTINGS mutations_sync = 2",
        "ALTER TABLE credit_action_costs DELETE WHERE unit = 'page' SETTINGS mutations_sync = 2",
    ]
    for change in changes:
        chain.command(change)
        assert watch.changed(chain.client)
        assert not watch.changed(chain.client)


def test_a_replay_is_one_block(chain: Chain) -> None:
    """Copies far apart in the quarantine are recognised: a replay of as many rows as it takes, half of them copies."""
    half = replay.REPLAY_ROWS_MAX // 2
    spans = [
        usage_span(
            {AMOUNT: None, UNITS + "page": 1, USER: "u"}, trace_id=b"t" * 16, span_id=n.to_bytes(8), end_ns=SOME_TIME_NS
        )
        for n in range(1, half + 1)
    ]
    for _ in range(2):
        chain.send(traces(*spans))
    set_price(chain, "1", "page")
    assert replay_all(chain) == 2 * half
    assert chain.outcomes() == {"charged": half, "duplicate": half}
    chain.assert_sums_agree()
