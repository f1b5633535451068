"""Makes an embedded store and its spool of a backup, in a new data folder.

The tables are made by the migrations that the backed-up store had, and the parts of the backup are attached to them: attaching
fires no views, so nothing is added to a total again.
"""

import os
import shutil
from contextlib import closing
from pathlib import Path

from otel_credits_aggregator.backup_folder import (
    MANIFEST,
    SPOOL,
    STORE,
    TOKENS,
    CopiedFile,
    DamagedBackupError,
    Manifest,
    copy_file,
)
from otel_credits_aggregator.migrations import migrate
from otel_credits_aggregator.spool_file import lock_folder_of
from otel_credits_aggregator.store import Client, connect, rows

__all__ = ["FolderInUseError", "restore"]

_UNFINISHED = "restore-unfinished"
# What may be in the folder without being somebody's ledger.
_HARMLESS = frozenset({_UNFINISHED, "lost+found", "spool.lock", TOKENS})


class FolderInUseError(Exception):
    """The folder has something in it already."""


def restore(backup: Path, data_dir: Path) -> Manifest:
    """Restores a backup into a data folder without a ledger, and returns what was restored.

    Store, spool and tokens appear in the folder only when all are whole; tokens that are there already stay.
    A restore that was cut off can be made again.

    Raises:
        DamagedBackupError: it is no backup, or a file of it is missing or changed.
        FolderInUseError: the folder has a store, a spool or something else in it.
        MigrationError: the backup is of a newer version.
        BlockingIOError: a server runs in the folder. (OSError: a disk refuses.)
    """
    manifest = Manifest.read(backup)
    _check_empty(data_dir)
    data_dir.mkdir(parents=True, exist_ok=True)
    with closing(lock_folder_of(data_dir / SPOOL)):
        _check_empty(data_dir)
        work = data_dir / _UNFINISHED
        shutil.rmtree(work, ignore_errors=True)
        try:
            work.mkdir()
            _restore(manifest, backup, work.resolve())
            os.sync()
            # Tokens first, so that nothing is ever open that was not; those that are there already are meant.
            for path in (work / TOKENS, work / SPOOL, work / STORE):
                if path.exists() and not (data_dir / path.name).exists():
                    path.rename(data_dir / path.name)
            os.sync()
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return manifest


def _check_empty(data_dir: Path) -> None:
    if data_dir.exists() and not data_dir.is_dir():
        raise FolderInUseError(f"{data_dir} is no folder")
    found = sorted({path.name for path in data_dir.glob("*")} - _HARMLESS)
    if found:
        raise FolderInUseError(
            f"{data_dir} is not empty ({', '.join(found[:5])}): name a new folder in OTEL_CREDITS_DATA_DIR"
        )


def _restore(manifest: Manifest, backup: Path, work: Path) -> None:
    with connect(f"chdb://{work / STORE}") as client:
        migrate(client, last=manifest.migration)
        paths = _empty_tables(client)
        parts = set()
        for file in manifest.files:
            if file.path in (SPOOL, TOKENS):
                _copy_checked(file, backup, work / file.path)
                continue
            table, part, within = _place(file)
            if table not in paths:
                raise DamagedBackupError(f"{backup} has a table {table} that its migrations do not make")
            _copy_checked(file, backup, paths[table] / "detached" / part / within)
            parts.add((table, part))
        for table, part in sorted(parts):
            client.command(f"ALTER TABLE {table} ATTACH PART '{part}'")
        # Compares the checksums of the migrations, and applies those that are newer than the backup.
        migrate(client)


def _empty_tables(client: Client) -> dict[str, Path]:
    """The folder of each table, emptied of what the migrations put in: the backup has that, too."""
    tables = rows(
        client,
        "SELECT name, data_paths[1] AS path FROM system.tables "
        "WHERE database = currentDatabase() AND engine LIKE '%MergeTree'",
    )
    for table in tables:
        client.command(f"TRUNCATE TABLE {table['name']}")
    return {table["name"]: Path(table["path"]) for table in tables}


def _place(file: CopiedFile) -> tuple[str, str, Path]:
    """Table, part, and path within the part."""
    store, *names = Path(file.path).parts
    if store != STORE or len(names) < 3 or ".." in names or not names[1].replace("_", "").isalnum():
        raise DamagedBackupError(f"{MANIFEST} names {file.path!r}, which is no file of a backup")
    return names[0], names[1], Path(*names[2:])


def _copy_checked(file: CopiedFile, backup: Path, target: Path) -> None:
    try:
        copied = copy_file(backup / file.path, target, target.parent)
    except FileNotFoundError as error:
        raise DamagedBackupError(f"the backup is damaged: {backup / file.path} is missing") from error
    if (copied.bytes, copied.sha256) != (file.bytes, file.sha256):
        raise DamagedBackupError(f"the backup is damaged: {backup / file.path} is not as it was written")
