"""The named queries of clickhouse/queries: what the ledger runs, people can run too."""

import ast
from pathlib import Path
from uuid import UUID

import otel_credits_aggregator.ledger
from otel_credits_aggregator.ledger._queries import named_query, named_statements
from otel_credits_aggregator.migrations import clickhouse_folder
from otel_credits_aggregator.store import Client, rows
from support.store import Usage, insert_usages

_FILES = sorted((clickhouse_folder() / "queries").glob("*.sql"))
_PARAMETERS = {
    "user_id": "u",
    "users": ["u"],
    "after": "",
    "until": "v",
    "rows": 10,
    "limit": 10,
    "reason": "",
    "since_us": 0,
    "until_us": 1,
    "event_id": str(UUID(int=1)),
    "event_ids": [str(UUID(int=1))],
    "quarantine_id": str(UUID(int=1)),
    "grant_id": "g",
    "rule_id": "r",
    "month": "2026-01-01",
    "insert_id": str(UUID(int=1)),
    "of_balance": True,
}


def _names_in_code() -> set[str]:
    """Return the string literals of the package that runs the queries."""
    modules = Path(otel_credits_aggregator.ledger.__file__).parent.glob("*.py")
    nodes = (node for module in modules for node in ast.walk(ast.parse(module.read_text("utf-8"))))
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def test_every_query_is_used_and_explained() -> None:
    """Each file begins by saying what it answers, ends with a semicolon, and is run by the ledger."""
    assert len(_FILES) > 5
    for path in _FILES:
        text = path.read_text("utf-8")
        assert text.startswith("-- "), path.name
        assert text.endswith(";\n"), path.name
    assert {path.stem for path in _FILES} <= _names_in_code()


def test_every_query_runs_as_it_is(memory_store: Client) -> None:
    """Each statement runs on a migrated store with its parameters bound by the server."""
    for path in _FILES:
        for statement in named_statements(path.stem):
            given = {name: value for name, value in _PARAMETERS.items() if f"{{{name}:" in statement}
            memory_store.command(statement, parameters=given)


def test_events_of_a_user_read_only_theirs(memory_store: Client) -> None:
    """The optional filter of a query is no scan: the events of one user are found by the table's key."""
    for number in range(20):
        insert_usages(memory_store, *(Usage(f"user-{number}") for _ in range(3)))
    memory_store.command("OPTIMIZE TABLE credit_usage_events FINAL")
    plan = rows(memory_store, f"EXPLAIN indexes = 1 {named_query('events')}", {"user_id": "user-7", "limit": 10})
    text = "\n".join(row["explain"] for row in plan)
    assert "PrimaryKey" in text, text
    assert "user_id in ['user-7', 'user-7']" in text, text
