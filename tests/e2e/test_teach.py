"""docs/emitters.md, "Teach another emitter", command by command, on a running aggregator with an embedded store."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from otel_credits_aggregator.access import Role, add_token
from support.accounting import Accounting, assert_exact, settle
from support.command import asked
from support.otlp_build import USER, resource_spans, span, traces
from support.otlp_clients import post
from support.processes import AggregatorProcess

WHOLE_PAGE = (Path(__file__).parents[2] / "docs" / "emitters.md").read_text("utf-8")
WITHIN_JSON, PAGE = WHOLE_PAGE.split("## What is told within JSON")[1].split("## Teach another emitter")
LIST, TEACH, REPLAY, REMOVE = (
    shlex.split(line)[1:] for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()
)
(TEACH_PLACES,) = (shlex.split(line)[1:] for line in re.findall(r"```sh\n(.*)\n```", WITHIN_JSON))
# Claude Sonnet's list prices: 137 input tokens, 2,048 read from the cache, 61 output tokens.
CALL = {"acme.tokens.in": 2185, "acme.tokens.cached": 2048, "acme.tokens.out": 61, "acme.model": "claude-sonnet-4-5"}
PRICE = 137 * Decimal("0.000003") + 2048 * Decimal("0.0000003") + 61 * Decimal("0.000015")


@pytest.fixture
def aggregator(tmp_path: Path) -> Iterator[AggregatorProcess]:
    """A running aggregator that charges LLM calls."""
    with AggregatorProcess(tmp_path, {"OTEL_CREDITS_CHARGE_GENAI": "on"}) as started:
        yield started


def llm_span(response_id: str) -> Span:
    """A call as an unknown emitter tells it: by no convention, with what was said beside."""
    return span({USER: "ada", **CALL, "acme.response_id": response_id, "acme.prompt": "what people said"})


def send(aggregator: AggregatorProcess, *spans: Any, scope: str = "acme.llm") -> None:
    request = traces()
    request.resource_spans.append(resource_spans(spans, scope=scope, version="2.1.0"))
    assert post(aggregator.http_endpoint, request.SerializeToString()).is_success


def test_an_unknown_emitter_is_taught_with_one_command(aggregator: AggregatorProcess) -> None:
    """Its calls wait and name their scope; one command and a replay charge each once; later calls are charged at once."""
    first = llm_span("answer-1")
    send(aggregator, first, first, llm_span("answer-2"))
    assert settle(aggregator) == Accounting(received=3, quarantined=3)
    waiting = json.loads(asked(aggregator, *LIST, "--json"))
    assert {(row["scope_name"], row["scope_version"]) for row in waiting} == {("acme.llm", "2.1.0")}
    assert "Its scope is acme.llm 2.1.0" in asked(aggregator, *LIST)
    assert "what people said" not in json.dumps(waiting)

    assert "acme.llm" in asked(aggregator, *TEACH)
    for _ in range(2):
        asked(aggregator, *REPLAY)
    assert settle(aggregator) == Accounting(received=3, charged=2, duplicate=1)
    assert_exact(aggregator, {"ada": 2 * PRICE})
    (event, _) = aggregator.request("GET", "/api/v1/events")
    assert (event["action_type"], event["input_tokens"], event["output_tokens"]) == ("ai_call", 2185, 61)

    send(aggregator, first, llm_span("answer-3"))
    assert settle(aggregator) == Accounting(received=5, charged=3, duplicate=2)
    assert_exact(aggregator, {"ada": 3 * PRICE})

    asked(aggregator, *REMOVE)
    send(aggregator, llm_span("answer-4"))
    assert settle(aggregator) == Accounting(received=6, charged=3, duplicate=2, quarantined=1)
    assert_exact(aggregator, {"ada": 3 * PRICE})


def reply_span(response_id: str, replies: int = 1, tier: str = "default") -> Span:
    """A call of which the rest is told in JSON."""
    reply = {"id": response_id, "tier": tier, "text": "what people said"}
    counts = {"acme.tokens.in": 137, "acme.tokens.out": 61, "gen_ai.response.model": "claude-sonnet-4-5"}
    told = {"acme.reply": json.dumps(reply), "acme.replies": json.dumps([reply] * replies)}
    return span({USER: "ada", **counts, **told})


def test_an_emitter_is_taught_that_tells_things_within_json(aggregator: AggregatorProcess) -> None:
    """Its calls are known by the id that is told there, several answers and another tier wait; what came before waits for a
    decision, as nothing of the JSON was kept."""
    one = 137 * Decimal("0.000003") + 61 * Decimal("0.000015")
    send(aggregator, reply_span("reply-of-sixteen-0"), scope="acme.chat")
    assert settle(aggregator) == Accounting(received=1, quarantined=1)
    asked(aggregator, *TEACH_PLACES)
    sent = [reply_span(f"reply-of-sixteen-{number}") for number in (1, 1, 2)]
    sent += [reply_span("reply-of-sixteen-3", replies=2), reply_span("reply-of-sixteen-4", tier="fast")]
    send(aggregator, *sent, scope="acme.chat")
    asked(aggregator, *REPLAY)
    assert settle(aggregator) == Accounting(received=6, charged=2, duplicate=1, quarantined=3)
    assert_exact(aggregator, {"ada": 2 * one})
    waiting = json.loads(asked(aggregator, "quarantine", "list", "--json"))
    assert sorted(row["reason"] for row in waiting) == ["emitter_unreliable", "unpriced", "usage_unknown"]
    assert "what people said" not in json.dumps(waiting)

    asked(aggregator, "prices", "set", "*", "0.5", "--unit", "input_token_fast")
    asked(aggregator, "prices", "set", "*", "1", "--unit", "output_token_fast")
    asked(aggregator, "quarantine", "replay", "--reason", "unpriced")
    assert settle(aggregator) == Accounting(received=6, charged=3, duplicate=1, quarantined=2)
    assert_exact(aggregator, {"ada": 2 * one + 137 * Decimal("0.5") + 61})


def test_only_an_admin_teaches(tmp_path: Path) -> None:
    """With tokens, a reader may look at the conventions and change none."""
    _, admin = add_token(tmp_path / "tokens.json", "ops", Role.ADMIN)
    _, reader = add_token(tmp_path / "tokens.json", "eyes", Role.READ)
    with AggregatorProcess(tmp_path, token=admin) as aggregator:
        asks = httpx.Client(base_url=f"{aggregator.url}/api/v1", headers={"authorization": f"Bearer {reader}"})
        new = {"scope_name": "acme.llm", "input_includes_cache": True}
        assert asks.get("/conventions").status_code == 200
        assert asks.post("/conventions", json=new).status_code == 403
        assert asks.delete("/conventions/com.anthropic.sdk.python").status_code == 403
        assert aggregator.request("POST", "/api/v1/conventions", json=new)["scope_name"] == "acme.llm"
