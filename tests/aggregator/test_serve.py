"""`otel-credits serve` as a process: how it starts, how it refuses to, and how it stops."""

from __future__ import annotations

import re
import resource
import select
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from http.client import HTTPConnection
from pathlib import Path

import clickhouse_connect
import grpc
import httpx
import pytest
from support import plain_http
from support.accounting import assert_exact, settle
from support.chaos import Oracle, ResendingClient
from support.clickhouse_http import ClickHouseHttp, Fault
from support.otlp_build import AMOUNT, USER, traces, usage_span
from support.otlp_clients import PROTOBUF, GrpcClient, post
from support.processes import AggregatorProcess, accepts_connections, clean_environment, wait_until

START_FAILS_WITHIN_S = 60.0
# Beyond OTEL_CREDITS_STOP_TIMEOUT_S: connections 4 s, gRPC 3 s, the attempt under way 2 s, threads 3 s.
STOP_SURPLUS_S = 20.0
# OTEL_BSP_SCHEDULE_DELAY, as the specification has it.
EXPORT_INTERVAL_S = 5
UNREACHABLE = "clickhouse://127.0.0.1:1/default"
USER_ID = "someone"


def one_credit() -> bytes:
    return traces(usage_span({USER: USER_ID, AMOUNT: "1"})).SerializeToString()


def start(dsn: str, data_dir: Path) -> AggregatorProcess:
    """An aggregator that listens, whether or not its store answers."""
    settings = {
        "OTEL_CREDITS_STORE": dsn,
        "OTEL_CREDITS_STORE_RETRY_MAX_S": "0.2",
        "OTEL_CREDITS_STOP_TIMEOUT_S": "1",
    }
    aggregator = AggregatorProcess(data_dir, settings)
    aggregator.start()
    aggregator.wait_for(lambda: accepts_connections(aggregator.api_port), 30, "it listens")
    return aggregator


def stop(
    aggregator: AggregatorProcess, signal_number: signal.Signals = signal.SIGTERM, timeout_s: float = 30.0
) -> float:
    """Stop it, see it exit with 0, and return how long that took, in seconds."""
    started = time.monotonic()
    aggregator.send_signal(signal_number)
    assert aggregator.wait(timeout_s) == 0, aggregator.tail()
    return time.monotonic() - started


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_under_load_loses_nothing(tmp_path: Path, signal_number: signal.Signals) -> None:
    """Stopped while clients send, it exits with 0 and an empty spool; what it did not take, the next one gets."""
    oracle = Oracle()
    aggregator = AggregatorProcess(tmp_path)
    with aggregator:
        clients = [ResendingClient(aggregator, f"stop {number}", oracle) for number in range(3)]
        for client in clients:
            client.start()
        wait_until(lambda: all(client.acknowledged_spans for client in clients), 30, "every client was answered")
        stop(aggregator, signal_number)
        assert aggregator.output().endswith("stopped; the spool is empty\n")
        aggregator.start()
        for client in clients:
            client.finish(60)
        aggregator.wait_ready()
        settle(aggregator)
        assert_exact(aggregator, oracle.credits)


def test_requests_under_way_are_answered_before_the_end(tmp_path: Path) -> None:
    """A request whose body was still coming at SIGTERM gets an answer, and its answer is kept."""
    with AggregatorProcess(tmp_path) as aggregator:
        body = one_credit()
        head = f"POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: {PROTOBUF}\r\ncontent-length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", aggregator.http_port)) as connection:
            connection.sendall(head.encode() + body[:-1])
            time.sleep(0.2)  # Nothing outside shows that the server has read the first part.
            aggregator.send_signal(signal.SIGTERM)
            wait_until(lambda: not accepts_connections(aggregator.http_port), 10, "it takes no new connections")
            connection.sendall(body[-1:])
            answer = connection.recv(4096)
        # It came after the intake had closed: to be tried again, and not lost.
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 1\r\n" in answer.lower()
        assert aggregator.wait(20) == 0


@pytest.mark.parametrize("port", ["grpc_port", "http_port", "api_port"])
def test_a_port_that_is_taken_is_named(tmp_path: Path, port: str) -> None:
    """If it cannot listen on one of its ports it says on which, and exits with 1."""
    aggregator = AggregatorProcess(tmp_path)
    number = getattr(aggregator, port)
    with socket.create_server(("127.0.0.1", number)):
        aggregator.start()
        assert aggregator.wait(START_FAILS_WITHIN_S) == 1
    assert re.search(rf"(CRITICAL|ERROR).*\b{number}\b", aggregator.output())
    assert "Traceback" not in aggregator.output()


def test_an_address_may_be_ipv6(tmp_path: Path) -> None:
    """All three servers listen on an IPv6 address."""
    aggregator = AggregatorProcess(tmp_path, {"OTEL_CREDITS_HOST": "::1"})
    try:
        aggregator.start()
        url = f"http://[::1]:{aggregator.api_port}/healthz"
        aggregator.wait_for(lambda: answers(url), 30, f"{url} answers")
        assert post(f"http://[::1]:{aggregator.http_port}", b"").is_success
        with grpc.insecure_channel(f"[::1]:{aggregator.grpc_port}") as channel:
            method = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
            assert channel.unary_unary(method)(b"", timeout=10) == b""
    finally:
        aggregator.terminate()


@pytest.fixture
def few_files() -> Iterator[int]:
    """While it is used, what is started may open few files, unless it asks for more; the value is what it may ask for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_connections_may_be_many_and_may_rest(few_files: int, tmp_path: Path) -> None:
    """It takes as many connections as the system allows, and none is closed that rests as long as the SDK's span processor."""
    aggregator = start(UNREACHABLE, tmp_path)
    try:
        assert resource.prlimit(aggregator.pid, resource.RLIMIT_NOFILE)[0] == few_files
        with closing(HTTPConnection("127.0.0.1", aggregator.http_port)) as connection:
            connection.request("GET", "/")
            connection.getresponse().read()
            closed, _, _ = select.select([connection.sock], [], [], EXPORT_INTERVAL_S + 1)
            assert not closed
    finally:
        aggregator.terminate()


def answers(url: str) -> bool:
    """Whether a GET is answered 200."""
    try:
        return plain_http.get(url, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def test_a_folder_belongs_to_one_aggregator(tmp_path: Path) -> None:
    """A second aggregator on the same folder exits with 1 and says why; the first one goes on."""
    with AggregatorProcess(tmp_path / "data") as first:
        second = AggregatorProcess(tmp_path / "data", name="second")
        second.start()
        assert second.wait(START_FAILS_WITHIN_S) == 1
        assert "another otel-credits uses this folder" in second.output()
        assert "Traceback" not in second.output()
        assert post(first.http_endpoint, one_credit()).is_success
        settle(first)


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    """A data folder in a place that is a file is named in the message."""
    (tmp_path / "file").write_text("")
    aggregator = AggregatorProcess(tmp_path, {"OTEL_CREDITS_DATA_DIR": str(tmp_path / "file" / "data")})
    aggregator.start()
    assert aggregator.wait(START_FAILS_WITHIN_S) == 1
    assert str(tmp_path / "file" / "data") in aggregator.output()


def test_without_chdb_the_embedded_store_says_what_to_install(tmp_path: Path) -> None:
    """Without the embedded engine it exits with 1 and the name of the extra, instead of trying for ever."""
    program = "import sys; sys.modules['chdb'] = None; from otel_credits_aggregator.__main__ import main; main()"
    env = clean_environment({"OTEL_CREDITS_DATA_DIR": str(tmp_path)})
    done = subprocess.run([sys.executable, "-c", program, "serve"], capture_output=True, text=True, env=env, timeout=30)
    assert done.returncode == 1
    assert "otel-credits[embedded]" in done.stderr


def test_it_is_ready_when_the_store_is_migrated(tmp_path: Path) -> None:
    """Without its store it lives and receives but is not ready, and says what is missing; with it it gets ready."""
    later = ClickHouseHttp(tmp_path / "store")
    aggregator = start(later.dsn(), tmp_path / "data")
    try:
        assert plain_http.get(f"{aggregator.url}/healthz").status_code == 200
        answer = plain_http.get(f"{aggregator.url}/readyz")
        assert answer.status_code == 503
        assert answer.json() == {"ready": False, "missing": ["migrated", "replayed"]}
        assert post(aggregator.http_endpoint, one_credit()).is_success
        with later:
            aggregator.wait_ready()
            assert plain_http.get(f"{aggregator.url}/readyz").json() == {"ready": True, "missing": []}
            settle(aggregator)
            assert_exact(aggregator, {USER_ID: Decimal(1)})
            stop(aggregator)
    finally:
        aggregator.kill()


def test_a_stop_without_the_store_keeps_the_spool(tmp_path: Path) -> None:
    """Stopped while its store is away, it exits with 0 in its time; the next start inserts what waited, once."""
    later = ClickHouseHttp(tmp_path / "store", migrated=True)
    aggregator = start(later.dsn(), tmp_path / "data")
    try:
        with GrpcClient(aggregator.grpc_port) as client:
            for _ in range(20):
                client.export(one_credit())
        took_s = stop(aggregator)
        assert took_s < 1 + STOP_SURPLUS_S
        assert "bytes in the spool; they are inserted at the next start" in aggregator.output()
        with later:
            aggregator.start()
            aggregator.wait_ready()
            settle(aggregator)
            assert_exact(aggregator, {USER_ID: Decimal(20)})
            assert aggregator.metrics()["otel_credits_spans_received_total"] == 20
            stop(aggregator)
    finally:
        aggregator.kill()


@pytest.fixture
def store(clickhouse_ledger: ClickHouseHttp) -> ClickHouseHttp:
    """A store of the test's own, migrated, with nothing in it."""
    return clickhouse_ledger


@pytest.fixture
def aggregator(store: ClickHouseHttp, tmp_path: Path) -> Iterator[AggregatorProcess]:
    """An aggregator that is ready, on that store."""
    started = start(store.dsn(), tmp_path / "data")
    try:
        started.wait_ready()
        yield started
    finally:
        started.kill()


def test_a_hanging_store_does_not_hold_up_a_stop(store: ClickHouseHttp, aggregator: AggregatorProcess) -> None:
    """While an insert, a scrape and queries wait for a store that stands still, a stop takes no longer than it says."""
    store.pause()
    assert post(aggregator.http_endpoint, one_credit()).is_success
    waiting = [
        threading.Thread(target=patient_get, args=(f"{aggregator.url}{path}",), daemon=True) for path in SLOW_PATHS
    ]
    for thread in waiting:
        thread.start()
    wait_until(lambda: aggregator.metrics()["otel_credits_spool_bytes"] > 0, 60, "the insert is under way")
    took_s = stop(aggregator)
    assert took_s < 1 + STOP_SURPLUS_S
    store.resume()
    aggregator.start()
    aggregator.wait_ready()
    settle(aggregator)
    assert_exact(aggregator, {USER_ID: Decimal(1)})


SLOW_PATHS = ("/metrics", "/api/v1/events", "/api/v1/prices", "/api/v1/reconcile")


def patient_get(url: str) -> None:
    """Ask, and wait for the answer that never comes."""
    try:
        plain_http.get(url, timeout=60)
    except httpx.HTTPError:
        return


def test_a_hanging_store_holds_up_neither_senders_nor_scrapes(
    store: ClickHouseHttp, aggregator: AggregatorProcess
) -> None:
    """With the store standing still and more API calls waiting than there are threads, OTLP, /readyz and /metrics work."""
    store.pause()
    waiting = [
        threading.Thread(target=patient_get, args=(f"{aggregator.url}/api/v1/events",), daemon=True) for _ in range(60)
    ]
    for thread in waiting:
        thread.start()
    time.sleep(1.0)  # So that they are in the server; nothing shows that from outside.
    started = time.monotonic()
    for _ in range(5):
        assert post(aggregator.http_endpoint, one_credit()).is_success
    assert time.monotonic() - started < 15
    assert plain_http.get(f"{aggregator.url}/readyz", timeout=20).status_code == 200
    metrics = aggregator.metrics()
    assert metrics["otel_credits_spans_received_total"] == 5
    assert "otel_credits_spans_charged_total" not in metrics
    store.resume()
    settle(aggregator)
    assert_exact(aggregator, {USER_ID: Decimal(5)})


def test_a_store_of_another_version_is_left_alone(store: ClickHouseHttp, aggregator: AggregatorProcess) -> None:
    """On a store that was migrated with other text it inserts nothing, says why, and keeps what it receives."""
    stop(aggregator)
    with closing(clickhouse_connect.get_client(dsn=aggregator.env["OTEL_CREDITS_STORE"])) as client:
        client.command(
            "ALTER TABLE schema_migrations UPDATE checksum = 'x' WHERE version = 1 SETTINGS mutations_sync = 1"
        )
    aggregator.start()
    aggregator.wait_for(lambda: "0001_ledger was applied with other text" in aggregator.output(), 30, "it says why")
    aggregator.wait_for(lambda: accepts_connections(aggregator.api_port), 30, "it listens")
    missing = plain_http.get(f"{aggregator.url}/readyz").json()["missing"]
    assert missing == ["migrated", "replayed", "inserting"]
    assert post(aggregator.http_endpoint, one_credit()).is_success
    stop(aggregator)
    with closing(sqlite3.connect(aggregator.data_dir / "spool.sqlite")) as spool:
        assert spool.execute("SELECT count() FROM requests").fetchone() == (1,)


def test_the_log_is_for_reading(store: ClickHouseHttp, aggregator: AggregatorProcess) -> None:
    """An outage is told in a few lines, each with time, level and place; a failure that lasts is told once."""
    assert post(aggregator.http_endpoint, one_credit()).is_success
    settle(aggregator)
    with store.faulty(Fault(action="http_500", on="any")):
        assert post(aggregator.http_endpoint, one_credit()).is_success
        wait_until(lambda: failures(aggregator) >= 5, 30, "five attempts failed")
    settle(aggregator)
    store.kill()
    assert post(aggregator.http_endpoint, one_credit()).is_success
    wait_until(lambda: failures(aggregator) >= 10, 30, "ten attempts failed")
    store.restart()
    settle(aggregator)
    stop(aggregator)
    lines = aggregator.output().splitlines()
    form = re.compile(r"[\d-]+ [\d:,]+ [A-Z]+ otel_credits_aggregator\.[\w.]+ ")
    assert [line for line in lines if not form.match(line)] == []
    assert max(len(line) for line in lines) < 500
    assert sum("the store did not answer as it should" in line for line in lines) <= 4
    assert len(lines) < 25


def failures(aggregator: AggregatorProcess) -> float:
    """How many attempts to insert have failed."""
    return aggregator.metrics()["otel_credits_insert_failures_total"]


def test_without_its_store_it_says_so(store: ClickHouseHttp, aggregator: AggregatorProcess) -> None:
    """With the store down, the API answers 503 with Retry-After, the metrics leave out what only the store knows."""
    store.kill()
    answer = plain_http.get(f"{aggregator.url}/api/v1/events", timeout=30)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    metrics = aggregator.metrics()
    assert "otel_credits_spans_received_total" in metrics
    assert "otel_credits_spans_charged_total" not in metrics
    store.restart()
    wait_until(lambda: "otel_credits_spans_charged_total" in aggregator.metrics(), 30, "the store is asked again")
