"""Migrations are a product: what they make is declared (schema.json), and applying them again is harmless.

To declare a deliberate change: `OTEL_CREDITS_WRITE_SCHEMA=1 pytest tests/clickhouse/test_migrations.py`.
"""

import json
import os
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from otel_credits_aggregator import migrations as module
from otel_credits_aggregator.migrations import (
    Migration,
    MigrationError,
    clickhouse_folder,
    migrate,
    migrations,
    statements,
)
from otel_credits_aggregator.store import Client, connect, rows
from support.chain import STORED_TABLES, Chain
from support.otlp_build import AMOUNT, DESCRIPTION, USER, USER_EMAIL, traces, usage_span

DECLARED = Path(__file__).parent / "schema.json"
WRITE = "OTEL_CREDITS_WRITE_SCHEMA"

TABLES = """
    SELECT name, engine, replaceAll(engine_full, concat(currentDatabase(), '.'), '') AS engine_full
    FROM system.tables WHERE database = currentDatabase() ORDER BY name
"""
COLUMNS = """
    SELECT table, name, type, default_kind AS kind, default_expression AS expression
    FROM system.columns WHERE database = currentDatabase() ORDER BY table, position
"""
DEFINITIONS = """
    SELECT name, replaceAll(create_table_query, concat(currentDatabase(), '.'), '') AS definition
    FROM system.tables WHERE database = currentDatabase() ORDER BY name
"""
# DESIGN section 5, word for word.
LATEST_EVENTS = """
    SELECT u.email, ce.action_type, ce.credits_charged, ce.description, ce.created_at
    FROM credit_usage_events ce JOIN users u ON u.id = ce.user_id
    ORDER BY ce.created_at DESC LIMIT 20;
"""
BALANCES = """
    SELECT u.email, cb.current_balance, cb.current_month_consumed
    FROM user_credit_balances cb JOIN users u ON u.id = cb.user_id;
"""


def schema(client: Client) -> dict[str, Any]:
    """The tables and views of a store: engine with settings, columns with type and default."""
    tables = {
        row["name"]: {"engine": row["engine_full"] or row["engine"], "columns": {}} for row in rows(client, TABLES)
    }
    for column in rows(client, COLUMNS):
        words = (column["type"], column["kind"], column["expression"])
        tables[column["table"]]["columns"][column["name"]] = " ".join(word for word in words if word)
    return tables


def contents(client: Client) -> dict[str, Any]:
    """What the migrations have filled in, and what is remembered of them."""
    tables = ("credit_action_costs", "credit_conventions", "schema_migrations")
    return {table: rows(client, f"SELECT * FROM {table} ORDER BY ALL") for table in tables}


@pytest.fixture
def empty_store(memory_engine: Client, tmp_path: Path) -> Iterator[Client]:
    """A client of a database with nothing in it."""
    database = f"empty_{abs(hash(tmp_path))}"
    memory_engine.command(f"CREATE DATABASE {database}")
    with connect(f"chdb://memory/{database}") as client:
        yield client
    memory_engine.command(f"DROP DATABASE {database} SYNC")


def test_the_migrated_store_is_the_declared_one(memory_store: Client) -> None:
    """Every table, engine, setting, column and type of a migrated store is as declared in schema.json."""
    found = schema(memory_store)
    if os.environ.get(WRITE):
        DECLARED.write_text(json.dumps(found, indent=1) + "\n")
    assert found == json.loads(DECLARED.read_text()), f"if the change is meant, declare it: {WRITE}=1"


def test_migrating_again_changes_nothing(memory_store: Client) -> None:
    """A second run applies nothing, and leaves definitions and contents as they were."""
    before = rows(memory_store, DEFINITIONS), contents(memory_store)
    assert migrate(memory_store) == []
    assert (rows(memory_store, DEFINITIONS), contents(memory_store)) == before


def test_migrating_again_leaves_the_ledger_alone(chain: Chain) -> None:
    """A store with usage in it is migrated again at each start, which changes no row."""
    chain.send(traces(usage_span(), usage_span({USER: None})))
    before = chain.contents()
    migrate(chain.client)
    assert chain.contents() == before


def test_all_are_applied_in_order(empty_store: Client) -> None:
    """The first run applies every file in the order of its number, and remembers it with its checksum."""
    applied = migrate(empty_store)
    assert applied == migrations()
    remembered = rows(empty_store, "SELECT version, name, checksum FROM schema_migrations ORDER BY version")
    assert [tuple(row.values()) for row in remembered] == [(one.version, one.name, one.checksum) for one in applied]


def test_numbers_have_no_gap() -> None:
    """Files are named NNNN_name.sql, numbered from 0001 without a gap."""
    paths = sorted((clickhouse_folder() / "migrations").iterdir())
    assert all(re.fullmatch(r"\d{4}_[a-z0-9_]+\.sql", path.name) for path in paths)
    assert [one.version for one in migrations()] == list(range(1, len(paths) + 1))


@pytest.mark.parametrize("version", [one.version for one in migrations()])
def test_a_migration_that_was_cut_off_is_completed(empty_store: Client, memory_store: Client, version: int) -> None:
    """If the process dies in the middle of any file, the next start makes the same store."""
    for one in migrations()[:version]:
        whole = list(statements(one.sql))
        for statement in whole if one.version < version else whole[: (len(whole) + 1) // 2]:
            empty_store.command(statement)
    migrate(empty_store)
    assert rows(empty_store, DEFINITIONS) == rows(memory_store, DEFINITIONS)
    for table in ("credit_action_costs", "credit_conventions"):
        columns = "* EXCEPT (created_at)"
        assert rows(empty_store, f"SELECT {columns} FROM {table} ORDER BY ALL") == rows(
            memory_store, f"SELECT {columns} FROM {table} ORDER BY ALL"
        )


def test_a_changed_migration_is_refused(empty_store: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that was changed after it was applied stops the start with its name, and nothing is applied."""
    migrate(empty_store)
    first, *others = migrations()
    changed = [
        Migration(first.version, first.name, first.sql + "-- changed\n"),
        *others,
        Migration(9999, "new", "SELECT 1;\n"),
    ]
    monkeypatch.setattr(module, "migrations", lambda: changed)
    before = contents(empty_store)
    with pytest.raises(MigrationError, match="0001_ledger"):
        migrate(empty_store)
    assert contents(empty_store) == before


def test_a_store_of_a_newer_version_is_refused(memory_store: Client) -> None:
    """A store that has a migration this version does not know is left alone."""
    memory_store.command("INSERT INTO schema_migrations (version, name, checksum) VALUES (9999, 'later', 'x')")
    with pytest.raises(MigrationError, match="9999"):
        migrate(memory_store)


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("", []),
        ("-- only a comment\n", []),
        ("SELECT 1;\n", ["SELECT 1"]),
        ("SELECT 1", ["SELECT 1"]),
        ("SELECT 1;\nSELECT 2;\n", ["SELECT 1", "SELECT 2"]),
        ("SELECT ';' ;  \nSELECT 2;", ["SELECT ';'", "SELECT 2"]),
        ("-- before; and after;\nSELECT 1,\n  -- between\n  2;\n", ["SELECT 1,\n  2"]),
        ("SELECT 'a;b', 'c'; SELECT 2;\n", ["SELECT 'a;b', 'c'; SELECT 2"]),
        ("SELECT 1;\n;\n\n", ["SELECT 1"]),
    ],
)
def test_statements(sql: str, expected: list[str]) -> None:
    """A statement ends with a semicolon at the end of a line; comment lines and empty statements are dropped."""
    assert list(statements(sql)) == expected


def test_every_target_of_the_chain_remembers_tokens(memory_store: Client) -> None:
    """Each table that a view writes to has a deduplication window; without it a repeated insert would count again."""
    targets = rows(
        memory_store,
        """
        SELECT name, engine_full FROM system.tables
        WHERE database = currentDatabase() AND engine LIKE '%MergeTree' AND name IN (
            SELECT extract(create_table_query, ' TO [^ .]*\\\\.?`?([a-z_]+)`? ') FROM system.tables
            WHERE database = currentDatabase() AND engine = 'MaterializedView')
        """,
    )
    assert {row["name"] for row in targets} == set(STORED_TABLES)
    assert all("non_replicated_deduplication_window" in row["engine_full"] for row in targets)


def test_the_two_queries(chain: Chain) -> None:
    """The two queries that others rely on work word for word, and give exact numbers."""
    chain.command("INSERT INTO credit_grants (user_id, credits, reason) VALUES ('u1', 10, 'bought')")
    chain.send(
        traces(usage_span({USER: "u1", AMOUNT: "0.123456789012", DESCRIPTION: "one", USER_EMAIL: "u1@example.org"}))
    )
    (event,) = chain.rows(LATEST_EVENTS)
    assert list(event.values())[:4] == ["u1@example.org", "some_action", Decimal("0.123456789012"), "one"]
    assert list(event) == ["email", "action_type", "credits_charged", "description", "created_at"]
    (balance,) = chain.rows(BALANCES)
    assert balance == {
        "email": "u1@example.org",
        "current_balance": Decimal("9.876543210988"),
        "current_month_consumed": Decimal(0),
    }


def test_this_month_is_this_month(chain: Chain) -> None:
    """Usage of now counts for the current month of the balance, that of other months only for the whole."""
    (now,) = chain.rows(
        "SELECT toUnixTimestamp64Nano(now64(9)) AS ns, toUnixTimestamp(toStartOfMonth(now('UTC')), 'UTC') AS month"
    )
    month_ns = now["month"] * 10**9
    chain.send(
        traces(
            *(
                usage_span({USER: "u1", AMOUNT: amount}, end_ns=ns)
                for amount, ns in (("1", now["ns"]), ("2", month_ns), ("4", month_ns - 1))
            )
        )
    )
    (balance,) = chain.rows(
        "SELECT current_month_consumed, lifetime_consumed, current_balance FROM user_credit_balances"
    )
    assert list(balance.values()) == [3, 7, -7]
