"""The oracle's knowledge of LLM calls: what an emitter's attributes mean, and which spans tell of one call.

Written from docs/semantic-conventions.md ("Tokens", "Copies"), not from the SQL: relations between spans, no hashes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from support import otlp_build as names

if TYPE_CHECKING:
    from support.oracle_reading import Usage

__all__ = ["STANDARD", "Convention", "find", "goes_before", "is_copy", "is_perhaps_copy", "is_within", "preference"]

_QUARTER_NS = 250_000_000


@dataclass(frozen=True)
class Convention:
    """A row of credit_conventions; the fields have the names of its columns."""

    scope_name: str
    version_from: str = ""
    version_until: str = ""
    provider: str = ""
    input_attribute: str = names.INPUT
    output_attribute: str = names.OUTPUT
    cache_read_attribute: str = names.CACHE_READ
    cache_write_attribute: str = names.CACHE_WRITE
    cache_write_1h_attribute: str = ""
    reasoning_attribute: str = names.REASONING
    input_audio_attribute: str = ""
    output_audio_attribute: str = ""
    input_includes_cache: bool = True
    cache_unknown_from: int = 0
    model_attribute: str = names.RESPONSE_MODEL
    request_model_attribute: str = names.REQUEST_MODEL
    response_id_attribute: str = names.RESPONSE_ID
    finish_attribute: str = ""
    service_tier_attribute: str = ""
    request_service_tier_attribute: str = names.REQUEST_TIER
    price_attributes: tuple[str, ...] = ()
    answers_attribute: str = ""
    stream_attributes: tuple[str, ...] = ()
    stream_flaw: str = ""
    several_calls: bool = False
    total_attribute: str = ""
    count_attribute: str = ""
    earlier_calls_attribute: str = ""
    preference: int = 9

    @property
    def token_attributes(self) -> dict[str, tuple[str, ...]]:
        """The attributes of each class of tokens, the first that is there counts."""
        written = (self.cache_write_attribute,)
        if self.cache_write_attribute == names.CACHE_WRITE:
            written += (names.CACHE_CREATION,)
        found = {
            "input": (self.input_attribute,),
            "output": (self.output_attribute,),
            "cache_read": (self.cache_read_attribute,),
            "cache_write": written,
            "reasoning": (self.reasoning_attribute,),
            "cache_write_1h": (self.cache_write_1h_attribute,),
            "input_audio": (self.input_audio_attribute,),
            "output_audio": (self.output_audio_attribute,),
        }
        return {kind: tuple(filter(None, keys)) for kind, keys in found.items()}

    @property
    def places(self) -> set[str]:
        """Those of the names that are places within JSON."""
        named = [value for value in vars(self).values() if isinstance(value, str)]
        return {name for name in (*named, *self.price_attributes, *self.stream_attributes) if "#" in name}


# How a usage is read whose emitter is in no row.
STANDARD = Convention("")


def find(conventions: Iterable[Convention], usage: Usage) -> Convention | None:
    """The row that says what the attributes of this usage's emitter mean."""
    version = _numbers(usage.scope_version)
    found = [
        row
        for row in conventions
        if row.scope_name == usage.scope
        and row.provider in ("", usage.provider)
        and version >= _numbers(row.version_from)
        and (not row.version_until or version < _numbers(row.version_until))
    ]
    return max(found, key=lambda row: (_numbers(row.version_from), row.provider != ""), default=None)


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall("[0-9]+", version)]


def preference(usage: Usage) -> int:
    """The rank of a usage among copies, before the order in which they were sent."""
    return 0 if usage.explicit else 1 + usage.meaning.preference


def goes_before(usage: Usage, charged: Usage) -> bool:
    """Whether the app's usage is charged instead of what was charged before for the same response id."""
    same = usage.identity == charged.identity and usage.identity[0] == "response"
    return usage.explicit and charged.automatic and same and usage.reason in ("", "unpriced")


def is_within(call: Usage, usage: Usage) -> bool:
    """Whether a call is the child of a usage of the app with tokens, which tells of it."""
    child = (call.trace_id, call.parent_id) == (usage.trace_id, usage.span_id)
    return child and call.automatic and call.is_call and usage.explicit and usage.is_call


def is_copy(usage: Usage, here: Iterable[Usage], before: Iterable[Usage], knows: bool) -> bool:
    """Whether another span certainly tells of the same call: of this insert and chargeable, or charged before.

    One that knows something of the call is no copy of one that is overruled.
    """
    answering = [other for other in here if other.is_call and not other.reason and not (knows and other.overruled)]
    return usage.is_call and (
        any(_tells_of_the_same(usage, other, False) for other in answering)
        or any(_tells_of_the_same(usage, other, True) for other in before)
    )


def _tells_of_the_same(usage: Usage, other: Usage, earlier: bool) -> bool:
    if usage.trace_id != other.trace_id or other.bare:
        return False
    below = other.parent_id == usage.span_id
    above = other.span_id == usage.parent_id
    if usage.bare:
        return below
    if usage.explicit:
        return False
    same_counts = usage.counts == other.counts
    if other.explicit:
        return above
    if usage.response_id:
        return False
    return same_counts and (below or (above and (earlier or bool(other.response_id))))


def is_perhaps_copy(usage: Usage, preferred: Iterable[Usage], before: Iterable[Usage]) -> bool:
    """Whether another instrumentation may have told of the same call.

    Args:
        usage: a call that can be charged.
        preferred: those of this insert that would be charged rather than it.
        before: the calls that were charged before.
    """
    return any(
        other.identity != usage.identity and _may_be_the_same(usage, other, False) for other in preferred
    ) or any(_may_be_the_same(usage, other, True) for other in before)


def _may_be_the_same(usage: Usage, other: Usage, earlier: bool) -> bool:
    if usage.scope == other.scope or other.bare:
        return False
    beside = (usage.trace_id, usage.parent_id) == (other.trace_id, other.parent_id)
    if usage.explicit:
        return earlier and other.automatic and beside and usage.counts == other.counts
    if other.explicit:
        return beside and other.counts in (usage.counts, usage.counts_without_cache)
    near = abs(usage.end_ns // _QUARTER_NS - other.end_ns // _QUARTER_NS) <= 1
    # What has an id is preferred to what has none, unless that was charged before.
    one_has_no_id = not usage.response_id or (earlier and not other.response_id)
    return one_has_no_id and usage.service == other.service and near and usage.counts == other.counts
