"""What lets the aggregator notice a loss in the app: the counters that the library sends, and the numbers on usages."""

from __future__ import annotations

import os
from collections.abc import Callable
from threading import Thread
from typing import Any

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from otel_credits import _runtime, configure, flush, shutdown, track_compute_usage
from otel_credits._endpoint import metrics_url
from otel_credits._processor import CreditsSpanProcessor
from otel_credits._settings import Settings
from support.otlp_sink import OtlpSink
from support.processes import wait_until

Configured = Callable[..., OtlpSink]


def record(count: int) -> None:
    """Record `count` usages."""
    for _ in range(count):
        track_compute_usage("u", "a", credits=1)


def instance_of(sink: OtlpSink) -> str:
    """The one instance id of all received usages."""
    (instance,) = {span.resource["service.instance.id"] for span in sink.usages()}
    return str(instance)


def numbers(sink: OtlpSink) -> list[int]:
    """The running numbers of the received usages, sorted."""
    return sorted(span.attributes["credits.seq"] for span in sink.usages())


def test_counters_reach_the_usages_endpoint(configured: Configured, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was recorded, exported and failed is reported to the receiver of the usage, with the headers of the usage
    and under the instance id that the usages carry, without a meter provider of the app."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "x-api-key=secret")
    sink = configured(counters_interval_s=0.05, service_name="shop")
    record(3)
    track_compute_usage("u", "a", credits=-1)
    assert flush(60)
    expected = {"recorded": 4, "exported": 3, "failed:bad_argument": 1, "waiting": 0}
    wait_until(lambda: sink.counters().get(instance_of(sink)) == expected, 10, "the counters")
    assert sink.metrics_metadata[-1]["x-api-key"] == "secret"


def test_counters_are_cumulative_sums_of_one_process(configured: Configured) -> None:
    """The reported counters are monotonic cumulative integer sums since the start of the process's pipeline, in the
    scope `otel_credits`; what waits is a gauge."""
    sink = configured(service_name="shop")
    record(2)
    assert shutdown(60)
    request = sink.metrics[-1]
    (of_resource,) = request.resource_metrics
    attributes = {a.key: a.value.string_value for a in of_resource.resource.attributes}
    assert (attributes["service.name"], attributes["service.instance.id"]) == ("shop", instance_of(sink))
    (of_scope,) = of_resource.scope_metrics
    assert of_scope.scope.name == "otel_credits"
    assert of_scope.scope.version
    assert [m.name for m in of_scope.metrics] == [
        "credits.client.recorded",
        "credits.client.exported",
        "credits.client.waiting",
    ]
    assert [m.WhichOneof("data") for m in of_scope.metrics] == ["sum", "sum", "gauge"]
    pipeline = _runtime._pipeline
    assert pipeline is not None
    for metric in of_scope.metrics[:2]:
        assert metric.sum.is_monotonic
        assert metric.sum.aggregation_temporality == AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
        (point,) = metric.sum.data_points
        assert point.start_time_unix_nano == pipeline.instance.started_ns < point.time_unix_nano
        assert point.WhichOneof("value") == "as_int"


def test_the_last_word_at_shutdown(configured: Configured) -> None:
    """shutdown() reports the final counters after the last flush, however long the interval is."""
    sink = configured(counters_interval_s=3600)
    record(1)
    wait_until(lambda: sink.counters() != {}, 10, "the first report")
    record(6)
    assert shutdown(60)
    assert sink.counters()[instance_of(sink)] == {"recorded": 7, "exported": 7, "waiting": 0}


def test_unchanged_counters_are_not_sent_again(configured: Configured) -> None:
    """The counters are sent only when they changed, not at every interval."""
    sink = configured(counters_interval_s=0.01, export_interval_s=0.01)
    record(1)
    assert flush(60)
    wait_until(lambda: "exported" in sink.counters().get(instance_of(sink), {}), 10, "a report")
    wait_until(lambda: sink.counters()[instance_of(sink)]["exported"] == 1, 10, "the final report")
    reports = len(sink.metrics)
    record(1)
    wait_until(lambda: len(sink.metrics) > reports, 10, "the next report")
    assert sink.counters()[instance_of(sink)]["recorded"] == 2


def test_switched_off(configured: Configured) -> None:
    """With the interval 0 no counters are sent, not even at the end."""
    sink = configured(counters_interval_s="0")
    record(1)
    assert shutdown(60)
    assert sink.metrics == []


def test_a_receiver_without_metrics(configured: Configured) -> None:
    """A receiver that does not take metrics gets the usage all the same."""
    sink = configured(counters_interval_s=0.01)

    def refuse(raw: bytes, context: grpc.ServicerContext) -> Any:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "traces only")

    sink.stop()
    sink._export_metrics = refuse  # type: ignore[method-assign]
    sink.start()
    record(2)
    assert flush(60)
    record(2)
    assert shutdown(60)
    assert numbers(sink) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("traces", "metrics"),
    [
        ("http://a:4318/v1/traces", "http://a:4318/v1/metrics"),
        ("https://a/base/v1/traces/?x=1", "https://a/base/v1/metrics?x=1"),
        ("http://a:4318/elsewhere", None),
    ],
)
def test_the_address_for_metrics(traces: str, metrics: str | None) -> None:
    """Over HTTP the counters go beside the traces, and nowhere if the path does not tell where that is."""
    assert metrics_url(traces) == metrics


def test_numbers_have_no_gap(configured: Configured) -> None:
    """Usages of many threads are numbered from 1 without a gap or a repetition."""
    sink = configured()
    threads = [Thread(target=record, args=(300,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert flush(20)
    assert numbers(sink) == list(range(1, 2401))


def test_what_never_entered_the_queue_has_no_number(configured: Configured) -> None:
    """Refused usages and bad arguments take no number: a gap means a loss on the way."""
    sink = configured(queue_spans_max=3)
    sink.answer_with(grpc.StatusCode.UNAVAILABLE)
    track_compute_usage("u", "a", credits=-1)
    record(5)
    sink.answer_with(None)
    flush(60)
    record(1)
    assert flush(60)
    assert numbers(sink) == [1, 2, 3, 4]


def test_the_apps_own_spans_are_numbered_too(sink: OtlpSink) -> None:
    """A usage that is a span of the app's keeps its identity and gets a number and this process's instance id, also
    where the app claims another one."""
    configure(sink.endpoint, capture_spans=False)
    pipeline = _runtime._pipeline
    assert pipeline is not None
    provider = TracerProvider(
        resource=Resource({"service.name": "app", "service.instance.id": "pod-1"}), shutdown_on_exit=False
    )
    provider.add_span_processor(CreditsSpanProcessor(pipeline.accept_span, pipeline.flush, Settings()))
    with provider.get_tracer("app").start_as_current_span("x", attributes={"credits.action_type": "a"}) as span:
        context = span.get_span_context()
    record(1)
    assert flush(60)
    own = next(usage for usage in sink.usages() if usage.scope == "app")
    assert (own.trace_id, own.span_id) == (
        trace.format_trace_id(context.trace_id),
        trace.format_span_id(context.span_id),
    )
    assert own.resource["service.name"] == "app"
    assert instance_of(sink) == pipeline.instance.id
    assert numbers(sink) == [1, 2]


def test_a_forked_child_is_another_instance(configured: Configured) -> None:
    """A forked child has an instance id, a start and numbers of its own, and reports its own counters."""
    sink = configured()
    record(2)
    assert flush(60)
    pid = os.fork()
    if pid == 0:
        record(3)
        os._exit(0 if shutdown(20) else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert shutdown(60)
    by_instance: dict[str, list[int]] = {}
    for span in sink.usages():
        by_instance.setdefault(span.resource["service.instance.id"], []).append(span.attributes["credits.seq"])
    assert sorted(by_instance.values()) == [[1, 2], [1, 2, 3]]
    assert {instance: counts["recorded"] for instance, counts in sink.counters().items()} == {
        instance: len(found) for instance, found in by_instance.items()
    }
    assert len({started(request) for request in sink.metrics}) == 2


def started(request: ExportMetricsServiceRequest) -> int:
    """The start time of the first counter of a report."""
    return int(request.resource_metrics[0].scope_metrics[0].metrics[0].sum.data_points[0].start_time_unix_nano)
