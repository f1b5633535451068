"""How acknowledged requests get into the store: grouped, isolated when one is at fault, once from several sides."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from decimal import Decimal
from pathlib import Path

import clickhouse_connect
import pytest
from otel_credits_aggregator.otlp import Signal
from otel_credits_aggregator.privacy import stripped
from otel_credits_aggregator.store import Client
from support.accounting import Accounting, assert_exact, charges, settle
from support.chaos import Oracle, ResendingClient
from support.clickhouse_http import ClickHouseHttp, Fault
from support.otlp_build import ACTION, AMOUNT, USER, metric, metrics, point, traces, usage_span
from support.otlp_clients import GrpcClient
from support.processes import AggregatorProcess, wait_until
from support.samples import others_long

pytest_plugins = ("support.clickhouse_http.fixture",)

FAST = {"OTEL_CREDITS_STORE_RETRY_MAX_S": "0.05", "OTEL_CREDITS_STOP_TIMEOUT_S": "5"}
# Long enough for all requests of a test to become one batch.
ONE_BATCH = {**FAST, "OTEL_CREDITS_INSERT_INTERVAL_S": "1.5"}
# A span's name (field 5) sent as a number: Python's protobuf skips it as unknown, ClickHouse refuses the whole insert.
NAME_AS_NUMBER = b"\x28\x01"


def a_request(user: str, amount: str = "1", **attributes: str) -> bytes:
    return traces(usage_span({USER: user, AMOUNT: amount, **attributes})).SerializeToString()


def poisonous(user: str) -> bytes:
    """A request of two usages that the store cannot decode."""
    spans = [usage_span({USER: user}), usage_span({USER: user})]
    spans[0].MergeFromString(NAME_AS_NUMBER)
    return traces(*spans).SerializeToString()


def send_together(aggregator: AggregatorProcess, requests: list[bytes], signal: str = "traces") -> None:
    with GrpcClient(aggregator.grpc_port) as client:
        threads = [threading.Thread(target=client.export, args=(request, signal)) for request in requests]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)


@pytest.fixture
def dsn(clickhouse_ledger: ClickHouseHttp) -> str:
    """An empty, migrated store, on a server that can be made to fail."""
    return clickhouse_ledger.dsn()


@contextmanager
def connected(dsn: str) -> Iterator[Client]:
    with closing(clickhouse_connect.get_client(dsn=dsn, autogenerate_session_id=False)) as client:
        yield client


def test_requests_that_wait_together_are_one_insert(tmp_path: Path) -> None:
    """Requests that come within the interval share an insert, one a signal, and all are charged."""
    with AggregatorProcess(tmp_path, ONE_BATCH) as aggregator:
        before = aggregator.metrics()["otel_credits_batches_inserted_total"]
        send_together(aggregator, [a_request(f"user-{number}") for number in range(30)])
        points = [metric(point(1, {ACTION: "youtube_sync", USER: "point-user"}))]
        send_together(aggregator, [metrics(*points).SerializeToString()], "metrics")
        settle(aggregator)
        settle(aggregator, "data_points")
        # More only if the machine is so slow that sending takes longer than the interval.
        assert aggregator.metrics()["otel_credits_batches_inserted_total"] - before <= 4
        expected = {f"user-{number}": Decimal(1) for number in range(30)} | {"point-user": Decimal("0.005")}
        assert_exact(aggregator, expected)


def test_a_batch_has_a_limit(tmp_path: Path) -> None:
    """Requests are grouped up to the limit in bytes, and a request above it is a batch of its own."""
    settings = {**ONE_BATCH, "OTEL_CREDITS_INSERT_BYTES_MAX": "3000"}
    with AggregatorProcess(tmp_path, settings) as aggregator:
        before = aggregator.metrics()["otel_credits_batches_inserted_total"]
        requests = [a_request("many", note="x" * 800) for _ in range(12)] + [a_request("large", note="x" * 9_000)]
        send_together(aggregator, requests)
        settle(aggregator)
        # At most three of the smaller ones fit into a batch.
        assert aggregator.metrics()["otel_credits_batches_inserted_total"] - before >= 5
        assert_exact(aggregator, {"many": Decimal(12), "large": Decimal(1)})


@pytest.fixture(params=others_long(["embedded", "server"], short={"embedded"}))
def any_store(request: pytest.FixtureRequest) -> str:
    """The DSN of an empty store of each kind, "" for the embedded one."""
    if request.param == "embedded":
        return ""
    dsn: str = request.getfixturevalue("dsn")
    return dsn


def test_a_request_at_fault_is_isolated(tmp_path: Path, any_store: str) -> None:
    """A request that the store cannot decode is kept raw in the quarantine; its neighbours in the batch are charged."""
    with AggregatorProcess(tmp_path, {**ONE_BATCH, "OTEL_CREDITS_STORE": any_store}) as aggregator:
        poison = [poisonous("poisoned-1"), poisonous("poisoned-2")]
        good = [a_request(f"user-{number}", "0.1") for number in range(9)]
        send_together(aggregator, [*good[:3], poison[0], *good[3:7], poison[1], *good[7:]])
        assert settle(aggregator) == Accounting(received=13, charged=9, quarantined=4)
        assert_exact(aggregator, {f"user-{number}": Decimal("0.1") for number in range(9)})
        numbers = aggregator.metrics()
        assert numbers['otel_credits_spans_quarantined_total{reason="request_not_insertable"}'] == 4
        assert numbers["otel_credits_requests_isolated_total"] == 2
        query = "SELECT hex(raw_request) AS raw, items, signal, detail FROM credit_quarantine"
        rows = aggregator.sql(query)
        assert sorted(bytes.fromhex(row["raw"]) for row in rows) == sorted(
            stripped(Signal.TRACES, one, (), {}) for one in poison
        )
        assert {(row["items"], row["signal"]) for row in rows} == {(2, "span")}
        assert all("Code: 444" in row["detail"] for row in rows)
        listed = aggregator.request("GET", "/api/v1/quarantine")
        assert [row["reason"] for row in listed] == ["request_not_insertable"] * 2
        # It is over with them: what comes next is charged as ever.
        send_together(aggregator, [a_request("later")])
        settle(aggregator)
        assert charges(aggregator)["later"] == 1


def set_a_trap(client: Client) -> None:
    """As an error in the SQL would: usage with `credits.metadata.trap` makes its insert fail with a code of no list."""
    client.command(
        "CREATE MATERIALIZED VIEW trap_mv ENGINE = Null AS "
        "SELECT throwIf(attributes['credits.metadata.trap'] != '', 'caught') AS caught FROM usage_candidates"
    )


def test_a_failure_that_nobody_foresaw_does_not_block_the_others(tmp_path: Path, dsn: str) -> None:
    """A request that fails again and again with a code of no list is isolated as well; its neighbours are charged."""
    with AggregatorProcess(tmp_path, {**ONE_BATCH, "OTEL_CREDITS_STORE": dsn}) as aggregator:
        with connected(dsn) as client:
            set_a_trap(client)
        trapped = a_request("trapped", **{"credits.metadata.trap": "yes"})
        send_together(aggregator, [a_request("one"), a_request("two"), trapped, a_request("three")])
        assert settle(aggregator) == Accounting(received=4, charged=3, quarantined=1)
        assert_exact(aggregator, dict.fromkeys(("one", "two", "three"), Decimal(1)))
        (row,) = aggregator.sql("SELECT hex(raw_request) AS raw, detail FROM credit_quarantine")
        assert bytes.fromhex(row["raw"]) == stripped(Signal.TRACES, trapped, (), {})
        assert "caught" in row["detail"]


def test_a_row_that_cannot_be_replayed_stays_in_the_quarantine(tmp_path: Path, dsn: str) -> None:
    """A quarantined usage whose replay fails stays where it is; the others are charged, and new usage is, too."""
    settings = {**FAST, "OTEL_CREDITS_STORE": dsn, "OTEL_CREDITS_RECHECK_INTERVAL_S": "0.5"}
    with AggregatorProcess(tmp_path, settings) as aggregator, connected(dsn) as client:
        unpriced = {AMOUNT: None, ACTION: "new_action"}
        spans = [usage_span({USER: f"user-{number}", **unpriced}) for number in range(4)]
        spans.append(usage_span({USER: "trapped", "credits.metadata.trap": "yes", **unpriced}))
        send_together(aggregator, [traces(*spans).SerializeToString()])
        assert settle(aggregator) == Accounting(received=5, quarantined=5)
        set_a_trap(client)
        client.command("INSERT INTO credit_action_costs (action_type, credits_per_unit) VALUES ('new_action', 2)")
        wait_until(lambda: len(charges(aggregator)) == 4, 60, "those that can be are charged")
        send_together(aggregator, [a_request("later")])
        assert settle(aggregator) == Accounting(received=6, charged=5, quarantined=1)
        expected = {f"user-{number}": Decimal(2) for number in range(4)} | {"later": Decimal(1)}
        assert_exact(aggregator, expected)
        (row,) = aggregator.sql("SELECT user_id, reason FROM credit_quarantine")
        assert row == {"user_id": "trapped", "reason": "unpriced"}


@pytest.mark.parametrize(
    ("code", "isolated"),
    [
        pytest.param(241, 0, id="MEMORY_LIMIT_EXCEEDED: less at once may go"),
        pytest.param(252, 0, id="TOO_MANY_PARTS: passes"),
        pytest.param(33, 0, id="CANNOT_READ_ALL_DATA: not again for the halves"),
    ],
)
def test_what_passes_is_waited_for(
    tmp_path: Path, clickhouse_ledger: ClickHouseHttp, dsn: str, code: int, isolated: int
) -> None:
    """A failure of the store that passes, whatever its code, leaves nothing in the quarantine and charges all once."""
    with AggregatorProcess(tmp_path, {**ONE_BATCH, "OTEL_CREDITS_STORE": dsn}) as aggregator:
        times = 1 if code == 33 else 12
        with clickhouse_ledger.faulty(Fault(action="exception", code=code, times=times)):
            send_together(aggregator, [a_request("one"), a_request("two"), a_request("three"), a_request("four")])
            assert settle(aggregator) == Accounting(received=4, charged=4)
        assert aggregator.metrics()["otel_credits_requests_isolated_total"] == isolated
        assert_exact(aggregator, dict.fromkeys(("one", "two", "three", "four"), Decimal(1)))


def test_two_aggregators_share_a_store(tmp_path: Path, clickhouse_http_dsn: str) -> None:
    """Two aggregators that start and work at once on one store charge exactly, and each counts its own spans."""
    oracle = Oracle()
    settings = {**FAST, "OTEL_CREDITS_STORE": clickhouse_http_dsn, "OTEL_CREDITS_INSERT_INTERVAL_S": "0.02"}
    pair = [AggregatorProcess(tmp_path / name, settings, name=name) for name in ("one", "other")]
    with ExitStack() as stack:
        for aggregator in pair:
            aggregator.start()
            stack.callback(aggregator.kill)
        clients = [ResendingClient(one, f"pair {one.name} {number}", oracle) for one in pair for number in (1, 2)]
        for client in clients:
            client.start()
        for aggregator in pair:
            aggregator.wait_ready()
        wait_until(lambda: all(client.acknowledged_spans > 500 for client in clients), 60, "each has sent 500 spans")
        for client in clients:
            client.finish(30)
        sums = [settle(aggregator) for aggregator in pair]
        assert sum(one.charged for one in sums) == oracle.usages
        for one, mine in zip(sums, (clients[:2], clients[2:]), strict=True):
            assert one.received >= sum(client.acknowledged_spans for client in mine)
            assert one.duplicate > 0
        assert_exact(pair[0], oracle.credits)
        assert_exact(pair[1], oracle.credits)
        for aggregator in pair:
            assert aggregator.terminate() == 0
