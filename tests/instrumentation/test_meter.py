"""Meters: what was added, exactly, as delta points of `credits.usage`, whatever fails on the way."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from itertools import pairwise
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality
from otel_credits import _runtime, credits_meter, flush, shutdown, stats, usage_context
from otel_credits._meter_points import exact_parts
from otel_credits.testing import capture_usage
from support.otlp_sink import OtlpSink
from support.processes import wait_until

Configured = Callable[..., OtlpSink]
# An hour between two collections: what arrives was flushed.
WHEN_ASKED = {"meter_interval_s": 3600, "counters_interval_s": 0}


def points(sink: OtlpSink) -> list[dict[str, Any]]:
    """The usage points that were acknowledged, in the order they came, with plain values."""
    found = []
    for request in list(sink.metrics):
        for of_resource in request.resource_metrics:
            instance = next(
                a.value.string_value for a in of_resource.resource.attributes if a.key == "service.instance.id"
            )
            for of_scope in of_resource.scope_metrics:
                for metric in (m for m in of_scope.metrics if m.name == "credits.usage"):
                    assert metric.sum.is_monotonic
                    assert metric.sum.aggregation_temporality == AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA
                    found += [plain(point, instance, of_scope.scope) for point in metric.sum.data_points]
    return found


def plain(point: Any, instance: str, scope: Any) -> dict[str, Any]:
    """One data point."""
    number = point.as_int if point.WhichOneof("value") == "as_int" else point.as_double
    texts = {a.key.removeprefix("credits."): a.value.string_value for a in point.attributes}
    times = {"start": point.start_time_unix_nano, "end": point.time_unix_nano}
    return {
        "quantity": Decimal(repr(number)),
        "instance": instance,
        "scope": (scope.name, scope.version),
        **times,
        **texts,
    }


def totals(sink: OtlpSink) -> dict[str, Decimal]:
    """The sum of the points of each user."""
    sums: dict[str, Decimal] = defaultdict(Decimal)
    for point in points(sink):
        sums[point.get("user.id", "nobody")] += point["quantity"]
    return dict(sums)


def assert_gapless(found: list[dict[str, Any]]) -> None:
    """The intervals of each series follow one another, and no two points have one identity."""
    series = defaultdict(list)
    for point in found:
        identity = tuple(sorted((k, str(v)) for k, v in point.items() if k not in {"quantity", "start", "end"}))
        series[identity].append((point["start"], point["end"]))
    for intervals in series.values():
        intervals.sort()
        assert all(start < end for start, end in intervals)
        assert all(before[1] == after[0] for before, after in pairwise(intervals))


def test_additions_become_points(configured: Configured) -> None:
    """What is added to one series in one interval is one point, which says who, what and how much; the next interval
    begins where it ends."""
    sink = configured(**WHEN_ASKED)
    meter = credits_meter("storage", unit="byte")
    for quantity in (1, 2, 39):
        meter.add(quantity, user_id="alice")
    meter.add(5, user_id="alice", action_type="upload", unit="file")
    assert flush(60)
    meter.add(8, user_id="alice")
    assert flush(60)
    first, upload, second = points(sink)
    assert {k: first[k] for k in ("quantity", "user.id", "action_type", "unit")} == {
        "quantity": 42,
        "user.id": "alice",
        "action_type": "storage",
        "unit": "byte",
    }
    assert (upload["quantity"], upload["action_type"], upload["unit"]) == (5, "upload", "file")
    assert second["quantity"] == 8
    assert second["start"] == first["end"]
    assert first["scope"][0] == "otel_credits.meter.storage"


def test_the_user_of_the_context(configured: Configured) -> None:
    """Without a user of its own, an addition is that of the usage context; without one it is counted for nobody."""
    sink = configured(**WHEN_ASKED)
    meter = credits_meter("storage")
    with usage_context("bob"):
        meter.add(1)
    meter.add(2, user_id=7)
    meter.add(3, user_id=" 7 ")
    meter.add(4)
    assert flush(60)
    assert totals(sink) == {"bob": 1, "7": 5, "nobody": 4}


@given(st.lists(st.decimals(0, 10**15, places=12, allow_nan=False, allow_infinity=False), max_size=8))
def test_parts_are_exact(quantities: list[Decimal]) -> None:
    """The numbers that go over the wire add up to exactly what was added, whatever it was."""
    scaled = sum(int(Fraction(quantity) * 10**12) for quantity in quantities)
    parts = exact_parts(scaled)
    assert sum(Fraction(Decimal(repr(part))) for part in parts) * 10**12 == scaled
    assert all(0 < part <= 10**15 for part in parts)
    assert all(type(part) is int or Decimal(repr(part)).as_tuple().exponent >= -12 for part in parts)


def test_decimals_are_exact(configured: Configured) -> None:
    """Decimals, decimal strings and floats add up exactly, beyond a double's digits, whatever the app's own decimal
    context is."""
    sink = configured(**WHEN_ASKED)
    meter = credits_meter("storage")
    with localcontext(Context(prec=3)):
        for quantity in ("123456789012345.000000000001", Decimal("0.1"), 0.2, "1e-12", 10**15, "0.5", 0.5):
            meter.add(quantity, user_id="alice")
        for _ in range(10):
            meter.add(0.1, user_id="bob")
        meter.add(0, user_id="carol")
        assert flush(60)
    assert totals(sink) == {"alice": Decimal("1123456789012346.300000000002"), "bob": 1}
    assert_gapless(points(sink))


@pytest.mark.parametrize(
    "arguments",
    [
        {"quantity": -1},
        {"quantity": True},
        {"quantity": "many"},
        {"quantity": float("nan")},
        {"quantity": "0.0000000000001"},
        {"quantity": 10**15 + 1},
        {"quantity": None},
        {"quantity": 1, "action_type": 5},
        {"quantity": 1, "unit": ""},
        {"quantity": 1, "unit": []},
    ],
    ids=str,
)
def test_bad_additions(configured: Configured, arguments: dict[str, Any]) -> None:
    """What cannot be counted is not rounded or guessed: it is counted as failed, and raised only in strict mode."""
    sink = configured(**WHEN_ASKED)
    meter = credits_meter("storage")
    meter.add(1, user_id="alice")
    meter.add(**arguments, user_id="alice")
    assert stats().failed_by_reason == {"bad_argument": 1}
    assert flush(60)
    assert totals(sink) == {"alice": 1}


def test_threads_lose_nothing(configured: Configured) -> None:
    """Threads that add at the same time, to the same series, while points are made all the time: the sum is exact, also
    of threads that have ended."""
    sink = configured(meter_interval_s=0.001, export_interval_s=0.001, counters_interval_s=0)
    meter = credits_meter("storage")

    def work(number: int) -> None:
        for turn in range(20_000):
            meter.add(1, user_id="shared")
            if turn % 100 == 0:
                meter.add("0.25", user_id="shared")
                meter.add(3, user_id=f"user-{number}-{turn // 1000}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert flush(30)
    found = totals(sink)
    assert found.pop("shared") == 8 * (20_000 + 200 * Decimal("0.25"))
    assert found == {f"user-{number}-{turn}": 30 for number in range(8) for turn in range(20)}
    assert len({(p["start"], p["end"], p["user.id"]) for p in points(sink)}) == len(points(sink))
    assert_gapless(points(sink))


@pytest.mark.parametrize("quantity", [1, "0.5"], ids=["whole", "fraction"])
def test_a_signal_handler_may_add(configured: Configured, quantity: int | str) -> None:
    """A handler that interrupts additions, hundreds of times, and adds to the same series: no addition is lost."""
    sink = configured(meter_interval_s=0.001, export_interval_s=0.001, counters_interval_s=0)
    meter, interrupts, additions = credits_meter("storage"), 0, 0

    def handler(*_: object) -> None:
        nonlocal interrupts
        interrupts += 1
        meter.add(quantity, user_id="alice")

    meter.add(quantity, user_id="alice")  # the export thread is started outside of any handler
    # Processor time: the other timer is that of the tests' own deadline.
    before = signal.signal(signal.SIGPROF, handler)
    signal.setitimer(signal.ITIMER_PROF, 0.001, 0.001)
    try:
        while interrupts < 200:
            meter.add(quantity, user_id="alice")
            additions += 1
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    assert flush(20)
    assert totals(sink) == {"alice": (1 + additions + interrupts) * Decimal(quantity)}


def test_a_receiver_that_is_away(configured: Configured) -> None:
    """While the receiver is away nothing is lost and memory does not grow; a point that is sent again is the same."""
    sink = configured(meter_interval_s=0.01, export_interval_s=0.01, counters_interval_s=0, retry_max_s=0.05)
    sink.answer_with(grpc.StatusCode.UNAVAILABLE, store_before_failing=True)
    meter = credits_meter("storage")
    meter.add(1, user_id="alice")
    wait_until(lambda: len(sink.metrics) >= 3, 20, "it is tried again")
    meters = _runtime._pipeline.meters  # type: ignore[union-attr]
    for _ in range(1000):
        meter.add(1, user_id="alice")
        meter.add(2, user_id="bob")
    assert len(meters.waiting()) == 1
    sink.answer_with(None)
    assert flush(20)
    found = points(sink)
    again = Counter((p["user.id"], p["start"], p["end"], p["quantity"]) for p in found)
    assert max(again.values()) >= 3, "the same numbers each time"
    once = {(user, start, end): quantity for user, start, end, quantity in again}
    assert len(once) == len(again), "one identity is one number"
    assert sum(q for (user, *_), q in once.items() if user == "alice") == 1001
    assert sum(q for (user, *_), q in once.items() if user == "bob") == 2000


def test_too_many_series(configured: Configured, caplog: pytest.LogCaptureFixture) -> None:
    """Series above the bound are not lost: each addition goes out as a span at once, which is said; and there is room
    again when the others were sent."""
    sink = configured(**WHEN_ASKED, meter_series_max=10)
    meter = credits_meter("storage", unit="byte")
    for number in range(50):
        meter.add("1.5", user_id=f"u{number}")
        meter.add(1, user_id="u0")
    assert flush(20)
    spans = [Decimal(u.attributes["credits.units.byte"]) for u in sink.usages()]
    assert spans
    assert sum(totals(sink).values()) + sum(spans) == 50 * Decimal("1.5") + 50
    assert "more than 10 series" in caplog.text
    meter.add(1, user_id="later")
    assert flush(20)
    assert totals(sink)["later"] == 1
    assert_gapless(points(sink))


def test_shutdown(configured: Configured) -> None:
    """The end of the process sends what was counted; what is added after it is refused, and counted."""
    sink = configured(**WHEN_ASKED)
    meter = credits_meter("storage")
    meter.add(1, user_id="alice")
    meter.add(1, user_id="alice")
    assert shutdown(60)
    meter.add(1, user_id="alice")
    assert totals(sink) == {"alice": 2}
    assert stats().failed_by_reason == {"shutdown": 1}


def test_a_shutdown_that_cannot_deliver(configured: Configured) -> None:
    """What cannot be delivered before the end is counted as failed, and `shutdown` says so."""
    sink = configured(**WHEN_ASKED)
    sink.answer_with(grpc.StatusCode.UNAVAILABLE)
    credits_meter("storage").add(1, user_id="alice")
    assert not shutdown(0.5)
    assert stats().failed_by_reason == {"shutdown": 1}


def test_points_that_are_refused(configured: Configured) -> None:
    """A receiver that refuses points for good is believed; they are counted, and `flush` says so."""
    sink = configured(**WHEN_ASKED)
    sink.answer_with(grpc.StatusCode.INVALID_ARGUMENT)
    credits_meter("storage").add(1, user_id="alice")
    assert not flush(60)
    assert stats().failed_by_reason == {"rejected": 1}


def test_fork(configured: Configured) -> None:
    """A forked child counts its own, under an identity of its own, and sends nothing of its parent's."""
    sink = configured(**WHEN_ASKED)
    meter = credits_meter("storage")
    meter.add(1, user_id="parent")
    pid = os.fork()
    if pid == 0:
        meter.add(10, user_id="child")
        os._exit(0 if shutdown(20) else 1)
    meter.add(1, user_id="parent")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert flush(60)
    assert totals(sink) == {"parent": 2, "child": 10}
    assert len({point["instance"] for point in points(sink)}) == 2


def test_capture() -> None:
    """In the tests of an app each addition is a usage, also to a series that was counted before."""
    meter = credits_meter("storage", unit="byte")
    with capture_usage() as usages:
        meter.add(1, user_id="alice")
        meter.add("2.5", user_id="alice")
        assert [u.attributes["credits.units.byte"] for u in usages.of_user("alice")] == ["1", "2.5"]
        with pytest.raises(ValueError, match="quantity"):
            meter.add(-1, user_id="alice")


def test_bad_meter() -> None:
    """A meter needs a name."""
    with pytest.raises(ValueError, match="name"):
        credits_meter("")
