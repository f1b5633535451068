"""The counters `credits.client.*` on their way to the aggregator, which compares them with what it received.

They go to the usage's own endpoint as OTLP metrics, whether or not the app has a meter provider: a process whose usage
is lost must be missed by somebody. (_counters.py shows the same numbers to the app's own meter provider.)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from opentelemetry.sdk.resources import Resource

from otel_credits._attributes import (
    COUNTER_EXPORTED,
    COUNTER_FAILED,
    COUNTER_RECORDED,
    COUNTER_WAITING,
    FAILED_REASON,
    METER_REPORTS,
)
from otel_credits._queue import Stats
from otel_credits._version import __version__

if TYPE_CHECKING:
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
    from opentelemetry.proto.common.v1.common_pb2 import KeyValue
    from opentelemetry.proto.metrics.v1.metrics_pb2 import ScopeMetrics

# How long a receiver that does not take metrics is left alone.
_REFUSED_PAUSE_S = 300.0


def counters_request(
    stats: Stats, resource: Resource, *, started_ns: int, now_ns: int | None = None
) -> ExportMetricsServiceRequest:
    """The counts as cumulative monotonic sums since `started_ns`; what waits, as a gauge."""
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

    request = ExportMetricsServiceRequest()
    of_resource = request.resource_metrics.add(schema_url=resource.schema_url or "")
    of_resource.resource.attributes.extend(attribute(key, str(value)) for key, value in resource.attributes.items())
    of_scope = of_resource.scope_metrics.add()
    of_scope.scope.name, of_scope.scope.version = METER_REPORTS, __version__
    times = (started_ns, now_ns or time.time_ns())
    _add_sum(of_scope, COUNTER_RECORDED, [(stats.recorded, None)], times)
    _add_sum(of_scope, COUNTER_EXPORTED, [(stats.exported, None)], times)
    _add_sum(of_scope, COUNTER_FAILED, [(n, reason) for reason, n in stats.failed_by_reason.items()], times)
    gauge = of_scope.metrics.add(name=COUNTER_WAITING, unit="{usage}").gauge
    gauge.data_points.add(start_time_unix_nano=times[0], time_unix_nano=times[1], as_int=stats.waiting)
    return request


def _add_sum(scope: ScopeMetrics, name: str, counts: list[tuple[int, str | None]], times: tuple[int, int]) -> None:
    from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality

    if not counts:
        return
    metric = scope.metrics.add(name=name, unit="{usage}").sum
    metric.is_monotonic = True
    # A report that is lost is made good by the next one.
    metric.aggregation_temporality = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
    for count, reason in counts:
        point = metric.data_points.add(start_time_unix_nano=times[0], time_unix_nano=times[1], as_int=count)
        if reason is not None:
            point.attributes.append(attribute(FAILED_REASON, reason))


def attribute(key: str, value: str) -> KeyValue:
    """A text attribute as it goes over the wire."""
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

    return KeyValue(key=key, value=AnyValue(string_value=value))


class Reports:
    """Decides when the counters are sent: every few seconds, if they changed."""

    def __init__(self, stats: Callable[[], Stats], interval_s: float) -> None:
        self._stats = stats
        self._interval_s = interval_s
        self._sent: Stats | None = None
        self._not_before = 0.0

    def due(self, *, now: bool = False) -> Stats | None:
        """The counts to send, if it is time (or `now`, at the end) and they are not those that were sent last."""
        if self._interval_s <= 0 or not (now or time.monotonic() >= self._not_before):
            return None
        stats = self._stats()
        return stats if stats.recorded and stats != self._sent else None

    def sent(self, stats: Stats) -> None:
        """The receiver has them."""
        self._sent = stats
        self._not_before = time.monotonic() + self._interval_s

    def failed(self, *, for_good: bool) -> None:
        """It has not. What they say is said by the next ones too, so these are not sent again."""
        self._not_before = time.monotonic() + (_REFUSED_PAUSE_S if for_good else self._interval_s)
