"""FastAPI: one call switches on the official instrumentation and ours.

    from otel_credits.fastapi import instrument_fastapi

    instrument_fastapi(app, user=lambda request: request.state.user.id)

Ours is a middleware. It gives each request and websocket a usage context (so that usages and LLM spans beneath know
the user, also in threads, streaming responses and background tasks), names the user on the server span, and flushes
when the app shuts down: uvicorn ends a process on SIGTERM without running `atexit`.

The official instrumentation is `opentelemetry-instrumentation-fastapi` where it is installed; it makes FastAPI's
native telemetry stand back. That does not reach FastAPI apps mounted below, which would start a second server span
in another trace and forget the user, so the middleware tells them to stand back too. Where the official one is not
installed, FastAPI's native telemetry (0.165 and later) is the one that is used.

An inbound `baggage` header never says who the user is, unless `OTEL_CREDITS_TRUST_BAGGAGE=on`.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import anyio.to_thread
import fastapi
from opentelemetry import baggage, propagate
from opentelemetry import context as context_api
from opentelemetry.trace import Span, get_current_span
from starlette.middleware import Middleware

from otel_credits._baggage import usage_of_members
from otel_credits._context import INBOUND, USAGE_KEY, UsageContext, user_of
from otel_credits._propagator import CreditsPropagator, ensure_propagator
from otel_credits._request_user import (
    UserResolver,
    prepare_resolver,
    usage_maker,
    usage_of_request,
)
from otel_credits._runtime import active, current_settings
from otel_credits._span_memory import bind, name_user

logger = logging.getLogger("otel_credits")

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_REQUESTS = ("http", "websocket")
_STARTS = ("http.response.start", "websocket.accept")
_NATIVE_KEY = "fastapi.telemetry"
_original_build: Callable[..., Any] | None = None
_auto_user: UserResolver | None = None


class CreditsMiddleware:
    """Gives each request a usage context, and flushes at shutdown. Pure ASGI, so that streams pass untouched."""

    def __init__(self, app: App, user: UserResolver | None = None) -> None:
        self._app = app
        self._user = user
        self._usage_of = usage_maker(user)

    # Each function that a request goes through costs it a microsecond or two. So here are few of them.
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in _REQUESTS:
            await self._app(scope, receive, _flushing(send) if scope["type"] == "lifespan" else send)
            return
        usage = self._usage_of(scope) if self._usage_of is not None else await self._asked(scope)
        if getattr(scope.get("app"), "_is_instrumented_by_opentelemetry", False):
            scope.setdefault(_NATIVE_KEY, None)
        if INBOUND.is_trusted and (carried := usage_of_members(baggage.get_all())) is not None:
            usage.fill_in(carried)
        if type(propagate.get_global_textmap()) is not CreditsPropagator:
            ensure_propagator()
        context = context_api.get_current()
        server_span = get_current_span(context)
        bind(server_span, usage)
        is_named = usage.known_user is not None
        token = context_api.attach(context_api.set_value(USAGE_KEY, usage, context))
        try:
            await self._app(scope, receive, send if is_named else _naming(server_span, usage, send))
        finally:
            if not is_named and server_span.is_recording():
                name_user(server_span, user_of(usage))
            context_api.detach(token)

    async def _asked(self, scope: Scope) -> UsageContext:
        """The usage context of a request whose user an async function knows."""
        try:
            return await usage_of_request(self._user, scope)
        except asyncio.CancelledError:
            raise
        except Exception:
            logger.exception("credits: the user resolver failed; the request goes on without a user")
            return UsageContext()


def _naming(server_span: Span, usage: UsageContext, send: Send) -> Send:
    """`send`, which asks who the user is before the response starts: the server span started before that was known, and it
    ends with the last byte of the response."""

    def name_user_then_send(message: Message) -> Awaitable[None]:
        if message["type"] in _STARTS:
            name_user(server_span, user_of(usage))
        return send(message)

    return name_user_then_send


def _flushing(send: Send) -> Send:
    """`send` of the lifespan protocol, which flushes before it says that the shutdown is complete. (At the start, it
    sends what an earlier process left in the spool, if there is one: the set-up may have been before a fork.)"""

    async def flush_then_send(message: Message) -> None:
        if message["type"] in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
            await anyio.to_thread.run_sync(_flush)
        elif message["type"] == "lifespan.startup.complete" and (pipeline := active()) is not None:
            pipeline.send_left_files()
        await send(message)

    return flush_then_send


def _flush() -> None:
    pipeline = active()
    if pipeline is not None and not pipeline.flush_at_end():
        logger.error("credits: the app shuts down with undelivered usage: %s", pipeline.queue.stats())


def instrument_fastapi(app: fastapi.FastAPI, user: UserResolver | None = None, **official: Any) -> None:
    """Switch on the official FastAPI instrumentation and ours for `app`.

    Args:
        user: who the user of a request is: `"header:NAME"`, `"state:NAME"`, `"jwt:CLAIM"` or a function of the request
            (see _request_user.py). Without it, what `configure(user=)` or
            `OTEL_CREDITS_USER` says; without that, `set_user()` in a dependency.
        official: passed on to `FastAPIInstrumentor.instrument_app` (`excluded_urls`, `exclude_spans`, ...).

    Raises:
        ValueError: `user` is not a resolver.
    """
    active()
    settings = current_settings()
    user = prepare_resolver(settings.user if user is None else user, settings)
    _official_instrument(app, official)
    if not _has_ours(app):
        app.user_middleware.insert(0, Middleware(CreditsMiddleware, user=user))
        _rebuild(app)


def uninstrument_fastapi(app: fastapi.FastAPI) -> None:
    """Take both instrumentations off `app`."""
    app.user_middleware[:] = [m for m in app.user_middleware if not _is_ours(m)]
    if getattr(app, "_is_instrumented_by_opentelemetry", False):
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

        FastAPIInstrumentor.uninstrument_app(app)
    else:
        _rebuild(app)


def _official_instrument(app: fastapi.FastAPI, options: dict[str, Any]) -> None:
    if importlib.util.find_spec("opentelemetry.instrumentation.fastapi") is None:
        return
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

    if not getattr(app, "_is_instrumented_by_opentelemetry", False):
        FastAPIInstrumentor.instrument_app(app, **options)


def _has_ours(app: fastapi.FastAPI) -> bool:
    return any(_is_ours(middleware) for middleware in app.user_middleware)


def _is_ours(middleware: Middleware) -> bool:
    cls: object = middleware.cls
    return cls is CreditsMiddleware


def _rebuild(app: fastapi.FastAPI) -> None:
    """Starlette builds the middleware stack with the first request; one that is built already is built anew."""
    if app.middleware_stack is not None:
        app.middleware_stack = app.build_middleware_stack()


def instrument_all_apps(user: UserResolver | None = None) -> None:
    """Put our middleware into every FastAPI app of the process when its stack is built (`opentelemetry-instrument`)."""
    global _original_build, _auto_user
    _auto_user = _resolver_or_none(user)
    if _original_build is not None:
        return
    original = _original_build = fastapi.applications.FastAPI.build_middleware_stack

    @functools.wraps(original)
    def build_middleware_stack(self: fastapi.FastAPI) -> Any:
        if not _has_ours(self):
            self.user_middleware.insert(0, Middleware(CreditsMiddleware, user=_auto_user))
        return original(self)

    fastapi.applications.FastAPI.build_middleware_stack = build_middleware_stack  # type: ignore[method-assign]


def _resolver_or_none(user: UserResolver | None) -> UserResolver | None:
    """Without a resolver that works the app runs all the same, and its usage is quarantined for want of a user."""
    try:
        return prepare_resolver(user, current_settings())
    except ValueError as error:
        logger.error("credits: requests have NO user: %s", error)
        return None


def uninstrument_all_apps() -> None:
    """Let apps whose stack is built from now on be as they were."""
    global _original_build
    if _original_build is not None:
        fastapi.applications.FastAPI.build_middleware_stack = _original_build  # type: ignore[method-assign]
        _original_build = None
