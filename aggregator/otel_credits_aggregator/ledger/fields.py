"""The kinds of values that the models are made of: exact decimals, names, times in UTC.

Decimals are exact strings in JSON, without exponent and without trailing zeros; times are UTC, ISO 8601.
"""

import base64
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, PlainSerializer

__all__ = [
    "CREDITS_MAX",
    "EVENT_IDS_MAX",
    "NAME_BYTES_MAX",
    "Exact",
    "ExactInput",
    "Input",
    "Name",
    "Row",
    "Text",
    "UserId",
    "Utc",
    "UtcInput",
    "base64_text",
    "exact_text",
]

# The same bounds as the chain has for usage (clickhouse/migrations/0004_usage_chain.sql).
CREDITS_MAX = Decimal(10**18)
NAME_BYTES_MAX = 512
EVENT_IDS_MAX = 500
_DECIMAL_PLACES = 12


def exact_text(value: Decimal) -> str:
    """A decimal as people write it: all digits, no exponent, no trailing zeros."""
    text = f"{value:f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _not_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number, best as a string")
    return value


def _at_most_12_places(value: Decimal) -> Decimal:
    exponent = value.normalize().as_tuple().exponent
    if isinstance(exponent, int) and -exponent > _DECIMAL_PLACES:
        raise ValueError(f"has more than {_DECIMAL_PLACES} decimal places")
    return value


def _short_text(value: str) -> str:
    try:
        size_bytes = len(value.encode())
    except UnicodeEncodeError:
        raise ValueError("is not valid Unicode") from None
    if size_bytes > NAME_BYTES_MAX:
        raise ValueError(f"is longer than {NAME_BYTES_MAX} bytes")
    return value


def _not_empty(value: str) -> str:
    if not value:
        raise ValueError("must not be empty")
    return value


def base64_text(value: str) -> str:
    try:
        base64.b64decode(value, validate=True)
    except ValueError:
        raise ValueError("is not base64") from None
    return value


def _iso_text(value: object) -> object:
    """Refuses numbers: 2026 is a year to people and a second of 1970 to machines."""
    if isinstance(value, datetime) or (isinstance(value, str) and "-" in value):
        return value
    raise ValueError("must be a date or time as in ISO 8601, for example 2026-01-31 or 2026-01-31T12:00:00Z")


def _utc(value: datetime) -> datetime:
    """A time without a zone is taken as UTC."""
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


Exact = Annotated[Decimal, PlainSerializer(exact_text, return_type=str, when_used="json")]
ExactInput = Annotated[Exact, BeforeValidator(_not_bool), AfterValidator(_at_most_12_places)]
Text = Annotated[str, AfterValidator(_short_text)]
Name = Annotated[str, AfterValidator(_not_empty), AfterValidator(_short_text)]
UserId = Name
Utc = Annotated[datetime, AfterValidator(_utc)]
UtcInput = Annotated[Utc, BeforeValidator(_iso_text)]


class Row(BaseModel):
    """A row of a result."""

    model_config = ConfigDict(frozen=True)


class Input(BaseModel):
    """What a caller gives; an unknown field is a mistake, not something to ignore."""

    model_config = ConfigDict(extra="forbid", frozen=True)
