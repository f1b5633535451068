"""The limit of the store's memory for tokens: what a repetition does that comes after it, and who notices."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator

import pytest
from otel_credits_aggregator.lane import Lane, Progress
from otel_credits_aggregator.ledger._corrections import correct
from otel_credits_aggregator.ledger.inputs import Fix
from otel_credits_aggregator.outcomes import Stopping
from otel_credits_aggregator.spool import Batch
from otel_credits_aggregator.window import is_forgotten, take_out
from support.chain import STORED_TABLES, Chain
from support.otlp_build import AMOUNT, KEY, USER, traces, usage_span

WINDOW = 3
# Behind which of them an insert was cut off is up to the store, so each is tried as the one that it did not reach.
VIEWS = (
    "credit_usage_events_mv",
    "event_ids_by_second_mv",
    "user_month_usage_mv",
    "charged_batches_mv",
)


@pytest.fixture
def forgetful(chain: Chain) -> Iterator[Chain]:
    """A chain into tables that remember few blocks."""
    _remember(chain, WINDOW)
    _others(chain, 1)
    yield chain
    _remember(chain, 10_000)


def _remember(chain: Chain, blocks: int) -> None:
    for table in STORED_TABLES:
        chain.command(f"ALTER TABLE {table} MODIFY SETTING non_replicated_deduplication_window = {blocks}")


def _cut_off(chain: Chain, view: str) -> Batch:
    """A batch of two users, whose first insert did not reach the table behind `view`; two of the usages have keys."""
    spans = [usage_span({USER: user, AMOUNT: "1"}) for user in ("ada", "eve", "ada")]
    keyed = [usage_span({USER: "ada", AMOUNT: "1", KEY: f"{view}-{n}"}) for n in range(2)]
    batch = chain.compose(traces(*spans, *keyed, usage_span({AMOUNT: "1", USER: None})), default_user="")
    chain.command(f"DETACH TABLE {view} SYNC")
    chain.insert(batch)
    chain.command(f"ATTACH TABLE {view}")
    return batch


def _others(chain: Chain, inserts: int) -> None:
    for _ in range(inserts):
        chain.send(
            traces(
                usage_span({USER: "bob", AMOUNT: "1"}), usage_span({USER: "bob", AMOUNT: "1", KEY: str(uuid.uuid4())})
            )
        )


def _lane(chain: Chain) -> tuple[Lane, Progress]:
    (row,) = chain.rows("SELECT currentDatabase() AS name")
    settings = chain.settings.model_copy(update={"store": f"chdb://memory/{row['name']}"})
    progress = Progress()
    return Lane(chain.spool, settings, progress, threading.Event()), progress


def _assert_charged_once(chain: Chain, batch: Batch, usages: int) -> None:
    """Each usage is one event, one id and one row of quarantine, all under one batch, and the spool is empty."""
    assert chain.spool.batches() == []
    assert chain.spool.is_empty()
    events = chain.rows("SELECT user_id, event_id, batch_id FROM credit_usage_events WHERE user_id IN ('ada', 'eve')")
    assert sorted(row["user_id"] for row in events) == ["ada"] * 4 + ["eve"]
    assert len({row["event_id"] for row in events}) == 5
    assert len({row["batch_id"] for row in events}) == 1
    (ids,) = chain.rows(
        "SELECT count() AS n, uniqExact(event_id) AS once"
        " FROM (SELECT event_id FROM event_ids_by_second UNION ALL SELECT event_id FROM event_ids_by_key)"
    )
    assert (ids["n"], ids["once"]) == (usages, usages)
    (quarantined,) = chain.rows("SELECT count() AS n, sum(items) AS items FROM credit_quarantine")
    assert (quarantined["n"], quarantined["items"]) == (1, 1)


@pytest.mark.parametrize("view", VIEWS)
def test_a_repetition_that_comes_too_late(forgetful: Chain, view: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the first attempt did not reach, a repetition that the store may take for another batch charges each usage
    once, says so and is counted; `reconcile --fix` has the totals right again, and nobody else's are touched."""
    batch = _cut_off(forgetful, view)
    _others(forgetful, WINDOW + 1)
    lane, progress = _lane(forgetful)
    lane.finish(batch)
    _assert_charged_once(forgetful, batch, usages=5 + 2 * (WINDOW + 2))
    assert (progress.repeated_late, progress.batches) == (1, 1)
    assert "otel-credits reconcile --fix" in caplog.text
    assert {row["user_id"] for row in forgetful.differences()} == {"ada", "eve"}
    correct(forgetful.client, ["ada", "eve"], Fix(comment="repeated late"))
    assert forgetful.differences() == []


def test_a_repetition_in_time(forgetful: Chain, caplog: pytest.LogCaptureFixture) -> None:
    """Within the window the batch is repeated under its own token, which completes it and changes nothing else."""
    batch = _cut_off(forgetful, "credit_usage_events_mv")
    _others(forgetful, 1)
    lane, progress = _lane(forgetful)
    lane.finish(batch)
    _assert_charged_once(forgetful, batch, usages=5 + 2 * 2)
    assert {row["batch_id"] for row in forgetful.rows("SELECT batch_id FROM charged_batches")} >= {
        uuid.UUID(batch.batch_id)
    }
    assert progress.repeated_late == 0
    assert caplog.records == []
    forgetful.assert_sums_agree()


def test_a_batch_that_the_store_never_saw(forgetful: Chain) -> None:
    """One that was composed, and not inserted before so many others were, leaves nothing to correct."""
    batch = forgetful.compose(traces(usage_span({USER: "ada", AMOUNT: "1"})))
    _others(forgetful, WINDOW + 1)
    lane, progress = _lane(forgetful)
    lane.finish(batch)
    assert progress.repeated_late == 1
    forgetful.assert_sums_agree()


def test_killed_again_while_it_begins_anew(forgetful: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """After what was left is deleted, and before the batch has its new id; then after it is inserted, and before it is
    forgotten: the next start charges each usage once."""
    batch = _cut_off(forgetful, "event_ids_by_second_mv")
    _others(forgetful, WINDOW + 1)
    with monkeypatch.context() as broken:
        broken.setattr(forgetful.spool, "split", _killed)
        with pytest.raises(Stopping):
            _lane(forgetful)[0].finish(batch)
    (batch,) = forgetful.spool.batches()
    with monkeypatch.context() as broken:
        broken.setattr(forgetful.spool, "forget", _killed)
        with pytest.raises(Stopping):
            _lane(forgetful)[0].finish(batch)
    (anew,) = forgetful.spool.batches()
    assert anew.batch_id != batch.batch_id
    lane, progress = _lane(forgetful)
    lane.finish(anew)
    _assert_charged_once(forgetful, anew, usages=5 + 2 * (WINDOW + 2))
    assert progress.repeated_late == 0


def _killed(*_: object) -> None:
    raise Stopping("as if it had died here", 1.0)


def test_what_someone_decided_about_stays(forgetful: Chain, caplog: pytest.LogCaptureFixture) -> None:
    """Charges that were taken back meanwhile are not deleted: the batch is repeated as it is, and the log says so."""
    batch = _cut_off(forgetful, "user_month_usage_mv")
    (event, *_) = forgetful.rows("SELECT event_id FROM credit_usage_events WHERE user_id = 'eve'")
    forgetful.client.insert(
        "double_charges", [[uuid.UUID(batch.batch_id), event["event_id"]]], column_names=["batch_id", "event_id"]
    )
    assert not take_out(forgetful.client, batch.batch_id)
    _others(forgetful, WINDOW + 1)
    lane, progress = _lane(forgetful)
    lane.finish(batch)
    assert progress.repeated_late == 1
    assert "charges may be there twice" in caplog.text
    assert forgetful.spool.batches() == []


def test_where_the_window_ends(forgetful: Chain) -> None:
    """As long as the store remembers a batch it is not held for forgotten; the insert after which it does not is noticed."""
    caught = []
    for others in range(WINDOW + 2):
        batch = forgetful.send(traces(usage_span({USER: "ada", AMOUNT: "1"})))
        _others(forgetful, others)
        caught.append(is_forgotten(forgetful.client, batch.blocks))
    assert caught == [False] * WINDOW + [True] * 2


def test_a_total_that_is_wrong_again_long_after_its_correction(forgetful: Chain) -> None:
    """A total that is wrong by the same amount again, after the store forgot its correction, ends right, and so do those that
    were corrected with it."""
    fix, broken = (
        Fix(comment="by hand"),
        "INSERT INTO user_month_totals (user_id, month, consumed) VALUES ('ada', '2026-11-01', 7)",
    )
    forgetful.command(f"{broken}, ('eve', '2026-11-01', 7)")
    correct(forgetful.client, ["ada", "eve"], fix)
    assert forgetful.differences() == []
    _others(forgetful, WINDOW + 1)
    forgetful.command(broken)
    correct(forgetful.client, ["ada"], fix)
    assert forgetful.differences() == []
