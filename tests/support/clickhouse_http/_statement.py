"""Where a statement ends and its data begins, and what kind of statement it is.

The engine parses the SQL. This only finds what a server decides before that: whether data follows, in which
format the result is wanted, and whether there is a result at all.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ._errors import NOT_IMPLEMENTED, SYNTAX_ERROR, ServerError

_TOKEN = re.compile(
    rb"""
      (?P<skip>\s+|--[^\n]*|\#[!\x20][^\n]*|/\*.*?\*/)
    | (?P<quoted>'(?:[^'\\]|\\.|'')*'|"(?:[^"\\]|\\.|"")*"|`(?:[^`\\]|\\.|``)*`|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$)
    | (?P<word>[A-Za-z_]\w*)
    | (?P<other>.)
    """,
    re.X | re.S,
)
# ClickHouse lets data start after the blanks of the line that ends with the format's name.
_DATA_START = re.compile(rb"[ \t\f]*\r?\n?")
_ANSWERS_ROWS_AND_READS = {"SELECT", "WITH", "FROM", "SHOW", "DESCRIBE", "DESC", "EXISTS", "EXPLAIN", "CHECK"}
_ANSWERS_ROWS = {"KILL", "BACKUP", "RESTORE"}
_READS = {"USE", "SET"}


@dataclass(frozen=True)
class Statement:
    """One statement. `sql` is without the data and, if there is data, without the FORMAT or VALUES before it."""

    sql: bytes
    kind: str
    input_format: str | None = None
    data: bytes = b""
    output_format: str | None = None

    @property
    def is_insert(self) -> bool:
        """Whether this is an INSERT whose data came with it."""
        return self.input_format is not None

    @property
    def has_result(self) -> bool:
        """Whether the statement answers rows, be it none."""
        return self.kind in _ANSWERS_ROWS_AND_READS | _ANSWERS_ROWS

    @property
    def is_reading(self) -> bool:
        """Whether a read-only user may run it."""
        return self.kind in _ANSWERS_ROWS_AND_READS | _READS


@dataclass(frozen=True)
class _Token:
    text: str
    start: int
    end: int


def parse(text: bytes) -> Statement:
    """Split a request's text, which is the query followed by data if it is an INSERT.

    Raises `ServerError` if there is no statement or more than one.
    """
    tokens = _tokens(text)
    first = next((token for token in tokens if token.text != "("), None)
    if first is None or first.text == ";":
        raise ServerError(SYNTAX_ERROR, "Syntax error: Empty query")
    if first.text == "INSERT":
        return _parse_insert(text, tokens)
    return _parse_other(text, first, list(tokens))


def _tokens(text: bytes) -> Iterator[_Token]:
    """Yield the tokens that mean something: words in upper case, quoted things as their quote, signs as they are."""
    for match in _TOKEN.finditer(text):
        if match.lastgroup == "word":
            yield _Token(match[0].decode().upper(), match.start(), match.end())
        elif match.lastgroup != "skip":
            yield _Token(chr(text[match.start()]), match.start(), match.end())


def _parse_insert(text: bytes, tokens: Iterator[_Token]) -> Statement:
    """Read up to FORMAT or VALUES and no further, because what follows is data, maybe binary."""
    depth = 0
    selects = False
    before = "INSERT"
    for token in tokens:
        depth += (token.text in "([{") - (token.text in ")]}")
        names_something = before in {"INTO", "TABLE", "FUNCTION", "."}
        if depth == 0 and not names_something:
            if token.text == "VALUES" and not selects:
                return _insert_with_data(text, token.start, "Values", token.end)
            if token.text == "FORMAT":
                return _insert_with_format(text, token, next(tokens, None), selects)
            selects = selects or token.text in {"SELECT", "WITH", "INFILE"}
            if token.text == ";":
                _refuse_more_after(token, tokens, text)
        before = token.text
    return Statement(text, "INSERT")


def _insert_with_format(text: bytes, token: _Token, name: _Token | None, selects: bool) -> Statement:
    if name is None:
        return Statement(text, "INSERT")
    if selects:
        raise ServerError(NOT_IMPLEMENTED, "The test server has no INSERT ... SELECT FROM input() with data")
    return _insert_with_data(text, token.start, text[name.start : name.end].decode(), name.end)


def _insert_with_data(text: bytes, sql_end: int, input_format: str, data_gap: int) -> Statement:
    start = _DATA_START.match(text, data_gap)
    return Statement(text[:sql_end], "INSERT", input_format, text[start.end() if start else data_gap :])


def _parse_other(text: bytes, first: _Token, rest: list[_Token]) -> Statement:
    for index, token in enumerate(rest):
        if token.text == ";":
            _refuse_more_after(token, iter(rest[index + 1 :]), text)
    return Statement(text, first.text, output_format=_output_format(text, rest))


def _refuse_more_after(semicolon: _Token, rest: Iterator[_Token], text: bytes) -> None:
    if any(token.text != ";" for token in rest):
        where = f"failed at position {semicolon.start + 1} (end of query)"
        shown = text[semicolon.start :][:100].decode("utf-8", "replace")
        raise ServerError(SYNTAX_ERROR, f"Syntax error (Multi-statements are not allowed): {where}: {shown}")


def _output_format(text: bytes, tokens: list[_Token]) -> str | None:
    """Return the format that the statement names at its end, before SETTINGS if there are any."""
    for index in range(len(tokens) - 2, -1, -1):
        follower = tokens[index + 2].text if index + 2 < len(tokens) else ";"
        if tokens[index].text == "FORMAT" and follower in {";", "SETTINGS"}:
            name = tokens[index + 1]
            return text[name.start : name.end].decode("utf-8", "replace")
    return None
