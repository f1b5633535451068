"""`OTEL_CREDITS_ESTIMATED` on a running aggregator: what the library marks is held, and charged once by who decides."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from support.accounting import Accounting, assert_exact, settle
from support.llm_server import LlmServer, Usage
from support.otlp_build import AMOUNT, ESTIMATED, USER, traces, usage_span
from support.otlp_clients import post
from support.processes import AggregatorProcess, clean_environment

# An app that leaves a stream of Anthropic's after its first event, when the output count is a placeholder still.
APP = """
import sys, anthropic, otel_credits
otel_credits.configure(endpoint=sys.argv[1])
client = anthropic.Anthropic(api_key="x", base_url=sys.argv[2], max_retries=0)
ask = {"model": "claude-sonnet-4-5", "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}]}
stream = client.messages.create(**ask, stream=True)
tracked = otel_credits.track_stream(stream, user_id="ada", action_type="ai_chat_message")
next(iter(tracked))
tracked.close()
assert otel_credits.shutdown(60)
"""
# 1,000 input tokens and the placeholder of 4 output tokens, by the starter price book.
PRICE = Decimal("0.003") + 4 * Decimal("0.000015")


@pytest.fixture
def server() -> Iterator[LlmServer]:
    """The LLM."""
    with LlmServer() as started:
        started.next = Usage(input=1000, output=61)
        yield started


def aggregator(folder: Path, policy: str) -> AggregatorProcess:
    """An aggregator on the data of this test, with this policy."""
    return AggregatorProcess(folder, {"OTEL_CREDITS_ESTIMATED": policy})


def leave_a_stream(receiver: AggregatorProcess, server: LlmServer) -> None:
    """Runs the app."""
    app = [sys.executable, "-c", APP, receiver.grpc_endpoint, server.url]
    environment = clean_environment() | {"PYTHONPATH": ":".join(path for path in sys.path if path)}
    done = subprocess.run(app, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def replay(receiver: AggregatorProcess, **which: str) -> None:
    """As `otel-credits quarantine replay` does."""
    receiver.request("POST", "/api/v1/quarantine/replay", params=which)


@pytest.mark.long
def test_a_broken_stream_is_held_and_charged_when_the_policy_changes(tmp_path: Path, server: LlmServer) -> None:
    """The estimate of a real stream waits, also when it is replayed; after a restart with another policy it is charged once."""
    with aggregator(tmp_path, "quarantine") as receiver:
        leave_a_stream(receiver, server)
        assert settle(receiver) == Accounting(received=1, quarantined=1)
        (row,) = receiver.request("GET", "/api/v1/quarantine")
        assert (row["reason"], row["user_id"]) == ("estimated", "ada")
        replay(receiver)
        assert settle(receiver) == Accounting(received=1, quarantined=1)
    with aggregator(tmp_path, "charge") as receiver:
        for _ in range(2):
            replay(receiver)
        assert settle(receiver) == Accounting(received=1, charged=1)
        assert_exact(receiver, {"ada": PRICE})


@pytest.mark.long
def test_who_names_estimates_decides_to_charge_them(tmp_path: Path) -> None:
    """Whatever the setting is, a replay of this reason, or of one event, charges once; none drops what was held."""
    spans = [usage_span({ESTIMATED: True, USER: user, AMOUNT: "2"}) for user in ("ada", "bob")]
    with aggregator(tmp_path, "quarantine") as receiver:
        assert post(receiver.http_endpoint, traces(*spans).SerializeToString()).is_success
        settle(receiver)
    with aggregator(tmp_path, "ignore") as receiver:
        replay(receiver)
        assert settle(receiver) == Accounting(received=2, quarantined=2)
        (row,) = receiver.request("GET", "/api/v1/quarantine", params={"user": "ada"})
        replay(receiver, event=row["event_id"])
        assert_exact(receiver, {"ada": Decimal(2)})
        replay(receiver, reason="estimated")
        assert_exact(receiver, {"ada": Decimal(2), "bob": Decimal(2)})
        assert post(
            receiver.http_endpoint, traces(*spans, usage_span({ESTIMATED: True})).SerializeToString()
        ).is_success
        assert settle(receiver) == Accounting(received=5, charged=2, not_usage=3)


def test_by_default_a_broken_stream_is_charged(tmp_path: Path, server: LlmServer) -> None:
    """Without the setting, what the provider had said when the reader left is charged, and marked in the ledger."""
    with AggregatorProcess(tmp_path) as receiver:
        leave_a_stream(receiver, server)
        assert settle(receiver) == Accounting(received=1, charged=1)
        assert_exact(receiver, {"ada": PRICE})
        (event,) = receiver.request("GET", "/api/v1/events")
        assert event["metadata"] == {"estimated": "true", "stream": "aborted"}
