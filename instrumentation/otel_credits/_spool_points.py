"""Data points of the meters in a file of the spool: written as they will be sent, and sent as they were written.

A point's identity is its series and its interval, so the bytes say both, and the process that counted it. Whoever sends
them sends the same point, and it is charged once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

SCHEMA = """
CREATE TABLE IF NOT EXISTS meter_origin (id INTEGER PRIMARY KEY, resource_metrics BLOB NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS meter_point (id INTEGER PRIMARY KEY, origin INTEGER NOT NULL, point BLOB NOT NULL);
"""


class StoredPoint(NamedTuple):
    """A data point as the file has it."""

    row: int
    # A ResourceMetrics with one ScopeMetrics, one Sum in it, and no point.
    origin: bytes
    # A NumberDataPoint.
    point: bytes


def write_points(connection: sqlite3.Connection, points: Sequence[StoredPoint], gone: Sequence[int]) -> None:
    """Write points, in place of those of the same row, and delete the rows `gone`: all of it, or nothing.

    Raises:
        sqlite3.Error: nothing is changed.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        for origin in {point.origin for point in points}:
            connection.execute("INSERT OR IGNORE INTO meter_origin (resource_metrics) VALUES (?)", (origin,))
        connection.executemany(
            "INSERT OR REPLACE INTO meter_point (id, origin, point)"
            " SELECT ?, id, ? FROM meter_origin WHERE resource_metrics = ?",
            [(point.row, point.point, point.origin) for point in points],
        )
        connection.executemany("DELETE FROM meter_point WHERE id = ?", [(row,) for row in gone])
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def read_points(connection: sqlite3.Connection, points_max: int) -> list[StoredPoint]:
    """The first points by row. Raises sqlite3.Error."""
    rows = connection.execute(
        "SELECT meter_point.id, resource_metrics, point FROM meter_point JOIN meter_origin"
        " ON meter_origin.id = meter_point.origin ORDER BY meter_point.id LIMIT ?",
        (points_max,),
    )
    return [StoredPoint._make(row) for row in rows]


def forget_points(connection: sqlite3.Connection, count: int) -> None:
    """Delete the `count` first points. Raises sqlite3.Error."""
    connection.execute("DELETE FROM meter_point WHERE id IN (SELECT id FROM meter_point ORDER BY id LIMIT ?)", (count,))


def request_of_points(stored: Sequence[StoredPoint]) -> ExportMetricsServiceRequest:
    """The request that delivers these points."""
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

    request = ExportMetricsServiceRequest()
    places: dict[bytes, Any] = {}
    for one in stored:
        points = places.get(one.origin)
        if points is None:
            of_resource = request.resource_metrics.add()
            of_resource.ParseFromString(one.origin)
            points = places[one.origin] = of_resource.scope_metrics[0].metrics[0].sum.data_points
        points.add().ParseFromString(one.point)
    return request
