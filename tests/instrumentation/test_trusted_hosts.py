"""Who is told the user: services that the app trusts, by real HTTP clients and real servers, and nobody else."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from otel_credits._baggage import header_without_ours, members_of_header
from otel_credits._destinations import TrustedHosts
from support.otlp_sink import OtlpSink
from support.processes import Process
from support.uvicorn_app import APPS, serving, stop

WAYS = ("httpx", "httpx2", "requests", "async-httpx", "async-httpx2")
CARRIED = {"credits.user_id": "alice", "credits.action_type": "search", "credits.resource_id": "r 1"}


class Service(ThreadingHTTPServer):
    """A service that remembers the headers of each request, and may send its callers on to another."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.got: dict[str, dict[str, str]] = {}
        self.redirect_to: str | None = None
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def host(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.server_address[1]}"

    def members(self, path: str) -> dict[str, object]:
        """The baggage that came with the request for a path."""
        return members_of_header(self.got[path].get("baggage", ""))


class Handler(BaseHTTPRequestHandler):
    """Remembers, and answers."""

    server: Service

    def log_message(self, format: str, *args: object) -> None:
        """Be quiet."""

    def do_GET(self) -> None:
        """Any path."""
        self.server.got[self.path] = {name.lower(): value for name, value in self.headers.items()}
        target = self.server.redirect_to
        self.send_response(302 if target else 200)
        if target:
            self.send_header("location", f"http://{target}{self.path}")
        self.send_header("content-length", "0")
        self.end_headers()


@pytest.fixture
def services() -> Iterator[tuple[Service, Service]]:
    """Two services."""
    both = Service(), Service()
    yield both
    for service in both:
        service.shutdown()
        service.server_close()


def run_caller(sink: OtlpSink, log_dir: Path, *services: Service, **env: str) -> None:
    """Let the app call these services."""
    command = [sys.executable, str(APPS / "calling_app.py"), *(f"http://{service.host}" for service in services)]
    env = {"OTEL_CREDITS_ENDPOINT": sink.endpoint, **env}
    with Process("caller", command, log_dir=log_dir, env=env) as process:
        assert process.wait(60) == 0, process.tail()


def test_only_trusted_services_are_told(sink: OtlpSink, tmp_path: Path, services: tuple[Service, Service]) -> None:
    """A trusted service is told who the user is and what for, a third party is not, whichever client calls, also under
    a sampler that samples nothing; where there is no user, neither is told one that a client made up."""
    trusted, third_party = services
    run_caller(
        sink,
        tmp_path,
        trusted,
        third_party,
        OTEL_CREDITS_TRUSTED_HOSTS=f"other.example,{trusted.host}",
        OTEL_TRACES_SAMPLER="always_off",
        INBOUND="credits.user_id=evil,credits.action_type=free,tenant=a%20b",
    )
    for way in WAYS:
        assert trusted.members(f"/{way}") == {**CARRIED, "tenant": "a b"}
        assert trusted.members(f"/nobody/{way}") == {"tenant": "a b"}
        for path in (f"/{way}", f"/nobody/{way}"):
            assert third_party.members(path) == {"tenant": "a b"}
            assert "alice" not in str(third_party.got[path])
            assert "traceparent" in third_party.got[path], "the client is instrumented"


def test_by_default_nobody_is_told(sink: OtlpSink, tmp_path: Path, services: tuple[Service, Service]) -> None:
    """Without trusted hosts, the user leaves the process in no header."""
    run_caller(sink, tmp_path, *services)
    for service in services:
        assert len(service.got) == 2 * len(WAYS)
        assert "alice" not in str(service.got)


def test_a_redirect_tells_nobody(sink: OtlpSink, tmp_path: Path, services: tuple[Service, Service]) -> None:
    """A trusted service that sends its callers on to a third party does not make them tell it the user."""
    trusted, third_party = services
    trusted.redirect_to = third_party.host
    run_caller(sink, tmp_path, trusted, OTEL_CREDITS_TRUSTED_HOSTS=trusted.host, INBOUND="tenant=t")
    for way in WAYS:
        assert trusted.members(f"/{way}") == {**CARRIED, "tenant": "t"}
        assert third_party.members(f"/{way}") == {"tenant": "t"}
        assert "alice" not in str(third_party.got[f"/{way}"])


def test_a_propagator_without_baggage(sink: OtlpSink, tmp_path: Path, services: tuple[Service, Service]) -> None:
    """An app that passes no baggage on tells a trusted service the user, and nothing else."""
    trusted, third_party = services
    env = {"OTEL_CREDITS_TRUSTED_HOSTS": trusted.host, "OTEL_PROPAGATORS": "tracecontext", "INBOUND": "tenant=t"}
    run_caller(sink, tmp_path, *services, **env)
    assert trusted.members("/httpx") == CARRIED
    assert third_party.members("/httpx") == {}


def test_the_service_that_is_called(sink: OtlpSink, tmp_path: Path) -> None:
    """What a trusted caller sends is the usage context of the request, if the service trusts its callers; not else."""
    baggage = "credits.user_id=alice,credits.action_type=search,credits.resource_id=r%201"
    for trust in ("on", "off"):
        with serving("called_app:app", sink, tmp_path, OTEL_CREDITS_TRUST_BAGGAGE=trust) as served:
            httpx.get(f"{served.url}/work", headers={"baggage": baggage})
            stop(served)
    believed, ignored = (dict(usage.attributes) for usage in sink.usages())
    assert believed.pop("credits.seq") == ignored.pop("credits.seq") == 1, "the two processes' first usage"
    assert believed == {
        "credits.action_type": "search",
        "user.id": "alice",
        "credits.resource_id": "r 1",
        "credits.amount": "1",
    }
    assert ignored == {"credits.action_type": "default", "credits.amount": "1"}


@pytest.mark.parametrize(
    ("url", "trusted"),
    [
        ("http://billing.internal/x", True),
        ("https://BILLING.internal:8443/x", True),
        ("http://a.b.svc.local", True),
        ("http://user:secret@billing.internal/", True),
        ("http://billing.internal@evil.com/", False),
        ("http://evil.com\\@billing.internal/", False),
        ("http://evil.com/?billing.internal", False),
        ("http://evil.com#@billing.internal", False),
        ("http://xbilling.internal/", False),
        ("http://billing.internal.evil.com/", False),
        ("http://svc.local/", False),
        ("http://svc.local.evil.com/", False),
        ("http://ports.example:81/", False),
        ("http://ports.example:8080/", True),
        ("https://web.example/", True),
        ("http://web.example/", False),
        ("http://[::1]:5/", True),
        ("ftp://billing.internal/", False),
        ("http://billing.internal:x/", False),
        ("http://billing.in\tternal/", False),
        ("billing.internal", False),
        ("", False),
    ],
)
def test_which_addresses_are_trusted(url: str, trusted: bool) -> None:
    """An address is trusted by its host alone, however it is written; what is ambiguous is not trusted."""
    hosts = TrustedHosts.parse("billing.internal, .svc.local, ports.example:8080, web.example:443, [::1]")
    assert hosts.trusts(url) is trusted


@pytest.mark.parametrize("text", ["*", "http://a.example", "a b", "a.example/x", ".", "a,,*"])
def test_bad_hosts(text: str) -> None:
    """What is not a host is refused at set-up; there is no way to trust all."""
    with pytest.raises(ValueError, match="neither a host nor a suffix"):
        TrustedHosts.parse(text)


def test_only_ours_is_taken_out() -> None:
    """Other members of a baggage header stay as they are, to the letter."""
    header = "a=1;p=2, credits.user_id=x ,b=%20y,credits%2Euser_id=z,credits.metadata=q;p,credits.other=1"
    assert header_without_ours(header) == "a=1;p=2,b=%20y"
