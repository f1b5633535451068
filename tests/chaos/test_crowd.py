"""Many senders at once, large and small requests, slow and broken connections: memory stays bounded, and nothing is lost."""

from __future__ import annotations

import os
import random
import re
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

import grpc
import pytest
from support import otlp_build as otlp
from support.accounting import assert_exact, settle
from support.chaos import new_seed
from support.clickhouse_http import ClickHouseHttp, Fault
from support.figures import record
from support.otlp_clients import GrpcClient, refusal
from support.processes import AggregatorProcess, wait_until

SENDERS = 64
# Each sends this many requests of one span; every eighth one large request besides.
SMALL_REQUESTS, LARGE_SPANS = 20, 20_000
IDLE_CONNECTIONS = int(os.environ.get("OTEL_CREDITS_TEST_IDLE", "10000"))
SLOW_WRITERS = 40
SPOOL_BYTES_MAX = 6 << 20
SETTINGS = {
    "OTEL_CREDITS_SPOOL_BYTES_MAX": str(SPOOL_BYTES_MAX),
    "OTEL_CREDITS_RETRY_DELAY_S": "0.5",
    "OTEL_CREDITS_INSERT_BYTES_MAX": str(4 << 20),
}
# What the process may take: requests under way, the spool's copies of the newest, and an insert. Measured: docs/guarantees.md.
MEMORY_BYTES_MAX = 1 << 30


@dataclass
class Crowd:
    """What all senders together had acknowledged, and how often they were told to come back later."""

    spans: int = 0
    told_to_wait: int = 0
    failures: list[BaseException] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def acknowledged(self, spans: int) -> None:
        with self._lock:
            self.spans += spans

    def refused(self) -> None:
        with self._lock:
            self.told_to_wait += 1


def request(rng: random.Random, spans: int) -> bytes:
    """Usages of a tenth of a credit."""
    built = [otlp.usage_span({otlp.AMOUNT: "0.1"}, trace_id=rng.randbytes(16)) for _ in range(spans)]
    return otlp.traces(*built).SerializeToString()


def deliver(client: GrpcClient, payload: bytes, spans: int, crowd: Crowd) -> None:
    """Send until it is acknowledged, waiting as long as it is told."""
    while True:
        try:
            client.export(payload, timeout_s=120)
        except grpc.RpcError as error:
            told = refusal(error)
            assert told.code is grpc.StatusCode.RESOURCE_EXHAUSTED, told
            assert told.retry_delay_s is not None
            crowd.refused()
            time.sleep(told.retry_delay_s)
        else:
            crowd.acknowledged(spans)
            return


def send_all(port: int, seed: str, number: int, crowd: Crowd) -> None:
    rng = random.Random(f"{seed}/{number}")
    sizes = [1] * SMALL_REQUESTS + ([LARGE_SPANS] if number % 8 == 0 else [])
    rng.shuffle(sizes)
    try:
        with GrpcClient(port) as client:
            for size in sizes:
                deliver(client, request(rng, size), size, crowd)
    except BaseException as error:
        crowd.failures.append(error)


@contextmanager
def many_files() -> Iterator[None]:
    """As many open files as this system lets us have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def connected(port: int, stack: ExitStack) -> socket.socket:
    return stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))


def begin_a_request(connection: socket.socket) -> None:
    """The head of a request, and a little of what it promises."""
    head = (
        "POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\ncontent-length: 100000\r\n\r\n"
    )
    connection.sendall(head.encode() + bytes(500))


def peak_memory_bytes(aggregator: AggregatorProcess) -> int:
    """The most that the process has had resident (VmHWM)."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{aggregator.pid}/status").read_text())
    assert found is not None
    return int(found[1]) << 10


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_crowd_of_senders_is_held_at_the_limit(tmp_path: Path) -> None:
    """64 senders of 1 and of 20,000 spans, beside idle, slow and dropped connections: told to wait, and charged exactly."""
    seed, crowd = new_seed(), Crowd()
    with many_files(), ExitStack() as stack:
        store = stack.enter_context(ClickHouseHttp(tmp_path / "store", migrated=True))
        settings = SETTINGS | {"OTEL_CREDITS_STORE": store.dsn()}
        aggregator = stack.enter_context(AggregatorProcess(tmp_path / "data", settings))
        # The store stands still until the spool is full and a sender was told so.
        store.add_fault(Fault(action="hang"))
        for number in range(IDLE_CONNECTIONS):
            connected((aggregator.http_port, aggregator.grpc_port)[number % 2], stack)
        for _ in range(SLOW_WRITERS):
            begin_a_request(connected(aggregator.http_port, stack))
        for _ in range(SLOW_WRITERS):
            with ExitStack() as dropped:
                begin_a_request(connected(aggregator.http_port, dropped))
        senders = [
            threading.Thread(target=send_all, args=(aggregator.grpc_port, seed, number, crowd), daemon=True)
            for number in range(SENDERS)
        ]
        for sender in senders:
            sender.start()
        wait_until(lambda: crowd.failures or crowd.told_to_wait, 200, "the spool is full")
        began, before = time.monotonic(), crowd.spans
        store.clear_faults()
        wait_until(
            lambda: crowd.failures or not any(map(threading.Thread.is_alive, senders)), 400, "all is acknowledged"
        )
        assert crowd.failures == []
        sums = settle(aggregator, timeout_s=200)
        seconds, peak = time.monotonic() - began, peak_memory_bytes(aggregator)
        assert crowd.spans == SENDERS * SMALL_REQUESTS + SENDERS // 8 * LARGE_SPANS
        assert sums.charged == crowd.spans
        assert_exact(aggregator, {"someone": crowd.spans * Decimal("0.1")})
        assert peak < MEMORY_BYTES_MAX
        assert aggregator.terminate() == 0
    record(
        "crowd",
        spans_a_second=round((crowd.spans - before) / seconds),
        peak_memory_mib=peak >> 20,
        spool_mib_max=SPOOL_BYTES_MAX >> 20,
        idle_connections=IDLE_CONNECTIONS,
        told_to_wait=crowd.told_to_wait,
    )
    print(f"{(crowd.spans - before) / seconds:.0f} spans/s, {peak >> 20} MiB, told to wait {crowd.told_to_wait} times")
