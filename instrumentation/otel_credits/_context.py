"""Who is being served, for the code underneath: the usage context.

It lives in OpenTelemetry's Context under a key of its own, not in baggage. Baggage of a request is written by whoever
sent the request, and is sent on to every host that the app calls; a payer may be neither chosen by a client nor told
to a third party. Where the user has to cross a process (a Celery task), the integration for it carries the user over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from opentelemetry import baggage
from opentelemetry import context as context_api
from opentelemetry.context import Context

from otel_credits._amounts import BadArgument, UserId, user_text
from otel_credits._attributes import BAGGAGE_USER
from otel_credits._guard import note_fault

USAGE_KEY = context_api.create_key("otel_credits.usage")


class _InboundBaggage:
    """The baggage that requests come with."""

    __slots__ = ("is_trusted",)

    def __init__(self) -> None:
        self.is_trusted = False


# Whether the baggage that a request came with may say who the user is. An attribute costs a request less than a call.
INBOUND = _InboundBaggage()


class UsageContext:
    """The user and the defaults for usages in one scope (a request, a task, a `with` block).

    The object is shared by everything under it and its user may be set late: a dependency that runs in another
    thread or under a copied context cannot change the context of the endpoint, but it can fill in this object.
    """

    __slots__ = (
        "_resolve",
        "action_type",
        "description",
        "known_user",
        "metadata",
        "on_known",
        "resource_id",
        "resource_type",
    )

    def __init__(
        self,
        *,
        user: str | None = None,
        resolve: Callable[[], Any] | None = None,
        action_type: str | None = None,
        description: str | None = None,
        resource_id: object = None,
        resource_type: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        # Who the user is, if that is known already.
        self.known_user = user
        # Called with the user as soon as it is known or set, in whatever thread that happens.
        self.on_known: Callable[[str], None] | None = None
        self._resolve = resolve
        self.action_type = action_type
        self.description = description
        self.resource_id = resource_id
        self.resource_type = resource_type
        self.metadata = metadata

    @classmethod
    def within(
        cls,
        outer: UsageContext | None,
        *,
        user: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        inherit_user: bool = True,
        **own: Any,
    ) -> UsageContext:
        """A usage context inside another: what it does not say itself is what `outer` says."""
        if outer is None:
            return cls(user=user, metadata=metadata or None, **own)
        inherited = {
            name: own[name] if own.get(name) is not None else getattr(outer, name)
            for name in ("action_type", "description", "resource_id", "resource_type")
        }
        merged = {**(outer.metadata or {}), **(metadata or {})} or None
        resolve = (lambda: outer.user) if inherit_user and user is None else None
        return cls(user=user, resolve=resolve, metadata=merged, **inherited)

    def fill_in(self, carried: UsageContext) -> None:
        """Take from `carried` what this one does not say itself, but for the user."""
        for name in ("action_type", "description", "resource_id", "resource_type", "metadata"):
            if getattr(self, name) is None:
                setattr(self, name, getattr(carried, name))

    @property
    def user(self) -> str | None:
        """The user as text. The resolver is asked until it knows one."""
        # Read once, and in this order: another thread may learn the user meanwhile.
        if self.known_user is None and (resolve := self._resolve) is not None:
            user = _resolved(resolve)
            if user is not None:
                self._know(user)
        return self.known_user

    def set_user(self, user_id: UserId) -> None:
        """Set the user.

        Raises:
            BadArgument: `user_id` is not a UUID, str or int.
        """
        self._know(user_text(user_id))

    def _know(self, user: str) -> None:
        self.known_user = user
        # It is not asked again, and what it refers to (the request) need not live as long as this.
        self._resolve = None
        if self.on_known is not None:
            self.on_known(user)


def _resolved(resolve: Callable[[], Any]) -> str | None:
    try:
        user = resolve()
        return None if user is None else user_text(user)
    except Exception as error:
        note_fault("user resolver", error)
        return None


def current_usage(context: Context | None = None) -> UsageContext | None:
    """The innermost usage context, if there is one."""
    found = context_api.get_value(USAGE_KEY, context)
    return found if isinstance(found, UsageContext) else None


def trust_inbound_baggage(trust: bool) -> None:
    """Let the baggage that a request came with say who the user is. Off unless the senders are ours."""
    INBOUND.is_trusted = trust


def current_user(context: Context | None = None) -> str | None:
    """The user of the innermost usage context; if baggage is trusted, else the one that came with the request."""
    return user_of(current_usage(context), context)


def user_of(usage: UsageContext | None, context: Context | None = None) -> str | None:
    """The same for a usage context that is known to be the innermost one of `context`."""
    user = None if usage is None else usage.user
    if user is None and INBOUND.is_trusted:
        inbound = baggage.get_baggage(BAGGAGE_USER, context)
        return str(inbound) if inbound else None
    return user


def with_usage(usage: UsageContext | None, context: Context | None = None) -> Context:
    """A context in which `usage` is the innermost usage context (None: in which there is none)."""
    return context_api.set_value(USAGE_KEY, usage, context)


@contextmanager
def usage_context(
    user_id: UserId | None = None,
    *,
    action_type: str | None = None,
    description: str | None = None,
    resource_id: object = None,
    resource_type: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Iterator[UsageContext]:
    """Within the block, usages that do not say otherwise belong to `user_id` (and have these other defaults).

    It also names the user on the spans that start in the block (`user.id`, `credits.user_id`), so that LLM spans of
    any instrumentation know who pays. What is left out is inherited from the usage context around it. Works in sync
    and async code.
    """
    usage = UsageContext.within(
        current_usage(),
        user=_user_or_none(user_id),
        inherit_user=user_id is None,
        action_type=action_type,
        description=description,
        resource_id=resource_id,
        resource_type=resource_type,
        metadata=metadata,
    )
    token = context_api.attach(with_usage(usage))
    try:
        yield usage
    finally:
        context_api.detach(token)


def _user_or_none(user_id: UserId | None) -> str | None:
    try:
        return None if user_id is None else user_text(user_id)
    except BadArgument as error:
        note_fault("usage_context", error)
        return None


def set_user(user_id: UserId) -> None:
    """Say who the user of the current request, task or `usage_context` is, as soon as it is known.

    For a FastAPI dependency that authenticates: what it sets is seen by the endpoint and by everything under it. It
    does nothing where there is no usage context.
    """
    usage = current_usage()
    if usage is None:
        note_fault(
            "set_user", RuntimeError("there is no usage context here; use usage_context() or instrument_fastapi()")
        )
        return
    try:
        usage.set_user(user_id)
    except BadArgument as error:
        note_fault("set_user", error)
