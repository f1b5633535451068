"""Data points of `credits.usage`: what a meter counted in an interval, as exact numbers that OTLP can carry."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

from opentelemetry.sdk.resources import Resource

from otel_credits._amounts import CREDITS_PLACES, WIDE, AttributeValue
from otel_credits._attributes import ACTION_TYPE, METRIC_UNIT, METRIC_USAGE, SCOPE_METER, UNITS_PREFIX, USER_ID
from otel_credits._meter_shards import QUANTITY_MAX, SCALE, Series
from otel_credits._reports import attribute
from otel_credits._version import __version__

if TYPE_CHECKING:
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
    from opentelemetry.proto.metrics.v1.metrics_pb2 import NumberDataPoint, ResourceMetrics, Sum


class Point(NamedTuple):
    """One data point, as it is sent, however often."""

    series: Series
    value: int | float
    start_ns: int
    end_ns: int
    # The table that the series belongs to.
    table: int
    # The process that counted it.
    resource: Resource
    # Where it is in the file of the spool; 0: nowhere.
    row: int = 0


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


def points_request(points: Sequence[Point]) -> ExportMetricsServiceRequest:
    """A metrics request with these points, delta and monotonic."""
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

    request = ExportMetricsServiceRequest()
    resources: dict[int, ResourceMetrics] = {}
    sums: dict[tuple[int, str, int], Sum] = {}
    for point in points:
        of_resource = resources.get(id(point.resource))
        if of_resource is None:
            of_resource = resources[id(point.resource)] = request.resource_metrics.add()
            fill_resource(of_resource, point.resource)
        group = (id(point.resource), point.series.meter, point.table)
        if group not in sums:
            sums[group] = add_sum(of_resource, point)
        fill_point(sums[group].data_points.add(), point)
    return request


def fill_resource(of_resource: ResourceMetrics, resource: Resource) -> None:
    """Say which process counted."""
    of_resource.schema_url = resource.schema_url or ""
    of_resource.resource.attributes.extend(attribute(key, str(value)) for key, value in resource.attributes.items())


def add_sum(of_resource: ResourceMetrics, point: Point) -> Sum:
    """The metric that points like this one belong to."""
    from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality

    scope = of_resource.scope_metrics.add()
    scope.scope.name = f"{SCOPE_METER}.{point.series.meter}"
    scope.scope.version = f"{__version__}+{point.table}" if point.table else __version__
    metric = scope.metrics.add(name=METRIC_USAGE, unit="1").sum
    metric.is_monotonic = True
    metric.aggregation_temporality = AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA
    return metric


def fill_point(data: NumberDataPoint, point: Point) -> None:
    """Say what was counted, when, of what and for whom."""
    data.start_time_unix_nano, data.time_unix_nano = point.start_ns, point.end_ns
    if isinstance(point.value, int):
        data.as_int = point.value
    else:
        data.as_double = point.value
    series = point.series
    texts = ((ACTION_TYPE, series.action_type), (USER_ID, series.user), (METRIC_UNIT, series.unit))
    data.attributes.extend(attribute(name, text) for name, text in texts if text is not None)
