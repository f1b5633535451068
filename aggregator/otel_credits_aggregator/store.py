"""The ClickHouse store behind one client API: embedded (chDB) or a server, chosen by the DSN.

clickhouse-connect serves both: ``chdb:///path`` runs the engine in this process, ``clickhouse://user:password@host:port/db``
(or ``http://``, ``https://``) talks to a server. A client answers one call at a time, so each concern that must not wait for
another (inserting, reading, the API) opens its own with :func:`connect`.
"""

import contextlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError

__all__ = [
    "READ_ONLY_SETTINGS",
    "ClickHouseError",
    "Client",
    "DatabaseError",
    "Row",
    "connect",
    "embedded_path",
    "is_embedded",
    "json_rows",
    "rows",
]

Row = dict[str, Any]

# What a query that comes from outside may cost and touch (ClickHouse: "Restrictions on query complexity").
READ_ONLY_SETTINGS: Mapping[str, int] = {
    "readonly": 1,
    "max_execution_time": 60,
    "max_memory_usage": 2_000_000_000,
    "max_result_rows": 1_000_000,
}


def is_embedded(dsn: str) -> bool:
    """Whether the DSN names the engine in this process."""
    return urlsplit(dsn).scheme == "chdb"


def embedded_path(dsn: str) -> Path | None:
    """The folder of an embedded store; None for a server's, or for one in memory."""
    parts = urlsplit(dsn)
    path = parts.netloc or parts.path
    return Path(path) if is_embedded(dsn) and path not in ("", "memory", ":memory:") else None


def connect(dsn: str, answer_timeout_s: float | None = None, database: str | None = None) -> Client:
    """Opens a client of the store.

    Args:
        dsn: the store.
        answer_timeout_s: how long a server may take to answer, in seconds; None: what the DSN says, else 300.
        database: another one than the DSN names.

    Raises:
        ClickHouseError: the store cannot be reached or refuses; the message says which.
    """
    options: dict[str, Any] = {} if database is None else {"database": database}
    if is_embedded(dsn):
        _import_engine()
    else:
        # A session would make a server answer one query at a time.
        options["autogenerate_session_id"] = False
        # clickhouse-connect itself goes by the port, and would send the password over plain HTTP to any but 443 and 8443.
        scheme = urlsplit(dsn).scheme
        if scheme in ("http", "https"):
            options["interface"] = scheme
        if answer_timeout_s is not None:
            options["send_receive_timeout"] = answer_timeout_s
    return clickhouse_connect.get_client(dsn=dsn, **options)


def _import_engine() -> None:
    """Imports chDB without pyarrow and its numpy, which it would load for formats that are never asked for here.

    They take 40 MB and as long to load as the engine itself. Without chDB the client says what to install.
    """
    if "pyarrow" in sys.modules:
        return
    sys.modules["pyarrow"] = None  # type: ignore[assignment]
    try:
        with contextlib.suppress(ImportError):
            import chdb.state  # noqa: F401
    finally:
        del sys.modules["pyarrow"]


def rows(client: Client, sql: str, parameters: Mapping[str, Any] | None = None, **settings: Any) -> list[Row]:
    """The result of a query, one dict a row. Parameters are bound by the server: ``{name:Type}`` in the text."""
    result = client.query(sql, parameters=dict(parameters or {}), settings=settings or None)
    return [dict(zip(result.column_names, row, strict=True)) for row in result.result_rows]


def json_rows(
    client: Client, sql: str, parameters: Mapping[str, Any] | None = None, **settings: Any
) -> Sequence[bytes]:
    """The result of a query as ClickHouse writes it, one JSON object a row: decimals as strings, times as ISO 8601."""
    exact = {
        "output_format_json_quote_decimals": 1,
        "output_format_json_quote_64bit_integers": 0,
        "date_time_output_format": "iso",
    }
    text = client.raw_query(sql, parameters=dict(parameters or {}), settings={**exact, **settings}, fmt="JSONEachRow")
    return text.splitlines()
