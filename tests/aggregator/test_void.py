"""Taking a charge back, by the command, on a running aggregator: once, by a further entry, on record."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from support.accounting import Accounting, assert_exact, charges, settle
from support.otlp_build import ACTION, AMOUNT, INPUT, OUTPUT, RESPONSE_MODEL, USER, traces, usage_span
from support.otlp_clients import post
from support.processes import AggregatorProcess, clean_environment, wait_until


@pytest.fixture
def aggregator(tmp_path: Path) -> Iterator[AggregatorProcess]:
    """A running aggregator with an embedded store."""
    with AggregatorProcess(tmp_path) as started:
        yield started


def run(aggregator: AggregatorProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`otel-credits ...`, which asks the aggregator."""
    return subprocess.run(
        [sys.executable, "-m", "otel_credits_aggregator", *arguments],
        env=clean_environment({"OTEL_CREDITS_URL": aggregator.url}),
        capture_output=True,
        text=True,
        timeout=120,
    )


def events(aggregator: AggregatorProcess) -> list[dict[str, Any]]:
    """What `otel-credits events` shows, the first charged first."""
    found: list[dict[str, Any]] = json.loads(run(aggregator, "events", "--json").stdout)
    return found[::-1]


def some_usage() -> ExportTraceServiceRequest:
    """2.5 credits with tokens of one user, and 4 credits of another."""
    tokens = {INPUT: 120, OUTPUT: 30, RESPONSE_MODEL: "some-model"}
    return traces(
        usage_span({USER: "ada", AMOUNT: "2.5", ACTION: "chat", **tokens}), usage_span({USER: "bob", AMOUNT: "4"})
    )


def test_a_charge_is_taken_back_once(aggregator: AggregatorProcess) -> None:
    """The charge stays and shows as void, the sums are as if it had not been made, and the second time says who did it."""
    request = some_usage().SerializeToString()
    assert post(aggregator.http_endpoint, request).is_success
    settle(aggregator)
    event_id = next(event["event_id"] for event in events(aggregator) if event["user_id"] == "ada")
    first = run(aggregator, "void", event_id, "--reason", "empty report", "--by", "grace")
    assert (first.returncode, first.stdout) == (0, "gave 2.5 credits back to ada\n")
    second = run(aggregator, "void", event_id, "--reason", "again", "--by", "hopper")
    assert second.returncode == 0
    assert second.stdout.startswith("was void before: grace took it back at ")
    assert "(empty report); nothing was changed" in second.stdout
    shown = [(event["status"], event["credits_charged"], event["input_tokens"]) for event in events(aggregator)]
    assert sorted(shown) == [("charged", "4", 0), ("reversal", "-2.5", -120), ("void", "2.5", 120)]
    assert charges(aggregator) == {"bob": Decimal(4)}
    assert_exact(aggregator, {"bob": Decimal(4)})
    decisions = "SELECT kind, voided_by, comment, user_id, toString(credits_charged) AS credits FROM credit_voids"
    assert [tuple(row.values()) for row in aggregator.sql(decisions)] == [
        ("void", "grace", "empty report", "ada", "2.5")
    ]
    # Sent again it is a duplicate, and it stays counted as what it was.
    assert post(aggregator.http_endpoint, request).is_success
    assert settle(aggregator) == Accounting(received=4, charged=2, duplicate=2)
    assert_exact(aggregator, {"bob": Decimal(4)})
    aggregator.request("POST", "/api/v1/rebuild")
    assert_exact(aggregator, {"bob": Decimal(4)})


def test_what_was_not_charged_is_not_taken_back(aggregator: AggregatorProcess) -> None:
    """An id that nothing was charged under is told, and a decision needs a reason."""
    unknown = run(aggregator, "void", str(uuid.uuid4()), "--reason", "why not")
    assert (unknown.returncode, "was charged" in unknown.stderr) == (1, True)
    assert run(aggregator, "void", str(uuid.uuid4())).returncode == 2
    assert run(aggregator, "void", "42", "--reason", "x").returncode == 2
    assert aggregator.sql("SELECT * FROM credit_voids") == []


def test_a_kill_in_between_takes_back_once(tmp_path: Path) -> None:
    """A server that is killed after a charge was taken back, before it knows, takes it back once."""
    with AggregatorProcess(tmp_path) as aggregator:
        assert post(aggregator.http_endpoint, some_usage().SerializeToString()).is_success
        settle(aggregator)
        event_id = next(event["event_id"] for event in events(aggregator) if event["user_id"] == "ada")
        assert aggregator.terminate() == 0
        aggregator.env["OTEL_CREDITS_FAULT_POINT"] = "insert_done:1"
        aggregator.start()
        aggregator.wait_ready()
        with pytest.raises(httpx.HTTPError):
            aggregator.request("POST", f"/api/v1/events/{event_id}/void", json={"reason": "empty report"})
        wait_until(lambda: not aggregator.is_running, 30, "it has died")
        assert aggregator.returncode == -signal.SIGKILL
        aggregator.env["OTEL_CREDITS_FAULT_POINT"] = ""
        aggregator.start()
        aggregator.wait_ready()
        settle(aggregator)
        assert_exact(aggregator, {"bob": Decimal(4)})
        void = aggregator.request("POST", f"/api/v1/events/{event_id}/void", json={"reason": "again"})
        assert (void["reason"], void["credits"]) == ("empty report", "2.5")
        assert_exact(aggregator, {"bob": Decimal(4)})
