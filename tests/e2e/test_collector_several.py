"""One Collector in front of two aggregators: copies meet in one place, and an outage of one loses nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from support.collector import CONFIG, SEVERAL_AGGREGATORS, CollectorProcess
from support.collector_sink import CollectorSink
from support.collector_traffic import chunks, ids_of, send, usage_span
from support.processes import wait_until

# The first test that needs the Collector builds it, which takes minutes on a machine that has not built it yet.
pytestmark = [pytest.mark.collector, pytest.mark.timeout(1800)]

ARRIVAL_TIMEOUT_S = 120.0


@pytest.fixture
def sinks() -> Iterator[tuple[CollectorSink, CollectorSink]]:
    with CollectorSink() as first, CollectorSink() as second:
        yield first, second


@pytest.fixture
def collector(tmp_path: Path, sinks: tuple[CollectorSink, CollectorSink]) -> Iterator[CollectorProcess]:
    env = {"COLLECTOR_AGGREGATORS": f"[{sinks[0].address}, {sinks[1].address}]"}
    configs = (CONFIG, SEVERAL_AGGREGATORS)
    with CollectorProcess(tmp_path, "127.0.0.1:1", env, configs=configs) as collector:
        yield collector


def test_copies_meet_in_one_aggregator(collector: CollectorProcess, sinks: tuple[CollectorSink, CollectorSink]) -> None:
    """A span sent twice reaches the same aggregator twice, and both aggregators get their share."""
    spans = [usage_span() for _ in range(400)]
    for some in [*chunks(spans, 50), *chunks(spans, 30)]:
        assert send(collector.grpc_port, some) is grpc.StatusCode.OK
    wait_until(lambda: sum(len(sink.spans()) for sink in sinks) >= 800, ARRIVAL_TIMEOUT_S, "both copies arrive")
    first, second = sinks
    assert not first.span_ids() & second.span_ids()
    assert min(len(first.span_ids()), len(second.span_ids())) > 50


def test_an_outage_of_one_loses_nothing(
    collector: CollectorProcess, sinks: tuple[CollectorSink, CollectorSink]
) -> None:
    """What was acknowledged while one aggregator was away, and the Collector killed, arrives when it is back."""
    first, second = sinks
    second.stop()
    spans = [usage_span() for _ in range(200)]
    for some in chunks(spans, 20):
        assert send(collector.grpc_port, some) is grpc.StatusCode.OK
    collector.kill()
    collector.start().wait_ready()
    second.start()
    wait_until(
        lambda: ids_of(spans) <= first.span_ids() | second.span_ids(), ARRIVAL_TIMEOUT_S, f"{len(spans)} spans arrive"
    )
    assert not first.span_ids() & second.span_ids()
