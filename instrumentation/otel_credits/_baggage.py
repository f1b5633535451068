"""The usage context as W3C baggage, for where it crosses to another process.

To a Celery task it travels in a message header of its own and not in `baggage`: whoever calls the app writes that one,
and OpenTelemetry passes it on. A client that put `credits.user_id` into its baggage would choose who pays for the
tasks of its request. Over HTTP it travels in `baggage`, and only to hosts that are declared trusted (_propagator.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from opentelemetry import baggage
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context

from otel_credits._attributes import (
    BAGGAGE_ACTION_TYPE,
    BAGGAGE_DESCRIPTION,
    BAGGAGE_METADATA,
    BAGGAGE_PREFIX,
    BAGGAGE_RESOURCE_ID,
    BAGGAGE_RESOURCE_TYPE,
    BAGGAGE_USER,
)
from otel_credits._context import UsageContext, current_usage, user_of

_FIELD = "baggage"
# A value that is the same when it is quoted. Nearly always there is only a user, whose id is such a one, and no need for more.
_PLAIN = re.compile(r"[A-Za-z0-9_.~-]{1,1000}")
_propagator = W3CBaggagePropagator()
_TEXTS = {
    "action_type": BAGGAGE_ACTION_TYPE,
    "resource_id": BAGGAGE_RESOURCE_ID,
    "resource_type": BAGGAGE_RESOURCE_TYPE,
    "description": BAGGAGE_DESCRIPTION,
}
# The members of ours. The user comes first: what does not fit into a header is left out from the end.
MEMBERS = (BAGGAGE_USER, *_TEXTS.values(), BAGGAGE_METADATA)


def members_of_context(context: Context | None = None) -> dict[str, str]:
    """The usage context as members of W3C baggage; empty if there is nothing to say."""
    usage = current_usage(context)
    user = user_of(usage, context)
    found = {} if user is None else {BAGGAGE_USER: user}
    if usage is not None:
        for name, member in _TEXTS.items():
            value = getattr(usage, name)
            if value is not None:
                found[member] = str(value)
        if usage.metadata:
            found[BAGGAGE_METADATA] = json.dumps(dict(usage.metadata), default=str)
    return found


def usage_of_members(members: Mapping[str, object]) -> UsageContext | None:
    """The usage context that members of baggage describe, or None if none of ours is among them."""
    if members.keys() == {BAGGAGE_USER} and type(user := members[BAGGAGE_USER]) is str and user:
        return UsageContext(user=user)
    texts = {name: value for name in MEMBERS if isinstance(value := members.get(name), str) and value}
    if not texts:
        return None
    fields: dict[str, Any] = {name: texts.get(member) for name, member in _TEXTS.items()}
    return UsageContext(user=texts.get(BAGGAGE_USER), metadata=_metadata(texts.get(BAGGAGE_METADATA)), **fields)


def _metadata(text: str | None) -> dict[str, Any] | None:
    try:
        found = json.loads(text) if text else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def with_members(context: Context, members: Mapping[str, str]) -> Context:
    """`context` whose baggage has these members of ours and no other ones of ours."""
    changed = without_members(context)
    for name, value in members.items():
        changed = baggage.set_baggage(name, value, changed)
    return changed


def without_members(context: Context) -> Context:
    """`context` without the members that came with a request under names of ours, whether or not they mean anything."""
    changed = context
    for name in baggage.get_all(context):
        if name.startswith(BAGGAGE_PREFIX):
            changed = baggage.remove_baggage(name, changed)
    return changed


def header_of(members: Mapping[str, str]) -> str:
    """Members as the value of a header, in the format of W3C baggage."""
    if members.keys() == {BAGGAGE_USER} and _PLAIN.fullmatch(members[BAGGAGE_USER]):
        return f"{BAGGAGE_USER}={members[BAGGAGE_USER]}"
    carrier: dict[str, str] = {}
    _propagator.inject(carrier, with_members(Context(), members))
    return carrier.get(_FIELD, "")


def members_of_header(header: object) -> dict[str, object]:
    """The members that a header has."""
    if not isinstance(header, str):
        return {}
    name, _, value = header.partition("=")
    if name == BAGGAGE_USER and _PLAIN.fullmatch(value):
        return {name: value}
    return dict(baggage.get_all(_propagator.extract({_FIELD: header}, Context())))


def header_without_ours(header: str) -> str:
    """A baggage header without the members under names of ours; the rest stays as it is, to the letter."""
    members = (member for member in header.split(",") if member.strip())
    return ",".join(member for member in members if not _name(member).startswith(BAGGAGE_PREFIX))


def _name(member: str) -> str:
    return next(iter(members_of_header(member.split(";")[0])), "")
