"""What a meter counted, from the app to the ledger: exact, once, straight and through the Collector."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import grpc
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import NumberDataPoint
from otel_credits_aggregator.otlp import Signal, item_count
from support.collector import CollectorProcess
from support.otlp_clients import post
from support.otlp_sink import OtlpSink
from support.processes import AggregatorProcess, Process, free_port, wait_until

PRICE = Decimal("0.000000000003")
# Four threads, several intervals, three users, whole numbers and fractions. It prints nothing and needs no flush.
APP = """
import sys, threading
from decimal import Decimal
from otel_credits import credits_meter, flush
meter = credits_meter("storage", unit="byte")
def work():
    for number in range(5000):
        meter.add(1000, user_id="whole")
        meter.add("0.000000000001", user_id="tiny")
        meter.add(Decimal("123456.789"), user_id="mixed")
        if number % 1000 == 0:
            meter.add(1)
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
EXPECTED = {"whole": Decimal(20_000_000), "tiny": Decimal("0.00000002"), "mixed": Decimal("2469135780")}


@pytest.fixture
def aggregator(tmp_path: Path) -> Iterator[AggregatorProcess]:
    with AggregatorProcess(tmp_path / "aggregator") as aggregator:
        set_price(aggregator)
        yield aggregator


def set_price(aggregator: AggregatorProcess) -> None:
    """What a byte costs."""
    price = {"action_type": "storage", "model": "*", "unit": "byte", "credits_per_unit": str(PRICE)}
    aggregator.request("POST", "/api/v1/prices", json=price)


def killed_app(endpoint: str, spool: Path, log_dir: Path) -> None:
    """Run the app until its spool has all that was counted, and kill it."""
    env = {
        "OTEL_CREDITS_ENDPOINT": endpoint,
        "OTEL_CREDITS_METER_INTERVAL_S": "0.05",
        "OTEL_CREDITS_SPOOL_DIR": str(spool),
    }
    before = set(spool.glob("*.usage"))
    code = APP + "threading.Event().wait()\n"
    with Process("app", [sys.executable, "-c", code], log_dir=log_dir, env=env) as app:
        expected = sum(EXPECTED.values()) + 4 * 5
        wait_until(lambda: spooled(set(spool.glob("*.usage")) - before) == expected, 60, "it is in the spool")
        app.kill()


def spooled(files: set[Path]) -> Decimal:
    """The sum of the points in these files."""
    total = Decimal(0)
    for path in files:
        with closing(sqlite3.connect(path)) as reader:
            try:
                rows = reader.execute("SELECT point FROM meter_point").fetchall()
            except sqlite3.OperationalError:  # it is just being made
                return total
        for (raw,) in rows:
            point = NumberDataPoint.FromString(raw)
            total += Decimal(repr(getattr(point, point.WhichOneof("value") or "")))
    return total


def run_app(endpoint: str, log_dir: Path) -> None:
    """Run the app to its end."""
    env = {"OTEL_CREDITS_ENDPOINT": endpoint, "OTEL_CREDITS_METER_INTERVAL_S": "0.05"}
    with Process("app", [sys.executable, "-c", APP], log_dir=log_dir, env=env) as app:
        assert app.wait(120) == 0, app.tail()


def counted(aggregator: AggregatorProcess) -> dict[str, Decimal]:
    """The bytes of each user in the ledger."""
    query = "SELECT user_id, toString(sum(units['byte'])) AS bytes FROM credit_usage_events GROUP BY user_id"
    return {row["user_id"]: Decimal(row["bytes"]) for row in aggregator.sql(query)}


def assert_exact(aggregator: AggregatorProcess, events_max: int = 100_000) -> None:
    """The ledger has what was counted, at the price of the book, and what nobody pays for is in quarantine."""
    wait_until(lambda: counted(aggregator) == EXPECTED, 60, "all of it is charged")
    rows = aggregator.sql(
        "SELECT user_id, toString(units['byte']) AS bytes, toString(credits_charged) AS credits,"
        " action_type FROM credit_usage_events"
    )
    assert {row["action_type"] for row in rows} == {"storage"}
    assert len(rows) <= events_max
    for row in rows:
        exact = Decimal(row["bytes"]) * PRICE
        assert Decimal(row["credits"]) == exact.quantize(Decimal("1e-12"))
    # A charge shows before what the same insert puts into the quarantine.
    wait_until(lambda: reasons(aggregator), 60, "what nobody pays for is in quarantine")
    assert reasons(aggregator) == {"no_user"}


def reasons(aggregator: AggregatorProcess) -> set[str]:
    """Why usage is in quarantine."""
    return {row["reason"] for row in aggregator.sql("SELECT reason FROM credit_quarantine")}


def test_metered_usage_is_charged_exactly(aggregator: AggregatorProcess, tmp_path: Path) -> None:
    """60,000 additions become a few events whose quantities add up exactly, also beyond what a double holds."""
    run_app(aggregator.grpc_endpoint, tmp_path)
    assert_exact(aggregator, events_max=1000)


def test_points_that_are_sent_again(aggregator: AggregatorProcess, tmp_path: Path) -> None:
    """Every request of the app delivered three times, in another order, and by two runs of the app: each point is
    charged once, the second run's are not taken for the first one's, and no series has a gap or an overlap."""
    with OtlpSink() as sink:
        run_app(sink.endpoint, tmp_path)
        run_app(sink.endpoint, tmp_path)
        requests = [request.SerializeToString() for request in sink.metrics]
    for request in [*requests, *reversed(requests), *requests]:
        assert post(aggregator.http_endpoint, request, signal="metrics").is_success
    twice = {user: 2 * quantity for user, quantity in EXPECTED.items()}
    wait_until(lambda: is_settled(aggregator, 3 * sum(map(points_of, requests))), 60, "every point is accounted for")
    assert counted(aggregator) == twice
    (stored,) = aggregator.sql("SELECT uniqExact(series) AS kinds FROM usage_intervals")
    assert stored["kinds"] >= 2 * len(EXPECTED)
    assert aggregator.request("GET", "/api/v1/series") == []


def test_a_killed_app_with_a_spool(tmp_path: Path) -> None:
    """An app that is killed while no aggregator is there, and one that is killed while each of its points is taken and
    answered with an error: the next start sends all that was in the spool, and the ledger has it once."""
    spool = tmp_path / "spool"
    with OtlpSink() as sink:
        sink.answer_with(grpc.StatusCode.UNAVAILABLE, store_before_failing=True)
        killed_app(sink.endpoint, spool, tmp_path)
        early = [request.SerializeToString() for request in sink.metrics]
    killed_app(f"http://127.0.0.1:{free_port()}", spool, tmp_path)
    with AggregatorProcess(tmp_path / "aggregator") as aggregator:
        set_price(aggregator)
        for request in early:
            assert post(aggregator.http_endpoint, request, signal="metrics").is_success
        env = {"OTEL_CREDITS_ENDPOINT": aggregator.grpc_endpoint, "OTEL_CREDITS_SPOOL_DIR": str(spool)}
        drain = [
            sys.executable,
            "-c",
            "import otel_credits, threading; otel_credits.configure(); threading.Event().wait()",
        ]
        with Process("next", drain, log_dir=tmp_path, env=env):
            wait_until(lambda: not list(spool.iterdir()), 60, "the spool is drained")
        twice = {user: 2 * quantity for user, quantity in EXPECTED.items()}
        wait_until(lambda: counted(aggregator) == twice, 60, "all of it is charged")
        assert aggregator.metrics()["otel_credits_data_points_duplicate_total"] >= len(early)
        assert aggregator.request("GET", "/api/v1/series") == []


def points_of(request: bytes) -> int:
    """How many data points a request has."""
    return item_count(Signal.METRICS, ExportMetricsServiceRequest.FromString(request))


def is_settled(aggregator: AggregatorProcess, received: int) -> bool:
    """Whether so many points were received, and each became something."""
    points = {k: v for k, v in aggregator.metrics().items() if k.startswith("otel_credits_data_points_")}
    return points.pop("otel_credits_data_points_received_total") == received == sum(points.values())


@pytest.mark.collector
@pytest.mark.timeout(1800)
def test_metered_usage_through_the_collector(aggregator: AggregatorProcess, tmp_path: Path) -> None:
    """The real Collector, with cumulativetodelta in its pipeline, passes the points on as they are."""
    with CollectorProcess(tmp_path, f"127.0.0.1:{aggregator.grpc_port}") as collector:
        run_app(collector.grpc_endpoint, tmp_path)
        assert_exact(aggregator, events_max=1000)
