"""chDB behind the server: connections, settings, and running one statement."""

import re
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import chdb

from ._errors import UNKNOWN_SETTING, ServerError
from ._statement import Statement

# chDB starts as clickhouse-local does; a server has these off.
_SERVER_DEFAULTS = "SET implicit_select = 0, allow_introspection_functions = 0"
NAME = re.compile(r"[A-Za-z_]\w*")
_APPEND_BYTES_MAX = 1 << 20


@dataclass(frozen=True)
class Result:
    """What a statement answered: `body` in the asked format, and the counters of X-ClickHouse-Summary."""

    body: bytes = b""
    summary: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Context:
    """What a request says beside its statement: database, settings, and query parameters by their bare names."""

    database: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    output_format: str = "TabSeparated"


class InterruptedInsertError(Exception):
    """An insert was given half of its data, as a fault demanded, and then cancelled."""


class Engine:
    """The one chDB engine of this process. Connections to it are cheap (0.2 ms), so each request gets its own."""

    def __init__(self, path: str) -> None:
        self._path = path
        # The engine lives as long as one connection does.
        self._anchor = self.connect()
        self._anchor_lock = threading.Lock()
        self.version = self.ask("SELECT version()")
        self.timezone = self.ask("SELECT timezone()")
        self.host_name = self.ask("SELECT hostName()")

    def connect(self) -> Any:
        """Open a connection of its own settings, database and temporary tables."""
        connection: Any = chdb.connect(self._path)  # type: ignore[no-untyped-call]
        connection.query(_SERVER_DEFAULTS, "Null")
        return connection

    def ask(self, sql: str) -> str:
        """Return the single value of a query of the server's own."""
        with self._anchor_lock:
            return value(self._anchor, sql)

    def error_name(self, code: int) -> str:
        """Return ClickHouse's name of an exception code, UNKNOWN_EXCEPTION if it has none."""
        return self.ask(f"SELECT errorCodeToName({code})") or "UNKNOWN_EXCEPTION"

    @contextmanager
    def connection(self) -> Iterator[Any]:
        """Lend a connection for one request."""
        connection = self.connect()
        try:
            yield connection
        finally:
            connection.close()

    def close(self) -> None:
        """Close the engine; its data is complete on disk afterwards."""
        self._anchor.close()


def run(connection: Any, statement: Statement, context: Context, interrupt: Callable[[], None] | None = None) -> Result:
    """Run one statement with the request's database, settings and parameters, which stay set on the connection.

    `interrupt` is called when half of an insert's data is in, and the insert is then cancelled.

    Raises RuntimeError, as chDB does, for what the engine refuses, and `InterruptedInsertError` after `interrupt`.
    """
    enter(connection, context)
    if statement.is_insert:
        return _insert(connection, statement, context, interrupt)
    return _query(connection, statement, context)


def enter(connection: Any, context: Context) -> None:
    """Set the database and the settings of a request. Raises RuntimeError and `ServerError` for unknown ones."""
    if context.database:
        connection.query(f"USE {_identifier(context.database)}", "Null")
    for name in context.settings:
        if not NAME.fullmatch(name):
            raise ServerError(UNKNOWN_SETTING, f"Unknown setting '{name}'")
    # `readonly` is last because it forbids to set anything after it.
    settings = sorted(context.settings.items(), key=lambda item: item[0] == "readonly")
    if settings:
        connection.query("SET " + ", ".join(f"{name} = {literal(value)}" for name, value in settings), "Null")


def _query(connection: Any, statement: Statement, context: Context) -> Result:
    # Bytes that are not UTF-8 reach the engine as they came.
    result = connection.query(statement.sql, context.output_format, params=dict(context.params))
    body = result.bytes() or b""
    summary = {
        "read_rows": result.storage_rows_read(),
        "read_bytes": result.storage_bytes_read(),
        "written_rows": result.rows_written(),
        "written_bytes": result.bytes_written(),
        "result_rows": result.rows_read(),
        "result_bytes": len(body),
        "elapsed_ns": int(result.elapsed() * 1e9),
    }
    return Result(body, {name: str(value) for name, value in summary.items()})


def _insert(
    connection: Any, statement: Statement, context: Context, interrupt: Callable[[], None] | None = None
) -> Result:
    if statement.input_format == "Values" and context.params:
        # The values may use the parameters, which only a statement with its data inside can see.
        whole = statement.sql + b" VALUES " + statement.data
        return _query(connection, Statement(whole, "INSERT"), context)
    for name, value in context.params.items():
        connection.query(f"SET param_{name} = {literal(value)}", "Null")
    if interrupt:
        _insert_half(connection, statement, interrupt)
    # Not send_insert: in chdb-core 26.9 it drops, without an error, the rows of every materialized view that contains
    # a scalar subquery. From a file the same data arrives.
    with tempfile.NamedTemporaryFile(suffix=".data") as file:
        file.write(statement.data)
        file.flush()
        into, settings = _split_settings(statement.sql)
        sql = (
            into
            + f" FROM INFILE {literal(file.name)}".encode()
            + settings
            + f" FORMAT {statement.input_format}".encode()
        )
        return _query(connection, Statement(sql, "INSERT"), context)


def _split_settings(sql: bytes) -> tuple[bytes, bytes]:
    found = re.search(rb"\s+SETTINGS\s+[\w\s=,.'-]*$", sql, re.IGNORECASE)
    return (sql[: found.start()], found.group()) if found else (sql, b"")


def _insert_half(connection: Any, statement: Statement, interrupt: Callable[[], None]) -> None:
    with connection.send_insert(statement.sql.decode("utf-8", "surrogateescape"), statement.input_format) as inserter:
        _append(inserter, statement.data, interrupt)


def _append(inserter: Any, data: bytes, interrupt: Callable[[], None]) -> None:
    end = len(data) // 2
    for at in range(0, end, _APPEND_BYTES_MAX):
        inserter.append(data[at : min(at + _APPEND_BYTES_MAX, end)])
    interrupt()
    raise InterruptedInsertError


def value(connection: Any, sql: str, output_format: str = "TSVRaw") -> str:
    """Return a result as text, without its last line break."""
    body: bytes = connection.query(sql, output_format).bytes() or b""
    return body.decode().removesuffix("\n")


def literal(text: str) -> str:
    """Return a text as an SQL literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _identifier(name: str) -> str:
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"
