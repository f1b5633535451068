"""Reconciling (series too) and rebuilding take bounded memory: with more events it takes longer, not more."""

from __future__ import annotations

import os
from decimal import Decimal

import pytest
from otel_credits_aggregator.ledger import LocalLedger, RemoteLedger
from otel_credits_aggregator.ledger import _store as store_module
from otel_credits_aggregator.ledger import _totals as totals_module
from otel_credits_aggregator.store import Client
from support.api import running_api

# More with `OTEL_CREDITS_TEST_EVENTS=10000000 pytest -m long tests/aggregator/test_totals_memory.py`.
EVENTS = int(os.environ.get("OTEL_CREDITS_TEST_EVENTS", "1000000"))
BLOCK = 500_000
MEMORY_BYTES = 300_000_000

pytestmark = pytest.mark.long


def fill(store: Client) -> None:
    """Events of a hundredth as many users; a third of them are of a month, action and model of their own."""
    for first in range(0, EVENTS, BLOCK):
        store.command(
            "INSERT INTO credit_usage_events (event_id, user_id, action_type, model, input_tokens, output_tokens,"
            " credits_charged, created_at, received_at) SELECT generateUUIDv4(),"
            f" concat('user-', toString(cityHash64(number) % {EVENTS // 100})), concat('action-', toString(number % 5)),"
            " concat('model-', toString(number % 7)), number % 1000, number % 300, toDecimal128(number % 1000, 12) / 1000,"
            f" toDateTime64('2026-01-01', 6, 'UTC') + number % 20000000, now64(6) FROM numbers({first}, {BLOCK})"
        )


def test_memory_does_not_grow_with_the_events(
    memory_dsn: str, memory_store: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within 300 MB all totals are made anew, found right, and a wrong one is found, to the last decimal."""
    limit = {"max_memory_usage": MEMORY_BYTES}
    monkeypatch.setattr(totals_module, "LONG_READS", {**totals_module.LONG_READS, **limit})
    monkeypatch.setattr(store_module, "_LONG_READS", {**store_module._LONG_READS, **limit})
    fill(memory_store)
    with running_api(memory_dsn) as url, RemoteLedger(url) as ledger:
        rebuilt = ledger.rebuild_totals()
        assert rebuilt.changed == rebuilt.user_months + rebuilt.usage_months > EVENTS / 4
        assert ledger.reconcile() == []
        memory_store.insert("user_month_totals", [["user-1", Decimal("0.000000000001")]], ["user_id", "consumed"])
        assert [(row.user_id, row.expected, row.found) for row in ledger.reconcile()] == [
            ("user-1", Decimal(0), Decimal("0.000000000001"))
        ]


def test_memory_does_not_grow_with_the_series(
    memory_dsn: str, memory_store: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within 300 MB the intervals of all series are compared, and the one that is missing is found."""
    limit = {"max_memory_usage": MEMORY_BYTES}
    monkeypatch.setattr(store_module, "_LONG_READS", {**store_module._LONG_READS, **limit})
    for first in range(0, EVENTS, BLOCK):
        memory_store.command(
            "INSERT INTO usage_intervals SELECT 'service', hex(sipHash128(intDiv(number, 1000))), 'user', 'action',"
            f" 1700000000000000000 + number * 60, 1700000000000000000 + (number + 1) * 60 FROM numbers({first}, {BLOCK})"
            " WHERE number != 4321"
        )
    with LocalLedger(memory_dsn) as ledger:
        (fault,) = ledger.series_faults()
        assert (fault.fault, fault.until_ns - fault.from_ns) == ("gap", 60)
