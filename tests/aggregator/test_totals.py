"""Totals that are not the sum of their entries are found, corrected on record, and made anew, also while usage comes in."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import httpx
import pytest
from otel_credits_aggregator.ledger import Fix, LedgerError, LocalLedger, NewGrant, RemoteLedger, _ranges
from otel_credits_aggregator.ledger import remote as _remote
from otel_credits_aggregator.ledger.errors import ServerUnreachableError
from otel_credits_aggregator.store import Client, rows
from support.accounting import settle
from support.api import running_api
from support.otlp_build import AMOUNT, USER, traces, usage_span
from support.otlp_clients import post
from support.processes import AggregatorProcess
from support.store import Usage, insert_usages

MONTH = datetime.now(UTC).date().replace(day=1)
FIX = Fix(corrected_by="grace", comment="a test broke them")
TOTALS = ("user_month_totals", "usage_month_totals")


@pytest.fixture
def ledger(memory_dsn: str) -> Iterator[RemoteLedger]:
    """The ledger of a server that inserts nothing itself."""
    with running_api(memory_dsn) as url, RemoteLedger(url) as remote:
        yield remote


@pytest.fixture
def wrong(ledger: RemoteLedger, memory_store: Client) -> Client:
    """A store in which totals of two users say too much, too little and what nobody used."""
    ledger.grant("u", NewGrant(credits=Decimal(5)))
    insert_usages(
        memory_store, Usage("u", "render", Decimal(1)), Usage("v", "render", Decimal(2)), Usage("w", "sync", Decimal(3))
    )
    memory_store.insert(
        "user_month_totals",
        [["u", MONTH, Decimal("-0.5"), Decimal("0.000000000001"), -1], ["ghost", MONTH, Decimal(7), Decimal(0), 2]],
        ["user_id", "month", "granted", "consumed", "events"],
    )
    memory_store.insert(
        "usage_month_totals", [["v", MONTH, "render", -3]], ["user_id", "month", "action_type", "input_tokens"]
    )
    return memory_store


def sums(store: Client) -> list[dict[str, object]]:
    """Every total, added up."""
    return [
        *rows(
            store,
            "SELECT user_id, month, sum(granted) AS g, sum(consumed) AS c, sum(t.events) AS e FROM user_month_totals AS t"
            " GROUP BY ALL HAVING (g, c, e) != (0, 0, 0) ORDER BY ALL",
        ),
        *rows(
            store,
            "SELECT user_id, month, action_type, model, sum(t.events) AS e, sum(t.input_tokens) AS i, sum(t.output_tokens) AS o,"
            " sum(t.credits_consumed) AS c FROM usage_month_totals AS t GROUP BY ALL"
            " HAVING (e, i, o, c) != (0, 0, 0, 0) ORDER BY ALL",
        ),
    ]


def test_wrong_totals_are_corrected_on_record(ledger: RemoteLedger, wrong: Client) -> None:
    """Each wrong total gets the row that makes it right, and a record of before, after, who and why; nothing else changes."""
    found = ledger.reconcile()
    assert {(row.user_id, row.total): (row.expected, row.found) for row in found} == {
        ("ghost", "events"): (Decimal(0), Decimal(2)),
        ("ghost", "granted"): (Decimal(0), Decimal(7)),
        ("u", "consumed"): (Decimal(1), Decimal("1.000000000001")),
        ("u", "events"): (Decimal(1), Decimal(0)),
        ("u", "granted"): (Decimal(5), Decimal("4.5")),
        ("v", "input_tokens"): (Decimal(0), Decimal(-3)),
    }
    of_one = ledger.fix_totals("u", FIX)
    assert {row.total for row in of_one} == {"consumed", "events", "granted"}
    assert {row.user_id for row in ledger.reconcile()} == {"ghost", "v"}
    assert len(ledger.fix_totals(None, FIX)) == 3
    assert ledger.reconcile() == ledger.fix_totals(None, FIX) == []
    assert ledger.balance("u").current_balance == Decimal(4)
    recorded = rows(
        wrong,
        "SELECT user_id, total, before, after, difference, corrected_by, comment FROM credit_corrections ORDER BY ALL",
    )
    assert [tuple(row.values()) for row in recorded if row["total"] == "granted"] == [
        ("ghost", "granted", Decimal(7), Decimal(0), Decimal(-7), "grace", "a test broke them"),
        ("u", "granted", Decimal("4.5"), Decimal(5), Decimal("0.5"), "grace", "a test broke them"),
    ]
    assert len(recorded) == 6


def test_rebuilt_totals_are_those_of_the_entries(ledger: RemoteLedger, wrong: Client) -> None:
    """A rebuild mends whatever is wrong, changes no total that is right, and what comes afterwards is added as before."""
    ledger.fix_totals(None, FIX)
    right = sums(wrong)
    rebuilt = ledger.rebuild_totals()
    assert (rebuilt.user_months, rebuilt.usage_months, rebuilt.changed) == (3, 3, 0)
    assert sums(wrong) == right
    wrong.insert("user_month_totals", [["u", MONTH, Decimal(9)]], ["user_id", "month", "consumed"])
    wrong.command("TRUNCATE TABLE usage_month_totals")
    assert ledger.rebuild_totals().changed == 4
    assert sums(wrong) == right
    insert_usages(wrong, Usage("u", "render", Decimal(1)))
    ledger.grant("u", NewGrant(credits=Decimal(1)))
    assert ledger.reconcile() == []
    assert ledger.balance("u").current_balance == Decimal(4)
    tables = rows(wrong, "SELECT name FROM system.tables WHERE database = currentDatabase() AND name LIKE '%rebuilt%'")
    assert tables == []


def test_what_goes_through_all_events_is_waited_for(
    memory_dsn: str, wrong: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command waits for a reconciliation, a correction and a rebuild longer than for any other answer."""
    monkeypatch.setattr(_remote, "_TIMEOUT", httpx.Timeout(0.001, connect=5.0))
    with running_api(memory_dsn) as url, RemoteLedger(url) as ledger:
        with pytest.raises(ServerUnreachableError):
            ledger.balances()
        assert ledger.reconcile()
        assert ledger.fix_totals(None, FIX)
        assert ledger.rebuild_totals().user_months


def test_without_a_server_nothing_is_corrected(memory_dsn: str) -> None:
    """An unfinished batch may wait in a spool, so only the server that finishes it may correct totals."""
    with LocalLedger(memory_dsn) as ledger:
        with pytest.raises(LedgerError, match="otel-credits serve"):
            ledger.fix_totals(None, FIX)
        with pytest.raises(LedgerError, match="otel-credits serve"):
            ledger.rebuild_totals()


def test_while_usage_comes_in_there_is_no_false_alarm_and_a_rebuild_loses_nothing(tmp_path: Path) -> None:
    """Under a steady stream of usage and grants, reconciling finds nothing, and totals that are made anew are exact."""
    settings = {"OTEL_CREDITS_INSERT_INTERVAL_S": "0.01"}
    sent, stop = [0], threading.Event()
    with AggregatorProcess(tmp_path, settings) as aggregator, RemoteLedger(aggregator.url) as ledger:

        def send() -> None:
            while not stop.is_set():
                spans = [usage_span({USER: f"user-{number % 3}", AMOUNT: "0.1"}) for number in range(30)]
                assert post(aggregator.http_endpoint, traces(*spans).SerializeToString()).is_success
                ledger.grant("user-0", NewGrant(credits=Decimal(1)))
                sent[0] += 1

        sender = threading.Thread(target=send)
        sender.start()
        try:
            with RemoteLedger(aggregator.url) as other:
                changed = []
                for _ in range(4):
                    assert other.reconcile() == []
                    changed.append(other.rebuild_totals().changed)
                    assert other.fix_totals(None, FIX) == []
        finally:
            stop.set()
            sender.join()
        assert changed == [0] * 4
        assert settle(aggregator).charged == sent[0] * 30
        assert ledger.reconcile() == []
        balances = {row.user_id: row.lifetime_consumed for row in ledger.balances()}
        assert balances == {f"user-{number}": sent[0] * Decimal(1) for number in range(3)}
        assert ledger.balance("user-0").lifetime_granted == sent[0]


def test_every_user_is_in_one_range(
    ledger: RemoteLedger, memory_store: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ledger that is looked at range by range is looked at whole: wrong totals are found and mended wherever they are."""
    monkeypatch.setattr(_ranges, "_RANGE_ROWS_MAX", 3)
    users = [f"user-{number:02}" for number in range(20)]
    usages = [Usage(user, "render", Decimal(1)) for user in users for _ in range(1 if user != "user-07" else 9)]
    insert_usages(memory_store, *usages)
    broken = ["a-ghost", "user-00", "user-07", "user-13", "user-19", "z-ghost"]
    memory_store.insert(
        "user_month_totals", [[user, MONTH, Decimal(1)] for user in broken], ["user_id", "month", "granted"]
    )
    assert [row.user_id for row in ledger.reconcile()] == broken
    rebuilt = ledger.rebuild_totals()
    assert (rebuilt.user_months, rebuilt.usage_months, rebuilt.changed) == (20, 20, len(broken))
    assert ledger.reconcile() == []
