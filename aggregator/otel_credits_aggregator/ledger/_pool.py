"""Clients of the store, lent to one caller at a time. A client answers one query at a time; several run at once."""

import queue
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from otel_credits_aggregator.ledger.errors import BusyError
from otel_credits_aggregator.store import Client, connect, is_embedded

__all__ = ["ClientPool"]

_CLOSE_WAIT_S = 10.0


class ClientPool:
    """Up to `size` clients with the same settings, opened when first needed.

    Args:
        dsn: the store.
        settings: ClickHouse settings of every query; `readonly`, if among them, holds for the client's whole life.
        size: how many clients, and so queries at once.
        wait_s: how long a caller waits for a free client.
    """

    def __init__(self, dsn: str, settings: Mapping[str, str | int], *, size: int, wait_s: float) -> None:
        self._dsn, self._wait_s = dsn, wait_s
        # `readonly` comes last, because nothing can be set after it.
        self._settings = dict(sorted(settings.items(), key=lambda item: item[0] == "readonly"))
        # Last in, first out, so that few clients are opened while few are needed.
        self._free: queue.LifoQueue[Client | None] = queue.LifoQueue(size)
        self._size = self._open_at_most = size
        self._closing = threading.Lock()
        for _ in range(size):
            self._free.put(None)

    @contextmanager
    def client(self) -> Iterator[Client]:
        """Lends a client. Raises BusyError if none gets free in time, ClickHouseError if the store is away."""
        try:
            client = self._free.get(timeout=self._wait_s)
        except queue.Empty:
            raise BusyError(f"{self._size} queries are running already; try again later") from None
        try:
            client = client or self._open()
            yield client
        except BaseException:
            # What a failed query had written already is put before the next result of its connection (chDB 26.9), so
            # the connection is not used again.
            if client is not None:
                client.close()
            client = None
            raise
        finally:
            self._free.put(client)

    def close(self) -> None:
        """Closes all clients; one that is lent and does not come back soon is left to its borrower's end."""
        with self._closing:
            while self._open_at_most:
                try:
                    client = self._free.get(timeout=_CLOSE_WAIT_S)
                except queue.Empty:
                    return
                self._open_at_most -= 1
                if client is not None:
                    client.close()

    def _open(self) -> Client:
        client = connect(self._dsn)
        if is_embedded(self._dsn):
            # Set once on the connection: settings given with a query are set and restored around each, which takes 5 ms
            # and which `readonly` forbids.
            if self._settings:
                client.command(
                    "SET " + ", ".join(f"{name} = {_literal(value)}" for name, value in self._settings.items())
                )
        else:
            # Sent along with each query; a server checks them together, so the order does not matter.
            for name, value in self._settings.items():
                client.set_client_setting(name, value)
        return client


def _literal(value: str | int) -> str:
    """A value of ours as SQL has it."""
    return str(value) if isinstance(value, int) else "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
