"""OTLP/gRPC, byte by byte: what is acknowledged, what is refused, and with which code."""

from __future__ import annotations

import gzip
import uuid
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import grpc
import pytest
from google.rpc import code_pb2
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs
from support.accounting import Accounting, accounting, charges, settle
from support.otlp_build import AMOUNT, USER, metric, metrics, point, span, traces, usage_span
from support.otlp_clients import GrpcClient, refusal
from support.processes import AggregatorProcess

REQUEST_BYTES_MAX = 1 << 20
GZIP_BOMB_BYTES = 1 << 28


@pytest.fixture(scope="module")
def aggregator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AggregatorProcess]:
    """One aggregator for the module, which takes requests of up to a mebibyte."""
    settings = {"OTEL_CREDITS_REQUEST_BYTES_MAX": str(REQUEST_BYTES_MAX)}
    with AggregatorProcess(tmp_path_factory.mktemp("aggregator"), settings) as started:
        yield started


@pytest.fixture
def client(aggregator: AggregatorProcess) -> Iterator[GrpcClient]:
    """A raw client of it."""
    with GrpcClient(aggregator.grpc_port) as connected:
        yield connected


def refused_requests(aggregator: AggregatorProcess, reason: str) -> float:
    return aggregator.metrics().get(f'otel_credits_requests_refused_total{{reason="{reason}"}}', 0.0)


def test_an_acknowledgement_has_no_partial_success(client: GrpcClient) -> None:
    """A request that was taken whole is answered with an empty response, which the specification asks for."""
    answer = ExportTraceServiceResponse.FromString(client.export(traces(usage_span()).SerializeToString()))
    assert not answer.HasField("partial_success")
    points = metrics(metric(point(1))).SerializeToString()
    assert not ExportMetricsServiceResponse.FromString(client.export(points, "metrics")).HasField("partial_success")


@pytest.mark.parametrize("signal", ["traces", "metrics", "logs"])
def test_an_empty_request_is_acknowledged(client: GrpcClient, aggregator: AggregatorProcess, signal: str) -> None:
    """A request without any item is acknowledged, changes no counter and leaves nothing in the spool."""
    before = settle(aggregator)
    assert client.export(b"", signal) == b""
    without_items = {"traces": traces(), "metrics": metrics(metric())}
    if signal in without_items:
        assert client.export(without_items[signal].SerializeToString(), signal) == b""
    assert aggregator.metrics()["otel_credits_spool_bytes"] == 0
    assert settle(aggregator) == before


def test_log_records_are_counted_and_not_kept(client: GrpcClient, aggregator: AggregatorProcess) -> None:
    """Logs are acknowledged, counted as not usage, and never reach the spool."""
    settle(aggregator)
    before = accounting(aggregator.metrics(), "log_records")
    logs = ExportLogsServiceRequest(resource_logs=[ResourceLogs(scope_logs=[ScopeLogs(log_records=[LogRecord()] * 5)])])
    answer = ExportLogsServiceResponse.FromString(client.export(logs.SerializeToString(), "logs"))
    assert not answer.HasField("partial_success")
    after = aggregator.metrics()
    assert accounting(after, "log_records") - before == Accounting(received=5, not_usage=5)
    assert after["otel_credits_spool_bytes"] == 0


def test_gzip_is_understood(aggregator: AggregatorProcess) -> None:
    """A compressed request is the same request."""
    user = uuid.uuid4().hex
    with GrpcClient(aggregator.grpc_port, grpc.Compression.Gzip) as compressing:
        compressing.export(traces(*(usage_span({USER: user, AMOUNT: "0.1"}) for _ in range(50))).SerializeToString())
    settle(aggregator)
    assert charges(aggregator)[user] == Decimal("5")


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"\xff\xff\xff", id="no protobuf"),
        pytest.param(b"{}", id="JSON"),
        pytest.param(traces(span()).SerializeToString()[:-3], id="cut off"),
        pytest.param(gzip.compress(traces(span()).SerializeToString()), id="gzip that nobody announced"),
    ],
)
def test_malformed_bytes_are_refused_for_good(
    client: GrpcClient, aggregator: AggregatorProcess, payload: bytes
) -> None:
    """Bytes that are no request get INVALID_ARGUMENT without a retry delay, so that the sender drops them."""
    before, refused = settle(aggregator), refused_requests(aggregator, "BadRequest")
    with pytest.raises(grpc.RpcError) as raised:
        client.export(payload)
    told = refusal(raised.value)
    assert told.code is grpc.StatusCode.INVALID_ARGUMENT
    assert told.retry_delay_s is None
    assert told.status is not None
    assert told.status.code == code_pb2.INVALID_ARGUMENT
    assert "traces" in told.status.message
    assert settle(aggregator) == before
    assert refused_requests(aggregator, "BadRequest") == refused + 1


def test_a_request_cannot_bring_its_own_envelope(client: GrpcClient, aggregator: AggregatorProcess) -> None:
    """The field in which the aggregator says who received a request, and who pays, is refused when a sender sets it."""
    envelope = bytes([0xC2, 0x3E, 0x02, 0x18, 0x01])  # field 1000, two bytes: charge_genai = true
    with pytest.raises(grpc.RpcError) as raised:
        client.export(traces(usage_span()).SerializeToString() + envelope)
    assert refusal(raised.value).code is grpc.StatusCode.INVALID_ARGUMENT


def test_unknown_fields_are_carried_along(client: GrpcClient, aggregator: AggregatorProcess) -> None:
    """A newer sender's fields, of the request and of a span, hinder nothing."""
    user = uuid.uuid4().hex
    newer = bytes([0xC2, 0x0C, 0x03]) + b"new"  # field 200
    request = ExportTraceServiceRequest.FromString(traces(usage_span({USER: user})).SerializeToString())
    request.resource_spans[0].scope_spans[0].spans[0].MergeFromString(newer)
    client.export(request.SerializeToString() + newer)
    settle(aggregator)
    assert charges(aggregator)[user] == Decimal(1)


def test_a_request_above_the_limit_is_refused_for_good(client: GrpcClient, aggregator: AggregatorProcess) -> None:
    """A request above OTEL_CREDITS_REQUEST_BYTES_MAX is refused without a retry delay, one at the limit is taken."""
    before = settle(aggregator)
    at_limit = request_of_size(REQUEST_BYTES_MAX)
    client.export(at_limit)
    with pytest.raises(grpc.RpcError) as raised:
        client.export(request_of_size(REQUEST_BYTES_MAX + 1))
    told = refusal(raised.value)
    # gRPC itself counts the bytes, and answers so; without RetryInfo this code means: do not send it again.
    assert told.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert told.retry_delay_s is None
    assert settle(aggregator) - before == Accounting(received=1, not_usage=1)


def test_a_gzip_bomb_is_refused_and_takes_no_memory(aggregator: AggregatorProcess) -> None:
    """A small compressed request that would unpack to 256 mebibytes is refused before it is unpacked."""
    before_kb = peak_memory_kb(aggregator)
    with GrpcClient(aggregator.grpc_port, grpc.Compression.Gzip) as compressing, pytest.raises(grpc.RpcError) as raised:
        compressing.export(bytes(GZIP_BOMB_BYTES))
    assert refusal(raised.value).code in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INTERNAL)
    assert peak_memory_kb(aggregator) - before_kb < 64 << 10
    with GrpcClient(aggregator.grpc_port) as client:
        client.export(traces(span()).SerializeToString())


def test_an_unknown_method_is_unimplemented(aggregator: AggregatorProcess) -> None:
    """A service that is not OTLP's is answered with UNIMPLEMENTED."""
    with grpc.insecure_channel(f"127.0.0.1:{aggregator.grpc_port}") as channel:
        call = channel.unary_unary("/opentelemetry.proto.collector.profiles.v1development.ProfilesService/Export")
        with pytest.raises(grpc.RpcError) as raised:
            call(b"", timeout=10)
    assert refusal(raised.value).code is grpc.StatusCode.UNIMPLEMENTED


def request_of_size(size: int) -> bytes:
    """A request with one span, of exactly so many bytes."""
    spare = size - len(traces(span()).SerializeToString())
    payload = b""
    while len(payload) != size:
        payload = traces(span(trace_state="x" * spare)).SerializeToString()
        spare -= len(payload) - size
    return payload


def peak_memory_kb(aggregator: AggregatorProcess) -> int:
    """The most memory that the process ever had resident."""
    status = Path(f"/proc/{aggregator.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
