"""What the test server can do to a store that a real one cannot be asked to: crash, stand still, and fail on demand.

The chaos tests rely on these. They are about the test server alone, whatever `OTEL_CREDITS_TEST_CLICKHOUSE` says.
"""

import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import clickhouse_connect
import httpx
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError
from support import plain_http
from support.clickhouse_http import ClickHouseHttp, Fault
from support.clickhouse_http.faults import When
from support.processes import wait_until

pytest_plugins = ("support.clickhouse_http.fixture",)

EVENTS = "CREATE OR REPLACE TABLE events (id UInt64, name String) ENGINE = MergeTree ORDER BY id"


def connected(server: ClickHouseHttp, **options: Any) -> Client:
    """Return a client without a session, as an inserter uses it."""
    return clickhouse_connect.get_client(dsn=server.dsn(), autogenerate_session_id=False, **options)


def insert(client: Client) -> None:
    """Insert one event with a token of its own: clickhouse-connect repeats an insert whose connection was cut."""
    token = {"insert_deduplication_token": uuid.uuid4().hex}
    client.raw_insert("events", None, b"1\ta\n", token, "TabSeparated")


def names(client: Client) -> list[str]:
    """Return the names of the events that are stored."""
    return [row[0] for row in client.query("SELECT name FROM events ORDER BY id").result_rows]


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseHttp]:
    """One server for the module; a test that kills it restarts it."""
    with ClickHouseHttp(tmp_path_factory.mktemp("clickhouse-http")) as started:
        yield started


@pytest.fixture
def server(shared_server: ClickHouseHttp) -> Iterator[ClickHouseHttp]:
    """The server without faults."""
    yield shared_server
    shared_server.clear_faults()


@pytest.fixture
def victim(server: ClickHouseHttp) -> Iterator[Client]:
    """A client of the server, with an empty table of events that heeds insert tokens."""
    with connected(server) as client:
        client.command(f"{EVENTS} SETTINGS non_replicated_deduplication_window = 100")
        yield client


def test_credentials_are_checked_if_there_are_any(tmp_path: Path) -> None:
    """A server with a user answers that user, and anybody else with 403 and AUTHENTICATION_FAILED."""
    with ClickHouseHttp(tmp_path, user="credits", password="s3:cr@t") as guarded:
        with clickhouse_connect.get_client(dsn=guarded.dsn()) as client:
            assert client.command("SELECT 1") == 1
        headers = {"X-ClickHouse-User": "credits", "X-ClickHouse-Key": "s3:cr@t"}
        assert plain_http.get(guarded.url, params={"query": "SELECT 1"}, headers=headers).text == "1\n"
        refused = plain_http.get(guarded.url, params={"query": "SELECT 1"})
        assert (refused.status_code, refused.headers["X-ClickHouse-Exception-Code"]) == (403, "516")
        assert guarded.is_ready()


def test_what_was_inserted_survives_a_kill(clickhouse_http: ClickHouseHttp) -> None:
    """After kill -9 and a restart on the same port, everything that was acknowledged is there."""
    with connected(clickhouse_http) as client:
        client.command(EVENTS)
        insert(client)
        clickhouse_http.restart()
        assert names(client) == ["a"]
        insert(client)
        assert names(client) == ["a", "a"]


@pytest.mark.parametrize(
    ("fault", "code", "stored"),
    [
        (Fault(action="exception", code=252), 252, []),
        (Fault(action="exception", code=252, when="during"), 252, []),
        (Fault(action="exception", code=252, when="after"), 252, ["a"]),
        (Fault(action="read_only"), 242, []),
        (Fault(action="http_500"), None, []),
        (Fault(action="http_500", when="after"), None, ["a"]),
        (Fault(action="cut"), None, []),
        (Fault(action="cut", when="during"), None, []),
        (Fault(action="cut", when="after"), None, ["a"]),
    ],
    ids=lambda value: f"{value.action}-{value.when}" if isinstance(value, Fault) else "",
)
def test_an_insert_fails_as_asked(
    server: ClickHouseHttp, victim: Client, fault: Fault, code: int | None, stored: list[str]
) -> None:
    """A fault befalls inserts, before, during or after they are stored, and leaves queries alone until cleared."""
    with server.faulty(fault):
        with pytest.raises(DatabaseError) as caught:
            insert(victim)
        assert caught.value.code == code
        assert names(victim) == stored
        assert server.faults()[0].hits == (2 if fault.action == "cut" else 1)
    insert(victim)
    assert names(victim) == [*stored, "a"]


def test_an_insert_whose_connection_is_cut_is_repeated_unasked(server: ClickHouseHttp, victim: Client) -> None:
    """clickhouse-connect sends a cut insert again by itself, so without a token one insert can count twice."""
    victim.command(EVENTS)  # without a window of tokens
    server.add_fault(Fault(action="cut", when="after", times=1))
    victim.raw_insert("events", None, b"1\ta\n", fmt="TabSeparated")
    assert server.faults()[0].hits == 1
    assert names(victim) == ["a", "a"]


def test_a_fault_happens_as_often_as_asked(server: ClickHouseHttp, victim: Client) -> None:
    """A fault for the next two inserts fails two, and the third is stored."""
    server.add_fault(Fault(action="exception", code=252, times=2))
    for _ in range(2):
        with pytest.raises(DatabaseError):
            insert(victim)
    insert(victim)
    assert names(victim) == ["a"]


def test_a_fault_can_be_for_queries(server: ClickHouseHttp, victim: Client) -> None:
    """A fault on queries leaves inserts alone."""
    with server.faulty(Fault(action="exception", on="query", code=202)):
        insert(victim)
        with pytest.raises(DatabaseError) as caught:
            victim.command("SELECT 1")
        assert caught.value.code == 202


def test_a_delay_is_as_long_as_asked(server: ClickHouseHttp, victim: Client) -> None:
    """A delayed insert takes that much longer and is stored."""
    server.add_fault(Fault(action="delay", seconds=0.5))
    started_s = time.monotonic()
    insert(victim)
    assert time.monotonic() - started_s >= 0.5
    assert names(victim) == ["a"]


def test_a_hanging_insert_goes_on_when_it_is_released(server: ClickHouseHttp, victim: Client) -> None:
    """A client gives up on a hanging insert at its own timeout, and the insert may still happen later."""
    server.add_fault(Fault(action="hang"))
    with connected(server, send_receive_timeout=1) as impatient, pytest.raises(OperationalError):
        insert(impatient)
    assert names(victim) == []
    server.clear_faults()
    wait_until(lambda: names(victim) == ["a"], 10.0, "the released insert is stored")


@pytest.mark.parametrize(("when", "stored"), [("before", []), ("during", []), ("after", ["a"])])
def test_a_server_can_die_at_an_insert(server: ClickHouseHttp, victim: Client, when: When, stored: list[str]) -> None:
    """The server kills itself before, within or after an insert; what it had stored is there after a restart."""
    server.add_fault(Fault(action="die", when=when))
    with pytest.raises(OperationalError):
        insert(victim)
    server.wait(10.0)
    server.restart()
    assert names(victim) == stored


def test_a_paused_server_goes_on(server: ClickHouseHttp, victim: Client) -> None:
    """A stopped process answers nothing, and everything again when it is continued."""
    server.pause()
    try:
        with pytest.raises(httpx.TimeoutException):
            plain_http.get(f"{server.url}/ping", timeout=0.5)
    finally:
        server.resume()
    insert(victim)
    assert names(victim) == ["a"]


def test_a_wrong_fault_is_refused(server: ClickHouseHttp) -> None:
    """A misspelt fault is an error, so that no test passes because nothing went wrong."""
    answer = plain_http.post(f"{server.url}/_fault", json={"action": "explode"})
    assert answer.status_code == 400
    assert server.faults() == []
