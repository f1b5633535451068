"""Usage that is too frequent for a span each: counted in the process, sent as a number for each interval.

    meter = credits_meter("storage")
    meter.add(4096, user_id=user.id, unit="byte")

An addition takes no lock and allocates next to nothing (_meter_shards.py). The export thread makes data points of what
was added (_meter_export.py).
"""

from __future__ import annotations

import threading
from functools import partial

from otel_credits._amounts import CREDITS_PLACES, WIDE, BadArgument, CreditsLike, UserId, credits_decimal, user_text
from otel_credits._context import current_user
from otel_credits._guard import note_fault
from otel_credits._meter_shards import QUANTITY_MAX, SCALE, Key, Owner, Series, Shard, shards
from otel_credits._runtime import active


class CreditsMeter:
    """Counts usage. Made by `credits_meter()`; one object serves all threads."""

    def __init__(self, name: str, action_type: str, unit: str | None) -> None:
        self.name = name
        # Not a method: a shard keeps it, and may not keep its meter (a meter that is gone ends its shards).
        self.series = partial(_series, name, action_type, unit)
        self._local = threading.local()

    def add(
        self,
        quantity: CreditsLike,
        user_id: UserId | None = None,
        action_type: str | None = None,
        unit: str | None = None,
    ) -> None:
        """Count `quantity` of `unit` for a user.

        Args:
            quantity: int, Decimal, decimal string or float, from 0 to 10^15. It is never rounded: at most 12 decimals
                (a float counts as the decimal that it prints as).
            user_id: who pays; without it, the user of the usage context.
            action_type: without it, the meter's.
            unit: what is counted (`byte`, `page`); without it, the meter's; without that, `call`.

        A bad argument is logged once and counted, not raised (strict mode raises it as ValueError).
        """
        try:
            shard = self._local.shard
            # Whole numbers for a series that this thread has added to: nothing else to do. The question about the
            # generation comes last: between it and the addition nothing is called, so that no signal handler runs.
            if (
                type(quantity) is int
                and type(user_id) is str
                and 0 <= quantity <= QUANTITY_MAX
                and shard.generation == shards.generation
            ):
                shard.wholes[user_id, action_type, unit] += quantity
                return
        except (AttributeError, KeyError, TypeError):
            pass
        self._add(quantity, user_id, action_type, unit)

    def _add(self, quantity: object, user_id: object, action_type: object, unit: object) -> None:
        pipeline = active()
        if pipeline is None:
            return
        try:
            scaled = _scaled(quantity)
            key = (_user(user_id), _text(action_type, "action_type"), _text(unit, "unit"))
            if scaled:
                pipeline.count_metered(self, key, scaled)
        except Exception as error:
            pipeline.drop("meter.add", error)

    def shard(self) -> Shard:
        """The shard of this thread, a new one if a generation has begun."""
        local = self._local
        shard: Shard | None = getattr(local, "shard", None)
        if shard is not None and shard.generation == shards.generation:
            return shard
        if shard is None:
            local.owner = Owner()
        else:
            shard.finished = True
        new = local.shard = Shard(self.series, local.owner, shards.generation)
        shards.add(new)
        return new

    def count(self, key: Key, scaled: int) -> None:
        """Add to the shard of this thread."""
        whole, fraction = divmod(scaled, SCALE)
        amount = scaled if fraction else whole
        while True:
            shard = self.shard()
            numbers = shard.fractions if fraction else shard.wholes
            numbers.setdefault(key, 0)
            # Nothing is called between the question and the addition, so no signal handler that adds comes between.
            if self._local.shard is shard:
                numbers[key] += amount
                return


def credits_meter(name: str, *, action_type: str | None = None, unit: str | None = None) -> CreditsMeter:
    """A meter for usage that is too frequent for a span each.

    Args:
        name: of what is measured. It is part of a series' identity, and the action where no other is given.
        action_type, unit: what `add` takes where it is given none.

    Raises:
        ValueError: a name that is no text.
    """
    for argument, value in (("name", name), ("action_type", action_type), ("unit", unit)):
        _text(value, argument)
    return CreditsMeter(str(name), str(action_type or name), unit and str(unit))


def _series(meter: str, own_action_type: str, own_unit: str | None, key: Key) -> Series:
    """The series of a key of a meter."""
    user, action_type, unit = key
    return Series(meter, user, action_type or own_action_type, unit or own_unit)


def _scaled(quantity: object) -> int:
    if type(quantity) is int and 0 <= quantity <= QUANTITY_MAX:
        return quantity * SCALE
    exact = credits_decimal(quantity, "quantity")
    if exact > QUANTITY_MAX:
        raise BadArgument("quantity", f"{quantity!r} is more than 10^15")
    return int(WIDE.scaleb(exact, CREDITS_PLACES))


def _user(user_id: object) -> str | None:
    """Who pays, or None: usage of nobody is counted too, and quarantined."""
    try:
        if user_id is not None:
            return user_text(user_id)
        if (user := current_user()) is not None:
            return user
        raise BadArgument("user_id", "is not given, and there is no usage context with a user")
    except BadArgument as error:
        note_fault("meter.add", error)
        return None


def _text(value: object, argument: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        raise BadArgument(argument, f"expected a text, got {value!r}")
    return str.__str__(value)
