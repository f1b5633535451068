"""What the documents say of the store is what the store is."""

import re
from pathlib import Path

import pytest
from otel_credits_aggregator import batch_insert
from otel_credits_aggregator.migrations import migrate, migrations, statements
from otel_credits_aggregator.store import Client, connect, rows

ROOT = Path(__file__).resolve().parents[2]
CONVENTIONS = ROOT / "docs" / "semantic-conventions.md"
CLICKHOUSE_README = ROOT / "clickhouse" / "README.md"

# DESIGN section 5: the tables and views that other people's queries rely on, with the types that are fixed.
EVENTS = {
    "event_id": "",
    "user_id": "String",
    "action_type": "",
    "model": "",
    "input_tokens": "",
    "output_tokens": "",
    "credits_charged": "Decimal(38, 12)",
    "description": "",
    "resource_id": "",
    "resource_type": "",
    "metadata": "Map(String, String)",
    "units": "Map(String, Decimal(38, 12))",
    "service_name": "",
    "trace_id": "",
    "span_id": "",
    "created_at": "DateTime64(6, 'UTC')",
}
BALANCES = (
    "user_id",
    "current_balance",
    "current_month_consumed",
    "lifetime_granted",
    "lifetime_consumed",
    "updated_at",
)
MONTHLY = ("user_id", "month", "action_type", "model", "events", "input_tokens", "output_tokens", "credits_consumed")
FIXED = {
    "credit_usage_events": ("MergeTree", EVENTS),
    "user_credit_balances": ("View", dict.fromkeys(BALANCES, "")),
    "credit_monthly_usage": ("View", dict.fromkeys(MONTHLY, "")),
    "credit_action_costs": (
        "MergeTree",
        dict.fromkeys(("action_type", "model", "unit", "credits_per_unit", "effective_from"), ""),
    ),
    "credit_grants": (
        "MergeTree",
        dict.fromkeys(("grant_id", "user_id", "credits", "reason", "expires_at", "created_at"), ""),
    ),
    "credit_quarantine": ("MergeTree", dict.fromkeys(("event_id", "reason", "received_at"), "")),
    "users": ("View", dict.fromkeys(("id", "email", "name"), "")),
}


def sql_reasons() -> set[str]:
    """Return the reasons that the chain gives: what its verdicts evaluate to, other than "nothing is wrong"."""
    sql = "\n".join(statement for migration in migrations() for statement in statements(migration.sql))
    verdicts = re.findall(r"multiIf\(((?:(?!multiIf\(| AS ).)*)\) AS (?:defect|fault|reason|verdict)\b", sql, re.DOTALL)
    branches = [line for verdict in verdicts for line in verdict.splitlines()]
    results = [re.search(r"'([a-z_]+)',?\s*$", line) for line in branches]
    singles = re.findall(r"(?:if\([^\n]*|'', )'([a-z]+(?:_[a-z]+)+)'[^\n]*\) AS (?:defect|reason)\b", sql)
    return {found.group(1) for found in results if found} | set(singles)


def first_column(document: Path, heading: str) -> set[str]:
    """Return the names in backquotes in the first column of the tables below a heading."""
    section = re.split(r"^## ", document.read_text("utf-8").split(f"## {heading}\n")[1], flags=re.MULTILINE)[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("|")]
    return {name for cell in cells for name in re.findall(r"`([a-z_]+)`", cell)}


def test_every_reason_is_documented() -> None:
    """Whoever finds a reason in the quarantine finds it in the conventions, and no reason there has ceased to exist."""
    reasons = sql_reasons() - {"not_usage"} | {batch_insert._RAW_REASON}
    assert len(reasons) > 15
    assert first_column(CONVENTIONS, "Why a usage is quarantined") == reasons


@pytest.mark.parametrize("name", FIXED)
def test_fixed_tables_have_their_columns(memory_store: Client, name: str) -> None:
    """The tables and views of DESIGN section 5 are there, of their kind, with the columns that others rely on."""
    kind, expected = FIXED[name]
    here = "database = currentDatabase()"
    (table,) = rows(memory_store, f"SELECT engine FROM system.tables WHERE {here} AND name = '{name}'")
    columns = rows(memory_store, f"SELECT name, type FROM system.columns WHERE {here} AND table = '{name}'")
    types = {row["name"]: row["type"] for row in columns}
    assert table["engine"] == kind
    for column, type_name in expected.items():
        assert types[column] == (type_name or types[column])


def test_the_lineage_is_complete(memory_store: Client) -> None:
    """The README explains every table and view that people meet, and its picture has every step of the chain."""
    tables = rows(memory_store, "SELECT name, engine FROM system.tables WHERE database = currentDatabase()")
    steps = {row["name"] for row in tables if row["engine"] == "MaterializedView"}
    named = {row["name"] for row in tables if not row["name"].startswith(".inner")} - steps
    assert first_column(CLICKHOUSE_README, "What each table means") == named
    picture = CLICKHOUSE_README.read_text("utf-8").split("```mermaid")[1].split("```")[0]
    assert set(re.findall(r"\b\w+_mv\b", picture)) == steps
    assert named - set(re.findall(r"\w+", picture)) == {"schema_migrations"}


def test_files_may_be_applied_by_hand(memory_engine: Client) -> None:
    """A store that was set up with the files alone, twice, is the one that `migrate` makes."""
    schemas, contents = {}, {}
    for name in ("by_hand", "migrated"):
        memory_engine.command(f"CREATE DATABASE {name}")
        with connect(f"chdb://memory/{name}") as client:
            if name == "by_hand":
                apply_all(client)
                apply_all(client)
            migrate(client)
            schemas[name] = schema(client)
            contents[name] = [
                rows(client, f"SELECT count() FROM {t}") for t in ("credit_action_costs", "credit_conventions")
            ]
        memory_engine.command(f"DROP DATABASE {name} SYNC")
    assert schemas["by_hand"] == schemas["migrated"]
    assert contents["by_hand"] == contents["migrated"]


def apply_all(client: Client) -> None:
    """Run every statement of every migration, as clickhouse-client would."""
    for migration in migrations():
        for statement in statements(migration.sql):
            client.command(statement)


def schema(client: Client) -> dict[str, str]:
    """Return how each table and view would be created, without the name of its database."""
    database = client.command("SELECT currentDatabase()")
    found = rows(client, "SELECT name, create_table_query FROM system.tables WHERE database = currentDatabase()")
    return {row["name"]: row["create_table_query"].replace(f"{database}.", "") for row in found}
