"""A price changed while apps run: it holds for the next usage within seconds, and what is charged stays charged."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import clickhouse_connect
import pytest
from support.example_apps import ExampleApps
from support.processes import clean_environment, wait_until

pytest_plugins = ("support.clickhouse_http.fixture",)

PRICED_WITHIN_S = 5.0
GIVE_UP_AFTER_S = 60.0
USE_INTERVAL_S = 0.5
ACTION = "ai_comment_response"


def use(apps: ExampleApps, user_id: uuid.UUID) -> None:
    """Do what costs tokens."""
    question = {"message": "Why?", "model": "claude-sonnet-5-5"}
    assert apps.ask("POST", "/comments/reply", user_id, json=question).status_code == 200


def output_price(event: dict[str, Any]) -> Decimal:
    """Return the price of an output token that an event was charged with."""
    return Decimal(event["prices"]["output_token"])


def ended_at(event: dict[str, Any]) -> datetime:
    """Return the time of a usage."""
    return datetime.fromisoformat(event["created_at"]).replace(tzinfo=UTC)


def check_that_next_usage_is_repriced(apps: ExampleApps, change: Callable[[], None], new_price: Decimal) -> None:
    """Use, change the price, go on using until the new price shows; judge every event by its own time."""
    user_id = uuid.uuid4()
    use(apps, user_id)
    [before] = apps.events(user_id, 1)
    assert output_price(before) != new_price
    change()
    changed_at = datetime.now(UTC)

    def used_at_new_price() -> bool:
        use(apps, user_id)
        return any(output_price(event) == new_price for event in apps.events(user_id, 2))

    wait_until(used_at_new_price, GIVE_UP_AFTER_S, "a usage at the new price", interval_s=USE_INTERVAL_S)
    use(apps, user_id)
    sent = len(apps.served(user_id))
    events = apps.events(user_id, sent)
    late = [event for event in events if ended_at(event) > changed_at + timedelta(seconds=PRICED_WITHIN_S)]
    first_new = min(ended_at(event) for event in events if output_price(event) == new_price)
    assert first_new <= changed_at + timedelta(seconds=PRICED_WITHIN_S)
    assert {output_price(event) for event in late} <= {new_price}
    assert events[0]["credits_charged"] == before["credits_charged"]
    assert output_price(events[0]) == output_price(before)
    balance = apps.api.sql(f"SELECT lifetime_consumed FROM user_credit_balances WHERE user_id = '{user_id}'")
    assert Decimal(balance[0]["lifetime_consumed"]) == sum(Decimal(event["credits_charged"]) for event in events)


@pytest.fixture
def server_apps(tmp_path: Path, clickhouse_http_dsn: str) -> Iterator[ExampleApps]:
    """All example apps, with a ClickHouse server as the store."""
    with ExampleApps(tmp_path, {"OTEL_CREDITS_STORE": clickhouse_http_dsn}) as apps:
        yield apps


def test_a_price_inserted_with_plain_sql_holds_within_seconds(
    server_apps: ExampleApps, clickhouse_http_dsn: str
) -> None:
    """A row inserted into `credit_action_costs` by somebody else's client prices the next usage, and no earlier one."""
    price = Decimal("0.000123456789")

    def insert() -> None:
        with clickhouse_connect.get_client(dsn=clickhouse_http_dsn) as client:
            client.command(
                "INSERT INTO credit_action_costs (action_type, unit, credits_per_unit) "
                f"VALUES ('{ACTION}', 'output_token', {price})"
            )

    check_that_next_usage_is_repriced(server_apps, insert, price)


def test_a_price_updated_with_plain_sql_holds_within_seconds(
    server_apps: ExampleApps, clickhouse_http_dsn: str
) -> None:
    """A row of `credit_action_costs` updated in place prices the next usage, and no earlier one."""
    price = Decimal("0.000987654321")

    def update() -> None:
        # In quotes: a bare number in an expression is a binary float, which has no room for 12 decimals.
        with clickhouse_connect.get_client(dsn=clickhouse_http_dsn) as client:
            client.command(
                f"ALTER TABLE credit_action_costs UPDATE credits_per_unit = '{price}' "
                "WHERE unit = 'output_token' AND model = 'claude-sonnet-5-5' SETTINGS mutations_sync = 2"
            )

    check_that_next_usage_is_repriced(server_apps, update, price)


def test_a_price_set_by_the_command_holds_within_seconds(tmp_path: Path) -> None:
    """`otel-credits prices set` beside a running aggregator with an embedded store does the same."""
    price = Decimal("0.00005")

    def set_price() -> None:
        command = [sys.executable, "-m", "otel_credits_aggregator", "prices", "set"]
        command += [ACTION, str(price), "--unit", "output_token"]
        env = clean_environment({"OTEL_CREDITS_URL": apps.api_url})
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr

    with ExampleApps(tmp_path) as apps:
        check_that_next_usage_is_repriced(apps, set_price, price)
