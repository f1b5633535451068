"""The counters `credits.client.*`, as OpenTelemetry metrics of the app. They are for dashboards and never charged.
(_reports.py sends the same counts to the aggregator, which does not depend on the app having a meter provider.)

They are observed when the app's meter provider collects; recording a usage touches no instrument.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Meter, Observation

from otel_credits._attributes import (
    COUNTER_EXPORTED,
    COUNTER_FAILED,
    COUNTER_RECORDED,
    COUNTER_WAITING,
    FAILED_REASON,
    METER_OF_THE_APP,
)
from otel_credits._queue import Stats
from otel_credits._version import __version__


def register_counters(stats: Callable[[], Stats]) -> None:
    """Register the counters with the global meter provider, also one that is set later."""
    create_counters(metrics.get_meter(METER_OF_THE_APP, __version__), stats)


def create_counters(meter: Meter, stats: Callable[[], Stats]) -> None:
    """Create the counters, which tell what `stats()` tells when they are collected."""

    def recorded(_: CallbackOptions) -> Iterable[Observation]:
        yield Observation(stats().recorded)

    def exported(_: CallbackOptions) -> Iterable[Observation]:
        yield Observation(stats().exported)

    def failed(_: CallbackOptions) -> Iterable[Observation]:
        for reason, count in stats().failed_by_reason.items():
            yield Observation(count, {FAILED_REASON: reason})

    def waiting(_: CallbackOptions) -> Iterable[Observation]:
        yield Observation(stats().waiting)

    meter.create_observable_counter(COUNTER_RECORDED, [recorded], "{usage}", "Usages recorded by the app.")
    meter.create_observable_counter(COUNTER_EXPORTED, [exported], "{usage}", "Usages acknowledged by the receiver.")
    meter.create_observable_counter(COUNTER_FAILED, [failed], "{usage}", "Usages given up, by reason.")
    meter.create_observable_gauge(COUNTER_WAITING, [waiting], "{usage}", "Usages that wait to be acknowledged.")
