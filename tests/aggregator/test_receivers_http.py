"""OTLP/HTTP, byte by byte: protobuf and JSON, gzip, what is refused, and in which encoding the refusal comes."""

from __future__ import annotations

import gzip
import json
import socket
import uuid
import zlib
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import httpx
import pytest
from google.rpc import code_pb2
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from support import plain_http
from support.accounting import Accounting, accounting, charges, settle
from support.otlp_build import AMOUNT, USER, metric, metrics, point, traces, usage_span
from support.otlp_clients import JSON, PROTOBUF, post, status_of
from support.processes import AggregatorProcess, wait_until

REQUEST_BYTES_MAX = 1 << 20


@pytest.fixture(scope="module")
def aggregator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AggregatorProcess]:
    """One aggregator for the module, which takes requests of up to a mebibyte."""
    settings = {"OTEL_CREDITS_REQUEST_BYTES_MAX": str(REQUEST_BYTES_MAX)}
    with AggregatorProcess(tmp_path_factory.mktemp("aggregator"), settings) as started:
        yield started


@pytest.fixture
def url(aggregator: AggregatorProcess) -> str:
    """Where OTLP/HTTP goes."""
    return aggregator.http_endpoint


def refused_requests(aggregator: AggregatorProcess, reason: str) -> float:
    return aggregator.metrics().get(f'otel_credits_requests_refused_total{{reason="{reason}"}}', 0.0)


def a_request(user: str = "someone") -> bytes:
    return traces(usage_span({USER: user, AMOUNT: "0.25"})).SerializeToString()


def json_request(user: str, **span: Any) -> dict[str, Any]:
    """A request in the specification's JSON: camelCase, hex ids, 64-bit integers as strings, enums as numbers."""
    attributes = [
        {"key": "credits.action_type", "value": {"stringValue": "youtube_sync"}},
        {"key": "user.id", "value": {"stringValue": user}},
        {"key": "credits.units.call", "value": {"intValue": "3"}},
        {"key": "credits.metadata.ratio", "value": {"doubleValue": 0.5}},
        {"key": "credits.metadata.cached", "value": {"boolValue": True}},
    ]
    usage = {
        "traceId": uuid.uuid4().hex,
        "spanId": uuid.uuid4().hex[:16],
        "parentSpanId": "",
        "name": "sync",
        "kind": 2,
        "startTimeUnixNano": "1773500966000000000",
        "endTimeUnixNano": "1773500966535897000",
        "attributes": attributes,
        "status": {},
        "aFieldOfTheFuture": {"x": [1]},
    }
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "json-app"}}]}
    return {"resourceSpans": [{"resource": resource, "scopeSpans": [{"scope": {}, "spans": [usage | span]}]}]}


def test_json_means_the_same_as_protobuf(aggregator: AggregatorProcess, url: str) -> None:
    """An OTLP/JSON span is charged, with its hex ids, its time and every attribute as it was sent."""
    user, trace_id, span_id = uuid.uuid4().hex, uuid.uuid4().hex, uuid.uuid4().hex[:16]
    body = json_request(user, traceId=trace_id.upper(), spanId=span_id)
    response = post(url, json.dumps(body).encode(), content_type="application/json; charset=utf-8")
    assert (response.status_code, response.headers["content-type"], response.json()) == (200, JSON, {})
    settle(aggregator)
    query = f"SELECT * FROM credit_usage_events WHERE user_id = '{user}'"
    (event,) = aggregator.sql(query)
    assert (event["trace_id"], event["span_id"], event["service_name"]) == (trace_id, span_id, "json-app")
    assert event["created_at"] == "2026-03-14T15:09:26.535897Z"
    assert Decimal(event["credits_charged"]) == 3 * Decimal("0.005")
    assert event["metadata"] == {"ratio": "0.5", "cached": "true"}


def test_the_same_span_in_json_and_protobuf_is_charged_once(aggregator: AggregatorProcess, url: str) -> None:
    """A span is the same usage, whichever encoding and transport it came by."""
    span = usage_span({USER: uuid.uuid4().hex})
    body = json_request("", traceId=span.trace_id.hex(), spanId=span.span_id.hex())
    before = settle(aggregator)
    assert post(url, traces(span).SerializeToString()).is_success
    settle(aggregator)
    assert post(url, json.dumps(body).encode(), content_type=JSON).is_success
    assert settle(aggregator) - before == Accounting(received=2, charged=1, duplicate=1)


def test_metrics_in_json(aggregator: AggregatorProcess, url: str) -> None:
    """A data point in OTLP/JSON, its integer a string, is charged."""
    user = uuid.uuid4().hex
    attributes = [
        {"key": "credits.action_type", "value": {"stringValue": "workflow_execution"}},
        {"key": "user.id", "value": {"stringValue": user}},
    ]
    a_point = {"attributes": attributes, "timeUnixNano": "1773500966535897000", "asInt": "12"}
    a_sum = {"dataPoints": [a_point], "aggregationTemporality": 1, "isMonotonic": True}
    body = {"resourceMetrics": [{"scopeMetrics": [{"metrics": [{"name": "credits.usage", "sum": a_sum}]}]}]}
    assert post(url, json.dumps(body).encode(), "metrics", content_type=JSON).json() == {}
    settle(aggregator, "data_points")
    assert charges(aggregator)[user] == 12 * Decimal("0.001")


@pytest.mark.parametrize("content_type", [PROTOBUF, JSON])
@pytest.mark.parametrize("signal", ["traces", "metrics", "logs"])
def test_an_empty_request_is_acknowledged(url: str, signal: str, content_type: str) -> None:
    """A request without any item is answered 200 with an empty response, in the encoding of the request."""
    response = post(url, b"{}" if content_type == JSON else b"", signal, content_type=content_type)
    assert response.status_code == 200
    assert response.headers["content-type"] == content_type
    assert response.content == (b"{}" if content_type == JSON else b"")


def test_an_acknowledgement_has_no_partial_success(url: str) -> None:
    """A request that was taken whole is answered with an empty response, which the specification asks for."""
    answer = ExportTraceServiceResponse.FromString(post(url, a_request()).content)
    assert not answer.HasField("partial_success")
    assert post(url, metrics(metric(point(1))).SerializeToString(), "metrics").content == b""


def test_log_records_are_counted_and_not_kept(aggregator: AggregatorProcess, url: str) -> None:
    """Logs in JSON are acknowledged, counted as not usage, and never reach the spool."""
    settle(aggregator)
    before = accounting(aggregator.metrics(), "log_records")
    body = {
        "resourceLogs": [
            {"scopeLogs": [{"logRecords": [{"body": {"stringValue": "a"}}, {"traceId": "", "spanId": ""}]}]}
        ]
    }
    assert post(url, json.dumps(body).encode(), "logs", content_type=JSON).json() == {}
    after = aggregator.metrics()
    assert accounting(after, "log_records") - before == Accounting(received=2, not_usage=2)
    assert after["otel_credits_spool_bytes"] == 0


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "identity", "GZip"])
def test_compressed_requests_are_understood(aggregator: AggregatorProcess, url: str, encoding: str) -> None:
    """gzip, deflate and no compression at all are the same request."""
    user = uuid.uuid4().hex
    compress = {"gzip": gzip.compress, "deflate": zlib.compress, "identity": bytes}[encoding.lower()]
    headers = {"content-type": PROTOBUF, "content-encoding": encoding}
    assert plain_http.post(f"{url}/v1/traces", content=compress(a_request(user)), headers=headers).is_success
    settle(aggregator)
    assert charges(aggregator)[user] == Decimal("0.25")


def test_every_member_of_a_gzip_body_is_read(aggregator: AggregatorProcess, url: str) -> None:
    """A gzip body of two members is one request; what the second one brings is not silently dropped."""
    user = uuid.uuid4().hex
    body = gzip.compress(a_request(user)) + gzip.compress(a_request(user))
    headers = {"content-type": PROTOBUF, "content-encoding": "gzip"}
    assert plain_http.post(f"{url}/v1/traces", content=body, headers=headers).is_success
    settle(aggregator)
    assert charges(aggregator)[user] == Decimal("0.5")


MALFORMED = {
    "no protobuf": (b"\xff\xff\xff", {}),
    "protobuf cut off": (a_request()[:-3], {}),
    "no gzip": (a_request(), {"content-encoding": "gzip"}),
    "gzip cut off": (gzip.compress(a_request())[:-9], {"content-encoding": "gzip"}),
    "gzip with a wrong checksum": (gzip.compress(a_request())[:-8] + bytes(8), {"content-encoding": "gzip"}),
    "gzip with something behind it": (gzip.compress(a_request()) + b"more", {"content-encoding": "gzip"}),
    "deflate cut off": (zlib.compress(a_request())[:-4], {"content-encoding": "deflate"}),
    "deflate with something behind it": (zlib.compress(a_request()) + b"more", {"content-encoding": "deflate"}),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_bodies_are_refused_for_good(aggregator: AggregatorProcess, url: str, name: str) -> None:
    """A body that is no request is answered 400 with a google.rpc.Status and no Retry-After, and is counted."""
    body, headers = MALFORMED[name]
    before, refused = settle(aggregator), refused_requests(aggregator, "BadRequest")
    response = plain_http.post(f"{url}/v1/traces", content=body, headers={"content-type": PROTOBUF} | headers)
    assert response.status_code == 400
    assert status_of(response).code == code_pb2.INVALID_ARGUMENT
    assert status_of(response).message
    assert "retry-after" not in response.headers
    assert settle(aggregator) == before
    assert refused_requests(aggregator, "BadRequest") == refused + 1


MALFORMED_JSON = {
    "nothing": b"",
    "cut off": b'{"resourceSpans": [',
    "not UTF-8": b'{"resourceSpans": "\xff"}',
    "a list": b"[]",
    "a string": b'"resourceSpans"',
    "a number": b"1",
    "null": b"null",
    "not a number": b"NaN",
    "spans that are a text": b'{"resourceSpans": "x"}',
    "an id that is not hex": json.dumps(json_request("x", traceId="zz" * 16)).encode(),
    "an id of half a byte": json.dumps(json_request("x", spanId="abc")).encode(),
    "an id that is a number": json.dumps(json_request("x", spanId=5)).encode(),
    "a time that is a word": json.dumps(json_request("x", endTimeUnixNano="soon")).encode(),
    "a time out of range": json.dumps(json_request("x", endTimeUnixNano=str(2**64))).encode(),
    "a number of 10,000 digits": b'{"x": ' + b"1" * 10_000 + b"}",
    "lists 100,000 deep": b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
}


@pytest.mark.parametrize("name", MALFORMED_JSON)
def test_malformed_json_is_refused_in_json(aggregator: AggregatorProcess, url: str, name: str) -> None:
    """Whatever is no OTLP/JSON is answered 400 with a google.rpc.Status in JSON; nothing of it is kept."""
    before = settle(aggregator)
    response = post(url, MALFORMED_JSON[name], content_type=JSON)
    assert (response.status_code, response.headers["content-type"]) == (400, JSON)
    assert response.json()["code"] == code_pb2.INVALID_ARGUMENT
    assert response.json()["message"].startswith("not an OTLP/JSON traces request")
    assert settle(aggregator) == before


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/grpc", "application/protobufx"])
def test_other_content_types_are_refused(aggregator: AggregatorProcess, url: str, content_type: str) -> None:
    """A content type that OTLP/HTTP does not name is answered 415, and counted."""
    refused = refused_requests(aggregator, "UnsupportedMediaType")
    response = post(url, a_request(), content_type=content_type)
    assert response.status_code == 415
    assert PROTOBUF in status_of(response).message
    assert refused_requests(aggregator, "UnsupportedMediaType") == refused + 1


def test_an_unknown_compression_is_refused(url: str) -> None:
    """A content encoding that this server does not undo is answered 415, with those it does."""
    headers = {"content-type": PROTOBUF, "content-encoding": "zstd"}
    response = plain_http.post(f"{url}/v1/traces", content=b"", headers=headers)
    assert response.status_code == 415
    assert "gzip" in status_of(response).message


@pytest.mark.parametrize("compress", [False, True])
def test_a_body_above_the_limit_is_refused_for_good(aggregator: AggregatorProcess, url: str, compress: bool) -> None:
    """A request above the limit is answered 413, be it so large on the wire or only when unpacked (a gzip bomb)."""
    before, refused = settle(aggregator), refused_requests(aggregator, "RequestTooLarge")
    response = post(url, bytes(REQUEST_BYTES_MAX + 1), compress=compress)
    assert response.status_code == 413
    assert "smaller batches" in status_of(response).message
    assert "retry-after" not in response.headers
    assert settle(aggregator) == before
    assert refused_requests(aggregator, "RequestTooLarge") == refused + 1


def test_a_client_that_hangs_up_within_its_body_leaves_nothing(aggregator: AggregatorProcess, url: str) -> None:
    """A body that ends before its announced length is not taken, is counted as refused, and others are served on."""
    before, refused = settle(aggregator), refused_requests(aggregator, "BadRequest")
    body = a_request()
    head = f"POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: {PROTOBUF}\r\ncontent-length: {len(body) + 1}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", aggregator.http_port)) as connection:
        connection.sendall(head.encode() + body)
    wait_until(
        lambda: refused_requests(aggregator, "BadRequest") == refused + 1, 10, "the request is counted as refused"
    )
    assert settle(aggregator) == before
    assert post(url, a_request()).is_success


def test_other_paths_and_methods_are_not_there(aggregator: AggregatorProcess, url: str) -> None:
    """Any other path is answered 404 and any other method 405, which no exporter takes for an acknowledgement."""
    assert post(url, b"", "profiles").status_code == 404
    assert plain_http.post(url).status_code == 404
    assert plain_http.get(f"{url}/v1/traces").status_code == 405


def test_connections_are_kept_and_requests_may_be_chunked(aggregator: AggregatorProcess, url: str) -> None:
    """Many requests over one connection, their bodies without an announced length, are all taken."""
    user = uuid.uuid4().hex
    with httpx.Client(headers={"content-type": PROTOBUF}) as client:
        for _ in range(20):
            body = a_request(user)
            assert client.post(f"{url}/v1/traces", content=iter([body[:10], body[10:]])).is_success
    settle(aggregator)
    assert charges(aggregator)[user] == Decimal(5)
