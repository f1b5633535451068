"""The requests of the last hours, for who wants to know what a billing rule would have charged: off unless it is asked for.

An SQLite file beside the spool. No charge depends on it, so it is not synced, and what cannot be written there is left out. What
was said in prompts and answers, as far as it can be told, is not in it (:func:`privacy.for_rules`).
"""

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Self

from otel_credits_aggregator.privacy import for_rules
from otel_credits_aggregator.settings import Settings
from otel_credits_aggregator.spool import Request

__all__ = ["Recent", "recent_requests"]

logger = logging.getLogger(__name__)

_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = OFF;
PRAGMA secure_delete = ON;
CREATE TABLE IF NOT EXISTS requests (
    id INTEGER PRIMARY KEY,
    received_at_us INTEGER NOT NULL,
    payload BLOB NOT NULL,
    binding BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS by_time ON requests (received_at_us);
"""
_FILE = "recent.sqlite"


class Recent:
    """Keeps requests for some hours, and at most so many bytes of them. Methods may be called from any thread; none raises."""

    def __init__(self, path: Path, kept_us: int, bytes_max: int) -> None:
        self._path = path
        self._kept_us = kept_us
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        self._failing = False
        self._bytes = 0
        self._connection: sqlite3.Connection | None = None

    @classmethod
    def of(cls, settings: Settings) -> Self | None:
        """As the settings say; None if they keep nothing, and then nothing of an earlier process stays either."""
        path = settings.data_dir / _FILE
        if settings.keep_requests_h > 0:
            return cls(path, int(settings.keep_requests_h * 3_600_000_000), settings.keep_requests_bytes_max)
        for file in path.parent.glob(f"{_FILE}*"):
            file.unlink(missing_ok=True)
        return None

    def add(self, read: Callable[[], Iterable[Request]]) -> None:
        """Keeps the trace requests that `read` gives."""
        self._try(lambda connection: self._insert(connection, read()))

    def prune(self) -> None:
        """Drops what is too old."""
        self._try(self._drop_old)

    def close(self) -> None:
        """Closes the file; what is in it stays for the next process."""
        with self._lock:
            self._close()

    def _try(self, what: Callable[[sqlite3.Connection], None]) -> None:
        with self._lock:
            try:
                with self._connected() as connection:
                    what(connection)
                self._failing = False
            except Exception as error:
                # Whatever it is: usage is charged without this file.
                if not self._failing:
                    logger.error("requests are not kept for tests of rules (OTEL_CREDITS_KEEP_REQUESTS_H): %s", error)
                self._failing = True
                self._close()

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = sqlite3.connect(self._path, check_same_thread=False)
            self._connection.executescript(_SCHEMA)
            (size,) = self._connection.execute("SELECT total(length(payload)) FROM requests").fetchone()
            self._bytes = int(size)
        return self._connection

    def _insert(self, connection: sqlite3.Connection, requests: Iterable[Request]) -> None:
        for request in requests:
            payload = for_rules(request.payload)
            if len(payload) <= self._bytes_max:
                row = (request.received_at_us, payload, request.binding)
                connection.execute("INSERT INTO requests (received_at_us, payload, binding) VALUES (?, ?, ?)", row)
                self._bytes += len(payload)
        self._drop_old(connection)
        self._drop_oldest(connection)

    def _drop_old(self, connection: sqlite3.Connection) -> None:
        which = f"received_at_us < {time.time_ns() // 1000 - self._kept_us}"
        (size,) = connection.execute(f"SELECT total(length(payload)) FROM requests WHERE {which}").fetchone()
        connection.execute(f"DELETE FROM requests WHERE {which}")
        self._bytes -= int(size)

    def _drop_oldest(self, connection: sqlite3.Connection) -> None:
        """Makes room, if there is too much."""
        dropped: list[tuple[int]] = []
        for number, size in connection.execute("SELECT id, length(payload) FROM requests ORDER BY received_at_us, id"):
            if self._bytes <= self._bytes_max:
                break
            dropped.append((number,))
            self._bytes -= size
        connection.executemany("DELETE FROM requests WHERE id = ?", dropped)


def recent_requests(settings: Settings, since_us: int, bytes_max: int) -> Iterator[list[Request]]:
    """What is kept and was received then or later (microseconds since 1970), in the order it came, in lists of so many bytes.

    Raises:
        sqlite3.Error: the file cannot be read.
    """
    path = settings.data_dir / _FILE
    if not path.exists():
        return
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        found: list[Request] = []
        for row in connection.execute(
            "SELECT payload, received_at_us, binding FROM requests WHERE received_at_us >= ? ORDER BY received_at_us, id",
            (since_us,),
        ):
            request = Request(*row)
            if found and sum(len(one.payload) for one in found) + len(request.payload) > bytes_max:
                yield found
                found = []
            found.append(request)
        if found:
            yield found
