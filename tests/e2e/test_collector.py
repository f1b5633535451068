"""What the Collector of this repository lets through: every usage, however the traces are sampled, sent or sized."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as logs_pb
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2_grpc as logs_grpc
from opentelemetry.proto.logs.v1 import logs_pb2
from support import plain_http
from support.collector import CONFIG, SEVERAL_AGGREGATORS, CollectorProcess, collector_binary, validate
from support.collector_sink import CollectorSink
from support.collector_traffic import chunks, ids_of, request_of, send, usage_span
from support.processes import wait_until

# The first test that needs the Collector builds it, which takes minutes on a machine that has not built it yet.
pytestmark = [pytest.mark.collector, pytest.mark.timeout(1800)]

ARRIVAL_TIMEOUT_S = 60.0
MEBIBYTE = 1024 * 1024


@pytest.fixture
def sink() -> Iterator[CollectorSink]:
    with CollectorSink() as sink:
        yield sink


@pytest.fixture
def collector(tmp_path: Path, sink: CollectorSink) -> Iterator[CollectorProcess]:
    with CollectorProcess(tmp_path, sink.address) as collector:
        yield collector


@pytest.mark.parametrize("configs", [(CONFIG,), (CONFIG, SEVERAL_AGGREGATORS)], ids=["one", "several"])
def test_the_collector_accepts_its_configuration(configs: tuple[Path, ...]) -> None:
    """The Collector itself finds no fault in the files this repository ships."""
    done = validate(*configs)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_collector_rejects_a_misspelt_setting(tmp_path: Path) -> None:
    """The validation above can fail: a setting that does not exist is found."""
    broken = tmp_path / "broken.yaml"
    broken.write_text(CONFIG.read_text().replace("max_elapsed_time:", "max_elapsed_tim:"))
    assert validate(broken).returncode != 0


def test_a_built_collector_is_not_built_again() -> None:
    """`make collector` costs nothing the second time, and says where the binary is."""
    assert collector_binary().is_file()
    assert collector_binary().parent.parent.name == "otel-credits"


def test_every_usage_arrives_while_traces_are_sampled(tmp_path: Path, sink: CollectorSink) -> None:
    """Traces sampled at 1 % leave 100 % of the usages, once each; of the traces only errors and a few others remain."""
    ordinary = [usage_span() for _ in range(3000)]
    errors = [usage_span(error=True) for _ in range(10)]
    with CollectorSink() as traces:
        env = {
            "COLLECTOR_TRACES_EXPORTER": "otlp_grpc/traces",
            "COLLECTOR_TRACES_ENDPOINT": traces.address,
            "COLLECTOR_TRACES_SAMPLED_PERCENT": "1",
            "COLLECTOR_TRACES_DECISION_WAIT": "1s",
        }
        with CollectorProcess(tmp_path, sink.address, env) as collector:
            for some in chunks(ordinary + errors, 100):
                assert send(collector.grpc_port, some) is grpc.StatusCode.OK
            wait_for(sink, ids_of(ordinary + errors))
            wait_for(traces, ids_of(errors))
        # It has ended, and on its way decided on every trace it still held.
        assert len(sink.spans()) == len(ordinary) + len(errors)
        assert 0 < len(traces.spans()) - len(errors) < len(ordinary) * 0.03


def test_usages_arrive_over_otlp_http(collector: CollectorProcess, sink: CollectorSink) -> None:
    """An app that speaks OTLP/HTTP reaches the ledger through the same Collector."""
    spans = [usage_span() for _ in range(10)]
    body = request_of(spans).SerializeToString()
    headers = {"Content-Type": "application/x-protobuf"}
    answer = plain_http.post(f"{collector.http_endpoint}/v1/traces", content=body, headers=headers)
    assert answer.status_code == 200
    wait_for(sink, ids_of(spans))


def test_a_usage_with_a_long_prompt_arrives(collector: CollectorProcess, sink: CollectorSink) -> None:
    """A span of 20 MiB passes with its neighbours: nothing on the way has a smaller limit than the receiver."""
    spans = [usage_span(), usage_span(padding_bytes=20 * MEBIBYTE), usage_span()]
    assert send(collector.grpc_port, spans) is grpc.StatusCode.OK
    wait_for(sink, ids_of(spans))


def test_small_requests_are_sent_on_in_batches(collector: CollectorProcess, sink: CollectorSink) -> None:
    """The aggregator is spared: what comes in hundreds of small requests goes out in few."""
    spans = [usage_span() for _ in range(300)]
    for span in spans:
        assert send(collector.grpc_port, [span]) is grpc.StatusCode.OK
    wait_for(sink, ids_of(spans))
    assert len(sink.trace_requests) < 60


def test_logs_are_accepted(collector: CollectorProcess) -> None:
    """An app that sends all three signals to one address gets no error for its logs."""
    record = logs_pb2.LogRecord(time_unix_nano=1)
    scope = logs_pb2.ScopeLogs(log_records=[record])
    request = logs_pb.ExportLogsServiceRequest(resource_logs=[logs_pb2.ResourceLogs(scope_logs=[scope])])
    with grpc.insecure_channel(f"127.0.0.1:{collector.grpc_port}") as channel:
        logs_grpc.LogsServiceStub(channel).Export(request, timeout=10)


def wait_for(sink: CollectorSink, expected: set[bytes]) -> None:
    """Wait until every expected span has come at least once."""
    wait_until(lambda: expected <= sink.span_ids(), ARRIVAL_TIMEOUT_S, f"{len(expected)} spans arrive")
