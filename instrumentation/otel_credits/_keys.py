"""The idempotency key of a call of a decorated function, made from the call's arguments."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from string import Formatter
from typing import Any

from otel_credits._guard import note_fault

KeyMaker = Callable[[tuple[Any, ...], dict[str, Any]], str | None]

_WHERE = "track_credits idempotency_key"


def key_maker(given: str | Callable[..., object] | None, signature: inspect.Signature) -> KeyMaker:
    """What makes the key of a call: from a template of its arguments, or by a function of the same arguments. A
    template that cannot work is logged (raised in strict mode), and the calls have no key."""
    if given is None:
        return _no_key
    if not isinstance(given, str):
        return lambda args, kwargs: _made(lambda: given(*args, **kwargs))
    fault = _fault_of(given, signature)
    if fault is not None:
        note_fault(_WHERE, ValueError(fault))
        return _no_key
    return lambda args, kwargs: _made(lambda: given.format_map(_bound(signature, args, kwargs)))


def _no_key(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    return None


def _fault_of(template: str, signature: inspect.Signature) -> str | None:
    try:
        fields = [field for _, field, _, _ in Formatter().parse(template) if field is not None]
    except ValueError as error:
        return f"{template!r} is no template: {error}"
    names = [re.split(r"[.\[]", field, maxsplit=1)[0] for field in fields]
    if not names:
        return f"{template!r} is the same for every call: all but the first would be free"
    unknown = [name for name in names if name not in signature.parameters]
    return f"{template!r} names {unknown}, which the function has no argument for" if unknown else None


def _bound(signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments


def _made(make: Callable[[], object]) -> str | None:
    """The key; None, and the fault is logged, if it cannot be made: the call is then charged as a usage of its own."""
    try:
        key = make()
        return None if key is None else str(key)
    except Exception as error:
        note_fault(_WHERE, error)
        return None
