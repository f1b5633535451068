"""What waits in the quarantine is charged once when it can be, also if a replay is cut off and repeated."""

from datetime import UTC, timedelta
from decimal import Decimal
from typing import Any

import pytest
from otel_credits_aggregator import replay
from otel_credits_aggregator.replay import (
    ASSIGN,
    DISCARD,
    PriceWatch,
    Selection,
    Treatment,
    halves_of_replay,
    quarantined_ids,
    run_replay,
)
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
from support.replays import DyingClient, Killed, compose, repeat_after, replay_all, set_price, waiting
from support.samples import others_long


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
