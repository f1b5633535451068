"""Settings of the aggregator: read from the environment, refused together, and never half understood."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from otel_credits_aggregator.settings import Settings
from pydantic import ValidationError
from support.processes import clean_environment

PREFIX = "OTEL_CREDITS_"


@pytest.fixture(autouse=True)
def _no_settings_of_the_developer(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the developer's own shell sets does not reach the tests."""
    for field in Settings.model_fields:
        monkeypatch.delenv(f"{PREFIX}{field.upper()}", raising=False)


def settings_of(monkeypatch: pytest.MonkeyPatch, **values: str) -> Settings:
    """The settings that this environment gives; names without the prefix, in lower case."""
    for name, value in values.items():
        monkeypatch.setenv(f"{PREFIX}{name.upper()}", value)
    return Settings()


def faults(monkeypatch: pytest.MonkeyPatch, **values: str) -> dict[str, str]:
    """Setting to message of each fault of this environment."""
    with pytest.raises(ValidationError) as raised:
        settings_of(monkeypatch, **values)
    return {str(fault["loc"][0]): fault["msg"] for fault in raised.value.errors()}


def test_every_setting_says_what_it_is() -> None:
    """Each setting has a description, in a sentence; docs/operating.md is made of them."""
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name


def test_every_setting_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each setting follows its own variable."""
    given = {
        "data_dir": "/data",
        "store": "clickhouse://user:secret@host:8123/credits",
        "host": "::1",
        "grpc_port": "1",
        "http_port": "2",
        "api_port": "65535",
        "tokens_file": "/tokens.json",
        "allow_unauthenticated": "on",
        "tls_cert_file": "/certificate.pem",
        "tls_key_file": "/key.pem",
        "tls_client_ca_file": "/clients.pem",
        "charge_genai": "on",
        "user_attributes": " user.id , credits.user_id,",
        "default_user": "someone",
        "estimated": "quarantine",
        "keep_attributes": " tenant,http.route, tenant,",
        "keep_requests_h": "0.5",
        "keep_requests_bytes_max": "1048576",
        "request_bytes_max": "1024",
        "spool_bytes_max": "1048576",
        "receive_threads": "1",
        "retry_delay_s": "0.5",
        "insert_bytes_max": "1024",
        "insert_interval_s": "0",
        "insert_lanes": "16",
        "store_retry_max_s": "0.1",
        "recheck_interval_s": "0.2",
        "orphaned_after_s": "7",
        "stop_timeout_s": "0.3",
    }
    assert given.keys() == Settings.model_fields.keys()
    read = settings_of(monkeypatch, **given)
    defaults = Settings.model_construct()
    for name in given:
        assert getattr(read, name) != getattr(defaults, name), name
    assert read.user_attributes == ("user.id", "credits.user_id")
    assert read.keep_attributes == ("tenant", "http.route")
    assert read.data_dir == Path("/data")


@pytest.mark.parametrize(("text", "charged"), [("on", True), ("off", False), ("1", True), ("false", False)])
def test_switches_are_on_and_off(monkeypatch: pytest.MonkeyPatch, text: str, charged: bool) -> None:
    """A switch takes on and off, and the usual other words."""
    assert settings_of(monkeypatch, charge_genai=text).charge_genai is charged


def test_the_store_is_in_the_data_folder_unless_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a DSN the store is embedded, in the data folder; a DSN is taken as it is."""
    monkeypatch.chdir("/")
    assert settings_of(monkeypatch, data_dir="data").dsn == "chdb:///data/store"
    assert settings_of(monkeypatch, store="clickhouse://host").dsn == "clickhouse://host"


def test_paths_do_not_depend_on_a_later_working_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Relative paths are those of the folder that the process was started in, whatever changes its folder later."""
    monkeypatch.chdir(tmp_path)
    default = settings_of(monkeypatch)
    read = settings_of(monkeypatch, data_dir="data", tokens_file="tokens.json")
    monkeypatch.chdir("/")
    assert (read.dsn, read.tokens_path) == (f"chdb://{tmp_path}/data/store", tmp_path / "tokens.json")
    assert default.dsn == f"chdb://{tmp_path}/otel-credits-data/store"
    assert default.tokens_path == tmp_path / "otel-credits-data" / "tokens.json"


WRONG = {
    "store": ["mysql://host/db", "localhost:8123", "/var/lib/store"],
    "grpc_port": ["0", "65536", "-1", "4317.5", "grpc", ""],
    "charge_genai": ["maybe", "", "2"],
    "user_attributes": ["", ",", ",".join("abcdefghi")],
    "estimated": ["", "Charge", "on"],
    "keep_attributes": [",".join(f"a{n}" for n in range(33)), "tenant,credits.amount"],
    "insert_lanes": ["0", "17", "1.5"],
    "keep_requests_h": ["-1", "inf", "1h"],
    "keep_requests_bytes_max": ["1048575"],
    "request_bytes_max": ["1023", str((1 << 29) + 1), "64MB"],
    "spool_bytes_max": ["0", "-1"],
    "receive_threads": ["0", "257"],
    "retry_delay_s": ["0", "-1", "nan", "inf", "5s"],
    "insert_interval_s": ["-0.1", "inf"],
    "store_retry_max_s": ["0", "nan"],
    "recheck_interval_s": ["0", "nan"],
    "orphaned_after_s": ["0", "1.5"],
    "stop_timeout_s": ["0", "inf"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_value_that_makes_no_sense_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """A value out of range, or of another kind, is a fault of that setting, and never a silent default."""
    assert faults(monkeypatch, **{name: value}).keys() == {name}


def test_two_servers_cannot_share_a_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal ports are a fault that names the other setting."""
    found = faults(monkeypatch, http_port="4317", api_port="4317")
    assert found.keys() == {"http_port", "api_port"}
    assert all("OTEL_CREDITS_GRPC_PORT" in message for message in found.values())


def test_all_faults_are_reported_together(tmp_path: Path) -> None:
    """`otel-credits serve` names every setting that is wrong, never the store's password, and exits with 1."""
    wrong = {
        "OTEL_CREDITS_GRPC_PORT": "70000",
        "OTEL_CREDITS_HTTP_PORT": "8080",
        "OTEL_CREDITS_CHARGE_GENAI": "maybe",
        "OTEL_CREDITS_STORE": "mysql://user:hunter2@host/db",
        "OTEL_CREDITS_RETRY_DELAY_S": "-1",
    }
    command = [sys.executable, "-m", "otel_credits_aggregator", "serve"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=clean_environment(wrong))
    assert done.returncode == 1
    for name in ("GRPC_PORT", "API_PORT", "CHARGE_GENAI", "STORE", "RETRY_DELAY_S"):
        assert f"{PREFIX}{name}:" in done.stderr
    assert "70000" in done.stderr
    assert "hunter2" not in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
