"""What the routes work with, and parameters that several of them have."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Protocol, cast

from fastapi import Depends, Path, Query, Request

from otel_credits_aggregator.access import Token
from otel_credits_aggregator.ledger import Ledger, OneUserLedger
from otel_credits_aggregator.ledger._server import Server
from otel_credits_aggregator.ledger.fields import UserId
from otel_credits_aggregator.ledger.interface import LIMIT_DEFAULT, LIMIT_MAX

__all__ = [
    "LIMIT",
    "Aggregator",
    "LedgerOfApp",
    "Limit",
    "Metrics",
    "PathUserId",
    "QueryUserId",
    "State",
    "StateOfApp",
]


class Metrics(Protocol):
    """The server's numbers."""

    def text(self) -> bytes:
        """The Prometheus text exposition."""


class Aggregator(Server, Protocol):
    """What the API needs of the server around it."""

    @property
    def metrics(self) -> Metrics:
        """Its numbers."""

    def readiness(self) -> Mapping[str, bool]:
        """What must hold before it is ready, and whether it does."""


@dataclass(frozen=True)
class State:
    """What an app was made with."""

    ledger: Ledger
    aggregator: Aggregator
    store_id: str


async def _state(request: Request) -> State:
    state: State = request.app.state.otel_credits
    return state


async def _ledger(request: Request) -> Ledger:
    """The ledger, as far as the caller may see it."""
    ledger = (await _state(request)).ledger
    token: Token | None = getattr(request.state, "token", None)
    if token is None or token.user_id is None:
        return ledger
    return cast("Ledger", OneUserLedger(ledger, token.user_id))


StateOfApp = Annotated[State, Depends(_state)]
LedgerOfApp = Annotated[Ledger, Depends(_ledger)]
PathUserId = Annotated[UserId, Path(description="The user's id, percent-encoded.")]
QueryUserId = Annotated[UserId | None, Query(alias="user", description="Only this user.")]
Limit = Annotated[int, Query(ge=1, le=LIMIT_MAX, description="Rows at most.")]
LIMIT = LIMIT_DEFAULT
