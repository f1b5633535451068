"""Billing rules for the oracle: which rule makes a span a usage, and of what. Written from docs/billing-rules.md."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from support import otlp_build as names
from support.oracle_reading import Usage

_KINDS = ("unspecified", "internal", "server", "client", "producer", "consumer")
_STATUSES = ("unset", "ok", "error")
# A span that starts before the year 2000 has no start.
_EARLIEST_START_NS = 946_684_800 * 10**9
_KEPT = (
    names.CREDITS_USER,
    names.END_USER,
    names.DESCRIPTION,
    names.RESOURCE_ID,
    names.RESOURCE_TYPE,
)


@dataclass(frozen=True)
class Rule:
    """A row of credit_rules that is switched on; an empty text is any."""

    rule_id: str
    action_type: str
    priority: int = 100
    attributes: dict[str, str] = field(default_factory=dict)
    attribute_prefixes: dict[str, str] = field(default_factory=dict)
    span_name: str = ""
    span_name_prefix: str = ""
    kind: str = ""
    scope_name: str = ""
    service_name: str = ""
    status: str = ""
    charge_failed: bool = False
    quantities: dict[str, str] = field(default_factory=lambda: {"call": "one"})

    def meets(self, usage: Usage) -> bool:
        """Whether a span meets every condition."""
        has = usage.attributes
        return (
            self.kind in ("", _KINDS[usage.kind])
            and self.status in ("", _STATUSES[usage.status])
            and self.scope_name in ("", usage.scope)
            and self.service_name in ("", usage.service)
            and self.span_name in ("", usage.name)
            and usage.name.startswith(self.span_name_prefix)
            and all(has.get(key) == text for key, text in self.attributes.items())
            and all(key in has and has[key].startswith(text) for key, text in self.attribute_prefixes.items())
        )


def by_rule(usage: Usage, rules: Iterable[Rule]) -> Usage:
    """The span as the first rule that it meets makes it a usage; as it is if there is none, or it says itself what it is."""
    if usage.signal != "span" or usage.explicit or usage.automatic:
        return usage
    met = [rule for rule in sorted(rules, key=lambda rule: (rule.priority, rule.rule_id)) if rule.meets(usage)]
    if not met or (_STATUSES[usage.status] == "error" and not met[0].charge_failed):
        return usage
    return _as_usage(usage, met[0])


def _as_usage(usage: Usage, rule: Rule) -> Usage:
    """Of the span's own attributes who pays and what is shown; the action and the quantities are the rule's."""
    shown = {
        key: text
        for key, text in usage.attributes.items()
        if key.startswith((names.METADATA, "user.")) or key in (*_KEPT, *usage.settings.user_attributes)
    }
    stated = {names.UNITS + unit: _quantity(usage, source) for unit, source in rule.quantities.items()}
    doubles = {
        names.UNITS + unit
        for unit, source in rule.quantities.items()
        if source.removeprefix("attribute:") in usage.doubles
    }
    return replace(
        usage,
        attributes={names.DESCRIPTION: usage.name} | shown | {names.ACTION: rule.action_type} | stated,
        doubles=frozenset(doubles),
        original=usage.attributes,
        model_before=usage.model,
        rule_id=rule.rule_id,
    )


def _quantity(usage: Usage, source: str) -> str:
    if source == "one":
        return "1"
    if source.startswith("attribute:"):
        return usage.attributes.get(source.removeprefix("attribute:"), "")
    if usage.start_ns < _EARLIEST_START_NS:
        return ""
    sign, nanoseconds = "-" if usage.end_ns < usage.start_ns else "", abs(usage.end_ns - usage.start_ns)
    return f"{sign}{nanoseconds // 10**9}.{nanoseconds % 10**9:09}"
