"""Counted usage through the Collector: running totals become the deltas that the aggregator charges."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.proto.metrics.v1 import metrics_pb2
from opentelemetry.sdk.metrics import Counter, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, PeriodicExportingMetricReader
from support.collector import CollectorProcess
from support.collector_sink import CollectorSink
from support.processes import wait_until

# The first test that needs the Collector builds it, which takes minutes on a machine that has not built it yet.
pytestmark = [pytest.mark.collector, pytest.mark.timeout(1800)]

ARRIVAL_TIMEOUT_S = 60.0
ATTRIBUTES = {"credits.action_type": "api_request", "user.id": "u1", "credits.unit": "call"}


@pytest.fixture
def sink() -> Iterator[CollectorSink]:
    with CollectorSink() as sink:
        yield sink


@pytest.mark.parametrize("temporality", [AggregationTemporality.CUMULATIVE, AggregationTemporality.DELTA])
def test_counts_arrive_as_deltas(tmp_path: Path, sink: CollectorSink, temporality: AggregationTemporality) -> None:
    """`credits.usage` of an SDK arrives as deltas whose sum is what was counted, whichever way the SDK sends it."""
    with CollectorProcess(tmp_path, sink.address) as collector:
        provider = meter_provider(collector, temporality)
        usage = provider.get_meter("app").create_counter("credits.usage")
        for calls in (1, 2, 3, 4):
            usage.add(calls, ATTRIBUTES)
            assert provider.force_flush()
        provider.shutdown()
        wait_until(lambda: sum(deltas(sink, "credits.usage")) == 10, ARRIVAL_TIMEOUT_S, "10 calls arrive")
        assert [value for value in deltas(sink, "credits.usage") if value] == [1, 2, 3, 4]


def test_other_metrics_pass_unchanged(tmp_path: Path, sink: CollectorSink) -> None:
    """Only `credits.usage` is converted: a counter for dashboards keeps its running total."""
    with CollectorProcess(tmp_path, sink.address) as collector:
        provider = meter_provider(collector, AggregationTemporality.CUMULATIVE)
        provider.get_meter("app").create_counter("requests").add(3)
        provider.shutdown()
        wait_until(lambda: len(sink.metrics()) > 0, ARRIVAL_TIMEOUT_S, "the metric arrives")
    [metric] = [metric for metric in sink.metrics() if metric.name == "requests"]
    assert metric.sum.aggregation_temporality == metrics_pb2.AGGREGATION_TEMPORALITY_CUMULATIVE


def meter_provider(collector: CollectorProcess, temporality: AggregationTemporality) -> MeterProvider:
    """An SDK that sends when it is told to."""
    exporter = OTLPMetricExporter(
        endpoint=collector.grpc_endpoint, insecure=True, preferred_temporality={Counter: temporality}
    )
    return MeterProvider([PeriodicExportingMetricReader(exporter, export_interval_millis=3_600_000)])


def deltas(sink: CollectorSink, name: str) -> list[int]:
    """The values of the delta points of that name, in the order of arrival."""
    sums = [metric.sum for metric in sink.metrics() if metric.name == name]
    assert all(each.aggregation_temporality == metrics_pb2.AGGREGATION_TEMPORALITY_DELTA for each in sums)
    return [point.as_int for each in sums for point in each.data_points]
