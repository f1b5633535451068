"""What the ledger should be, computed a second time: plain Python on the OTLP objects, with Decimal.

Written from DESIGN sections 5, 6 and 8 and docs/semantic-conventions.md, not from the SQL, and as directly as possible:
one usage at a time, no bytes, no blocks, no hashes. Slow and simple, so that it can be believed.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from support import otlp_build as names
from support.oracle_calls import Convention, find, goes_before, is_copy, is_perhaps_copy, is_within, preference
from support.oracle_json import none_told, told_at
from support.oracle_knowing import is_overruled, overrules_some
from support.oracle_quantities import EXACT, fault, read_quantities, rounded
from support.oracle_reading import EPOCH, Usage, candidates
from support.oracle_rules import Rule, by_rule

__all__ = ["EPOCH", "Event", "Oracle", "Price", "Quarantined"]

_SNAPSHOT = re.compile(r"[-@](20[0-9]{6}|20[0-9]{2}-[0-9]{2}-[0-9]{2})$")
_CHARGE_MAX = Decimal(10) ** 18
_FREE_UNLESS_PRICED = "reasoning_token"
_KEPT_CHARACTERS = 512


@dataclass(frozen=True)
class Price:
    """A row of the price book; times in microseconds since 1970."""

    action: str
    model: str
    unit: str
    credits: Decimal
    effective_us: int
    created_us: int


@dataclass(frozen=True)
class Event:
    """An event, as far as others rely on its columns; maps as sorted pairs, so that events can be counted."""

    user_id: str
    action_type: str
    model: str
    input_tokens: int
    output_tokens: int
    credits_charged: Decimal
    description: str
    resource_id: str
    resource_type: str
    metadata: tuple[tuple[str, str], ...]
    units: tuple[tuple[str, Decimal], ...]
    service_name: str
    trace_id: str
    span_id: str
    created_at: datetime
    identity: str
    prices: tuple[tuple[str, Decimal], ...]
    rule_id: str

    @property
    def month(self) -> date:
        """The first day of the month that it counts for."""
        return self.created_at.date().replace(day=1)


@dataclass(frozen=True)
class Quarantined:
    """A quarantined span or point, as far as it can be known without hashes."""

    reason: str
    user_id: str
    action_type: str
    model: str
    trace_id: bytes
    span_id: bytes
    end_ns: int


class Oracle:
    """The ledger so far. Give it every insert in order; then look at its attributes.

    Args:
        prices: the price book.
        conventions: what is known of emitters.
        rules: the billing rules, all switched on before anything was sent.
    """

    def __init__(self, prices: Iterable[Price], conventions: Sequence[Convention], rules: Sequence[Rule] = ()) -> None:
        self.events: list[Event] = []
        self.quarantined: list[Quarantined] = []
        self.outcomes: Counter[tuple[str, str, str]] = Counter()
        self._prices = list(prices)
        self._conventions = conventions
        self._rules = rules
        self._charged: dict[tuple[Any, ...], Usage] = {}
        self._event_of: dict[int, Event] = {}
        self._calls: list[Usage] = []
        # Calls of which something is known that another span may not know, charged or waiting.
        self._knowing: list[Usage] = []
        # Spans below which a tool was executed, in earlier inserts: trace and span.
        self._tools_below: set[tuple[bytes, bytes]] = set()

    def insert(self, requests: Iterable[tuple[Any, int]], settings: Any) -> None:
        """Takes the requests of one insert, each with its receive time in microseconds since 1970."""
        usages: list[Usage] = []
        for request, received_us in requests:
            for candidate in candidates(request, received_us, settings):
                if isinstance(candidate, str):
                    self.outcomes[candidate, "not_usage", ""] += 1
                else:
                    self._look_within_json(candidate)
                    candidate.convention = find(self._conventions, candidate)
                    usages.append(by_rule(candidate, self._rules))
        # Of copies, an explicit usage is preferred to an automatic one, then by emitter, then the first that can be charged.
        usages.sort(key=preference)
        self._look_for_tools(usages)
        for usage in usages:
            usage.reason = self._reason(usage)
        self._judge(usages)

    @property
    def balances(self) -> dict[str, Decimal]:
        """What each user has consumed."""
        consumed: dict[str, Decimal] = defaultdict(Decimal)
        for event in self.events:
            consumed[event.user_id] += event.credits_charged
        return dict(consumed)

    @property
    def months(self) -> dict[tuple[str, date, str, str], tuple[int, int, int, Decimal]]:
        """By user, month, action and model: events, input tokens, output tokens, credits."""
        sums: dict[Any, Any] = defaultdict(lambda: (0, 0, 0, Decimal(0)))
        for event in self.events:
            key = (event.user_id, event.month, event.action_type, event.model)
            values = (1, event.input_tokens, event.output_tokens, event.credits_charged)
            sums[key] = tuple(old + new for old, new in zip(sums[key], values, strict=True))
        return dict(sums)

    def _look_within_json(self, usage: Usage) -> None:
        """Adds what is told at the places that any row of its emitter names."""
        if usage.may_be_call:
            for row in (row for row in self._conventions if row.scope_name == usage.scope):
                usage.attributes |= {place: told_at(place, usage.attributes) for place in row.places}

    def _look_for_tools(self, usages: list[Usage]) -> None:
        """Which usages tell of the last of several calls only: an SDK that calls the model again with what tools returned."""
        scopes = {row.scope_name for row in self._conventions if row.several_calls}
        executed = [usage for usage in usages if usage.executes_tool]
        # A span of another instrumentation within it may tell of the earlier calls, too.
        telling = [usage for usage in usages if not none_told(usage.sent(usage.meaning.earlier_calls_attribute))]
        below = self._tools_below | {(one.trace_id, one.parent_id) for one in (*executed, *telling)}
        for usage in usages:
            several = usage.text(names.FINISH_REASONS) == "several" or (usage.trace_id, usage.span_id) in below
            told = not none_told(usage.text(usage.meaning.earlier_calls_attribute))
            usage.last_call_only = usage.automatic and (told or (usage.meaning.several_calls and several))
        told = [tool for tool in executed if tool.scope in scopes and (tool.rule_id or not tool.explicit)]
        told += [usage for usage in usages if usage.last_call_only]
        self._tools_below |= {(one.trace_id, one.parent_id) for one in told}

    def _reason(self, usage: Usage) -> str:
        """Why a usage cannot be charged; if it can, it has its charge afterwards."""
        ignored = usage.is_estimate and usage.settings.estimated == "ignore"
        if ignored or not (usage.explicit or usage.automatic or usage.bare):
            return "not_usage"
        return fault(usage) or read_quantities(usage) or self._rate(usage)

    def _rate(self, usage: Usage) -> str:
        if usage.amount is not None:
            usage.charge = usage.amount
            return ""
        found = {unit: self._price(usage, unit) for unit in usage.units}
        needed = [unit for unit, quantity in usage.units.items() if quantity and unit != _FREE_UNLESS_PRICED]
        if any(found[unit] is None for unit in needed):
            return "unpriced"
        usage.prices = {unit: price or Decimal(0) for unit, price in found.items()}
        exact = Decimal(0)
        for unit, quantity in usage.units.items():
            exact = EXACT.add(exact, EXACT.multiply(quantity, usage.prices[unit]))
        if exact > _CHARGE_MAX:
            return "amount_out_of_range"
        usage.charge = rounded(exact)
        return ""

    def _price(self, usage: Usage, unit: str) -> Decimal | None:
        """The price of a unit at the end of the usage, the most specific row first; None if there is none."""
        model, family = usage.model, _SNAPSHOT.sub("", usage.model)
        rows = [
            row
            for row in self._prices
            if row.unit == unit and row.action in (usage.action, "*") and row.model in (model, family, "*")
        ]
        in_force = [row for row in rows if row.effective_us <= usage.end_ns // 1000]
        ranks = {"*": 0, family: 1} | {model: 2}
        best = max(
            in_force or [row for row in rows if self._is_first_and_undated(row)],
            key=lambda row: (row.action == usage.action, ranks[row.model], row.effective_us, row.created_us),
            default=None,
        )
        return best.credits if best else None

    def _is_first_and_undated(self, row: Price) -> bool:
        """Whether a row was made without a date, and is the first of its action, model and unit."""
        key = (row.action, row.model, row.unit)
        same = [other for other in self._prices if (other.action, other.model, other.unit) == key]
        return row.effective_us == row.created_us == min(other.effective_us for other in same)

    def _judge(self, usages: list[Usage]) -> None:
        first: dict[tuple[Any, ...], Usage] = {}
        knowing = [*usages, *self._knowing]
        for usage in usages:
            usage.overruled = is_overruled(usage, knowing)
        left = [usage for usage in usages if not usage.overruled]
        chargeable = {usage.identity for usage in left if not usage.reason}
        for usage in left:
            # Of the copies that know as much, the preferred one decides, even if what it tells has no price.
            waits_for_price = usage.reason == "unpriced" and usage.identity[0] == "response"
            if not usage.reason or (waits_for_price and usage.identity in chargeable):
                first.setdefault(usage.identity, usage)
        copies = {usage.identity for usage in usages if is_copy(usage, usages, self._calls, overrules_some(usage))}
        outcomes = [self._outcome(usage, usages, first, copies) for usage in usages]
        for usage, (outcome, reason) in zip(usages, outcomes, strict=True):
            self.outcomes[usage.signal, outcome, reason] += 1
            self._knowing += [usage] if outcome in ("charged", "quarantined") and overrules_some(usage) else []
            if outcome == "charged":
                self._replace(usage)
                self.events.append(_event(usage))
                self._event_of[id(usage)] = self.events[-1]
                self._charged[usage.identity] = usage
                self._calls += [usage] if usage.is_call else []
            elif outcome == "quarantined":
                self.quarantined.append(_quarantined(usage, reason))

    def _replace(self, usage: Usage) -> None:
        """What was charged before, although this usage of the app tells of it, was a duplicate."""
        before = self._charged.get(usage.identity)
        replaced = [] if before is None else [before]
        replaced += [call for call in self._calls if is_within(call, usage) and call is not before]
        for call in replaced:
            if (event := self._event_of.pop(id(call), None)) is not None:
                self.events.remove(event)
                self.outcomes[call.signal, "charged", ""] -= 1
                self.outcomes[call.signal, "duplicate", ""] += 1

    def _outcome(
        self, usage: Usage, usages: list[Usage], first: dict[tuple[Any, ...], Usage], copies: set[tuple[Any, ...]]
    ) -> tuple[str, str]:
        if usage.reason == "not_usage":
            return "not_usage", ""
        if usage.overruled or (usage.identity in copies and not usage.explicit):
            return "duplicate", ""
        charged = self._charged.get(usage.identity)
        if charged is not None and goes_before(usage, charged):
            charged = None
            if first.get(usage.identity) is usage and not usage.reason:
                return "charged", ""
        if charged is None and first.get(usage.identity) is usage:
            return (
                ("quarantined", usage.reason) if usage.reason else self._outcome_of_a_first_one(usage, usages, copies)
            )
        charged = charged or first.get(usage.identity)
        if charged is None:
            return "quarantined", usage.reason
        if not usage.reason and usage.identity[0] == "key" and charged.fingerprint != usage.fingerprint:
            return "quarantined", "idempotency_conflict"
        return "duplicate", ""

    def _outcome_of_a_first_one(
        self, usage: Usage, usages: list[Usage], copies: set[tuple[Any, ...]]
    ) -> tuple[str, str]:
        ranked = [
            (other, n)
            for n, other in enumerate(usages)
            if not other.reason and other.is_call and (other.explicit or other.identity not in copies)
        ]
        for other, rank in ranked:
            # A span that has the provider's id is preferred to one that has none, whoever emitted it.
            preferred = [one for one, n in ranked if n < rank or one.identity[0] == "response"]
            if other.identity == usage.identity and is_perhaps_copy(other, preferred, self._calls):
                return "quarantined", "possible_copy"
        return "charged", ""


def _event(usage: Usage) -> Event:
    sent = usage.attributes if usage.original is None else usage.original
    kept = {key: text[:_KEPT_CHARACTERS] for key in usage.settings.keep_attributes if (text := sent.get(key, ""))}
    metadata = kept | {
        key.removeprefix(names.METADATA): text
        for key, text in usage.attributes.items()
        if key.startswith(names.METADATA)
    }
    return Event(
        user_id=usage.user,
        action_type=usage.action,
        model=usage.model,
        input_tokens=usage.tokens_in,
        output_tokens=usage.tokens_out,
        credits_charged=usage.charge,
        description=usage.text(names.DESCRIPTION),
        resource_id=usage.text(names.RESOURCE_ID),
        resource_type=usage.text(names.RESOURCE_TYPE),
        metadata=tuple(sorted(metadata.items())),
        units=tuple(sorted(usage.units.items())),
        service_name=usage.service,
        trace_id=usage.trace_id.hex(),
        span_id=usage.span_id.hex(),
        created_at=usage.created_at,
        identity=str(usage.identity[0]),
        prices=tuple(sorted(usage.prices.items())),
        rule_id=usage.rule_id,
    )


def _quarantined(usage: Usage, reason: str) -> Quarantined:
    return Quarantined(reason, usage.user, usage.action, usage.model, usage.trace_id, usage.span_id, usage.end_ns)
