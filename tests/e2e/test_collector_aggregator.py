"""SDK -> Collector -> aggregator -> balance, all of it real: every credit once, whatever is sampled or killed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import grpc
import pytest
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from support.clickhouse_http import ClickHouseHttp
from support.collector import CONFIG, SEVERAL_AGGREGATORS, CollectorProcess
from support.collector_sink import CollectorSink
from support.collector_traffic import chunks, request_of, send, usage_span
from support.processes import AggregatorProcess, Process, wait_until

# The first test that needs the Collector builds it, which takes minutes on a machine that has not built it yet.
pytestmark = [pytest.mark.collector, pytest.mark.timeout(1800)]

CHARGED_TIMEOUT_S = 120.0

APP = """
import sys
from decimal import Decimal
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from otel_credits import ActionType, configure, flush, track_compute_usage

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)
configure()
tracer = trace.get_tracer("app")
for _ in range(int(sys.argv[1])):
    with tracer.start_as_current_span("request"):
        track_compute_usage("sampled-user", ActionType.WORKFLOW_EXECUTION, credits=Decimal("0.001"))
provider.shutdown()
sys.exit(0 if flush(timeout_s=30) else 1)
"""


@pytest.fixture
def aggregator(tmp_path: Path) -> Iterator[AggregatorProcess]:
    with AggregatorProcess(tmp_path / "aggregator") as aggregator:
        yield aggregator


@pytest.fixture
def collector(tmp_path: Path, aggregator: AggregatorProcess) -> Iterator[CollectorProcess]:
    with CollectorProcess(tmp_path, f"127.0.0.1:{aggregator.grpc_port}") as collector:
        yield collector


def charged(aggregator: AggregatorProcess, user_id: str) -> tuple[int, Decimal]:
    """How many events the ledger has of a user, and what they cost."""
    [row] = aggregator.sql(
        "SELECT toString(count()) AS events, toString(sum(credits_charged)) AS credits"
        f" FROM credit_usage_events WHERE user_id = '{user_id}'"
    )
    return int(row["events"]), Decimal(row["credits"])


def consumed(aggregator: AggregatorProcess, user_id: str) -> Decimal:
    """What the balance says the user has used."""
    return Decimal(aggregator.request("GET", f"/api/v1/users/{user_id}/balance")["lifetime_consumed"])


def wait_for_events(aggregator: AggregatorProcess, user_id: str, events: int) -> None:
    wait_until(lambda: charged(aggregator, user_id)[0] >= events, CHARGED_TIMEOUT_S, f"{events} events", interval_s=0.3)


def test_an_app_at_one_percent_sampling_is_charged_in_full(tmp_path: Path, aggregator: AggregatorProcess) -> None:
    """Sampled at 1 % by the SDK and again by the Collector, 300 usages are 300 events and the balance is exact."""
    with CollectorSink() as traces:
        env = {"COLLECTOR_TRACES_EXPORTER": "otlp_grpc/traces", "COLLECTOR_TRACES_ENDPOINT": traces.address}
        with CollectorProcess(tmp_path, f"127.0.0.1:{aggregator.grpc_port}", env) as collector:
            environment = {
                "OTEL_EXPORTER_OTLP_ENDPOINT": collector.grpc_endpoint,
                "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
                "OTEL_TRACES_SAMPLER_ARG": "0.01",
            }
            app = Process("app", [sys.executable, "-c", APP, "300"], log_dir=tmp_path, env=environment)
            assert app.start().wait(60) == 0, app.output()
            wait_for_events(aggregator, "sampled-user", 300)
        assert charged(aggregator, "sampled-user") == (300, Decimal("0.300"))
        assert consumed(aggregator, "sampled-user") == Decimal("0.3")
        assert len([span for span in traces.spans() if span.name == "request"]) < 30


def test_copies_are_charged_once(aggregator: AggregatorProcess, collector: CollectorProcess) -> None:
    """Spans sent twice through the Collector in other requests, and once more directly, are charged once."""
    spans = [usage_span("copied") for _ in range(120)]
    for some in [*chunks(spans, 40), *chunks(spans, 25)]:
        assert send(collector.grpc_port, some) is grpc.StatusCode.OK
    assert send(aggregator.grpc_port, spans) is grpc.StatusCode.OK
    wait_for_events(aggregator, "copied", 120)
    wait_until(lambda: accounted(aggregator) >= 360, CHARGED_TIMEOUT_S, "all copies are judged", interval_s=0.3)
    assert charged(aggregator, "copied") == (120, Decimal("0.120"))
    assert consumed(aggregator, "copied") == Decimal("0.12")


def accounted(aggregator: AggregatorProcess) -> float:
    """How many spans have been judged: charged or recognised as copies."""
    series = aggregator.metrics()
    names = ("otel_credits_spans_charged_total", "otel_credits_spans_duplicate_total")
    return sum(value for name, value in series.items() if name.partition("{")[0] in names)


def test_kills_on_the_way_cost_nothing(aggregator: AggregatorProcess, collector: CollectorProcess) -> None:
    """The aggregator is killed, the Collector keeps and is killed too: afterwards every credit is there once."""
    spans = [usage_span("survivor") for _ in range(400)]
    batches = list(chunks(spans, 20))
    for some in batches[:10]:
        assert send(collector.grpc_port, some) is grpc.StatusCode.OK
    aggregator.kill()
    for some in batches[10:]:
        assert send(collector.grpc_port, some) is grpc.StatusCode.OK
    collector.kill()
    collector.start().wait_ready()
    aggregator.start()
    aggregator.wait_ready()
    wait_for_events(aggregator, "survivor", 400)
    assert charged(aggregator, "survivor") == (400, Decimal("0.400"))
    assert consumed(aggregator, "survivor") == Decimal("0.4")


def test_running_totals_are_charged_as_deltas(aggregator: AggregatorProcess, collector: CollectorProcess) -> None:
    """A counter that an SDK sends as a running total is charged for each step, and not for each total."""
    aggregator.request(
        "POST", "/api/v1/prices", json={"action_type": "api_request", "unit": "call", "credits_per_unit": "0.5"}
    )
    exporter = OTLPMetricExporter(endpoint=collector.grpc_endpoint, insecure=True)
    provider = MeterProvider([PeriodicExportingMetricReader(exporter, export_interval_millis=3_600_000)])
    usage = provider.get_meter("app").create_counter("credits.usage")
    for calls in (1, 2, 3, 4):
        usage.add(calls, {"credits.action_type": "api_request", "user.id": "counted", "credits.unit": "call"})
        assert provider.force_flush()
    provider.shutdown()
    wait_until(
        lambda: charged(aggregator, "counted")[1] == Decimal("5"), CHARGED_TIMEOUT_S, "5 credits", interval_s=0.3
    )
    assert consumed(aggregator, "counted") == Decimal("5")


def test_an_odd_text_costs_its_neighbours_nothing(aggregator: AggregatorProcess, collector: CollectorProcess) -> None:
    """A span whose text is not UTF-8, in one batch with others behind the Collector, does not take them along."""
    spans = [usage_span("neighbour") for _ in range(20)]
    odd = usage_span("neighbour")
    odd.name = "marked"
    payload = request_of([*spans, odd]).SerializeToString().replace(b"marked", b"\xff\xfe\xff\xfe\xff\xfe")
    with grpc.insecure_channel(f"127.0.0.1:{collector.grpc_port}") as channel:
        channel.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")(payload, timeout=10)
    wait_for_events(aggregator, "neighbour", 20)


def test_two_aggregators_share_one_ledger(tmp_path: Path) -> None:
    """Behind the load balancing Collector two aggregators on one ClickHouse charge each span once, copies included."""
    with ClickHouseHttp(tmp_path / "clickhouse", migrated=True) as server:
        env = {"OTEL_CREDITS_STORE": server.dsn()}
        first = AggregatorProcess(tmp_path / "first", env)
        second = AggregatorProcess(tmp_path / "second", env)
        with first, second:
            addresses = f"[127.0.0.1:{first.grpc_port}, 127.0.0.1:{second.grpc_port}]"
            balanced = {"COLLECTOR_AGGREGATORS": addresses}
            configs = (CONFIG, SEVERAL_AGGREGATORS)
            with CollectorProcess(tmp_path, "127.0.0.1:1", balanced, configs=configs) as collector:
                spans = [usage_span("shared") for _ in range(200)]
                for some in [*chunks(spans, 20), *chunks(spans, 35)]:
                    assert send(collector.grpc_port, some) is grpc.StatusCode.OK
                wait_until(
                    lambda: accounted(first) + accounted(second) >= 400,
                    CHARGED_TIMEOUT_S,
                    "all copies are judged",
                    interval_s=0.3,
                )
                assert charged(first, "shared") == (200, Decimal("0.200"))
                assert min(accounted(first), accounted(second)) > 0
