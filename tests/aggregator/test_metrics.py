"""`/metrics`: the accounting of promise 3, and numbers that mean what the documentation says."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from prometheus_client.parser import text_string_to_metric_families
from support import plain_http
from support.accounting import Accounting, accounting, charges, settle
from support.chaos import Oracle, ResendingClient
from support.otlp_build import (
    ACTION,
    AMOUNT,
    CUMULATIVE,
    USER,
    metric,
    metrics,
    point,
    span,
    traces,
    usage_span,
)
from support.otlp_clients import GrpcClient, post
from support.processes import AggregatorProcess, wait_until

README = Path(__file__).parents[2] / "aggregator" / "README.md"
# Families by reason, which show themselves with their first case.
BY_REASON = {
    "otel_credits_requests_refused_total",
    "otel_credits_spans_quarantined_total",
    "otel_credits_data_points_quarantined_total",
}


@pytest.fixture(scope="module")
def aggregator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AggregatorProcess]:
    """One aggregator for the module."""
    with AggregatorProcess(tmp_path_factory.mktemp("aggregator")) as started:
        yield started


def quarantined(aggregator: AggregatorProcess, reason: str, what: str = "spans") -> float:
    return aggregator.metrics().get(f'otel_credits_{what}_quarantined_total{{reason="{reason}"}}', 0.0)


def test_every_span_has_one_outcome(aggregator: AggregatorProcess) -> None:
    """received = charged + duplicate + not usage + quarantined, with the reason of each quarantined span."""
    before = settle(aggregator)
    before_by_reason = {reason: quarantined(aggregator, reason) for reason in ("no_user", "unpriced", "not_a_number")}
    charged, copied = usage_span({USER: "a"}), usage_span({USER: "b"})
    odd = [
        usage_span({USER: None}),
        usage_span({USER: None}),
        usage_span({AMOUNT: None, ACTION: "nothing prices this"}),
        usage_span({AMOUNT: "much"}),
    ]
    with GrpcClient(aggregator.grpc_port) as client:
        client.export(traces(charged, copied, copied, span(), *odd).SerializeToString())
        settle(aggregator)
        client.export(traces(charged).SerializeToString())
        assert settle(aggregator) - before == Accounting(received=9, charged=2, duplicate=2, not_usage=1, quarantined=4)

    def by_reason() -> dict[str, float]:
        return {reason: quarantined(aggregator, reason) - number for reason, number in before_by_reason.items()}

    # What has no price is looked at once more soon after the start, and is in no count for a moment then.
    expected = {"no_user": 2, "unpriced": 1, "not_a_number": 1}
    wait_until(lambda: by_reason() == expected, 20, f"the reasons are {expected}")


def test_every_data_point_has_one_outcome(aggregator: AggregatorProcess) -> None:
    """The same sum holds for the data points of metrics, whatever their kind."""
    before = settle(aggregator, "data_points")
    usage = {ACTION: "workflow_execution", USER: "points"}
    delta, cumulative = point(2, usage), point(3, usage)
    others = [metric(point(1.5), name="other", form="gauge"), metric(point(1, usage), form="gauge")]
    request = metrics(metric(delta, delta), metric(cumulative, temporality=CUMULATIVE), *others)
    assert post(aggregator.http_endpoint, request.SerializeToString(), "metrics").is_success
    sums = settle(aggregator, "data_points") - before
    assert sums == Accounting(received=5, charged=1, duplicate=1, not_usage=1, quarantined=2)


def test_what_is_charged_later_leaves_the_quarantine(aggregator: AggregatorProcess) -> None:
    """When a price appears, the spans that waited for it move from quarantined to charged, and the sum still agrees."""
    before, user, action = settle(aggregator), uuid.uuid4().hex, f"action-{uuid.uuid4().hex}"
    waiting = [usage_span({USER: user, AMOUNT: None, ACTION: action}) for _ in range(5)]
    assert post(aggregator.http_endpoint, traces(*waiting).SerializeToString()).is_success
    assert settle(aggregator) - before == Accounting(received=5, quarantined=5)
    price = {"action_type": action, "model": "*", "unit": "call", "credits_per_unit": "0.25", "source": "test"}
    aggregator.request("POST", "/api/v1/prices", json=price)
    wait_until(lambda: user in charges(aggregator), 20, "the usage is charged")
    assert settle(aggregator) - before == Accounting(received=5, charged=5)
    assert f"{charges(aggregator)[user].normalize():f}" == "1.25"


def test_an_outcome_never_comes_before_its_item(aggregator: AggregatorProcess) -> None:
    """Under load, no scrape shows more outcomes than items received."""
    oracle = Oracle()
    client = ResendingClient(aggregator, "metrics", oracle)
    client.start()
    for _ in range(60):
        sums = accounting(aggregator.metrics())
        assert sums.received >= sums.charged + sums.duplicate + sums.not_usage + sums.quarantined
    client.finish(30)
    settle(aggregator)


def test_the_counts_survive_a_restart(aggregator: AggregatorProcess) -> None:
    """What was received and what became of it is the same after a stop and a start."""
    logs = ExportLogsServiceRequest.FromString(b"\x0a\x04\x12\x02\x12\x00")  # One empty record.
    assert post(aggregator.http_endpoint, logs.SerializeToString(), "logs").is_success
    before = settle(aggregator), settle(aggregator, "data_points"), settle(aggregator, "log_records")
    assert before[2].received > 0
    assert aggregator.terminate() == 0
    aggregator.start()
    aggregator.wait_ready()
    after = settle(aggregator), settle(aggregator, "data_points"), settle(aggregator, "log_records")
    assert after == before


def test_every_metric_is_documented(aggregator: AggregatorProcess) -> None:
    """aggregator/README.md lists what is exposed and nothing else, and each metric says what it is."""
    documented = set(re.findall(r"^\| `(otel_credits_\w+)", README.read_text("utf-8"), re.MULTILINE))
    exposed = {series.partition("{")[0] for series in aggregator.metrics()}
    assert exposed <= documented
    assert documented - exposed <= BY_REASON
    answer = plain_http.get(f"{aggregator.url}/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    for family in text_string_to_metric_families(answer.text):
        assert family.documentation, family.name
        assert family.type in ("counter", "gauge"), family.name
