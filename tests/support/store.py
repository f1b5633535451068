"""An embedded store for tests: each test gets an empty, migrated database of its own in one in-memory engine.

chDB allows one engine path per process, and pytest runs all tests in one process, so every test shares the engine
`chdb://memory`. A test that needs the store on disk starts a process of its own (`support.processes`).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from urllib.parse import urlsplit

import pytest
from otel_credits_aggregator.migrations import migrate
from otel_credits_aggregator.store import Client, connect, rows

__all__ = [
    "MigratedDatabases",
    "Usage",
    "insert_usages",
    "memory_databases",
    "memory_dsn",
    "memory_engine",
    "memory_store",
    "server_databases",
    "server_dsn",
]

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
def memory_databases(memory_engine: Client) -> MigratedDatabases:
    """Databases of the in-memory engine as the migrations leave them, used by one test after the other."""
    return MigratedDatabases(memory_engine, "chdb://memory")


@pytest.fixture
def memory_dsn(memory_databases: MigratedDatabases) -> Iterator[str]:
    """The DSN of an empty, migrated database of the test's own; connect as many clients as needed."""
    with memory_databases.lent() as dsn:
        yield dsn


@pytest.fixture(scope="session")
def server_databases(clickhouse_http_server_dsn: str) -> Iterator[MigratedDatabases]:
    """The same on the shared server."""
    with connect(clickhouse_http_server_dsn) as client:
        yield MigratedDatabases(client, clickhouse_http_server_dsn)


@pytest.fixture
def server_dsn(server_databases: MigratedDatabases) -> Iterator[str]:
    """The DSN of an empty, migrated database of the test's own on the shared server."""
    with server_databases.lent() as dsn:
        yield dsn


@pytest.fixture
def memory_store(memory_dsn: str) -> Iterator[Client]:
    """A client of an empty, migrated database of the test's own."""
    with connect(memory_dsn) as client:
        yield client


class MigratedDatabases:
    """Lends empty, migrated databases of one engine.

    Migrating takes longer than most tests, so a database is lent again after the tables that a test changed were emptied,
    or filled as the migrations fill them. It is dropped instead if its schema was changed, or if it then does not hold
    what the migrations leave.

    Args:
        engine: a client of the engine.
        dsn: of any database of it.
    """

    def __init__(self, engine: Client, dsn: str) -> None:
        self._engine = engine
        self._dsn = dsn
        # The parts of each table of the databases that are free.
        self._free: dict[str, dict[str, list[str]]] = {}
        # Never lent: what a database is compared with, and filled from.
        self._pattern = self._migrated()
        self._contents = self._describe(self._pattern)
        self._tables = {row["name"] for row in rows(engine, f"SHOW TABLES FROM {self._pattern}")}

    @contextmanager
    def lent(self) -> Iterator[str]:
        """The DSN of an empty, migrated database that nobody else has inside the block."""
        database, parts = self._free.popitem() if self._free else self._new()
        try:
            yield self._dsn_of(database)
        finally:
            self._take_back(database, parts)

    def _take_back(self, database: str, parts: dict[str, list[str]]) -> None:
        now = self._parts(database)
        for table in {*parts, *now}:
            if parts.get(table) != now.get(table):
                self._reset(database, table)
        if self._describe(database) == self._contents:
            self._free[database] = parts if now == parts else self._parts(database)
        else:
            self._engine.command(f"DROP DATABASE {database} SYNC")

    def _new(self) -> tuple[str, dict[str, list[str]]]:
        database = self._migrated()
        return database, self._parts(database)

    def _migrated(self) -> str:
        database = f"test_{uuid.uuid4().hex}"
        self._engine.command(f"CREATE DATABASE {database}")
        with connect(self._dsn_of(database)) as client:
            migrate(client)
        return database

    def _dsn_of(self, database: str) -> str:
        return urlsplit(self._dsn)._replace(path=f"/{database}").geturl()

    def _describe(self, database: str) -> dict[str, int | None]:
        """The statement that makes each table and view, and how many rows are in it."""
        found = rows(
            self._engine,
            "SELECT create_table_query AS statement, total_rows FROM system.tables WHERE database = {name:String}",
            {"name": database},
        )
        return {row["statement"].replace(database, ""): row["total_rows"] for row in found}

    def _parts(self, database: str) -> dict[str, list[str]]:
        """The names of each table's parts, which every change to its rows changes."""
        found = rows(
            self._engine,
            "SELECT table, arraySort(groupArray(name)) AS parts FROM system.parts"
            " WHERE active AND database = {name:String} GROUP BY table",
            {"name": database},
        )
        return {row["table"]: row["parts"] for row in found}

    def _reset(self, database: str, table: str) -> None:
        """Have the rows that the migrations leave in a table, unless it is none of theirs."""
        if table in self._tables:
            self._engine.command(f"TRUNCATE TABLE {database}.{table}")
            self._engine.command(f"INSERT INTO {database}.{table} SELECT * FROM {self._pattern}.{table}")


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
