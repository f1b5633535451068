"""What docker-compose.yml starts, started without Docker: its commands and environments as processes on free ports.

Images, users, volumes and networks are Docker's part and not tested; ClickHouse is a stand-in, and Grafana is left out.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import clickhouse_connect
import pytest
import yaml
from support import plain_http
from support.clickhouse_http import ClickHouseHttp
from support.collector import CollectorProcess
from support.processes import AggregatorProcess, Process, accepts_connections, clean_environment, free_port, wait_until
from support.redis import redis_server

# The first test that needs the Collector builds it, which takes minutes on a machine that has not built it yet.
pytestmark = [pytest.mark.collector, pytest.mark.redis, pytest.mark.timeout(1800)]

REPOSITORY = Path(__file__).resolve().parents[2]
READY_TIMEOUT_S = 60.0
CHARGED_TIMEOUT_S = 90.0


class Stack(ExitStack):
    """The services of the file as processes; `chat_url` is the example app, `aggregator` has the ledger."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._services = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text("utf-8"))["services"]
        self._chat_port, self._llm_port = free_port(), free_port()
        self.chat_url = f"http://127.0.0.1:{self._chat_port}"

    def start(self) -> None:
        """Start in the order of the file, and wait until all of it is up."""
        store = self.enter_context(ClickHouseHttp(self._folder / "clickhouse", user="otel_credits", password="secret"))
        with clickhouse_connect.get_client(dsn=store.dsn(), autogenerate_session_id=False) as client:
            client.command("CREATE DATABASE otel_credits")
        settings = {"OTEL_CREDITS_STORE": store.dsn("otel_credits")}
        self.aggregator = self.enter_context(AggregatorProcess(self._folder / "aggregator", settings))
        endpoint = f"127.0.0.1:{self.aggregator.grpc_port}"
        self._collector = self.enter_context(CollectorProcess(self._folder, endpoint))
        self._broker = self.enter_context(redis_server(self._folder))
        self._start("chat-app", {"8000": str(self._chat_port)})
        self._start("llm-server", {"9000": str(self._llm_port)})
        self._start("worker", {})
        for port in (self._chat_port, self._llm_port):
            wait_until(lambda port=port: accepts_connections(port), READY_TIMEOUT_S, f"port {port} answers")
        wait_until(self.worker_answers, READY_TIMEOUT_S, "the health check of the worker passes", interval_s=1.0)

    def _start(self, name: str, other_words: dict[str, str]) -> None:
        words = {"python": sys.executable, "/examples/llm_server.py": str(REPOSITORY / "examples" / "llm_server.py")}
        command = [(words | other_words).get(word, word) for word in self._services[name]["command"]]
        self.enter_context(Process(name, command, log_dir=self._folder, env=self._environment(name)))

    def _environment(self, name: str) -> dict[str, str]:
        """The service's environment with the addresses of this machine in place of those of Docker's network."""
        given: dict[str, Any] = self._services[name]["environment"]
        here = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self._collector.grpc_endpoint,
            "CELERY_BROKER_URL": self._broker,
            "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{self._llm_port}",
        }
        without_key = {"ANTHROPIC_API_KEY": ""} if name == "llm-server" else {}
        known = {key: value for key, value in here.items() if key in given}
        return {**given, **known, **without_key, "PYTHONPATH": str(REPOSITORY / "examples")}

    def worker_answers(self) -> bool:
        """Run the worker's health check as the file has it."""
        check = self._services["worker"]["healthcheck"]["test"][1].replace("$$HOSTNAME", socket.gethostname())
        environment = clean_environment(self._environment("worker"))
        command = f'exec "{sys.executable}" {check.removeprefix("python ")}'
        return subprocess.run(command, shell=True, env=environment, capture_output=True, check=False).returncode == 0


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    with Stack(tmp_path) as stack:
        stack.start()
        yield stack


def test_usage_of_the_example_app_reaches_the_ledger(stack: Stack) -> None:
    """A chat, a report and a task, each through the Collector to the aggregator and into the server's ledger."""
    user = str(uuid.uuid4())
    headers = {"X-User-Id": user}
    answers = [
        plain_http.post(f"{stack.chat_url}/chat", headers=headers, json={"message": "Hi"}, timeout=30.0),
        plain_http.get(f"{stack.chat_url}/analytics", headers=headers, timeout=30.0),
        plain_http.post(f"{stack.chat_url}/workflows", headers=headers, timeout=30.0),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 202]
    query = f"SELECT action_type, service_name FROM credit_usage_events WHERE user_id = '{user}' ORDER BY action_type"
    wait_until(lambda: len(stack.aggregator.sql(query)) >= 3, CHARGED_TIMEOUT_S, "3 usages are charged")
    assert [(row["action_type"], row["service_name"]) for row in stack.aggregator.sql(query)] == [
        ("ai_chat_message", "chat-app"),
        ("analytics_generation", "chat-app"),
        ("workflow_execution", "workflow-worker"),
    ]
