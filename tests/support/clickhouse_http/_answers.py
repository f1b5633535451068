"""The answers of the HTTP interface: status, headers and body, from a result or an exception."""

import json
from dataclasses import dataclass, field

from starlette.responses import Response

from . import _encodings, _errors
from ._engine import Engine, Result
from ._request import Envelope, Query

_PLAIN_TEXT = "text/plain; charset=UTF-8"
_CONTENT_TYPES = {
    "TabSeparated": "text/tab-separated-values; charset=UTF-8",
    "TSV": "text/tab-separated-values; charset=UTF-8",
    "CSV": "text/csv; charset=UTF-8; header=absent",
    "JSON": "application/json; charset=UTF-8",
    "JSONEachRow": "application/x-ndjson; charset=UTF-8",
    "Native": "application/octet-stream",
    "RowBinary": "application/octet-stream",
}


@dataclass(frozen=True)
class Answer:
    """An answer before it is compressed."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def success(query: Query, result: Result) -> Answer:
    """Answer a statement that ran. Only one that has a result, be it without rows, names a format."""
    headers = {"Content-Type": _PLAIN_TEXT, "X-ClickHouse-Summary": json.dumps(result.summary)}
    if query.statement.has_result:
        output_format = query.context.output_format
        headers["X-ClickHouse-Format"] = output_format
        headers["Content-Type"] = _CONTENT_TYPES.get(output_format, _PLAIN_TEXT)
    return Answer(200, result.body, headers)


def exception(error: _errors.ServerError, engine: Engine) -> Answer:
    """Answer an exception: its code in a header, its text in the body, and the status that goes with it."""
    name = engine.error_name(error.code)
    headers = {"Content-Type": _PLAIN_TEXT, "X-ClickHouse-Exception-Code": str(error.code)}
    return Answer(_errors.http_status(name), _errors.body(error, name, engine.version), headers)


def response(answer: Answer, asked: Envelope, engine: Engine) -> Response:
    """Make the HTTP response: compressed as the client asked, with the headers every answer carries."""
    headers = {
        "X-ClickHouse-Server-Display-Name": engine.host_name,
        "X-ClickHouse-Query-Id": asked.query_id,
        "X-ClickHouse-Timezone": engine.timezone,
    } | answer.headers
    body = _encodings.encode_blocks(answer.body) if asked.in_blocks and answer.status == 200 else answer.body
    if asked.encoding and body:
        body = _encodings.encode(body, asked.encoding)
        headers["Content-Encoding"] = asked.encoding
    return Response(body, answer.status, headers)
