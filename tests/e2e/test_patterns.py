"""The calls of the hand-made module, as its users wrote them, in running apps: the patterns of the README.

The apps are those of ``examples/``: FastAPI under uvicorn, a Celery worker on Redis, scripts. Each test has a user of
its own and reads the ledger through the API, as a person would.
"""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from support.example_apps import ExampleApps
from support.processes import clean_environment, wait_until

MODEL = "claude-sonnet-5-5"
LATEST_EVENTS = """\
SELECT u.email, ce.action_type, ce.credits_charged, ce.description, ce.created_at
FROM credit_usage_events ce JOIN users u ON u.id = ce.user_id
ORDER BY ce.created_at DESC LIMIT 20;"""
BALANCES = """\
SELECT u.email, cb.current_balance, cb.current_month_consumed
FROM user_credit_balances cb JOIN users u ON u.id = cb.user_id;"""


@pytest.fixture(scope="module")
def apps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExampleApps]:
    """All example apps, ready, with an embedded store."""
    with ExampleApps(tmp_path_factory.mktemp("example-apps")) as running:
        yield running


@pytest.fixture
def user_id() -> uuid.UUID:
    """A user that no other test has."""
    return uuid.uuid4()


def question(text: str, **more: str) -> dict[str, str]:
    """Return the body of a question to the chat app."""
    return {"message": text, "model": MODEL, **more}


def token_prices(apps: ExampleApps) -> dict[str, Decimal]:
    """Return the price of each unit of `MODEL` in the price book."""
    rows = [row for row in apps.api.prices() if row["model"] == MODEL]
    rows.sort(key=lambda row: str(row["effective_from"]))
    return {row["unit"]: Decimal(row["credits_per_unit"]) for row in rows}


def cost(apps: ExampleApps, served: dict[str, Any]) -> Decimal:
    """Return what the price book asks for what the model server says it served."""
    prices = token_prices(apps)
    units = {"input_token": "input_tokens", "cache_read_token": "cache_read_tokens"}
    units |= {"cache_write_token": "cache_write_tokens", "output_token": "output_tokens"}
    return sum((prices[unit] * served[figure] for unit, figure in units.items()), Decimal(0))


def charged(events: list[dict[str, Any]]) -> list[Decimal]:
    """Return the charges of events."""
    return [Decimal(event["credits_charged"]) for event in events]


def test_tokens_tracked_after_a_stream_are_charged(apps: ExampleApps, user_id: uuid.UUID) -> None:
    """Pattern 1: `await track_ai_usage(...)` in a streaming endpoint's generator becomes one event with all it said."""
    session_id = str(uuid.uuid4())
    answer = apps.ask("POST", "/chat/tracked-after-stream", user_id, json=question("Hello?", session_id=session_id))
    assert answer.status_code == 200
    [event], [served] = apps.events(user_id, 1), apps.served(user_id)
    assert charged([event]) == [cost(apps, served)]
    assert (event["input_tokens"], event["output_tokens"]) == (served["input_tokens"], served["output_tokens"])
    assert (event["action_type"], event["model"]) == ("ai_chat_message", MODEL)
    assert event["description"] == "AI chat message"
    assert (event["resource_id"], event["resource_type"]) == (session_id, "chat_session")
    assert event["service_name"] == "chat-app"


@pytest.mark.parametrize("style", ["plain", "async"])
def test_a_workflow_in_celery_costs_its_predefined_cost(apps: ExampleApps, user_id: uuid.UUID, style: str) -> None:
    """Pattern 2: `track_compute_usage` charges 0.001 from a Celery task, called plainly or awaited."""
    answer = apps.ask("POST", f"/workflows?style={style}", user_id)
    [event] = apps.events(user_id, 1)
    assert charged([event]) == [Decimal("0.001")]
    assert event["action_type"] == "workflow_execution"
    assert (event["resource_id"], event["resource_type"]) == (answer.json()["workflow_id"], "workflow")
    assert event["service_name"] == "workflow-worker"


def test_metadata_of_a_sync_can_be_queried(apps: ExampleApps, user_id: uuid.UUID) -> None:
    """Pattern 3: `metadata={"videos_synced": 50, ...}` is in the ledger, where SQL finds and sums it."""
    assert apps.ask("POST", "/channel/sync", user_id).status_code == 200
    assert apps.run_script("sync_job.py", str(user_id)) == 0
    events = apps.events(user_id, 2)
    assert charged(events) == [Decimal("0.005")] * 2
    assert {event["action_type"] for event in events} == {"youtube_sync"}
    [row] = apps.api.sql(
        "SELECT sum(toUInt64(metadata['videos_synced'])) AS videos, any(metadata['comments_synced']) AS comments "
        f"FROM credit_usage_events WHERE user_id = '{user_id}' AND metadata['videos_synced'] = '50'"
    )
    assert (int(row["videos"]), row["comments"]) == (100, "200")


def test_a_decorated_function_is_charged(apps: ExampleApps, user_id: uuid.UUID) -> None:
    """Pattern 4: `@track_credits(..., manual_credits=0.002)` finds `user_id` among an async function's arguments."""
    assert apps.ask("GET", "/analytics", user_id).json()["user_id"] == str(user_id)
    assert apps.run_script("report.py", str(user_id)) == 0
    events = apps.events(user_id, 2)
    assert charged(events) == [Decimal("0.002")] * 2
    assert [event["description"] for event in events] == ["Analytics report", "Weekly report"]


def test_positional_arguments_work(apps: ExampleApps, user_id: uuid.UUID) -> None:
    """Pattern 5: `await track_ai_usage(user_id, ActionType..., ...)` is charged as the call with keywords is."""
    assert apps.ask("POST", "/comments/reply", user_id, json=question("Why?")).json()["ai"] is True
    [event], [served] = apps.events(user_id, 1), apps.served(user_id)
    assert charged([event]) == [cost(apps, served)]
    assert event["action_type"] == "ai_comment_response"


def test_a_bulk_operation_is_one_charge(apps: ExampleApps, user_id: uuid.UUID) -> None:
    """Pattern 5: one call with `credits=0.01` charges 0.01, however many things the operation worked on."""
    apps.ask("POST", "/comments/moderate", user_id, json=["spam"] * 500)
    [event] = apps.events(user_id, 1)
    assert charged([event]) == [Decimal("0.01")]
    assert (event["action_type"], event["metadata"]["comments"]) == ("bulk_operation", "500")


def test_the_branch_without_the_model_is_free(apps: ExampleApps, user_id: uuid.UUID) -> None:
    """Pattern 5: a request whose handler did not track costs nothing, and a later one is charged as always."""
    assert apps.ask("POST", "/comments/reply", user_id, json=question("Nice.")).json()["ai"] is False
    apps.ask("POST", "/channel/sync", user_id)
    assert charged(apps.events(user_id, 1)) == [Decimal("0.005")]


@pytest.mark.parametrize("question_number", range(4))
def test_a_reader_who_hangs_up_pays_for_what_was_used(
    apps: ExampleApps, user_id: uuid.UUID, question_number: int
) -> None:
    """A stream wrapped in `track_stream` and cut by its reader is charged with the input and the output it reported."""
    text = f"Question {question_number}? LONG_ANSWER please."
    apps.hang_up("/chat", user_id, question(text), after_lines=6)
    [event] = apps.events(user_id, 1)
    wait_until(lambda: apps.served(user_id)[0]["status"] != "running", 10, "the model server notices the hang-up")
    [served] = apps.served(user_id)
    assert served["status"] == "aborted"
    assert charged([event]) == [cost(apps, served)]
    assert event["output_tokens"] == served["output_tokens"]
    cached = served["cache_read_tokens"] + served["cache_write_tokens"]
    assert event["input_tokens"] == served["input_tokens"] + cached


def test_a_tracked_stream_read_to_its_end_is_charged_exactly(apps: ExampleApps, user_id: uuid.UUID) -> None:
    """`track_stream` charges cached and uncached input and the final output, by the model that answered."""
    for number in range(5):
        assert apps.ask("POST", "/chat", user_id, json=question(f"Question {number}?")).status_code == 200
    events, served = apps.events(user_id, 5), apps.served(user_id)
    assert sorted(charged(events)) == sorted(cost(apps, entry) for entry in served)
    assert {event["model"] for event in events} == {entry["model"] for entry in served}


def test_a_handler_that_raises_after_tracking_is_charged(apps: ExampleApps, user_id: uuid.UUID) -> None:
    """An error after the tracking call takes nothing back: the model's answer was used."""
    assert apps.ask("POST", "/chat/fails-afterwards", user_id, json=question("Hello?")).status_code == 500
    assert charged(apps.events(user_id, 1)) == [cost(apps, served) for served in apps.served(user_id)]


def test_the_two_queries_work_word_for_word(apps: ExampleApps, user_id: uuid.UUID) -> None:
    """The queries of the design answer through the API with the user's e-mail, charge, balance and month."""
    apps.api.set_profile(user_id, f"{user_id}@example.com", "Ada")
    apps.api.grant(user_id, Decimal("1.5"), "welcome")
    apps.ask("POST", "/channel/sync", user_id)
    apps.events(user_id, 1)
    mine = [row for row in apps.api.sql(LATEST_EVENTS) if row["email"] == f"{user_id}@example.com"]
    assert [(row["action_type"], Decimal(row["credits_charged"])) for row in mine] == [
        ("youtube_sync", Decimal("0.005"))
    ]
    [balance] = [row for row in apps.api.sql(BALANCES) if row["email"] == f"{user_id}@example.com"]
    assert Decimal(balance["current_balance"]) == Decimal("1.495")
    assert Decimal(balance["current_month_consumed"]) == Decimal("0.005")


@pytest.mark.parametrize("query", [LATEST_EVENTS, BALANCES], ids=["latest events", "balances"])
def test_the_two_queries_work_in_the_command(apps: ExampleApps, user_id: uuid.UUID, query: str) -> None:
    """`otel-credits sql` prints what the two queries find, beside a running aggregator."""
    email = f"{user_id}@example.com"
    apps.api.set_profile(user_id, email, "Grace")
    apps.ask("POST", "/channel/sync", user_id)
    apps.events(user_id, 1)
    command = [sys.executable, "-m", "otel_credits_aggregator", "sql", query]
    env = clean_environment({"OTEL_CREDITS_URL": apps.api_url, "COLUMNS": "200", "PATH": os.environ["PATH"]})
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert email in done.stdout
