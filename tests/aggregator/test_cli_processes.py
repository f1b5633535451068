"""The command beside servers: which store it uses, and what it says if it may not."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from support.processes import AggregatorProcess, clean_environment, free_port

COMMAND_TIMEOUT_S = 60.0
COMMAND = (sys.executable, "-m", "otel_credits_aggregator")


def _otel_credits(*arguments: str, cwd: Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command as a process of its own, with nothing of this process's settings."""
    settings = {"OTEL_CREDITS_API_PORT": str(free_port())} | dict(env or {})
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=cwd,
        env=clean_environment(settings),
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )


@pytest.fixture(scope="module")
def aggregator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AggregatorProcess]:
    """A running server that the tests of this module share; each uses a user of its own."""
    with AggregatorProcess(tmp_path_factory.mktemp("aggregator")) as process:
        yield process


@pytest.fixture
def user() -> str:
    """A user of the test's own."""
    return str(uuid.uuid4())


def test_the_store_is_used_directly_without_a_server(tmp_path: Path) -> None:
    """Without a server the command migrates, writes and reads the embedded store under the current folder."""
    assert "applied 0001" in _otel_credits("migrate", cwd=tmp_path).stdout
    again = _otel_credits("migrate", cwd=tmp_path)
    assert (again.returncode, "up to date already" in again.stdout) == (0, True)
    assert _otel_credits("grant", "u", "5", cwd=tmp_path).returncode == 0
    (row,) = json.loads(_otel_credits("balance", "u", "--json", cwd=tmp_path).stdout)
    assert row["current_balance"] == "5"
    assert (tmp_path / "otel-credits-data").is_dir()


def test_no_store_is_made_by_a_question(tmp_path: Path) -> None:
    """Where there is no store, the command says so and makes none."""
    result = _otel_credits("grant", "u", "1", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    assert "there is no store in" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_running_server_is_asked(aggregator: AggregatorProcess, tmp_path: Path, user: str) -> None:
    """While a server runs, the command goes through it, found by URL or by the same settings."""
    by_url = {"OTEL_CREDITS_URL": aggregator.url}
    assert _otel_credits("grant", user, "5", cwd=tmp_path, env=by_url).returncode == 0
    by_settings = {
        "OTEL_CREDITS_DATA_DIR": str(aggregator.data_dir),
        "OTEL_CREDITS_API_PORT": str(aggregator.api_port),
    }
    for env in (by_url, by_settings, {"OTEL_CREDITS_API_PORT": str(aggregator.api_port)}):
        (row,) = json.loads(_otel_credits("balance", user, "--json", cwd=tmp_path, env=env).stdout)
        assert row["current_balance"] == "5"
    assert aggregator.request("GET", f"/api/v1/users/{user}/balance")["current_balance"] == "5"


def test_every_reading_command_works_through_a_server(aggregator: AggregatorProcess, tmp_path: Path) -> None:
    """Each reading command gives a JSON array through a server, and replay says what it did."""
    env = {"OTEL_CREDITS_URL": aggregator.url}
    commands = ("events", "users list", "prices list", "quarantine", "quarantine summary", "reconcile")
    for command in commands:
        result = _otel_credits(*command.split(), "--json", cwd=tmp_path, env=env)
        assert isinstance(json.loads(result.stdout), list), result.stderr
    assert json.loads(_otel_credits("sql", "SELECT 1 AS one;", "--json", cwd=tmp_path, env=env).stdout) == [{"one": 1}]
    assert "tried 0 again" in _otel_credits("quarantine", "replay", cwd=tmp_path, env=env).stdout


def test_errors_through_a_server_are_the_same(aggregator: AggregatorProcess, tmp_path: Path, user: str) -> None:
    """What a server refuses ends with 1 and its reason, as without one."""
    env = {"OTEL_CREDITS_URL": aggregator.url}
    unknown = _otel_credits("balance", user, cwd=tmp_path, env=env)
    assert (unknown.returncode, user in unknown.stderr) == (1, True)
    refused = _otel_credits("sql", "DROP TABLE users", cwd=tmp_path, env=env)
    assert (refused.returncode, "only reading" in refused.stderr) == (1, True)


def test_an_open_store_is_not_opened_again(aggregator: AggregatorProcess, tmp_path: Path) -> None:
    """If another process has the embedded store open, the command says so and what to do."""
    env = {"OTEL_CREDITS_DATA_DIR": str(aggregator.data_dir)}
    for command in (("balance", "u"), ("migrate",)):
        result = _otel_credits(*command, cwd=tmp_path, env=env)
        assert (result.returncode, result.stdout) == (1, "")
        assert "another process has the store" in result.stderr
        assert "OTEL_CREDITS_URL" in result.stderr


def test_only_the_named_server_is_asked(tmp_path: Path) -> None:
    """If OTEL_CREDITS_URL is set and nothing answers there, no other store is used in its place."""
    assert _otel_credits("migrate", cwd=tmp_path).returncode == 0
    env = {"OTEL_CREDITS_URL": f"http://127.0.0.1:{free_port()}"}
    result = _otel_credits("grant", "u", "1", cwd=tmp_path, env=env)
    assert (result.returncode, "no aggregator answers" in result.stderr) == (1, True)
    assert _otel_credits("balance", "u", cwd=tmp_path).returncode == 1


@pytest.mark.long
def test_a_server_of_another_store_is_not_asked(aggregator: AggregatorProcess, tmp_path: Path, user: str) -> None:
    """If the settings name a store, a server that happens to run on the port and serves another one is left alone."""
    env = {"OTEL_CREDITS_DATA_DIR": str(tmp_path / "mine"), "OTEL_CREDITS_API_PORT": str(aggregator.api_port)}
    assert _otel_credits("migrate", cwd=tmp_path, env=env).returncode == 0
    assert _otel_credits("grant", user, "7", cwd=tmp_path, env=env).returncode == 0
    (row,) = json.loads(_otel_credits("balance", user, "--json", cwd=tmp_path, env=env).stdout)
    assert row["current_balance"] == "7"
    assert user not in [balance["user_id"] for balance in aggregator.request("GET", "/api/v1/balances")]


class _OtherService(BaseHTTPRequestHandler):
    """Some other service, which says OK to everything."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"status": "ok"}')

    def log_message(self, *_: object) -> None:
        return


def test_another_service_is_not_taken_for_ours(tmp_path: Path) -> None:
    """A service of another kind on the port is not asked about credits."""
    with HTTPServer(("127.0.0.1", 0), _OtherService) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            env = {"OTEL_CREDITS_API_PORT": str(server.server_port)}
            result = _otel_credits("balance", "u", cwd=tmp_path, env=env)
        finally:
            server.shutdown()
            thread.join()
    assert (result.returncode, "there is no store" in result.stderr) == (1, True)


@pytest.mark.long
def test_a_server_store_is_used_directly(clickhouse_http_dsn: str, tmp_path: Path) -> None:
    """With a ClickHouse server as the store, the command needs no aggregator."""
    env = {"OTEL_CREDITS_STORE": clickhouse_http_dsn}
    assert "run `otel-credits migrate`" in _otel_credits("balance", "u", cwd=tmp_path, env=env).stderr
    assert _otel_credits("migrate", cwd=tmp_path, env=env).returncode == 0
    assert _otel_credits("grant", "u", "5", cwd=tmp_path, env=env).returncode == 0
    (row,) = json.loads(_otel_credits("balance", "u", "--json", cwd=tmp_path, env=env).stdout)
    assert row["current_balance"] == "5"


def test_a_store_server_that_is_away_is_told(tmp_path: Path) -> None:
    """A ClickHouse server that does not answer ends with 1 and a line that says so."""
    env = {"OTEL_CREDITS_STORE": f"clickhouse://127.0.0.1:{free_port()}/default"}
    result = _otel_credits("balance", "u", cwd=tmp_path, env=env)
    assert (result.returncode, result.stdout, "Traceback" in result.stderr) == (1, "", False)
    assert "cannot be reached" in result.stderr


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    """When the reader of a pipe ends early, as head does, nothing is complained about."""
    assert _otel_credits("migrate", cwd=tmp_path).returncode == 0
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed_pipe:
        result = subprocess.run(
            [*COMMAND, "prices", "list", "--json"],
            cwd=tmp_path,
            env=clean_environment({"OTEL_CREDITS_API_PORT": str(free_port())}),
            stdout=closed_pipe,
            stderr=subprocess.PIPE,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
    assert result.stderr == ""
