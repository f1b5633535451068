"""The aggregator's API for tests: a real uvicorn on a free port of this process, around any store."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import uvicorn
from otel_credits_aggregator.api import create_app
from otel_credits_aggregator.otlp import Signal
from otel_credits_aggregator.replay import Selection, Treatment, run_replay
from otel_credits_aggregator.settings import Settings
from otel_credits_aggregator.store import Client, connect
from otel_credits_aggregator.voids import charges_of, void_batch

from support.processes import wait_until

__all__ = ["AggregatorState", "running_api"]

T = TypeVar("T")

START_TIMEOUT_S = 30.0


@dataclass
class AggregatorState:
    """What the API asks of the server around it, set by the test. (A real server is `AggregatorProcess`.)"""

    checks: dict[str, bool] = field(default_factory=lambda: {"migrated": True, "replayed": True, "receiving": True})
    dsn: str = ""
    exposition: bytes = b"# TYPE up gauge\nup 1.0\n"
    treated: list[tuple[Selection, Treatment]] = field(default_factory=list)
    taken_in: list[tuple[Signal, bytes]] = field(default_factory=list)

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

    def treat(self, selection: Selection, treatment: Treatment) -> Future[int]:
        """Remember what was asked for, and be done at once with one row."""
        self.treated.append((selection, treatment))
        return _done(1)

    def accept(self, signal: Signal, payload: bytes, binding: bytes) -> Future[int]:
        """Remember the request, and be done at once."""
        self.taken_in.append((signal, payload))
        return _done(1)

    def void(self, event_id: str, treatment: Treatment) -> Future[bool]:
        """Take it back now, as the inserter does."""
        with connect(self.dsn) as client:
            charges = charges_of(client, [event_id])
            if not charges or charges[0].is_void:
                return _done(False)
            run_replay(client, void_batch(charges[:1], treatment))
            return _done(True)

    def between_batches(self, work: Callable[[Client], T]) -> Future[T]:
        """Do it now: nothing is inserted here."""
        with connect(self.dsn) as client:
            return _done(work(client))


def _done(result: T) -> Future[T]:
    future: Future[T] = Future()
    future.set_result(result)
    return future


@contextmanager
def running_api(dsn: str, aggregator: AggregatorState | None = None) -> Iterator[str]:
    """Serve the API around a migrated store; gives its address, `http://127.0.0.1:port`."""
    state = aggregator or AggregatorState()
    state.dsn = dsn
    app = create_app(Settings(store=dsn), state)
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
