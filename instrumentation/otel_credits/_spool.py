"""One file of usages on disk: an SQLite database and the lock that says whose it is (`OTEL_CREDITS_SPOOL_DIR`).

A usage is in the file before the tracking call returns. It is written, not synced: a killed process loses nothing, as
the pages are the kernel's by then; a power cut may take the last seconds. Syncing is left to the checkpoints, which
the export thread makes.

A process locks its file (`flock`) for as long as it lives. A file that nobody holds was left behind, and any other
process of the app may take it, send what is in it, and remove it. Spans are kept as OTLP bytes, so that whoever sends
them sends the very same ids, also after an update of the library.

Libraries were looked at first (persist-queue, litequeue, diskcache): none is bounded in bytes without dropping the
oldest, gives a dead process's file to one other, or survives a fork with an open connection; beneath they are SQLite.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry.sdk.trace import ReadableSpan

from otel_credits import _spool_points
from otel_credits._attributes import SEQ
from otel_credits._encoding import encoded_origin
from otel_credits._spool_points import StoredPoint
from otel_credits._usage import KeptSpan

if TYPE_CHECKING:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

SUFFIX = ".usage"
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS origin (id INTEGER PRIMARY KEY, resource_spans BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS usage (seq INTEGER PRIMARY KEY, origin INTEGER NOT NULL, span BLOB NOT NULL);
{_spool_points.SCHEMA}
PRAGMA user_version = 1;
"""
_ORIGINS_CACHED_MAX = 100


class StoredSpan(NamedTuple):
    """A usage as the file has it."""

    seq: int
    # A ResourceSpans with one ScopeSpans and no span in it.
    origin: bytes
    span: bytes


def request_of(stored: Sequence[StoredSpan]) -> ExportTraceServiceRequest:
    """The request that delivers these usages, each with its number."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    request = ExportTraceServiceRequest()
    places: dict[bytes, Any] = {}
    for usage in stored:
        spans = places.get(usage.origin)
        if spans is None:
            of_resource = request.resource_spans.add()
            of_resource.ParseFromString(usage.origin)
            spans = places[usage.origin] = of_resource.scope_spans[0].spans
        span = spans.add()
        span.ParseFromString(usage.span)
        span.attributes.add(key=SEQ).value.int_value = usage.seq
    return request


class SpoolFile:
    """One file and its lock. Its methods are called under the lock of whoever owns it, except `checkpoint`."""

    def __init__(self, path: Path, lock_fd: int) -> None:
        self.path = path
        self._lock_fd = lock_fd
        self._connection: sqlite3.Connection | None = None
        self._origins: dict[tuple[int, int], tuple[object, object, int]] = {}
        # Held while a second connection is open, so that no fork copies it.
        self._second = threading.Lock()
        self.written = 0

    @classmethod
    def create(cls, folder: Path, name: str) -> SpoolFile:
        """A new file, locked. Raises OSError or sqlite3.Error."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / f"{name}{SUFFIX}"
        fd = os.open(_lock_path(path), os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # names of users are nobody else's business
        return cls(path, fd)

    @classmethod
    def claim(cls, path: Path) -> SpoolFile | None:
        """The file at `path`, locked. None if somebody has it, or had it until just now."""
        if not path.exists():
            return None
        fd = os.open(_lock_path(path), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        file = cls(path, fd)
        if not path.exists():  # its owner removed it between our look and our lock
            file.remove()
            return None
        return file

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=5.0)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        # By itself, a checkpoint would sync in the middle of some tracking call.
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.executescript(_SCHEMA)
        self._connection = connection
        return connection

    def append(self, seq: int, span: ReadableSpan | KeptSpan, data: bytes) -> None:
        """Write one usage. Raises sqlite3.Error, and then nothing is written."""
        connection = self._connection or self._open()
        origin = self._origin(connection, span)
        connection.execute("INSERT INTO usage (seq, origin, span) VALUES (?, ?, ?)", (seq, origin, data))
        self.written += 1

    def _origin(self, connection: sqlite3.Connection, span: ReadableSpan | KeptSpan) -> int:
        """The row of the span's resource and scope. They are few objects, told apart by identity: hashing a resource
        costs as much as writing a usage. The cache keeps both alive, so that no identity is used again."""
        key = (id(span.resource), id(span.instrumentation_scope))
        cached = self._origins.get(key)
        if cached is None:
            if len(self._origins) >= _ORIGINS_CACHED_MAX:
                self._origins.clear()
            row = connection.execute(
                "INSERT INTO origin (resource_spans) VALUES (?)", (encoded_origin(span).SerializeToString(),)
            ).lastrowid
            cached = self._origins[key] = (span.resource, span.instrumentation_scope, row or 0)
        return cached[2]

    def read(self, spans_max: int, bytes_max: int) -> list[StoredSpan]:
        """The oldest usages, as many as fit; at least one if there is any."""
        connection = self._connection or self._open()
        rows = connection.execute(
            "SELECT seq, resource_spans, span FROM usage JOIN origin ON origin.id = usage.origin ORDER BY seq LIMIT ?",
            (spans_max,),
        )
        return list(_that_fit(map(StoredSpan._make, rows), bytes_max))

    def forget(self, count: int) -> int:
        """Delete the `count` oldest usages. Returns their bytes."""
        connection = self._connection or self._open()
        last, size = connection.execute(
            "SELECT max(seq), sum(length(span)) FROM (SELECT seq, span FROM usage ORDER BY seq LIMIT ?)", (count,)
        ).fetchone()
        connection.execute("DELETE FROM usage WHERE seq <= ?", (last,))
        self.written += 1
        return int(size)

    def write_points(self, points: Sequence[StoredPoint], gone: Sequence[int]) -> None:
        """Write points of the meters, in place of those of the same row, and delete the rows `gone`. Raises
        sqlite3.Error, and then nothing is changed."""
        _spool_points.write_points(self._connection or self._open(), points, gone)
        self.written += len(points) + 1

    def read_points(self, points_max: int) -> list[StoredPoint]:
        """The first points by row."""
        return _spool_points.read_points(self._connection or self._open(), points_max)

    def forget_points(self, count: int) -> None:
        """Delete the `count` first points."""
        _spool_points.forget_points(self._connection or self._open(), count)
        self.written += 1

    def checkpoint(self) -> None:
        """Move what is written to its place, and sync it. On a connection of its own, so that nobody waits for the
        disk meanwhile."""
        self.written = 0
        with self._second, contextlib.closing(sqlite3.connect(self.path, timeout=0.0)) as connection:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def before_fork(self) -> None:
        """SQLite forbids to carry a connection across a fork: there is none while the process forks."""
        self._second.acquire()
        self.disconnect()

    def after_fork_in_parent(self) -> None:
        """Go on; the next access connects again."""
        self._second.release()

    def after_fork_in_child(self) -> None:
        """The file is the parent's. Without this, its lock would be held until the child ends, too."""
        os.close(self._lock_fd)

    def disconnect(self) -> None:
        """Close the connection; the lock stays."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def release(self) -> None:
        """Let others have the file, as it is."""
        self.disconnect()
        os.close(self._lock_fd)

    def remove(self) -> None:
        """Delete the file: everything in it is settled."""
        self.disconnect()
        for end in ("", "-wal", "-shm"):
            Path(f"{self.path}{end}").unlink(missing_ok=True)
        _lock_path(self.path).unlink(missing_ok=True)
        os.close(self._lock_fd)

    def set_aside(self) -> Path:
        """Keep an unreadable file under another name, where nobody tries it again. Returns that."""
        self.disconnect()
        kept = self.path.with_suffix(f"{SUFFIX}.damaged")
        for end in ("", "-wal"):
            with contextlib.suppress(FileNotFoundError):
                os.rename(f"{self.path}{end}", f"{kept}{end}")
        self.remove()
        return kept


def _lock_path(path: Path) -> Path:
    return path.with_suffix(".lock")


def _that_fit(usages: Iterator[StoredSpan], bytes_max: int) -> Iterator[StoredSpan]:
    size_bytes = 0
    for usage in usages:
        size_bytes += len(usage.span)
        if size_bytes > bytes_max and size_bytes > len(usage.span):
            return
        yield usage
