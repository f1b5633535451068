"""`rules test --stored`: what a rule would have charged for the requests of the last hours, where the server keeps them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import typer
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from otel_credits_aggregator.cli._rules import _moment
from otel_credits_aggregator.recent import Recent, recent_requests
from otel_credits_aggregator.settings import Settings
from otel_credits_aggregator.spool import Request
from support.accounting import Accounting, assert_exact, settle
from support.otlp_build import USER, span, traces, usage_span
from support.otlp_clients import post
from support.processes import AggregatorProcess, clean_environment

SERVER = 2
RULE = {"rule_id": "films", "action_type": "search", "kind": "server", "attribute_prefixes": {"http.route": "/films"}}
HOUR_US = 3_600_000_000


def run(aggregator: AggregatorProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`otel-credits ...`, which asks the aggregator."""
    environment = clean_environment() | {"OTEL_CREDITS_URL": aggregator.url}
    environment["PYTHONPATH"] = os.environ.get("PYTHONPATH", "")
    command = [sys.executable, "-m", "otel_credits_aggregator", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def films(user: str = "ada") -> list[Span]:
    """Two requests of the route, one of another, one that names nobody, and a usage of the app's own."""
    routes = ("/films", "/films/{id}", "/books")
    found = [span({USER: user, "http.route": route, "hits": 3}, kind=SERVER) for route in routes]
    return [
        *found,
        span({"http.route": "/films"}, kind=SERVER),
        usage_span({"http.route": "/films", USER: user}, kind=SERVER),
    ]


def send(aggregator: AggregatorProcess, *spans: Span) -> None:
    assert post(aggregator.http_endpoint, traces(*spans).SerializeToString()).is_success
    settle(aggregator)


def tried(aggregator: AggregatorProcess, *options: str) -> tuple[list[dict[str, Any]], str]:
    """What `rules test films --stored` says: the rows, and on what it was tested."""
    done = run(aggregator, "rules", "test", "films", "--stored", "--json", *options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def set_up(aggregator: AggregatorProcess) -> None:
    """The rule, which is off, and a price."""
    aggregator.request("POST", "/api/v1/rules", json={**RULE, "quantities": {"call": "one", "hit": "attribute:hits"}})
    for unit, credits in (("call", "0.5"), ("hit", "0.01")):
        price = {"action_type": "search", "unit": unit, "credits_per_unit": credits}
        aggregator.request("POST", "/api/v1/prices", json=price)


def test_a_rule_is_tested_on_what_came(tmp_path: Path) -> None:
    """What the test says of stored spans, also after a restart and of spans sent twice, is what such spans are charged once
    the rule is on; testing charges nothing."""
    settings = {"OTEL_CREDITS_KEEP_REQUESTS_H": "1"}
    sent = films()
    with AggregatorProcess(tmp_path, settings) as aggregator:
        set_up(aggregator)
        send(aggregator, *sent)
        send(aggregator, sent[0])
    with AggregatorProcess(tmp_path, settings) as aggregator:
        rows, said = tried(aggregator, "--since", "30m")
        assert [(row["outcome"], row["reason"], row["user_id"], row["usages"], row["credits"]) for row in rows] == [
            ("charged", "", "ada", 2, "1.06"),
            ("quarantined", "no_user", "", 1, "0"),
        ]
        assert "tested on 6 spans of 2 requests" in said
        assert tried(aggregator, "--since", "2999-01-01")[0] == []
        before = Accounting(received=6, charged=1, not_usage=5)
        assert settle(aggregator) == before
        aggregator.request("PUT", "/api/v1/rules/films/enabled", json={"enabled": True})
        send(aggregator, *films("bob"))
        assert settle(aggregator) - before == Accounting(received=5, charged=3, not_usage=1, quarantined=1)
        assert_exact(aggregator, {"ada": Decimal(1), "bob": Decimal("1.06") + 1})


def test_nothing_is_kept_unless_it_is_asked_for(tmp_path: Path) -> None:
    """By default there is no such file, what an earlier process kept is removed, and the command says how to have one."""
    with AggregatorProcess(tmp_path, {"OTEL_CREDITS_KEEP_REQUESTS_H": "1"}) as aggregator:
        set_up(aggregator)
        send(aggregator, *films())
        assert list(aggregator.data_dir.glob("recent.sqlite*"))
    with AggregatorProcess(tmp_path) as aggregator:
        send(aggregator, *films())
        assert list(aggregator.data_dir.glob("recent.sqlite*")) == []
        done = run(aggregator, "rules", "test", "films", "--stored")
        assert (done.returncode, "OTEL_CREDITS_KEEP_REQUESTS_H" in done.stderr) == (1, True)


def kept(settings: Settings, since_us: int = 0, bytes_max: int = 1 << 30) -> Iterator[tuple[int, list[str]]]:
    """Of each list of requests: how many, and the names of their spans."""
    for requests in recent_requests(settings, since_us, bytes_max):
        read = ExportTraceServiceRequest.FromString(b"".join(request.payload for request in requests))
        yield len(requests), [resource.scope_spans[0].spans[0].name for resource in read.resource_spans]


def request_of(number: int, received_at_us: int, size: int = 0) -> Request:
    """A request of one span, and of about so many bytes."""
    filled = {f"filler.{n}": "x" * 200 for n in range(size // 200)}
    return Request(traces(span(filled, name=f"span-{number}")).SerializeToString(), received_at_us, b"")


def test_old_requests_go_and_too_many(tmp_path: Path) -> None:
    """Requests leave when their time is over, and the oldest where there are too many bytes; the rest is read in its order."""
    settings = Settings(data_dir=tmp_path, keep_requests_h=1, keep_requests_bytes_max=1 << 20)
    now_us = time.time_ns() // 1000
    recent = Recent.of(settings)
    assert recent is not None
    recent.add(lambda: [request_of(n, now_us - n * HOUR_US // 4) for n in range(8)])
    assert list(kept(settings)) == [(4, ["span-3", "span-2", "span-1", "span-0"])]
    assert list(kept(settings, now_us - HOUR_US // 3)) == [(2, ["span-1", "span-0"])]
    recent.add(lambda: [request_of(100 + n, now_us + n, 100_000) for n in range(40)])
    ((number, names),) = kept(settings)
    assert names == [f"span-{n}" for n in range(140 - number, 140)]
    assert 0 < sum(len(one.payload) for some in recent_requests(settings, 0, 1 << 30) for one in some) <= 1 << 20
    assert {count for count, _ in kept(settings, bytes_max=1)} == {1}
    recent.close()


def test_a_file_that_cannot_be_written_keeps_nobody_from_charging(tmp_path: Path) -> None:
    """Where requests cannot be kept, and for requests that cannot be read, that is said, and nothing is raised."""
    settings = Settings(data_dir=tmp_path, keep_requests_h=1)
    (tmp_path / "recent.sqlite").write_bytes(b"no database at all" * 100)
    recent = Recent.of(settings)
    assert recent is not None
    recent.add(lambda: [request_of(1, time.time_ns() // 1000)])
    recent.prune()
    recent.close()


def test_since_is_a_time_or_how_long_ago_it_is() -> None:
    """`--since` takes ISO 8601, minutes and hours."""
    assert _moment("2026-01-31T12:00:00Z") == datetime(2026, 1, 31, 12, tzinfo=UTC)
    for text, ago in (("90m", timedelta(minutes=90)), ("2h", timedelta(hours=2))):
        moment = _moment(text)
        assert moment is not None
        assert timedelta(0) <= datetime.now(UTC) - ago - moment < timedelta(minutes=5)


@pytest.mark.parametrize("text", ["yesterday", "1d", "2", "h"])
def test_another_since_is_refused(text: str) -> None:
    """What is neither is a wrong argument."""
    with pytest.raises(typer.BadParameter):
        _moment(text)
