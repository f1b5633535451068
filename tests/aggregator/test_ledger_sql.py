"""What a query from outside may do: read this store, and nothing else, embedded and on a server."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from otel_credits_aggregator.ledger import InvalidQueryError, Ledger, LocalLedger
from otel_credits_aggregator.migrations import migrate
from otel_credits_aggregator.store import Client, connect

SECRET = "do not read me"

# {folder} is a folder with a file in it, {other} another database with a table t.
WRITES = (
    "INSERT INTO user_profiles (id) VALUES ('x')",
    "INSERT INTO user_profiles (id) SELECT 'x'",
    "INSERT INTO FUNCTION file('{folder}/new', 'CSV', 'a Int32') SELECT 1",
    "INSERT INTO FUNCTION url('http://127.0.0.1:1/', 'CSV', 'a Int32') SELECT 1",
    "INSERT INTO user_profiles FROM INFILE '{folder}/secret' FORMAT CSV",
    "CREATE TABLE x (a Int32) ENGINE = Memory",
    "CREATE TEMPORARY TABLE x (a Int32)",
    "CREATE OR REPLACE VIEW users AS SELECT 1",
    "CREATE DATABASE x",
    "CREATE FUNCTION x AS y -> y",
    "CREATE USER x",
    "GRANT ALL ON *.* TO default",
    "DROP TABLE user_profiles",
    "TRUNCATE TABLE user_profiles",
    "RENAME TABLE user_profiles TO x",
    "ALTER TABLE user_profiles DELETE WHERE 1",
    "DELETE FROM user_profiles WHERE 1",
    "UPDATE user_profiles SET name = 'x' WHERE 1",
    "OPTIMIZE TABLE user_profiles FINAL",
    "DETACH TABLE user_profiles",
    "ATTACH TABLE x FROM '{folder}' (a Int32) ENGINE = MergeTree ORDER BY a",
    "EXCHANGE TABLES user_profiles AND credit_grants",
    "SYSTEM FLUSH LOGS",
    "SYSTEM STOP MERGES",
    "KILL QUERY WHERE 1",
    "KILL MUTATION WHERE 1",
    "BACKUP TABLE user_profiles TO File('{folder}/new')",
    "BACKUP TABLE user_profiles TO S3('http://127.0.0.1:1/x', 'a', 'b')",
    "RESTORE TABLE user_profiles FROM File('{folder}/secret')",
    "SET readonly = 0",
    "SET max_execution_time = 0",
    "SET ROLE default",
    "USE {other}",
    "BEGIN TRANSACTION",
    "EXECUTE AS default SELECT 1",
    "SELECT 1 INTO OUTFILE '{folder}/new'",
    "SELECT 1 INTO OUTFILE '{folder}/new' TRUNCATE FORMAT CSV",
    "(SELECT 1) INTO OUTFILE '{folder}/new'",
    "SHOW TABLES INTO OUTFILE '{folder}/new'",
    "EXPLAIN AST SELECT 1 INTO OUTFILE '{folder}/new'",
)
SETTINGS_LIFTED = (
    "SELECT 1 SETTINGS readonly = 0",
    "SELECT 1 SETTINGS max_memory_usage = 0",
    "SELECT * FROM (SELECT 1 SETTINGS readonly = 0)",
    "SELECT * FROM (SELECT 1 SETTINGS max_execution_time = 0)",
    "WITH x AS (SELECT 1 SETTINGS readonly = 2) SELECT * FROM x",
    "SELECT 1 FORMAT CSV SETTINGS readonly = 0",
)
SEVERAL_STATEMENTS = (
    "SELECT 1; DROP TABLE user_profiles",
    "SELECT 1; SELECT 2",
    "SELECT 1;\nSET readonly = 0; DROP TABLE user_profiles",
    "SELECT 1 -- ;\n; DROP TABLE user_profiles",
    "SELECT 1) ; DROP TABLE user_profiles; SELECT (1",
    "SELECT 1 PARALLEL WITH DROP TABLE user_profiles",
)
FILES_AND_HOSTS = (
    "SELECT * FROM file('{folder}/secret', 'LineAsString')",
    "SELECT * FROM FILE('{folder}/secret', 'LineAsString')",
    "SELECT * FROM `{folder}/secret`",
    "SELECT * FROM '{folder}/secret'",
    "SELECT file('{folder}/secret')",
    "SELECT /* */ `file` ('{folder}/secret')",
    "SELECT arrayMap(file, ['{folder}/secret'])",
    "SELECT arrayMap(file AS `a\nb`, ['{folder}/secret'])",
    "SELECT arrayMap(name -> file(name), ['{folder}/secret'])",
    "SELECT * APPLY file FROM (SELECT '{folder}/secret' AS name)",
    "SELECT * APPLY(name -> file(name)) FROM (SELECT '{folder}/secret' AS name)",
    "SELECT (SELECT file('{folder}/secret'))",
    "SELECT 1 AS `x\nSelectWithUnionQuery`, file('{folder}/secret')",
    "DESCRIBE TABLE file('{folder}/secret', 'LineAsString')",
    "DESC url('http://127.0.0.1:1/x.csv', 'CSV')",
    "EXPLAIN PIPELINE SELECT * FROM file('{folder}/secret', 'LineAsString')",
    "EXPLAIN TABLE OVERRIDE mysql('127.0.0.1:1', 'a', 'b', 'c', 'd') PARTITION BY a",
    "SELECT * FROM filesystem('{folder}')",
    "SELECT * FROM url('http://127.0.0.1:1/x', 'CSV', 'a Int32')",
    "SELECT * FROM s3('http://127.0.0.1:1/x/y', 'CSV', 'a Int32')",
    "SELECT * FROM gcs('http://127.0.0.1:1/x/y', 'CSV', 'a Int32')",
    "SELECT * FROM azureBlobStorage('http://127.0.0.1:1', 'a', 'b', 'c', 'd')",
    "SELECT * FROM hdfs('hdfs://127.0.0.1:1/x', 'CSV', 'a Int32')",
    "SELECT * FROM remote('127.0.0.1:1', system.one)",
    "SELECT * FROM remoteSecure('127.0.0.1:1', system.one)",
    "SELECT * FROM cluster('default', system.one)",
    "SELECT * FROM clusterAllReplicas('default', system.one)",
    "SELECT * FROM mysql('127.0.0.1:1', 'a', 'b', 'c', 'd')",
    "SELECT * FROM postgresql('127.0.0.1:1', 'a', 'b', 'c', 'd')",
    "SELECT * FROM mongodb('127.0.0.1:1', 'a', 'b', 'c', 'd', 'x String')",
    "SELECT * FROM redis('127.0.0.1:1', 'a', 'a String')",
    "SELECT * FROM sqlite('{folder}/secret', 't')",
    "SELECT * FROM odbc('DSN=x', 'a', 'b')",
    "SELECT * FROM jdbc('a', 'b', 'c')",
    "SELECT * FROM executable('ls', 'LineAsString', 'line String')",
    "SELECT * FROM iceberg('http://127.0.0.1:1/x/y')",
    "SELECT * FROM deltaLakeLocal('{folder}')",
    "SELECT * FROM icebergLocal('{folder}')",
    "SELECT * FROM dictionary('x')",
    "SELECT * FROM Python(SECRET)",
    "SELECT * FROM python(SECRET)",
    "SELECT * FROM eval('SELECT 1')",
    "SELECT * FROM format(LineAsString, 'x')",
    "SELECT * FROM loop(users)",
    "SELECT dictGet('x', 'y', 1)",
    "SELECT joinGet('x', 'y', 1)",
    "SELECT aiGenerate('x')",
    "SELECT sleep(1)",
    "SELECT sleepEachRow(1) FROM numbers(10)",
)
OTHER_TABLES = (
    "SELECT * FROM {other}.t",
    "SELECT * FROM `{other}`.`t`",
    'SELECT * FROM "{other}".t',
    "SELECT * FROM users, {other}.t",
    "SELECT 1 WHERE 1 IN {other}.t",
    "SELECT (SELECT max(a) FROM {other}.t)",
    "WITH x AS (SELECT * FROM {other}.t) SELECT * FROM x",
    "SELECT * FROM view(SELECT * FROM {other}.t)",
    "SELECT * FROM viewIfPermitted(SELECT a FROM {other}.t ELSE null('a Int32'))",
    "SELECT * FROM merge('{other}', 't')",
    "SELECT * FROM merge(REGEXP('.*'), '.*')",
    "SELECT * FROM mergeTreeIndex('{other}', 't')",
    "SELECT hasColumnInTable('{other}', 't', 'a')",
    "DESCRIBE {other}.t",
    "SHOW CREATE TABLE {other}.t",
    "SHOW TABLES FROM {other}",
    "EXISTS {other}.t",
    "SELECT * FROM system.users",
    "SELECT * FROM system.processes",
    "SELECT * FROM system.query_log",
    "SELECT * FROM system.server_settings",
    "SELECT * FROM system.named_collections",
    "SHOW PROCESSLIST",
    "SHOW GRANTS",
    "CHECK TABLE {other}.t",
)
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


@pytest.fixture(params=["memory_dsn", "clickhouse_http_dsn"])
def dsn(request: pytest.FixtureRequest) -> str:
    """The DSN of a migrated store, embedded and on a server."""
    found: str = request.getfixturevalue(request.param)
    if request.param != "memory_dsn":
        with connect(found) as client:
            migrate(client)
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


@pytest.mark.parametrize(
    "queries", [WRITES, SETTINGS_LIFTED, SEVERAL_STATEMENTS], ids=["writes", "settings", "several"]
)
def test_nothing_is_written(
    ledger: Ledger, store: Client, names: dict[str, str], tmp_path: Path, queries: tuple[str, ...]
) -> None:
    """No query writes a row, a table, a setting or a file, and none that tries is run."""
    before = _everything(store)
    assert _allowed(ledger, queries, names) == []
    assert _everything(store) == before
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


@pytest.mark.parametrize("queries", [FILES_AND_HOSTS, OTHER_TABLES], ids=["files and hosts", "other tables"])
def test_nothing_else_is_read(ledger: Ledger, names: dict[str, str], queries: tuple[str, ...]) -> None:
    """No query reads a file, another host, another database or the engine's own affairs."""
    assert _allowed(ledger, queries, names) == []


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
