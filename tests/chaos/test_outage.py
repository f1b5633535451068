"""The store as a server goes away in every way it can: senders do not notice, and all is charged once afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from support.accounting import assert_exact, settle
from support.chaos import Oracle, ResendingClient
from support.clickhouse_http import ClickHouseHttp, Fault
from support.figures import record
from support.processes import AggregatorProcess, wait_until
from support.samples import others_long

Outage = Callable[[ClickHouseHttp], AbstractContextManager[None]]

CLIENTS = 2
# How much each client has acknowledged, while the store is away, before it may come back.
SPANS_DURING_THE_OUTAGE = 60
MINUTES_S = 120.0
# Less than the default of 300 s, so that a test can see what follows a request that was given up.
ANSWER_TIMEOUT_S = 2


def fault(action: str, when: str = "before", times: int | None = None, **options: float) -> Outage:
    """Inserts that meet this, all of them inside the block unless `times` says how many."""
    return lambda store: store.faulty(Fault.model_validate({"action": action, "when": when, "times": times, **options}))


@contextmanager
def killed(store: ClickHouseHttp) -> Iterator[None]:
    """The process is gone, connections are refused; then it is back, on the same port and data."""
    store.kill()
    yield
    store.restart()


@contextmanager
def standing_still(store: ClickHouseHttp) -> Iterator[None]:
    """Connections are accepted by the kernel and nothing answers."""
    store.pause()
    try:
        yield
    finally:
        store.resume()


@contextmanager
def dying(store: ClickHouseHttp, when: str) -> Iterator[None]:
    """It kills itself at an insert, and is started again."""
    store.add_fault(Fault.model_validate({"action": "die", "when": when, "times": 1}))
    yield
    wait_until(lambda: not store.is_running, 90, "an insert has killed it")
    store.restart()


OUTAGES: dict[str, Outage] = {
    "connections refused": killed,
    "standing still": standing_still,
    "hanging before the insert": fault("hang"),
    "hanging after the commit": fault("hang", "after"),
    "slow": fault("delay", seconds=0.7),
    "slower than the client waits": fault("delay", seconds=ANSWER_TIMEOUT_S + 0.5, times=3),
    "cut before the insert": fault("cut"),
    "cut within the insert": fault("cut", "during"),
    "cut after the commit": fault("cut", "after", times=5),
    "a proxy's 500": fault("http_500"),
    "a proxy's 500 after the commit": fault("http_500", "after", times=5),
    "a proxy's 500 within the insert": fault("http_500", "during", times=5),
    "KEEPER_EXCEPTION": fault("exception", code=999),
    "MEMORY_LIMIT_EXCEEDED": fault("exception", code=241),
    "out of disk": fault("exception", code=243),
    "TOO_MANY_PARTS after the commit": fault("exception", "after", code=252, times=5),
    "read-only": fault("read_only"),
    "dying before the insert": lambda store: dying(store, "before"),
    "dying within the insert": lambda store: dying(store, "during"),
    "dying after the commit": lambda store: dying(store, "after"),
}

SHORT = {
    "connections refused",
    "cut within the insert",
    "a proxy's 500 after the commit",
    "out of disk",
    "read-only",
    "slow",
}

# A store that only takes its time fails nothing.
WITHOUT_FAILURES = {"slow"}


def insert_failures(aggregator: AggregatorProcess) -> float:
    """How many attempts to insert have failed."""
    return aggregator.metrics()["otel_credits_insert_failures_total"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseHttp]:
    """The store of the module, which comes back after each outage."""
    with ClickHouseHttp(tmp_path_factory.mktemp("store"), migrated=True) as started:
        yield started


@pytest.fixture(scope="module")
def aggregator(store: ClickHouseHttp, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AggregatorProcess]:
    """The aggregator of the module, which lives through all outages."""
    settings = {
        "OTEL_CREDITS_STORE": f"{store.dsn()}?send_receive_timeout={ANSWER_TIMEOUT_S}",
        "OTEL_CREDITS_INSERT_INTERVAL_S": "0.05",
        "OTEL_CREDITS_STORE_RETRY_MAX_S": "0.3",
    }
    with AggregatorProcess(tmp_path_factory.mktemp("aggregator"), settings) as started:
        yield started


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    """What all outages together must have charged."""
    return Oracle()


@pytest.mark.parametrize("name", others_long(OUTAGES, short=SHORT))
def test_an_outage_costs_nothing(
    name: str, store: ClickHouseHttp, aggregator: AggregatorProcess, oracle: Oracle
) -> None:
    """While the store is away senders are acknowledged as ever; afterwards every usage is there, exactly, once."""
    pid = aggregator.pid
    clients = [ResendingClient(aggregator, f"{name} {number}", oracle) for number in range(CLIENTS)]
    for client in clients:
        client.start()
    wait_until(lambda: all(client.acknowledged_spans for client in clients), 90, "every client was answered")
    failures = insert_failures(aggregator)
    began = time.monotonic()
    with OUTAGES[name](store):
        wanted = [client.acknowledged_spans + SPANS_DURING_THE_OUTAGE for client in clients]
        wait_until(
            lambda: all(client.acknowledged_spans >= spans for client, spans in zip(clients, wanted, strict=True)),
            90,
            "clients are acknowledged during the outage",
        )
        if name not in WITHOUT_FAILURES:
            wait_until(lambda: insert_failures(aggregator) > failures, 90, "an insert failed")
    seconds = time.monotonic() - began
    for client in clients:
        client.finish(180)
    sums = settle(aggregator)
    assert sums.charged == oracle.usages
    assert_exact(aggregator, oracle.credits)
    assert aggregator.metrics()["otel_credits_requests_isolated_total"] == 0
    assert aggregator.pid == pid
    assert aggregator.is_running
    record("outage", name=name, seconds=seconds)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_minutes_of_outage_cost_nothing(tmp_path: Path) -> None:
    """Two minutes without the store, under load: every sender is acknowledged as ever, every usage charged once later."""
    oracle = Oracle()
    with ClickHouseHttp(tmp_path / "store", migrated=True) as store:
        settings = {"OTEL_CREDITS_STORE": store.dsn(), "OTEL_CREDITS_STORE_RETRY_MAX_S": "0.3"}
        with AggregatorProcess(tmp_path / "data", settings) as aggregator:
            clients = [ResendingClient(aggregator, f"minutes {number}", oracle) for number in range(CLIENTS)]
            for client in clients:
                client.start()
            seconds = outlast(store, clients)
            for client in clients:
                client.finish(180)
            assert settle(aggregator, timeout_s=300).charged == oracle.usages
            assert_exact(aggregator, oracle.credits)
    record("outage", name="minutes", seconds=seconds)


def outlast(store: ClickHouseHttp, clients: list[ResendingClient]) -> float:
    """Keep the store away for `MINUTES_S`; clients are acknowledged until its end. Returns how long it was, in seconds."""
    began = time.monotonic()
    with killed(store):
        wait_until(lambda: time.monotonic() - began > MINUTES_S, MINUTES_S + 30, "the outage has lasted")
        acknowledged = [client.acknowledged_spans for client in clients]
        wait_until(
            lambda: all(client.acknowledged_spans > spans for client, spans in zip(clients, acknowledged, strict=True)),
            90,
            "clients are still acknowledged",
        )
        return time.monotonic() - began
