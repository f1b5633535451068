"""What a query from outside may do: read this store, and nothing else, embedded and on a server."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from otel_credits_aggregator.ledger import InvalidQueryError, Ledger, LocalLedger, local
from otel_credits_aggregator.store import Client, connect
from support.samples import others_long
from support.sql_attacks import BOMBS, LISTS_WITHOUT_OTHERS, REFUSED, tried
from support.store import Usage, insert_usages

SECRET = "do not read me"
BOUND = re.compile("TIMEOUT|MEMORY|TOO_MANY|TOO_LARGE|TOO_DEEP|ARGUMENT_OUT_OF_BOUND")

NOT_SQL = (
    "",
    " ; ",
    "-- nothing",
    "nonsense",
    "SELECT {unset:String}",
    "SELECT '",
    "\x00",
    "SELECT " + "1," * 100_000 + "1",
)


@pytest.fixture(params=others_long(["memory_dsn", "server_dsn"], short={"memory_dsn"}))
def dsn(request: pytest.FixtureRequest) -> str:
    """The DSN of a migrated store, embedded and on a server."""
    found: str = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def store(dsn: str) -> Iterator[Client]:
    """A client that may do everything."""
    with connect(dsn) as client:
        yield client


@pytest.fixture
def names(store: Client, tmp_path: Path) -> Iterator[dict[str, str]]:
    """What stands in the queries for a folder with a secret in it and for another database with a table."""
    (tmp_path / "secret").write_text(SECRET)
    other = f"{store.command('SELECT currentDatabase()')}_other"
    store.command(f"CREATE DATABASE {other}")
    store.command(f"CREATE TABLE {other}.t (a Int32) ENGINE = MergeTree ORDER BY a AS SELECT 1")
    yield {"folder": str(tmp_path), "other": other}
    store.command(f"DROP DATABASE {other} SYNC")


@pytest.fixture
def ledger(dsn: str) -> Iterator[Ledger]:
    """The ledger under test."""
    with LocalLedger(dsn) as opened:
        yield opened


def _filled(query: str, names: dict[str, str]) -> str:
    for name, value in names.items():
        query = query.replace(f"{{{name}}}", value)
    return query


def _allowed(ledger: Ledger, queries: tuple[str, ...], names: dict[str, str]) -> list[tuple[str, Any]]:
    """Run the queries and return those that were not refused, with what they answered."""
    allowed = []
    for query in (_filled(query, names) for query in queries):
        try:
            allowed.append((query[:200], ledger.sql(query)))
        except InvalidQueryError:
            continue
    return allowed


def _everything(store: Client) -> list[Any]:
    """Return what a write would change: all databases, tables, and the rows of each."""
    tables = "SELECT database, name, total_rows, create_table_query FROM system.tables"
    return [*store.query(f"{tables} WHERE database NOT ILIKE '%schema' ORDER BY ALL").result_rows]


@pytest.mark.parametrize("kind", REFUSED)
def test_every_known_way_in_is_closed(
    ledger: Ledger, store: Client, names: dict[str, str], tmp_path: Path, kind: str
) -> None:
    """No query writes a row, a table, a setting or a file, or reads a file, a host, another database, the engine's affairs."""
    before = _everything(store)
    opened = _allowed(ledger, REFUSED[kind], names)
    _count(len(REFUSED[kind]), len(opened))
    assert opened == []
    assert _everything(store) == before
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_what_can_be_listed_has_nothing_of_others(ledger: Ledger, store: Client, names: dict[str, str]) -> None:
    """Tables, columns and parts can be looked up; those of other databases are not there, however the question is put."""
    ours = str(store.command("SELECT currentDatabase()"))
    insert_usages(store, Usage())
    found = {query: [list(row.values()) for row in ledger.sql(query)] for query in LISTS_WITHOUT_OTHERS}
    opened = {query: rows for query, rows in found.items() if rows != [[ours]]}
    _count(len(found), len(opened))
    assert opened == {}


def test_no_query_goes_on_for_ever(memory_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What would take all time, memory or disk ends at a bound and says which; the next query finds the store as it was."""
    monkeypatch.setitem(local._QUERIES_FROM_OUTSIDE, "max_execution_time", 2)
    with LocalLedger(memory_dsn) as ledger:
        ends = {query[:100]: _how_it_ends(ledger, query) for query in BOMBS}
        opened = {query: end for query, end in ends.items() if BOUND.search(end) is None}
        _count(len(BOMBS), len(opened))
        assert opened == {}
        assert ledger.sql("SELECT 1 AS one") == [{"one": 1}]


def _how_it_ends(ledger: Ledger, query: str) -> str:
    try:
        return f"{len(ledger.sql(query))} rows"
    except InvalidQueryError as error:
        return str(error)


def _count(queries: int, opened: int) -> None:
    tried[False] += queries - opened
    tried[True] += opened


def test_what_is_not_sql_is_told(ledger: Ledger, names: dict[str, str]) -> None:
    """A text that is no query is refused in words, and the client that saw it goes on working."""
    assert _allowed(ledger, NOT_SQL, names) == []
    assert ledger.sql("SELECT 1 AS one") == [{"one": 1}]


@pytest.mark.parametrize(
    "query",
    [
        "SELECT 1 AS a",
        "select 1 as a;",
        "SELECT 1 AS a -- comment;\n;;",
        "/* a */ SELECT /* ; DROP */ 1 AS a",
        "(SELECT 1 AS a)",
        "WITH x AS (SELECT 1 AS a) SELECT a FROM x",
        "FROM (SELECT 1 AS a) SELECT *",
        "SELECT 1 AS a UNION DISTINCT SELECT 1",
        "SELECT 1 AS a INTERSECT SELECT 1",
        "SELECT toUInt8(number + 1) AS a FROM numbers(1)",
        "SELECT a FROM values('a UInt8', 1)",
        "SELECT count() AS a FROM system.one",
        "SELECT length(files) AS a FROM (SELECT ['x'] AS files)",
        "SELECT ai_calls AS a FROM (SELECT 1 AS ai_calls)",
        "SELECT sumIf(1, name LIKE 'credit_grants') AS a FROM system.tables WHERE database = currentDatabase()",
        "SELECT length('; DROP TABLE users; SETTINGS readonly = 0') > 1 AS a",
        "SELECT length('\nSETTINGS readonly = 0') > 1 AS a",
        "EXISTS users",
    ],
)
def test_reading_is_allowed(ledger: Ledger, query: str) -> None:
    """Queries that only read this store run, however they are written."""
    (row,) = ledger.sql(query)
    assert list(row.values()) == [1]


def test_the_schema_can_be_looked_up(ledger: Ledger) -> None:
    """Tables and columns can be listed and described."""
    assert {"name": "credit_grants"} in ledger.sql("SHOW TABLES")
    assert "email" in [row["name"] for row in ledger.sql("DESCRIBE users")]
    assert "CREATE TABLE" in ledger.sql("SHOW CREATE TABLE credit_grants")[0]["statement"]
    assert ledger.sql("SELECT count() AS n FROM information_schema.tables WHERE table_name = 'credit_grants'") != []


def test_results_are_bounded(ledger: Ledger) -> None:
    """A query that answers too much, or takes too much memory, is ended and told so, and leaves nothing behind."""
    for query, error in {
        "SELECT number FROM numbers(2000000)": "TOO_MANY_ROWS",
        "SELECT length(groupArray(repeat('x', 1000000))) FROM numbers(100000)": "MEMORY",
        "SELECT throwIf(number = 200000) FROM numbers(300000)": "FUNCTION_THROW_IF",
    }.items():
        with pytest.raises(InvalidQueryError, match=error):
            ledger.sql(query)
        assert ledger.sql("SELECT 1 AS one") == [{"one": 1}]
