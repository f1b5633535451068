"""The check at every door: which token a caller shows, and whether its role may come in."""

import hmac
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from otel_credits_aggregator.access._tokens import Role, Token, TokensFileError, hashed, read_tokens
from otel_credits_aggregator.outcomes import NotPermitted, Unauthenticated

__all__ = ["Gate"]

logger = logging.getLogger(__name__)
_LOOK_AGAIN_S = 1.0
_SECRET_LENGTH_MAX = 512


class Gate:
    """The tokens of a file, followed as it changes. Methods may be called from any thread.

    While there is no file, everybody may come in. Once there was one, nothing opens the gate again: a file that is gone or
    broken leaves the tokens as they were, and an empty list lets nobody in.

    Args:
        path: the file.
        required: whether the file must be there.
        clock: seconds that only grow; when to look at the file again.

    Raises:
        TokensFileError: the file is there, and is not a file of tokens; or it must be there, and is not.
    """

    def __init__(self, path: Path, *, required: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._tokens: tuple[Token, ...] | None = None
        self._seen: object = None
        self._fault = ""
        self._look_at = clock() + _LOOK_AGAIN_S
        try:
            self._load()
        except FileNotFoundError:
            if required:
                raise TokensFileError(f"there are no tokens in {path} (OTEL_CREDITS_TOKENS_FILE)") from None

    @property
    def asks_for_tokens(self) -> bool:
        """Whether callers must show a token."""
        return self._current() is not None

    def admit(self, authorization: str | None, *roles: Role) -> Token | None:
        """The token that a caller shows, if its role is one of these; None where no tokens are asked for.

        Args:
            authorization: the value of the `authorization` header or metadata, if there is one.

        Raises:
            Unauthenticated: no token, or one that is not known (any more).
            NotPermitted: its role is another.
        """
        tokens = self._current()
        if tokens is None:
            return None
        token = _find(tokens, _secret(authorization))
        if token.role not in roles:
            raise NotPermitted(f"the token {token.name!r} is for {token.role.value}, not for this")
        return token

    def _current(self) -> tuple[Token, ...] | None:
        now = self._clock()
        if now >= self._look_at:
            with self._lock:
                if now >= self._look_at:
                    self._look_at = now + _LOOK_AGAIN_S
                    self._look_again()
        return self._tokens

    def _look_again(self) -> None:
        try:
            self._load()
        except FileNotFoundError:
            if self._tokens is not None:
                self._complain(f"the tokens in {self._path} are gone")
        except TokensFileError as error:
            self._complain(str(error))

    def _load(self) -> None:
        state = self._path.stat()
        seen = (state.st_mtime_ns, state.st_ino, state.st_size)
        if seen == self._seen:
            return
        tokens = read_tokens(self._path)
        if self._seen is not None or self._fault:
            logger.info("read %d tokens from %s", len(tokens), self._path)
        self._tokens, self._seen, self._fault = tokens, seen, ""

    def _complain(self, fault: str) -> None:
        if fault != self._fault:
            logger.error("%s; those read before stay valid", fault)
        self._fault = fault
        # What comes in its place is read even if it looks as the old one did.
        self._seen = None


def _secret(authorization: str | None) -> str:
    scheme, _, secret = (authorization or "").strip().partition(" ")
    secret = secret.strip()
    if scheme.lower() != "bearer" or not secret:
        raise Unauthenticated("show a token: header or metadata `authorization: Bearer TOKEN`")
    if len(secret) > _SECRET_LENGTH_MAX:
        raise Unauthenticated("this token is not known")
    return secret


def _find(tokens: tuple[Token, ...], secret: str) -> Token:
    """Compares with every token, each in constant time, so that the time taken says nothing of any of them."""
    shown = hashed(secret)
    found = [token for token in tokens if hmac.compare_digest(token.sha256, shown)]
    if not found:
        raise Unauthenticated("this token is not known")
    return found[0]
