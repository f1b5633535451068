"""For the tests of apps that use otel_credits: what would be charged, without a server.

    from otel_credits.testing import capture_usage

    def test_chat_is_charged():
        with capture_usage() as usages:
            client.post("/chat", ...)
        assert usages.last().user_id == "42"

While it captures, the library is strict: a bad argument raises.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan

from otel_credits import _attributes as names
from otel_credits._guard import is_strict, set_strict
from otel_credits._runtime import redirect_to


@dataclass(frozen=True, slots=True)
class CapturedUsage:
    """One recorded usage. `attributes` is everything that would have been sent."""

    action_type: str
    user_id: str | None
    credits: Decimal | None
    model: str | None
    input_tokens: int | None
    output_tokens: int | None
    description: str | None
    attributes: Mapping[str, Any]
    span: ReadableSpan


class CapturedUsages(Sequence[CapturedUsage]):
    """The usages recorded so far, oldest first."""

    def __init__(self) -> None:
        self._usages: list[CapturedUsage] = []

    def __getitem__(self, index: Any) -> Any:
        return self._usages[index]

    def __len__(self) -> int:
        return len(self._usages)

    def last(self) -> CapturedUsage:
        """The newest one. IndexError if there is none."""
        return self._usages[-1]

    def of_user(self, user_id: object) -> list[CapturedUsage]:
        """Those of one user."""
        return [usage for usage in self._usages if usage.user_id == str(user_id)]

    def add(self, span: ReadableSpan) -> None:
        """Take note of a recorded usage."""
        self._usages.append(_captured(span))


@contextmanager
def capture_usage(*, strict: bool = True) -> Iterator[CapturedUsages]:
    """Within the block, usages are kept in memory and are there as soon as they are recorded. Nothing is sent."""
    usages = CapturedUsages()
    was_strict = is_strict()
    with redirect_to(usages.add):
        set_strict(strict)
        try:
            yield usages
        finally:
            set_strict(was_strict)


def _captured(span: ReadableSpan) -> CapturedUsage:
    attributes = dict(span.attributes or {})
    amount = attributes.get(names.AMOUNT)
    model = attributes.get(names.RESPONSE_MODEL) or attributes.get(names.REQUEST_MODEL)
    return CapturedUsage(
        action_type=str(attributes.get(names.ACTION_TYPE, "")),
        user_id=_text(attributes.get(names.CREDITS_USER_ID) or attributes.get(names.USER_ID)),
        credits=None if amount is None else Decimal(str(amount)),
        model=_text(model),
        input_tokens=_count(attributes.get(names.INPUT_TOKENS)),
        output_tokens=_count(attributes.get(names.OUTPUT_TOKENS)),
        description=_text(attributes.get(names.DESCRIPTION)),
        attributes=attributes,
        span=span,
    )


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _count(value: object) -> int | None:
    return value if isinstance(value, int) else None
