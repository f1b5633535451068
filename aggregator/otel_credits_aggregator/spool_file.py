"""The file of a spool: its tables, how it is opened, and how what stands in it is counted.

Large pages and a large write-ahead log, as the payloads are hundreds of kilobytes, and most are forgotten before they would be
copied into the main file.
"""

import contextlib
import fcntl
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from otel_credits_aggregator.otlp import Signal

__all__ = ["SCHEMA", "Batch", "Request", "connect", "count", "insert_batch", "lock_folder_of", "roll_back"]

SCHEMA = """
CREATE TABLE IF NOT EXISTS requests (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    signal TEXT NOT NULL,
    items INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    received_at_us INTEGER NOT NULL,
    crc32 INTEGER NOT NULL,
    payload BLOB NOT NULL,
    binding BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS batches (
    batch_id TEXT PRIMARY KEY,
    signal TEXT NOT NULL,
    first_id INTEGER NOT NULL,
    last_id INTEGER NOT NULL,
    fields BLOB NOT NULL,
    books TEXT NOT NULL,
    blocks TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS received (
    signal TEXT PRIMARY KEY,
    requests INTEGER NOT NULL,
    items INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS inserted (
    signal TEXT PRIMARY KEY,
    requests INTEGER NOT NULL,
    items INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS identity (receiver TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS damages (
    file TEXT PRIMARY KEY,
    requests INTEGER NOT NULL,
    spans INTEGER NOT NULL,
    points INTEGER NOT NULL
);
"""
# Blobs of hundreds of kilobytes: large pages mean few of them, and a larger WAL means that what is inserted and forgotten
# in between is never copied into the main file.
_PRAGMAS = (
    "PRAGMA page_size = 65536",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    # Debian compiles SQLite so that it writes zeros over what is deleted: half of all that a spool writes.
    "PRAGMA secure_delete = OFF",
    "PRAGMA wal_autocheckpoint = 4000",
)


class Request(NamedTuple):
    """A request as it was acknowledged."""

    payload: bytes
    received_at_us: int  # since 1970
    binding: bytes  # what its sender may charge, as fields of the envelope; empty: anything


@dataclass(frozen=True)
class Batch:
    """Requests that are inserted together: those of a signal from ``first_id`` to ``last_id``.

    `books` is what each attempt sees of prices and rules (:func:`books.books_now`); empty: all. `blocks` is where the
    tables stood before the first attempt (:mod:`window`); empty: nobody knows.
    """

    batch_id: str
    signal: Signal
    first_id: int
    last_id: int
    fields: bytes
    books: str = ""
    blocks: str = ""


def lock_folder_of(spool: Path) -> IO[bytes]:
    """Locks the folder of a spool for this process, until the file is closed or the process ends, however it ends.

    Raises:
        BlockingIOError: another process has it.
    """
    path = spool.with_suffix(".lock")
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise BlockingIOError(error.errno, "another otel-credits uses this folder", str(path)) from None
    return file


def connect(path: Path, cache_kib: int) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    for pragma in (*_PRAGMAS, f"PRAGMA cache_size = -{cache_kib}"):
        connection.execute(pragma)
    return connection


def count(connection: sqlite3.Connection, table: str, signal: Signal, requests: int, items: int) -> None:
    """Adds to what was received, or to what the store has of it."""
    connection.execute(
        f"INSERT INTO {table} VALUES (?, ?, ?) ON CONFLICT (signal) DO UPDATE "
        "SET requests = requests + excluded.requests, items = items + excluded.items",
        (signal.value, requests, items),
    )


def insert_batch(connection: sqlite3.Connection, batch: Batch) -> None:
    connection.execute(
        "INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?, ?)",
        (batch.batch_id, batch.signal.value, batch.first_id, batch.last_id, batch.fields, batch.books, batch.blocks),
    )


def roll_back(connection: sqlite3.Connection) -> None:
    # SQLite itself has rolled back after some failures, a full disk among them.
    if connection.in_transaction:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
