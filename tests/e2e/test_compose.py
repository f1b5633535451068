"""docker-compose.yml as far as it can be checked without a Docker engine: its loader accepts it, its parts agree.

Not checked here: that the images exist and start, and what ClickHouse and Grafana make of their configuration.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from otel_credits_aggregator.access import Gate, Unprotected, check_listening
from otel_credits_aggregator.settings import Settings
from support.collector import BUILD_SCRIPT, CONFIG, collector_binary

REPOSITORY = Path(__file__).resolve().parents[2]
COMPOSE = REPOSITORY / "docker-compose.yml"
# The library that `docker compose` itself loads files with.
LOADER = "github.com/compose-spec/compose-go/v2/cmd@v2.16.2"
LOADER_TIMEOUT_S = 300


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """The file as YAML, with the defaults of its variables filled in."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", COMPOSE.read_text("utf-8")).replace("$$", "$")
    return dict(yaml.safe_load(text))


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return dict(compose["services"])


def test_the_loader_of_docker_compose_accepts_the_file(compose: dict[str, Any]) -> None:
    """Docker Compose's own loader checks the file against the specification and its parts against each other."""
    if shutil.which("go") is None and not os.environ.get("CI"):
        pytest.skip("Docker Compose's loader is built with Go, which is not installed")
    command = ["go", "run", LOADER, "--format", "json", str(COMPOSE)]
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=LOADER_TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["services"].keys() == compose["services"].keys()


def test_every_service_has_a_health_check(services: dict[str, dict[str, Any]]) -> None:
    """`docker compose up --wait` waits for all of it, and who needs another service waits until it is healthy."""
    for name, service in services.items():
        assert service["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}, name
        for needed, how in service.get("depends_on", {}).items():
            shares_network = service.get("network_mode") == f"service:{needed}"
            assert how["condition"] == ("service_started" if shares_network else "service_healthy"), name


def test_ports_are_open_to_this_machine_only(services: dict[str, dict[str, Any]]) -> None:
    """Nothing is published to the network, since the passwords in the file are known."""
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert len({port.split(":")[1] for port in ports}) == len(ports)


def test_images_are_pinned(services: dict[str, dict[str, Any]]) -> None:
    """Every image has a tag with a version, or is built from this repository."""
    for name, service in services.items():
        tag = service["image"].partition(":")[2]
        assert tag == "local" if "build" in service else re.match(r"\d+\.\d+", tag), name


def test_files_that_are_mounted_or_built_exist(services: dict[str, dict[str, Any]]) -> None:
    """Docker would make an empty folder in place of a file that is not there."""
    for service in services.values():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert not source.startswith(".") or (REPOSITORY / source).exists(), source
        if build := service.get("build"):
            dockerfile = (REPOSITORY / build["context"] / "Dockerfile").read_text("utf-8")
            assert "target" not in build or f" AS {build['target']}\n" in dockerfile


def test_the_aggregator_accepts_its_settings(
    services: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every OTEL_CREDITS_ variable of the file is a setting, and together they are valid."""
    environment = services["aggregator"]["environment"]
    assert {name.removeprefix("OTEL_CREDITS_").lower() for name in environment} <= Settings.model_fields.keys()
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert f":{settings.api_port}/readyz" in services["aggregator"]["healthcheck"]["test"][-1]
    assert services["aggregator"]["ports"] == [f"127.0.0.1:8080:{settings.api_port}"]
    assert services["collector"]["environment"]["COLLECTOR_AGGREGATOR_ENDPOINT"] == f"aggregator:{settings.grpc_port}"
    assert int(services["aggregator"]["stop_grace_period"].removesuffix("s")) > settings.stop_timeout_s


def test_clickhouse_knows_its_clients(services: dict[str, dict[str, Any]]) -> None:
    """The aggregator and Grafana name the database, users and passwords that ClickHouse is started with."""
    server = services["clickhouse"]["environment"]
    store = urlsplit(services["aggregator"]["environment"]["OTEL_CREDITS_STORE"])
    assert (store.username, store.password) == (server["CLICKHOUSE_USER"], server["CLICKHOUSE_PASSWORD"])
    assert (store.hostname, store.port, store.path) == ("clickhouse", 8123, f"/{server['CLICKHOUSE_DB']}")
    grafana = services["grafana"]["environment"]
    assert (grafana["CLICKHOUSE_HOST"], grafana["CLICKHOUSE_DATABASE"]) == ("clickhouse", server["CLICKHOUSE_DB"])
    assert grafana["CLICKHOUSE_READER_PASSWORD"] == server["CLICKHOUSE_READER_PASSWORD"]
    reader = ElementTree.parse(REPOSITORY / "clickhouse" / "server" / "users.d" / "otel-credits-reader.xml")
    user = reader.find(f"users/{grafana['CLICKHOUSE_READER_USER']}")
    assert user is not None
    assert [grant.text for grant in user.iter("query")] == [f"GRANT SELECT ON {server['CLICKHOUSE_DB']}.*"]


def test_system_logs_have_an_end() -> None:
    """Each of ClickHouse's own logs that the shipped configuration speaks of is removed or has a TTL."""
    config = ElementTree.parse(REPOSITORY / "clickhouse" / "server" / "config.d" / "otel-credits-system-logs.xml")
    logs = list(config.getroot())
    assert {"query_log", "trace_log", "text_log", "metric_log"} <= {log.tag for log in logs}
    assert all(log.get("remove") or "INTERVAL" in (log.findtext("ttl") or "") for log in logs)


def test_grafana_gets_what_its_provisioning_asks_for(services: dict[str, dict[str, Any]]) -> None:
    """Every variable of the provisioning files is set, and the dashboards are mounted where it looks for them."""
    grafana = services["grafana"]
    texts = [path.read_text("utf-8") for path in (REPOSITORY / "grafana" / "provisioning").rglob("*.yaml")]
    assert {name for text in texts for name in re.findall(r"\$\{(\w+)\}", text)} <= grafana["environment"].keys()
    [folder] = {found for text in texts for found in re.findall(r"^\s+path: (\S+)$", text, re.MULTILINE)}
    assert f"./grafana/dashboards:{folder}:ro" in grafana["volumes"]
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (REPOSITORY / "grafana" / "dashboards" / home.removeprefix(f"{folder}/")).is_file()


def test_who_has_no_token_reaches_only_what_is_said_to_be_open(
    services: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The aggregator listens on every address without tokens because the file says so; without those words it refuses."""
    for name, value in services["aggregator"]["environment"].items():
        monkeypatch.setenv(name, value)
    check_listening(Settings(), Gate(tmp_path / "none"))
    with pytest.raises(Unprotected):
        check_listening(Settings(allow_unauthenticated=False), Gate(tmp_path / "none"))


@pytest.mark.collector
@pytest.mark.timeout(1800)
def test_the_collector_accepts_its_environment(services: dict[str, dict[str, Any]]) -> None:
    """With the variables of the file the Collector finds its configuration valid, and it knows each of them."""
    environment = services["collector"]["environment"]
    assert set(environment) <= set(re.findall(r"\$\{env:(\w+)", CONFIG.read_text("utf-8")))
    command = [str(collector_binary()), "validate", "--config", str(CONFIG)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert f":{environment['COLLECTOR_HEALTH_PORT']}/" in services["collector"]["healthcheck"]["test"][-1]


def test_the_collector_is_of_one_version() -> None:
    """The official image, the components built by `make collector` and their builder are of the same release."""
    manifest = (BUILD_SCRIPT.parent / "builder-config.yaml").read_text("utf-8")
    dockerfile = (BUILD_SCRIPT.parent / "Dockerfile").read_text("utf-8")
    [image] = re.findall(r"opentelemetry-collector-contrib:(\S+)", dockerfile)
    assert set(re.findall(r"(?:builder:|\w+) v(0\.\S+)", manifest)) == {image}
    assert f"version: {image}" in manifest


def test_apps_send_to_the_collector(services: dict[str, dict[str, Any]]) -> None:
    """Both example apps are sampled at 1 % and send to the Collector's OTLP/gRPC port."""
    port = services["collector"]["environment"]["COLLECTOR_GRPC_PORT"]
    for name in ("chat-app", "worker"):
        environment = services[name]["environment"]
        assert environment["OTEL_EXPORTER_OTLP_ENDPOINT"] == f"http://collector:{port}"
        assert environment["OTEL_TRACES_SAMPLER_ARG"] == "0.01"
        assert (urlsplit(environment["CELERY_BROKER_URL"]).hostname or "") in services
