"""Putting the credit processor and the sampler wrapper on the app's tracer provider, whenever it comes.

Three cases: the app has set a provider up already; nobody has, so one is made with the standard settings
(`OTEL_TRACES_SAMPLER` and so on); and the app sets its own up after `configure()`. OpenTelemetry refuses a second
global provider, and an app must not lose its traces because it imported us first: the one that we made gives way.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.trace import ProxyTracerProvider

from otel_credits._sampler import recording

logger = logging.getLogger("otel_credits")

_MARK = "_otel_credits_processor"


class ProviderHook:
    """Keeps `processor` on the global tracer provider."""

    def __init__(self, processor: SpanProcessor, provider_changed: Callable[[], None]) -> None:
        self._processor = processor
        self._provider_changed = provider_changed
        self._own: TracerProvider | None = None
        self._lock = threading.Lock()
        self._original_set: Any = None

    def install(self) -> None:
        """Use the app's provider, or make one that gives way to it."""
        with self._lock:
            provider = trace.get_tracer_provider()
            if isinstance(provider, ProxyTracerProvider):
                self._make_own()
            elif not adopt(provider, self._processor):
                logger.warning(
                    "credits: %s is not an SDK tracer provider; spans of the app are not watched. "
                    "Tracking calls are recorded all the same.",
                    type(provider).__name__,
                )

    def _make_own(self) -> None:
        own = TracerProvider(shutdown_on_exit=False)
        adopt(own, self._processor)
        self._own = own
        trace.set_tracer_provider(own)
        self._watch_for_the_apps()

    def _watch_for_the_apps(self) -> None:
        """From now on, a provider that the app sets takes the place of ours."""
        original = getattr(trace, "_set_tracer_provider", None)
        if original is None or self._original_set is not None:
            return
        self._original_set = original

        def set_tracer_provider(tracer_provider: trace.TracerProvider, log: bool) -> None:
            if not self._give_way(tracer_provider):
                original(tracer_provider, log)

        trace._set_tracer_provider = set_tracer_provider

    def _give_way(self, provider: Any) -> bool:
        with self._lock:
            own = self._own
            if own is None or trace._TRACER_PROVIDER is not own or provider is own:
                return False
            self._own = None
            adopt(provider, self._processor)
            trace._TRACER_PROVIDER = provider
            hand_over_tracers(own, provider)
            self._provider_changed()
            return True


def adopt(provider: Any, processor: SpanProcessor) -> bool:
    """Add the processor to `provider` and wrap its sampler, also for the tracers that it gave out already. Doing it
    twice changes nothing. False if it is not a provider of the SDK."""
    if not hasattr(provider, "add_span_processor") or not hasattr(provider, "sampler"):
        return False
    if getattr(provider, _MARK, None) is processor:
        return True
    provider.sampler = recording(provider.sampler)
    for tracer in _tracers(provider):
        tracer.sampler = recording(tracer.sampler)
    provider.add_span_processor(processor)
    setattr(provider, _MARK, processor)
    return True


def _tracers(provider: Any) -> list[Any]:
    """The tracers that a provider gave out. They keep the sampler that they were made with."""
    return list(getattr(provider, "_tracers", {}).values())


def hand_over_tracers(old: TracerProvider, new: Any) -> None:
    """Let the tracers that `old` gave out make their spans as those of `new` do."""
    if not isinstance(new, TracerProvider):
        return
    for tracer in _tracers(old):
        tracer.sampler = new.sampler
        tracer.resource = new.resource
        tracer.id_generator = new.id_generator
        tracer.span_processor = new._active_span_processor
        tracer._span_limits = new._span_limits
