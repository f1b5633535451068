"""A running aggregator with tokens: who gets what at each of its three doors."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from google.rpc import code_pb2
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpans
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpans
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from support import plain_http
from support.accounting import charges, settle
from support.command import TIMEOUT_S, command, made
from support.otlp_build import AMOUNT, USER, traces, usage_span
from support.otlp_clients import GrpcClient, post, refusal, status_of
from support.processes import AggregatorProcess, clean_environment, wait_until

ROTATION_TIMEOUT_S = 60.0
REFUSED_WITHIN_S = 30.0


@dataclass
class Guarded:
    """A running aggregator and the tokens that it knows."""

    aggregator: AggregatorProcess
    ingest: str
    read: str
    admin: str
    ada: str

    def api(self, method: str, path: str, token: str = "", **options: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return plain_http.request(method, f"{self.aggregator.url}{path}", headers=headers, timeout=TIMEOUT_S, **options)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """One aggregator for the module, with a token of each role and one of the user ada."""
    folder = tmp_path_factory.mktemp("aggregator")
    tokens = {
        "ingest": made(folder, "ingest", "--role", "ingest"),
        "read": made(folder, "read", "--role", "read"),
        "admin": made(folder, "admin", "--role", "admin"),
        "ada": made(folder, "ada", "--role", "read", "--user", "ada"),
    }
    with AggregatorProcess(folder, token=tokens["admin"]) as aggregator:
        yield Guarded(aggregator, **tokens)
        output = aggregator.output()
        assert not [name for name, secret in tokens.items() if secret in output]


def one_credit(user: str) -> bytes:
    return traces(usage_span({USER: user, AMOUNT: "1"})).SerializeToString()


@pytest.mark.parametrize("role", ["", "wrong", "read", "admin", "ada"])
def test_otlp_is_for_ingest_tokens(guarded: Guarded, role: str) -> None:
    """Over gRPC and HTTP no token and a wrong one are unauthenticated, another role is not permitted; nothing is kept."""
    before = settle(guarded.aggregator)
    secret = getattr(guarded, role, role)
    unknown = role in ("", "wrong")
    with GrpcClient(guarded.aggregator.grpc_port, token=secret) as client, pytest.raises(grpc.RpcError) as raised:
        client.export(one_credit("nobody"))
    refused = refusal(raised.value)
    assert refused.code is (grpc.StatusCode.UNAUTHENTICATED if unknown else grpc.StatusCode.PERMISSION_DENIED)
    assert refused.retry_delay_s is None
    answer = post(guarded.aggregator.http_endpoint, one_credit("nobody"), token=secret)
    assert answer.status_code == (401 if unknown else 403)
    assert status_of(answer).code == (code_pb2.UNAUTHENTICATED if unknown else code_pb2.PERMISSION_DENIED)
    assert settle(guarded.aggregator) == before
    assert "nobody" not in charges(guarded.aggregator)


def test_a_large_request_is_refused_before_it_is_read(guarded: Guarded) -> None:
    """Who has no token is refused over gRPC whatever the size of the request, also of one that would be too large."""
    with GrpcClient(guarded.aggregator.grpc_port) as client, pytest.raises(grpc.RpcError) as raised:
        client.export(bytes(80 << 20), timeout_s=TIMEOUT_S)
    assert refusal(raised.value).code is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("transport", ["grpc", "http"])
def test_the_sdk_sends_its_token(guarded: Guarded, transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """OTEL_EXPORTER_OTLP_HEADERS="authorization=Bearer%20TOKEN" lets the SDK's own exporters in."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"authorization=Bearer%20{guarded.ingest}")
    to, user = guarded.aggregator, f"sdk-{transport}-{uuid.uuid4().hex}"
    exporter: Any = (
        GrpcSpans(to.grpc_endpoint, insecure=True)
        if transport == "grpc"
        else HttpSpans(f"{to.http_endpoint}/v1/traces")
    )
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    provider.get_tracer("app").start_span(
        "work", attributes={"credits.action_type": "a", "user.id": user, AMOUNT: "1"}
    ).end()
    provider.shutdown()
    settle(to)
    assert charges(to)[user] == 1


APP = """
from otel_credits import configure, flush, track_credits, track_compute_usage
configure()
track_compute_usage({user!r}, "workflow_execution", credits="1")
assert flush(20)
"""


@pytest.mark.parametrize("transport", ["grpc", "http/protobuf"])
def test_the_library_sends_its_token(guarded: Guarded, transport: str) -> None:
    """An app with the library needs the standard variable and nothing else."""
    to, user = guarded.aggregator, f"library-{uuid.uuid4().hex}"
    env = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": to.grpc_endpoint if transport == "grpc" else to.http_endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": transport,
        "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer%20{guarded.ingest}",
    }
    done = subprocess.run(
        [sys.executable, "-c", APP.format(user=user)], env=clean_environment(env), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    settle(to)
    assert charges(to)[user] == 1


READS = (
    "/api/v1/users/ada/balance",
    "/api/v1/users/ada/grants",
    "/api/v1/users",
    "/api/v1/balances",
    "/api/v1/events",
    "/api/v1/usage/monthly",
    "/api/v1/prices",
    "/api/v1/quarantine",
    "/api/v1/quarantine/summary",
    "/api/v1/reconcile",
    "/api/v1/series",
    "/metrics",
    "/docs",
    "/openapi.json",
)
WRITES: tuple[tuple[str, str, Any], ...] = (
    ("POST", "/api/v1/users/ada/grants", {"credits": "1"}),
    ("PUT", "/api/v1/users/ada", {"email": "ada@example.com"}),
    ("POST", "/api/v1/prices", {"action_type": "x", "unit": "call", "credits_per_unit": "1"}),
    ("POST", "/api/v1/quarantine/replay", None),
)
OF_ADA = (
    "/api/v1/users/ada/balance",
    "/api/v1/users/ada/grants",
    "/api/v1/events",
    "/api/v1/events?user=ada",
    "/api/v1/usage/monthly?user=ada",
    "/api/v1/usage/monthly",
)


def test_every_route_is_in_this_test(guarded: Guarded) -> None:
    """A route that is new is closed to who has no token, and to a user's own token unless it is named as theirs."""
    paths = guarded.api("GET", "/openapi.json", guarded.read).json()["paths"]
    for path, methods in paths.items():
        for method in methods:
            filled = path.replace("{user_id}", "ada").replace("{event_id}", str(uuid.UUID(int=0)))
            if path in ("/healthz", "/readyz"):
                continue
            assert guarded.api(method.upper(), filled).status_code == 401, path
            assert guarded.api(method.upper(), filled, guarded.ingest).status_code == 403, path
            if method == "get" and filled in OF_ADA:
                continue
            assert guarded.api(method.upper(), filled, guarded.ada).status_code == 403, path
            if method != "get" and path != "/api/v1/sql":
                assert guarded.api(method.upper(), filled, guarded.read).status_code == 403, path


def test_health_is_open(guarded: Guarded) -> None:
    """Whoever watches the process needs no token to see whether it lives and is ready."""
    assert [guarded.api("GET", path).status_code for path in ("/healthz", "/readyz")] == [200, 200]


def test_who_is_not_known_is_told_how_to_say_it(guarded: Guarded) -> None:
    """A 401 names the scheme, a 403 the reason; both have the shape of every error."""
    answer = guarded.api("GET", "/api/v1/balances")
    assert answer.headers["www-authenticate"].startswith("Bearer ")
    assert "authorization: Bearer" in answer.json()["detail"]
    assert "for ingest" in guarded.api("GET", "/api/v1/balances", guarded.ingest).json()["detail"]


@pytest.mark.parametrize("role", ["read", "admin"])
def test_reading(guarded: Guarded, role: str) -> None:
    """A read token reads everything, sql too, and so does an admin's."""
    secret = getattr(guarded, role)
    assert guarded.api("POST", "/api/v1/users/ada/grants", guarded.admin, json={"credits": "1"}).is_success
    for path in READS:
        assert guarded.api("GET", path, secret).status_code == 200, path
    assert guarded.api("POST", "/api/v1/sql", secret, json={"query": "SELECT 1 AS a"}).json() == [{"a": 1}]


def test_writing_is_for_admins(guarded: Guarded) -> None:
    """Grants, profiles, prices and replays take an admin's token."""
    for method, path, body in WRITES:
        assert guarded.api(method, path, guarded.read, json=body).status_code == 403, path
        assert guarded.api(method, path, guarded.admin, json=body).is_success, path


def test_a_user_sees_their_own(guarded: Guarded) -> None:
    """A token that is bound to a user gives that user's balance, grants, events and months; where nobody is named, theirs."""
    with GrpcClient(guarded.aggregator.grpc_port, token=guarded.ingest) as client:
        client.export(traces(*(usage_span({USER: user, AMOUNT: "1"}) for user in ("ada", "bob"))).SerializeToString())
    settle(guarded.aggregator)
    assert guarded.api("POST", "/api/v1/users/ada/grants", guarded.admin, json={"credits": "1"}).is_success
    for path in OF_ADA:
        answer = guarded.api("GET", path, guarded.ada)
        assert answer.status_code == 200, path
        rows = answer.json() if isinstance(answer.json(), list) else [answer.json()]
        assert {row["user_id"] for row in rows} == {"ada"}, path


@pytest.mark.parametrize(
    "path",
    [
        *("/api/v1/users/bob/balance", "/api/v1/users/bob/grants", "/api/v1/events?user=bob"),
        *("/api/v1/usage/monthly?user=bob", "/api/v1/events?user=ada&user=bob", "/api/v1/users/%62ob/balance"),
        *("/api/v1/users/ada%2F..%2Fbob/balance", "/api/v1/users/ada/../bob/balance", "/api/v1/users/ada%00/balance"),
        *("/api/v1/users/ada/balance/../../bob/balance", "/api/v1/users/Ada/balance", "/api/v1/users/ada%20/balance"),
        *("/api/v1/users//balance", "/api/v1/events?user=", "/api/v1/events?user=bob&user=ada&limit=1&user=bob"),
        *("/api/v1/balances", "/api/v1/users", "/api/v1/reconcile?user=ada", "/api/v1/quarantine?user=ada"),
        *("/metrics", "/docs", "/openapi.json", "/api/v1/prices", "/", "/api/v1/users/ada/balance/"),
    ],
)
def test_a_user_sees_nobody_else(guarded: Guarded, path: str) -> None:
    """However the path is written, a user's token gives nothing of another user and nothing of everybody."""
    answer = guarded.api("GET", path, guarded.ada)
    # Redirects lead back here, with the same token.
    assert answer.status_code in (403, 404, 422, 307), path
    assert "bob" not in answer.text


def test_a_user_runs_no_sql(guarded: Guarded) -> None:
    """A token that is bound to a user cannot ask in SQL, which knows no users."""
    assert guarded.api("POST", "/api/v1/sql", guarded.ada, json={"query": "SELECT 1"}).status_code == 403


def test_the_command_shows_its_token(guarded: Guarded) -> None:
    """The command shows OTEL_CREDITS_TOKEN to the server, says what is missing without it, and never prints it."""
    env = {"OTEL_CREDITS_URL": guarded.aggregator.url}
    without = command("events", env=env)
    assert (without.returncode, without.stdout) == (1, "")
    assert "OTEL_CREDITS_TOKEN" in without.stderr
    assert command("events", "--json", env=env | {"OTEL_CREDITS_TOKEN": guarded.read}).returncode == 0
    refused = command("grant", "ada", "1", env=env | {"OTEL_CREDITS_TOKEN": guarded.read})
    assert refused.returncode == 1
    assert "for read" in refused.stderr
    wrong = command("events", env=env | {"OTEL_CREDITS_TOKEN": "secret", "OTEL_CREDITS_API_PORT": "0"})
    assert "secret" not in wrong.stderr + wrong.stdout + refused.stderr
    assert command("grant", "ada", "1", env=env | {"OTEL_CREDITS_TOKEN": guarded.admin}).returncode == 0


def test_tokens_change_without_a_restart(guarded: Guarded) -> None:
    """A new token is known and a revoked one refused, at each door, while the server runs; and the list has no secret."""
    aggregator, env = guarded.aggregator, {"OTEL_CREDITS_DATA_DIR": str(guarded.aggregator.data_dir)}
    reading, sending = (made(aggregator.data_dir, name, "--role", name[4:]) for name in ("new-read", "new-ingest"))

    def reads() -> bool:
        return guarded.api("GET", "/api/v1/events", reading).is_success

    def sends() -> bool:
        return post(aggregator.http_endpoint, b"", token=sending).is_success

    wait_until(lambda: reads() and sends(), ROTATION_TIMEOUT_S, "both new tokens are known")
    listed = command("tokens", "list", "--json", env=env)
    rows = json.loads(listed.stdout)
    assert {"new-read", "new-ingest", "ada"} <= {row["name"] for row in rows}
    assert not [row for row in rows if "sha256" in row]
    assert reading not in listed.stdout
    for name in ("new-read", "new-ingest"):
        assert command("tokens", "revoke", name, env=env).returncode == 0
    wait_until(lambda: not reads() and not sends(), ROTATION_TIMEOUT_S, "both are refused")
    with GrpcClient(aggregator.grpc_port, token=sending) as client, pytest.raises(grpc.RpcError):
        client.export(b"")


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_a_public_address_without_tokens_is_no_start(tmp_path: Path, host: str) -> None:
    """It ends with 1 and says what to do, before it listens anywhere or makes a file; with the words it starts."""
    aggregator = AggregatorProcess(tmp_path / "data", {"OTEL_CREDITS_HOST": host}, migrates=True)
    aggregator.start()
    assert aggregator.wait(REFUSED_WITHIN_S) == 1
    assert "otel-credits tokens add" in aggregator.output()
    assert "OTEL_CREDITS_ALLOW_UNAUTHENTICATED=on" in aggregator.output()
    assert "Traceback" not in aggregator.output()
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"aggregator.log"}


def test_with_the_words_it_starts(tmp_path: Path) -> None:
    """Told in so many words it listens on every address without tokens, and the log says what that means."""
    env = {"OTEL_CREDITS_HOST": "0.0.0.0", "OTEL_CREDITS_ALLOW_UNAUTHENTICATED": "on"}
    with AggregatorProcess(tmp_path, env) as aggregator:
        assert post(aggregator.http_endpoint, one_credit("u")).is_success
        assert "whoever reaches 0.0.0.0 can charge any user" in aggregator.output()
