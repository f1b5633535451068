"""An app that tracks its LLM calls itself while an instrumentation makes spans of them, too: one call, one charge.

The real OpenAI SDK under the official instrumentation, a server that speaks its wire format, and a real aggregator.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from support.llm_server import LlmServer, Usage
from support.processes import AggregatorProcess, Process, wait_until
from support.uvicorn_app import APPS

PRICES = {"input_token": "0.00000125", "cache_read_token": "0.000000125", "output_token": "0.00001"}
USED = Usage(input=164, cache_read=1024, output=93)
CREDITS = 164 * Decimal("0.00000125") + 1024 * Decimal("0.000000125") + 93 * Decimal("0.00001")


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[AggregatorProcess, LlmServer]]:
    """The app has run to its end, and all that it sent is in the ledger."""
    folder = tmp_path_factory.mktemp("tracked")
    aggregator = AggregatorProcess(folder / "data", {"OTEL_CREDITS_CHARGE_GENAI": "on"})
    with LlmServer() as llm, aggregator:
        llm.next = USED
        for unit, credits in PRICES.items():
            price = {"action_type": "*", "model": "gpt-test", "unit": unit, "credits_per_unit": credits}
            aggregator.request("POST", "/api/v1/prices", json=price)
        run_app(folder, aggregator, llm)
        yield aggregator, llm


def run_app(folder: Path, aggregator: AggregatorProcess, llm: LlmServer) -> None:
    """`opentelemetry-instrument python tracks_itself.py`, until everything that came is charged or a duplicate."""
    env = {
        "LLM_URL": llm.url,
        "OTEL_CREDITS_ENDPOINT": aggregator.grpc_endpoint,
        "OTEL_CREDITS_CHARGE_GENAI": "on",
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
    }
    instrument = str(Path(sys.executable).with_name("opentelemetry-instrument"))
    with Process("app", [instrument, sys.executable, str(APPS / "tracks_itself.py")], log_dir=folder, env=env) as app:
        assert app.wait(120) == 0, app.output()
    counters = ("charged", "duplicate", "quarantined", "not_usage")
    wait_until(
        lambda: sum(spans(aggregator, outcome) for outcome in counters) == spans(aggregator, "received"),
        60,
        "every span that was received has its outcome",
    )


def spans(aggregator: AggregatorProcess, outcome: str) -> float:
    """How many spans became this."""
    name = f"otel_credits_spans_{outcome}_total"
    return sum(value for series, value in aggregator.metrics().items() if series.partition("{")[0] == name)


def test_each_call_is_charged_once(tracked: tuple[AggregatorProcess, LlmServer]) -> None:
    """A call that the app tracked with the provider's response id, at once, late, from another thread, with an amount of
    its own or as a stream, is charged once beside the instrumentation's span of it; nothing waits."""
    aggregator, llm = tracked
    # The app's own amount goes before the tokens of the span, whichever came first: what was charged for that is taken back.
    wait_until(lambda: spans(aggregator, "duplicate") == 5, 60, "what was charged for a span before is taken back")
    rows = aggregator.sql(
        "SELECT user_id, sum(sign) AS n, sum(credits_charged) AS credits FROM credit_usage_events GROUP BY user_id"
    )
    charged = {row["user_id"]: (int(row["n"]), Decimal(row["credits"])) for row in rows}
    assert charged.pop("amount") == (1, Decimal("0.5"))
    assert charged == dict.fromkeys(("at-once", "late", "thread", "stream"), (1, CREDITS))
    assert len(llm.served) == 5
    assert aggregator.sql("SELECT reason FROM credit_quarantine") == []
    assert spans(aggregator, "duplicate") == 5
