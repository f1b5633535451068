"""`python -m support.clickhouse_http --port N (--path DIR | --memory)`: serve until SIGTERM or Ctrl-C."""

import argparse
import gc
import os
import signal
import sys
import threading
import time

import uvicorn
from starlette.requests import Request

from ._chaos import Chaos
from ._engine import Engine
from .app import HttpInterface

URI_BYTES_MAX = 1 << 20  # ClickHouse's http_max_uri_size; a schema travels in the URL
HEADERS_BYTES_MAX = 1 << 16
KEEP_ALIVE_S = 30  # ClickHouse's keep_alive_timeout
GRACEFUL_SHUTDOWN_S = 5
PARENT_POLL_INTERVAL_S = 1.0


def main() -> None:
    """Serve a chDB directory, or one in memory."""
    options = _options()
    # chDB would load it, for formats that are never asked for here.
    sys.modules["pyarrow"] = None  # type: ignore[assignment]
    engine = Engine(":memory:" if options.memory else options.path)
    # All that was imported lives until the end, so that it is not looked through for garbage.
    gc.freeze()
    if options.end_with_parent:
        threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    serve(engine, options.host, options.port, options.user, options.password)
    engine.close()


def serve(engine: Engine, host: str, port: int, user: str | None, password: str) -> None:
    """Answer requests until a signal ends it."""
    # The interface needs the server to cut connections, and the server needs the interface to serve it.
    chaos = Chaos(cut=lambda request: _abort(server, request))
    interface = HttpInterface(engine, chaos, user, password)
    server = uvicorn.Server(
        uvicorn.Config(
            interface.app(),
            host=host,
            port=port,
            http="h11",
            ws="none",
            lifespan="off",
            server_header=False,
            log_level="warning",
            h11_max_incomplete_event_size=URI_BYTES_MAX + HEADERS_BYTES_MAX,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=GRACEFUL_SHUTDOWN_S,
        )
    )
    server.run()
    interface.close()


def _abort(server: uvicorn.Server, request: Request) -> None:
    for connection in list(server.server_state.connections):
        transport = getattr(connection, "transport", None)
        if transport is not None and getattr(connection, "client", None) == request.client:
            transport.abort()


def _end_with_parent(parent_pid: int) -> None:
    """End when the process that started this one is gone, so that an aborted test run leaves nothing behind."""
    while os.getppid() == parent_pid:
        time.sleep(PARENT_POLL_INTERVAL_S)
    os.kill(os.getpid(), signal.SIGTERM)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m support.clickhouse_http", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--path", help="chDB's data directory")
    where.add_argument("--memory", action="store_true", help="keep the data in memory")
    parser.add_argument("--user", help="the only user that may ask; without it, anybody may")
    parser.add_argument("--password", default="")
    parser.add_argument("--end-with-parent", action="store_true", help="end when the starting process has ended")
    return parser.parse_args()


if __name__ == "__main__":
    main()
