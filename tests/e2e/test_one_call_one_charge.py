"""An app tracks its own Claude calls, and the SDK's spans of them leave through OpenTelemetry's exporter: one charge each."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

import pytest
from support.accounting import assert_exact, charges, settle
from support.llm_server import LlmServer, Usage
from support.processes import AggregatorProcess, clean_environment, wait_until
from support.samples import others_long

# The Anthropic SDK makes spans by itself. Either exporter sends when it is told to, and says when it has.
APP = """
import sys, anthropic, otel_credits
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

receiver, credits_receiver, llm = sys.argv[1:]
provider = TracerProvider()
spans = BatchSpanProcessor(OTLPSpanExporter(receiver + "/v1/traces"))
provider.add_span_processor(spans)
trace.set_tracer_provider(provider)
otel_credits.configure(endpoint=credits_receiver)
client = anthropic.Anthropic(api_key="x", base_url=llm, max_retries=0)
for _ in range(3):
    ask = {"model": "claude-sonnet-4-5", "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}]}
    stream = otel_credits.track_stream(client.messages.create(**ask, stream=True), user_id="ada", action_type="chat")
    for event in stream:
        pass
for line in sys.stdin:
    assert {"sdk": spans.force_flush, "app": lambda: otel_credits.flush(60)}[line.strip()]()
    print("sent", flush=True)
"""
CALLS = 3
# 1,000 input and 60 output tokens. The app's action has a price of its own, the SDK's spans the one of the starter book.
BY_SDK = 1000 * Decimal("0.000003") + 60 * Decimal("0.000015")
BY_APP = 1000 * Decimal("0.01") + 60 * Decimal("0.02")


@pytest.fixture
def server() -> Iterator[LlmServer]:
    """The LLM, with response ids as long as a provider's."""
    with LlmServer() as started:
        started.next = Usage(input=1000, output=60)
        started.ids = itertools.count(10**15)
        yield started


@contextmanager
def app(receiver: AggregatorProcess, server: LlmServer) -> Iterator[subprocess.Popen[str]]:
    """The app, which has made its calls and sent nothing."""
    environment = clean_environment() | {
        "PYTHONPATH": ":".join(path for path in sys.path if path),
        "OTEL_CREDITS_EXPORT_INTERVAL_S": "3600",
        "OTEL_BSP_SCHEDULE_DELAY": "3600000",
    }
    command = [sys.executable, "-c", APP, receiver.http_endpoint, receiver.grpc_endpoint, server.url]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 0


def send(process: subprocess.Popen[str], exporter: str) -> None:
    """Has one of the app's exporters send what it has."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{exporter}\n")
    process.stdin.flush()
    assert process.stdout.readline() == "sent\n"


def aggregator(folder: Path, **more: str) -> AggregatorProcess:
    """One that charges LLM calls of instrumentations, too."""
    settings = {"OTEL_CREDITS_CHARGE_GENAI": "on", "OTEL_CREDITS_DEFAULT_USER": "ada", **more}
    return AggregatorProcess(folder, {"OTEL_CREDITS_RECHECK_INTERVAL_S": "0.2", **settings})


def set_price(receiver: AggregatorProcess) -> None:
    """What the app's action costs."""
    for unit, credits in (("input_token", "0.01"), ("output_token", "0.02")):
        row = {
            "action_type": "chat",
            "unit": unit,
            "credits_per_unit": credits,
            "effective_from": "2020-01-01T00:00:00Z",
        }
        receiver.request("POST", "/api/v1/prices", json=row)


def assert_as_the_app_says(receiver: AggregatorProcess) -> None:
    """The balance is exactly what the app's usages cost, in every sum, also when the sums are made anew."""
    wait_until(lambda: charges(receiver) == {"ada": CALLS * BY_APP}, 60, "the app's usages alone are charged")
    accounting = settle(receiver)
    assert (accounting.charged, accounting.duplicate, accounting.quarantined) == (CALLS, CALLS, 0)
    assert_exact(receiver, {"ada": CALLS * BY_APP})
    receiver.request("POST", "/api/v1/rebuild")
    assert_exact(receiver, {"ada": CALLS * BY_APP})


def assert_given_back_once(tmp_path: Path, server: LlmServer, fatal: str) -> None:
    """The SDK's spans are charged; the aggregator dies at a point while it takes what the app says, and comes back."""
    with aggregator(tmp_path) as receiver, app(receiver, server) as process:
        set_price(receiver)
        send(process, "sdk")
        settle(receiver)
        assert receiver.terminate() == 0
        receiver.env["OTEL_CREDITS_FAULT_POINT"] = fatal
        receiver.start()
        receiver.wait_ready()
        send(process, "app")
        wait_until(lambda: not receiver.is_running, 60, "it has died")
        del receiver.env["OTEL_CREDITS_FAULT_POINT"]
        receiver.start()
        receiver.wait_ready()
        assert_as_the_app_says(receiver)


@pytest.mark.parametrize(
    "order", others_long([("sdk", "app"), ("app", "sdk")], short=[("sdk", "app")]), ids=" first, then ".join
)
def test_the_app_s_word_is_charged_whichever_comes_first(
    tmp_path: Path, server: LlmServer, order: tuple[str, str]
) -> None:
    """The balance shows the app's amount in the end, to the digit; what was charged for the SDK's spans before is given back."""
    with aggregator(tmp_path) as receiver, app(receiver, server) as process:
        set_price(receiver)
        first, second = order
        send(process, first)
        settle(receiver)
        assert charges(receiver) == {"ada": CALLS * (BY_SDK if first == "sdk" else BY_APP)}
        send(process, second)
        assert_as_the_app_says(receiver)
        taken_back = receiver.sql("SELECT kind, count() AS n FROM credit_voids GROUP BY kind")
        assert taken_back == ([{"kind": "duplicate", "n": CALLS}] if first == "sdk" else [])


@pytest.mark.long
@pytest.mark.parametrize("stage", ["doubles_unseen", "insert_done", "batch_forgotten"])
def test_a_kill_in_between_gives_back_once(tmp_path: Path, server: LlmServer, stage: str) -> None:
    """Killed after the app's usages were inserted, before or after the look, it gives back once after the next start."""
    assert_given_back_once(tmp_path, server, f"{stage}:1")


@pytest.mark.long
def test_a_kill_while_it_gives_back_gives_back_once(tmp_path: Path, server: LlmServer) -> None:
    """Killed after the entry that takes the charges back was inserted, before it knows, it gives back once."""
    # The first batch is the app's usages, the second the entry.
    assert_given_back_once(tmp_path, server, "insert_done:2")
