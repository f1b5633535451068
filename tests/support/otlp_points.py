"""Data points of `credits.usage` as a receiver sees them: which is the same, and what it says."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from decimal import Decimal
from typing import Any, NamedTuple

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

__all__ = ["Identity", "identities"]


class Identity(NamedTuple):
    """What makes a data point the same point: its series and its interval."""

    instance: str
    resource: tuple[tuple[str, str], ...]
    scope: tuple[str, str]
    attributes: tuple[tuple[str, str], ...]
    start_ns: int
    end_ns: int


def identities(requests: Iterable[ExportMetricsServiceRequest]) -> dict[Identity, list[Decimal]]:
    """The quantities that came under each identity, in the order they came."""
    found: dict[Identity, list[Decimal]] = defaultdict(list)
    for request in list(requests):
        for of_resource in request.resource_metrics:
            resource = _texts(of_resource.resource.attributes)
            for of_scope in of_resource.scope_metrics:
                scope = (of_scope.scope.name, of_scope.scope.version)
                for metric in (m for m in of_scope.metrics if m.name == "credits.usage"):
                    for point in metric.sum.data_points:
                        number = getattr(point, point.WhichOneof("value") or "")
                        times = (point.start_time_unix_nano, point.time_unix_nano)
                        instance = dict(resource)["service.instance.id"]
                        identity = Identity(instance, resource, scope, _texts(point.attributes), *times)
                        found[identity].append(Decimal(repr(number)))
    return dict(found)


def _texts(attributes: Any) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((a.key, a.value.string_value) for a in attributes))
