"""What a query from outside may do: read this store's tables, and nothing else.

ClickHouse's `readonly = 1` refuses writes, changed settings, and table functions that open files or connections. It
does not refuse, tried on 26.9: `INTO OUTFILE` in the embedded engine, the function `file()`, `DESCRIBE` of a table
function, `KILL QUERY`, `BACKUP`, `merge()` and `cluster()`, other databases, and several statements in one text. So the
query is first parsed by ClickHouse itself (`formatQuery` refuses several statements and drops comments), what it is
made of is read from `EXPLAIN AST`, and the text that was checked is the text that runs.

In server mode the ClickHouse user's grants are the outer wall; this is the inner one.
"""

import re
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass

from otel_credits_aggregator.ledger.errors import InvalidQueryError
from otel_credits_aggregator.store import Client, DatabaseError, rows

__all__ = ["OWN_ROWS_ONLY", "checked_query"]

QUERY_BYTES_MAX = 100_000
_SYNTAX_ERROR = 62  # ClickHouse, src/Common/ErrorCodes.cpp

_STATEMENTS = frozenset(
    {
        "SelectWithUnionQuery",
        "ShowTables",
        "ShowCreateTableQuery",
        "ShowCreateViewQuery",
        "DescribeQuery",
        "ExistsTableQuery",
    }
)
_TABLE_FUNCTIONS = frozenset(
    {
        "generate_series",
        "generateseries",
        "null",
        "numbers",
        "numbers_mt",
        "sqlstandardvalues",
        "values",
        "view",
        "zeros",
    }
)
# Functions that read files, call other hosts, wait, write to logs, or read tables that are named by a string.
_FUNCTIONS_REFUSED = frozenset(
    {
        *("catboostevaluate", "file", "generateserialid", "getclienthttpheader", "hascolumnintable", "logtrace"),
        *("reversednsquery", "showcertificate", "sleep", "sleepeachrow"),
        # And those that tell of the machine and the server.
        *("filesystemavailable", "filesystemcapacity", "filesystemunreserved", "getmacro", "getoskernelversion"),
        *("getserversetting", "zookeepersessionuptime"),
    }
)
_FAMILY_REFUSED = "(addressTo|ai[A-Z]|dictGet|dictHas|dictIsIn|joinGet|regionTo)"
_FAMILY_CALLED = re.compile(_FAMILY_REFUSED, re.IGNORECASE)
_FAMILY_NAMED = re.compile(_FAMILY_REFUSED)
_SYSTEM_TABLES = frozenset({"columns", "functions", "numbers", "one", "parts", "tables", "zeros"})
_SCHEMA_DATABASES = frozenset({"information_schema", "INFORMATION_SCHEMA"})
# Where the names of other databases are; of the other tables of these databases only our own rows are seen.
_NAMES_OF_DATABASES = frozenset({"information_schema.schemata", "INFORMATION_SCHEMA.SCHEMATA"})
OWN_ROWS_ONLY = (
    "{'system.tables': 'database = currentDatabase()', 'system.columns': 'database = currentDatabase()', "
    "'system.parts': 'database = currentDatabase()'}"
)
"""For the setting `additional_table_filters`: what tells of tables tells of this store's only."""

# `SHOW` is one kind of statement whatever it shows.
_SHOW = re.compile(r"SHOW (FULL )?(TEMPORARY )?TABLES\b")

# `formatQuery` puts these clauses at the start of a line of their own; line breaks in literals and names are escaped.
_OUTPUT_CLAUSE = re.compile(r"^(INTO OUTFILE|FORMAT|SETTINGS)\b", re.MULTILINE)
_NODE = re.compile(r"(?P<indent> *)(?P<kind>\w*) ?(?P<name>.*?)(?: \(alias .*| \(children .*)?$")


@dataclass(frozen=True)
class _Node:
    kind: str
    name: str
    parent: str


def checked_query(client: Client, query: str) -> str:
    """The query as ClickHouse writes it, if it may run.

    Args:
        client: a client whose settings have `readonly = 1`.
        query: one statement, with or without a semicolon at its end.

    Raises:
        InvalidQueryError: it is not valid SQL or may not run; the message says what to change.
        ClickHouseError: ClickHouse could not tell.
    """
    if len(query.encode("utf-8", "surrogatepass")) > QUERY_BYTES_MAX:
        raise InvalidQueryError(f"the query is longer than {QUERY_BYTES_MAX} bytes")
    text = _parsed(client, query)
    clause = _OUTPUT_CLAUSE.search(text)
    if clause:
        raise InvalidQueryError(f"leave out {clause[1]}: the output and the settings of a query are fixed here")
    nodes = list(_nodes(client, text))
    if any(node.kind == "Set" for node in nodes):
        raise InvalidQueryError("leave out SETTINGS: the settings of a query are fixed here")
    if nodes[0].kind not in _STATEMENTS:
        raise InvalidQueryError("only reading is allowed: SELECT, SHOW TABLES, SHOW CREATE TABLE, DESCRIBE, EXISTS")
    if nodes[0].kind == "ShowTables" and _SHOW.match(text) is None:
        raise InvalidQueryError("of SHOW only TABLES and CREATE TABLE are allowed here")
    _check_functions(nodes)
    _check_tables(client, nodes)
    return text


def _parsed(client: Client, query: str) -> str:
    try:
        text: str = rows(client, "SELECT formatQuery({query:String}) AS text", {"query": query})[0]["text"]
    except DatabaseError as error:
        if error.code != _SYNTAX_ERROR:
            raise
        # What follows repeats the whole query inside ours.
        raise InvalidQueryError(str(error).split(": In scope SELECT formatQuery")[0]) from error
    return text


def _nodes(client: Client, text: str) -> Iterator[_Node]:
    """The syntax tree: one node a line, children indented by one blank more.

    A name with a line break in it can make up lines of its own, but cannot hide one, and does not end what was there.
    """
    kinds: dict[int, str] = {}
    for line in client.raw_query(f"EXPLAIN AST\n{text}", fmt="TSV").decode().split("\n"):
        match = _NODE.match(line)
        if match is not None:
            depth = len(match["indent"])
            kinds[depth] = match["kind"]
            yield _Node(match["kind"], match["name"], kinds.get(depth - 1, ""))


def _check_functions(nodes: Sequence[_Node]) -> None:
    for node in nodes:
        if node.kind == "ColumnsApplyTransformer":
            raise InvalidQueryError("APPLY is not allowed here: name the columns and functions")
        if node.kind == "Function" and node.parent == "TableExpression" and node.name.lower() not in _TABLE_FUNCTIONS:
            raise InvalidQueryError(
                f"the table function {node.name} is not allowed here; tables of this store can be read"
            )
        if _is_refused(node):
            raise InvalidQueryError(f"the function {node.name} is not allowed here")


def _is_refused(node: _Node) -> bool:
    if node.kind == "Function":
        return node.name.lower() in _FUNCTIONS_REFUSED or _FAMILY_CALLED.match(node.name) is not None
    # A function can also be named without being called, as in arrayMap(file, names).
    return node.kind == "Identifier" and (
        node.name.lower() in _FUNCTIONS_REFUSED or _FAMILY_NAMED.match(node.name) is not None
    )


def _check_tables(client: Client, nodes: Sequence[_Node]) -> None:
    databases = rows(client, "SELECT name, name = currentDatabase() AS is_ours FROM system.databases")
    foreign = {row["name"] for row in databases if not row["is_ours"]} - _SCHEMA_DATABASES
    is_about_a_name = nodes[0].kind.startswith(("Show", "Exists"))
    for node in nodes:
        if is_about_a_name and node.kind == "Identifier" and node.name in foreign:
            raise InvalidQueryError(f"{node.name} is not this store's database")
        # The right side of IN is a plain identifier, as a column with its table's alias is.
        if node.kind in ("TableIdentifier", "Identifier"):
            _check_name(node.name, foreign)


def _check_name(name: str, foreign: Set[str]) -> None:
    if name in _NAMES_OF_DATABASES:
        raise InvalidQueryError(f"{name} is not a table of this store")
    for database in foreign:
        if not name.startswith(f"{database}."):
            continue
        if database != "system" or name.removeprefix("system.") not in _SYSTEM_TABLES:
            raise InvalidQueryError(
                f"{name} is not a table of this store. "
                f"(If {database} is meant as an alias: take another, it is a database's name.)"
            )
