"""The queue on disk, and the files that dead processes left behind (`OTEL_CREDITS_SPOOL_DIR`).

It takes the place of the queue in memory: a usage is written to this process's file in the tracking call, under a lock
(the one exception to "no lock in the caller's path"), and is deleted when it is acknowledged. What waits takes no
memory and outlives the process.

If the disk takes no more, usages wait in memory as without a spool, behind those on disk, until all of those in memory
are settled. So their order is kept, and a broken disk costs the safety, not the usage.
"""

from __future__ import annotations

import logging
import sqlite3
import time
import uuid
from collections.abc import MutableMapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan

from otel_credits._encoding import encoded_span
from otel_credits._guard import say_once
from otel_credits._queue import UsageQueue
from otel_credits._spool import SUFFIX, SpoolFile, StoredSpan
from otel_credits._spool_points import StoredPoint
from otel_credits._usage import KeptSpan

logger = logging.getLogger("otel_credits")

_CHECKPOINT_AFTER_WRITES = 1000
_LOOK_FOR_LEFT_FILES_EVERY_S = 5.0


class SpoolQueue(UsageQueue):
    """Usages that wait on disk.

    Args:
        folder: where the files of all processes of the app are.
        spool_bytes_max: bound of the spans in this process's file.
        spans_max, bytes_max: bounds of what waits in memory when the disk takes no more.
    """

    def __init__(self, folder: Path, *, spool_bytes_max: int, spans_max: int, bytes_max: int) -> None:
        super().__init__(spans_max=spans_max, bytes_max=bytes_max)
        self.folder = folder
        self.spool_bytes_max = spool_bytes_max
        self._start_without_files()

    def _start_without_files(self) -> None:
        self._file: SpoolFile | None = None
        self._on_disk = 0
        self._on_disk_bytes = 0
        self._batch_is_from_disk = False
        # The rows of what meters counted.
        self._point_rows: set[int] = set()
        # A file of a dead process, which is ours now.
        self._left: SpoolFile | None = None
        self._left_usages = 0
        self._look_at = 0.0

    def put(self, span: ReadableSpan | KeptSpan, attributes: MutableMapping[str, Any]) -> int:
        try:
            data = encoded_span(span).SerializeToString()
        except Exception:  # it is refused where it is sent, as without a spool
            data = b""
        with self.state:
            if self.closed or self._on_disk_bytes + len(data) > self.spool_bytes_max:
                return 0
            if (data and not super()._waiting() and self._write(span, data)) or super().put(span, attributes):
                return self._waiting()
            return 0

    def _write(self, span: ReadableSpan | KeptSpan, data: bytes) -> bool:
        number = next(self._numbers)
        try:
            self._own_file().append(number, span, data)
        except (sqlite3.Error, OSError) as error:
            self._numbers = count(number)
            _say_in_memory(error)
            return False
        self._on_disk += 1
        self._on_disk_bytes += len(data)
        return True

    def _own_file(self) -> SpoolFile:
        if self._file is None:
            self._file = SpoolFile.create(self.folder, uuid.uuid4().hex)
        return self._file

    @property
    def keeps_points(self) -> bool:
        return True

    def write_points(self, points: Sequence[StoredPoint], gone: Sequence[int]) -> bool:
        with self.state:
            try:
                file = self._own_file()
                file.write_points(points, gone)
            except (sqlite3.Error, OSError) as error:
                _say_in_memory(error)
                return False
            self._point_rows.update(point.row for point in points)
            self._point_rows.difference_update(gone)
        if file.written >= _CHECKPOINT_AFTER_WRITES:
            file.checkpoint()
        return True

    def inbox_length(self) -> int:
        return self._waiting()

    def _waiting(self) -> int:
        return self._on_disk + super()._waiting()

    def batch(self, spans_max: int, bytes_max: int) -> Sequence[ReadableSpan | KeptSpan | StoredSpan]:
        with self.state:
            self._batch_is_from_disk = self._on_disk > 0
            if self._batch_is_from_disk and self._file is not None:
                return self._file.read(spans_max, bytes_max)
            return super().batch(spans_max, bytes_max)

    def settle(self, count: int, failed: int, reason: str) -> None:
        with self.state:
            file = self._file
            if not self._batch_is_from_disk or file is None:
                super().settle(count, failed, reason)
                return
            self._on_disk_bytes -= file.forget(count)
            self._on_disk -= count
            self._count_settled(count, failed, reason)
        if file.written >= _CHECKPOINT_AFTER_WRITES:
            file.checkpoint()

    def give_up_waiting(self, reason: str) -> int:
        with self.state:
            self._batch_is_from_disk = False
            return super().give_up_waiting(reason)

    def left_batch(self, spans_max: int, bytes_max: int) -> Sequence[StoredSpan]:
        with self.state:
            while self._left is not None or self._claim_left():
                usages = self._read_left(spans_max, bytes_max)
                if usages or self._left is not None:  # after the usages come the points
                    return usages
            return ()

    def left_points(self, points_max: int) -> Sequence[StoredPoint]:
        with self.state:
            if self._left is None:
                return ()
            try:
                return self._left.read_points(points_max)
            except sqlite3.DatabaseError as error:
                file, self._left, self._left_usages = self._left, None, 0
                self._put_away(file, error)
                return ()

    def _claim_left(self) -> bool:
        """Look for a file that nobody holds. Under the lock, so that no fork copies a lock file that is not known."""
        if time.monotonic() < self._look_at:
            return False
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            if self._file is None or path != self._file.path:
                self._left = SpoolFile.claim(path)
                if self._left is not None:
                    return True
        self._look_at = time.monotonic() + _LOOK_FOR_LEFT_FILES_EVERY_S
        return False

    def _read_left(self, spans_max: int, bytes_max: int) -> Sequence[StoredSpan]:
        """The next usages of the left file; empty when there are none. Without points the file is gone then."""
        file = self._left
        if file is None:
            return ()
        try:
            usages = file.read(spans_max, bytes_max)
            points = () if usages else file.read_points(1)
        except sqlite3.DatabaseError as error:
            self._left, self._left_usages = None, 0
            self._put_away(file, error)
            return ()
        if not usages and not points:
            logger.info("credits: %d usages that a process left behind were sent", self._left_usages)
            self._left, self._left_usages = None, 0
            file.remove()
        return usages

    def _put_away(self, file: SpoolFile, error: sqlite3.DatabaseError) -> None:
        if type(error) is sqlite3.DatabaseError:  # malformed, or no database at all
            logger.error("credits: usage in %s cannot be read and is NOT charged: %s", file.set_aside(), error)
        else:  # the disk, not the file
            self._look_at = time.monotonic() + _LOOK_FOR_LEFT_FILES_EVERY_S
            logger.warning("credits: %s cannot be read now: %s", file.path, error)
            file.release()

    def settle_left(self, count: int) -> None:
        with self.state:
            if self._left is not None:
                self._left.forget(count)
                self._left_usages += count

    def settle_left_points(self, count: int) -> None:
        with self.state:
            if self._left is not None:
                self._left.forget_points(count)
                self._left_usages += count

    def end(self) -> int:
        with self.state:
            if self._left is not None:
                self._left.release()
                self._left = None
            left = self._on_disk + len(self._point_rows)
            if self._file is not None and left:
                self._file.disconnect()
            elif self._file is not None:
                self._file.remove()
                self._file = None
            return left

    def before_fork(self) -> None:
        self.state.acquire()
        for file in self._files():
            file.before_fork()

    def after_fork_in_parent(self) -> None:
        for file in self._files():
            file.after_fork_in_parent()
        self.state.release()

    def _files(self) -> list[SpoolFile]:
        return [file for file in (self._file, self._left) if file is not None]

    def _start_empty(self) -> None:
        for file in self._files():
            file.after_fork_in_child()
        super()._start_empty()
        self._start_without_files()


def _say_in_memory(error: Exception) -> None:
    say_once("spool", logging.ERROR, "credits: usage is kept in memory only, as it cannot be spooled: %s", error)
