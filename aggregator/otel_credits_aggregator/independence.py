"""Which requests may be inserted side by side: those that are proven to hold no copies of one usage.

The look for copies sees what earlier inserts have stored, not what one beside it is about to store. So two batches may only be
under way together if no identity that the chain computes (`event_id` in clickhouse/migrations/0004) can be in both. That is told
from each request when it is received, and this is the only place that knows how:

- A span's identity is its trace id and span id, unless it has an idempotency key. Copies have one span id; that is compared, by a
  hash. (Of an id that is sent twice in one span ClickHouse makes none. Such a span is never charged, and what is not charged has
  no copies.)
- An idempotency key can come with any span, so a request whose bytes hold the key's name is inserted alone. The name within a
  prompt counts, too: that only costs time.
- Data points, and whatever came from an earlier process, are inserted alone.
- With `OTEL_CREDITS_CHARGE_GENAI=on` everything is: then a call is recognised by the provider's ids and by what else is in its
  trace, too.
"""

from array import array
from collections.abc import Iterable
from typing import Any, TypeAlias

from otel_credits_aggregator.otlp import Signal
from otel_credits_aggregator.settings import Settings

__all__ = ["ALONE_NAMES", "Identities", "apart", "identities_of", "may_be_side_by_side", "union"]

# Hashes of the identities that a request, or a batch, can bring. None: it may bring any.
Identities: TypeAlias = "array[int] | frozenset[int] | None"

# Attributes that give a span an identity apart from its ids (with OTEL_CREDITS_CHARGE_GENAI=off).
ALONE_NAMES = (b"credits.idempotency_key",)


def may_be_side_by_side(settings: Settings) -> bool:
    """Whether anything at all may be inserted side by side."""
    return settings.insert_lanes > 1 and not settings.charge_genai


def identities_of(signal: Signal, request: Any, payload: bytes) -> Identities:
    """What identities a request can bring.

    Args:
        signal: what it carries.
        request: the request, parsed.
        payload: its bytes.
    """
    if signal is not Signal.TRACES or any(name in payload for name in ALONE_NAMES):
        return None
    # Two hashes, or span ids, that happen to be equal only keep two requests apart that need not be.
    return array(
        "q",
        [
            hash(span.span_id)
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ],
    )


def union(requests: Iterable[Identities]) -> frozenset[int] | None:
    """What identities the requests of a batch can bring."""
    found: set[int] = set()
    for identities in requests:
        if identities is None:
            return None
        found.update(identities)
    return frozenset(found)


def apart(one: frozenset[int] | None, other: frozenset[int] | None) -> bool:
    """Whether two batches are proven to have no identity in common."""
    return one is not None and other is not None and one.isdisjoint(other)
