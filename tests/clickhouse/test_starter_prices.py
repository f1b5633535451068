"""What a fresh store knows before anyone has set a price or named an instrumentation."""

import re
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from otel_credits._attributes import CACHE_READ_TOKENS, INPUT_TOKENS, RESPONSE_MODEL
from otel_credits_aggregator.migrations import migrations, statements
from otel_credits_aggregator.store import Client, rows
from support.store import Usage, insert_usages

ROOT = Path(__file__).resolve().parents[2]
SEEDS = ("starter_prices", "conventions")
TOKEN_UNITS = {"input_token", "cache_read_token", "cache_write_token", "output_token"}
EMBEDDINGS = {"text-embedding-3-small", "text-embedding-3-large", "gemini-embedding-001"}

# US dollars per 1,000,000 tokens: input, read from the cache, written to the cache, output, and with Claude written to the
# cache for an hour. Written down here a second time, independently of the migration.
LIST_PRICES = {
    "claude-sonnet-4-5": ("3", "0.30", "3.75", "15", "6"),
    "claude-opus-4-5": ("5", "0.50", "6.25", "25", "10"),
    "claude-haiku-4-5": ("1", "0.10", "1.25", "5", "2"),
    "gpt-5-mini": ("0.25", "0.025", "0.25", "2"),
    "gpt-4o": ("2.50", "1.25", "2.50", "10"),
    "gemini-2.5-flash": ("0.30", "0.03", "0.30", "2.50"),
}


def seed_statements() -> Iterator[str]:
    """Yield the statements of the migrations that fill tables."""
    for migration in migrations():
        if migration.name in SEEDS:
            yield from statements(migration.sql)


def token_rows(client: Client) -> list[dict[str, object]]:
    """Return the price rows of models."""
    return rows(client, "SELECT * FROM credit_action_costs WHERE model != '*' ORDER BY model, effective_from, unit")


def charges(client: Client) -> list[Decimal]:
    """Return what the events were charged, in the order they ended."""
    events = rows(client, "SELECT credits_charged FROM credit_usage_events ORDER BY created_at")
    return [row["credits_charged"] for row in events]


def llm_call(model: str, ended_at: datetime | None = None, cache_read: int = 0) -> Usage:
    """Return the usage of an LLM call with a million input tokens, some of them read from the cache."""
    attributes = {INPUT_TOKENS: "1000000", CACHE_READ_TOKENS: str(cache_read), RESPONSE_MODEL: model}
    return Usage(action_type="ai_call", ended_at=ended_at, attributes=attributes)


def test_every_row_has_a_source_and_its_date(memory_store: Client) -> None:
    """Each price of the starter book says where it is from and when that was read."""
    sources = rows(memory_store, "SELECT DISTINCT source, model FROM credit_action_costs")
    assert sources
    for row in sources:
        assert re.search(r"\b20\d\d-\d\d-\d\d\b", row["source"]), row
        assert row["model"] == "*" or row["source"].startswith("https://"), row


@pytest.mark.parametrize("model", LIST_PRICES)
def test_prices_are_the_list_prices(memory_store: Client, model: str) -> None:
    """One credit is one US dollar: a token costs a millionth of what the price page says of a million, exactly."""
    found = {row["unit"]: row["credits_per_unit"] for row in token_rows(memory_store) if row["model"] == model}
    units = ("input_token", "cache_read_token", "cache_write_token", "output_token", "cache_write_1h_token")
    prices = LIST_PRICES[model]
    assert found == {u: Decimal(usd).scaleb(-6) for u, usd in zip(units[: len(prices)], prices, strict=True)}


def test_every_model_has_all_its_units(memory_store: Client) -> None:
    """No model has a price for one kind of token and none for another, at any of its dates."""
    units = defaultdict(set)
    for row in token_rows(memory_store):
        units[row["model"], row["effective_from"]].add(row["unit"])
    assert len({model for model, _ in units}) > 40
    for (model, since), found in units.items():
        hour_long = {"cache_write_1h_token"} if "claude" in model else set()
        assert found == ({"input_token"} if model in EMBEDDINGS else TOKEN_UNITS | hour_long), (model, since)


def test_predefined_costs_are_there(memory_store: Client) -> None:
    """The actions with a predefined cost are charged it, whenever they happened."""
    for action in ("workflow_execution", "youtube_sync", "analytics_generation", "bulk_operation"):
        insert_usages(memory_store, Usage(action_type=action, ended_at=datetime(2001, 1, 1, tzinfo=UTC)))
    costs = rows(memory_store, "SELECT action_type, credits_charged FROM credit_usage_events")
    assert {row["action_type"]: row["credits_charged"] for row in costs} == {
        "workflow_execution": Decimal("0.001"),
        "youtube_sync": Decimal("0.005"),
        "analytics_generation": Decimal("0.002"),
        "bulk_operation": Decimal("0.01"),
    }


def test_dated_snapshots_have_their_models_price(memory_store: Client) -> None:
    """The names that providers answer with, which carry a date, are priced like the model they are a snapshot of."""
    snapshots = ("claude-sonnet-4-5-20250929", "gpt-5-mini-2025-08-07", "text-embedding-3-small")
    insert_usages(memory_store, *map(llm_call, snapshots))
    assert sorted(charges(memory_store)) == [Decimal("0.02"), Decimal("0.25"), Decimal("3")]


def test_a_snapshot_may_have_a_price_of_its_own(memory_store: Client) -> None:
    """A row for the full name wins over the row of the model: the first gpt-4o costs twice what later ones do."""
    for model in ("gpt-4o-2024-05-13", "gpt-4o-2024-11-20"):
        insert_usages(memory_store, llm_call(model))
    assert charges(memory_store) == [Decimal(5), Decimal("2.5")]


@pytest.mark.parametrize(
    ("endpoint", "usd"),
    [
        ("anthropic.", "3"),
        ("global.anthropic.", "3"),
        ("us.anthropic.", "3.3"),
        ("bedrock/eu.anthropic.", "3.3"),
        ("arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.", "3.3"),
        ("us-gov.anthropic.", "3.6"),
    ],
)
def test_a_geographic_endpoint_of_bedrock_costs_more(memory_store: Client, endpoint: str, usd: str) -> None:
    """Claude costs a tenth more through an endpoint of several regions of a continent, a fifth more in GovCloud."""
    insert_usages(memory_store, llm_call(endpoint + "claude-sonnet-4-5-20250929-v1:0"))
    assert charges(memory_store) == [Decimal(usd)]


def test_a_price_change_counts_from_its_day(memory_store: Client) -> None:
    """Usage before a provider's price change is charged the old price, usage after it the new one."""
    changed = datetime(2026, 10, 7, tzinfo=UTC)
    for ended_at in (changed.replace(day=6), changed):
        insert_usages(memory_store, llm_call("claude-sonnet-5-5", ended_at, cache_read=1_000_000))
    assert charges(memory_store) == [Decimal("0.2"), Decimal("0.1")]


def test_applying_the_seeds_again_changes_nothing(memory_store: Client) -> None:
    """Whoever applies the files by hand a second time adds no row, and does not undo a price that was set since."""
    memory_store.command(
        "INSERT INTO credit_action_costs (action_type, model, unit, credits_per_unit, effective_from, source) "
        "SELECT action_type, model, unit, 7, effective_from, 'mine' FROM credit_action_costs WHERE model = 'gpt-5'"
    )
    tables = ("credit_action_costs", "credit_conventions")
    before = [rows(memory_store, f"SELECT * FROM {table} ORDER BY ALL") for table in tables]
    for statement in seed_statements():
        memory_store.command(statement)
    assert [rows(memory_store, f"SELECT * FROM {table} ORDER BY ALL") for table in tables] == before


def test_measured_instrumentations_are_known(memory_store: Client) -> None:
    """Each emitter that a fresh store knows is in the documents with what was measured, and few leave cached tokens out."""
    found = rows(memory_store, "SELECT * FROM credit_conventions")
    lines = (ROOT / "docs" / "emitters.md").read_text("utf-8").split("| --- | --- | --- | --- |")[1].split("\n\n")[0]
    documented = {tuple(re.findall(r"`([a-z0-9_.-]+)` .*[|] (.*) [|]$", line)) for line in lines.strip().splitlines()}
    assert documented == {((row["scope_name"], row["source"]),) for row in found}
    assert {(row["scope_name"], row["version_until"]) for row in found if not row["input_includes_cache"]} == {
        ("openlit.instrumentation.anthropic", ""),
        ("openinference.instrumentation.anthropic", "0.1.14"),
        ("opentelemetry.instrumentation.bedrock", ""),
        ("opentelemetry.instrumentation.botocore.bedrock-runtime", ""),
        ("opentelemetry.instrumentation.genai.bedrock", ""),
    }
