"""Where the example apps are, and what they need."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from otel_credits_aggregator.demo._options import DemoError

_PACKAGED = Path(__file__).resolve().parent.parent / "_examples"
_IN_REPOSITORY = Path(__file__).resolve().parents[3] / "examples"
_NEEDED_MODULES = ("anthropic", "celery", "fastapi", "httpx", "redis", "uvicorn")


def examples_dir() -> Path:
    """Return the folder of the example apps: the wheel's copy, else the repository's (editable install).

    Raises:
        DemoError: neither is there.
    """
    for folder in (_PACKAGED, _IN_REPOSITORY):
        if (folder / "chat_app.py").is_file():
            return folder
    raise DemoError(f"the example apps are neither in {_PACKAGED} nor in {_IN_REPOSITORY}")


def check_requirements() -> None:
    """Raise DemoError with the command to run if a package that the example apps import is missing."""
    missing = [name for name in _NEEDED_MODULES if importlib.util.find_spec(name) is None]
    if missing:
        command = "pip install 'otel-credits[embedded,fastapi,celery]' anthropic redis"
        raise DemoError(f"the example apps need {', '.join(missing)}: {command}")
