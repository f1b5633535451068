"""The SDK's own exporters against a running aggregator: what an app sends becomes charges, over gRPC and over HTTP."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import grpc
import pytest
from opentelemetry._logs import LogRecord
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcLogs
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcMetrics
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpans
from opentelemetry.exporter.otlp.proto.http import Compression as HttpCompression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as HttpLogs
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpMetrics
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpans
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import Counter, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from support.accounting import Accounting, charges, settle
from support.processes import AggregatorProcess

Exporter = Callable[[AggregatorProcess], Any]

SPAN_EXPORTERS: dict[str, Exporter] = {
    "grpc": lambda to: GrpcSpans(to.grpc_endpoint, insecure=True),
    "grpc-gzip": lambda to: GrpcSpans(to.grpc_endpoint, insecure=True, compression=grpc.Compression.Gzip),
    "http": lambda to: HttpSpans(f"{to.http_endpoint}/v1/traces"),
    "http-gzip": lambda to: HttpSpans(f"{to.http_endpoint}/v1/traces", compression=HttpCompression.Gzip),
}
# Usage counted by metrics has to be sent as deltas.
DELTA = {Counter: AggregationTemporality.DELTA}
METRIC_EXPORTERS: dict[str, Exporter] = {
    "grpc": lambda to: GrpcMetrics(to.grpc_endpoint, insecure=True, preferred_temporality=DELTA),
    "http": lambda to: HttpMetrics(f"{to.http_endpoint}/v1/metrics", preferred_temporality=DELTA),
}
LOG_EXPORTERS: dict[str, Exporter] = {
    "grpc": lambda to: GrpcLogs(to.grpc_endpoint, insecure=True),
    "http": lambda to: HttpLogs(f"{to.http_endpoint}/v1/logs"),
}


@pytest.fixture(scope="module")
def aggregator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AggregatorProcess]:
    """One aggregator for the module."""
    with AggregatorProcess(tmp_path_factory.mktemp("aggregator")) as started:
        yield started


@pytest.mark.parametrize("transport", SPAN_EXPORTERS)
def test_spans_of_the_sdk_are_charged(aggregator: AggregatorProcess, transport: str) -> None:
    """What an app records with the OpenTelemetry SDK is charged to the last decimal, whatever the transport."""
    before, user = settle(aggregator), f"{transport}-{uuid.uuid4().hex}"
    exporter = SPAN_EXPORTERS[transport](aggregator)
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(exporter))
    tracer = provider.get_tracer("app")
    for number in range(100):
        amount = {"credits.amount": f"0.{number:012d}"} if number % 2 else {}
        attributes = {"credits.action_type": "workflow_execution", "user.id": user, **amount}
        tracer.start_span("work", attributes=attributes).end()
        tracer.start_span("something else").end()
    assert provider.force_flush()
    provider.shutdown()
    assert settle(aggregator) - before == Accounting(received=200, charged=100, not_usage=100)
    # 50 at 0.001 by the price book, and the sum of the odd numbers below 100 at 10^-12 each.
    assert charges(aggregator)[user] == 50 * Decimal("0.001") + Decimal(2500).scaleb(-12)


@pytest.mark.parametrize("transport", METRIC_EXPORTERS)
def test_metrics_of_the_sdk_are_charged(aggregator: AggregatorProcess, transport: str) -> None:
    """A counter `credits.usage` of the SDK is charged by its increments; other metrics are counted and not usage."""
    before, user = settle(aggregator, "data_points"), f"{transport}-{uuid.uuid4().hex}"
    reader = PeriodicExportingMetricReader(METRIC_EXPORTERS[transport](aggregator))
    provider = MeterProvider([reader])
    meter = provider.get_meter("app")
    counter = meter.create_counter("credits.usage")
    attributes = {"credits.action_type": "youtube_sync", "user.id": user}
    for increment in (3, 4):
        counter.add(increment, attributes)
        assert provider.force_flush()
    meter.create_histogram("latency").record(0.1)
    provider.shutdown()
    assert settle(aggregator, "data_points") - before == Accounting(received=3, charged=2, not_usage=1)
    assert charges(aggregator)[user] == 7 * Decimal("0.005")


@pytest.mark.parametrize("transport", LOG_EXPORTERS)
def test_logs_of_the_sdk_are_counted_and_dropped(aggregator: AggregatorProcess, transport: str) -> None:
    """Log records are acknowledged and counted as not usage, so that an app may send all signals to one address."""
    before = settle(aggregator, "log_records")
    provider = LoggerProvider()
    provider.add_log_record_processor(BatchLogRecordProcessor(LOG_EXPORTERS[transport](aggregator)))
    logger = provider.get_logger("app")
    for number in range(7):
        logger.emit(LogRecord(body=f"line {number}", attributes={"credits.action_type": "x", "user.id": "y"}))
    assert provider.force_flush()
    provider.shutdown()
    assert settle(aggregator, "log_records") - before == Accounting(received=7, not_usage=7)
