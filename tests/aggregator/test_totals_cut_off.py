"""A correction of totals that was cut off is completed by the next one: each total is corrected once, and once on record."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import pytest
from otel_credits_aggregator.ledger import Correction, Fix, RemoteLedger
from otel_credits_aggregator.ledger.errors import ServerUnreachableError
from otel_credits_aggregator.store import Client, rows
from support.api import running_api
from support.processes import AggregatorProcess, clean_environment, wait_until
from support.store import Usage, insert_usages

FIX = Fix(corrected_by="grace", comment="a test broke them")
AGAIN = Fix(corrected_by="ada", comment="the first was cut off")
VIEWS = ("user_month_corrections_mv", "usage_month_corrections_mv")

# A store on disk with two wrong totals, in which the second view of a correction takes 1.4 s a row: time enough to kill between
# the two. (There are two rows, and ClickHouse refuses to sleep more than 3 s a block.)
PREPARE = """
import sys
from otel_credits_aggregator.migrations import migrate
from otel_credits_aggregator.store import connect, rows
with connect(sys.argv[1]) as store:
    migrate(store)
    store.command("INSERT INTO user_month_totals (user_id, month, consumed) VALUES ('u', toStartOfMonth(now()), 3)")
    store.command(
        "INSERT INTO usage_month_totals (user_id, month, action_type, events) VALUES ('u', toStartOfMonth(now()), 'render', 2)")
    view = "usage_month_corrections_mv"
    (found,) = rows(store, f"SELECT as_select FROM system.tables WHERE database = currentDatabase() AND name = '{view}'")
    slow = found["as_select"].replace("credit_corrections WHERE", "credit_corrections WHERE sleepEachRow(1.4) = 0 AND")
    store.command(f"ALTER TABLE {view} MODIFY QUERY {slow}")
"""


@pytest.fixture
def ledger(memory_dsn: str) -> Iterator[RemoteLedger]:
    """The ledger of a server that inserts nothing itself."""
    with running_api(memory_dsn) as url, RemoteLedger(url) as remote:
        yield remote


def break_totals(store: Client, *users: str) -> None:
    """Makes one total of each kind wrong, the same for each user."""
    for user in users:
        store.command(
            "INSERT INTO user_month_totals (user_id, month, consumed) SELECT {user:String}, toStartOfMonth(now()), 7",
            parameters={"user": user},
        )
        store.command(
            "INSERT INTO usage_month_totals (user_id, month, action_type, events)"
            " SELECT {user:String}, toStartOfMonth(now()), 'render', -2",
            parameters={"user": user},
        )


def cut_off(store: Client, ledger: RemoteLedger, views: tuple[str, ...]) -> None:
    """Corrects all, without some of the views: the state after a kill before they have written."""
    for view in views:
        store.command(f"DETACH TABLE {view} SYNC")
    ledger.fix_totals(None, FIX)
    for view in views:
        store.command(f"ATTACH TABLE {view}")


def recorded(store: Client) -> list[tuple[object, ...]]:
    """Each correction on record: of whom, which total, by how much, and who did it."""
    found = rows(
        store, "SELECT user_id, total, toInt64(difference) AS d, corrected_by FROM credit_corrections ORDER BY ALL"
    )
    return [tuple(row.values()) for row in found]


@pytest.mark.parametrize("views", [VIEWS, VIEWS[:1], VIEWS[1:]], ids=["neither", "not the balance", "not the months"])
def test_a_correction_that_was_cut_off_is_completed(
    ledger: RemoteLedger, memory_store: Client, views: tuple[str, ...]
) -> None:
    """Whatever of a correction is missing in the totals is added by the next one, and recorded once, as the first one said."""
    break_totals(memory_store, "u", "v")
    cut_off(memory_store, ledger, views)
    # Meanwhile usage comes in, which changes what a wrong total is, and not by how much it is wrong; and another total breaks.
    insert_usages(memory_store, Usage("u", "render", Decimal(1)))
    break_totals(memory_store, "w")
    corrected = {(row.user_id, row.total, row.corrected_by) for row in ledger.fix_totals(None, AGAIN)}
    missing = [total for total, view in zip(("consumed", "events"), VIEWS, strict=True) if view in views]
    assert corrected == {
        *((user, total, "grace") for user in "uv" for total in missing),
        ("w", "consumed", "ada"),
        ("w", "events", "ada"),
    }
    assert ledger.reconcile() == ledger.fix_totals(None, AGAIN) == []
    assert recorded(memory_store) == [
        ("u", "consumed", -7, "grace"),
        ("u", "events", 2, "grace"),
        ("v", "consumed", -7, "grace"),
        ("v", "events", 2, "grace"),
        ("w", "consumed", -7, "ada"),
        ("w", "events", 2, "ada"),
    ]


def test_the_correction_of_one_user_completes_that_of_many(ledger: RemoteLedger, memory_store: Client) -> None:
    """A correction that was cut off is completed for all whom it was of, though the next one is asked for one of them."""
    break_totals(memory_store, "u", "v")
    cut_off(memory_store, ledger, VIEWS)
    assert {row.total for row in ledger.fix_totals("u", AGAIN)} == {"consumed", "events"}
    assert ledger.reconcile() == []
    assert [by for *_, by in recorded(memory_store)] == ["grace"] * 4


@pytest.mark.parametrize("made_anew", [False, True], ids=["as they are", "made anew between"])
def test_what_breaks_again_is_corrected_again(ledger: RemoteLedger, memory_store: Client, made_anew: bool) -> None:
    """The same total, wrong by the same amount once more, is another correction, on record."""
    for times in range(1, 4):
        break_totals(memory_store, "u")
        assert {row.corrected_by for row in ledger.fix_totals(None, FIX)} == {"grace"}
        assert (
            recorded(memory_store) == [("u", "consumed", -7, "grace")] * times + [("u", "events", 2, "grace")] * times
        )
        assert ledger.reconcile() == []
        if made_anew:
            # The store tells times of tables in seconds.
            now_s = int(time.time())
            wait_until(lambda now_s=now_s: int(time.time()) > now_s, 10, "the next second")  # type: ignore[misc]
            assert ledger.rebuild_totals().changed == 0


def test_what_is_cut_off_and_wrong_by_more_is_corrected(ledger: RemoteLedger, memory_store: Client) -> None:
    """A total that became wrong by more after its correction was cut off is right afterwards."""
    break_totals(memory_store, "u")
    cut_off(memory_store, ledger, VIEWS)
    break_totals(memory_store, "u")
    ledger.fix_totals(None, AGAIN)
    assert ledger.reconcile() == []


def test_a_correction_that_is_killed_is_completed(tmp_path: Path) -> None:
    """SIGKILL after the record and the first total, before the second: the next correction adds the second, and no record."""
    dsn = f"chdb://{tmp_path / 'store'}"
    subprocess.run([sys.executable, "-c", PREPARE, dsn], check=True, env=clean_environment())
    sums = "SELECT (SELECT count() FROM credit_corrections) AS n, (SELECT sum(consumed) FROM user_month_totals) AS c,"
    sums += " (SELECT sum(events) FROM usage_month_totals) AS e"
    with AggregatorProcess(tmp_path) as aggregator, ThreadPoolExecutor(1) as pool:

        def state() -> tuple[int, ...]:
            return tuple(int(Decimal(value)) for value in aggregator.sql(sums)[0].values())

        assert state() == (0, 3, 2)
        fixing = pool.submit(fix, aggregator)
        wait_until(lambda: state() == (2, 0, 2), 30, "the first total is corrected")
        aggregator.kill()
        with pytest.raises(ServerUnreachableError):
            fixing.result()
        assert aggregator.returncode == -signal.SIGKILL
        aggregator.start()
        aggregator.wait_ready()
        assert state() == (2, 0, 2)
        assert [(row.total, row.corrected_by) for row in fix(aggregator)] == [("events", "grace")]
        assert state() == (2, 0, 0)
        assert fix(aggregator) == []


def fix(aggregator: AggregatorProcess) -> Sequence[Correction]:
    """Corrects all that is wrong."""
    with RemoteLedger(aggregator.url) as ledger:
        return ledger.fix_totals(None, FIX)
