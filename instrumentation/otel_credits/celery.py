"""Celery: one call switches on the official instrumentation and ours, in the web process and in the worker.

    from otel_credits.celery import instrument_celery

    instrument_celery()

Ours carries the usage context of whoever sent a task to the task, and from there to tasks that it sends, and flushes where a
worker's processes end: a prefork child ends without `atexit`, and `--max-tasks-per-child` ends many.
"""

from __future__ import annotations

import importlib.util
import logging
from typing import Any

from celery import signals
from opentelemetry import context as context_api
from opentelemetry.trace import get_current_span

from otel_credits._attributes import CELERY_HEADER
from otel_credits._baggage import header_of, members_of_context, members_of_header, usage_of_members
from otel_credits._context import UsageContext, current_usage, current_user, with_usage
from otel_credits._guard import say_once
from otel_credits._runtime import active
from otel_credits._span_memory import bind, name_user

logger = logging.getLogger("otel_credits")

_TOKEN = "_otel_credits_token"
_instrumented = False


def instrument_celery(app: object = None, **official: Any) -> None:
    """Switch on the official Celery instrumentation and ours, for all apps of the process.

    Args:
        app: not needed, as Celery's signals belong to no app; accepted so that the call reads like FastAPI's.
        official: passed on to `CeleryInstrumentor().instrument` (`use_span_links`, ...).
    """
    active()
    instrumentor = _official()
    if instrumentor is not None and not instrumentor.is_instrumented_by_opentelemetry:
        instrumentor.instrument(**official)
    connect_signals()


def uninstrument_celery() -> None:
    """Take both instrumentations off."""
    disconnect_signals()
    official = _official()
    if official is not None and official.is_instrumented_by_opentelemetry:
        official.uninstrument()


def _official() -> Any:
    """The official instrumentor (there is one for each process), or None where it is not installed."""
    if importlib.util.find_spec("opentelemetry.instrumentation.celery") is None:
        return None
    from opentelemetry.instrumentation import celery as official

    return official.CeleryInstrumentor()  # type: ignore[no-untyped-call]


def _handlers() -> tuple[tuple[Any, Any], ...]:
    return (
        (signals.before_task_publish, _before_publish),
        (signals.task_prerun, _before_run),
        (signals.task_postrun, _after_run),
        (signals.worker_process_init, _process_starts),
        (signals.worker_process_shutdown, _process_ends),
        (signals.worker_shutdown, _process_ends),
    )


def connect_signals() -> None:
    """Connect ours. It must come after the official instrumentation, whose handlers then run first: they replace the
    whole context before a task."""
    global _instrumented
    if not _instrumented:
        for signal, handler in _handlers():
            signal.connect(handler, weak=False)
        _instrumented = True


def disconnect_signals() -> None:
    """Disconnect ours."""
    global _instrumented
    for signal, handler in _handlers():
        signal.disconnect(handler)
    _instrumented = False


def _before_publish(headers: dict[str, Any] | None = None, **_: Any) -> None:
    try:
        members = members_of_context()
        if members and headers is not None:
            headers[CELERY_HEADER] = header_of(members)
    except Exception as error:
        say_once("celery publish", logging.ERROR, "credits: a task is sent without its user", exc_info=error)


def _before_run(task: Any = None, **_: Any) -> None:
    try:
        usage = usage_of_members(members_of_header(getattr(task.request, CELERY_HEADER, None))) or _around()
        setattr(task.request, _TOKEN, context_api.attach(with_usage(usage)))
        span = get_current_span()
        bind(span, usage)
        if usage.known_user is None:
            name_user(span, usage.user)
    except Exception as error:
        say_once("celery run", logging.ERROR, "credits: a task runs without its user", exc_info=error)


def _around() -> UsageContext:
    """The usage context of a task that came without one: of whoever runs it eagerly, or one of its own."""
    return UsageContext.within(current_usage(), user=current_user())


def _after_run(task: Any = None, **_: Any) -> None:
    token = getattr(getattr(task, "request", None), _TOKEN, None)
    if token is not None:
        context_api.detach(token)


def _process_starts(**_: Any) -> None:
    """A forked child: with a spool, it may take the place of one that was killed."""
    pipeline = active()
    if pipeline is not None:
        pipeline.send_left_files()


def _process_ends(**_: Any) -> None:
    pipeline = active()
    if pipeline is not None and not pipeline.flush_at_end():
        logger.error("credits: a worker ends with undelivered usage: %s", pipeline.queue.stats())
