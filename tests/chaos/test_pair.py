"""Two aggregators on one store, and the same spans for both: exact, whether one after the other or in the same moment."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from decimal import Decimal
from pathlib import Path

import clickhouse_connect
import grpc
import httpx
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from support import otlp_build as otlp
from support.accounting import assert_exact, charges, settle
from support.chaos import new_seed
from support.clickhouse_http import ClickHouseHttp, Fault
from support.figures import record
from support.otlp_clients import GrpcClient
from support.processes import AggregatorProcess, wait_until
from support.storm import assert_reconciled

ROUNDS, SPANS = 6, 50
AT_ONCE, HELD, KILLS = 40, 3, 5
PER_SPAN = Decimal("0.3")


def requests(rng: random.Random, number: int) -> Iterator[bytes]:
    """Usages of some users, every fifth with an idempotency key."""
    for _ in range(number):
        spans = [usage(rng, keyed=place % 5 == 0) for place in range(SPANS)]
        yield otlp.traces(*spans).SerializeToString()


def usage(rng: random.Random, keyed: bool) -> Span:
    attributes = {otlp.AMOUNT: str(PER_SPAN), otlp.USER: f"user-{rng.randrange(4)}"}
    return otlp.usage_span(
        attributes | ({otlp.KEY: rng.randbytes(8).hex()} if keyed else {}), trace_id=rng.randbytes(16)
    )


@contextmanager
def pair(folder: Path, **more: str) -> Iterator[tuple[AggregatorProcess, AggregatorProcess, ClickHouseHttp]]:
    """Two aggregators on one store, and the store."""
    with ClickHouseHttp(folder / "store", migrated=True) as store:
        settings = {"OTEL_CREDITS_STORE": store.dsn(), "OTEL_CREDITS_INSERT_INTERVAL_S": "0.02", **more}
        with (
            AggregatorProcess(folder / "one", settings, name="one") as one,
            AggregatorProcess(folder / "other", settings, name="other") as other,
        ):
            yield one, other, store


@contextmanager
def held_inserts(store: ClickHouseHttp) -> Iterator[None]:
    """Holds the next insert of each of the two until both have begun, and lets them go in the same moment."""
    store.add_fault(Fault(action="hang", times=2))
    yield
    wait_until(lambda: [fault.hits for fault in store.faults()] == [2], 60, "both inserts are held")
    store.clear_faults()


def test_copies_that_reach_another_aggregator_later_are_charged_once(tmp_path: Path) -> None:
    """Sent to one aggregator and then to the other, now in this order and now in that, a span is charged once."""
    rng = random.Random(new_seed())
    with pair(tmp_path) as (one, other, _):
        for payload in requests(rng, ROUNDS):
            for aggregator in rng.sample((one, other), 2):
                with GrpcClient(aggregator.grpc_port) as client:
                    client.export(payload)
                settle(aggregator)
        sums = [settle(aggregator) for aggregator in (one, other)]
        assert sum(each.charged for each in sums) == sum(each.duplicate for each in sums) == ROUNDS * SPANS
        assert sum(charges(one).values()) == ROUNDS * SPANS * PER_SPAN
        assert_exact(one, charges(one))


@pytest.mark.long
def test_copies_that_reach_both_in_the_same_moment_are_charged_once(tmp_path: Path) -> None:
    """Each request is sent to both at once: what both have charged is taken back, and every sum is that of one charge."""
    rng = random.Random(new_seed())
    with (
        pair(tmp_path, OTEL_CREDITS_RECHECK_INTERVAL_S="0.2") as (*both, store),
        GrpcClient(both[0].grpc_port) as one,
        GrpcClient(both[1].grpc_port) as other,
        ThreadPoolExecutor(2) as pool,
    ):
        for number, payload in enumerate(requests(rng, AT_ONCE)):
            # The first ones meet for certain, whatever the machine is busy with.
            with held_inserts(store) if number < HELD else nullcontext():
                list(pool.map(lambda client, payload=payload: client.export(payload), (one, other)))
            if number < HELD:
                assert_charged_once(both, (number + 1) * SPANS)
        assert_charged_once(both, AT_ONCE * SPANS)
        doubles = both[0].sql("SELECT count() AS n, uniqExact(event_id) AS events FROM credit_voids")
        assert doubles[0]["n"] == doubles[0]["events"] > 0, "the two never met; nothing was shown"
        record("doubles", sent_at_once=AT_ONCE * SPANS, charged_twice_at_first=doubles[0]["n"], charged_twice=0)
        assert_reconciled(both[0])


@pytest.mark.long
def test_kills_of_either_leave_one_charge(tmp_path: Path) -> None:
    """Every request goes to both at once while now one and now the other is killed: each usage is charged once."""
    rng = random.Random(new_seed())
    with pair(tmp_path, OTEL_CREDITS_RECHECK_INTERVAL_S="0.2") as (*both, _), ThreadPoolExecutor(2) as pool:
        for number, payload in enumerate(requests(rng, KILLS * 4)):
            sent = [pool.submit(send_until_acknowledged, aggregator, payload) for aggregator in both]
            if number % 4 == 3:
                time.sleep(rng.uniform(0.0, 0.1))
                victim = rng.choice(both)
                victim.kill()
                victim.start()
            for future in sent:
                future.result()
        for aggregator in both:
            aggregator.wait_ready()
        assert_charged_once(both, KILLS * 4 * SPANS, resent=True)
        assert_reconciled(both[0])


@pytest.mark.long
@pytest.mark.parametrize("stage", ["doubles_unseen", "insert_done"])
def test_one_that_is_gone_for_good_leaves_one_charge(tmp_path: Path, stage: str) -> None:
    """Killed before or after its look for doubles, and never started again: the other finds and takes back what both charged."""
    settings = {"OTEL_CREDITS_RECHECK_INTERVAL_S": "0.2", "OTEL_CREDITS_ORPHANED_AFTER_S": "1"}
    payloads = list(requests(random.Random(new_seed()), 2))
    with pair(tmp_path, **settings) as (gone, other, store):
        gone.terminate()
        gone.env["OTEL_CREDITS_FAULT_POINT"] = f"{stage}:1"
        gone.start()
        gone.wait_ready()
        send_until_acknowledged(gone, payloads[0])
        wait_until(lambda: not gone.is_running, 60, "it has died")
        with nothing_seen(store):
            send_until_acknowledged(other, payloads[0])
            assert settle(other).charged == SPANS
        # Whose charges stay is chance.
        wait_until(lambda: taken_back(other) == SPANS, 60, "one charge of each usage is left")
        send_until_acknowledged(other, payloads[1])
        settle(other)
        assert taken_back(other) == SPANS
        assert sum(charges(other).values()) == 2 * SPANS * PER_SPAN
        assert_exact(other, charges(other))
        assert_reconciled(other)
        outcomes = "SELECT outcome, sum(items) AS n FROM ingest_outcomes GROUP BY outcome ORDER BY outcome"
        assert [tuple(row.values()) for row in other.sql(outcomes)] == [("charged", 2 * SPANS), ("duplicate", SPANS)]


@pytest.mark.long
@pytest.mark.parametrize("keyed", [False, True], ids=["span", "key"])
@pytest.mark.parametrize("victim", ["who takes back", "who charges a copy"])
def test_a_kill_between_a_void_and_the_charge_of_a_copy(tmp_path: Path, victim: str, keyed: bool) -> None:
    """Someone takes a charge back at one aggregator while the other charges a copy, and one of the two is killed before it
    looks for the other: once it is back, both charges are taken back, each once, and the usage stays void."""
    payload = otlp.traces(usage(random.Random(new_seed()), keyed)).SerializeToString()
    with pair(tmp_path, OTEL_CREDITS_RECHECK_INTERVAL_S="0.2") as (one, other, store):
        send_until_acknowledged(one, payload)
        settle(one)
        (event,) = one.sql("SELECT event_id FROM credit_usage_events")
        path, why = f"/api/v1/events/{event['event_id']}/void", {"reason": "a test"}
        if victim == "who takes back":
            restart(one, fault="doubles_unseen:1")
            with pytest.raises(httpx.HTTPError):
                one.request("POST", path, json=why)
            wait_until(lambda: not one.is_running, 60, "it has died")
            with nothing_seen(store):
                send_until_acknowledged(other, payload)
                assert settle(other).charged == 1
            restart(one)
        else:
            one.request("POST", path, json=why)
            restart(other, fault="doubles_unseen:1")
            with nothing_seen(store):
                send_until_acknowledged(other, payload)
                wait_until(lambda: not other.is_running, 60, "it has died")
            restart(other)
        wait_until(lambda: taken_back(one) == 2, 60, "both charges are taken back")
        for aggregator in (one, other):
            settle(aggregator)
        kinds = one.sql("SELECT kind, uniqExact(batch_id) AS charges FROM credit_voids GROUP BY kind ORDER BY kind")
        assert [tuple(row.values()) for row in kinds] == [("duplicate", 1), ("void", 1)]
        assert_exact(one, {})
        assert_reconciled(one)


def restart(aggregator: AggregatorProcess, fault: str = "") -> None:
    """Start it again, to die at a moment if one is named."""
    if aggregator.is_running:
        aggregator.terminate()
    aggregator.env.pop("OTEL_CREDITS_FAULT_POINT", None)
    if fault:
        aggregator.env["OTEL_CREDITS_FAULT_POINT"] = fault
    aggregator.start()
    aggregator.wait_ready()


@contextmanager
def nothing_seen(store: ClickHouseHttp) -> Iterator[None]:
    """Within the block no look for copies sees what is stored, as if all of that ended a moment later."""
    with closing(clickhouse_connect.get_client(dsn=store.dsn())) as client:
        tables = ("event_ids_by_second", "event_ids_by_key")
        for table in tables:
            client.command(f"CREATE TABLE {table}_unseen AS {table}")
            client.command(f"EXCHANGE TABLES {table} AND {table}_unseen")
        yield
        for table in tables:
            client.command(f"EXCHANGE TABLES {table} AND {table}_unseen")
            client.command(f"INSERT INTO {table} SELECT * FROM {table}_unseen")


def taken_back(aggregator: AggregatorProcess) -> int:
    """How many charges were taken back."""
    return int(aggregator.sql("SELECT count() AS n FROM credit_voids")[0]["n"])


def send_until_acknowledged(aggregator: AggregatorProcess, payload: bytes) -> None:
    while True:
        try:
            with GrpcClient(aggregator.grpc_port) as client:
                client.export(payload)
                return
        except grpc.RpcError:
            time.sleep(0.1)


def assert_charged_once(both: Sequence[AggregatorProcess], usages: int, *, resent: bool = False) -> None:
    """Of the copies of each usage (two, or more if some were resent) one is charged, and the others are duplicates."""

    def is_one_each() -> bool:
        sums = [settle(aggregator) for aggregator in both]
        duplicates = sum(each.duplicate for each in sums)
        return sum(each.charged for each in sums) == usages and (
            duplicates == usages or (resent and duplicates > usages)
        )

    wait_until(is_one_each, 60, "every double charge is taken back")
    assert sum(charges(both[0]).values()) == usages * PER_SPAN
    assert_exact(both[0], charges(both[0]))
