"""Who may call the API: reading takes a read token, everything else an admin's; a user's own token sees the user's own.

The rule holds for paths that do not exist yet, too: what is not named here is closed to all but the role that may do it.
"""

import re

from fastapi import Depends
from fastapi.security import HTTPBearer
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from otel_credits_aggregator.access import Gate, Role, Token
from otel_credits_aggregator.api._errors import refused
from otel_credits_aggregator.outcomes import NotPermitted, Refusal

__all__ = ["TAKES_TOKEN", "AccessMiddleware"]

# They say nothing of anybody, and who watches a process has no token.
_OPEN = frozenset({"/healthz", "/readyz"})
_READING_POSTS = frozenset({"/api/v1/sql"})
# What a token that is bound to a user may ask for; `OneUserLedger` holds it to that user.
_OF_ONE_USER = re.compile(r"/api/v1/(users/.+/(balance|grants)|events|usage/monthly)", re.DOTALL)


# Only says in OpenAPI that a route takes a token: whether it is a good one is asked before any route is.
TAKES_TOKEN = Depends(HTTPBearer(auto_error=False, description="A token, if the aggregator asks for one."))


class AccessMiddleware:
    """Lets a request through if its token may make it; the token is then in the request's state."""

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in _OPEN:
            try:
                token = self._admit(scope)
            except Refusal as refusal:
                await refused(refusal)(scope, receive, send)
                return
            scope.setdefault("state", {})["token"] = token
        await self._app(scope, receive, send)

    def _admit(self, scope: Scope) -> Token | None:
        token = self._gate.admit(Headers(scope=scope).get("authorization"), *_roles(scope["method"], scope["path"]))
        if token is not None and token.user_id is not None and _OF_ONE_USER.fullmatch(scope["path"]) is None:
            raise NotPermitted(f"the token {token.name!r} is for one user's balance, grants, events and monthly usage")
        return token


def _roles(method: str, path: str) -> tuple[Role, ...]:
    reads = method in ("GET", "HEAD") or path in _READING_POSTS
    return (Role.READ, Role.ADMIN) if reads else (Role.ADMIN,)
