"""A ledger as people may have it: embedded, on a ClickHouse server, and over a running aggregator's API."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
from otel_credits_aggregator.ledger import Ledger, LocalLedger, RemoteLedger
from otel_credits_aggregator.store import Client, connect

from support.api import running_api
from support.samples import others_long

__all__ = ["dsn", "kind", "ledger", "store"]


@contextmanager
def _embedded(dsn: str) -> Iterator[Ledger]:
    with LocalLedger(dsn) as ledger:
        yield ledger


@contextmanager
def _over_api(dsn: str) -> Iterator[Ledger]:
    with running_api(dsn) as url, RemoteLedger(url) as ledger:
        yield ledger


Opener = Callable[[str], AbstractContextManager[Ledger]]
_KINDS: dict[str, tuple[str, Opener]] = {
    "embedded": ("memory_dsn", _embedded),
    "api": ("memory_dsn", _over_api),
    "server": ("server_dsn", _embedded),
}


@pytest.fixture(params=others_long(_KINDS, short={"api"}))
def kind(request: pytest.FixtureRequest) -> str:
    """Which ledger: the three must not differ."""
    return str(request.param)


@pytest.fixture
def dsn(kind: str, request: pytest.FixtureRequest) -> str:
    """The DSN of an empty, migrated store."""
    name = _KINDS[kind][0]
    found: str = request.getfixturevalue(name)
    return found


@pytest.fixture
def store(dsn: str) -> Iterator[Client]:
    """A client of the store behind the ledger."""
    with connect(dsn) as client:
        yield client


@pytest.fixture
def ledger(kind: str, dsn: str) -> Iterator[Ledger]:
    """The ledger under test."""
    with _KINDS[kind][1](dsn) as opened:
        yield opened
