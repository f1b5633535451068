"""The oracle's rule for spans of one call of which one knows more: that one decides what becomes of the call.

Written from docs/emitters.md ("Two spans of one call, of which one knows more"), not from the SQL: relations between spans,
no hashes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from support.oracle_quantities import answered_tier, asked_tier, own_prices_said, sound_cached
from support.oracle_reading import Usage

__all__ = ["Known", "is_overruled", "known_of", "overrules_some"]


class Known(NamedTuple):
    """What a span knows of a call that sets its price as a whole, the weightiest first."""

    not_all_is_counted: bool
    own_prices: bool
    tier: bool
    dear_tokens: bool
    tier_asked_for: bool


def known_of(usage: Usage) -> Known:
    """What an automatic usage says of its call beside the counts that every emitter has."""
    if not usage.automatic:
        return Known(False, False, False, False, False)
    tokens = usage.tokens
    return Known(
        not_all_is_counted=usage.last_call_only or sound_cached(usage),
        own_prices=bool(own_prices_said(usage)),
        tier=answered_tier(usage) not in (None, ""),
        dear_tokens=any(tokens[kind] for kind in ("cache_write_1h", "input_audio", "output_audio")),
        tier_asked_for=answered_tier(usage) is None and bool(asked_tier(usage)),
    )


def overrules_some(usage: Usage) -> bool:
    """Whether there is anything that a span of the same call may not know."""
    return any(known_of(usage))


def is_overruled(usage: Usage, others: Iterable[Usage]) -> bool:
    """Whether another span of the same call knows more of it."""
    if usage.explicit or not usage.automatic or usage.reason not in ("", "unpriced"):
        return False
    # That an answer told its tier, if only as the usual one, says more than what was asked for.
    known = known_of(usage)
    known = known._replace(tier_asked_for=known.tier_asked_for or answered_tier(usage) is not None)
    return any(known_of(other) > known and _of_one_call(usage, other) for other in others)


def _of_one_call(usage: Usage, other: Usage) -> bool:
    if (usage.trace_id, usage.span_id) == (other.trace_id, other.span_id) or other.reason == "not_usage":
        return False
    if usage.identity[0] == "response" and usage.response_id == other.response_id:
        return True
    if (usage.response_id and other.response_id) or usage.trace_id != other.trace_id:
        return False
    parent_and_child = other.parent_id == usage.span_id or usage.parent_id == other.span_id
    return parent_and_child and usage.counts == other.counts
