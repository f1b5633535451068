"""An embedded store for tests: each test gets an empty, migrated database of its own in one in-memory engine.

chDB allows one engine path per process, and pytest runs all tests in one process, so every test shares the engine
`chdb://memory`. A test that needs the store on disk starts a process of its own (`support.processes`).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from otel_credits_aggregator.migrations import migrate
from otel_credits_aggregator.store import Client, connect

__all__ = ["Usage", "insert_usages", "memory_dsn", "memory_engine", "memory_store"]

_CANDIDATE_COLUMNS = (
    "signal",
    "batch_id",
    "received_at",
    "position",
    "service_name",
    "trace_id",
    "span_id",
    "name",
    "start_time_unix_nano",
    "end_time_unix_nano",
    "attributes",
)
_MICROSECOND = 1_000_000


@pytest.fixture(scope="session")
def memory_engine() -> Iterator[Client]:
    """A client of this process's in-memory engine, which lives as long as the session."""
    with connect("chdb://memory") as client:
        yield client


@pytest.fixture
def memory_dsn(memory_engine: Client) -> Iterator[str]:
    """The DSN of an empty, migrated database of the test's own; connect as many clients as needed."""
    database = f"test_{uuid.uuid4().hex}"
    memory_engine.command(f"CREATE DATABASE {database}")
    dsn = f"chdb://memory/{database}"
    try:
        with connect(dsn) as client:
            migrate(client)
        yield dsn
    finally:
        memory_engine.command(f"DROP DATABASE {database} SYNC")


@pytest.fixture
def memory_store(memory_dsn: str) -> Iterator[Client]:
    """A client of an empty, migrated database of the test's own."""
    with connect(memory_dsn) as client:
        yield client


@dataclass(frozen=True)
class Usage:
    """A usage as it leaves the decoding step: what the chain rates, de-duplicates and books.

    Attributes:
        user_id: who pays; None leaves the attribute out.
        action_type: the action.
        amount: the charge; None leaves it to the price book.
        ended_at: end of the usage; None is now.
        attributes: further attributes, as text.
        trace_id, span_id: raw bytes, 16 and 8 of them for a valid id.
    """

    user_id: str | None = "user-1"
    action_type: str = "workflow_execution"
    amount: Decimal | None = None
    ended_at: datetime | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    service_name: str = "tests"
    trace_id: bytes = field(default_factory=lambda: uuid.uuid4().bytes)
    span_id: bytes = field(default_factory=lambda: uuid.uuid4().bytes[:8])

    def all_attributes(self) -> dict[str, str]:
        """Return the span's attributes."""
        named = {"credits.action_type": self.action_type}
        if self.user_id is not None:
            named["user.id"] = self.user_id
        if self.amount is not None:
            named["credits.amount"] = str(self.amount)
        return named | dict(self.attributes)


def insert_usages(client: Client, *usages: Usage) -> None:
    """Insert usages as one batch where decoded spans enter the chain (`usage_candidates`)."""
    batch_id, now = uuid.uuid4(), datetime.now(UTC)
    data = []
    for position, usage in enumerate(usages):
        end_ns = _unix_us(usage.ended_at or now) * 1000
        ids = (usage.trace_id, usage.span_id)
        head = ("span", batch_id, now, position, usage.service_name)
        data.append((*head, *ids, usage.action_type, end_ns, end_ns, usage.all_attributes()))
    client.insert("usage_candidates", data, column_names=_CANDIDATE_COLUMNS)


def _unix_us(moment: datetime) -> int:
    """Return a time in microseconds since 1970, without the rounding that a float of seconds brings."""
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * _MICROSECOND + since.microseconds
