"""Fixtures around the test server, for modules that say `pytest_plugins = ("support.clickhouse_http.fixture",)`.

With `OTEL_CREDITS_TEST_CLICKHOUSE` set to the DSN of a real ClickHouse server, `clickhouse_http_dsn` is about that
one, and nothing is started. Tests that crash the server or make it fail need `clickhouse_http`, which is always a
process of their own.
"""

import os
import urllib.parse
import uuid
from collections.abc import Iterator
from pathlib import Path

import clickhouse_connect
import pytest

from .process import ClickHouseHttp

REAL_SERVER_VARIABLE = "OTEL_CREDITS_TEST_CLICKHOUSE"


@pytest.fixture(scope="session")
def clickhouse_http_server_dsn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The DSN of a server that all tests of the session share: the real one if there is one."""
    real = os.environ.get(REAL_SERVER_VARIABLE)
    if real:
        yield real
        return
    with ClickHouseHttp(tmp_path_factory.mktemp("clickhouse-http")) as server:
        yield server.dsn()


@pytest.fixture
def clickhouse_http_dsn(clickhouse_http_server_dsn: str) -> Iterator[str]:
    """The DSN of an empty database of the test's own, on the shared server; dropped after the test."""
    database = f"otel_credits_test_{uuid.uuid4().hex}"
    with clickhouse_connect.get_client(dsn=clickhouse_http_server_dsn, autogenerate_session_id=False) as client:
        client.command(f"CREATE DATABASE {database}")
        try:
            yield urllib.parse.urlsplit(clickhouse_http_server_dsn)._replace(path=f"/{database}").geturl()
        finally:
            client.command(f"DROP DATABASE {database} SYNC")


@pytest.fixture
def clickhouse_http(tmp_path: Path) -> Iterator[ClickHouseHttp]:
    """A test server of the test's own, ready, which may be killed, restarted and made to fail."""
    with ClickHouseHttp(tmp_path / "clickhouse-http") as server:
        yield server


@pytest.fixture
def clickhouse_ledger(tmp_path: Path) -> Iterator[ClickHouseHttp]:
    """The same with an empty, migrated ledger in its default database."""
    with ClickHouseHttp(tmp_path / "clickhouse-ledger", migrated=True) as server:
        yield server
