"""What an HTTP request asks for: its statement, and the options that came in the URL, a form or the headers."""

import base64
import binascii
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.datastructures import UploadFile
from starlette.requests import Request

from . import _encodings
from ._engine import Context
from ._errors import NOT_IMPLEMENTED, ServerError
from ._sessions import SessionRequest, read_timeout_s
from ._statement import Statement, parse

# Parameters that the HTTP interface keeps to itself; every other one is a setting or, with param_, a parameter.
_OWN = {
    *("query", "database", "default_format", "query_id", "user", "password", "quota_key", "role", "stacktrace"),
    *("session_id", "session_timeout", "session_check", "close_session", "compress", "decompress"),
    *("buffer_size", "wait_end_of_query", "client_protocol_version"),
}
_PARAM = "param_"
_GET_IS_READONLY = {"readonly": "2"}  # Source of the rule: ClickHouse documentation, HTTP interface


@dataclass(frozen=True)
class Query:
    """A request, read and split."""

    statement: Statement
    context: Context
    session: SessionRequest | None


@dataclass(frozen=True)
class Envelope:
    """What is known of a request before its body is understood: enough to answer an error as it wants it."""

    query_id: str
    user: str
    password: str
    encoding: str | None
    in_blocks: bool


def envelope(request: Request) -> Envelope:
    """Read the parts of a request that its answer depends on, whatever else is wrong with it."""
    options = request.query_params
    user, password = _credentials(request)
    compresses = options.get("enable_http_compression", "1") != "0"  # on by default, as in the engine's settings
    return Envelope(
        query_id=options.get("query_id") or str(uuid.uuid4()),
        user=user,
        password=password,
        encoding=_encodings.choose(request.headers.get("accept-encoding", "")) if compresses else None,
        in_blocks=options.get("compress", "0") != "0",
    )


async def read(request: Request) -> Query | None:
    """Read a request whole. Returns None if it asks for nothing, as `GET /` does.

    Raises `ServerError` for a body that cannot be decoded and a text that is not one statement.
    """
    options = dict(request.query_params)
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        options |= await _form(request)
        body = b""
    else:
        body = _decoded(await request.body(), request, options)
    if request.method in {"GET", "HEAD"} and not options.get("query"):
        return None
    # A URL's bytes that are not UTF-8 were replaced on their way; a query like that belongs in the body.
    query = options.get("query", "").encode("utf-8", "surrogateescape")
    statement = parse(query + b"\n" + body if query else body)
    return Query(statement, _context(request, options, statement), _session(options))


async def _form(request: Request) -> dict[str, str]:
    async with request.form() as form:
        if any(isinstance(value, UploadFile) for value in form.values()):
            raise ServerError(NOT_IMPLEMENTED, "The test server has no external tables")
        return {name: value for name, value in form.items() if isinstance(value, str)}


def _decoded(body: bytes, request: Request, options: Mapping[str, str]) -> bytes:
    body = _encodings.decode(body, request.headers.get("content-encoding", "").lower())
    return _encodings.decode_blocks(body) if options.get("decompress", "0") != "0" else body


def _context(request: Request, options: Mapping[str, str], statement: Statement) -> Context:
    settings = {name: value for name, value in options.items() if name not in _OWN and not name.startswith(_PARAM)}
    if request.method in {"GET", "HEAD"} and settings.get("readonly", "0") == "0":
        settings |= _GET_IS_READONLY
    default_format = options.get("default_format") or request.headers.get("x-clickhouse-format")
    return Context(
        database=options.get("database") or request.headers.get("x-clickhouse-database", ""),
        settings=settings,
        params={name.removeprefix(_PARAM): value for name, value in options.items() if name.startswith(_PARAM)},
        output_format=statement.output_format or default_format or "TabSeparated",
    )


def _session(options: Mapping[str, str]) -> SessionRequest | None:
    if not options.get("session_id"):
        return None
    return SessionRequest(
        id=options["session_id"],
        timeout_s=read_timeout_s(options.get("session_timeout", "")),
        must_exist=options.get("session_check") == "1",
        close=options.get("close_session") == "1",
    )


def _credentials(request: Request) -> tuple[str, str]:
    """Return user and password from the first place that has them: Basic, ClickHouse's headers, the URL."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            user, _, password = base64.b64decode(value).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return "", ""
        return user, password
    headers, options = request.headers, request.query_params
    user = headers.get("x-clickhouse-user") or options.get("user") or "default"
    return user, headers.get("x-clickhouse-key") or options.get("password") or ""
