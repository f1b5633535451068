"""`backup`, `restore`."""

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from otel_credits_aggregator.cli._errors import CommandError
from otel_credits_aggregator.cli._ledger import open_ledger
from otel_credits_aggregator.cli._settings import load_settings
from otel_credits_aggregator.ledger import NewBackup

__all__ = ["add_to"]

_MEGABYTE = 1_000_000
BackupPath = Annotated[Path, typer.Argument(metavar="PATH", help="The backup's folder.")]


def backup(path: BackupPath) -> None:
    """Copy an embedded store and its spool, also while the server runs, into a new folder on the server's machine."""
    with closing(open_ledger()) as ledger:
        taken = ledger.backup(NewBackup(path=str(path.absolute())))
    print(f"backed up as of {taken.taken_at:%Y-%m-%d %H:%M:%S} UTC: {taken.path} ({_size(taken.files, taken.bytes)})")


def restore(path: BackupPath) -> None:
    """Make the store and the spool of a backup in OTEL_CREDITS_DATA_DIR, which must be new or empty."""
    from otel_credits_aggregator.backup_folder import DamagedBackupError
    from otel_credits_aggregator.restore import FolderInUseError
    from otel_credits_aggregator.restore import restore as restore_into

    settings = load_settings()
    if settings.store:
        raise CommandError("a backup is restored into OTEL_CREDITS_DATA_DIR: unset OTEL_CREDITS_STORE")
    try:
        done = restore_into(path, settings.data_dir)
    except (DamagedBackupError, FolderInUseError) as error:
        raise CommandError(str(error)) from error
    print(
        f"restored into {settings.data_dir} as of {done.taken_at:%Y-%m-%d %H:%M:%S} UTC "
        f"({_size(len(done.files), done.bytes)}); next: otel-credits reconcile, otel-credits serve"
    )


def _size(files: int, size: int) -> str:
    return f"{files} files, {size / _MEGABYTE:.1f} MB"


def add_to(app: typer.Typer) -> None:
    """Adds these commands."""
    app.command(epilog="Example: otel-credits backup /mnt/backups/2026-11-24")(backup)
    app.command(epilog="Example: OTEL_CREDITS_DATA_DIR=new-folder otel-credits restore /mnt/backups/2026-11-24")(
        restore
    )
