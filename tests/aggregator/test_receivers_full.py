"""Back pressure: with the store away and the spool full, senders are asked to wait, and nothing is lost."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import grpc
import pytest
from google.rpc import code_pb2
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpans
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpans
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter
from support.accounting import assert_exact, settle
from support.clickhouse_http import ClickHouseHttp
from support.otlp_build import AMOUNT, USER, traces, usage_span
from support.otlp_clients import JSON, GrpcClient, post, refusal, status_of
from support.processes import AggregatorProcess, wait_until

SPOOL_BYTES_MAX = 1 << 20
RETRY_DELAY_S = 1.5
# An SDK's exporter asks 6 times, so it waits for the store's start for 5 times this long.
SDK_RETRY_DELAY_S = 8
USER_ID = "patient"


@dataclass
class FullAggregator:
    """An aggregator whose spool is full, the store that it waits for, and how many usages of 1 credit it holds."""

    aggregator: AggregatorProcess
    store: ClickHouseHttp
    taken: int


def a_request(size: int = 0) -> bytes:
    return traces(usage_span({USER: USER_ID, AMOUNT: "1", "note": "x" * size})).SerializeToString()


def fill(client: GrpcClient) -> int:
    """Send requests, large ones first, until even a small one is refused; return how many were taken."""
    return sum(fill_with(client, size) for size in (100_000, 1_000, 0))


def fill_with(client: GrpcClient, size: int) -> int:
    """The same with requests of one size."""
    for taken in range(10_000):
        try:
            client.export(a_request(size))
        except grpc.RpcError as error:
            if refusal(error).code is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise
            return taken
    raise AssertionError("10,000 requests fit into a spool of 1 MiB")


@pytest.fixture
def full(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FullAggregator]:
    """An aggregator with a full spool, which asks to wait for `RETRY_DELAY_S` or the parameter; its store can be started."""
    store = ClickHouseHttp(tmp_path / "store", migrated=True)
    settings = {
        "OTEL_CREDITS_STORE": store.dsn(),
        "OTEL_CREDITS_SPOOL_BYTES_MAX": str(SPOOL_BYTES_MAX),
        "OTEL_CREDITS_RETRY_DELAY_S": str(getattr(request, "param", RETRY_DELAY_S)),
        "OTEL_CREDITS_STORE_RETRY_MAX_S": "0.2",
        "OTEL_CREDITS_STOP_TIMEOUT_S": "1",
    }
    aggregator = AggregatorProcess(tmp_path / "data", settings)
    try:
        aggregator.start()
        with GrpcClient(aggregator.grpc_port) as client:
            wait_until(lambda: is_receiving(client), 30, "it receives")
            yield FullAggregator(aggregator, store, fill(client))
    finally:
        aggregator.terminate()
        if store.is_running:
            store.terminate()


def is_receiving(client: GrpcClient) -> bool:
    try:
        client.export(b"")
    except grpc.RpcError:
        return False
    return True


def start(store: ClickHouseHttp) -> None:
    store.start()
    store.wait_ready()


def test_grpc_senders_are_asked_to_wait(full: FullAggregator) -> None:
    """A full spool is answered RESOURCE_EXHAUSTED with the delay in RetryInfo; logs, which are not kept, are taken."""
    with GrpcClient(full.aggregator.grpc_port) as client:
        with pytest.raises(grpc.RpcError) as raised:
            client.export(a_request(100_000))
        told = refusal(raised.value)
        assert (told.code, told.retry_delay_s) == (grpc.StatusCode.RESOURCE_EXHAUSTED, RETRY_DELAY_S)
        assert told.status is not None
        assert told.status.code == code_pb2.RESOURCE_EXHAUSTED
        client.export(b"", "logs")
    metrics = full.aggregator.metrics()
    assert SPOOL_BYTES_MAX - 200 < metrics["otel_credits_spool_bytes"] <= SPOOL_BYTES_MAX
    assert metrics["otel_credits_store_up"] == 0
    assert metrics['otel_credits_requests_refused_total{reason="SpoolFull"}'] >= 4


def test_http_senders_are_asked_to_wait(full: FullAggregator) -> None:
    """A full spool is answered 429 with Retry-After in whole seconds, rounded up, and a google.rpc.Status."""
    response = post(full.aggregator.http_endpoint, a_request())
    assert (response.status_code, response.headers["retry-after"]) == (429, "2")
    assert status_of(response).code == code_pb2.RESOURCE_EXHAUSTED
    a_span = {"name": "x" * 1_000, "traceId": "ab" * 16}
    body = json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [a_span]}]}]}).encode()
    in_json = post(full.aggregator.http_endpoint, body, content_type=JSON)
    assert (in_json.status_code, in_json.json()["code"]) == (429, code_pb2.RESOURCE_EXHAUSTED)


def test_what_was_taken_is_charged_when_the_store_is_back(full: FullAggregator) -> None:
    """When the store is back the spool empties, requests are taken again, every acknowledged usage is charged once."""
    start(full.store)
    settle(full.aggregator)
    assert post(full.aggregator.http_endpoint, a_request()).is_success
    sums = settle(full.aggregator)
    assert sums.charged == sums.received == full.taken + 1
    assert_exact(full.aggregator, {USER_ID: Decimal(full.taken + 1)})


@pytest.mark.parametrize("full", [SDK_RETRY_DELAY_S], indirect=True)
@pytest.mark.parametrize("transport", ["grpc", "http"])
def test_the_sdk_waits_and_sends_again(full: FullAggregator, transport: str) -> None:
    """An SDK's exporter that meets a full spool is told how long to wait, and delivers when there is room."""
    exporter: SpanExporter
    if transport == "grpc":
        exporter = GrpcSpans(full.aggregator.grpc_endpoint, insecure=True, timeout=120)
    else:
        exporter = HttpSpans(f"{full.aggregator.http_endpoint}/v1/traces", timeout=120)
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    refused = refusals(full.aggregator)
    sending = threading.Thread(target=one_span, args=(provider,))
    sending.start()
    wait_until(lambda: refusals(full.aggregator) > refused, 20, "the exporter was refused")
    start(full.store)
    sending.join(120)
    assert not sending.is_alive()
    settle(full.aggregator)
    assert_exact(full.aggregator, {USER_ID: Decimal(full.taken), "sdk": Decimal("0.001")})


def one_span(provider: TracerProvider) -> None:
    """Record one usage; the processor exports it in this thread."""
    attributes = {"credits.action_type": "workflow_execution", "user.id": "sdk"}
    provider.get_tracer("app").start_span("work", attributes=attributes).end()


def refusals(aggregator: AggregatorProcess) -> float:
    return aggregator.metrics()['otel_credits_requests_refused_total{reason="SpoolFull"}']
