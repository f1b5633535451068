"""Delivery: what happens to a usage between the call and the receiver's acknowledgement."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from threading import Event

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from otel_credits import configure, flush, shutdown, stats, track_compute_usage
from support.app_usage import record, users_of
from support.otlp_sink import OtlpSink, spans_of
from support.processes import wait_until

Configured = Callable[..., OtlpSink]


def test_away_then_back(configured: Configured) -> None:
    """With the receiver away calls succeed, flush says False, and everything arrives once it is back, in order."""
    sink = configured(retry_max_s=0.2)
    sink.stop()
    users = record(500)
    assert flush(0.5) is False
    assert stats().waiting == 500
    sink.start()
    assert flush(20) is True
    assert users_of(sink) == users
    assert (stats().recorded, stats().exported, stats().failed, stats().waiting) == (500, 500, 0, 0)


def test_away_for_longer_than_the_official_exporter_waits(configured: Configured) -> None:
    """A batch survives more attempts than the plain OTLP exporter makes (it drops a batch after ten seconds)."""
    sink = configured(retry_max_s=0.2)
    sink.answer_with(grpc.StatusCode.UNAVAILABLE)
    users = record(3)
    wait_until(lambda: len(sink.refused) >= 12, 20, "twelve refused attempts")
    sink.answer_with(None)
    assert flush(60)
    assert users_of(sink) == users


def test_calls_do_not_slow_down_while_away(configured: Configured) -> None:
    """A call takes no longer with the receiver away than with it there: nothing waits for the network."""
    sink = configured(retry_max_s=0.2)

    def median_us() -> float:
        times = []
        for _ in range(2000):
            start = time.perf_counter()
            track_compute_usage("u", "a", credits=1)
            times.append(time.perf_counter() - start)
        return statistics.median(times) * 1e6

    there = median_us()
    sink.stop()
    away = median_us()
    assert away < 3 * there + 20
    assert away < 1000


def test_resent_batches_are_identical(configured: Configured) -> None:
    """A batch that was stored but not acknowledged is sent again with the same span ids."""
    sink = configured()
    sink.answer_with(grpc.StatusCode.UNAVAILABLE, store_before_failing=True)
    record(3)
    wait_until(lambda: len(sink.requests) >= 2, 10, "a second attempt")
    sink.answer_with(None)
    assert flush(60)
    identities = [
        [span.span_id for span in spans_of(ExportTraceServiceRequest.FromString(raw))] for raw in sink.requests
    ]
    assert identities[0] == identities[1]
    assert stats().exported == 3


def test_slow_receiver(configured: Configured) -> None:
    """A receiver that is slower than one attempt may last gets the batch until it acknowledges; nothing is lost."""
    sink = configured(export_timeout_s=0.3)
    sink.answer_with(None, delay_s=0.6)
    record(2)
    assert flush(0.5) is False
    sink.answer_with(None)
    assert flush(60)
    assert set(users_of(sink)) == {"user-0", "user-1"}
    assert stats().exported == 2


def test_the_receivers_wish_is_respected(configured: Configured) -> None:
    """RetryInfo of a full receiver sets the wait until the next attempt."""
    sink = configured()
    sink.answer_with(grpc.StatusCode.RESOURCE_EXHAUSTED, retry_after_s=0.9)
    record(1)
    wait_until(lambda: len(sink.refused) == 1, 10, "the first attempt")
    start = time.monotonic()
    sink.answer_with(None)
    sink.wait_for_spans(1)
    assert time.monotonic() - start > 0.5


def test_refused_for_good(configured: Configured, caplog: pytest.LogCaptureFixture) -> None:
    """A receiver that refuses the sender for good is asked once: counted as failed, logged, told by flush."""
    sink = configured()
    sink.answer_with(grpc.StatusCode.UNAUTHENTICATED)
    record(5)
    assert flush(60) is False
    assert stats().failed_by_reason == {"rejected": 5}
    assert "not charged" in caplog.text
    assert len(sink.refused) == 1
    assert flush(1) is True


def test_neighbours_of_bad_data_are_charged(configured: Configured) -> None:
    """When the receiver refuses a batch for its data, only what is bad in it is given up."""
    sink = configured()

    def has_bad(request: ExportTraceServiceRequest) -> bool:
        return any(span.attributes["user.id"] in {"user-7", "user-30"} for span in spans_of(request))

    sink.answer_with(None, refuse_if=has_bad)
    users = record(50)
    assert flush(60) is False
    assert users_of(sink) == [user for user in users if user not in {"user-7", "user-30"}]
    assert (stats().exported, stats().failed_by_reason) == (48, {"rejected": 2})


def test_text_that_cannot_be_encoded(configured: Configured) -> None:
    """Text that is not Unicode does not block the queue: its neighbours arrive."""
    sink = configured()
    track_compute_usage("before", "a", credits=1)
    track_compute_usage("broken", "a\ud800", credits=1, description="\ud800")
    track_compute_usage("after", "a", credits=1)
    flush(60)
    assert [user for user in users_of(sink) if user != "broken"] == ["before", "after"]
    assert stats().waiting == 0


def test_partial_success_is_counted(configured: Configured, caplog: pytest.LogCaptureFixture) -> None:
    """Spans that the receiver rejects in an otherwise accepted request are counted as failed and logged."""
    sink = configured()
    sink.answer_with(None, rejected_spans=2, detail="no thanks")
    record(5)
    assert flush(60) is False
    assert (stats().exported, stats().failed) == (3, 2)
    assert "no thanks" in caplog.text


def test_a_server_error_is_believed_only_after_a_while(configured: Configured) -> None:
    """INTERNAL is final in OTLP, but a crash of the receiver is not the fault of the usage: it is tried some more."""
    sink = configured(retry_max_s=0.1)
    sink.answer_with(grpc.StatusCode.INTERNAL)
    record(1)
    wait_until(lambda: len(sink.refused) >= 3, 10, "three attempts")
    sink.answer_with(None)
    assert flush(60)
    sink.answer_with(grpc.StatusCode.INTERNAL)
    record(1)
    assert flush(20) is False
    assert stats().failed_by_reason == {"rejected": 1}


def test_full_queue_refuses_the_newest(configured: Configured, caplog: pytest.LogCaptureFixture) -> None:
    """When the queue is full the newest usage is refused, counted and logged; the oldest are kept and arrive."""
    sink = configured(queue_spans_max=10)
    sink.answer_with(grpc.StatusCode.UNAVAILABLE)
    users = record(14)
    assert stats().failed_by_reason == {"queue_full": 4}
    assert "NOT charged (queue_full)" in caplog.text
    sink.answer_with(None)
    assert flush(60) is False
    assert users_of(sink) == users[:10]
    assert stats().recorded == 14


def test_queue_is_bounded_in_bytes(configured: Configured) -> None:
    """Large usages fill the queue by their bytes."""
    sink = configured(queue_bytes_max=100_000)
    sink.answer_with(grpc.StatusCode.UNAVAILABLE)
    for _ in range(20):
        track_compute_usage("u", "a", credits=1, description="x" * 20_000)
    assert 3 <= stats().waiting <= 5
    assert stats().failed_by_reason["queue_full"] == 20 - stats().waiting


def test_requests_are_bounded(configured: Configured) -> None:
    """No request is larger than the bounds on its spans and bytes."""
    sink = configured(batch_spans_max=7, batch_bytes_max=10_000)
    users = record(30)
    for number in range(4):
        track_compute_usage(f"large-{number}", "a", credits=1, description="x" * 6_000)
    assert flush(60)
    sizes = [len(list(spans_of(ExportTraceServiceRequest.FromString(raw)))) for raw in sink.requests]
    assert max(sizes) <= 7
    assert sizes[-3:] == [1, 1, 1]
    assert users_of(sink)[:30] == users


def test_flush_with_nothing_recorded(configured: Configured) -> None:
    """Nothing recorded is nothing missing: flush is True at once, set up or not."""
    assert flush(0) is True
    configured()
    start = time.monotonic()
    assert flush(60) is True
    assert time.monotonic() - start < 10


def test_flush_keeps_to_its_timeout(configured: Configured) -> None:
    """flush() returns at its timeout though an attempt is under way for longer."""
    sink = configured(export_timeout_s=10)
    sink.answer_with(None, delay_s=8)
    record(1)
    start = time.monotonic()
    assert flush(0.3) is False
    assert time.monotonic() - start < 7


def test_shutdown_delivers_and_closes(configured: Configured) -> None:
    """shutdown() delivers what waits; what is recorded afterwards is refused, counted, and the app goes on."""
    sink = configured()
    record(3)
    assert shutdown(60) is True
    assert len(sink.spans()) == 3
    track_compute_usage("late", "a")
    assert stats().failed_by_reason == {"shutdown": 1}
    configured()
    track_compute_usage("again", "a")
    assert flush(60) is False, "the refused one is told once"
    assert users_of(sink)[-1] == "again"


def test_shutdown_while_away(configured: Configured, caplog: pytest.LogCaptureFixture) -> None:
    """shutdown() keeps to its timeout while the receiver is away, and counts and logs what it gave up."""
    sink = configured()
    sink.stop()
    record(4)
    start = time.monotonic()
    assert shutdown(0.5) is False
    assert time.monotonic() - start < 10
    assert stats().failed_by_reason == {"shutdown": 4}
    assert "4 usages were not delivered" in caplog.text


def test_configure_twice(configured: Configured) -> None:
    """configure() again without arguments changes nothing; with another endpoint, what waits goes there."""
    first = configured()
    configure()
    record(2)
    assert flush(60)
    assert len(first.spans()) == 2
    first.answer_with(grpc.StatusCode.UNAVAILABLE)
    record(2, start=2)
    wait_until(lambda: len(first.refused) >= 1, 10, "an attempt")
    with OtlpSink() as second:
        configure(second.endpoint, capture_spans=False)
        record(1, start=4)
        assert flush(60)
        assert users_of(second) == ["user-2", "user-3", "user-4"]
    assert stats().exported == 5


def test_an_exporter_that_raises(configured: Configured) -> None:
    """An exporter of the caller's that raises or fails is tried again."""

    class Flaky(SpanExporter):
        """Raises, then fails, then works."""

        def __init__(self) -> None:
            self.calls = 0
            self.spans: list[ReadableSpan] = []

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            self.calls += 1
            if self.calls == 1:
                raise OSError("boom")
            if self.calls == 2:
                return SpanExportResult.FAILURE
            self.spans.extend(spans)
            return SpanExportResult.SUCCESS

    exporter = Flaky()
    configure(exporter=exporter, capture_spans=False, retry_initial_s=0.05)
    record(2)
    assert flush(60)
    assert len(exporter.spans) == 2


@pytest.mark.parametrize("outage_s", [15, pytest.param(90, marks=pytest.mark.long)])
def test_an_outage_under_way(configured: Configured, outage_s: int) -> None:
    """With the endpoint away for 90 s (15 s in the normal suite) and 20 usages a second, flush says False meanwhile,
    and every usage arrives once when it is back. (The plain SDK lost 85 % in 90 s, and its flush said True.)"""
    sink = configured()
    record(20)
    assert flush(30)
    sink.stop()
    end, pause, users = time.monotonic() + outage_s, Event(), []
    while time.monotonic() < end:
        users += record(1, start=100 + len(users))
        pause.wait(1 / 20)
    assert len(users) > 5 * outage_s
    start = time.monotonic()
    assert flush(3) is False
    assert time.monotonic() - start < 10
    assert stats().waiting == len(users)
    sink.start()
    assert flush(60) is True
    assert users_of(sink)[20:] == users
    assert (stats().exported, stats().failed) == (20 + len(users), 0)
