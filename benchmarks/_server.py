"""`otel-credits serve` with its default settings, as a process of its own."""

import sqlite3
import sys
import time
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any, Self

import httpx
from otel_credits_aggregator.demo.processes import Process, free_port

from benchmarks._spans import MODEL, Totals

__all__ = ["Server"]

_READY_TIMEOUT_S = 120.0
_REQUEST_TIMEOUT_S = 120.0
_POLL_INTERVAL_S = 0.02


class Server(Process):
    """An aggregator with the embedded store; it is ready inside the block."""

    def __init__(self, data_dir: Path) -> None:
        self.grpc_port, http_port, api_port = free_port(), free_port(), free_port()
        # Of the API, and of OTLP/HTTP.
        self.url, self.http_url = f"http://127.0.0.1:{api_port}", f"http://127.0.0.1:{http_port}"
        self._client = httpx.Client(base_url=self.url, timeout=_REQUEST_TIMEOUT_S)
        settings = {
            "OTEL_CREDITS_DATA_DIR": str(data_dir),
            "OTEL_CREDITS_GRPC_PORT": str(self.grpc_port),
            "OTEL_CREDITS_HTTP_PORT": str(http_port),
            "OTEL_CREDITS_API_PORT": str(api_port),
        }
        command = [sys.executable, "-m", "otel_credits_aggregator", "serve"]
        self._spool = data_dir / "spool.sqlite"
        super().__init__("aggregator", command, log_dir=data_dir, env=settings)

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            self.wait_for(self._is_ready, _READY_TIMEOUT_S, "the aggregator is ready")
        except BaseException:
            self.terminate()
            raise
        return self

    def sql(self, query: str) -> list[dict[str, Any]]:
        """The rows of a query; decimals are strings."""
        rows: list[dict[str, Any]] = self._client.post("/api/v1/sql", json={"query": query}).raise_for_status().json()
        return rows

    def balance(self, user_id: str) -> dict[str, Any] | None:
        """What `GET /api/v1/users/{id}/balance` answers; None for a user it does not know."""
        answer = self._client.get(f"/api/v1/users/{user_id}/balance")
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        balance: dict[str, Any] = answer.raise_for_status().json()
        return balance

    def prices(self) -> dict[str, Decimal]:
        """What the price book says of the model that is used here: unit to credits."""
        rows = self._client.get("/api/v1/prices").raise_for_status().json()
        mine = [row for row in rows if row["model"] == MODEL and row["status"] == "current"]
        return {row["unit"]: Decimal(row["credits_per_unit"]) for row in mine}

    def events(self) -> int:
        """How many events are committed."""
        return int(self.sql("SELECT count() AS events FROM credit_usage_events")[0]["events"])

    def metric(self, name: str) -> float:
        """One number of `/metrics`."""
        lines = self._client.get("/metrics").raise_for_status().text.splitlines()
        return next(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{name} "))

    def wait_committed(self, events: int, timeout_s: float) -> float:
        """Waits until the spool is empty and so many events are committed; returns the time of the monotonic clock.

        The spool is looked at in its file, because a query would take the processor from what is measured. A request
        leaves it when its insert is committed.

        Raises:
            RuntimeError: they are not, in time.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self._spool_is_empty():
                emptied_at = time.monotonic()
                if self.events() >= events:
                    return emptied_at
            time.sleep(_POLL_INTERVAL_S)
        raise RuntimeError(f"{self.events()} events of {events} are committed after {timeout_s:g} s\n{self.tail()}")

    def _spool_is_empty(self) -> bool:
        with closing(sqlite3.connect(f"file:{self._spool}?mode=ro", uri=True, timeout=1.0)) as spool:
            return spool.execute("SELECT 1 FROM requests LIMIT 1").fetchone() is None

    def check(self, expected: Totals) -> None:
        """Compares what was charged since the store was new, exactly: events, tokens, credits, balances.

        Raises:
            RuntimeError: something differs.
        """
        (found,) = self.sql(
            "SELECT count() AS events, sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens, "
            "sum(credits_charged) AS credits FROM credit_usage_events"
        )
        (balances,) = self.sql("SELECT sum(lifetime_consumed) AS credits FROM user_credit_balances")
        credits = expected.credits(self.prices())
        counts = tuple(int(found[name]) for name in ("events", "input_tokens", "output_tokens"))
        wanted = (expected.spans, expected.input_tokens, expected.output_tokens)
        if counts != wanted or Decimal(found["credits"]) != credits or Decimal(balances["credits"]) != credits:
            raise RuntimeError(f"expected {expected} and {credits} credits; events have {found}, balances {balances}")

    def _is_ready(self) -> bool:
        try:
            return self._client.get("/readyz").is_success
        except httpx.TransportError:
            return False
