"""What people do about the quarantine, by the command, on a running aggregator."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from otel_credits_aggregator.otlp import Signal
from otel_credits_aggregator.privacy import stripped
from support import plain_http
from support.accounting import Accounting, assert_exact, charges, settle
from support.otlp_build import ACTION, AMOUNT, USER, traces, usage_span
from support.otlp_clients import post
from support.processes import AggregatorProcess, clean_environment

# A span's name (field 5) sent as a number: Python's protobuf skips it as unknown, ClickHouse refuses the whole insert.
NAME_AS_NUMBER = b"\x28\x01"


@pytest.fixture
def aggregator(tmp_path: Path) -> Iterator[AggregatorProcess]:
    """A running aggregator with an embedded store."""
    with AggregatorProcess(tmp_path, {"OTEL_CREDITS_STORE_RETRY_MAX_S": "0.05"}) as started:
        yield started


def run(aggregator: AggregatorProcess, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """`otel-credits ...`, which asks the aggregator."""
    return subprocess.run(
        [sys.executable, "-m", "otel_credits_aggregator", *arguments],
        env=clean_environment() | {"OTEL_CREDITS_URL": aggregator.url, "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
    )


def listed(aggregator: AggregatorProcess, *arguments: str) -> list[dict[str, Any]]:
    result = run(aggregator, "quarantine", *arguments, "--json")
    assert result.returncode == 0, result.stderr
    found: list[dict[str, Any]] = json.loads(result.stdout)
    return found


def send(aggregator: AggregatorProcess, *spans: Any) -> None:
    assert post(aggregator.http_endpoint, traces(*spans).SerializeToString()).is_success


def test_usage_without_a_user_is_assigned(aggregator: AggregatorProcess) -> None:
    """Usage that names nobody is listed and shown, charged once to whom it is assigned, and not again when it is sent again."""
    spans = [usage_span({USER: None, AMOUNT: "2.5"}), usage_span({USER: None, AMOUNT: "4"})]
    send(aggregator, *spans, usage_span({AMOUNT: "x"}))
    settle(aggregator)
    rows = listed(aggregator, "list", "--reason", "no_user")
    assert [row["reason"] for row in rows] == ["no_user", "no_user"]
    assert listed(aggregator, "list", "--until", "2020-01-01") == []
    first = next(row for row in rows if row["attributes"]["credits.amount"] == "2.5")
    (copy,) = listed(aggregator, "show", first["event_id"])
    assert (copy["reason"], copy["attributes"]["credits.amount"], copy["raw_bytes"]) == ("no_user", "2.5", 0)
    one = run(
        aggregator, "quarantine", "assign", first["event_id"], "--user", "ada", "--comment", "trial", "--by", "grace"
    )
    assert (one.returncode, one.stdout) == (0, "assigned 1 to ada; 2 usages are quarantined now\n")
    assert charges(aggregator) == {"ada": Decimal("2.5")}
    assert "assigned 1 to bob" in run(aggregator, "quarantine", "assign", "--reason", "no_user", "--user", "bob").stdout
    send(aggregator, *(usage_span({USER: "ada"}) for _ in range(1)))
    assert settle(aggregator) == Accounting(received=4, charged=3, quarantined=1)
    decisions = aggregator.sql("SELECT decided_by, comment, user_id FROM quarantine_decisions WHERE user_id = 'ada'")
    assert decisions == [{"decided_by": "grace", "comment": "trial", "user_id": "ada"}]
    assert aggregator.request("GET", "/api/v1/reconcile") == []


def test_what_is_discarded_stays_in_the_sum(aggregator: AggregatorProcess) -> None:
    """Discarded usage leaves the list, never the accounting, and says who discarded it and why."""
    send(aggregator, usage_span({USER: "test", AMOUNT: "x"}), usage_span({USER: "ada", AMOUNT: "x"}))
    settle(aggregator)
    nothing = run(aggregator, "quarantine", "discard", "--comment", "why")
    assert nothing.returncode == 2
    done = run(aggregator, "quarantine", "discard", "--user", "test", "--comment", "load test", "--by", "grace")
    assert (done.returncode, done.stdout) == (0, "discarded 1; 1 usages are quarantined now\n"), done.stderr
    assert [row["user_id"] for row in listed(aggregator)] == ["ada"]
    assert settle(aggregator) == Accounting(received=2, quarantined=2)
    assert aggregator.metrics()['otel_credits_spans_quarantined_total{reason="discarded"}'] == 1
    (row,) = aggregator.sql("SELECT decision, decided_by, comment, user_id, reason FROM quarantine_decisions")
    assert row == {
        "decision": "discarded",
        "decided_by": "grace",
        "comment": "load test",
        "user_id": "test",
        "reason": "not_a_number",
    }


def test_discarding_everything_must_be_meant(aggregator: AggregatorProcess) -> None:
    """The API refuses to discard where nothing says what, and to discard without a reason why."""
    for parameters, body in (({}, {"comment": "why"}), ({"user": "u"}, {"comment": ""}), ({"user": "u"}, {})):
        answer = post_json(aggregator, "/api/v1/quarantine/discard", parameters, body)
        assert answer == 422


def post_json(aggregator: AggregatorProcess, path: str, parameters: dict[str, str], body: dict[str, str]) -> int:
    return plain_http.post(f"{aggregator.url}{path}", params=parameters, json=body, timeout=30).status_code


def test_raw_requests_are_exported_and_imported(aggregator: AggregatorProcess, tmp_path: Path) -> None:
    """A request that the store refused is written to a file as it is kept; mended, it is imported and charged once."""
    span = usage_span({USER: "ada", ACTION: "render", AMOUNT: "3"})
    good = traces(span)
    poison = traces(span)
    poison.resource_spans[0].scope_spans[0].spans[0].MergeFromString(NAME_AS_NUMBER)
    assert post(aggregator.http_endpoint, poison.SerializeToString()).is_success
    assert settle(aggregator) == Accounting(received=1, quarantined=1)
    (row,) = listed(aggregator)
    (shown,) = listed(aggregator, "show", row["event_id"])
    kept = stripped(Signal.TRACES, poison.SerializeToString(), (), {})
    assert bytes.fromhex(shown["raw_begin"]) == kept[:64]
    assert shown["raw_bytes"] == len(kept)
    file = tmp_path / "requests.jsonl"
    assert run(aggregator, "quarantine", "export", str(file)).returncode == 0
    (line,) = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    assert base64.b64decode(line["raw_request"]) == kept
    assert (line["signal"], line["items"], line["reason"]) == ("traces", 1, "request_not_insertable")
    line["raw_request"] = base64.b64encode(good.SerializeToString()).decode()
    for _ in range(2):
        result = run(aggregator, "quarantine", "import", "-", stdin=json.dumps(line) + "\n")
        assert (result.returncode, result.stdout) == (0, "received 1 requests with 1 spans or data points\n")
    assert settle(aggregator) == Accounting(received=3, charged=1, duplicate=1, quarantined=1)
    assert_exact(aggregator, {"ada": Decimal(3)})


def test_an_imported_request_is_held_to_its_binding(aggregator: AggregatorProcess) -> None:
    """What the sender's token did not allow is not charged by an import either."""
    spans = [usage_span({USER: "ada", ACTION: action, AMOUNT: "1"}) for action in ("chat", "render")]
    raw = base64.b64encode(traces(*spans, service="chat-app").SerializeToString()).decode()
    line = {"signal": "traces", "raw_request": raw, "allowed_services": ["chat-app"], "allowed_actions": ["chat"]}
    assert run(aggregator, "quarantine", "import", "-", stdin=json.dumps(line) + "\n").returncode == 0
    assert settle(aggregator) == Accounting(received=2, charged=1, quarantined=1)
    assert_exact(aggregator, {"ada": Decimal(1)})
    (row,) = listed(aggregator)
    assert (row["action_type"], row["reason"]) == ("render", "not_allowed")


NO_REQUESTS = ("{}", "nonsense", '{"signal": "traces", "raw_request": "?"}', '{"signal": "logs", "raw_request": ""}')


def test_what_is_no_request_is_not_imported(aggregator: AggregatorProcess) -> None:
    """A line that is no exported request ends the import with 1 and its number; nothing of it is received."""
    not_otlp = json.dumps({"signal": "traces", "raw_request": base64.b64encode(b"\xff").decode()})
    for line in (*NO_REQUESTS, not_otlp):
        result = run(aggregator, "quarantine", "import", "-", stdin=line + "\n")
        assert (result.returncode, "otel-credits: " in result.stderr) == (1, True), line
        assert ("line 1" in result.stderr) == (line != not_otlp)
    assert settle(aggregator) == Accounting(received=0)
