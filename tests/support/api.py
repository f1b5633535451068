"""The aggregator's API for tests: a real uvicorn on a free port of this process, around any store."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field

import uvicorn
from otel_credits_aggregator.api import create_app
from otel_credits_aggregator.settings import Settings

from support.processes import wait_until

__all__ = ["AggregatorState", "running_api"]

START_TIMEOUT_S = 30.0


@dataclass
class AggregatorState:
    """What the API asks of the server around it, set by the test. (A real server is `AggregatorProcess`.)"""

    checks: dict[str, bool] = field(default_factory=lambda: {"migrated": True, "replayed": True, "receiving": True})
    exposition: bytes = b"# TYPE up gauge\nup 1.0\n"
    replays: list[tuple[tuple[str, ...], str | None]] = field(default_factory=list)

    @property
    def metrics(self) -> AggregatorState:
        """Itself, which has the text."""
        return self

    def text(self) -> bytes:
        """Return the exposition."""
        return self.exposition

    def readiness(self) -> dict[str, bool]:
        """Return the checks."""
        return self.checks

    def replay(self, reasons: tuple[str, ...] = (), user_id: str | None = None) -> Future[int]:
        """Remember what was asked for, and be done at once with one row."""
        self.replays.append((reasons, user_id))
        done: Future[int] = Future()
        done.set_result(1)
        return done


@contextmanager
def running_api(dsn: str, aggregator: AggregatorState | None = None) -> Iterator[str]:
    """Serve the API around a migrated store; gives its address, `http://127.0.0.1:port`."""
    app = create_app(Settings(store=dsn), aggregator or AggregatorState())
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="api")
        thread.start()
        try:
            wait_until(lambda: server.started, START_TIMEOUT_S, "the API has started")
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
