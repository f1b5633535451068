"""How a batch gets into the store."""

from __future__ import annotations

import tracemalloc
import uuid
from collections.abc import Iterator

from otel_credits_aggregator.batch_insert import insert_requests
from otel_credits_aggregator.envelope import settings_fields
from otel_credits_aggregator.otlp import Signal
from otel_credits_aggregator.settings import Settings
from otel_credits_aggregator.spool import Request
from otel_credits_aggregator.store import Client, rows
from support.otlp_build import USER, traces, usage_span

REQUESTS, REQUEST_BYTES = 8, 1 << 20


def requests() -> Iterator[Request]:
    """Usages of one credit each, made one after the other; nobody keeps them."""
    for number in range(1, REQUESTS + 1):
        attributes = {USER: f"user-{number}", "note": "x" * REQUEST_BYTES}
        usage = usage_span(attributes, trace_id=bytes([number]) * 16, span_id=bytes([number]) * 8)
        yield Request(traces(usage).SerializeToString(), 1_800_000_000_000_000, b"")


def test_an_insert_into_the_embedded_store_never_holds_its_whole_body(memory_store: Client) -> None:
    """Its requests are given to the store one by one, and all of them are charged."""
    fields = settings_fields(Settings(), receiver="test")
    tracemalloc.start()
    try:
        insert_requests(memory_store, Signal.TRACES, str(uuid.uuid4()), fields, requests(), in_parts=True)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert rows(memory_store, "SELECT count() AS events, uniqExact(user_id) AS users FROM credit_usage_events") == [
        {"events": REQUESTS, "users": REQUESTS}
    ]
    # A request, its message and its text at the same time; in_parts=False takes more than 8 of them.
    assert peak_bytes < 6 * REQUEST_BYTES
