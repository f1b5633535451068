"""Who the user of an HTTP request is, as the app says: a resolver.

A resolver is one of:

- `"header:NAME"`: the value of a request header. Only for a header that a proxy of yours sets and strips from outside.
- `"state:NAME"` or `"state:NAME.ATTRIBUTE"`: what an authentication middleware put into `request.state`.
- `"jwt:CLAIM"`: a claim of the bearer token, if its signature verifies (see _token_user.py; `otel-credits[jwt]`);
  `"jwt-unverified:CLAIM"` behind a gateway that has verified it.
- a function of the request (`starlette.requests.HTTPConnection`), sync or async, that returns the user id or None.
  It may not read the body.

Headers, state and sync functions are asked when the user is needed, and again until they know one, as authentication
may run later than the first span. An async function is awaited once, before the app sees the request.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, cast

from starlette.requests import HTTPConnection

from otel_credits._amounts import UserId
from otel_credits._context import UsageContext
from otel_credits._settings import Settings

Scope = MutableMapping[str, Any]
UserResolver = str | Callable[[HTTPConnection], UserId | Awaitable[UserId | None] | None]


def prepare_resolver(resolver: object, settings: Settings) -> UserResolver | None:
    """Check a resolver, and read the keys that it needs: a mistake in set-up is best seen at set-up.

    Raises:
        ValueError: it is not a resolver, or tokens cannot be verified.
    """
    if resolver is None or callable(resolver):
        return resolver
    kind, _, name = str(resolver).partition(":")
    name = name.strip()
    if kind not in {"header", "state", "jwt", "jwt-unverified"} or not name:
        raise ValueError(
            f"user resolver {resolver!r}: expected header:NAME, state:NAME, jwt:CLAIM or a function of the request"
        )
    return _token_resolver(kind, name, settings) if kind.startswith("jwt") else f"{kind}:{name}"


def _token_resolver(kind: str, claim: str, settings: Settings) -> UserResolver:
    try:
        from otel_credits._token_user import token_resolver
    except ModuleNotFoundError as error:
        raise ValueError(f"user resolver {kind}: needs {error.name}: pip install 'otel-credits[jwt]'") from None
    return token_resolver(kind, claim, settings)


async def usage_of_request(resolver: UserResolver | None, scope: Scope) -> UsageContext:
    """The usage context of a request, whose user `resolver` knows, now or later."""
    maker = usage_maker(resolver)
    if maker is not None:
        return maker(scope)
    function = cast("Callable[[HTTPConnection], Awaitable[UserId | None]]", resolver)
    user = await function(HTTPConnection(scope))
    return UsageContext(resolve=lambda: user)


def usage_maker(resolver: UserResolver | None) -> Callable[[Scope], UsageContext] | None:
    """Makes the usage context of a request. None if `resolver` has to be awaited."""
    if resolver is None:
        return lambda scope: UsageContext()
    if isinstance(resolver, str):
        kind, _, name = resolver.partition(":")
        return _of_header(name) if kind == "header" else _of_state(name)
    function = resolver
    return None if _is_async(function) else lambda scope: UsageContext(resolve=lambda: function(HTTPConnection(scope)))


def _is_async(function: object) -> bool:
    """Whether a call of `function` (or of an object that is called like one) has to be awaited."""
    call = None if inspect.isclass(function) else type(function).__call__ if callable(function) else None
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def _of_header(name: str) -> Callable[[Scope], UsageContext]:
    """The first header of this name, which the server gives in lower case (ASGI, "HTTP Connection Scope"). It is there
    with the request; if not, a middleware below may still add it."""
    wanted = name.strip().lower().encode("latin-1", "replace")

    def header(scope: Scope) -> str | None:
        for name, value in scope["headers"]:
            if name == wanted:
                user: str = value.decode("latin-1").strip()
                return user or None
        return None

    def usage(scope: Scope) -> UsageContext:
        user = header(scope)
        return UsageContext(user=user) if user is not None else UsageContext(resolve=lambda: header(scope))

    return usage


def _of_state(name: str) -> Callable[[Scope], UsageContext]:
    path = name.strip().split(".")
    return lambda scope: UsageContext(resolve=lambda: _state(scope, path))


def _state(scope: Scope, path: list[str]) -> Any:
    value: Any = scope.get("state") or {}
    value = value.get(path[0]) if hasattr(value, "get") else getattr(value, path[0], None)
    for name in path[1:]:
        value = value.get(name) if isinstance(value, dict) else getattr(value, name, None)
    return value
