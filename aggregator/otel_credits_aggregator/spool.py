"""What was acknowledged and is not yet in the store, on disk.

An SQLite file in WAL mode with ``synchronous=FULL``: a request is durable when :meth:`Spool.append` returns. One thread writes;
what arrives while it commits is committed together next time, so that many senders share one fsync. The composition of each
insert (:class:`Batch`) is durable before the insert starts, so that after a crash the same bytes go out with the same token.
A spool belongs to one process: two that inserted the same requests at the same moment could both charge them.
"""

import logging
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Self

from otel_credits_aggregator.fault_points import passing
from otel_credits_aggregator.independence import Identities
from otel_credits_aggregator.otlp import Signal
from otel_credits_aggregator.outcomes import RequestTooLarge, SpoolFailed, SpoolFull, Stopping
from otel_credits_aggregator.spool_damage import Damage, Mark, checksum, set_aside_damage
from otel_credits_aggregator.spool_file import (
    SCHEMA,
    Batch,
    Request,
    connect,
    count,
    insert_batch,
    lock_folder_of,
    roll_back,
)
from otel_credits_aggregator.waiting import Queue, Waiting

__all__ = ["Batch", "Request", "Spool"]

logger = logging.getLogger(__name__)

# What is written in one commit should fit; what is read is read once.
_WRITER_CACHE_KIB, _READER_CACHE_KIB = 32768, 2048
_COMMIT_BYTES_MAX = 16 << 20
# The newest requests are kept in memory too, up to so many bytes, so that inserting them need not read them back.
_RECENT_BYTES_MAX = 24 << 20

_Write = Callable[[sqlite3.Connection], Any]


class Spool:
    """The durable queue between the receivers and the inserter. Methods may be called from any thread.

    Raises:
        BlockingIOError: another process has this spool open.
        sqlite3.Error: the file is no spool, or cannot be written.
    """

    def __init__(self, path: Path, bytes_max: int, retry_delay_s: float) -> None:
        self._lock_file = lock_folder_of(path)
        self._bytes_max = bytes_max
        self._retry_delay_s = retry_delay_s
        self._bytes = 0
        self._lock = threading.Lock()
        self._stopping = False
        self._failing = False
        self._writes: SimpleQueue[tuple[_Write, int, Future[Any]] | None] = SimpleQueue()
        # Before anything else opens the file: what is damaged is set aside, what can be read of it is taken over.
        self.damage = set_aside_damage(path, SCHEMA)
        self._mark = Mark(path)
        self._writer_connection = connect(path, _WRITER_CACHE_KIB)
        self._writer_connection.executescript(SCHEMA)
        self._reader = connect(path, _READER_CACHE_KIB)
        self._reading = threading.Lock()
        self._recent: dict[int, Request] = {}
        self._recent_bytes = 0
        self.receiver = self._identify()
        self.arrived = threading.Condition()
        self.waiting = Queue()
        self._load()
        self._writer = threading.Thread(target=self._write_forever, name="spool-writer", daemon=True)
        self._writer.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def bytes_waiting(self) -> int:
        """Bytes of all requests that are not yet in the store."""
        return self._bytes

    def append(
        self, signal: Signal, payload: bytes, items: int, binding: bytes = b"", identities: Identities = None
    ) -> "Future[int]":
        """Makes a request durable; the future has its id once it is. What identities it can bring is only remembered.

        Raises:
            SpoolFull: the limit in bytes is reached. (The future: SpoolFailed when the disk refuses.)
            RequestTooLarge: it will never fit.
            Stopping: the spool was closed.
        """
        self._reserve(len(payload))
        request = Request(payload, time.time_ns() // 1000, binding)
        row = (signal.value, items, len(payload), request.received_at_us, checksum(payload, binding), payload, binding)

        def write(connection: sqlite3.Connection) -> int:
            cursor = connection.execute(
                "INSERT INTO requests (signal, items, bytes, received_at_us, crc32, payload, binding) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                row,
            )
            count(connection, "received", signal, 1, items)
            return int(cursor.lastrowid or 0)

        future: Future[int] = _uncancellable()
        future.add_done_callback(lambda done: self._appended(done, signal, request, identities))
        self._submit(write, len(payload), future)
        return future

    def count(self, signal: Signal, items: int) -> None:
        """Counts items that are received and not kept (logs)."""
        self._now(lambda connection: count(connection, "received", signal, 1, items))

    def compose(self, batch: Batch) -> None:
        """Makes the composition of an insert durable, before it starts."""
        self._now(lambda connection: insert_batch(connection, batch))

    def split(self, batch: Batch, parts: Sequence[Batch]) -> None:
        """Replaces a batch by others with the same requests."""

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM batches WHERE batch_id = ?", (batch.batch_id,))
            for part in parts:
                insert_batch(connection, part)

        self._now(write)

    def forget(self, batch: Batch) -> None:
        """Drops a batch and its requests: the store has them."""

        def write(connection: sqlite3.Connection) -> int:
            where = (batch.signal.value, batch.first_id, batch.last_id)
            size, items, number = connection.execute(
                "SELECT coalesce(sum(bytes), 0), coalesce(sum(items), 0), count(*) FROM requests "
                "WHERE signal = ? AND id BETWEEN ? AND ?",
                where,
            ).fetchone()
            count(connection, "inserted", batch.signal, number, items)
            connection.execute("DELETE FROM requests WHERE signal = ? AND id BETWEEN ? AND ?", where)
            connection.execute("DELETE FROM batches WHERE batch_id = ?", (batch.batch_id,))
            return int(size)

        self._release(self._now(write))
        self._drop_recent(batch)

    def batches(self) -> list[Batch]:
        """Batches that were composed and not forgotten, oldest first."""
        found = self._read(
            "SELECT batch_id, signal, first_id, last_id, fields, books, blocks FROM batches ORDER BY first_id"
        )
        return [Batch(batch_id, Signal(signal), *others) for batch_id, signal, *others in found]

    def payloads(self, batch: Batch) -> list[Request]:
        """Each request of a batch, in order."""
        remembered = [self._recent.get(number) for number, _ in self.request_ids(batch)]
        if all(remembered):
            return [request for request in remembered if request]
        found = self._read(
            "SELECT payload, received_at_us, binding FROM requests WHERE signal = ? AND id BETWEEN ? AND ? ORDER BY id",
            (batch.signal.value, batch.first_id, batch.last_id),
        )
        return [Request(*row) for row in found]

    def request_ids(self, batch: Batch) -> list[tuple[int, int]]:
        """(id, items) of each request of a batch, in order."""
        return self._read(
            "SELECT id, items FROM requests WHERE signal = ? AND id BETWEEN ? AND ? ORDER BY id",
            (batch.signal.value, batch.first_id, batch.last_id),
        )

    def received(self) -> dict[Signal, int]:
        """Items acknowledged since the spool exists, by signal."""
        return {Signal(signal): items for signal, items in self._read("SELECT signal, items FROM received")}

    def damages(self) -> Damage:
        """All that was damaged since the spool exists."""
        (found,) = self._read("SELECT count(*), total(requests), total(spans), total(points) FROM damages")
        return Damage(*map(int, found))

    def is_empty(self) -> bool:
        """Whether the store has everything that was acknowledged."""
        return not self._read("SELECT 1 FROM requests LIMIT 1")

    def close(self) -> None:
        """Finishes what is being written and closes the file."""
        with self._lock:
            if self._stopping:
                return
            self._stopping = True
        self._writes.put(None)
        self._writer.join()
        self._writer_connection.close()
        with self._reading:
            self._reader.close()
        self._mark.close()
        self._lock_file.close()

    def _identify(self) -> str:
        row = self._writer_connection.execute("SELECT receiver FROM identity").fetchone()
        if row is None:
            row = (str(uuid.uuid4()),)
            self._writer_connection.execute("INSERT INTO identity VALUES (?)", row)
        return str(row[0])

    def _load(self) -> None:
        """Takes up what an earlier process left."""
        composed = {(batch.signal, number) for batch in self.batches() for number, _ in self.request_ids(batch)}
        for number, signal, size in self._read("SELECT id, signal, bytes FROM requests ORDER BY id"):
            self._bytes += size
            if (Signal(signal), number) not in composed:
                self.waiting.append(Waiting(number, Signal(signal), size, time.monotonic()))

    def _reserve(self, size: int) -> None:
        if size > self._bytes_max:
            raise RequestTooLarge(f"the request has {size} bytes, the whole spool has {self._bytes_max}")
        with self._lock:
            if self._bytes + size > self._bytes_max:
                raise SpoolFull(
                    f"{self._bytes} bytes wait for the store, the limit is {self._bytes_max} (OTEL_CREDITS_SPOOL_BYTES_MAX)",
                    self._retry_delay_s,
                )
            self._bytes += size

    def _release(self, size: int) -> None:
        with self._lock:
            self._bytes -= size

    def _appended(self, done: "Future[int]", signal: Signal, request: Request, identities: Identities) -> None:
        size = len(request.payload)
        if done.exception() is not None:
            self._release(size)
            return
        with self.arrived:
            self.waiting.append(Waiting(done.result(), signal, size, time.monotonic(), identities))
            if self._recent_bytes + size <= _RECENT_BYTES_MAX:
                self._recent[done.result()] = request
                self._recent_bytes += size
            self.arrived.notify()

    def _drop_recent(self, batch: Batch) -> None:
        with self.arrived:
            for number in [number for number in self._recent if batch.first_id <= number <= batch.last_id]:
                self._recent_bytes -= len(self._recent.pop(number).payload)

    def _submit(self, write: _Write, size: int, future: "Future[Any]") -> None:
        with self._lock:
            if not self._stopping:
                self._writes.put((write, size, future))
                return
        future.set_exception(Stopping("the aggregator is stopping", self._retry_delay_s))

    def _now(self, write: _Write) -> Any:
        future: Future[Any] = _uncancellable()
        self._submit(write, 0, future)
        return future.result()

    def _read(self, sql: str, parameters: tuple[Any, ...] = ()) -> list[Any]:
        with self._reading:
            return self._reader.execute(sql, parameters).fetchall()

    def _write_forever(self) -> None:
        while (first := self._writes.get()) is not None:
            group = [first]
            size = first[1]
            stop = False
            while size < _COMMIT_BYTES_MAX and not self._writes.empty():
                following = self._writes.get()
                if following is None:
                    stop = True
                    break
                group.append(following)
                size += following[1]
            self._commit(group)
            if stop:
                return

    def _commit(self, group: list[tuple[_Write, int, "Future[Any]"]]) -> None:
        connection = self._writer_connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            results = [write(connection) for write, _, _ in group]
            passing("spool_uncommitted")
            connection.execute("COMMIT")
            self._mark.advance(connection)
            passing("spool_committed")
        except Exception as error:
            # Whatever it is, the writer goes on: a thread that ended here would leave every sender waiting for ever.
            roll_back(connection)
            self._fail(group, error)
            return
        if self._failing:
            logger.info("the spool can be written again")
            self._failing = False
        for (_, _, future), result in zip(group, results, strict=True):
            future.set_result(result)

    def _fail(self, group: list[tuple[_Write, int, "Future[Any]"]], error: Exception) -> None:
        if not self._failing:
            logger.error("the spool cannot be written, senders are told to try again: %s", error)
            self._failing = True
        refusal = SpoolFailed(f"the spool could not be written: {error}", self._retry_delay_s)
        for _, _, future in group:
            future.set_exception(refusal)


def _uncancellable() -> "Future[Any]":
    """A future that whoever waits for it may abandon, but not cancel: the writer answers each one."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    return future
