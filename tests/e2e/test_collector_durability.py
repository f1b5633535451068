"""What the Collector has acknowledged arrives: over an outage of the destination, a kill, a stop, and a full queue."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from opentelemetry.proto.trace.v1 import trace_pb2
from support.collector import CollectorProcess
from support.collector_sink import CollectorSink
from support.collector_traffic import ids_of, send, usage_span
from support.processes import wait_until

# The first test that needs the Collector builds it, which takes minutes on a machine that has not built it yet.
pytestmark = [pytest.mark.collector, pytest.mark.timeout(1800)]

ARRIVAL_TIMEOUT_S = 120.0
KILLS = 5


@pytest.fixture
def sink() -> Iterator[CollectorSink]:
    """A destination that is not there yet."""
    sink = CollectorSink()
    yield sink
    sink.stop()


def test_a_kill_during_an_outage_loses_nothing(tmp_path: Path, sink: CollectorSink) -> None:
    """Acknowledged while the destination is away, then SIGKILL: after the restart every usage arrives."""
    spans = [usage_span() for _ in range(200)]
    with CollectorProcess(tmp_path, sink.address) as collector:
        for span in spans:
            assert send(collector.grpc_port, [span]) is grpc.StatusCode.OK
        collector.kill()
        collector.start().wait_ready()
        sink.start()
        wait_for(sink, ids_of(spans))


def test_a_stop_during_an_outage_loses_nothing(tmp_path: Path, sink: CollectorSink) -> None:
    """The same for SIGTERM, as a deployment sends it: what was being sent while it stopped is still in the queue."""
    spans = [usage_span() for _ in range(200)]
    with CollectorProcess(tmp_path, sink.address) as collector:
        for span in spans:
            assert send(collector.grpc_port, [span]) is grpc.StatusCode.OK
        collector.terminate(timeout_s=90)
        collector.start().wait_ready()
        sink.start()
        wait_for(sink, ids_of(spans))


def test_kills_at_random_moments_lose_nothing(tmp_path: Path, sink: CollectorSink) -> None:
    """Killed again and again while apps send and the destination accepts: what was acknowledged arrives."""
    sink.start()
    acknowledged: set[bytes] = set()
    with CollectorProcess(tmp_path, sink.address) as collector, futures.ThreadPoolExecutor(2) as pool:
        for _ in range(KILLS):
            senders = [pool.submit(send_until_it_ends, collector) for _ in range(2)]
            time.sleep(random.uniform(0.3, 1.5))  # the moment of the kill is the point of the test
            collector.kill()
            acknowledged |= set().union(*(sender.result() for sender in senders))
            collector.start().wait_ready()
        wait_for(sink, acknowledged)
    assert len(acknowledged) > KILLS * 10


def send_until_it_ends(collector: CollectorProcess) -> set[bytes]:
    """Send small requests until the Collector is gone; return the ids that were acknowledged."""
    acknowledged: set[bytes] = set()
    while True:
        spans = [usage_span() for _ in range(5)]
        if send(collector.grpc_port, spans) is not grpc.StatusCode.OK:
            return acknowledged
        acknowledged |= ids_of(spans)


def test_a_full_queue_refuses_with_a_code_that_senders_retry(tmp_path: Path, sink: CollectorSink) -> None:
    """A queue at its bound answers UNAVAILABLE and keeps what it took; when there is room again it accepts again."""
    accepted: list[trace_pb2.Span] = []
    env = {"COLLECTOR_QUEUE_SIZE_BYTES": "1200000"}
    with CollectorProcess(tmp_path, sink.address, env) as collector:
        while (code := send(collector.grpc_port, some := [usage_span(padding_bytes=50_000)])) is grpc.StatusCode.OK:
            accepted += some
            assert len(accepted) < 100
        assert code is grpc.StatusCode.UNAVAILABLE
        assert len(accepted) > 10
        sink.start()
        wait_for(sink, ids_of(accepted))
        assert send(collector.grpc_port, some) is grpc.StatusCode.OK
        wait_for(sink, ids_of(some))


def test_a_refusing_aggregator_is_tried_again(tmp_path: Path, sink: CollectorSink) -> None:
    """RESOURCE_EXHAUSTED with a RetryInfo, the answer of a full aggregator, delays the usages and loses none."""
    sink.start()
    sink.refuse_next(5)
    spans = [usage_span() for _ in range(20)]
    with CollectorProcess(tmp_path, sink.address) as collector:
        for span in spans:
            assert send(collector.grpc_port, [span]) is grpc.StatusCode.OK
        wait_for(sink, ids_of(spans))
    assert sink.refused_requests == 5


def wait_for(sink: CollectorSink, expected: set[bytes]) -> None:
    """Wait until every expected span has come at least once."""
    wait_until(lambda: expected <= sink.span_ids(), ARRIVAL_TIMEOUT_S, f"{len(expected)} spans arrive")
