"""Carrying the usage context into thread pools.

A function that is handed to a `ThreadPoolExecutor` (also by `loop.run_in_executor`) runs in a thread that knows nothing
of the request it works for; Python copies no context there. It is given the usage context of whoever submitted it, and
nothing else: the trace context stays as it was, so the app's own traces do not change.

A bare `threading.Thread` is not touched. One that is started in a request and then works for everybody (a batcher, a
consumer) would charge all its work to that one user; a usage without a user is quarantined instead, and can be assigned.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from opentelemetry import context as context_api

from otel_credits._context import current_usage, with_usage

_original_submit: Callable[..., Future[Any]] | None = None


def carry_into_thread_pools() -> None:
    """From now on, what is submitted to a thread pool runs with the usage context of whoever submitted it."""
    global _original_submit
    if _original_submit is not None:
        return
    original: Any = ThreadPoolExecutor.submit
    _original_submit = original

    @functools.wraps(original)
    def submit(self: ThreadPoolExecutor, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        usage = current_usage()
        # Also without one: a pool's thread may have inherited the context of whoever made the pool start it.
        future: Future[Any] = original(self, _run, usage, fn, *args, **kwargs)
        return future

    ThreadPoolExecutor.submit = submit  # type: ignore[method-assign, assignment]


def leave_thread_pools() -> None:
    """Undo it."""
    global _original_submit
    if _original_submit is not None:
        ThreadPoolExecutor.submit = _original_submit  # type: ignore[method-assign]
        _original_submit = None


def _run(usage: Any, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    if usage is current_usage():
        return fn(*args, **kwargs)
    token = context_api.attach(with_usage(usage))
    try:
        return fn(*args, **kwargs)
    finally:
        context_api.detach(token)
