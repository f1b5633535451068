"""Turning what a caller gives into exact values: credits, token counts, user ids and text.

Each function raises `BadArgument`, which names the argument, so that the edge of the library can log it once.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping
from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

from otel_credits._attributes import METADATA_PREFIX

CreditsLike = Decimal | str | int | float
UserId = UUID | str | int
AttributeValue = str | bool | int | float

# The ledger holds amounts as Decimal(38, 12): 12 places after the point, 26 before it.
CREDITS_PLACES: Final = 12
_CREDITS_MAX: Final = Decimal(10) ** 26
_ONE_UNIT: Final = Decimal(1).scaleb(-CREDITS_PLACES)
# Wide enough that neither quantize nor the checks below can round what they look at.
WIDE: Final = Context(prec=80, rounding=ROUND_HALF_EVEN)
# OTLP carries integers as signed 64 bit.
_INT64_MAX: Final = 2**63 - 1
_INT64_MIN: Final = -(2**63)


class BadArgument(ValueError, TypeError):
    """An argument of a tracking call that cannot be used. It is both a ValueError and a TypeError, as strict mode
    promises one of them."""

    def __init__(self, argument: str, problem: str) -> None:
        super().__init__(f"{argument}: {problem}")
        self.argument = argument


def credits_decimal(value: object, argument: str = "credits") -> Decimal:
    """`value` in credits, exact. A float is taken as the decimal it prints as and rounded half-even to 12 places;
    a Decimal or str is never rounded: one with more than 12 decimals is refused."""
    if isinstance(value, bool) or not isinstance(value, Decimal | str | int | float):
        raise BadArgument(argument, f"expected Decimal, str, int or float, got {type(value).__name__}")
    try:
        return _parse_credits(value)
    except (InvalidOperation, ValueError) as error:
        raise BadArgument(argument, str(error) or "not a decimal number") from None


def credits_text(value: object, argument: str = "credits") -> str:
    """`credits_decimal` as the plain decimal string that goes on the wire."""
    if type(value) is float or type(value) is Decimal:
        return _credits_text_cached(value, argument)
    return format(credits_decimal(value, argument), "f")


# typed: 1 and 1.0 and Decimal(1) are equal, and must not answer for each other.
@lru_cache(maxsize=1024, typed=True)
def _credits_text_cached(value: float | Decimal, argument: str) -> str:
    return format(credits_decimal(value, argument), "f")


def _parse_credits(value: Decimal | str | int | float) -> Decimal:
    # float.__repr__, as a subclass (numpy's float64) may print something else.
    amount = Decimal(float.__repr__(value) if isinstance(value, float) else value)
    if not amount.is_finite():
        raise ValueError(f"{value!r} is not a finite number")
    if amount < 0:
        raise ValueError(f"{value!r} is negative")
    if amount >= _CREDITS_MAX:
        raise ValueError(f"{value!r} is more than the ledger holds (26 digits before the point)")
    rounded = amount.quantize(_ONE_UNIT, context=WIDE)
    if not isinstance(value, float) and rounded != amount:
        raise ValueError(f"{value!r} has more than {CREDITS_PLACES} decimals")
    return _shortest(rounded)


def _shortest(amount: Decimal) -> Decimal:
    shortest = amount.normalize(WIDE)
    exponent = shortest.as_tuple().exponent
    return shortest.quantize(Decimal(1), context=WIDE) if isinstance(exponent, int) and exponent > 0 else shortest


def token_count(value: object, argument: str) -> int:
    """A number of tokens: an integer from 0 to 2^63-1 (anything with `__index__`, numpy's integers too)."""
    if isinstance(value, bool):
        raise BadArgument(argument, "expected an integer, got bool")
    try:
        count = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise BadArgument(argument, f"expected an integer, got {type(value).__name__}") from None
    if count < 0 or count > _INT64_MAX:
        raise BadArgument(argument, f"{count} is not between 0 and 2^63-1")
    return count


def user_text(value: object) -> str:
    """A user id as text: UUID, str or int."""
    if type(value) is str:
        text = value.strip()
    elif isinstance(value, UUID | str | int) and not isinstance(value, bool):
        text = str(value).strip()
    else:
        raise BadArgument("user_id", f"expected UUID, str or int, got {type(value).__name__}")
    if not text:
        raise BadArgument("user_id", "is empty")
    return text


def metadata_attributes(metadata: object) -> dict[str, AttributeValue]:
    """`credits.metadata.<key>` attributes: scalars as they are, everything else as JSON or text. None is left out."""
    if not isinstance(metadata, Mapping):
        raise BadArgument("metadata", f"expected a mapping, got {type(metadata).__name__}")
    return {f"{METADATA_PREFIX}{key}": metadata_value(value) for key, value in metadata.items() if value is not None}


def metadata_value(value: object) -> AttributeValue:
    """One metadata value as an OTLP attribute can hold it."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return int(value) if _INT64_MIN <= value <= _INT64_MAX else str(value)
    if isinstance(value, Mapping | list | tuple):
        return _json(value)
    return str(value)


def _json(value: Any) -> str:
    try:
        return json.dumps(value, default=str)
    except (TypeError, ValueError):
        return str(value)
