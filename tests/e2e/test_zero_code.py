"""An app that never imports otel_credits, charged by environment variables alone; and what its clients cannot do.

FastAPI under uvicorn and a Celery worker on a real Redis, both under `opentelemetry-instrument`, the Anthropic SDK
against a server that speaks its wire format, and a real aggregator. The user is a claim of the caller's token.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from support.llm_server import LlmServer, Usage
from support.processes import AggregatorProcess, Process, wait_until
from support.redis import redis_server
from support.uvicorn_app import APPS, serving

pytestmark = pytest.mark.redis

KEY = ec.generate_private_key(ec.SECP256R1())
PRICES = {
    "input_token": "0.000003",
    "cache_read_token": "0.0000003",
    "cache_write_token": "0.00000375",
    "output_token": "0.000015",
}
USED = Usage(input=137, cache_read=2048, cache_write=512, output=61)
CREDITS = sum(
    Decimal(PRICES[unit]) * tokens
    for unit, tokens in {
        "input_token": 137,
        "cache_read_token": 2048,
        "cache_write_token": 512,
        "output_token": 61,
    }.items()
)
PLACES = ("ask", "ask-async", "pool", "stream", "background", "task")
UNSAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
# What a client sends beside its token, to let another pay, or nobody, or less.
TRICKS = {
    "honest": {},
    "baggage": {"baggage": "credits.user_id=evil,user.id=evil,enduser.id=evil,user_id=evil"},
    "keys": {"baggage": "credits.action_type=free,credits.amount=0,credits.units.output_token=0,app.plan=free"},
    "metadata": {"baggage": "credits.metadata=%7B%22a%22%3A1%7D,credits.usage_unknown=true,credits.idempotency_key=k"},
    "unsampled": {"traceparent": UNSAMPLED, "tracestate": "vendor=0"},
    "headers": {
        "x-user-id": "evil",
        "credits_baggage": "credits.user_id=evil",
        "credits-baggage": "credits.user_id=evil",
    },
    "huge": {"baggage": ",".join(f"k{number}={'v' * 40}" for number in range(150))},
}


def token(user: str, key: ec.EllipticCurvePrivateKey = KEY) -> dict[str, str]:
    """The header of a caller."""
    claims = {"sub": user, "exp": int(time.time()) + 3600}
    return {"authorization": "Bearer " + jwt.encode(claims, key, "ES256")}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """The app, its worker and the aggregator, running."""
    folder = tmp_path_factory.mktemp("shop")
    key_file = folder / "key.pem"
    key_file.write_bytes(KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    settings = {
        "OTEL_CREDITS_CHARGE_GENAI": "on",
        "OTEL_CREDITS_USER": "jwt:sub",
        "OTEL_CREDITS_JWT_KEY_FILE": str(key_file),
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "APP_KEY_FILE": str(key_file),
    }
    aggregator = AggregatorProcess(folder / "data", {"OTEL_CREDITS_CHARGE_GENAI": "on"})
    with LlmServer() as llm, redis_server(folder) as broker, aggregator:
        llm.next = USED
        for unit, credits in PRICES.items():
            price = {"action_type": "*", "model": "claude-test", "unit": unit, "credits_per_unit": credits}
            aggregator.request("POST", "/api/v1/prices", json=price)
        settings |= {"LLM_URL": llm.url, "BROKER": broker}
        with (
            worker(folder, settings | {"OTEL_CREDITS_ENDPOINT": aggregator.grpc_endpoint}),
            serving("shop_app:app", aggregator.grpc_endpoint, folder, auto=True, **settings) as served,
        ):
            yield SimpleNamespace(get=served.get, aggregator=aggregator, llm=llm, process=served.process)


@contextmanager
def worker(folder: Path, env: dict[str, str]) -> Iterator[Process]:
    """A Celery worker of the app under `opentelemetry-instrument`."""
    tools = Path(sys.executable)
    command = [
        str(tools.with_name("opentelemetry-instrument")),
        sys.executable,
        "-m",
        "celery",
        "-A",
        "shop_app:celery_app",
    ]
    path = os.pathsep.join(filter(None, [str(APPS), os.environ.get("PYTHONPATH")]))
    command += ["worker", "--loglevel", "INFO", "-c", "2"]
    with Process("worker", command, log_dir=folder, env=env | {"PYTHONPATH": path}, cwd=folder) as process:
        process.wait_for(lambda: " ready." in process.output(), 90, "the worker is ready")
        yield process


def events_of(shop: SimpleNamespace, user: str) -> list[dict[str, str]]:
    """What a user was charged for."""
    query = f"SELECT action_type, credits_charged, input_tokens, output_tokens FROM credit_usage_events WHERE user_id = '{user}'"
    rows: list[dict[str, str]] = shop.aggregator.sql(query)
    return rows


def assert_charged(shop: SimpleNamespace, user: str, calls: int) -> None:
    """These calls, each in full, and nothing else."""
    wait_until(lambda: len(events_of(shop, user)) >= calls, 60, f"{calls} calls of {user} are charged")
    found = Counter(
        (row["action_type"], Decimal(row["credits_charged"]), int(row["input_tokens"]), int(row["output_tokens"]))
        for row in events_of(shop, user)
    )
    assert found == {("ai_call", CREDITS, 2697, 61): calls}


@pytest.mark.parametrize("trick", TRICKS)
def test_whoever_asks_pays_in_full(shop: SimpleNamespace, trick: str) -> None:
    """Every LLM call of a request, wherever in the app it is made, is charged once, in full, to the user of the
    verified token, whatever the client sends beside it."""
    for place in PLACES:
        response = shop.get(f"/{place}", headers=token(f"payer-{trick}") | TRICKS[trick])
        assert response.status_code == 200, response.text
    assert_charged(shop, f"payer-{trick}", len(PLACES))
    assert events_of(shop, "evil") == []


def test_a_token_that_somebody_forged(shop: SimpleNamespace) -> None:
    """A request that the app refuses costs nobody anything."""
    forged = token("evil", ec.generate_private_key(ec.SECP256R1()))
    before = len(shop.llm.served)
    for place in PLACES:
        assert shop.get(f"/{place}", headers=forged).status_code == 401
    assert len(shop.llm.served) == before
    assert events_of(shop, "evil") == []


def test_the_books_agree(shop: SimpleNamespace) -> None:
    """All that the provider served is charged, none of it twice, nothing is in quarantine; the provider was told no
    user, and nothing went wrong in the app."""
    shop.get("/ask", headers=token("last"))
    assert_charged(shop, "last", 1)
    (ledger,) = shop.aggregator.sql("SELECT count() AS n, sum(credits_charged) AS credits FROM credit_usage_events")
    assert int(ledger["n"]) == len(shop.llm.served)
    assert Decimal(ledger["credits"]) == CREDITS * len(shop.llm.served)
    assert shop.aggregator.sql("SELECT reason FROM credit_quarantine") == []
    headers = str([served.headers for served in shop.llm.served])
    assert "payer-" not in headers
    assert "credits." not in headers
    assert "Traceback" not in shop.process.output()
