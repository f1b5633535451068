"""What the library's tests share: a receiver, and a library that starts afresh in each test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from otel_credits import _context, _guard, _propagator, _runtime, _threads, configure, reset_task_credit_costs
from support.otlp_sink import OtlpSink


@pytest.fixture(autouse=True)
def fresh_library(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test starts with nothing set up, no OTEL_* variable, and ends with its pipeline stopped."""
    for name in list(os.environ):
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)
    _forget()
    yield
    if _runtime._pipeline is not None:
        _runtime._pipeline.queue.closed = True
        _runtime._pipeline.thread.stop(timeout_s=2.0)
    _forget()


def _forget() -> None:
    _runtime._pipeline = None
    _runtime._given.clear()
    _guard.set_strict(False)
    _guard.forget_what_was_said()
    _context.trust_inbound_baggage(False)
    _propagator.remove_propagator()
    _threads.leave_thread_pools()
    reset_task_credit_costs()


@pytest.fixture
def sink() -> Iterator[OtlpSink]:
    """A receiver that acknowledges everything."""
    with OtlpSink() as started:
        yield started


@pytest.fixture
def configured(sink: OtlpSink) -> Callable[..., OtlpSink]:
    """`configured(**settings)` sets the library up to send to the sink, leaving the global tracer provider alone."""

    def set_up(**settings: object) -> OtlpSink:
        configure(**{"endpoint": sink.endpoint, "capture_spans": False, "retry_initial_s": 0.05, **settings})
        return sink

    return set_up
