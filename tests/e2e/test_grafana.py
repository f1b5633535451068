"""The Grafana dashboard: every panel's SQL runs on the real engine and shows what the ledger holds, exactly."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from otel_credits_aggregator.store import Client, rows
from support.grafana import Panel, expand, panels
from support.store import Usage, insert_usages

PANELS = list(panels())
AI = {
    "gen_ai.usage.input_tokens": "100",
    "gen_ai.usage.output_tokens": "20",
    "gen_ai.response.model": "claude-sonnet-4-5",
    "credits.amount": "0.000000000001",
}


@pytest.fixture
def ledger(memory_store: Client) -> Client:
    """Three users, one of them below zero, usage of two days, and three usages that cannot be charged."""
    memory_store.insert("user_profiles", [["rich", "rich@example.com"]], column_names=["id", "email"])
    memory_store.insert(
        "credit_grants", [["rich", Decimal("10"), "gift"]], column_names=["user_id", "credits", "reason"]
    )
    now = datetime.now(UTC)
    yesterday = now - timedelta(days=1)
    insert_usages(
        memory_store,
        Usage("rich", "workflow_execution", Decimal("0.1"), ended_at=now),
        Usage("rich", "workflow_execution", Decimal("0.2"), ended_at=yesterday),
        Usage("poor", "youtube_sync", Decimal("0.005"), attributes={"credits.metadata.videos": "50"}),
        Usage("o'hara", "ai_chat_message", attributes=AI),
        Usage(None, "youtube_sync", Decimal("1")),
        Usage("rich", "no_such_action", attributes={"credits.units.parsec": "3"}),
        Usage("rich", "no_such_action", attributes={"credits.units.parsec": "4"}),
    )
    return memory_store


def shown(store: Client, title: str, users: Sequence[str] | None = None, days: float = 30) -> list[dict[str, Any]]:
    """The rows of a panel, as a user of Grafana who may only read gets them."""
    [panel] = [panel for panel in PANELS if panel.title == title]
    return run(store, panel, users, days)


def run(store: Client, panel: Panel, users: Sequence[str] | None, days: float = 30) -> list[dict[str, Any]]:
    now = datetime.now(UTC)
    sql = expand(panel.sql, now - timedelta(days=days), now + timedelta(minutes=1), {"user": users})
    return rows(store, sql, readonly=1)


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.title)
@pytest.mark.parametrize("users", [None, ["rich", "o'hara"]], ids=["all", "some"])
def test_every_panel_runs_on_an_empty_ledger(memory_store: Client, panel: Panel, users: list[str] | None) -> None:
    """A fresh installation shows empty panels and no errors."""
    run(memory_store, panel, users)


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.title)
def test_every_panel_shows_something(ledger: Client, panel: Panel) -> None:
    """With usage in the ledger every panel has rows, and the columns that its settings speak of exist."""
    found = run(ledger, panel, None)
    assert found
    named = {override["matcher"]["options"] for override in panel.definition["fieldConfig"]["overrides"]}
    assert named <= found[0].keys()
    assert panel.definition["options"].get("xField", "") in {"", *found[0]}


def test_balances_are_exact_and_lowest_first(ledger: Client) -> None:
    """Amounts are texts with every decimal, and who has least is on top."""
    found = [(row["user"], row["balance"], row["consumed"]) for row in shown(ledger, "Balances")]
    assert found == [
        ("poor", "-0.005", "0.005"),
        ("o'hara", "-0.000000000001", "0.000000000001"),
        ("rich@example.com", "9.7", "0.3"),
    ]


def test_totals_are_exact(ledger: Client) -> None:
    """The figure of the period is the sum of the ledger, and follows the period."""
    assert shown(ledger, "Credits used") == [{"credits": "0.305000000001"}]
    assert shown(ledger, "Credits used", ["rich"]) == [{"credits": "0.3"}]
    assert shown(ledger, "Credits used", ["rich"], days=0.5) == [{"credits": "0.1"}]


def test_the_chosen_user_narrows_every_panel_about_usage(ledger: Client) -> None:
    """With one user chosen, nothing of another is shown; a quote in a name is no way out of the SQL."""
    assert {row["user"] for row in shown(ledger, "Latest events", ["o'hara"])} == {"o'hara"}
    assert {row["user"] for row in shown(ledger, "Balances", ["o'hara"])} == {"o'hara"}
    assert [row["action"] for row in shown(ledger, "Credits used by action", ["poor"])] == ["youtube_sync"]
    assert shown(ledger, "Credits used by model", ["poor"]) == []
    assert shown(ledger, "Users with nothing left", ["rich"]) == [{"users": 0}]


def test_burn_is_by_day_and_action(ledger: Client) -> None:
    """One value for each day (UTC) and action, in the order of time, as a time series needs it."""
    found = shown(ledger, "Credits used by day", ["rich"])
    assert [(row["action_type"], row["credits"]) for row in found] == [
        ("workflow_execution", 0.2),
        ("workflow_execution", 0.1),
    ]
    assert found[1]["time"] - found[0]["time"] == timedelta(days=1)


def test_latest_events_come_first(ledger: Client) -> None:
    """The event that ended last is on top, with model, tokens and metadata."""
    found = shown(ledger, "Latest events")
    assert [row["time"] for row in found] == sorted((row["time"] for row in found), reverse=True)
    [chat] = [row for row in found if row["action"] == "ai_chat_message"]
    assert (chat["model"], chat["credits"], chat["input_tokens"]) == ("claude-sonnet-4-5", "0.000000000001", 100)
    assert {row["metadata"].get("videos") for row in found} == {None, "50"}


def test_the_quarantine_is_shown_by_reason(ledger: Client) -> None:
    """What was not charged is counted, with the reason, and copies of a usage count once."""
    found = {row["reason"]: row["usages"] for row in shown(ledger, "Quarantine by reason")}
    assert found == {"unpriced": 2, "no_user": 1}
    assert shown(ledger, "Usages in quarantine") == [{"usages": 3}]
