"""The API keeps to its own OpenAPI description, whatever it is asked: schemathesis against a running aggregator."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from otel_credits_aggregator.access import Role, add_token
from otel_credits_aggregator.api import create_app
from otel_credits_aggregator.settings import Settings
from schemathesis.checks import CHECKS, load_all_checks
from support.accounting import settle
from support.api import AggregatorState
from support.otlp_build import AMOUNT, USER, traces, usage_span
from support.otlp_clients import post
from support.processes import AggregatorProcess

REQUEST_TIMEOUT_S = 60.0
EXAMPLES = 8
EXAMPLES_LONG = 100
# Without the checks that need to know what the text of a field means, or that a resource is gone.
CHECKED = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "ignored_auth",
)


# An id of a user may hold slashes: PUT /users/0/balance is a route after all, that of the user "0/balance".
IDS_WITH_SLASHES = "/api/v1/users/{"


def ask(case: schemathesis.Case, served: Served) -> None:
    """Make the request with the admin's token, and check the answer against the description."""
    load_all_checks()
    left_out = {"unsupported_method"} if case.path.startswith(IDS_WITH_SLASHES) else set()
    checks = list(CHECKS.get_by_names([name for name in CHECKED if name not in left_out]))
    headers = {"Authorization": f"Bearer {served.admin}"}
    case.call_and_validate(served.url, headers=headers, checks=checks, timeout=REQUEST_TIMEOUT_S)


def fill(aggregator: AggregatorProcess, ingest: str) -> None:
    """A little of everything, so that answers have rows: charges, quarantine, a grant, a profile, a price, a rule."""
    spans = (usage_span({USER: "0"}), usage_span({USER: None}), usage_span({AMOUNT: "no number"}))
    assert post(aggregator.http_endpoint, traces(*spans).SerializeToString(), token=ingest).is_success
    settle(aggregator)
    aggregator.request("PUT", "/api/v1/users/0", json={"email": "ada@example.com", "name": "Ada"})
    aggregator.request("POST", "/api/v1/users/0/grants", json={"credits": "10", "grant_id": "0"})
    aggregator.request("POST", "/api/v1/prices", json={"credits_per_unit": "0.5", "action_type": "some_action"})
    rule = {"rule_id": "0", "span_name": "some span", "action_type": "some_action"}
    aggregator.request("POST", "/api/v1/rules", json=rule)
    aggregator.request("POST", "/api/v1/aliases", json={"model": "0", "price_model": "1"})
    aggregator.request("POST", "/api/v1/conventions", json={"scope_name": "0", "input_includes_cache": True})


@dataclass
class Served:
    """Where the API is, and the token that may do everything."""

    url: str
    admin: str


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A running aggregator that asks for tokens; it lives until the end."""
    folder = tmp_path_factory.mktemp("aggregator")
    _, admin = add_token(folder / "tokens.json", "ops", Role.ADMIN)
    _, ingest = add_token(folder / "tokens.json", "app", Role.INGEST)
    with AggregatorProcess(folder, token=admin) as aggregator:
        fill(aggregator, ingest)
        yield Served(aggregator.url, admin)
        assert aggregator.is_ready(), aggregator.output()


# The routes are known before anything runs, so that each is a test of its own.
DESCRIPTION = create_app(Settings(), AggregatorState()).openapi()
# Not the backup: it writes a folder wherever on this machine it is told to. Its paths are tried in test_backup.py.
api = schemathesis.openapi.from_dict(DESCRIPTION).exclude(path="/api/v1/backup")


# The same requests each time; no time limit for a single one, and nothing remembered between runs.
REPEATABLE = settings(
    derandomize=True,
    database=None,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)


@api.parametrize()
@settings(REPEATABLE, max_examples=EXAMPLES)
def test_answers_are_as_described(case: schemathesis.Case, served: Served) -> None:
    """Valid and invalid requests to every route get a described status with a body of the described form, never a 5xx."""
    ask(case, served)


@pytest.mark.long
@api.parametrize()
@settings(REPEATABLE, max_examples=EXAMPLES_LONG)
def test_many_answers_are_as_described(case: schemathesis.Case, served: Served) -> None:
    """The same promise, for many more requests."""
    ask(case, served)
