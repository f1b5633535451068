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
from otel_credits_aggregator.store import Client, connect, rows

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


@pytest.fixture(scope="session")
def migrated_databases(memory_engine: Client) -> MigratedDatabases:
    """Databases as the migrations leave them, to be used by one test after the other."""
    return MigratedDatabases(memory_engine)


@pytest.fixture
def memory_dsn(migrated_databases: MigratedDatabases) -> Iterator[str]:
    """The DSN of an empty, migrated database of the test's own; connect as many clients as needed."""
    database = migrated_databases.take()
    try:
        yield dsn_of(database)
    finally:
        migrated_databases.give_back(database)


@pytest.fixture
def memory_store(memory_dsn: str) -> Iterator[Client]:
    """A client of an empty, migrated database of the test's own."""
    with connect(memory_dsn) as client:
        yield client


class MigratedDatabases:
    """Lends empty, migrated databases.

    Migrating takes longer than most tests, so a database is used again after its tables were emptied and those that the
    migrations fill were filled as they were. It is dropped instead if a test changed its schema, or if what it then
    holds is not what the migrations leave.
    """

    def __init__(self, engine: Client) -> None:
        self._engine = engine
        self._free: list[str] = []
        # Never lent: what a database is compared with, and filled from.
        self._pattern = self._migrated()
        self._schema, self._row_counts = self._describe(self._pattern)

    def take(self) -> str:
        """The name of an empty, migrated database."""
        return self._free.pop() if self._free else self._migrated()

    def give_back(self, database: str) -> None:
        """A test is done with it."""
        schema, row_counts = self._describe(database)
        if schema == self._schema:
            self._reset(database, {table for table, count in row_counts.items() if count})
            if self._describe(database) == (self._schema, self._row_counts):
                self._free.append(database)
                return
        self._engine.command(f"DROP DATABASE {database} SYNC")

    def _migrated(self) -> str:
        database = f"test_{uuid.uuid4().hex}"
        self._engine.command(f"CREATE DATABASE {database}")
        with connect(dsn_of(database)) as client:
            migrate(client)
        return database

    def _describe(self, database: str) -> tuple[dict[str, str], dict[str, int]]:
        """The statement that makes each table and view, and how many rows each table has."""
        found = rows(
            self._engine,
            "SELECT name, create_table_query AS statement, total_rows FROM system.tables WHERE database = {name:String}",
            {"name": database},
        )
        statements = {row["name"]: row["statement"].replace(database, "") for row in found}
        return statements, {row["name"]: row["total_rows"] for row in found if row["total_rows"] is not None}

    def _reset(self, database: str, used: set[str]) -> None:
        for table in used:
            self._engine.command(f"TRUNCATE TABLE {database}.{table}")
        for table, count in self._row_counts.items():
            if count:
                self._engine.command(f"INSERT INTO {database}.{table} SELECT * FROM {self._pattern}.{table}")


def dsn_of(database: str) -> str:
    """The DSN of a database of this process's in-memory engine."""
    return f"chdb://memory/{database}"


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
