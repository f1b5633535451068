"""TLS and mutual TLS at all three doors, with certificates made for the test."""

from __future__ import annotations

import ssl
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
import trustme
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpans
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpans
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from support.processes import AggregatorProcess, clean_environment, wait_until
from support.samples import others_long

TIMEOUT_S = 60.0
CHARGED_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Files:
    """Paths of what each side needs."""

    certificate: Path
    key: Path
    authority: Path
    client_certificate: Path
    client_key: Path
    stranger_certificate: Path
    stranger_key: Path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A server's certificate, a client's of the same authority, and a stranger's of another."""
    return issued_in(tmp_path_factory.mktemp("certificates"))


def issued_in(folder: Path) -> Files:
    authority, others = trustme.CA(), trustme.CA()
    issued = {
        "server": authority.issue_cert("127.0.0.1", "localhost"),
        "client": authority.issue_cert("an-app.example"),
        "stranger": others.issue_cert("an-app.example"),
    }
    authority.cert_pem.write_to_path(folder / "authority.pem")
    for name, certificate in issued.items():
        certificate.private_key_pem.write_to_path(folder / f"{name}.key")
        for part in certificate.cert_chain_pems:
            part.write_to_path(folder / f"{name}.pem", append=True)
    paths = [folder / f"{name}.{kind}" for name in ("client", "stranger") for kind in ("pem", "key")]
    return Files(folder / "server.pem", folder / "server.key", folder / "authority.pem", *paths)


@pytest.fixture(autouse=True)
def _no_authorities_of_the_developer(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the developer's own shell trusts would win over what the exporter is told (requests does so)."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


class TlsAggregator(AggregatorProcess):
    """An aggregator that speaks TLS only, and how its own API is asked whether it is ready."""

    def __init__(self, data_dir: Path, files: Files, *, mutual: bool) -> None:
        env = {"OTEL_CREDITS_TLS_CERT_FILE": str(files.certificate), "OTEL_CREDITS_TLS_KEY_FILE": str(files.key)}
        if mutual:
            env["OTEL_CREDITS_TLS_CLIENT_CA_FILE"] = str(files.authority)
        super().__init__(data_dir, env)
        self.context = ssl.create_default_context(cafile=str(files.authority))
        self.context.load_cert_chain(files.client_certificate, files.client_key)

    @property
    def secure_url(self) -> str:
        return f"https://127.0.0.1:{self.api_port}"

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.secure_url}/readyz", verify=self.context, timeout=5.0).status_code == 200
        except httpx.HTTPError:
            return False

    def credits(self, user: str) -> str:
        """What a user was charged; 0 for one who is not known."""
        answer = httpx.get(f"{self.secure_url}/api/v1/users/{user}/balance", verify=self.context, timeout=TIMEOUT_S)
        return str(answer.json()["lifetime_consumed"]) if answer.is_success else "0"


@pytest.fixture(scope="module", params=[False, True], ids=["tls", "mutual"])
def aggregator(
    request: pytest.FixtureRequest, files: Files, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TlsAggregator]:
    """One aggregator for each kind."""
    with TlsAggregator(tmp_path_factory.mktemp("aggregator"), files, mutual=request.param) as started:
        started.mutual = request.param  # type: ignore[attr-defined]
        yield started


def exporter(to: TlsAggregator, transport: str, trust: Path, certificate: Path | None, key: Path | None) -> Any:
    """The SDK's exporter as an app would make it."""
    if transport == "grpc":
        credentials = grpc.ssl_channel_credentials(
            trust.read_bytes(), key.read_bytes() if key else None, certificate.read_bytes() if certificate else None
        )
        return GrpcSpans(f"https://127.0.0.1:{to.grpc_port}", credentials=credentials, timeout=30)
    return HttpSpans(
        f"https://127.0.0.1:{to.http_port}/v1/traces",
        certificate_file=str(trust),
        client_certificate_file=str(certificate) if certificate else None,
        client_key_file=str(key) if key else None,
        timeout=30,
    )


def send_one_credit(sender: Any, user: str) -> None:
    """Record one usage, and be done when the exporter has sent it or given up."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(sender))
    attributes = {"credits.action_type": "a", "user.id": user, "credits.amount": "1"}
    provider.get_tracer("app").start_span("work", attributes=attributes).end()
    provider.shutdown()


@pytest.mark.parametrize("transport", ["grpc", "http"])
def test_the_sdk_sends_over_tls(aggregator: TlsAggregator, files: Files, transport: str) -> None:
    """The SDK's exporters send over TLS, and over mutual TLS with their certificate."""
    user = uuid.uuid4().hex
    send_one_credit(exporter(aggregator, transport, files.authority, files.client_certificate, files.client_key), user)
    wait_until(lambda: aggregator.credits(user) == "1", CHARGED_TIMEOUT_S, "the usage is charged")


@pytest.mark.parametrize("transport", others_long(["grpc", "http"], short={"grpc"}))
@pytest.mark.parametrize("shown", others_long(["nothing", "a stranger's"], short={"a stranger's"}))
def test_mutual_tls_refuses_who_is_not_known(
    aggregator: TlsAggregator, files: Files, transport: str, shown: str
) -> None:
    """Without a certificate, or with one of another authority, nothing is taken where a certificate is asked for."""
    certificate, key = (None, None) if shown == "nothing" else (files.stranger_certificate, files.stranger_key)
    refused, known = uuid.uuid4().hex, uuid.uuid4().hex
    send_one_credit(exporter(aggregator, transport, files.authority, certificate, key), refused)
    # What is sent afterwards is charged afterwards, so the first would be there.
    send_one_credit(exporter(aggregator, transport, files.authority, files.client_certificate, files.client_key), known)
    wait_until(lambda: aggregator.credits(known) == "1", CHARGED_TIMEOUT_S, "the second usage is charged")
    assert aggregator.credits(refused) == ("0" if aggregator.mutual else "1")  # type: ignore[attr-defined]


def test_the_api_asks_for_a_certificate(aggregator: TlsAggregator, files: Files) -> None:
    """The API, health included, is closed to who shows no certificate where one is asked for."""
    trusting = ssl.create_default_context(cafile=str(files.authority))
    if aggregator.mutual:  # type: ignore[attr-defined]
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{aggregator.secure_url}/healthz", verify=trusting, timeout=TIMEOUT_S)
    else:
        assert httpx.get(f"{aggregator.secure_url}/healthz", verify=trusting, timeout=TIMEOUT_S).status_code == 200


def test_plain_text_is_not_understood(aggregator: TlsAggregator) -> None:
    """With a certificate there is no plain text beside it."""
    for port in (aggregator.http_port, aggregator.api_port):
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=TIMEOUT_S)


def test_the_command_goes_over_tls(aggregator: TlsAggregator, files: Files) -> None:
    """The command trusts OTEL_CREDITS_CA_FILE and shows its certificate; without that authority it trusts nobody."""
    env = {
        "OTEL_CREDITS_URL": aggregator.secure_url,
        "OTEL_CREDITS_CA_FILE": str(files.authority),
        "OTEL_CREDITS_CLIENT_CERT_FILE": str(files.client_certificate),
        "OTEL_CREDITS_CLIENT_KEY_FILE": str(files.client_key),
    }
    assert _events(env).returncode == 0
    distrusting = _events({name: value for name, value in env.items() if name != "OTEL_CREDITS_CA_FILE"})
    assert (distrusting.returncode, distrusting.stdout) == (1, "")
    assert "Traceback" not in distrusting.stderr


def _events(env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "otel_credits_aggregator", "events", "--json"]
    return subprocess.run(
        command, env=clean_environment(env), capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )


@pytest.mark.parametrize("broken", ["no such file", "no certificate", "another key"])
def test_a_certificate_that_cannot_be_used_is_no_start(tmp_path: Path, files: Files, broken: str) -> None:
    """It ends with 1 and names the file, and does not listen without TLS instead."""
    (tmp_path / "empty.pem").touch()
    certificate = {"no such file": tmp_path / "none.pem", "no certificate": tmp_path / "empty.pem"}.get(
        broken, files.certificate
    )
    key = files.stranger_key if broken == "another key" else files.key
    env = {"OTEL_CREDITS_TLS_CERT_FILE": str(certificate), "OTEL_CREDITS_TLS_KEY_FILE": str(key)}
    aggregator = AggregatorProcess(tmp_path / "data", env)
    aggregator.start()
    assert aggregator.wait(TIMEOUT_S) == 1
    assert str(certificate) in aggregator.output()
    assert "Traceback" not in aggregator.output()


def replace(files: Files, by: Files) -> None:
    """Puts new files in the place of a server's own, one after the other, as someone who renews them does."""
    for old, new in ((files.certificate, by.certificate), (files.key, by.key), (files.authority, by.authority)):
        waiting = old.with_suffix(".new")
        waiting.write_bytes(new.read_bytes())
        waiting.replace(old)


def reached(to: TlsAggregator, files: Files) -> dict[str, bool]:
    """Whether someone with these authorities and this client certificate gets through at each door."""
    context = ssl.create_default_context(cafile=str(files.authority))
    context.load_cert_chain(files.client_certificate, files.client_key)
    found = {}
    for name, port in (("api", to.api_port), ("http", to.http_port)):
        try:
            found[name] = (
                httpx.get(f"https://127.0.0.1:{port}/healthz", verify=context, timeout=TIMEOUT_S).status_code < 500
            )
        except httpx.TransportError:
            found[name] = False
    parts = (files.authority, files.client_key, files.client_certificate)
    channel = grpc.secure_channel(
        f"127.0.0.1:{to.grpc_port}", grpc.ssl_channel_credentials(*(part.read_bytes() for part in parts))
    )
    try:
        grpc.channel_ready_future(channel).result(timeout=30)
        found["grpc"] = True
    except grpc.FutureTimeoutError:
        found["grpc"] = False
    finally:
        channel.close()
    return found


@pytest.mark.long
def test_certificates_are_followed(tmp_path: Path) -> None:
    """New files count at all three doors without a restart, for who is let in, too; broken ones change nothing."""
    for name in ("in use", "old", "new"):
        (tmp_path / name).mkdir()
    old, new, everywhere = (
        issued_in(tmp_path / "old"),
        issued_in(tmp_path / "new"),
        {"api": True, "http": True, "grpc": True},
    )
    in_use = issued_in(tmp_path / "in use")
    replace(in_use, old)
    aggregator = TlsAggregator(tmp_path / "data", in_use, mutual=True)
    aggregator.context = ssl.create_default_context(cafile=str(old.authority))
    aggregator.context.load_cert_chain(old.client_certificate, old.client_key)

    def has_said_so() -> bool:
        return reached(aggregator, old) == everywhere and "what was read before stays in use" in aggregator.output()

    with aggregator:
        in_use.key.write_bytes(new.key.read_bytes())
        aggregator.wait_for(has_said_so, TIMEOUT_S, "it has said that the key does not belong to the certificate")
        assert reached(aggregator, old) == everywhere
        replace(in_use, new)
        aggregator.wait_for(lambda: reached(aggregator, new) == everywhere, TIMEOUT_S, "the new files count")
        assert not any(reached(aggregator, old).values())
        assert aggregator.terminate() == 0
