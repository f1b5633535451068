"""Applies the plain-SQL migrations of ``clickhouse/migrations`` and remembers which were applied.

A migration is a file ``NNNN_name.sql``. Its statements end with a semicolon at the end of a line, so that the files can be
given to clickhouse-client as they are. Files that were applied never change: their checksum is compared at every start.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from otel_credits_aggregator.fault_points import passing
from otel_credits_aggregator.store import Client, rows

__all__ = ["Migration", "MigrationError", "clickhouse_folder", "migrate", "migrations", "statements"]

_BOOKKEEPING = """
CREATE TABLE IF NOT EXISTS schema_migrations
(
    version UInt32,
    name String,
    checksum String,
    applied_at DateTime64(6, 'UTC') DEFAULT now64(6)
)
ENGINE = MergeTree
ORDER BY version
"""


class MigrationError(Exception):
    """A migration cannot be applied, or was changed after it was; the message says which and what to do."""


@dataclass(frozen=True)
class Migration:
    """One file of ``clickhouse/migrations``."""

    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def clickhouse_folder() -> Path:
    """The folder with migrations, queries and otlp.proto: the wheel's copy, else the repository's."""
    packaged = Path(str(files("otel_credits_aggregator"))) / "_clickhouse"
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[2] / "clickhouse"


def migrations() -> list[Migration]:
    """All migrations, in order."""
    paths = sorted((clickhouse_folder() / "migrations").glob("*.sql"))
    return [Migration(int(path.name[:4]), path.stem[5:], path.read_text("utf-8")) for path in paths]


def statements(sql: str) -> Iterator[str]:
    """The statements of a migration: each ends with a semicolon at the end of a line; comment lines are dropped."""
    for text in re.split(r";[ \t]*$", sql, flags=re.MULTILINE):
        lines = [line for line in text.splitlines() if not line.lstrip().startswith("--")]
        if any(line.strip() for line in lines):
            yield "\n".join(lines).strip()


def migrate(client: Client, last: int | None = None) -> list[Migration]:
    """Applies what is missing, in order, up to number `last`; returns what it applied. Running it again changes nothing.

    Raises:
        MigrationError: an applied file was changed since, or the store was migrated by a newer version.
        ClickHouseError: the store refused a statement; what came before it stays, and the next run goes on.
    """
    client.command(_BOOKKEEPING)
    applied = {
        row["version"]: row["checksum"] for row in rows(client, "SELECT version, checksum FROM schema_migrations")
    }
    known = migrations()
    _check(known, applied)
    if last is not None:
        _check_known(known, last)
        known = [migration for migration in known if migration.version <= last]
    missing = [migration for migration in known if migration.version not in applied]
    for migration in missing:
        _apply(client, migration)
    return missing


def _check(known: list[Migration], applied: dict[int, str]) -> None:
    if applied:
        _check_known(known, max(applied))
    for migration in known:
        if applied.get(migration.version, migration.checksum) != migration.checksum:
            raise MigrationError(
                f"migration {migration.version:04d}_{migration.name} was applied with other text: "
                "applied migrations never change; put the change into a new one"
            )


def _check_known(known: list[Migration], version: int) -> None:
    if version > known[-1].version:
        raise MigrationError(
            f"the store has migration {version:04d}, which this version does not know: upgrade otel-credits"
        )


def _apply(client: Client, migration: Migration) -> None:
    for statement in statements(migration.sql):
        client.command(statement)
        passing("migration_statement")
    passing("migration_unrecorded")
    client.command(
        "INSERT INTO schema_migrations (version, name, checksum) VALUES ({version:UInt32}, {name:String}, {checksum:String})",
        parameters={"version": migration.version, "name": migration.name, "checksum": migration.checksum},
    )
