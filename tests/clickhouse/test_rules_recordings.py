"""Billing rules on recorded traffic of FastAPI and Celery: the default rules, and rules of one's own."""

from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from support.chain import Chain
from support.rules import ERROR, ROUTE, SERVER, charged_names, set_rule

RECORDINGS = Path(__file__).parents[1] / "recordings"


def switch_on(chain: Chain, *rule_ids: str) -> None:
    """Switches rules on, all that there are if none is named."""
    chosen = ", ".join(f"'{rule_id}'" for rule_id in rule_ids) or "rule_id"
    chain.command(
        "INSERT INTO credit_rules SELECT * REPLACE (true AS enabled, now64(6) AS created_at) FROM credit_rules"
        f" WHERE rule_id IN ({chosen})"
    )


def recorded(*names: str) -> list[ExportTraceServiceRequest]:
    """Recorded requests."""
    return [ExportTraceServiceRequest.FromString((RECORDINGS / f"{name}.traces.bin").read_bytes()) for name in names]


def all_spans(*requests: ExportTraceServiceRequest) -> list[Span]:
    """The spans of requests."""
    return [
        one for r in requests for resource in r.resource_spans for scope in resource.scope_spans for one in scope.spans
    ]


CELERY = [f"celery.basic_import.0{part}" for part in ("1.producer", "2.worker", "3.worker", "4.producer")]


def test_recorded_routes_are_charged_by_a_default_rule(priced: Chain) -> None:
    """Of 45 recorded spans of FastAPI, the requests that met a route are charged by their route, failed ones are not (T14)."""
    set_rule(
        priced, kind="server", scope_name="fastapi", attribute_prefixes={ROUTE: ""}, quantities={"second": "seconds"}
    )
    requests = recorded("fastapi-native.all.01.main")
    priced.send(*requests, default_user="house")
    routes = [one for one in all_spans(*requests) if one.kind == SERVER and ROUTE in {a.key for a in one.attributes}]
    expected = [one for one in routes if one.status.code != ERROR]
    assert Counter(charged_names(priced)) == Counter(one.name for one in expected)
    lasted_ns = sum(one.end_time_unix_nano - one.start_time_unix_nano for one in expected)
    assert sum(priced.charges()) == 3 * Decimal(lasted_ns).scaleb(-9)
    assert (len(routes), len(expected)) == (15, 13)
    assert priced.outcomes() == {"charged": 13, "not_usage": len(all_spans(*requests)) - 13}
    priced.assert_sums_agree()


@pytest.mark.parametrize(("tried_too", "charged"), [(False, 16), (True, 23)])
def test_recorded_tasks_are_charged_by_their_name(priced: Chain, tried_too: bool, charged: int) -> None:
    """Tasks of a recorded worker: each that succeeded, or each attempt (T16), as the rule says; no producer span."""
    conditions = {"kind": "consumer", "span_name_prefix": "run/cel_app."}
    if tried_too:
        set_rule(priced, **conditions, charge_failed=True)
    else:
        set_rule(priced, **conditions, attributes={"celery.state": "SUCCESS"})
    requests = recorded(*CELERY)
    priced.send(*requests, default_user="house")
    runs = [one for one in all_spans(*requests) if one.name.startswith("run/")]
    assert priced.outcomes() == {"charged": charged, "not_usage": len(all_spans(*requests)) - charged}
    assert len(runs) == 23
    assert priced.charges() == [Decimal(2)] * charged
    priced.assert_sums_agree()


def test_recorded_request_and_its_task_are_two_usages_of_their_users(priced: Chain) -> None:
    """Routes by one rule and tasks by another, through two processes, are charged to the users that the spans name."""
    switch_on(priced)
    requests = recorded("e2e.contrib.01.api", "e2e.contrib.02.worker", "e2e.contrib.03.worker")
    priced.send(*requests, user_attributes=("app.user_id.auth", "app.user_id"))
    found = Counter((event["action_type"], event["user_id"]) for event in priced.events())
    assert found == {
        ("http_request", "u-42"): 7,
        ("http_request", "u-evil"): 1,
        ("task_run", "u-42"): 5,
        ("task_run", "u-evil"): 1,
    }
    assert priced.reasons() == ["no_user"]
    priced.assert_sums_agree()


def test_the_default_rules_are_off(priced: Chain) -> None:
    """A fresh store has rules for FastAPI routes and Celery tasks, and charges by none of them."""
    rules = priced.rows("SELECT rule_id, enabled FROM credit_rules ORDER BY rule_id")
    assert rules == [
        {"rule_id": name, "enabled": False} for name in ("celery-tasks", "fastapi-native-routes", "fastapi-routes")
    ]
    requests = recorded("fastapi-native.all.01.main", *CELERY)
    priced.send(*requests, default_user="house")
    assert priced.outcomes() == {"not_usage": len(all_spans(*requests))}


def test_a_mounted_app_is_one_request(priced: Chain) -> None:
    """Two SERVER spans of one request, of the app and of the app mounted in it, are one usage by the default rule (T14)."""
    switch_on(priced, "fastapi-routes")
    requests = recorded("fastapi.semconv_http.01.main")
    priced.send(*requests, default_user="house")
    names = charged_names(priced)
    assert [name for name in names if name in ("GET /sub", "GET /x/{y}")] == ["GET /sub"]
    assert not [name for name in names if " http " in name or " websocket " in name]
    priced.assert_sums_agree()
