"""What the meters counted on its way to the aggregator: data points of `credits.usage`, delta, one interval after another.

A point's identity is its series and its interval. So a point is made once, and sent again with the same numbers until
it is acknowledged. While points wait, no others are made: what is added meanwhile stays in the meters, where it takes
the room of its series and not of its additions. A receiver that is away for an hour makes one long interval.

The intervals of a series follow one another without a gap, from the time when the table of series began. A table that
has grown too large is begun anew, under another version of the scope: those are other series.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

from opentelemetry.sdk.resources import Resource

from otel_credits._amounts import CREDITS_PLACES, WIDE, AttributeValue
from otel_credits._attributes import ACTION_TYPE, METRIC_UNIT, METRIC_USAGE, SCOPE_METER, UNITS_PREFIX, USER_ID
from otel_credits._guard import say_once
from otel_credits._meter_shards import QUANTITY_MAX, SCALE, Key, Series, Shards
from otel_credits._queue import REJECTED, SHUTDOWN
from otel_credits._reports import attribute
from otel_credits._version import __version__

if TYPE_CHECKING:
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

    from otel_credits._meter import CreditsMeter
    from otel_credits._pipeline import Pipeline

logger = logging.getLogger("otel_credits")


class Point(NamedTuple):
    """One data point, as it is sent, however often."""

    series: Series
    value: int | float
    start_ns: int
    end_ns: int
    # The table that the series belongs to.
    table: int


def exact_parts(scaled: int) -> list[int | float]:
    """Numbers that OTLP can carry and whose sum is exactly `scaled` * 10^-12.

    A data point holds a 64-bit integer or a double, and a double counts as its shortest decimal form. What has no
    such form is the sum of a whole number and a fraction: 12 digits always have one.
    """
    parts: list[int | float] = []
    whole, fraction = divmod(scaled, SCALE)
    while whole > QUANTITY_MAX:
        parts.append(QUANTITY_MAX)
        whole -= QUANTITY_MAX
    if not fraction:
        return [*parts, whole] if whole else parts
    exact = credits_of_scaled(whole * SCALE + fraction)
    if Decimal(repr(float(exact))) == exact:
        return [*parts, float(exact)]
    return [*parts, whole, float(credits_of_scaled(fraction))]


def credits_of_scaled(scaled: int) -> Decimal:
    """`scaled` * 10^-12, exact whatever precision the app's decimal context has."""
    return WIDE.scaleb(Decimal(scaled), -CREDITS_PLACES)


class MeterExport:
    """Makes points of what the meters counted, and keeps them until they are settled."""

    def __init__(self, pipeline: Pipeline, shards: Shards, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._pipeline = pipeline
        self._shards = shards
        self._clock_ns = clock_ns
        self.changed = threading.Condition()
        self._pending: list[Point] = []
        self._resource: Resource | None = None
        self._not_before = 0.0
        self._collections = 0
        self.closed = False
        # Set by whoever waits for a collection before its time.
        self.wanted = False
        self.exported = 0
        self.failed = 0
        # How many additions became spans. Threads may lose one of this number; of what it counts, none is lost.
        self.overflows = 0
        self._begin_table(0, clock_ns())
        self._last_ns = self._table_ns

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

    def collect(self) -> None:
        """If it is time (or wanted) and nothing waits, make points of what was counted. For the export thread."""
        if self._pending or not (self.wanted or time.monotonic() >= self._not_before):
            return
        with self.changed:
            self.wanted = False
            self._not_before = time.monotonic() + self._pipeline.settings.meter_interval_s
            points = self._points(self._shards.take())
            self._collections += 1
            self._resource = self._pipeline.resource() if points else None
            self._pending = points
            self.changed.notify_all()

    def _points(self, taken: dict[Series, int]) -> list[Point]:
        parts = {series: exact_parts(scaled) for series, scaled in taken.items()}
        longest = max(map(len, parts.values()), default=0)
        # A clock that was set back does not make two intervals overlap.
        end_ns = self._last_ns = max(self._clock_ns(), self._last_ns + longest)
        points: list[Point] = []
        for series, values in parts.items():
            start_ns = self._ends_ns.get(series, self._table_ns)
            for left, value in zip(range(len(values) - 1, -1, -1), values, strict=True):
                points.append(Point(series, value, start_ns, end_ns - left, self._table))
                start_ns = end_ns - left
            self._ends_ns[series] = end_ns
        if len(self._ends_ns) >= self._pipeline.settings.meter_series_max:
            self._begin_table(self._table + 1, end_ns)
        return points

    def _begin_table(self, number: int, start_ns: int) -> None:
        self._table, self._table_ns = number, start_ns
        self._ends_ns: dict[Series, int] = {}

    def waiting(self) -> Sequence[Point]:
        """The points that are not settled, oldest first."""
        return self._pending

    def request(self, points: Sequence[Point]) -> ExportMetricsServiceRequest:
        """Points as they go over the wire."""
        return points_request(points, self._resource or Resource.get_empty())

    def settle(self, count: int, failed: int) -> None:
        """The receiver has had its last word on the `count` oldest points."""
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
        return not self._pending and self._shards.is_empty()

    def stop_taking(self) -> None:
        """From now on, additions are refused."""
        self.closed = True
        self._shards.begin_generation()

    def take_again(self) -> None:
        """The library was set up again."""
        self.closed = False

    def give_up(self) -> int:
        """The process ends: how many points could not be delivered."""
        with self.changed:
            left = len(self._pending) + len(self._shards.take())
            self._pending = []
            self.failed += left
        if left:
            self._pipeline.queue.count_failed(SHUTDOWN, left)
        return left

    def reset_after_fork(self) -> None:
        """In a forked child: a new process with new series, and nothing counted."""
        self._shards.reset_after_fork()
        MeterExport.__init__(self, self._pipeline, self._shards, self._clock_ns)


def usage_attributes(series: Series, scaled: int) -> dict[str, AttributeValue]:
    """One addition as the attributes of a usage span."""
    quantity = format(credits_of_scaled(scaled).normalize(WIDE), "f")
    attributes: dict[str, AttributeValue] = {
        ACTION_TYPE: series.action_type,
        f"{UNITS_PREFIX}{series.unit or 'call'}": quantity,
    }
    if series.user is not None:
        attributes[USER_ID] = series.user
    return attributes


def points_request(points: Sequence[Point], resource: Resource) -> ExportMetricsServiceRequest:
    """A metrics request with these points, delta and monotonic."""
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
    from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality, Sum

    request = ExportMetricsServiceRequest()
    of_resource = request.resource_metrics.add(schema_url=resource.schema_url or "")
    of_resource.resource.attributes.extend(attribute(key, str(value)) for key, value in resource.attributes.items())
    sums: dict[tuple[str, int], Sum] = {}
    for point in points:
        group = (point.series.meter, point.table)
        if group not in sums:
            scope = of_resource.scope_metrics.add()
            scope.scope.name = f"{SCOPE_METER}.{point.series.meter}"
            scope.scope.version = f"{__version__}+{point.table}" if point.table else __version__
            sums[group] = scope.metrics.add(name=METRIC_USAGE, unit="1").sum
            sums[group].is_monotonic = True
            sums[group].aggregation_temporality = AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA
        data = sums[group].data_points.add(start_time_unix_nano=point.start_ns, time_unix_nano=point.end_ns)
        if isinstance(point.value, int):
            data.as_int = point.value
        else:
            data.as_double = point.value
        texts = (
            (ACTION_TYPE, point.series.action_type),
            (USER_ID, point.series.user),
            (METRIC_UNIT, point.series.unit),
        )
        data.attributes.extend(attribute(name, text) for name, text in texts if text is not None)
    return request
