"""The state of the process: its one pipeline, and the public calls that set it up and end it."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter

from otel_credits._context import trust_inbound_baggage
from otel_credits._counters import register_counters
from otel_credits._destinations import TrustedHosts
from otel_credits._endpoint import resolve_endpoint
from otel_credits._guard import report_dropped, say_once, set_strict
from otel_credits._meter_points import usage_attributes
from otel_credits._meter_shards import Key, shards
from otel_credits._pipeline import Pipeline
from otel_credits._propagator import install_propagator
from otel_credits._queue import Stats
from otel_credits._senders import ExporterSender, Sender, SenderFactory, sender_factory
from otel_credits._settings import Settings, endpoint_in_environment, load_settings, sdk_disabled
from otel_credits._threads import carry_into_thread_pools, leave_thread_pools
from otel_credits._usage import KeptSpan, finished

if TYPE_CHECKING:
    from otel_credits._meter import CreditsMeter

logger = logging.getLogger("otel_credits")


class CapturingPipeline(Pipeline):
    """Hands each usage to a function, at once, and sends nothing (see testing.py)."""

    def __init__(self, add: Callable[[ReadableSpan], None]) -> None:
        super().__init__(Settings(), _no_sender)
        self._add = add

    def count_metered(self, meter: CreditsMeter, key: Key, scaled: int) -> None:
        self.record(usage_attributes(meter.series(key), scaled))

    def _accept(self, span: ReadableSpan | KeptSpan, attributes: dict[str, Any]) -> None:
        self._add(finished(span))


def _no_sender() -> Sender:
    raise RuntimeError("captured usage is not sent")


_pipeline: Pipeline | None = None
_given: dict[str, Any] = {}
_lock = threading.RLock()


def active() -> Pipeline | None:
    """The pipeline, set up from the environment if that names an endpoint. None, which is said once, if nothing is."""
    return _pipeline or _from_environment()


@contextmanager
def redirect_to(add: Callable[[ReadableSpan], None]) -> Iterator[None]:
    """Within the block, usages of this process go to `add`."""
    global _pipeline
    before, _pipeline = _pipeline, CapturingPipeline(add)
    shards.begin_generation()
    try:
        yield
    finally:
        _pipeline = before


def current_settings() -> Settings:
    """What `configure()` was told, or what it would read from the environment."""
    return load_settings({}) if _pipeline is None else _pipeline.settings


def _accept_span(span: ReadableSpan, attributes: Mapping[str, Any]) -> None:
    """A usage that the app made a span of."""
    if _pipeline is not None:
        _pipeline.accept_span(span, attributes)


def _from_environment() -> Pipeline | None:
    if endpoint_in_environment() and not sdk_disabled():
        configure()
        return _pipeline
    if sdk_disabled():
        say_once("disabled", logging.WARNING, "credits: OTEL_SDK_DISABLED is set: usage is not recorded")
    else:
        say_once(
            "not set up",
            logging.WARNING,
            "credits: usage is NOT recorded: call otel_credits.configure(), or set OTEL_CREDITS_ENDPOINT or "
            "OTEL_EXPORTER_OTLP_ENDPOINT (said once)",
        )
    return None


def configure(
    endpoint: str | None = None,
    *,
    protocol: str | None = None,
    service_name: str | None = None,
    charge_genai: bool | None = None,
    capture_spans: bool | None = None,
    forward_spans: str | None = None,
    trust_baggage: bool | None = None,
    user: str | Callable[..., Any] | None = None,
    trusted_hosts: str | None = None,
    thread_pools: bool | None = None,
    meter_interval_s: float | None = None,
    meter_series_max: int | None = None,
    jwt_key_file: str | None = None,
    jwt_audience: str | None = None,
    jwt_issuer: str | None = None,
    strict: bool | None = None,
    export_interval_s: float | None = None,
    export_timeout_s: float | None = None,
    batch_spans_max: int | None = None,
    batch_bytes_max: int | None = None,
    queue_spans_max: int | None = None,
    queue_bytes_max: int | None = None,
    retry_initial_s: float | None = None,
    retry_max_s: float | None = None,
    shutdown_timeout_s: float | None = None,
    counters_interval_s: float | None = None,
    spool_dir: str | None = None,
    spool_bytes_max: int | None = None,
    exporter: SpanExporter | None = None,
) -> None:
    """Set the library up. What is not given is read from the environment (see instrumentation/README.md, "Settings").

    Args:
        endpoint: where usage goes: `http://host:4317` is OTLP/gRPC, `http://host:4318` is OTLP/HTTP.
        user: who the user of a FastAPI request is, for `instrument_fastapi`: a function of the request, or a text as in
            the environment.
        forward_spans: kinds of the app's spans that are sent for billing rules to price, as in `"server,consumer"`.
        exporter: a `SpanExporter` of your own in place of OTLP (tests).
        others: as the environment variable of the same name; `_s` are seconds, `_bytes_` are bytes.

    Calling it twice is safe: without arguments it changes nothing, with others it goes on with those, and what waits
    is kept. It does not raise, except in strict mode.
    """
    given = {name: value for name, value in locals().items() if name != "exporter" and value is not None}
    try:
        _configure(given, exporter)
    except Exception as error:
        report_dropped("configure", error)


def _configure(given: dict[str, Any], exporter: SpanExporter | None) -> None:
    global _pipeline
    with _lock:
        if sdk_disabled():
            say_once("disabled", logging.WARNING, "credits: OTEL_SDK_DISABLED is set: usage is not recorded")
            return
        if _pipeline is not None and not _pipeline.queue.closed and exporter is None and given in ({}, _given):
            return
        settings = load_settings(given)
        if exporter is not None and settings.spool_dir is not None:
            say_once("spool", logging.WARNING, "credits: there is no spool with an exporter of your own")
            settings = replace(settings, spool_dir=None)
        set_strict(settings.strict)
        _carry_context(settings)
        factory = _factory(settings, exporter)
        if _pipeline is None:
            _pipeline = Pipeline(settings, factory)
            _register_once(_pipeline)
        else:
            _pipeline.change(settings, factory)
        _given.clear()
        _given.update(given)
        if settings.capture_spans:
            _pipeline.watch_spans(_accept_span)


def _carry_context(settings: Settings) -> None:
    """Let the usage context reach what works for it: thread pools, and trusted hosts."""
    trust_inbound_baggage(settings.trust_baggage)
    install_propagator(TrustedHosts.parse(settings.trusted_hosts))
    if settings.thread_pools:
        carry_into_thread_pools()
    else:
        leave_thread_pools()


def _factory(settings: Settings, exporter: SpanExporter | None) -> SenderFactory:
    if exporter is not None:
        return lambda: ExporterSender(exporter)
    endpoint = resolve_endpoint(settings)
    logger.info("credits: usage goes to %s (%s)", endpoint.url, endpoint.protocol)
    return sender_factory(endpoint, settings.export_timeout_s)


def _register_once(pipeline: Pipeline) -> None:
    register_counters(lambda: pipeline.queue.stats())
    atexit.register(shutdown)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=pipeline.before_fork,
            after_in_parent=pipeline.after_fork_in_parent,
            after_in_child=pipeline.after_fork,
        )


def _new_lock() -> None:
    """In a forked child, where the lock may be held by a thread that stayed with the parent."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)


def flush(timeout_s: float = 10.0) -> bool:
    """Send everything recorded so far, and wait for it at most `timeout_s` seconds.

    Returns:
        True if all of it was acknowledged. False if some still waits (it stays queued and is tried again), or if
        some was given up since the last flush. True if nothing is set up, as nothing was recorded.
    """
    return True if _pipeline is None else _pipeline.flush(timeout_s)


def shutdown(timeout_s: float | None = None) -> bool:
    """Deliver what waits, for at most `timeout_s` seconds (`shutdown_timeout_s`, 5 by default), and take nothing more.

    It runs by itself at the end of the interpreter. What cannot be delivered is counted as failed and logged.
    `configure()` starts again.

    Returns:
        True if everything recorded was acknowledged.
    """
    return True if _pipeline is None else _pipeline.shutdown(timeout_s)


def stats() -> Stats:
    """How many usages this process recorded, and what became of them: recorded = exported + failed + waiting."""
    return Stats() if _pipeline is None else _pipeline.queue.stats()
