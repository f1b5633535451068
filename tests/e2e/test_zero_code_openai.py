"""An app that asks OpenAI and never imports otel_credits: its SDK and the official instrumentation, nothing else.

FastAPI under uvicorn, the OpenAI SDK against a server that speaks its wire format, and a real aggregator. The user is in a
header of the app's proxy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from types import SimpleNamespace

import pytest
from support.llm_server import LlmServer, Usage
from support.processes import AggregatorProcess, wait_until
from support.uvicorn_app import serving

PRICES = {
    "input_token": Decimal("0.00000125"),
    "cache_read_token": Decimal("0.000000125"),
    "cache_write_token": Decimal("0.0000015625"),
    "output_token": Decimal("0.00001"),
}
# 64 of the 93 output tokens are reasoning, which OpenAI bills as output.
USED = Usage(input=164, cache_read=1024, cache_write=256, output=93, reasoning=64)
TOLD = ("chat", "chat-async", "stream", "stream-async", "responses", "responses-stream")
UNTOLD = ("stream-without-usage", "abandoned")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """The app and the aggregator, running."""
    folder = tmp_path_factory.mktemp("ask-openai")
    settings = {
        "OTEL_CREDITS_USER": "header:x-user-id",
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_CREDITS_CHARGE_GENAI": "on",
    }
    with LlmServer() as llm, AggregatorProcess(folder / "data", {"OTEL_CREDITS_CHARGE_GENAI": "on"}) as aggregator:
        llm.next = USED
        for unit, credits in PRICES.items():
            price = {"action_type": "*", "model": "gpt-test", "unit": unit, "credits_per_unit": str(credits)}
            aggregator.request("POST", "/api/v1/prices", json=price)
        endpoint = aggregator.grpc_endpoint
        with serving("ask_openai_app:app", endpoint, folder, auto=True, **settings, LLM_URL=llm.url) as served:
            yield SimpleNamespace(get=served.get, aggregator=aggregator, llm=llm, process=served.process)


def bill(usage: Usage) -> Decimal:
    """What OpenAI bills for an answer: each token in one class only."""
    classes = (usage.input, usage.cache_read, usage.cache_write, usage.output)
    return sum((price * tokens for price, tokens in zip(PRICES.values(), classes, strict=True)), Decimal(0))


def asked(shop: SimpleNamespace, user: str, *paths: str) -> None:
    """A user's requests, one after the other."""
    for path in paths:
        response = shop.get(f"/{path}", headers={"x-user-id": user})
        assert response.status_code == 200, response.text


def charges_of(shop: SimpleNamespace, user: str) -> Counter[tuple[str, Decimal, int, int]]:
    """What a user was charged for."""
    columns = "action_type, credits_charged, input_tokens, output_tokens"
    rows = shop.aggregator.sql(f"SELECT {columns} FROM credit_usage_events WHERE user_id = '{user}'")
    return Counter(
        (row["action_type"], Decimal(row["credits_charged"]), int(row["input_tokens"]), int(row["output_tokens"]))
        for row in rows
    )


def waiting_of(shop: SimpleNamespace, user: str) -> list[str]:
    """Why usages of a user wait."""
    rows = shop.aggregator.sql(f"SELECT reason FROM credit_quarantine WHERE user_id = '{user}'")
    return [row["reason"] for row in rows]


@pytest.mark.parametrize("path", TOLD)
def test_a_call_costs_what_openai_served(shop: SimpleNamespace, path: str) -> None:
    """A call of Chat Completions or Responses, streamed with its usage or not, is charged once, exactly what the server
    served, to the user of the request; cached tokens and reasoning are not counted twice."""
    user = f"payer-{path}"
    asked(shop, user, path)
    wait_until(lambda: charges_of(shop, user), 60, f"the call of {user} is charged")
    assert charges_of(shop, user) == {("ai_call", bill(USED), USED.all_input, USED.output): 1}
    assert waiting_of(shop, user) == []


@pytest.mark.parametrize("path", UNTOLD)
def test_a_stream_that_does_not_tell_its_usage_waits(shop: SimpleNamespace, path: str) -> None:
    """A stream without include_usage, or one that is left before its end, is not free: it waits as unknown usage, with
    the user who asked."""
    user = f"payer-{path}"
    asked(shop, user, path)
    wait_until(lambda: waiting_of(shop, user), 60, f"the call of {user} is in quarantine")
    assert waiting_of(shop, user) == ["usage_unknown"]
    assert not charges_of(shop, user)


def test_a_refused_call_is_not_charged(shop: SimpleNamespace) -> None:
    """A call that the provider refused costs nobody anything; as its span does not say what was used, it waits for
    somebody to discard it."""
    asked(shop, "refused", "refused")
    wait_until(lambda: waiting_of(shop, "refused"), 60, "the refused call is in quarantine")
    assert waiting_of(shop, "refused") == ["usage_unknown"]
    assert not charges_of(shop, "refused")


def test_the_books_agree(shop: SimpleNamespace) -> None:
    """Each call that the server was asked for is charged or waits, once; the server was told no user, and nothing went
    wrong in the app."""
    asked(shop, "last", "chat")
    wait_until(lambda: charges_of(shop, "last"), 60, "the last call is charged")
    (ledger,) = shop.aggregator.sql("SELECT count() AS n, sum(credits_charged) AS credits FROM credit_usage_events")
    waiting = shop.aggregator.sql("SELECT reason FROM credit_quarantine")
    assert int(ledger["n"]) + len(waiting) == len(shop.llm.served)
    assert Decimal(ledger["credits"]) == bill(USED) * int(ledger["n"])
    headers = str([served.headers for served in shop.llm.served])
    assert "payer-" not in headers
    assert "credits." not in headers
    assert "Traceback" not in shop.process.output()
