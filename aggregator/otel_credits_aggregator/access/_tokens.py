"""Tokens, and the file that keeps them: one JSON document with a hash of each, never the token itself.

A token is 256 bits of the operating system's randomness, made here and never chosen by a person, so nobody can guess it and
a plain SHA-256 of it tells nothing; the slow hashes that passwords need would only slow down every request.
"""

import contextlib
import fcntl
import hashlib
import os
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from otel_credits_aggregator.ledger.fields import Name, UserId, Utc

__all__ = ["Role", "Token", "TokensFileError", "add_token", "hashed", "read_tokens", "revoke_token"]

_SECRET_BYTES = 32
# Each request carries its token's lists through the spool into the store.
_ALLOWED_MAX = 64
_MODE = 0o600


class TokensFileError(OSError):
    """The file with the tokens cannot be read, or is not one; the message says what is wrong."""


class Role(StrEnum):
    """What a token is for. `admin` may do all that `read` may."""

    INGEST = "ingest"
    READ = "read"
    ADMIN = "admin"


class Token(BaseModel):
    """A token as it is kept: what it may do, and the hash that it is known by."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    role: Role
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$", repr=False)]
    user_id: UserId | None = None
    services: Annotated[tuple[Name, ...], Field(max_length=_ALLOWED_MAX)] = ()
    action_types: Annotated[tuple[Name, ...], Field(max_length=_ALLOWED_MAX)] = ()
    created_at: Utc

    @model_validator(mode="after")
    def _bound_as_its_role_can_be(self) -> Self:
        if self.user_id is not None and self.role is not Role.READ:
            raise ValueError("only a read token can be bound to a user")
        if (self.services or self.action_types) and self.role is not Role.INGEST:
            raise ValueError("only an ingest token can be bound to services or action types")
        return self


class _TokensFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    tokens: tuple[Token, ...]

    @field_validator("tokens")
    @classmethod
    def _told_apart(cls, value: tuple[Token, ...]) -> tuple[Token, ...]:
        for what in ("name", "sha256"):
            if len({getattr(token, what) for token in value}) != len(value):
                raise ValueError(f"two tokens have the same {what}")
        return value


def hashed(secret: str) -> str:
    """What a token is known by: the hex SHA-256 of its text."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def read_tokens(path: Path) -> tuple[Token, ...]:
    """The tokens in a file.

    Raises:
        FileNotFoundError: there is no such file.
        TokensFileError: it cannot be read, or is not a file of tokens.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise TokensFileError(f"the tokens in {path} cannot be read: {error.strerror}") from error
    try:
        return _TokensFile.model_validate_json(text).tokens
    except ValidationError as error:
        # Only where and what: pydantic's own text would repeat what is in the file.
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise TokensFileError(f"{path} is not a file of tokens: {faults}") from None


def add_token(
    path: Path,
    name: str,
    role: Role,
    *,
    user_id: str | None = None,
    services: Sequence[str] = (),
    action_types: Sequence[str] = (),
) -> tuple[Token, str]:
    """Makes a token, adds it to the file, which is made if missing, and returns it with its text, which is kept nowhere.

    Raises:
        ValueError: there is one of this name, or it cannot be bound like this.
        OSError: the file cannot be read or written.
    """
    secret = f"oc_{role.value}_{secrets.token_urlsafe(_SECRET_BYTES)}"
    token = Token(
        name=name,
        role=role,
        sha256=hashed(secret),
        user_id=user_id,
        services=tuple(services),
        action_types=tuple(action_types),
        created_at=datetime.now(UTC),
    )
    with _locked(path):
        tokens = _tokens_if_any(path)
        if any(other.name == name for other in tokens):
            raise ValueError(f"there is a token named {name!r} already: take another name, or revoke that one first")
        _write(path, (*tokens, token))
    return token, secret


def revoke_token(path: Path, name: str) -> bool:
    """Removes a token from the file; whether there was one. The file stays when the last is gone, so nothing opens up.

    Raises:
        OSError: the file cannot be read or written.
    """
    with _locked(path):
        tokens = _tokens_if_any(path)
        kept = tuple(token for token in tokens if token.name != name)
        if len(kept) != len(tokens):
            _write(path, kept)
    return len(kept) != len(tokens)


def _tokens_if_any(path: Path) -> tuple[Token, ...]:
    try:
        return read_tokens(path)
    except FileNotFoundError:
        return ()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One writer at a time, so that two commands at once lose no token."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write(path: Path, tokens: tuple[Token, ...]) -> None:
    """Replaces the file in one step, so that a reader sees the old or the new one, whole."""
    text = _TokensFile(tokens=tokens).model_dump_json(indent=2, exclude_defaults=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), _MODE)
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
