"""docs/billing-rules.md, command by command."""

import json
import re
import shlex
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from otel_credits_aggregator.cli import app
from otel_credits_aggregator.store import Client
from support.otlp_build import span, traces
from support.processes import free_port
from typer.testing import CliRunner, Result

PAGE = (Path(__file__).parents[2] / "docs" / "billing-rules.md").read_text("utf-8")
COMMANDS = [
    shlex.split(line)[1:]
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
    if not line.startswith("#")
]
SERVER = 2


@pytest.fixture
def run(memory_dsn: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    """Run the command in this process, on a store of the test's own and without any server."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OTEL_CREDITS_URL", raising=False)
    monkeypatch.setenv("OTEL_CREDITS_STORE", memory_dsn)
    monkeypatch.setenv("OTEL_CREDITS_KEEP_REQUESTS_H", "24")
    monkeypatch.setenv("OTEL_CREDITS_API_PORT", str(free_port()))
    return lambda *arguments: CliRunner().invoke(app, arguments)


def as_otlp_json(request: Any) -> str:
    """The request as OTLP's JSON, in which ids are hex."""
    message = MessageToDict(request)
    for one, sent in zip(
        message["resourceSpans"][0]["scopeSpans"][0]["spans"],
        request.resource_spans[0].scope_spans[0].spans,
        strict=True,
    ):
        one |= {"traceId": sent.trace_id.hex(), "spanId": sent.span_id.hex()}
    return json.dumps(message)


def test_the_page_does_what_it_says(run: Callable[..., Result], memory_store: Client, tmp_path: Path) -> None:
    """Every command of the page works; the rules that are on in the end are those that it switches on."""
    request = traces(
        span({"http.route": "/films/{id}", "user.id": "ada"}, kind=SERVER), span({"http.route": "/x"}, kind=SERVER)
    )
    (tmp_path / "spans.json").write_text(as_otlp_json(request))
    (tmp_path / "spans.bin").write_bytes(request.SerializeToString())
    assert len(COMMANDS) > 8
    for arguments in COMMANDS:
        result = run(*arguments)
        assert result.exit_code == 0, result.output
    found = memory_store.command(
        "SELECT arrayStringConcat(arraySort(groupArray(rule.id)), ' ') FROM rules_in_force WHERE until_us > 4e18"
    )
    assert found == "attempts celery-tasks films"
    tested = json.loads(run("rules", "test", "films", "--otlp", "spans.bin", "--otlp", "spans.json", "--json").stdout)
    assert [(row["user_id"], row["usages"], Decimal(row["credits"])) for row in tested] == [("ada", 1, Decimal("0.5"))]
    listed = json.loads(run("rules", "list", "--on", "--json").stdout)
    assert [rule["rule_id"] for rule in listed] == ["attempts", "celery-tasks", "films"]
    assert "http.route = /films*" in run("rules", "list").stdout


def test_a_file_that_is_no_request_is_a_wrong_argument(run: Callable[..., Result], tmp_path: Path) -> None:
    """Bytes that are no OTLP request end the test of a rule with 2, and the file is named."""
    (tmp_path / "odd.json").write_text("[]")
    result = run("rules", "test", "fastapi-routes", "--otlp", "odd.json")
    assert (result.exit_code, "odd.json" in result.stderr) == (2, True)
