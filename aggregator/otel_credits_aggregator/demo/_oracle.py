"""What every balance must be, computed apart from all that is tested.

The inputs are the plan (fixed costs), the model server's record of what it served (tokens) and the price book. The sums
are Python's Decimal with enough digits that nothing is rounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, localcontext
from operator import itemgetter
from typing import Any

from otel_credits_aggregator.demo._options import DemoError
from otel_credits_aggregator.demo._plan import Action, DemoUser

DIGITS = 60
ANY = "*"
_UNIT_BY_FIGURE = {
    "input_tokens": "input_token",
    "cache_read_tokens": "cache_read_token",
    "cache_write_tokens": "cache_write_token",
    "output_tokens": "output_token",
}


@dataclass(frozen=True)
class Expected:
    """What a user's account must show, in credits."""

    granted: Decimal
    consumed: Decimal

    @property
    def balance(self) -> Decimal:
        """What is left."""
        return self.granted - self.consumed


class PriceBook:
    """Token prices that hold for any action, by model and unit.

    Args:
        rows: the price book.
        at: of the rows in effect at this time, the newest of a pair counts.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]], at: datetime) -> None:
        dated = [(datetime.fromisoformat(row["effective_from"]), row) for row in rows if row["action_type"] == ANY]
        mine = [row for since, row in sorted(dated, key=itemgetter(0)) if since <= at]
        self._prices = {(row["model"], row["unit"]): Decimal(row["credits_per_unit"]) for row in mine}

    def models(self, prefix: str) -> list[str]:
        """Return the models that the book names and that start with ``prefix``."""
        return sorted({model for model, _ in self._prices if model.startswith(prefix)})

    def price(self, model: str, unit: str) -> Decimal:
        """Return the credits for one unit. Raises DemoError if the book has none.

        A model that answers names its snapshot (``...-20251001``); the book may price the snapshot or the model.
        """
        for name in (model, re.sub(r"-\d{8}$", "", model), ANY):
            if (name, unit) in self._prices:
                return self._prices[name, unit]
        raise DemoError(f"the price book has no price for {unit} of {model}")


def cost_of_request(served: Mapping[str, Any], book: PriceBook) -> Decimal:
    """Return what one request to the model server costs."""
    if served["status"] == "running":
        raise DemoError(f"the model server is still answering {served['message_id']}")
    quantities = {unit: served[figure] for figure, unit in _UNIT_BY_FIGURE.items() if served[figure]}
    return sum((quantity * book.price(served["model"], unit) for unit, quantity in quantities.items()), Decimal(0))


def expected_accounts(
    users: Sequence[DemoUser], plan: Iterable[Action], served: Iterable[Mapping[str, Any]], book: PriceBook
) -> dict[str, Expected]:
    """Return what each user's account must show, by user id."""
    with localcontext(prec=DIGITS):
        consumed = {str(user.id): Decimal(0) for user in users}
        for action in plan:
            consumed[str(action.user.id)] += action.pattern.fixed_cost or Decimal(0)
        for request in served:
            consumed[request["user_id"]] += cost_of_request(request, book)
        return {str(user.id): Expected(user.granted, consumed[str(user.id)]) for user in users}
