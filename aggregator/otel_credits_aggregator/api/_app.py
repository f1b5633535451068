"""The app factory."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from otel_credits_aggregator.access import Gate
from otel_credits_aggregator.api import (
    _aliases,
    _conventions,
    _operations,
    _prices,
    _quarantine,
    _records,
    _rules,
    _sql,
    _users,
)
from otel_credits_aggregator.api._access import TAKES_TOKEN, AccessMiddleware
from otel_credits_aggregator.api._errors import add_error_handlers
from otel_credits_aggregator.api._parameters import KNOWN_ONLY
from otel_credits_aggregator.api._state import Aggregator, State
from otel_credits_aggregator.ledger import Ledger, LocalLedger, store_id
from otel_credits_aggregator.settings import Settings

__all__ = ["create_app"]

_DESCRIPTION = """
The credit ledger: balances, grants, charges, prices, and what could not be charged.

Credits and quantities are decimal strings in answers, and best sent as strings (a JSON number is read by its shortest
decimal form). Times are UTC, ISO 8601. Every error is `{"detail": "what is wrong and what to do"}`.
"""


def create_app(
    settings: Settings, aggregator: Aggregator, ledger: Ledger | None = None, gate: Gate | None = None
) -> FastAPI:
    """The aggregator's HTTP API.

    Args:
        settings: names the store, and the file of the tokens.
        aggregator: the server around the API; its readiness, its metrics, its replay of the quarantine.
        ledger: what is served; None opens the settings' store, and closes it when the app shuts down.
        gate: who may call; None: by the settings' tokens.
    """
    served = ledger or LocalLedger(settings.dsn, server=aggregator, settings=settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        if ledger is None:
            await asyncio.to_thread(served.close)

    app = FastAPIOffline(
        title="otel-credits",
        version="1",
        description=_DESCRIPTION,
        redoc_url=None,
        static_url="/docs-assets",
        lifespan=lifespan,
    )
    app.state.otel_credits = State(served, aggregator, store_id(settings.dsn))
    app.add_middleware(AccessMiddleware, gate=gate or Gate(settings.tokens_path, required=bool(settings.tokens_file)))
    add_error_handlers(app)
    app.include_router(_operations.router)
    for part in (_users, _records, _prices, _aliases, _rules, _conventions, _quarantine, _sql):
        app.include_router(part.router, prefix="/api/v1", dependencies=[TAKES_TOKEN, KNOWN_ONLY])
    return app
