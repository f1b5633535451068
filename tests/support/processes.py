"""Processes for tests: free ports, waiting with a deadline, children ended by their ids, an aggregator to talk to."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import httpx
from otel_credits_aggregator.demo import processes
from otel_credits_aggregator.demo.processes import (
    POLL_INTERVAL_S,
    WaitTimeout,
    accepts_connections,
    clean_environment,
    free_port,
)

from support import plain_http
from support.migrated_folder import copy_migrated_store

__all__ = [
    "AggregatorProcess",
    "Process",
    "ServerProcess",
    "WaitTimeout",
    "accepts_connections",
    "clean_environment",
    "free_port",
    "wait_until",
]

# Deadlines end what hangs, and nothing else: a machine on which other tests run may need several times as long as a quiet one.
PATIENCE = 4
READY_TIMEOUT_S = 120.0
END_TIMEOUT_S = 120.0
REQUEST_TIMEOUT_S = 120.0

# Each of pytest's processes hands out ports of its own share, and none that a demo started as a child does: between the look and
# the use of a port are seconds, in which another process would take it.
_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _WORKERS
processes.ports = range(8000, 15000)[_WORKER::_WORKERS]


def wait_until(
    predicate: Callable[[], object], timeout_s: float, message: str, *, interval_s: float = POLL_INTERVAL_S
) -> None:
    """Poll `predicate` until it is true, `PATIENCE` times as long as is enough on a quiet machine. Raises WaitTimeout."""
    processes.wait_until(predicate, timeout_s * PATIENCE, message, interval_s=interval_s)


class Process(processes.Process):
    """A child that is waited for with the same patience."""

    def wait_for(self, is_ready: Callable[[], object], timeout_s: float, message: str) -> None:
        """See the demo's. Raises WaitTimeout, or RuntimeError with the child's last words if it ended."""
        super().wait_for(is_ready, timeout_s * PATIENCE, message)


class ServerProcess(Process):
    """A child that is ready only some time after its start; as a context manager it is ready inside the block."""

    def is_ready(self) -> bool:
        """Whether it does what it is there for."""
        raise NotImplementedError

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait until it is ready. Raises WaitTimeout, or RuntimeError with its last words if it ended."""
        self.wait_for(self.is_ready, timeout_s, f"{self.name} is ready")

    def terminate(self, timeout_s: float = END_TIMEOUT_S) -> int:
        """End it as `Process` does, with the patience that a loaded machine needs."""
        return super().terminate(timeout_s)

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait_ready()
        except BaseException:
            self.kill()
            raise
        return self


class AggregatorProcess(ServerProcess):
    """A real ``otel-credits serve`` on free ports.

    As a context manager it is started and ready inside the block, and terminated at its end. Without the
    block: ``start()``, ``wait_ready()``, ``kill()`` or ``terminate()``, ``start()`` again on the same ports and data.

    Args:
        data_dir: holds the spool, the embedded store, and ``aggregator.log``.
        env: further settings, for example ``{"OTEL_CREDITS_CHARGE_GENAI": "on"}``.
        token: an admin's, shown with each call of the API.
        migrates: it makes the embedded store itself at its first start; else it finds one there, empty and migrated.
    """

    def __init__(
        self,
        data_dir: Path,
        env: Mapping[str, str] | None = None,
        *,
        name: str = "aggregator",
        token: str = "",
        migrates: bool = False,
    ) -> None:
        self._headers = {"authorization": f"Bearer {token}"} if token else {}
        self.data_dir = Path(data_dir)
        self._migrates = migrates
        self.grpc_port, self.http_port, self.api_port = free_port(), free_port(), free_port()
        settings = {
            "OTEL_CREDITS_DATA_DIR": str(self.data_dir),
            "OTEL_CREDITS_HOST": "127.0.0.1",
            "OTEL_CREDITS_GRPC_PORT": str(self.grpc_port),
            "OTEL_CREDITS_HTTP_PORT": str(self.http_port),
            "OTEL_CREDITS_API_PORT": str(self.api_port),
        }
        command = [sys.executable, "-m", "otel_credits_aggregator", "serve"]
        super().__init__(name, command, log_dir=self.data_dir, env=settings | dict(env or {}))

    def start(self) -> Self:
        """Start it, on a copy of a migrated store if there is none yet, since migrating takes longer than most tests."""
        path = self.data_dir / "store"
        if not (self._migrates or self.env.get("OTEL_CREDITS_STORE") or path.exists()):
            copy_migrated_store(path)
        return super().start()

    @property
    def url(self) -> str:
        """The API's address, what ``OTEL_CREDITS_URL`` wants."""
        return f"http://127.0.0.1:{self.api_port}"

    @property
    def grpc_endpoint(self) -> str:
        """Where OTLP/gRPC goes."""
        return f"http://127.0.0.1:{self.grpc_port}"

    @property
    def http_endpoint(self) -> str:
        """Where OTLP/HTTP goes (the base; signals live under ``/v1/``)."""
        return f"http://127.0.0.1:{self.http_port}"

    def is_ready(self) -> bool:
        """Whether ``GET /readyz`` answers 200: it is migrated, replayed and receiving."""
        try:
            return plain_http.get(f"{self.url}/readyz", timeout=5.0).status_code == 200
        except httpx.HTTPError:
            return False

    def request(self, method: str, path: str, **options: Any) -> Any:
        """Call the API and return the parsed JSON. Raises httpx.HTTPStatusError with the body in its message."""
        options = {"headers": self._headers} | options
        response = plain_http.request(method, f"{self.url}{path}", timeout=REQUEST_TIMEOUT_S, **options)
        if response.is_error:
            message = f"{method} {path}: {response.status_code} {response.text}"
            raise httpx.HTTPStatusError(message, request=response.request, response=response)
        return response.json() if response.content else None

    def sql(self, query: str) -> list[dict[str, Any]]:
        """Run a read-only query through the API; one dictionary a row, decimals as strings."""
        rows: list[dict[str, Any]] = self.request("POST", "/api/v1/sql", json={"query": query})
        return rows

    def metrics(self) -> dict[str, float]:
        """Return `/metrics` as {series with its labels, as printed: value}."""
        text = plain_http.get(f"{self.url}/metrics", timeout=REQUEST_TIMEOUT_S, headers=self._headers).text
        lines = (line for line in text.splitlines() if line and not line.startswith("#"))
        return {series: float(value) for series, value in (line.rsplit(" ", 1) for line in lines)}
