"""Metrics as usage: which data points are charged, and why the others are not."""

from decimal import Decimal
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    ExponentialHistogramDataPoint,
    HistogramDataPoint,
    SummaryDataPoint,
)
from support.chain import Chain
from support.otlp_build import (
    ACTION,
    AMOUNT,
    CUMULATIVE,
    END_USER,
    METADATA,
    NO_RECORDED_VALUE,
    SOME_TIME_NS,
    UNIT,
    USER,
    attribute_list,
    metric,
    metrics,
    point,
)

GOOD = {ACTION: "sync", USER: "someone"}
EXPORTED_COUNTER = "credits.client.exported"
UNSPECIFIED = 0


@pytest.fixture
def priced(chain: Chain) -> Chain:
    """A chain where a call costs 1 and a second 0.01."""
    chain.command(
        "INSERT INTO credit_action_costs (unit, credits_per_unit, effective_from)"
        " VALUES ('call', 1, '2000-01-01'), ('second', 0.01, '2000-01-01')"
    )
    return chain


def charged(chain: Chain, *points: Any, **form: Any) -> list[Decimal]:
    """The charges of these points and of one good point after them, in the order they ended."""
    chain.send(metrics(metric(*points, **form), metric(point(1, GOOD))))
    chain.assert_sums_agree()
    return chain.charges()


def test_a_point_is_an_event(priced: Chain) -> None:
    """The number of a delta point is a quantity of the unit that it names, and its attributes say the rest."""
    one = point(
        250, {ACTION: "sync", END_USER: "someone", UNIT: "second", METADATA + "queue": "slow"}, end_ns=SOME_TIME_NS
    )
    priced.send(metrics(metric(one), service="worker"))
    (event,) = priced.events()
    assert (event["user_id"], event["action_type"], event["credits_charged"]) == ("someone", "sync", Decimal("2.5"))
    assert (event["units"], event["metadata"]) == ({"second": 250}, {"queue": "slow"})
    assert (event["service_name"], event["identity"], event["trace_id"]) == ("worker", "point", "")
    assert event["created_at"].replace(tzinfo=None).isoformat() == "2026-03-14T15:09:26.535897"


def test_a_list_of_one_text_is_that_text(priced: Chain) -> None:
    """An attribute that is a list of one short text is read as that text, of a data point as of a span."""
    priced.send(metrics(metric(point(1, {ACTION: "sync", USER: ["someone"], METADATA + "queue": ["slow"]}))))
    (event,) = priced.events()
    assert (event["user_id"], event["metadata"]) == ("someone", {"queue": "slow"})
    priced.assert_sums_agree()


@pytest.mark.parametrize(
    ("value", "charge"),
    [(3, "3"), (0, "0"), (0.25, "0.25"), (1e-13, "0"), (2**40, "1099511627776"), (0.1, "0.1")],
)
def test_numbers(priced: Chain, value: float, charge: str) -> None:
    """Whole and floating numbers are charged to the last of 12 places; without a unit they count calls."""
    assert charged(priced, point(value, GOOD)) == [Decimal(charge), Decimal(1)]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (-1, "negative_number"),
        (-0.5, "negative_number"),
        (float("nan"), "not_a_number"),
        (float("inf"), "not_a_number"),
        (2**63 - 1, "number_out_of_range"),
        (1e300, "number_out_of_range"),
        (None, "not_a_number"),
    ],
)
def test_odd_numbers(priced: Chain, value: float | None, reason: str) -> None:
    """A point whose number cannot be charged is quarantined with the reason, its neighbour is charged."""
    assert charged(priced, point(value, GOOD)) == [Decimal(1)]
    assert priced.reasons() == [reason]


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        ({"form": "gauge"}, "metric_is_not_a_monotonic_sum"),
        ({"monotonic": False}, "metric_is_not_a_monotonic_sum"),
        ({"temporality": CUMULATIVE}, "metric_is_cumulative_use_cumulativetodelta"),
        ({"temporality": UNSPECIFIED}, "metric_has_no_temporality"),
        ({"temporality": 99}, "metric_has_no_temporality"),
    ],
    ids=str,
)
def test_odd_forms(priced: Chain, form: dict[str, Any], reason: str) -> None:
    """Only a monotonic delta Sum is usage; the reason for the others says what to change."""
    assert charged(priced, point(1, GOOD), point(2, GOOD), **form) == [Decimal(1)]
    assert priced.reasons() == [reason] * 2


@pytest.mark.parametrize(
    ("form", "made"),
    [
        ("histogram", HistogramDataPoint),
        ("exponential_histogram", ExponentialHistogramDataPoint),
        ("summary", SummaryDataPoint),
    ],
)
def test_odd_kinds(priced: Chain, form: str, made: type) -> None:
    """Points of other kinds under the name of usage are quarantined each; under another name they are counted."""
    points = [made(time_unix_nano=SOME_TIME_NS, attributes=attribute_list(GOOD), count=7, sum=7.0) for _ in range(2)]
    assert charged(priced, *points, form=form) == [Decimal(1)]
    assert priced.reasons() == ["metric_is_not_a_monotonic_sum"] * 2
    priced.send(metrics(metric(*points, form=form, name="http.server.duration")))
    assert priced.outcomes() == {"charged": 1, "quarantined": 2, "not_usage": 2}
    priced.assert_sums_agree()


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({USER: "someone"}, "no_action_type"),
        ({ACTION: "", USER: "someone"}, "no_action_type"),
        ({ACTION: "sync"}, "no_user"),
        ({**GOOD, UNIT: "no_such_unit"}, "unpriced"),
        ({**GOOD, AMOUNT: "much"}, "not_a_number"),
        ({ACTION: "x" * 513, USER: "someone"}, "name_too_long"),
        ([*GOOD.items(), (USER, "other")], "duplicate_attribute"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_odd_attributes(priced: Chain, attributes: Any, reason: str) -> None:
    """A point that does not say who, what or how much is quarantined with the reason."""
    assert charged(priced, point(1, attributes)) == [Decimal(1)]
    assert priced.reasons() == [reason]


@pytest.mark.parametrize(
    ("end_ns", "reason"), [(0, "time_missing"), (1, "time_out_of_range"), (2**64 - 1, "time_out_of_range")]
)
def test_odd_times(priced: Chain, end_ns: int, reason: str) -> None:
    """A point without a usable time is quarantined."""
    assert charged(priced, point(1, GOOD, end_ns=end_ns, start_ns=0)) == [Decimal(1)]
    assert priced.reasons() == [reason]


def test_points_without_a_recorded_value(priced: Chain) -> None:
    """A point flagged as having no recorded value is counted as not usage, and so are the metrics of others."""
    silent = point(5, GOOD, flags=NO_RECORDED_VALUE)
    other = metric(point(1, GOOD), point(2.5), name="http.requests")
    own = metric(point(1, GOOD), name=EXPORTED_COUNTER)
    flagged = point(5, GOOD, flags=NO_RECORDED_VALUE + 6)
    priced.send(metrics(metric(silent, flagged), other, own, metric(point(3), form="gauge", name="memory")))
    assert priced.outcomes() == {"not_usage": 6}
    priced.assert_sums_agree()


def test_requests_without_content(priced: Chain) -> None:
    """Requests, resources, scopes and metrics that are empty or missing are no obstacle."""
    hollow = ExportMetricsServiceRequest(
        resource_metrics=[
            {},
            {"scope_metrics": [{}]},
            {"resource": {}, "scope_metrics": [{"scope": {}, "metrics": [{}]}]},
        ]
    )
    bare = ExportMetricsServiceRequest(resource_metrics=[{"scope_metrics": [{"metrics": [metric(point(1, GOOD))]}]}])
    priced.send(ExportMetricsServiceRequest(), hollow, metrics(metric()), bare)
    assert priced.outcomes() == {"charged": 1}
    priced.assert_sums_agree()


def test_delta_points_add_up(priced: Chain) -> None:
    """The points of a series are one event each, and the balance is their sum."""
    priced.send(*(metrics(metric(*(point(3, GOOD) for _ in range(20)))) for _ in range(5)))
    assert priced.outcomes() == {"charged": 100}
    assert priced.rows("SELECT current_balance FROM user_credit_balances") == [{"current_balance": Decimal(-300)}]
    priced.assert_sums_agree()
