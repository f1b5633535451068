"""The few calls of the aggregator's API and of the model server that the demo needs."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Any
from uuid import UUID

import httpx

from otel_credits_aggregator.demo._options import DemoError
from otel_credits_aggregator.ledger.remote import trusted

REQUEST_TIMEOUT_S = 30.0
_ACCOUNTED_AS = ("charged", "duplicate", "not_usage", "quarantined")


class Api:
    """A client of the aggregator at ``url``."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client = httpx.Client(base_url=url, timeout=REQUEST_TIMEOUT_S)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def is_ready(self) -> bool:
        """Whether the aggregator is migrated, replayed and receiving."""
        return answers_ok(f"{self.url}/readyz")

    def set_profile(self, user_id: UUID, email: str, name: str) -> None:
        """Set what the ledger shows of a user."""
        self._call("PUT", f"/api/v1/users/{user_id}", {"email": email, "name": name})

    def grant(self, user_id: UUID, credits: Decimal, reason: str) -> None:
        """Give a user credits."""
        self._call("POST", f"/api/v1/users/{user_id}/grants", {"credits": str(credits), "reason": reason})

    def prices(self) -> list[dict[str, Any]]:
        """Return the price book's rows."""
        rows: list[dict[str, Any]] = self._call("GET", "/api/v1/prices")
        return rows

    def sql(self, query: str) -> list[dict[str, Any]]:
        """Return a query's rows; decimals are strings."""
        rows: list[dict[str, Any]] = self._call("POST", "/api/v1/sql", {"query": query})
        return rows

    def accounting(self) -> dict[str, int]:
        """Return what became of all spans received so far: received, charged, duplicate, not_usage, quarantined."""
        lines = self._client.get("/metrics").raise_for_status().text.splitlines()
        return {name: _sum_series(lines, f"otel_credits_spans_{name}_total") for name in ("received", *_ACCOUNTED_AS)}

    def is_drained(self) -> bool:
        """Whether every span received so far is accounted for."""
        counts = self.accounting()
        return counts["received"] == sum(counts[name] for name in _ACCOUNTED_AS)

    def _call(self, method: str, path: str, body: dict[str, str] | None = None) -> Any:
        answer = self._client.request(method, path, json=body)
        if answer.is_error:
            raise DemoError(f"{method} {path} answered {answer.status_code}: {answer.text[:500]}")
        return answer.json() if answer.content else None


def _sum_series(lines: Iterable[str], name: str) -> int:
    """Add the values of a counter over all its labels."""
    mine = (line for line in lines if line.startswith((f"{name} ", f"{name}{{")))
    return sum(int(float(line.rsplit(" ", 1)[1])) for line in mine)


def answers_ok(url: str) -> bool:
    """Whether a GET of ``url`` is answered with 200 now."""
    try:
        return httpx.get(url, timeout=5.0, verify=trusted(url, None)).status_code == 200
    except httpx.HTTPError:
        return False


def served_requests(llm_url: str) -> list[dict[str, Any]]:
    """Return the model server's own record of what it served, request by request."""
    rows: list[dict[str, Any]] = httpx.get(f"{llm_url}/_served", timeout=REQUEST_TIMEOUT_S).raise_for_status().json()
    return rows
