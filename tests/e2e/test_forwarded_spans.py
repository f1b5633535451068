"""A route that a billing rule prices, in an app that is not changed and traces next to nothing: every request is charged."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support.otlp_sink import OtlpSink
from support.processes import AggregatorProcess, wait_until
from support.uvicorn_app import serving, stop

SAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = "00-0af7651916cd43dd8448eb211c80319d-b7ad6b7169203331-00"
SETTINGS = {
    "OTEL_CREDITS_FORWARD_SPANS": "server",
    "OTEL_CREDITS_USER": "header:x-user-id",
    "OTEL_METRICS_EXPORTER": "none",
    "OTEL_LOGS_EXPORTER": "none",
}


@pytest.fixture
def aggregator(tmp_path: Path) -> Iterator[AggregatorProcess]:
    """One that charges half a credit for each request of /ask."""
    with AggregatorProcess(tmp_path / "aggregator") as aggregator:
        rule = {"rule_id": "ask", "enabled": True, "kind": "server", "attributes": {"http.route": "/ask"}}
        aggregator.request("POST", "/api/v1/rules", json={**rule, "action_type": "asked"})
        price = {"action_type": "asked", "model": "*", "unit": "call", "credits_per_unit": "0.5"}
        aggregator.request("POST", "/api/v1/prices", json=price)
        yield aggregator


def asked(served: Any, user: str, times: int, **headers: str) -> None:
    """A user asks so often, and looks for what is not there as often."""
    for _ in range(times):
        assert served.get("/ask", headers={"x-user-id": user, **headers}).status_code == 200
        assert served.get("/nothing", headers={"x-user-id": user, **headers}).status_code == 404


def charged(aggregator: AggregatorProcess) -> dict[str, tuple[int, Decimal]]:
    """How many usages of each user were charged, and how much they cost."""
    rows = aggregator.sql(
        "SELECT user_id, count() AS events, toString(sum(credits_charged)) AS credits"
        " FROM credit_usage_events WHERE action_type = 'asked' GROUP BY user_id"
    )
    return {row["user_id"]: (int(row["events"]), Decimal(row["credits"])) for row in rows}


def assert_complete(aggregator: AggregatorProcess) -> None:
    """Nothing that the app forwarded is missing or in quarantine."""
    query = "SELECT recorded, received, waiting, missing FROM client_completeness WHERE recorded > 0"

    def all_arrived() -> bool:
        rows = [{name: int(value) for name, value in row.items()} for row in aggregator.sql(query)]
        return bool(rows) and all(
            row == row | {"received": row["recorded"], "missing": 0, "waiting": 0} for row in rows
        )

    wait_until(all_arrived, 60, "all that was recorded arrived, and the last report too")
    assert aggregator.sql("SELECT reason FROM credit_quarantine") == []


def test_a_priced_route_is_charged_whatever_is_sampled(aggregator: AggregatorProcess, tmp_path: Path) -> None:
    """Each request of the route is charged once, to who made it, though the app's sampler drops all but one trace, and
    whatever the caller's traceparent says; the app's own exporter has the spans of that one trace and no others."""
    with OtlpSink() as own:
        traces = {"OTEL_TRACES_SAMPLER": "parentbased_always_off", "TRACES_URL": own.endpoint}
        with serving("traced_app:app", aggregator.grpc_endpoint, tmp_path, auto=True, **SETTINGS, **traces) as served:
            asked(served, "ada", 15)
            asked(served, "bob", 5, traceparent=UNSAMPLED, baggage="credits.user_id=evil,user.id=evil")
            asked(served, "cy", 1, traceparent=SAMPLED)
            wait_until(lambda: any(span.name == "GET /ask" for span in own.spans()), 30, "the app's exporter has sent")
            stop(served)
        wait_until(lambda: len(charged(aggregator)) == 3, 60, "all users are charged")
        expected = {"ada": (15, Decimal("7.5")), "bob": (5, Decimal("2.5")), "cy": (1, Decimal("0.5"))}
        wait_until(lambda: charged(aggregator) == expected, 60, "all requests are charged")
        assert_complete(aggregator)
        assert {span.trace_id for span in own.spans()} == {SAMPLED.split("-")[1]}
        assert sorted(span.name for span in own.spans() if span.parent_span_id == SAMPLED.split("-")[2]) == [
            "GET",
            "GET /ask",
        ]
        assert not any("credits.seq" in span.attributes for span in own.spans())


def test_a_span_that_is_also_traced_is_charged_once(aggregator: AggregatorProcess, tmp_path: Path) -> None:
    """Where the app's own exporter sends every span to the same aggregator, no request is charged twice."""
    traces = {"OTEL_TRACES_SAMPLER": "always_on", "TRACES_URL": aggregator.grpc_endpoint}
    with serving("traced_app:app", aggregator.grpc_endpoint, tmp_path, auto=True, **SETTINGS, **traces) as served:
        asked(served, "ada", 5)
        wait_until(lambda: aggregator.metrics()["otel_credits_spans_duplicate_total"] == 5, 30, "both copies arrived")
        stop(served)
    assert charged(aggregator) == {"ada": (5, Decimal("2.5"))}
    assert_complete(aggregator)
