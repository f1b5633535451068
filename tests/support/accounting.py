"""The aggregator's accounting (promise 3), read from `/metrics`, and what users were charged, read from the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

import httpx

from support.processes import AggregatorProcess, wait_until

__all__ = ["Accounting", "accounting", "assert_exact", "charges", "settle"]

# A scrape asks the store, which takes the aggregator up to 30 ms of processor time.
SCRAPE_INTERVAL_S = 0.2


@dataclass(frozen=True)
class Accounting:
    """What became of everything that was received; each number is one of the aggregator's counters."""

    received: int
    charged: int = 0
    duplicate: int = 0
    not_usage: int = 0
    quarantined: int = 0
    damaged: int = 0

    @property
    def is_balanced(self) -> bool:
        """Whether the first is the sum of the others, as it must be whenever the spool is empty."""
        return self.received == self.charged + self.duplicate + self.not_usage + self.quarantined + self.damaged

    def __sub__(self, earlier: Accounting) -> Accounting:
        return Accounting(
            self.received - earlier.received,
            self.charged - earlier.charged,
            self.duplicate - earlier.duplicate,
            self.not_usage - earlier.not_usage,
            self.quarantined - earlier.quarantined,
            self.damaged - earlier.damaged,
        )


def accounting(metrics: Mapping[str, float], what: str = "spans") -> Accounting:
    """Read the counters of spans (or of `data_points`, `log_records`) from a scrape."""
    prefix = f"otel_credits_{what}_"
    quarantined = sum(value for series, value in metrics.items() if series.startswith(f"{prefix}quarantined_total"))
    numbers = (metrics.get(f"{prefix}{name}_total", 0.0) for name in ("received", "charged", "duplicate", "not_usage"))
    return Accounting(*map(int, numbers), int(quarantined), int(metrics.get(f"{prefix}damaged_total", 0)))


def settle(aggregator: AggregatorProcess, what: str = "spans", *, timeout_s: float = 120.0) -> Accounting:
    """Wait until nothing waits in the spool and the sum agrees, and return it. Raises WaitTimeout with the last one."""
    last: dict[str, float] = {}

    def is_settled() -> bool:
        nonlocal last
        try:
            last = aggregator.metrics()
        except httpx.HTTPError:
            return False
        empty = last["otel_credits_spool_bytes"] == 0 and f"otel_credits_{what}_not_usage_total" in last
        return empty and accounting(last, what).is_balanced

    try:
        wait_until(is_settled, timeout_s, "the spool is empty and the accounting agrees", interval_s=SCRAPE_INTERVAL_S)
    except AssertionError as error:
        error.add_note(f"{accounting(last, what) if last else 'no metrics'}; {last}\n{aggregator.tail()}")
        raise
    return accounting(last, what)


def charges(aggregator: AggregatorProcess) -> dict[str, Decimal]:
    """What each user has consumed, by the running totals."""
    rows = aggregator.sql("SELECT user_id, lifetime_consumed AS credits FROM user_credit_balances WHERE credits != 0")
    return {row["user_id"]: Decimal(row["credits"]) for row in rows}


def assert_exact(aggregator: AggregatorProcess, expected: Mapping[str, Decimal]) -> None:
    """Balances, months and events say the same of each user, to the last decimal, and it is what is expected."""
    charged = {user: credits for user, credits in expected.items() if credits}
    assert charges(aggregator) == charged
    for table, column in (("credit_usage_events", "credits_charged"), ("credit_monthly_usage", "credits_consumed")):
        query = f"SELECT user_id, sum(t.{column}) AS credits FROM {table} AS t GROUP BY user_id HAVING credits != 0"
        found = {row["user_id"]: Decimal(row["credits"]) for row in aggregator.sql(query)}
        assert found == charged, table
    assert aggregator.request("GET", "/api/v1/reconcile") == []
