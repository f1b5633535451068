"""Runs requests in threads, each on a connection of its own or on its session's."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from ._engine import Engine, Result, run
from ._errors import QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING, ServerError
from ._request import Query
from ._sessions import SessionRequest, Sessions, restored

THREADS_MAX = 100  # as many as the max_concurrent_queries of ClickHouse's shipped configuration

Interrupt = Callable[[], None] | None


class Executor:
    """The threads in front of the engine, and what they share: sessions and the ids of running queries."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._sessions = Sessions(engine)
        self._threads = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="query")
        self._running: set[str] = set()
        self._running_lock = threading.Lock()

    async def run(self, query: Query, query_id: str, interrupt: Interrupt) -> Result:
        """Run a query to its end, even if its client goes away meanwhile, as a server does with an insert.

        Raises `ServerError`, or RuntimeError as chDB raises it.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._run, query, query_id, interrupt)

    def close(self) -> None:
        """Wait for what still runs, and end all sessions."""
        self._threads.shutdown()
        self._sessions.close()

    def _run(self, query: Query, query_id: str, interrupt: Interrupt) -> Result:
        with self._registered(query_id):
            if query.session is not None:
                return self._run_in_session(query, query.session, interrupt)
            with self._engine.connection() as connection:
                return run(connection, query.statement, query.context, interrupt)

    def _run_in_session(self, query: Query, asked: SessionRequest, interrupt: Interrupt) -> Result:
        with (
            self._sessions.lend(asked) as session,
            restored(session, query.statement, query.context) as context,
        ):
            return run(session.connection, query.statement, context, interrupt)

    @contextmanager
    def _registered(self, query_id: str) -> Iterator[None]:
        with self._running_lock:
            if query_id in self._running:
                text = f"Query with id = {query_id} is already running."
                raise ServerError(QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING, text)
            self._running.add(query_id)
        try:
            yield
        finally:
            self._running.discard(query_id)
