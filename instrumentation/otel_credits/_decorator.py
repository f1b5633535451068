"""`@track_credits`: charge for a call of a function.

What is charged, and when:

- A function or coroutine function: once, when it returned. One that raised (or was cancelled) is not charged.
- A generator or async generator: once, when it ended, or when its reader went away after at least one item: what was
  delivered was used. One that raised by itself, or that nobody read from, is not charged.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from opentelemetry import context as context_api
from opentelemetry.context import Context

from otel_credits._amounts import CreditsLike, UserId
from otel_credits._guard import note_fault
from otel_credits._keys import KeyMaker, key_maker
from otel_credits._tracking import record_compute

F = TypeVar("F", bound=Callable[..., Any])

_USER_ID = "user_id"
_USER_OBJECTS = ("current_user", "user")


def track_credits(
    action_type: str,
    manual_credits: CreditsLike | None = None,
    description: str | None = None,
    *,
    resource_type: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    idempotency_key: str | Callable[..., object] | None = None,
) -> Callable[[F], F]:
    """Charge the user of each successful call (see the top of this file for what counts as one).

    Args:
        action_type: an `ActionType` or any other string.
        manual_credits: the charge of a call, as `credits` of `track_compute_usage`. Without it, the price book decides.
        description, resource_type, metadata: kept with the usage.
        idempotency_key: calls with the same key are charged once. A template of the call's arguments
            (`"report:{report_id}"`), or a function of the same arguments that returns the key. A call for which no key
            can be made is charged as a usage of its own, and the fault is logged.

    The user is the call's argument `user_id`, given by position or by name; else the attribute `id` of the argument
    `current_user` or `user`; else the user of the usage context.
    """

    def decorate(function: F) -> F:
        charge = _Charge(
            action_type,
            manual_credits,
            description,
            resource_type,
            metadata,
            _UserFinder(inspect.signature(function)),
            key_maker(idempotency_key, inspect.signature(function)),
        )
        return cast(F, functools.wraps(function)(_wrapper(function, charge)))

    return decorate


def _wrapper(function: Callable[..., Any], charge: _Charge) -> Callable[..., Any]:
    if inspect.isasyncgenfunction(function):
        return _async_generator(function, charge)
    if inspect.isgeneratorfunction(function):
        return _generator(function, charge)
    if inspect.iscoroutinefunction(function):
        return _coroutine(function, charge)
    return _plain(function, charge)


@dataclass(frozen=True, slots=True)
class _Charge:
    """What a decorated function costs, and whom."""

    action_type: str
    credits: CreditsLike | None
    description: str | None
    resource_type: str | None
    metadata: Mapping[str, Any] | None
    find_user: _UserFinder
    make_key: KeyMaker

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any], parent: Context | None = None) -> None:
        common = (
            self.find_user(args, kwargs),
            self.action_type,
            self.description,
            None,
            self.resource_type,
            self.metadata,
            self.make_key(args, kwargs),
            parent,
        )
        record_compute("track_credits", self.credits, common, parent)


class _UserFinder:
    """Finds the user among the arguments of a call. Where to look is worked out once, from the signature."""

    def __init__(self, signature: inspect.Signature) -> None:
        self._signature = signature
        self._places: dict[str, tuple[int | None, Any]] = {}
        for index, parameter in enumerate(signature.parameters.values()):
            by_position = parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
            default = None if parameter.default is parameter.empty else parameter.default
            self._places[parameter.name] = (index if by_position else None, default)

    def __call__(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> UserId | None:
        try:
            user_id = self._argument(_USER_ID, args, kwargs)
            if user_id is not None:
                return cast(UserId, user_id)
            for name in _USER_OBJECTS:
                user = self._argument(name, args, kwargs)
                if user is not None:
                    return cast("UserId | None", getattr(user, "id", None))
        except Exception as error:
            note_fault("track_credits", error)
        return None

    def _argument(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if name in kwargs:
            return kwargs[name]
        index, default = self._places.get(name, (None, None))
        return args[index] if index is not None and index < len(args) else default


def _plain(function: Callable[..., Any], charge: _Charge) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        charge(args, kwargs)
        return result

    return call


def _coroutine(function: Callable[..., Any], charge: _Charge) -> Callable[..., Any]:
    async def call(*args: Any, **kwargs: Any) -> Any:
        result = await function(*args, **kwargs)
        charge(args, kwargs)
        return result

    return call


def _generator(function: Callable[..., Any], charge: _Charge) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        # The reader may go away in another context, where the request's span and user are not known.
        context = context_api.get_current()
        generator = function(*args, **kwargs)
        delivered = False
        try:
            item = next(generator)
            while True:
                delivered = True
                try:
                    sent = yield item
                except GeneratorExit:
                    generator.close()
                    raise
                except BaseException as error:
                    item = generator.throw(error)
                else:
                    item = generator.send(sent)
        except StopIteration as end:
            charge(args, kwargs, context)
            return end.value
        except GeneratorExit:
            if delivered:
                charge(args, kwargs, context)
            raise

    return call


def _async_generator(function: Callable[..., Any], charge: _Charge) -> Callable[..., Any]:
    async def call(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        context = context_api.get_current()
        generator = function(*args, **kwargs)
        delivered = False
        try:
            item = await anext(generator)
            while True:
                delivered = True
                try:
                    sent = yield item
                except GeneratorExit:
                    await generator.aclose()
                    raise
                except BaseException as error:
                    item = await generator.athrow(error)
                else:
                    item = await generator.asend(sent)
        except StopAsyncIteration:
            charge(args, kwargs, context)
        except (GeneratorExit, asyncio.CancelledError):
            if delivered:
                charge(args, kwargs, context)
            raise

    return call
