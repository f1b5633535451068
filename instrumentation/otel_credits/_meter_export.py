"""What the meters counted on its way to the aggregator: data points of `credits.usage`, delta, one interval after another.

A point's identity is its series and its interval. So a point is made once, and sent again with the same numbers until
it is acknowledged. While points wait, no others are made: what is added meanwhile stays in the meters, where it takes
the room of its series and not of its additions. A receiver that is away for an hour makes one long interval. With a
spool, both the points that wait and what is added meanwhile are on disk, too (_meter_open.py).

The intervals of a series follow one another without a gap, from the time when the table of series began. A table that
has grown too large is begun anew, under another version of the scope: those are other series.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from otel_credits._guard import say_once
from otel_credits._meter_open import OpenInterval
from otel_credits._meter_points import Point, exact_parts, points_request, usage_attributes
from otel_credits._meter_shards import Key, Series, Shards
from otel_credits._queue import REJECTED, SHUTDOWN

if TYPE_CHECKING:
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
    from opentelemetry.sdk.resources import Resource

    from otel_credits._meter import CreditsMeter
    from otel_credits._pipeline import Pipeline

# Writing what was added takes at most this part of the export thread's time.
_WRITING_SHARE = 0.05


class MeterExport:
    """Makes points of what the meters counted, and keeps them until they are settled."""

    def __init__(self, pipeline: Pipeline, shards: Shards, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._pipeline = pipeline
        self._shards = shards
        self._clock_ns = clock_ns
        self.changed = threading.Condition()
        self._pending: list[Point] = []
        self._open = OpenInterval()
        self._not_before = 0.0
        self._write_not_before = 0.0
        self._collections = 0
        self.closed = False
        # Set by whoever waits for a collection before its time.
        self.wanted = False
        self.exported = 0
        self.failed = 0
        # How many additions became spans. Threads may lose one of this number; of what it counts, none is lost.
        self.overflows = 0
        self._begin_table(0, clock_ns())

    def count(self, meter: CreditsMeter, key: Key, scaled: int) -> None:
        """Count a usage; what is too much for the table becomes a span at once.

        On the thread of the app, as it first adds to a series in an interval, or adds a fraction.
        """
        pipeline = self._pipeline
        if self.closed:
            pipeline.refuse(SHUTDOWN)
            return
        shard = meter.shard()
        # Only what is new asks for room: what is counted already is not lost for want of it.
        known = key in shard.wholes or key in shard.fractions
        if not known and self._shards.series_count() >= pipeline.settings.meter_series_max:
            self._overflow(meter.series(key), scaled)
            return
        meter.count(key, scaled)
        pipeline.ensure_started()

    def _overflow(self, series: Series, scaled: int) -> None:
        say_once(
            "meter overflow",
            logging.WARNING,
            "credits: more than %d series are metered at a time; what is above is sent as a span for each addition",
            self._pipeline.settings.meter_series_max,
        )
        self.overflows += 1
        self.wanted = True
        self._pipeline.record(usage_attributes(series, scaled))

    @property
    def is_written(self) -> bool:
        """Whether there may be something to write to the spool at any time."""
        return self._pipeline.queue.keeps_points and not self._shards.is_empty()

    def write(self) -> None:
        """With a spool, write what was added until now, so that it outlives the process. For the export thread."""
        if not self.is_written or time.monotonic() < self._write_not_before:
            return
        with self.changed:
            began = time.monotonic()
            self._open.add(self._shards.take(new_generation=False))
            self._write_open(self._clock_ns(), self._pipeline.resource())
            ended = time.monotonic()
            self._write_not_before = ended + (ended - began) / _WRITING_SHARE

    def _write_open(self, end_ns: int, resource: Resource) -> None:
        if self._pipeline.queue.keeps_points:
            self._open.write(partial(self._points, end_ns, resource), self._pipeline.queue.write_points, resource)

    def collect(self) -> None:
        """If it is time (or wanted) and nothing waits, make points of what was counted. For the export thread."""
        if self._pending or not (self.wanted or time.monotonic() >= self._not_before):
            return
        with self.changed:
            self._not_before = time.monotonic() + self._pipeline.settings.meter_interval_s
            self._open.add(self._shards.take())
            self._pending = self._close() if self._open else []
            # Whoever waits for a collection waits for what the spool left over, too.
            self.wanted = bool(self._open)
            self._collections += not self.wanted
            self.changed.notify_all()

    def _close(self) -> list[Point]:
        """The points of all that was counted; what the spool could not be told may stay open."""
        end_ns, resource = self._clock_ns(), self._pipeline.resource()
        self._write_open(end_ns, resource)
        points = self._open.close(partial(self._points, end_ns, resource))
        for point in points:
            self._ends_ns[point.series] = point.end_ns
        if len(self._ends_ns) >= self._pipeline.settings.meter_series_max:
            self._begin_table(self._table + 1, end_ns)
        return points

    def _points(self, end_ns: int, resource: Resource, series: Series, scaled: int) -> list[Point]:
        """The points of a series if the interval ends now."""
        start_ns = self._ends_ns.get(series, self._table_ns)
        values = exact_parts(scaled)
        # A clock that was set back does not make two intervals overlap.
        first_end_ns = max(end_ns, start_ns + len(values)) - len(values) + 1
        points: list[Point] = []
        for place, value in enumerate(values):
            points.append(Point(series, value, start_ns, first_end_ns + place, self._table, resource))
            start_ns = first_end_ns + place
        return points

    def _begin_table(self, number: int, start_ns: int) -> None:
        self._table, self._table_ns = number, start_ns
        self._ends_ns: dict[Series, int] = {}

    def waiting(self) -> Sequence[Point]:
        """The points that are not settled, oldest first."""
        return self._pending

    def request(self, points: Sequence[Point]) -> ExportMetricsServiceRequest:
        """Points as they go over the wire."""
        return points_request(points)

    def settle(self, count: int, failed: int) -> None:
        """The receiver has had its last word on the `count` oldest points."""
        settled = [point.row for point in self._pending[:count] if point.row]
        if settled:
            self._pipeline.queue.write_points((), settled)
        with self.changed:
            self._pending = self._pending[count:]
            self.exported += count - failed
            self.failed += failed
            self.changed.notify_all()
        if failed:
            self._pipeline.queue.count_failed(REJECTED, failed)

    def wait_settled(self, deadline: float, wake: Callable[[], None]) -> bool:
        """Wait until all that was counted before the call is settled; False at the deadline (of `time.monotonic`)."""
        with self.changed:
            target = self._collections + 1
            self.wanted = True
            wake()
            return self.changed.wait_for(
                lambda: self._collections >= target and not self._pending, max(0.0, deadline - time.monotonic())
            )

    def is_idle(self) -> bool:
        """Whether nothing is counted that was not sent."""
        return not self._pending and not self._open and self._shards.is_empty()

    def stop_taking(self) -> None:
        """From now on, additions are refused."""
        self.closed = True
        self._shards.begin_generation()

    def take_again(self) -> None:
        """The library was set up again."""
        self.closed = False

    def give_up(self) -> int:
        """The process ends: how many points could not be delivered. Those on disk are not among them: they are sent by
        the next process, or by this one if the library is set up again."""
        with self.changed:
            self._open.add(self._shards.take())
            points = list(self._pending)
            while self._open:
                points += self._close()
            self._pending = [point for point in points if point.row]
            left = len(points) - len(self._pending)
            self.failed += left
        if left:
            self._pipeline.queue.count_failed(SHUTDOWN, left)
        return left

    def reset_after_fork(self) -> None:
        """In a forked child: a new process with new series, and nothing counted."""
        self._shards.reset_after_fork()
        MeterExport.__init__(self, self._pipeline, self._shards, self._clock_ns)
