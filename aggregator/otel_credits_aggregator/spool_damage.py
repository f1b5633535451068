"""A spool whose file is damaged or cut off: what can be read goes on into a new file, the old one is kept beside it.

SQLite sees a damaged structure, but neither a changed byte within a request nor a write-ahead log that has lost its end. So
each request has a checksum, and the id of the last acknowledged one is kept in a file of its own (:class:`Mark`).
"""

import contextlib
import logging
import os
import shutil
import sqlite3
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Self

__all__ = ["Damage", "Mark", "checksum", "set_aside_damage"]

logger = logging.getLogger(__name__)

# A gibibyte of requests is looked through in a few seconds; what a slower disk does not manage is used unseen.
_CHECK_S_MAX = 60.0
_INSTRUCTIONS_BETWEEN_LOOKS = 10_000
# Ids in a row that cannot be read, after which nothing older is looked for.
_UNREADABLE_MAX = 1_000_000
_WAL_HEADER_BYTES, _FRAME_HEADER_BYTES = 32, 24
_SMALL_TABLES = ("batches", "received", "inserted", "identity", "damages")


@dataclass(frozen=True)
class Damage:
    """What was set aside: files, and what of them could not be read.

    ``spans`` and ``points`` are those of requests that were counted as received; where the end of the file is gone, the
    counts went with it, and ``requests`` alone tells.
    """

    files: int = 0
    requests: int = 0
    spans: int = 0
    points: int = 0


class Mark:
    """The id of the last acknowledged request, written after each commit and before the senders are answered."""

    def __init__(self, spool: Path) -> None:
        self._file = os.open(_mark_path(spool), os.O_RDWR | os.O_CREAT, 0o600)

    def advance(self, connection: sqlite3.Connection) -> None:
        """Notes what is committed by now. A disk that refuses even that leaves the mark behind, never ahead."""
        with contextlib.suppress(OSError):
            os.pwrite(self._file, struct.pack("<q", _last_id(connection)), 0)

    def close(self) -> None:
        """Closes the file."""
        os.close(self._file)


def checksum(payload: bytes, binding: bytes) -> int:
    """Of a request and of what its sender may charge."""
    return zlib.crc32(binding, zlib.crc32(payload))


def set_aside_damage(path: Path, schema: str) -> Damage:
    """Checks a spool before it is opened; if it is damaged, replaces it by what of it can be read.

    Raises:
        OSError, sqlite3.OperationalError: the folder cannot be read or written; nothing was changed.
    """
    replacement = path.with_suffix(".salvaged")
    if not replacement.exists():
        if not path.exists():
            _mark_path(path).unlink(missing_ok=True)
            return Damage()
        reason = _fault(path)
        if reason is None:
            return Damage()
        logger.error("the spool is damaged (%s); what can be read of it is taken over", reason)
        _salvage(path, replacement, schema)
    # From here on, also after a crash: the old files step aside, then the new one takes their place.
    return _replace(path, replacement)


def _mark_path(spool: Path) -> Path:
    return spool.with_suffix(".mark")


def _marked_id(spool: Path) -> int:
    with contextlib.suppress(FileNotFoundError, struct.error):
        return int(struct.unpack("<q", _mark_path(spool).read_bytes())[0])
    return 0


def _last_id(connection: sqlite3.Connection) -> int:
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'requests'").fetchone()
    return int(row[0]) if row else 0


def _fault(path: Path) -> str | None:
    """What is wrong with the file; None if nothing is, as far as the time allows to look."""
    # Read-only, because closing a connection that may write would move the write-ahead log into the file.
    with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        deadline = time.monotonic() + _CHECK_S_MAX
        connection.set_progress_handler(lambda: time.monotonic() > deadline, _INSTRUCTIONS_BETWEEN_LOOKS)
        try:
            return _first_fault(connection, _marked_id(path))
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
                raise
            logger.warning("the spool is large: after %d s the rest of it is used without a check", _CHECK_S_MAX)
            return None
        except sqlite3.DatabaseError as error:
            return str(error)


def _first_fault(connection: sqlite3.Connection, marked: int) -> str | None:
    (state,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if state != "ok":
        return str(state)
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'requests'").fetchone():
        # Killed before the first request, a spool has no tables yet.
        return f"request {marked} was acknowledged and the file is empty" if marked else None
    if _last_id(connection) < marked:
        return f"request {marked} was acknowledged, and {_last_id(connection)} is the last one in it"
    for number, payload, binding, crc32 in connection.execute("SELECT id, payload, binding, crc32 FROM requests"):
        if checksum(payload, binding) != crc32:
            return f"request {number} has changed"
    return None


def _salvage(path: Path, replacement: Path, schema: str) -> None:
    """Writes what can be read of a damaged spool into a new file, complete and durable before it has its name."""
    copy, new = path.with_suffix(".copy"), path.with_suffix(".new")
    new.unlink(missing_ok=True)
    _copy_with_wal(path, copy)
    with contextlib.closing(sqlite3.connect(new, isolation_level=None)) as target:
        target.execute("PRAGMA page_size = 65536")
        target.execute("PRAGMA synchronous = FULL")
        target.executescript(schema)
        target.execute("BEGIN")
        with _Damaged(copy) as source:
            source.copy_into(target, _marked_id(path))
        target.execute("COMMIT")
    copy.unlink()
    new.rename(replacement)
    _sync_folder(path.parent)


def _copy_with_wal(path: Path, copy: Path) -> None:
    """The database as it would be with every whole page of its write-ahead log in it, damaged ones left out by their salt.

    SQLite itself stops at the first frame that is damaged, and everything behind that would be lost with it.
    """
    shutil.copyfile(path, copy)
    with copy.open("r+b") as file:
        with contextlib.suppress(FileNotFoundError), Path(f"{path}-wal").open("rb") as wal:
            for begin, page in _committed_pages(wal):
                file.seek(begin)
                file.write(page)
        # Bytes 18 and 19 say that there is a write-ahead log; in the copy there is none.
        file.seek(18)
        file.write(b"\1\1")


def _committed_pages(wal: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """(place in the database, content) of each page up to the last commit; what an earlier use of the log left is skipped."""
    header = wal.read(_WAL_HEADER_BYTES)
    page_bytes, salt = int.from_bytes(header[8:12], "big"), header[16:24]
    if len(header) < _WAL_HEADER_BYTES or page_bytes < 512:
        return
    pages: list[tuple[int, int]] = []
    committed = 0
    while len(frame := wal.read(_FRAME_HEADER_BYTES)) == _FRAME_HEADER_BYTES:
        if frame[8:16] == salt:
            pages.append((int.from_bytes(frame[:4], "big"), wal.tell()))
            # The last frame of a transaction has the size of the database.
            committed = len(pages) if any(frame[4:8]) else committed
        wal.seek(page_bytes, os.SEEK_CUR)
    for number, place in pages[:committed]:
        wal.seek(place)
        yield (number - 1) * page_bytes, wal.read(page_bytes)


class _Damaged:
    """A damaged database, read row by row; what cannot be read is left out."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        # Without it SQLite refuses a file that is shorter than its header says.
        self._connection.execute("PRAGMA writable_schema = ON")
        self._connection.row_factory = sqlite3.Row

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def copy_into(self, target: sqlite3.Connection, marked: int) -> None:
        """Copies all rows that can be read, and notes how much could not be."""
        for table in _SMALL_TABLES:
            for small in self._rows(f"SELECT * FROM {table}"):
                _insert(target, table, small)
        last = max(marked, self._last_id())
        behind = last - self._last_id()
        for row in map(self._request, self._ids(last)):
            if row is not None:
                _insert(target, "requests", row)
        # No id may come twice: a batch knows its requests by them.
        target.execute("DELETE FROM sqlite_sequence WHERE name = 'requests'")
        target.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('requests', ?)", (last,))
        _count_anew(target)
        (spans, of_spans), (points, of_points) = (_missing(target, signal) for signal in ("traces", "metrics"))
        target.execute("INSERT INTO damages VALUES ('', ?, ?, ?)", (behind + of_spans + of_points, spans, points))

    def _rows(self, sql: str) -> Iterator[sqlite3.Row]:
        with contextlib.suppress(sqlite3.DatabaseError):
            yield from self._connection.execute(sql)

    def _last_id(self) -> int:
        try:
            return _last_id(self._connection)
        except sqlite3.DatabaseError:
            return 0

    def _ids(self, last: int) -> Iterator[int]:
        """Ids that are there, newest first, and those of which nobody can say."""
        number, unreadable = last, 0
        while number > 0 and unreadable < _UNREADABLE_MAX:
            found = self._number("SELECT max(id) FROM requests WHERE id <= ?", number)
            if found == 0 and self._is_none_below(number):
                return
            # A page that is partly gone may say anything.
            if found is None or not 0 < found <= number:
                unreadable += 1
                found = number
            yield found
            number = found - 1

    def _is_none_below(self, number: int) -> bool:
        first = self._number("SELECT min(id) FROM requests WHERE id > ?", 0)
        return first is not None and (first == 0 or first >= number)

    def _number(self, sql: str, parameter: int) -> int | None:
        """The number that a query finds, 0 if it finds none, None if the pages it needs cannot be read."""
        try:
            return int(self._connection.execute(sql, (parameter,)).fetchone()[0] or 0)
        except (sqlite3.DatabaseError, ValueError):
            return None

    def _request(self, number: int) -> sqlite3.Row | None:
        try:
            row = self._connection.execute("SELECT * FROM requests WHERE id = ?", (number,)).fetchone()
        except sqlite3.DatabaseError:
            return None
        if row is None or not isinstance(row["payload"], bytes) or not isinstance(row["binding"], bytes):
            return None
        return row if checksum(row["payload"], row["binding"]) == row["crc32"] else None


def _insert(target: sqlite3.Connection, table: str, row: sqlite3.Row) -> None:
    names = ", ".join(row.keys())
    values: tuple[Any, ...] = tuple(row)
    # A row that the schema does not allow is damaged, too.
    with contextlib.suppress(sqlite3.DatabaseError):
        target.execute(f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(values))})", values)


def _count_anew(target: sqlite3.Connection) -> None:
    """Where the counts themselves cannot be read, they begin with what was taken over."""
    target.execute("INSERT OR IGNORE INTO received SELECT signal, count(*), sum(items) FROM requests GROUP BY signal")


def _missing(target: sqlite3.Connection, signal: str) -> tuple[int, int]:
    """(items, requests) that were received, are not in the store, and are not here either."""
    counts = [
        target.execute(f"SELECT total(items), {number} FROM {table} WHERE signal = ?", (signal,)).fetchone()
        for table, number in (
            ("received", "total(requests)"),
            ("inserted", "total(requests)"),
            ("requests", "count(*)"),
        )
    ]
    items, requests = (int(received - inserted - here) for received, inserted, here in zip(*counts, strict=True))
    return max(0, items), max(0, requests)


def _replace(path: Path, replacement: Path) -> Damage:
    moment = datetime.fromtimestamp(replacement.stat().st_mtime, UTC)
    kept = path.with_name(f"{path.stem}.damaged-{moment:%Y%m%dT%H%M%SZ}{path.suffix}")
    for ending in ("-wal", "-shm", ""):
        with contextlib.suppress(FileNotFoundError):
            Path(f"{path}{ending}").rename(f"{kept}{ending}")
    with contextlib.closing(sqlite3.connect(replacement)) as connection, connection:
        connection.execute("UPDATE damages SET file = ? WHERE file = ''", (kept.name,))
        row = connection.execute("SELECT requests, spans, points FROM damages WHERE file = ?", (kept.name,)).fetchone()
        (taken_over,) = connection.execute("SELECT count(*) FROM requests").fetchone()
    replacement.rename(path)
    _sync_folder(path.parent)
    damage = Damage(1, *row)
    logger.error(
        "the damaged spool is kept as %s: %d requests were taken over, %d (%d spans, %d data points) could not be read",
        kept.name,
        taken_over,
        *row,
    )
    return damage


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
