"""What the store needs of ClickHouse's HTTP interface, held true for the test server and for a real one.

With `OTEL_CREDITS_TEST_CLICKHOUSE` naming a server, all of this runs against that one: so the test server cannot
promise the other tests anything that ClickHouse does not keep.
"""

import threading
import time
import urllib.parse
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import clickhouse_connect
import httpx
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError
from clickhouse_connect.driver.summary import QuerySummary
from support import plain_http
from support.clickhouse_http import _encodings as encodings

pytest_plugins = ("support.clickhouse_http.fixture",)

EVENTS = "CREATE TABLE events (id UInt64, name String) ENGINE = MergeTree ORDER BY id"
PROTO = 'syntax = "proto3"; message Event { uint64 id = 1; string name = 2; }'
PROTO_SETTINGS = {
    "format_schema_source": "string",
    "format_schema": PROTO,
    "format_schema_message_name": "Event",
}
# Two length-delimited messages; the names hold the bytes that text formats would stumble over.
PROTO_ROWS = bytes([8, 8, 1, 18, 4]) + b"a\n;\0" + bytes([8, 8, 2, 18, 4]) + "bé'".encode()
ALL_TYPES = {
    "credits": ("Decimal(38, 12)", Decimal("12345678901234567890.000000000001")),
    "created_at": ("DateTime64(9, 'UTC')", datetime(2026, 2, 28, 23, 59, 59, 123456, UTC)),
    "metadata": ("Map(String, String)", {"videos_synced": "50", "it's": "tab\tquote'"}),
    "units": ("Map(LowCardinality(String), Decimal(38, 12))", {"input_token": Decimal("7.5")}),
    "id": ("UUID", uuid.UUID("0193a1b2-0000-7000-8000-00000000000f")),
    "labels": ("Array(String)", ["one", "", "ü"]),
    "kind": ("Enum8('usage' = 1, 'void' = 2)", "void"),
    "trace_id": ("FixedString(16)", bytes(range(16))),
    "note": ("Nullable(String)", None),
    "service": ("LowCardinality(String)", "chat"),
    "big": ("UInt64", 2**64 - 1),
}


@pytest.fixture
def client(clickhouse_http_dsn: str) -> Iterator[Client]:
    """clickhouse-connect's HTTP client in an empty database."""
    with clickhouse_connect.get_client(dsn=clickhouse_http_dsn) as connected:
        yield connected


def http(dsn: str, method: str = "POST", content: bytes = b"", headers: Any = None, **options: Any) -> httpx.Response:
    """Send one bare request, with the DSN's user and database and the URL parameters given."""
    parts = urllib.parse.urlsplit(dsn)
    scheme = "https" if "https" in parts.scheme or parts.port in (443, 8443) else "http"
    address = f"{scheme}://{parts.hostname}:{parts.port or 8123}/"
    params = {"database": parts.path.strip("/")} | options
    auth = (urllib.parse.unquote(parts.username or "default"), urllib.parse.unquote(parts.password or ""))
    return plain_http.request(method, address, params=params, content=content, headers=headers, auth=auth)


def names(client: Client) -> list[str]:
    """Return the names of the events that are stored."""
    return [row[0] for row in client.query("SELECT name FROM events ORDER BY id").result_rows]


def error_code(client: Client, sql: str, **options: Any) -> int | None:
    """Return the code of the exception that a command meets."""
    with pytest.raises(DatabaseError) as caught:
        client.command(sql, **options)
    return caught.value.code


# Queries, parameters, types, settings


def test_a_command_answers_its_value_or_a_summary(client: Client) -> None:
    """A command with a result returns the value, one without it returns the summary of what it did."""
    assert client.command("SELECT 40 + 2") == 42
    assert client.command("SELECT name FROM system.databases WHERE name = 'no such'") == ""
    created = client.command(EVENTS)
    inserted = client.command("INSERT INTO events SELECT number, 'x' FROM numbers(3)")
    assert isinstance(created, QuerySummary)
    assert isinstance(inserted, QuerySummary)
    assert created.query_id()
    assert inserted.written_rows == 3


def test_server_side_parameters_reach_the_query_unharmed(client: Client) -> None:
    """Values bound as {name:Type} arrive exactly, whatever quotes, tabs and backslashes they hold."""
    text = 'it\'s\ta "quoted" \\ line\nand é'
    query = "SELECT {text:String}, {ids:Array(UInt64)}, {amount:Decimal(38, 12)}, {at:DateTime64(3, 'UTC')}"
    at = datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)
    bound = {"text": text, "ids": [1, 2**63], "amount": Decimal("0.000000000001"), "at": at}
    assert client.query(query, parameters=bound, tz_mode="aware").first_row == (text, *list(bound.values())[1:])


def test_parameters_too_long_for_a_url_travel_as_a_form(client: Client) -> None:
    """A bound value of 100 kB is sent as a form field, and arrives whole."""
    assert client.query("SELECT length({text:String})", parameters={"text": "x" * 100_000}).first_row == (100_000,)


@pytest.mark.parametrize("column", ALL_TYPES)
def test_every_type_of_the_ledger_survives_insert_and_query(client: Client, column: str) -> None:
    """A value of each type the ledger uses comes back as it was inserted, to the last digit."""
    type_name, value = ALL_TYPES[column]
    client.command(f"CREATE TABLE types ({column} {type_name}) ENGINE = MergeTree ORDER BY tuple()")
    assert client.insert("types", [[value], [value]], column_names=[column]).written_rows == 2
    assert client.query("SELECT * FROM types", tz_mode="aware").result_rows == [(value,), (value,)]


def test_settings_of_a_query_hold_for_that_query_only(client: Client) -> None:
    """A setting given with one query is in force there and gone in the next, though both share a session."""
    query = "SELECT getSetting('max_block_size')"
    default = client.command(query)
    assert client.command(query, settings={"max_block_size": 777}) == 777
    assert client.command(query) == default


def test_the_format_is_the_querys_own_then_the_urls_then_the_headers(clickhouse_http_dsn: str) -> None:
    """FORMAT in the query wins over default_format, which wins over X-ClickHouse-Format; else it is TabSeparated."""
    header = {"X-ClickHouse-Format": "CSV"}
    sql = b"SELECT 'a', 1 AS format"
    asked = [
        http(clickhouse_http_dsn, content=sql),
        http(clickhouse_http_dsn, content=sql, headers=header),
        http(clickhouse_http_dsn, content=sql, headers=header, default_format="JSONCompactEachRow"),
        http(clickhouse_http_dsn, content=sql + b" FORMAT Values;", default_format="CSV"),
    ]
    assert [answer.text for answer in asked] == ["a\t1\n", '"a",1\n', '["a", 1]\n', "('a',1)"]
    formats = [answer.headers["X-ClickHouse-Format"] for answer in asked]
    assert formats == ["TabSeparated", "CSV", "JSONCompactEachRow", "Values"]


def test_queries_run_side_by_side(clickhouse_http_dsn: str) -> None:
    """Four clients that each wait three seconds in the server are done in much less than twelve."""

    def sleep(_: int) -> None:
        http(clickhouse_http_dsn, content=b"SELECT sleep(3)").raise_for_status()

    started_s = time.monotonic()
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(sleep, range(4)))
    assert time.monotonic() - started_s < 9.0


# Inserts


@pytest.mark.parametrize(
    ("input_format", "block"),
    [
        ("TabSeparated", b"1\ta\n2\tb\\tc\n"),
        ("JSONEachRow", b'{"id": 1, "name": "a"}\n{"id": "2", "name": "b\\tc", "more": 0}\n'),
        ("CSV", b'1,a\n2,"b\tc"\n'),
        ("Values", b"(1, 'a'), (2, 'b\\tc')"),
    ],
)
@pytest.mark.parametrize("in_url", [False, True], ids=["query in body", "query in URL"])
def test_raw_inserts_of_text_formats(client: Client, input_format: str, block: bytes, in_url: bool) -> None:
    """Raw data is inserted in its format, with the statement before it in the body or apart from it in the URL."""
    client.command(EVENTS)
    data = (part for part in [block]) if in_url else block
    settings = {"input_format_skip_unknown_fields": 1}
    assert client.raw_insert("events", ["id", "name"], data, settings, input_format).written_rows == 2
    assert names(client) == ["a", "b\tc"]


@pytest.mark.parametrize("compression", [None, "gzip", "zstd", "lz4"])
def test_raw_inserts_of_protobuf_with_a_schema_in_the_url(client: Client, compression: str | None) -> None:
    """Length-delimited messages are decoded by the schema given as a setting, compressed or not."""
    client.command(EVENTS)
    block = encodings.encode(PROTO_ROWS, compression) if compression else PROTO_ROWS
    client.raw_insert("events", None, block, PROTO_SETTINGS, "Protobuf", compression)
    assert names(client) == ["a\n;\0", "bé'"]


def test_a_body_of_many_megabytes_is_inserted_whole(client: Client) -> None:
    """An insert of 16 MB in chunks arrives whole."""
    client.command(EVENTS)
    row = (7).to_bytes(8, "little") + bytes([120]) + b"x" * 120
    chunk = row * 8192
    client.raw_insert("events", None, (chunk for _ in range(16)), fmt="RowBinary")
    assert client.command("SELECT count(), sum(length(name)) FROM events") == ["131072", str(131072 * 120)]


def test_an_insert_token_makes_a_retry_harmless(client: Client) -> None:
    """The same data with the same insert_deduplication_token counts once, with another token again."""
    client.command(f"{EVENTS} SETTINGS non_replicated_deduplication_window = 100")
    for token in ("one", "one", "two"):
        settings = {"insert_deduplication_token": token} | PROTO_SETTINGS
        client.raw_insert("events", None, PROTO_ROWS, settings, "Protobuf")
    assert client.command("SELECT count() FROM events") == 4


@pytest.mark.parametrize(
    "statement",
    [
        b"INSERT INTO events FORMAT TSV\n7\tFORMAT JSON;\n",
        b"INSERT INTO events (id, name) SETTINGS async_insert = 0 FORMAT TSV 7\tFORMAT JSON;\n",
        b"/* FORMAT CSV */ insert into events -- FORMAT CSV\n format TSV \r\n7\tFORMAT JSON;\n",
        b"INSERT INTO events VALUES (7, 'FORMAT JSON;');",
        b"INSERT INTO TABLE events (id, name) Values (3 + 4, concat('FORMAT ', 'JSON;'))",
        b"INSERT INTO events SELECT 7, 'FORMAT JSON;'",
    ],
)
def test_data_begins_where_clickhouse_says(client: Client, clickhouse_http_dsn: str, statement: bytes) -> None:
    """The end of an INSERT statement and the start of its data are found in every spelling."""
    client.command(EVENTS)
    http(clickhouse_http_dsn, content=statement).raise_for_status()
    assert client.query("SELECT * FROM events").result_rows == [(7, "FORMAT JSON;")]


def test_parameters_work_in_inserts(client: Client, clickhouse_http_dsn: str) -> None:
    """A bound identifier names the table, and a bound value stands among the values."""
    client.command(EVENTS)
    into: dict[str, Any] = {"query": "INSERT INTO {table:Identifier} FORMAT TSV", "param_table": "events"}
    http(clickhouse_http_dsn, content=b"1\ta\n", **into).raise_for_status()
    values: dict[str, Any] = {"query": "INSERT INTO events VALUES (2, {name:String})", "param_name": "it's"}
    http(clickhouse_http_dsn, **values).raise_for_status()
    assert names(client) == ["a", "it's"]


def test_clickhouses_own_blocks_both_ways(client: Client, clickhouse_http_dsn: str) -> None:
    """decompress=1 reads and compress=1 writes the checksummed blocks of the native protocol."""
    client.command(EVENTS)
    body = encodings.encode_blocks(b"1\ta\n")
    http(clickhouse_http_dsn, content=body, query="INSERT INTO events FORMAT TSV", decompress="1").raise_for_status()
    answer = http(clickhouse_http_dsn, query="SELECT * FROM events", compress="1")
    assert encodings.decode_blocks(answer.content) == b"1\ta\n"
    damaged = http(clickhouse_http_dsn, content=body[:-1] + b"?", query="INSERT INTO events FORMAT TSV", decompress="1")
    assert damaged.headers["X-ClickHouse-Exception-Code"] == "40"


@pytest.mark.parametrize("encoding", ["gzip", "zstd", "lz4", "deflate"])
def test_answers_are_compressed_as_the_client_accepts(clickhouse_http_dsn: str, encoding: str) -> None:
    """An answer has the encoding the client accepts, and its content is the same; errors too."""
    headers = {"Accept-Encoding": encoding}
    with clickhouse_connect.get_client(dsn=clickhouse_http_dsn, compress=encoding) as client:
        assert client.query("SELECT number FROM numbers(1000)").row_count == 1000
        assert error_code(client, "SELECT * FROM missing") == 60
    options: dict[str, Any] = {"query": "SELECT 1", "enable_http_compression": "1"}
    answer = http(clickhouse_http_dsn, "GET", headers=headers, **options)
    assert answer.headers["Content-Encoding"] == encoding
    plain = http(clickhouse_http_dsn, "GET", headers=headers, **options | {"enable_http_compression": "0"})
    assert "Content-Encoding" not in plain.headers


# Errors


@pytest.mark.parametrize(
    ("sql", "code", "status", "name"),
    [
        ("SELECT * FROM missing", 60, 404, "UNKNOWN_TABLE"),
        ("SELECT missing", 47, 404, "UNKNOWN_IDENTIFIER"),
        ("SELECT * FROM missing.events", 81, 404, "UNKNOWN_DATABASE"),
        ("SELEC 1", 62, 400, "SYNTAX_ERROR"),
        ("SELECT 1; SELECT 2", 62, 400, "SYNTAX_ERROR"),
        ("", 62, 400, "SYNTAX_ERROR"),
        ("INSERT INTO events FORMAT TSV\nx\ta\n", 27, 400, "CANNOT_PARSE_INPUT_ASSERTION_FAILED"),
        ("INSERT INTO missing FORMAT TSV\n1\ta\n", 60, 404, "UNKNOWN_TABLE"),
        ("SELECT 1 SETTINGS no_such = 1", 115, 404, "UNKNOWN_SETTING"),
        ("SELECT 1 FORMAT NoSuch", 73, 404, "UNKNOWN_FORMAT"),
        ("SELECT {x:String}", 456, 500, "UNKNOWN_QUERY_PARAMETER"),
        ("SELECT throwIf(1, 'no (REALLY)')", 395, 500, "FUNCTION_THROW_IF_VALUE_IS_NON_ZERO"),
        ("CREATE TABLE events (id Int8) ENGINE = Memory", 57, 500, "TABLE_ALREADY_EXISTS"),
    ],
)
def test_exceptions_have_their_code_status_and_text(
    client: Client, clickhouse_http_dsn: str, sql: str, code: int, status: int, name: str
) -> None:
    """An exception has its code in the header, its name and the version once in the body, and its own status."""
    client.command(EVENTS)
    answer = http(clickhouse_http_dsn, content=sql.encode())
    assert (answer.status_code, answer.headers["X-ClickHouse-Exception-Code"]) == (status, str(code))
    assert answer.text.startswith(f"Code: {code}. DB::Exception: ")
    assert answer.text.count("DB::Exception") == answer.text.count(f"({name})") == answer.text.count("(version ") == 1


def test_errors_are_database_errors_with_the_right_code(client: Client) -> None:
    """clickhouse-connect raises DatabaseError with ClickHouse's code, for queries, inserts and settings."""
    client.command(EVENTS)
    assert error_code(client, "SELECT * FROM missing") == 60
    with pytest.raises(DatabaseError) as caught:
        client.raw_insert("events", None, b"\xff\xff", PROTO_SETTINGS, "Protobuf")
    assert caught.value.code is not None
    assert names(client) == []
    client.database = "missing"
    assert error_code(client, "SELECT 1") == 81


def test_get_and_readonly_forbid_writing(client: Client, clickhouse_http_dsn: str) -> None:
    """What came by GET, or with readonly=1, can read and not write."""
    client.command(EVENTS)
    assert http(clickhouse_http_dsn, "GET", query="SELECT count() FROM events").text == "0\n"
    by_get = http(clickhouse_http_dsn, "GET", query="INSERT INTO events VALUES (1, 'a')")
    assert by_get.headers["X-ClickHouse-Exception-Code"] == "164"
    read_only = http(clickhouse_http_dsn, content=b"DROP TABLE events", readonly="1")
    assert read_only.headers["X-ClickHouse-Exception-Code"] == "164"
    assert client.command("SELECT count() FROM events", settings={"readonly": 2}) == 0
    assert error_code(client, "DROP TABLE events", settings={"readonly": 2}) == 164


def test_health_and_the_empty_request(clickhouse_http_dsn: str, client: Client) -> None:
    """/ping and / answer Ok. without a query, and every answer names its query."""
    assert client.ping()
    assert http(clickhouse_http_dsn, "GET").text == "Ok.\n"
    answer = http(clickhouse_http_dsn, "GET", query="SELECT 1", query_id="my-id")
    assert answer.headers["X-ClickHouse-Query-Id"] == "my-id"
    assert answer.headers["X-ClickHouse-Timezone"] == str(client.command("SELECT serverTimezone()"))


# Sessions


def test_a_session_keeps_temporary_tables_and_settings(clickhouse_http_dsn: str) -> None:
    """A temporary table and a SET are there for the session's next request and for nobody else."""
    with (
        clickhouse_connect.get_client(dsn=clickhouse_http_dsn, session_id=uuid.uuid4().hex) as mine,
        clickhouse_connect.get_client(dsn=clickhouse_http_dsn, session_id=uuid.uuid4().hex) as other,
    ):
        mine.command("CREATE TEMPORARY TABLE picked (id UInt64)")
        mine.insert("picked", [[1], [2]], column_names=["id"], column_type_names=["UInt64"])
        mine.command("SET max_block_size = 777")
        query = "SELECT getSetting('max_block_size')"
        assert mine.command("SELECT sum(id) FROM picked") == 3
        assert error_code(other, "SELECT sum(id) FROM picked") == 60
        assert mine.command(query, settings={"max_block_size": 555}) == 555
        assert (mine.command(query), other.command(query) != 777) == (777, True)


def test_a_session_is_for_one_request_at_a_time(clickhouse_http_dsn: str) -> None:
    """A second request in a busy session is refused (373), an unknown one with session_check=1 too (372)."""
    session_id = uuid.uuid4().hex
    unknown = http(clickhouse_http_dsn, query="SELECT 1", session_id=session_id, session_check="1")
    assert unknown.headers["X-ClickHouse-Exception-Code"] == "372"
    codes: list[str | None] = []

    def ask() -> None:
        answer = http(clickhouse_http_dsn, query="SELECT sleep(3)", session_id=session_id)
        codes.append(answer.headers.get("X-ClickHouse-Exception-Code"))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, codes)) == ["373", "None"]


def test_a_session_ends_after_its_timeout(clickhouse_http_dsn: str) -> None:
    """A session that was idle for longer than session_timeout is not found any more."""
    options: dict[str, Any] = {"query": "SELECT 1", "session_id": uuid.uuid4().hex, "session_timeout": "1"}
    assert http(clickhouse_http_dsn, **options).status_code == 200
    assert http(clickhouse_http_dsn, **options, session_check="1").status_code == 200
    # Asking keeps a session open, so this can only wait for the clock: two of the server's own seconds and a half.
    http(clickhouse_http_dsn, query="SELECT sleep(2.5)").raise_for_status()
    assert http(clickhouse_http_dsn, **options, session_check="1").headers["X-ClickHouse-Exception-Code"] == "372"
