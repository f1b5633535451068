"""The aggregator's own metrics, all names in one place, as Prometheus reads them at ``/metrics``.

What became of each span and data point is counted by the store, in the insert that charged it (table ``ingest_outcomes``);
what was received is counted by the spool, in the transaction that made it durable. Two counts that were made apart, so that
their equality says something: received = charged + duplicate + not usage + quarantined whenever the spool is empty (and
+ damaged, should a disk have damaged the spool).
"""

import threading
from collections.abc import Iterator
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry

from otel_credits_aggregator.inserter import Inserter
from otel_credits_aggregator.intake import Intake
from otel_credits_aggregator.otlp import Signal
from otel_credits_aggregator.settings import Settings
from otel_credits_aggregator.spool import Spool
from otel_credits_aggregator.store import ClickHouseError, Client, connect, rows

__all__ = ["AggregatorMetrics"]

_ITEMS = {Signal.TRACES: ("spans", "span"), Signal.METRICS: ("data_points", "point")}
_OUTCOMES = {
    "charged": "became a credit event",
    "duplicate": "had been charged before",
    "not_usage": "is no usage",
}

# How long a scrape waits for the store, in seconds. Prometheus itself gives up after 10 by default.
_ANSWER_TIMEOUT_S = 5.0

_Outcomes = dict[tuple[str, str, str], int]


class _Clients(NamedTuple):
    """What all processes that report their counters miss, and what waits in them."""

    missing: int
    waiting: int


class AggregatorMetrics(Collector):
    """Collects at each scrape; nothing is counted twice in memory and in the store."""

    def __init__(self, settings: Settings, spool: Spool, intake: Intake, inserter: Inserter) -> None:
        self._settings = settings
        self._spool = spool
        self._intake = intake
        self._inserter = inserter
        self._client: Client | None = None
        self._lock = threading.Lock()
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def text(self) -> bytes:
        """The metrics in the Prometheus text format."""
        return generate_latest(self._registry)

    def describe(self) -> Iterator[Metric]:
        """Nothing ahead of the first scrape: the store may be away."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        # The outcomes first: an item is counted as received before it can have an outcome.
        of_the_store = self._of_the_store()
        outcomes = of_the_store[0] if of_the_store else None
        received, damages = self._spool.received(), self._spool.damages()
        for signal, (plural, singular) in _ITEMS.items():
            yield from _accounting(plural, received.get(signal, 0), outcomes, singular)
        for plural, items in (("spans", damages.spans), ("data_points", damages.points)):
            what = plural.replace("_", " ")
            yield _counter(f"otel_credits_{plural}_damaged", f"Number of {what} lost with a damaged spool.", items)
        yield _counter("otel_credits_spool_damaged_files", "Damaged spools that were set aside.", damages.files)
        yield _counter(
            "otel_credits_spool_requests_damaged", "Requests in them that could not be read, at most.", damages.requests
        )
        logs = received.get(Signal.LOGS, 0)
        yield _counter("otel_credits_log_records_received", "Log records received.", logs)
        yield _counter("otel_credits_log_records_not_usage", "Log records, which are never usage.", logs)
        if of_the_store:
            clients = of_the_store[1]
            yield _gauge(
                "otel_credits_client_missing", "Usages that apps recorded and that did not arrive.", clients.missing
            )
            yield _gauge("otel_credits_client_waiting", "Usages that wait in apps, as last reported.", clients.waiting)
        yield from self._own()

    def _own(self) -> Iterator[Metric]:
        progress = self._inserter.progress
        refused = CounterMetricFamily(
            "otel_credits_requests_refused", "Requests that were not taken, by reason.", labels=["reason"]
        )
        for reason, number in sorted(self._intake.refused.items()):
            refused.add_metric([reason], number)
        yield refused
        yield _gauge("otel_credits_spool_bytes", "Bytes that wait for the store.", self._spool.bytes_waiting)
        yield _gauge("otel_credits_spool_bytes_max", "Limit of the spool in bytes.", self._settings.spool_bytes_max)
        yield _gauge("otel_credits_store_up", "Whether the store took what it was last given.", int(progress.store_up))
        yield _counter("otel_credits_batches_inserted", "Batches the store has.", progress.batches)
        yield _counter(
            "otel_credits_insert_failures", "Attempts the store refused or did not answer.", progress.failures
        )
        yield _counter(
            "otel_credits_insert_seconds",
            "Time spent on batches, attempts and pauses included, in seconds.",
            progress.insert_seconds,
        )
        yield _counter(
            "otel_credits_batches_repeated_late",
            "Batches that the store may have forgotten before they were repeated: totals may be wrong.",
            progress.repeated_late,
        )
        yield _counter(
            "otel_credits_requests_isolated", "Requests kept raw in the quarantine.", progress.requests_isolated
        )

    def _of_the_store(self) -> tuple[_Outcomes, _Clients] | None:
        """(signal, outcome, reason) to items, and what the apps' processes miss; None while the store is away."""
        if not self._inserter.progress.migrated:
            return None
        # A store that does not answer must not collect scrapes, one thread each.
        if not self._lock.acquire(timeout=_ANSWER_TIMEOUT_S):
            return None
        try:
            self._client = self._client or connect(self._settings.dsn, _ANSWER_TIMEOUT_S)
            return self._outcomes(self._client), _clients(self._client)
        except ClickHouseError:
            self._client = None
            return None
        finally:
            self._lock.release()

    def _outcomes(self, client: Client) -> _Outcomes:
        found = rows(
            client,
            "SELECT signal, outcome, reason, sum(items) AS total FROM ingest_outcomes "
            "WHERE receiver = {receiver:String} GROUP BY signal, outcome, reason",
            {"receiver": self._spool.receiver},
        )
        return {(row["signal"], row["outcome"], row["reason"]): row["total"] for row in found}


def _clients(client: Client) -> _Clients:
    (row,) = rows(client, "SELECT sum(missing) AS missing, sum(waiting) AS waiting FROM client_completeness")
    return _Clients(int(row["missing"]), int(row["waiting"]))


def _accounting(plural: str, received: int, outcomes: _Outcomes | None, singular: str) -> Iterator[Metric]:
    prefix = f"otel_credits_{plural}"
    what = plural.replace("_", " ")
    yield _counter(f"{prefix}_received", f"Number of {what} acknowledged.", received)
    if outcomes is None:
        return
    for outcome, meaning in _OUTCOMES.items():
        yield _counter(
            f"{prefix}_{outcome}",
            f"Number of {what} each of which {meaning}.",
            outcomes.get((singular, outcome, ""), 0),
        )
    quarantined = CounterMetricFamily(
        f"{prefix}_quarantined", f"Number of {what} in the quarantine, by reason.", labels=["reason"]
    )
    for (signal, outcome, reason), number in sorted(outcomes.items()):
        if (signal, outcome) == (singular, "quarantined"):
            quarantined.add_metric([reason], number)
    yield quarantined


def _counter(name: str, help_text: str, value: float) -> Metric:
    return CounterMetricFamily(name, help_text, value=value)


def _gauge(name: str, help_text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, help_text, value=value)
