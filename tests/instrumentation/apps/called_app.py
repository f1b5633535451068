"""A service that another service calls, and that authenticates nobody itself."""

from __future__ import annotations

from fastapi import FastAPI
from otel_credits import track_compute_usage
from otel_credits._context import current_usage
from otel_credits.fastapi import instrument_fastapi

app = FastAPI()
instrument_fastapi(app)


@app.get("/work")
def work() -> None:
    """Charged to whom the caller names, for what it names."""
    usage = current_usage()
    track_compute_usage(action_type=(usage and usage.action_type) or "default", credits=1)
