"""A test server that answers ClickHouse's HTTP interface from chDB, in a process of its own.

No ClickHouse server can be installed where these tests run, but chDB is the same engine. This package puts
HTTP in front of it, so that clickhouse-connect's HTTP client meets what it would meet at a server: the query in
the URL or the body, settings and parameters in the URL, formats, compression, sessions, and exceptions with
their codes and statuses. It can also misbehave on demand (`Fault`).

Tests use `ClickHouseHttp`, the process, or the fixtures of `support.clickhouse_http.fixture`. The rest of the
package is the server itself and is imported in the server's process only, because chDB allows one data path
per process.

What a real server does and this one does not:

- Results are built whole before they are sent, so a failure in the middle of a stream never happens.
- `client_protocol_version`, roles, quotas, progress headers, br and snappy are not there.
- External tables and `INSERT ... SELECT ... FROM input(...)` with data are refused with NOT_IMPLEMENTED.
- Asynchronous inserts are inserted at once. `queryID()` is not the request's query_id.
- In a session, `readonly` is checked by the kind of the statement and not by the engine.
"""

from typing import TYPE_CHECKING, Any

from .faults import Fault

if TYPE_CHECKING:
    from .process import ClickHouseHttp

__all__ = ["ClickHouseHttp", "Fault"]


def __getattr__(name: str) -> Any:
    # Not in the server's process, which would take twice as long to start with what starts it.
    if name == "ClickHouseHttp":
        from .process import ClickHouseHttp

        return ClickHouseHttp
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
