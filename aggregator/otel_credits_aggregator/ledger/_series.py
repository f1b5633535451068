"""Gaps and overlaps between the intervals of series of data points."""

from otel_credits_aggregator.ledger._ranges import stored_ranges
from otel_credits_aggregator.ledger._store import Store
from otel_credits_aggregator.ledger.models import SeriesFault

__all__ = ["series_faults"]


def series_faults(store: Store, limit: int) -> list[SeriesFault]:
    """The earliest faults of all series; goes through them range by range, so that memory does not grow with their number."""
    found: list[SeriesFault] = []
    for after, until in stored_ranges(store, "series_range"):
        found += store.read_all(SeriesFault, "series_gaps", after=after, until=until, limit=limit)
        found = sorted(found, key=lambda fault: (fault.from_ns, fault.series, fault.until_ns))[:limit]
    return found
