"""The interval that meters count in now: what was added since the last points were made, and what of it is on disk.

With a spool, what was added is written every fraction of a second as the points that it would be if the interval ended
there. If the process is killed, the next one sends these. If it lives, the interval goes on and they are written anew,
in place of the old ones; they are sent by this process only once the interval is over. So the disk and the ledger take
the room of the series, and not of the time.

What was once written may be sent by others. If the disk takes no more, a series whose points cannot be brought up to
date is therefore sent as it is on disk, and the rest of it belongs to the next interval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import NamedTuple

from opentelemetry.sdk.resources import Resource

from otel_credits._meter_points import Point, add_sum, fill_point, fill_resource
from otel_credits._meter_shards import Series
from otel_credits._spool_points import StoredPoint

# Points of one series; its quantity is in units of 10^-12.
MakePoints = Callable[[Series, int], list[Point]]
Write = Callable[[Sequence[StoredPoint], Sequence[int]], bool]

# An app's thread that writes a usage waits for one of these writes at most.
_SERIES_IN_A_WRITE = 500
_ORIGINS_CACHED_MAX = 100


class Draft(NamedTuple):
    """A series as it is on disk."""

    scaled: int
    points: Sequence[Point]


class OpenInterval:
    """What was added since the last points were made. For one thread at a time."""

    def __init__(self) -> None:
        # In units of 10^-12.
        self._added: dict[Series, int] = {}
        self._drafts: dict[Series, Draft] = {}
        self._rows = count(1)
        self._origins: dict[tuple[int, str, int], tuple[Resource, bytes]] = {}

    def __bool__(self) -> bool:
        """Whether anything was added."""
        return bool(self._added)

    def add(self, taken: dict[Series, int]) -> None:
        """More was added."""
        for series, scaled in taken.items():
            self._added[series] = self._added.get(series, 0) + scaled

    def write(self, make: MakePoints, write: Write, resource: Resource) -> None:
        """Bring the disk up to what was added, as far as it takes it. Each series is on disk wholly, as it was or as it
        is."""
        changed = [series for series in self._added if not self._is_written(series, resource)]
        for start in range(0, len(changed), _SERIES_IN_A_WRITE):
            if not self._write(changed[start : start + _SERIES_IN_A_WRITE], make, write):
                return

    def _is_written(self, series: Series, resource: Resource) -> bool:
        draft = self._drafts.get(series)
        return draft is not None and draft.scaled == self._added[series] and draft.points[0].resource is resource

    def _write(self, changed: Sequence[Series], make: MakePoints, write: Write) -> bool:
        drafts: dict[Series, Draft] = {}
        gone: list[int] = []
        for series in changed:
            old = self._drafts.get(series)
            rows = [point.row for point in old.points] if old else []
            points = make(series, self._added[series])
            gone += rows[len(points) :]
            rows += [next(self._rows) for _ in range(len(points) - len(rows))]
            placed = [point._replace(row=row) for point, row in zip(points, rows, strict=False)]
            drafts[series] = Draft(self._added[series], placed)
        stored = [self._stored(point) for draft in drafts.values() for point in draft.points]
        written = write(stored, gone)
        if written:
            self._drafts.update(drafts)
        return written

    def _stored(self, point: Point) -> StoredPoint:
        from opentelemetry.proto.metrics.v1.metrics_pb2 import NumberDataPoint

        data = NumberDataPoint()
        fill_point(data, point)
        return StoredPoint(point.row, self._origin(point), data.SerializeToString())

    def _origin(self, point: Point) -> bytes:
        """The bytes of all but the point. The cache keeps the resource alive, so that no identity is used again."""
        from opentelemetry.proto.metrics.v1.metrics_pb2 import ResourceMetrics

        key = (id(point.resource), point.series.meter, point.table)
        cached = self._origins.get(key)
        if cached is None:
            if len(self._origins) >= _ORIGINS_CACHED_MAX:
                self._origins.clear()
            of_resource = ResourceMetrics()
            fill_resource(of_resource, point.resource)
            add_sum(of_resource, point)
            cached = self._origins[key] = (point.resource, of_resource.SerializeToString())
        return cached[1]

    def close(self, make: MakePoints) -> list[Point]:
        """The points of the interval, which is over. What is on disk is what is there; what is more stays open."""
        points: list[Point] = []
        rest: dict[Series, int] = {}
        for series, scaled in self._added.items():
            draft = self._drafts.get(series)
            if draft is None:
                points += make(series, scaled)
                continue
            points += draft.points
            if scaled != draft.scaled:
                rest[series] = scaled - draft.scaled
        self._added, self._drafts = rest, {}
        return points
