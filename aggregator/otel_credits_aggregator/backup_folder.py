"""What a backup looks like on disk: a folder with the parts of each table, the spool, and a manifest that names every file.

manifest.json                       every file with its size and SHA-256
spool.sqlite                        what was acknowledged and not yet in the store; left out where there was no spool
tokens.json                         the tokens, as hashes; left out where there were none
store/TABLE/PART/...                the parts of each table, as ClickHouse wrote them
"""

import hashlib
import os
import stat
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ValidationError

__all__ = [
    "MANIFEST",
    "SPOOL",
    "STORE",
    "TOKENS",
    "CopiedFile",
    "DamagedBackupError",
    "Manifest",
    "copy_file",
    "copy_folder",
    "listed",
]

MANIFEST = "manifest.json"
SPOOL = "spool.sqlite"
STORE = "store"
TOKENS = "tokens.json"
_FORMAT = 1
_MODE_MAX = 0o666  # a file that only its owner may read stays so
_CHUNK_BYTES = 1 << 20


class DamagedBackupError(Exception):
    """The folder is no backup, or is not as it was when it was taken; the message says what is wrong."""


class CopiedFile(BaseModel):
    """A file of a backup; its path is relative to the backup."""

    path: str
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """All that a backup consists of. It is written last."""

    format: int = _FORMAT
    taken_at: datetime
    migration: int  # the last one that was applied to the store
    files: list[CopiedFile]

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(file.bytes for file in self.files)

    def write(self, folder: Path) -> None:
        """Makes it durable in a backup's folder."""
        with (folder / MANIFEST).open("w", encoding="utf-8") as file:
            file.write(self.model_dump_json(indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Of a backup. Raises DamagedBackupError."""
        try:
            found = cls.model_validate_json((folder / MANIFEST).read_bytes())
        except OSError as error:
            raise DamagedBackupError(f"{folder} is no backup: {MANIFEST} cannot be read ({error.strerror})") from error
        except ValidationError as error:
            raise DamagedBackupError(
                f"{folder} is no backup, or is damaged: {MANIFEST} is not as it should be"
            ) from error
        if found.format != _FORMAT:
            raise DamagedBackupError(f"{folder} was written by another version of otel-credits (format {found.format})")
        return found


def copy_folder(source: Path, target: Path, root: Path) -> list[CopiedFile]:
    """Copies all files below a folder, durably; their paths are told relative to `root`."""
    files = (path for path in sorted(source.rglob("*")) if path.is_file())
    return [copy_file(path, target / path.relative_to(source), root) for path in files]


def copy_file(source: Path, target: Path, root: Path) -> CopiedFile:
    """Copies a file, durably, and folders above it, readable by no more than it was; its path is told relative to `root`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.touch(stat.S_IMODE(source.stat().st_mode) & _MODE_MAX, exist_ok=False)
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as reader, target.open("wb") as writer:
        while chunk := reader.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += writer.write(chunk)
        writer.flush()
        os.fsync(writer.fileno())
    return CopiedFile(path=str(target.relative_to(root)), bytes=size, sha256=digest.hexdigest())


def listed(path: Path, root: Path) -> CopiedFile:
    """A file that is in a backup already, as its manifest names it."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    return CopiedFile(path=str(path.relative_to(root)), bytes=path.stat().st_size, sha256=digest.hexdigest())
