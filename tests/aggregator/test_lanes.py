"""Inserts side by side: only of requests that share no usage, exactly, and through crashes."""

from __future__ import annotations

import random
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import combinations
from pathlib import Path

import pytest
from otel_credits_aggregator import lane
from otel_credits_aggregator.independence import identities_of
from otel_credits_aggregator.inserter import Inserter
from otel_credits_aggregator.otlp import Signal, item_count, parse
from otel_credits_aggregator.replay import Selection, Treatment
from otel_credits_aggregator.settings import Settings
from otel_credits_aggregator.spool import Spool
from otel_credits_aggregator.store import connect, rows
from support.accounting import Accounting, assert_exact, settle
from support.clickhouse_http import ClickHouseHttp, Fault
from support.otlp_build import ACTION, AMOUNT, KEY, USER, metric, metrics, point, traces, usage_span
from support.otlp_clients import GrpcClient
from support.processes import AggregatorProcess, wait_until

pytest_plugins = ("support.store",)

# The least that an insert may hold: one request of these tests is a batch.
BYTES_MAX = 1024


def a_request(*traces_and_spans: tuple[int, int], key: str = "", user: str = "someone") -> bytes:
    """Usages of one credit; the numbers give the ids. It has at least as many bytes as make a batch."""
    usages = [
        usage_span(
            {USER: user, "note": "x" * BYTES_MAX, **({KEY: key} if key else {})},
            trace_id=bytes([trace + 1]) * 16,
            span_id=bytes([trace + 1, span + 1]) * 4,
        )
        for trace, span in traces_and_spans
    ]
    return traces(*usages).SerializeToString()


@dataclass
class Watch:
    """Looks, each time that an insert begins, at what else is under way: composed, and not forgotten."""

    spool: Spool
    side_by_side: list[tuple[int, ...]] = field(default_factory=list)

    def passing(self, moment: str) -> None:
        if moment == "insert_begun":
            self.side_by_side.append(tuple(batch.first_id for batch in self.spool.batches()))


@dataclass
class Run:
    """An inserter in this process, and the requests that it finds in its spool."""

    inserter: Inserter
    spool: Spool
    watch: Watch
    sent: dict[int, bytes] = field(default_factory=dict)

    def append(self, payload: bytes, signal: Signal = Signal.TRACES) -> int:
        parsed = parse(signal, payload)
        identities = identities_of(signal, parsed, payload)
        number = self.spool.append(signal, payload, item_count(signal, parsed), identities=identities).result()
        self.sent[number] = payload
        return number

    def all_is_inserted(self) -> None:
        self.inserter.start()
        wait_until(self.spool.is_empty, 120, "all is inserted")
        assert self.inserter.stop(30)


@pytest.fixture
def run(memory_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    settings = Settings(store=memory_dsn, insert_bytes_max=BYTES_MAX, insert_lanes=3, recheck_interval_s=0.5)
    with Spool(tmp_path / "spool.sqlite", 1 << 30, 1.0) as spool:
        watch = Watch(spool)
        monkeypatch.setattr(lane, "passing", watch.passing)
        yield Run(Inserter(spool, settings), spool, watch)


def ids_of(payload: bytes) -> set[tuple[bytes, bytes]]:
    (resource,) = parse(Signal.TRACES, payload).resource_spans  # type: ignore[attr-defined]
    return {(one.trace_id, one.span_id) for one in resource.scope_spans[0].spans}


def test_batches_side_by_side_share_nothing(run: Run, memory_dsn: str) -> None:
    """What is under way together has no span in common, no idempotency key and no data points; all is charged once."""
    rng = random.Random(7)
    for _ in range(24):
        spans = rng.sample([(trace, span) for trace in range(6) for span in range(4)], rng.randint(1, 2))
        run.append(a_request(*spans, key="key" if rng.random() < 0.1 else ""))
    points = run.append(
        metrics(metric(point(1, {ACTION: "youtube_sync", USER: "someone", "note": "x" * 1024}))).SerializeToString(),
        Signal.METRICS,
    )
    run.all_is_inserted()
    together = {pair for moment in run.watch.side_by_side for pair in combinations(moment, 2)}
    # Else the test would show nothing.
    assert len(together) > 3
    for one, other in together:
        assert points not in (one, other)
        assert not ids_of(run.sent[one]) & ids_of(run.sent[other])
        assert KEY.encode() not in run.sent[one] + run.sent[other]
    traced = [payload for number, payload in run.sent.items() if number != points]
    keyed = [payload for payload in traced if KEY.encode() in payload]
    usages = {one for payload in traced if payload not in keyed for one in ids_of(payload)}
    with connect(memory_dsn) as client:
        (found,) = rows(client, "SELECT count() AS n, uniqExact(event_id) AS ids FROM credit_usage_events")
        assert found["n"] == found["ids"] == len(usages) + bool(keyed) + 1
        outcomes = rows(client, "SELECT outcome, sum(items) AS n FROM ingest_outcomes GROUP BY outcome")
    assert sum(row["n"] for row in outcomes) == sum(len(ids_of(payload)) for payload in traced) + 1


def test_what_needs_the_store_for_itself_has_it(run: Run) -> None:
    """Work between batches, and a treatment of the quarantine, run while no batch is under way."""
    for number in range(12):
        run.append(a_request((number, 0)))
    seen: list[int] = []
    run.inserter.start()
    for _ in range(3):
        run.inserter.between_batches(lambda _: seen.append(len(run.spool.batches()))).result(120)
    assert run.inserter.treat(Selection(), Treatment()).result(120) == 0
    wait_until(run.spool.is_empty, 120, "all is inserted")
    assert run.inserter.stop(30)
    assert seen == [0, 0, 0]
    assert max(map(len, run.watch.side_by_side)) > 1


def send(aggregator: AggregatorProcess, *payloads: bytes) -> None:
    with GrpcClient(aggregator.grpc_port) as client:
        for payload in payloads:
            client.export(payload)


def composed(aggregator: AggregatorProcess) -> int:
    """How many batches are under way."""
    path = (aggregator.data_dir / "spool.sqlite").as_uri()
    with closing(sqlite3.connect(f"{path}?mode=ro", uri=True, timeout=5.0)) as spool:
        return int(spool.execute("SELECT count(*) FROM batches").fetchone()[0])


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_with_two_batches_under_way_is_exact(tmp_path: Path, when: str) -> None:
    """Killed while the store has two batches at once, taken or not, everything is charged once after the next start."""
    with ExitStack() as stack:
        store = stack.enter_context(ClickHouseHttp(tmp_path / "store", migrated=True))
        settings = {"OTEL_CREDITS_STORE": store.dsn(), "OTEL_CREDITS_INSERT_BYTES_MAX": str(BYTES_MAX)}
        settings["OTEL_CREDITS_INSERT_LANES"] = "3"
        aggregator = AggregatorProcess(tmp_path / "data", settings)
        stack.callback(lambda: aggregator.is_running and aggregator.kill())
        aggregator.start()
        aggregator.wait_ready()
        store.add_fault(Fault(action="hang", when=when))
        send(aggregator, a_request((0, 0)), a_request((1, 0)), a_request((0, 0), (2, 0)), a_request((3, 0), key="k"))
        wait_until(lambda: store.faults()[0].hits == 2, 60, "two inserts hang")
        assert composed(aggregator) == 2
        aggregator.kill()
        store.clear_faults()
        aggregator.start()
        aggregator.wait_ready()
        assert settle(aggregator) == Accounting(received=5, charged=4, duplicate=1)
        assert_exact(aggregator, {"someone": Decimal(4)})
        assert aggregator.terminate() == 0


def test_copies_from_many_senders_at_once_are_charged_once(tmp_path: Path) -> None:
    """Sixty-four senders that send the same spans at once, beside spans of their own, charge each span once."""
    senders = 64
    shared = [a_request((number, 0), (number, 1), user="shared") for number in range(4)]
    settings = {"OTEL_CREDITS_INSERT_BYTES_MAX": "60000", "OTEL_CREDITS_INSERT_LANES": "2"}
    with AggregatorProcess(tmp_path, settings) as aggregator:
        own = [
            traces(*(usage_span({USER: "own", AMOUNT: "0.5"}) for _ in range(3))).SerializeToString()
            for _ in range(senders)
        ]
        threads = []
        for number in range(senders):
            mine = [*shared, own[number], own[number]]
            random.Random(number).shuffle(mine)
            threads.append(threading.Thread(target=send, args=(aggregator, *mine)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        sums = settle(aggregator, timeout_s=120)
        assert sums == Accounting(received=senders * 14, charged=8 + senders * 3, duplicate=senders * 11 - 8)
        assert_exact(aggregator, {"shared": Decimal(8), "own": senders * 3 * Decimal("0.5")})
