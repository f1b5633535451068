"""What `opentelemetry-instrument` calls.

Its two entry points: the instrumentor sets the library up from the environment, and the hook that runs after all
instrumentors adds our part for FastAPI and Celery. The official instrumentations are switched on by their own entry
points, and ours has to come after them.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Collection
from typing import Any

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]

from otel_credits._runtime import configure, current_settings, shutdown
from otel_credits._settings import endpoint_in_environment

logger = logging.getLogger("otel_credits")

_NAME = "otel_credits"


class CreditsInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """`configure()` from the environment, if that names an endpoint."""

    def instrumentation_dependencies(self) -> Collection[str]:
        return ()

    def _instrument(self, **kwargs: Any) -> None:
        if endpoint_in_environment():
            configure()

    def _uninstrument(self, **kwargs: Any) -> None:
        shutdown()


def after_instrumentors() -> None:
    """Add our part for the frameworks that are installed. Never raises: that would end auto-instrumentation."""
    disabled = {name.strip() for name in os.environ.get("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "").split(",")}
    if disabled & {_NAME, "*"} or not endpoint_in_environment():
        return
    for add in (_fastapi, _celery):
        try:
            add()
        except Exception:
            logger.exception("credits: auto-instrumentation of %s failed", add.__name__.strip("_"))


def _fastapi() -> None:
    if importlib.util.find_spec("fastapi") is not None:
        from otel_credits.fastapi import instrument_all_apps

        instrument_all_apps(current_settings().user)


def _celery() -> None:
    if importlib.util.find_spec("celery") is not None:
        from otel_credits.celery import connect_signals

        connect_signals()
