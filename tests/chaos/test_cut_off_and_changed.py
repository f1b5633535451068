"""A price is set while an insert is half applied: it dies with the aggregator, or its server answers 500, and is repeated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from decimal import Decimal
from pathlib import Path

import clickhouse_connect
import pytest
from otel_credits_aggregator.store import Client
from support.accounting import assert_exact, settle
from support.clickhouse_http import ClickHouseHttp, Fault
from support.otlp_build import ACTION, AMOUNT, USER, traces, usage_span
from support.otlp_clients import post
from support.processes import AggregatorProcess, wait_until
from support.storm import assert_reconciled

USAGES = 40
FIRST, LATER = Decimal("0.125"), Decimal("7")
UNDONE = ("credit_usage_events_mv", "usage_month_totals_mv")


@contextmanager
def connected(dsn: str) -> Iterator[Client]:
    with closing(clickhouse_connect.get_client(dsn=dsn)) as client:
        yield client


def set_price(client: Client, price: Decimal) -> None:
    """A price of all usage, past and future; by a query, since inserts of data meet the fault."""
    client.command(
        "INSERT INTO credit_action_costs (action_type, credits_per_unit, effective_from)"
        f" SELECT 'report', {price}, '2000-01-01'"
    )


def leave_undone(client: Client) -> list[str]:
    """From now on an insert stores everything but what these views store; returns how to make them again."""
    made_by = [client.query(f"SHOW CREATE TABLE {view}").first_row[0] for view in UNDONE]
    for view in UNDONE:
        client.command(f"DROP TABLE {view} SYNC")
    return made_by


def mend_and_change(client: Client, made_by: list[str]) -> None:
    for statement in made_by:
        client.command(statement)
    set_price(client, LATER)


def send_reports(aggregator: AggregatorProcess) -> None:
    spans = [usage_span({USER: "ada", ACTION: "report", AMOUNT: None}) for _ in range(USAGES)]
    assert post(aggregator.http_endpoint, traces(*spans).SerializeToString()).is_success


def assert_charged(aggregator: AggregatorProcess, credits: Decimal, usages: int) -> None:
    assert settle(aggregator).charged == usages
    assert_exact(aggregator, {"ada": credits})
    assert_reconciled(aggregator)


# Not among the long ones: it opens a store on disk in pytest's own process, which must not have one in memory yet.
def test_killed_within_an_insert(tmp_path: Path) -> None:
    """Embedded: what is half applied when the aggregator is killed is finished at the old price, and the next at the new one."""
    dsn = f"chdb://{tmp_path}/store"
    with AggregatorProcess(tmp_path) as aggregator:
        assert aggregator.terminate() == 0
        with connected(dsn) as client:
            set_price(client, FIRST)
            made_by = leave_undone(client)
        aggregator.env["OTEL_CREDITS_FAULT_POINT"] = "insert_done:1"
        aggregator.start()
        aggregator.wait_ready()
        send_reports(aggregator)
        wait_until(lambda: not aggregator.is_running, 60, "it has died")
        with connected(dsn) as client:
            assert client.query("SELECT sum(consumed) FROM user_month_totals").first_row == (USAGES * FIRST,)
            assert client.query("SELECT count() FROM credit_usage_events").first_row == (0,)
            mend_and_change(client, made_by)
        aggregator.env["OTEL_CREDITS_FAULT_POINT"] = ""
        aggregator.start()
        aggregator.wait_ready()
        assert_charged(aggregator, USAGES * FIRST, USAGES)
        send_reports(aggregator)
        assert_charged(aggregator, USAGES * (FIRST + LATER), 2 * USAGES)


@pytest.mark.long
def test_a_server_that_applies_half_and_answers_500(tmp_path: Path) -> None:
    """A server: what the first attempt had stored keeps its price, however often the insert is repeated after a change."""
    with ClickHouseHttp(tmp_path / "store", migrated=True) as store:
        settings = {"OTEL_CREDITS_STORE": store.dsn(), "OTEL_CREDITS_STORE_RETRY_MAX_S": "0.2"}
        with AggregatorProcess(tmp_path / "data", settings) as aggregator, connected(store.dsn()) as client:
            set_price(client, FIRST)
            made_by = leave_undone(client)
            store.add_fault(Fault(action="http_500", when="after"))
            send_reports(aggregator)
            wait_until(lambda: store.faults()[0].hits > 1, 60, "the insert was repeated")
            mend_and_change(client, made_by)
            store.clear_faults()
            assert_charged(aggregator, USAGES * FIRST, USAGES)
            send_reports(aggregator)
            assert_charged(aggregator, USAGES * (FIRST + LATER), 2 * USAGES)
