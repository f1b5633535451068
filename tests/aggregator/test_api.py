"""The HTTP API: what is promised of HTTP itself. What it does to the ledger is in test_ledger.py and test_ledger_books.py."""

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from otel_credits_aggregator.replay import Selection, Treatment
from otel_credits_aggregator.store import Client
from support import plain_http
from support.api import AggregatorState, running_api
from support.store import Usage, insert_usages

HTTP_TIMEOUT_S = 30.0


@pytest.fixture
def state() -> AggregatorState:
    """What the server around the API says of itself."""
    return AggregatorState()


@pytest.fixture
def api(memory_dsn: str, state: AggregatorState) -> Iterator[httpx.Client]:
    """A client of a running API."""
    with running_api(memory_dsn, state) as url, httpx.Client(base_url=url, timeout=HTTP_TIMEOUT_S) as client:
        yield client


def _grant(api: httpx.Client, body: dict[str, Any], user: str = "u") -> httpx.Response:
    return api.post(f"/api/v1/users/{user}/grants", json=body)


def test_grant_is_201_and_again_200(api: httpx.Client) -> None:
    """A new grant is 201; the same grant id again is 200 with the same body; another amount under it is 409."""
    first = _grant(api, {"credits": "100", "reason": "welcome", "grant_id": "g"})
    again = _grant(api, {"credits": "100.000", "grant_id": "g"})
    other = _grant(api, {"credits": "101", "grant_id": "g"})
    assert [answer.status_code for answer in (first, again, other)] == [201, 200, 409]
    assert first.json() == again.json()
    assert "new id" in other.json()["detail"]
    assert [grant["grant_id"] for grant in api.get("/api/v1/users/u/grants").json()] == ["g"]


def test_amounts_are_exact_strings(api: httpx.Client, memory_store: Client) -> None:
    """Amounts come as plain decimal strings: no exponent, no trailing zeros, no digit lost."""
    insert_usages(memory_store, Usage("u", attributes={"credits.amount": "0.000000100000"}))
    _grant(api, {"credits": "1000000000000000000"})
    balance = api.get("/api/v1/users/u/balance").json()
    assert balance["current_balance"] == "999999999999999999.9999999"
    assert balance["lifetime_consumed"] == "0.0000001"
    assert balance["lifetime_granted"] == "1000000000000000000"


@pytest.mark.parametrize(("credits", "granted"), [(0.1, "0.1"), (5, "5"), ("1e-3", "0.001"), (1e-12, "0.000000000001")])
def test_a_json_number_is_read_by_its_shortest_form(api: httpx.Client, credits: object, granted: str) -> None:
    """A JSON number is taken for what it says, not for the binary fraction behind it."""
    assert _grant(api, {"credits": credits}).json()["credits"] == granted


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"credits": "0"},
        {"credits": "-1"},
        {"credits": "abc"},
        {"credits": "NaN"},
        {"credits": "Infinity"},
        {"credits": True},
        {"credits": None},
        {"credits": "1000000000000000001"},
        {"credits": "0.0000000000001"},
        {"credits": "1", "grant_id": ""},
        {"credits": "1", "grant_id": "x" * 513},
        {"credits": "1", "reason": "\ud800"},
        {"credits": "1", "expires_at": "2030-01-01T00:00:00Z"},
    ],
    ids=str,
)
def test_a_wrong_grant_is_422_and_grants_nothing(api: httpx.Client, body: dict[str, Any]) -> None:
    """A grant that cannot be taken is refused in one sentence, and nothing is granted."""
    answer = api.post("/api/v1/users/u/grants", content=json.dumps(body), headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert isinstance(answer.json()["detail"], str)
    assert api.get("/api/v1/users/u/grants").json() == []


def test_the_page_of_the_api_needs_no_other_host(api: httpx.Client) -> None:
    """/docs loads its script and its style from the aggregator itself, so that it works without a way to the internet."""
    page = api.get("/docs").text
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert {path.rpartition("/")[2] for path in loaded} == {"swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"}
    for path in loaded:
        assert path.startswith("/"), path
        assert api.get(path).is_success, path


def test_errors_say_what_to_do(api: httpx.Client) -> None:
    """Every error is an object whose detail is a sentence, with a status that fits."""
    answers = {
        404: api.get("/api/v1/users/nobody/balance"),
        400: api.post("/api/v1/sql", json={"query": "DROP TABLE users"}),
        422: api.get("/api/v1/events", params={"limit": 0}),
    }
    for status, answer in answers.items():
        assert answer.status_code == status
        assert len(answer.json()["detail"].split()) > 3


def test_a_form_cannot_grant(api: httpx.Client) -> None:
    """A body that a web page elsewhere can send without asking (text, form) is not read as JSON."""
    for content_type in ("text/plain", "application/x-www-form-urlencoded"):
        answer = api.post("/api/v1/users/u/grants", content=b'{"credits": "1"}', headers={"content-type": content_type})
        assert answer.status_code == 422
    assert api.get("/api/v1/users/u/grants").json() == []


def test_ready_only_when_everything_holds(api: httpx.Client, state: AggregatorState) -> None:
    """/readyz is 503 and names what is missing until all holds, then 200; /healthz answers all the time."""
    state.checks["replayed"] = False
    waiting = api.get("/readyz")
    assert (waiting.status_code, waiting.json()) == (503, {"ready": False, "missing": ["replayed"]})
    assert api.get("/healthz").status_code == 200
    state.checks["replayed"] = True
    assert (api.get("/readyz").status_code, api.get("/readyz").json()["ready"]) == (200, True)


def test_metrics_are_prometheus_text(api: httpx.Client, state: AggregatorState) -> None:
    """/metrics gives the exposition as the server wrote it, in Prometheus' own content type."""
    answer = api.get("/metrics")
    assert answer.content == state.exposition
    assert answer.headers["content-type"].startswith("text/plain; version=")


def test_replay_passes_on_what_is_meant(api: httpx.Client, state: AggregatorState) -> None:
    """A replay may be narrowed to a reason and a user, and answers how many rows were tried."""
    assert api.post("/api/v1/quarantine/replay").json() == {"tried": 1}
    api.post("/api/v1/quarantine/replay", params={"reason": "unpriced", "user": "u"})
    assert state.treated == [(Selection(), Treatment()), (Selection(("unpriced",), "u"), Treatment())]


@pytest.mark.parametrize("query", ["usr=ada", "user=ada&user=bob", "=ada", "reason=a&User=ada"])
@pytest.mark.parametrize("path", ["quarantine/assign", "quarantine/replay", "reconcile/fix"])
def test_a_mistyped_filter_does_nothing(api: httpx.Client, state: AggregatorState, path: str, query: str) -> None:
    """A parameter that is unknown or ambiguous is 422: without it, the call would be about everybody."""
    body = None if path.endswith("replay") else {"user_id": "payer"} if path.endswith("assign") else {}
    answer = api.post(f"/api/v1/{path}?{query}", json=body)
    assert answer.status_code == 422
    assert "is no parameter here" in answer.json()["detail"] or "more than once" in answer.json()["detail"]
    assert not state.treated


@pytest.mark.parametrize("enabled", [1, "yes", "true", None])
def test_a_switch_takes_true_and_false_only(api: httpx.Client, enabled: object) -> None:
    """What is no boolean in JSON does not switch a rule on."""
    rule = {"rule_id": "r", "span_name": "s", "action_type": "a"}
    assert api.post("/api/v1/rules", json=rule | {"enabled": enabled}).status_code == 422
    assert api.post("/api/v1/rules", json=rule).status_code == 201
    assert api.put("/api/v1/rules/r/enabled", json={"enabled": enabled}).status_code == 422
    assert not [one for one in api.get("/api/v1/rules").json() if one["enabled"]]


def test_prices_can_be_added_and_listed(api: httpx.Client) -> None:
    """A price is added with 201 and then listed; a negative one and a bare number as a date are refused."""
    new = {"action_type": "render", "unit": "page", "credits_per_unit": "0.0000005", "effective_from": "2026-01-02"}
    added = api.post("/api/v1/prices", json=new)
    assert added.status_code == 201
    assert (added.json()["credits_per_unit"], added.json()["effective_from"]) == ("0.0000005", "2026-01-02T00:00:00Z")
    assert added.json() in api.get("/api/v1/prices").json()
    assert api.post("/api/v1/prices", json=new | {"credits_per_unit": "-1"}).status_code == 422
    assert api.post("/api/v1/prices", json=new | {"effective_from": 2026}).status_code == 422


def test_profile_of_any_id(api: httpx.Client) -> None:
    """A profile is put under an id with slashes, encoded or not."""
    assert api.put("/api/v1/users/a%2Fb", json={"email": "a@example.com"}).json()["id"] == "a/b"
    assert api.put("/api/v1/users/a/b", json={"name": "A"}).json() == {
        "id": "a/b",
        "email": "a@example.com",
        "name": "A",
    }
    assert api.get("/api/v1/users").json() == [{"id": "a/b", "email": "a@example.com", "name": "A"}]


def test_every_operation_is_documented(api: httpx.Client) -> None:
    """OpenAPI has a summary and an answer's schema for each operation, and `detail` for its errors."""
    schema = api.get("/openapi.json").json()
    operations = [
        (path, method, operation) for path, item in schema["paths"].items() for method, operation in item.items()
    ]
    assert len(operations) >= 18
    for path, method, operation in operations:
        assert operation["summary"], (path, method)
        if path.startswith("/api/"):
            assert "ErrorDetail" in str(operation["responses"]["422"]), (path, method)
            success = operation["responses"].get("200") or operation["responses"]["201"]
            assert success["content"]["application/json"]["schema"], (path, method)
    assert "expires_at" not in json.dumps(schema)


def test_a_store_that_is_not_migrated_is_503(memory_engine: Client) -> None:
    """Before the store is migrated, the API says so and asks to come back."""
    memory_engine.command("CREATE DATABASE IF NOT EXISTS not_migrated")
    with running_api("chdb://memory/not_migrated") as url:
        answer = plain_http.get(f"{url}/api/v1/balances", timeout=HTTP_TIMEOUT_S)
    assert answer.status_code == 503
    assert "otel-credits migrate" in answer.json()["detail"]
    assert answer.headers["retry-after"]


def test_a_store_that_is_away_is_503() -> None:
    """While a ClickHouse server is away, the API says so; health goes on answering."""
    with running_api("clickhouse://127.0.0.1:1/default") as url:
        answer = plain_http.get(f"{url}/api/v1/users/u/balance", timeout=HTTP_TIMEOUT_S)
        assert plain_http.get(f"{url}/healthz", timeout=HTTP_TIMEOUT_S).status_code == 200
    assert answer.status_code == 503
    assert "cannot be reached" in answer.json()["detail"]
