"""The test server as a process: started, killed and started again on the same port and data, and made to fail."""

import os
import signal
import sys
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from support import plain_http
from support.migrated_folder import copy_migrated_store
from support.processes import ServerProcess, free_port

from .faults import Fault

REQUEST_TIMEOUT_S = 30.0
_TESTS_DIR = Path(__file__).parents[2]


class ClickHouseHttp(ServerProcess):
    """A server that answers ClickHouse's HTTP interface on a free port of 127.0.0.1.

    As a context manager it is started and ready inside the block, and ended after it. `kill()` and `start()`
    with `wait_ready()` are a crash and a restart: same port, same data.

    Args:
        data_dir: holds chDB's data, in `chdb/`, and the server's log.
        user: the only user that may ask; None lets anybody ask.
        password: of that user.
        migrated: it begins with an empty, migrated ledger in its default database, and not with nothing.
    """

    def __init__(self, data_dir: Path, *, user: str | None = None, password: str = "", migrated: bool = False) -> None:
        self.port = free_port()
        self.user = user
        self.password = password
        command = [sys.executable, "-m", "support.clickhouse_http", "--end-with-parent"]
        command += ["--port", str(self.port), "--path", str(data_dir / "chdb")]
        if migrated:
            copy_migrated_store(data_dir / "chdb")
        if user is not None:
            command += ["--user", user, "--password", password]
        paths = [str(_TESTS_DIR), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        env = {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
        super().__init__("clickhouse-http", command, log_dir=data_dir, env=env)

    @property
    def url(self) -> str:
        """The server's address, without credentials."""
        return f"http://127.0.0.1:{self.port}"

    def dsn(self, database: str = "default") -> str:
        """Return what `clickhouse_connect.get_client(dsn=...)` and `OTEL_CREDITS_STORE` want."""
        user = urllib.parse.quote(self.user or "default", safe="")
        secret = f":{urllib.parse.quote(self.password, safe='')}" if self.password else ""
        return f"clickhouse://{user}{secret}@127.0.0.1:{self.port}/{database}"

    def is_ready(self) -> bool:
        """Whether `GET /ping` answers."""
        try:
            return plain_http.get(f"{self.url}/ping", timeout=REQUEST_TIMEOUT_S).is_success
        except httpx.HTTPError:
            return False

    def restart(self) -> None:
        """Kill it (SIGKILL) if it runs, and start it again on the same port and data."""
        if self.is_running:
            self.kill()
        self.start()
        self.wait_ready()

    def pause(self) -> None:
        """Stop the whole process (SIGSTOP): connections are accepted by the kernel, and nothing answers."""
        self.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        self.send_signal(signal.SIGCONT)

    def add_fault(self, fault: Fault) -> None:
        """Let this go wrong from now on, after what was set before."""
        self._control("POST", content=fault.model_dump_json())

    def clear_faults(self) -> None:
        """Let everything work again, and release what hangs."""
        self._control("DELETE")

    def faults(self) -> list[Fault]:
        """Return the faults that are set, with how often each has happened (`hits`)."""
        return [Fault.model_validate(fault) for fault in self._control("GET")]

    @contextmanager
    def faulty(self, fault: Fault) -> Iterator[None]:
        """Let this go wrong inside the block."""
        self.add_fault(fault)
        try:
            yield
        finally:
            self.clear_faults()

    def _control(self, method: str, **options: Any) -> Any:
        response = plain_http.request(method, f"{self.url}/_fault", timeout=REQUEST_TIMEOUT_S, **options)
        if response.is_error:
            raise ValueError(f"{method} /_fault: {response.status_code} {response.text}")
        return response.json()
