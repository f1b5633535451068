"""Copying the embedded store and its spool while both are in use.

Between two batches the store is frozen (ClickHouse makes hard links to its parts, which never change) and the spool's state is
held by a read transaction. The copying comes afterwards, while inserting goes on. No batch is under way at that moment, so what
waits in the copied spool has reached no table, and all of a batch is in the copied parts, also the ids by which its usages are
known again.
"""

import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from uuid import uuid4

from otel_credits_aggregator.backup_folder import (
    SPOOL,
    STORE,
    TOKENS,
    CopiedFile,
    Manifest,
    copy_file,
    copy_folder,
    listed,
)
from otel_credits_aggregator.ledger._grants import Grants
from otel_credits_aggregator.ledger._server import Server, undisturbed
from otel_credits_aggregator.ledger._store import store_errors
from otel_credits_aggregator.ledger.errors import InvalidRequestError, LedgerError
from otel_credits_aggregator.ledger.models import Backup
from otel_credits_aggregator.settings import Settings
from otel_credits_aggregator.store import Client, connect, embedded_path, rows

__all__ = ["Backups"]

# Letters, digits and _ only: ClickHouse escapes anything else in the folder's name.
_FROZEN = "otel_credits_backup_"
# What a rebuild was making when it was cut off is nobody's total.
_STORE = """
SELECT (SELECT path FROM system.disks WHERE name = 'default') AS root, max(version) AS migration FROM schema_migrations
"""
_NAME_BYTES_MAX = 200
_TABLES = """
SELECT name, data_paths[1] AS path FROM system.tables
WHERE database = currentDatabase() AND engine LIKE '%MergeTree' AND name NOT LIKE '%\\_rebuilt'
"""


@dataclass(frozen=True)
class _Moment:
    """The state of store and spool at one moment."""

    taken_at: datetime
    migration: int
    shadow: Path  # holds all that is frozen
    frozen: dict[str, Path]  # the folder of each table's parts
    spool: sqlite3.Connection | None  # in a read transaction


class Backups:
    """Takes backups of an embedded store, one at a time.

    Args:
        dsn: the store.
        settings: name the folder of the spool; None: those of the environment.
        grants: no grant is under way in a backup.
        server: the running server around the store, if there is one.
    """

    def __init__(self, dsn: str, settings: Settings | None, grants: Grants, server: Server | None) -> None:
        self._dsn = dsn
        self._settings = settings
        self._grants = grants
        self._server = server
        self._one_at_a_time = threading.Lock()

    def take(self, path: Path) -> Backup:
        """See `Ledger.backup`."""
        store = embedded_path(self._dsn)
        if store is None:
            raise LedgerError("only an embedded store on disk is backed up; for a server, use ClickHouse's own BACKUP")
        settings = self._settings or Settings()
        data_dir = settings.data_dir
        with self._one_at_a_time:
            try:
                _check_target(path, store.resolve(), data_dir.resolve())
                return self._take(path, store, data_dir / SPOOL, settings.tokens_path)
            except (OSError, sqlite3.Error) as error:
                raise LedgerError(f"the backup could not be made: {error}") from error

    def _take(self, path: Path, store: Path, spool: Path, tokens: Path) -> Backup:
        shadow = store / "shadow"
        for left in shadow.glob(f"{_FROZEN}*"):  # by a server that was killed meanwhile
            shutil.rmtree(left)
        name = f"{_FROZEN}{uuid4().hex}"
        unfinished = path.with_name(f"{path.name}.unfinished-{uuid4().hex}")
        try:
            unfinished.mkdir()
            with self._moment(spool, name) as moment:
                manifest = _copy(moment, unfinished, tokens)
            manifest.write(unfinished)
            unfinished.rename(path)
            _sync_folder(path.parent)
        finally:
            shutil.rmtree(shadow / name, ignore_errors=True)
            shutil.rmtree(unfinished, ignore_errors=True)
        return Backup(path=str(path), taken_at=manifest.taken_at, files=len(manifest.files), bytes=manifest.bytes)

    @contextmanager
    def _moment(self, spool_path: Path, name: str) -> Iterator[_Moment]:
        spool = _open_spool(spool_path)
        with closing(spool) if spool else nullcontext():
            hold = partial(_hold, spool=spool, name=name)
            if self._server is not None:
                yield undisturbed(self._server, self._grants.lock, hold)
                return
            with store_errors(), connect(self._dsn) as client:
                moment = hold(client)
            yield moment


def _open_spool(path: Path) -> sqlite3.Connection | None:
    """None for a store that no server has used yet."""
    if not path.exists():
        return None
    # Read-only, so that closing it changes nothing in the file of the server.
    uri = f"{path.absolute().as_uri()}?mode=ro"
    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)


def _hold(client: Client, spool: sqlite3.Connection | None, name: str) -> _Moment:
    if spool is not None:
        spool.execute("BEGIN")
        # Only a read gives the transaction its state.
        if spool.execute("SELECT count(*) FROM batches").fetchone() != (0,):
            raise LedgerError("a batch was cut off in the middle: start `otel-credits serve`, which finishes it, first")
    (store,) = rows(client, _STORE)
    root = Path(store["root"])
    shadow, frozen = root / "shadow" / name, {}
    for table in rows(client, _TABLES):
        client.command(f"ALTER TABLE {table['name']} FREEZE WITH NAME '{name}'")
        frozen[table["name"]] = shadow / Path(table["path"]).relative_to(root)
    return _Moment(datetime.now(UTC), int(store["migration"]), shadow, frozen, spool)


def _copy(moment: _Moment, target: Path, tokens: Path) -> Manifest:
    files: list[CopiedFile] = []
    for table, folder in moment.frozen.items():
        files += copy_folder(folder, target / STORE / table, target)
    frozen = sum(path.is_file() for path in moment.shadow.rglob("*"))
    if not 0 < frozen == len(files):
        raise LedgerError(f"ClickHouse froze {frozen} files and {len(files)} were found: this is a fault to report")
    if moment.spool is not None:
        files.append(_copy_spool(moment.spool, target))
    # A change replaces the file in one step, so that what is copied is whole.
    if tokens.exists():
        files.append(copy_file(tokens, target / TOKENS, target))
    return Manifest(taken_at=moment.taken_at, migration=moment.migration, files=files)


def _copy_spool(spool: sqlite3.Connection, target: Path) -> CopiedFile:
    with closing(sqlite3.connect(target / SPOOL)) as copy:
        spool.backup(copy)
    return listed(target / SPOOL, target)


def _check_target(path: Path, *ours: Path) -> None:
    if not path.is_absolute() or "\0" in str(path):
        raise InvalidRequestError(f"the path of a backup is absolute, {str(path)!r} is not")
    # Room for what is added to the name while the backup is made.
    if len(os.fsencode(path.name)) > _NAME_BYTES_MAX:
        raise InvalidRequestError(f"the name of a backup's folder has at most {_NAME_BYTES_MAX} bytes")
    if path.exists() or path.is_symlink():
        raise InvalidRequestError(f"{path} exists already: a backup makes a new folder")
    if not path.parent.is_dir():
        raise InvalidRequestError(f"there is no folder {path.parent} on the server's machine")
    for folder in ours:
        if path.parent.resolve().is_relative_to(folder):
            raise InvalidRequestError(f"{path} is in the data folder: a backup belongs outside of it")


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
