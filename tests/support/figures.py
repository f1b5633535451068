"""What a run measured, one JSON object a line, in the file that OTEL_CREDITS_TEST_FIGURES names."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

__all__ = ["FIGURES_VARIABLE", "record"]

FIGURES_VARIABLE: Final = "OTEL_CREDITS_TEST_FIGURES"


def record(figure: str, **values: Any) -> None:
    """Adds one result. Called after the assertions that it rests on, so that only what held is published."""
    path = os.environ.get(FIGURES_VARIABLE)
    if path:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"figure": figure, "date": f"{datetime.now(UTC):%Y-%m-%d}", **values}) + "\n")
