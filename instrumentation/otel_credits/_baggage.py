"""The user as W3C baggage, for the messages of our own that cross a process.

It travels in a header of its own and not in `baggage`: whoever calls the app writes that one, and OpenTelemetry passes
it on. A client that put `credits.user_id` into its baggage would choose who pays for the tasks of its request.
"""

from __future__ import annotations

from opentelemetry import baggage
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context

from otel_credits._attributes import BAGGAGE_USER

_FIELD = "baggage"
_propagator = W3CBaggagePropagator()


def encode_user(user: str) -> str:
    """The header's value for `user`, in the format of W3C baggage."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier, baggage.set_baggage(BAGGAGE_USER, user, Context()))
    return carrier.get(_FIELD, "")


def decode_user(header: object) -> str | None:
    """The user that a header names, if it does."""
    if not isinstance(header, str):
        return None
    user = baggage.get_baggage(BAGGAGE_USER, _propagator.extract({_FIELD: header}, Context()))
    return user if isinstance(user, str) and user else None
