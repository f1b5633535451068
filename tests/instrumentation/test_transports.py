"""The ways to the receiver: OTLP/gRPC and OTLP/HTTP, headers, TLS, and peers that do not answer."""

from __future__ import annotations

import logging
import socket
import subprocess
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from otel_credits import configure, flush, shutdown, stats, track_compute_usage
from support.otlp_sink import OtlpSink, counters_of, spans_of
from support.processes import free_port

Configured = Callable[..., OtlpSink]


def record_usages(count: int) -> None:
    """Record `count` usages, of user-0, user-1 and so on."""
    for number in range(count):
        track_compute_usage(f"user-{number}", "a", credits=1)


def test_headers_reach_the_receiver(configured: Configured, monkeypatch: pytest.MonkeyPatch) -> None:
    """The standard variables for the exporters hold: OTEL_EXPORTER_OTLP_HEADERS is sent."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-api-key=secret")
    sink = configured()
    record_usages(1)
    assert flush(60)
    assert sink.metadata[0]["x-api-key"] == "secret"


def test_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An https endpoint is spoken to over TLS, and OTEL_EXPORTER_OTLP_CERTIFICATE names whom to trust."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    )
    subprocess.run([*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(certificate))
    with OtlpSink(tls=(key.read_bytes(), certificate.read_bytes())) as sink:
        configure(sink.endpoint, capture_spans=False)
        record_usages(1)
        assert flush(60)
        assert [span.attributes["user.id"] for span in sink.spans()] == ["user-0"]


class _HttpSink(BaseHTTPRequestHandler):
    """OTLP/HTTP in miniature: answers what `statuses` says to traces, keeps paths and users, and the counters."""

    statuses: ClassVar[list[int]]
    seen: ClassVar[list[tuple[str, list[str]]]]
    counters: ClassVar[list[dict[str, int]]]

    def log_message(self, format: str, *args: Any) -> None:
        """Be quiet."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/v1/metrics":
            status = 200
            self.counters.extend(points for _, points in counters_of(ExportMetricsServiceRequest.FromString(body)))
        else:
            status = self.statuses.pop(0) if self.statuses else 200
        if status == 200 and self.path != "/v1/metrics":
            users = [span.attributes["user.id"] for span in spans_of(ExportTraceServiceRequest.FromString(body))]
            self.seen.append((self.path, users))
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()


@pytest.fixture
def http_sink() -> Any:
    """(port, handler class) of a running OTLP/HTTP receiver."""

    class Handler(_HttpSink):
        statuses: ClassVar[list[int]] = []
        seen: ClassVar[list[tuple[str, list[str]]]] = []
        counters: ClassVar[list[dict[str, int]]] = []

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server.server_address[1], Handler
    server.shutdown()
    server.server_close()


def test_over_http(http_sink: Any) -> None:
    """OTLP/HTTP works like OTLP/gRPC: to /v1/traces, and 503 and 429 are tried again; the counters go
    to /v1/metrics."""
    port, handler = http_sink
    handler.statuses.extend([503, 429])
    configure(f"http://127.0.0.1:{port}", protocol="http/protobuf", capture_spans=False, retry_initial_s=0.05)
    record_usages(2)
    assert flush(60)
    assert handler.seen == [("/v1/traces", ["user-0", "user-1"])]
    assert shutdown(60)
    assert handler.counters[-1] == {"recorded": 2, "exported": 2, "waiting": 0}


def test_over_http_refused(http_sink: Any) -> None:
    """Over HTTP, 401 is final and counted as failed."""
    port, handler = http_sink
    handler.statuses.append(401)
    configure(f"http://127.0.0.1:{port}/v1/traces", capture_spans=False)
    record_usages(2)
    assert flush(60) is False
    assert stats().failed_by_reason == {"rejected": 2}


def test_nothing_listens(caplog: pytest.LogCaptureFixture) -> None:
    """A wrong endpoint costs a warning now and then, no exception, and the usage waits."""
    caplog.set_level(logging.WARNING)
    configure(f"http://127.0.0.1:{free_port()}", capture_spans=False)
    record_usages(1)
    assert flush(1) is False
    assert stats().waiting == 1
    assert "usages wait" in caplog.text


def forward_late(to_port: int, late_s: float, listener: socket.socket, accepted: list[socket.socket]) -> None:
    """Connections are taken at once, and reach the receiver only `late_s` later, as from far away."""
    while True:
        try:
            near, _ = listener.accept()
        except OSError:  # closed: the test is over
            return
        accepted.append(near)
        time.sleep(late_s)  # what is simulated, not waited for
        far = socket.create_connection(("127.0.0.1", to_port))
        for one, other in ((near, far), (far, near)):
            Thread(target=_pump, args=(one, other), daemon=True).start()


def _pump(one: socket.socket, other: socket.socket) -> None:
    with one, other:
        try:
            while data := one.recv(65536):
                other.sendall(data)
        except OSError:  # the other direction has ended
            return


def test_a_receiver_that_is_far_away() -> None:
    """A connection may take its time: the first one that is begun delivers, and no other is begun meanwhile."""
    accepted: list[socket.socket] = []
    with OtlpSink() as sink, socket.create_server(("127.0.0.1", 0)) as listener:
        port = int(sink.endpoint.rpartition(":")[2])
        Thread(target=forward_late, args=(port, 3.0, listener, accepted), daemon=True).start()
        configure(f"http://127.0.0.1:{listener.getsockname()[1]}", capture_spans=False)
        record_usages(1)
        assert flush(60)
        assert [span.attributes["user.id"] for span in sink.spans()] == ["user-0"]
        assert len(accepted) == 1
        shutdown()


def test_a_receiver_that_never_answers() -> None:
    """A peer that accepts and says nothing does not hold the process at its end for longer than asked."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        configure(f"http://127.0.0.1:{listener.getsockname()[1]}", capture_spans=False, export_timeout_s=30)
        record_usages(1)
        connection, _ = listener.accept()
        start = time.monotonic()
        assert shutdown(0.3) is False
        assert time.monotonic() - start < 10
        connection.close()
