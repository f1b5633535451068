"""What is too much to be looked at in one go is looked at range by range, in the order of its table."""

from collections.abc import Callable, Iterator

from otel_credits_aggregator.ledger._store import Store
from otel_credits_aggregator.ledger.models import Until

__all__ = ["ranges", "stored_ranges"]

# Rows of one table that are looked at in one go; a key (user, series) that has more is one range.
_RANGE_ROWS_MAX = 300_000


def ranges(until_of: Callable[..., str]) -> Iterator[tuple[str, str]]:
    """Ranges of keys (behind the first, up to the second; empty: no bound) that cover them all, each small enough."""
    after, until = "", None
    while until != "":
        until = until_of(after=after, rows=_RANGE_ROWS_MAX)
        yield after, until
        after = until


def stored_ranges(store: Store, query: str) -> Iterator[tuple[str, str]]:
    """The same, with the named query that says where a range ends."""
    return ranges(lambda **where: store.read_all(Until, query, **where)[0].until)
