"""HTTP sessions: a connection kept between requests, with its settings and temporary tables."""

import json
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ._engine import NAME, Context, Engine, enter, literal, value
from ._errors import INVALID_SESSION_TIMEOUT, READONLY, SESSION_IS_LOCKED, SESSION_NOT_FOUND, ServerError
from ._statement import Statement

TIMEOUT_S_DEFAULT = 60
TIMEOUT_S_MAX = 3600


@dataclass(frozen=True)
class SessionRequest:
    """The session a request belongs to.

    Args:
        timeout_s: how long it stays open after this request, in seconds.
        must_exist: `session_check=1`, do not make a new one.
        close: `close_session=1`, end it after this request.
    """

    id: str
    timeout_s: int
    must_exist: bool
    close: bool


@dataclass
class Session:
    """An open session: its connection, and what its own USE and SET statements made of it."""

    connection: Any
    database: str = "default"
    has_settings: bool = False
    expires_at_s: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Sessions:
    """The open sessions. One that was idle for longer than its timeout is gone at the next request."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()

    @contextmanager
    def lend(self, asked: SessionRequest) -> Iterator[Session]:
        """Lend a session, a new one if it does not exist.

        Raises `ServerError` if the session must exist and does not, or if another request is using it.
        """
        session = self._acquire(asked)
        try:
            yield session
        finally:
            session.expires_at_s = time.monotonic() + (-1.0 if asked.close else asked.timeout_s)
            session.lock.release()
            self._end_expired()

    def close(self) -> None:
        """End all sessions that no request is using."""
        for session in self._sessions.values():
            session.expires_at_s = 0.0
        self._end_expired()

    def _acquire(self, asked: SessionRequest) -> Session:
        self._end_expired()
        with self._lock:
            session = self._sessions.get(asked.id)
            if session is None:
                if asked.must_exist:
                    raise ServerError(SESSION_NOT_FOUND, f"Session {asked.id} not found")
                session = self._sessions[asked.id] = Session(self._engine.connect())
            if not session.lock.acquire(blocking=False):
                raise ServerError(SESSION_IS_LOCKED, f"Session {asked.id} is locked by a concurrent client")
            return session

    def _end_expired(self) -> None:
        now_s = time.monotonic()
        with self._lock:
            for session_id, session in list(self._sessions.items()):
                if session.expires_at_s < now_s and session.lock.acquire(blocking=False):
                    session.connection.close()
                    del self._sessions[session_id]


def read_timeout_s(text: str) -> int:
    """Read the parameter `session_timeout`, in seconds. Raises `ServerError` if it is no number or too long."""
    if not text:
        return TIMEOUT_S_DEFAULT
    if not text.isdecimal():
        raise ServerError(INVALID_SESSION_TIMEOUT, f"Invalid session timeout: '{text}'")
    if int(text) > TIMEOUT_S_MAX:
        raise ServerError(
            INVALID_SESSION_TIMEOUT,
            f"Session timeout '{text}' is larger than max_session_timeout: {TIMEOUT_S_MAX}. "
            "Maximum session timeout could be modified in configuration file.",
        )
    return int(text)


@contextmanager
def restored(session: Session, statement: Statement, context: Context) -> Iterator[Context]:
    """Take back what a request of a session sets for itself alone, and yield what to run it with.

    A statement's own SET or USE stays. `readonly` cannot be taken back from the engine, so a session's request
    that has it is checked here, by the kind of its statement. Raises `ServerError` if that forbids it.
    """
    settings = {name: text for name, text in context.settings.items() if name != "readonly"}
    if context.settings.get("readonly", "0") != "0" and not statement.is_reading:
        raise ServerError(READONLY, "default: Cannot execute query in readonly mode")
    # What the statement itself sets is the session's to keep, even if the URL sets it too.
    kept = statement.sql.decode("utf-8", "replace") if statement.kind == "SET" else ""
    before = _settings_before(session, [name for name in settings if name not in kept])
    try:
        yield Context(context.database, settings, context.params, context.output_format)
    finally:
        _restore(session, statement, before, database=session.database if context.database else "")


def _restore(session: Session, statement: Statement, before: dict[str, str], database: str) -> None:
    if statement.kind == "USE":
        session.database = value(session.connection, "SELECT currentDatabase()")
    else:
        enter(session.connection, Context(database))
    session.has_settings = session.has_settings or statement.kind == "SET"
    if before:
        settings = ", ".join(f"{name} = {text}" for name, text in before.items())
        session.connection.query(f"SET {settings}", "Null")


def _settings_before(session: Session, names: Iterable[str]) -> dict[str, str]:
    """Return, as SQL literals, the values the session gave these settings, DEFAULT if it gave none."""
    before = {name: "DEFAULT" for name in names if NAME.fullmatch(name)}
    if before and session.has_settings:
        listed = ", ".join(literal(name) for name in before)
        query = f"SELECT name, value FROM system.settings WHERE changed AND name IN ({listed})"
        rows = map(json.loads, value(session.connection, query, "JSONEachRow").splitlines())
        before.update((row["name"], literal(row["value"])) for row in rows)
    return before
