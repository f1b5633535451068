"""What comes out of the ledger, the same in the API, the command and Python."""

from datetime import date
from decimal import Decimal
from typing import Literal
from uuid import UUID

from otel_credits_aggregator.ledger.fields import Exact, Row, Utc

__all__ = [
    "Backup",
    "Balance",
    "ClientUsage",
    "Correction",
    "Difference",
    "Discarded",
    "Event",
    "Grant",
    "Health",
    "Missing",
    "MonthlyUsage",
    "Price",
    "QuarantineReason",
    "QuarantinedCopy",
    "QuarantinedRequest",
    "QuarantinedUsage",
    "Rebuilt",
    "Replayed",
    "Rule",
    "RuleCharge",
    "SeriesFault",
    "StoredTest",
    "TakenIn",
    "Until",
    "User",
    "Void",
]


class Health(Row):
    """What a running aggregator says of itself; `store` tells whether two processes mean the same store."""

    status: Literal["ok"] = "ok"
    service: Literal["otel-credits"]
    store: str


class Balance(Row):
    """What a user has left. `updated_at` is empty for a user who is known by profile only."""

    user_id: str
    current_balance: Exact = Decimal(0)
    current_month_consumed: Exact = Decimal(0)
    lifetime_granted: Exact = Decimal(0)
    lifetime_consumed: Exact = Decimal(0)
    updated_at: Utc | None = None


class User(Row):
    """What is known of a user."""

    id: str
    email: str
    name: str


class Event(Row):
    """An entry of `credit_usage_events`.

    `status`: `charged`; `void`, a charge that was taken back; or `reversal`, the entry that takes it back, with negative numbers.
    """

    event_id: UUID
    user_id: str
    action_type: str
    model: str
    input_tokens: int
    output_tokens: int
    credits_charged: Exact
    description: str
    resource_id: str
    resource_type: str
    metadata: dict[str, str]
    units: dict[str, Exact]
    prices: dict[str, Exact]
    service_name: str
    trace_id: str
    span_id: str
    created_at: Utc
    received_at: Utc
    status: Literal["charged", "void", "reversal"]


class Void(Row):
    """A charge that was taken back because someone decided it."""

    event_id: UUID
    user_id: str
    action_type: str
    model: str
    credits: Exact
    reason: str
    voided_by: str
    voided_at: Utc
    created_at: Utc


class Grant(Row):
    """Credits given to a user."""

    grant_id: str
    user_id: str
    credits: Exact
    reason: str
    created_at: Utc


class MonthlyUsage(Row):
    """What a user consumed in a month of one action and model."""

    user_id: str
    month: date
    action_type: str
    model: str
    events: int
    input_tokens: int
    output_tokens: int
    credits_consumed: Exact


class Price(Row):
    """A row of the price book; `status` is current, future, past or replaced."""

    action_type: str
    model: str
    unit: str
    credits_per_unit: Exact
    effective_from: Utc
    source: str
    created_at: Utc
    status: str


class Rule(Row):
    """A billing rule as it counts now: which spans are a usage of `action_type`, and how much. Empty conditions are any."""

    rule_id: str
    enabled: bool
    priority: int
    attributes: dict[str, str]
    attribute_prefixes: dict[str, str]
    span_name: str
    span_name_prefix: str
    kind: str
    scope_name: str
    service_name: str
    status: str
    charge_failed: bool
    action_type: str
    quantities: dict[str, str]
    note: str
    created_at: Utc

    @property
    def conditions(self) -> str:
        """The conditions in one line."""
        words = [f"{key} = {text}" for key, text in self.attributes.items()]
        words += [f"{key} = {prefix}*" for key, prefix in self.attribute_prefixes.items()]
        fields = ("span_name", "kind", "scope_name", "service_name", "status")
        words += [f"{field} = {getattr(self, field)}" for field in fields if getattr(self, field)]
        words += [f"span_name = {self.span_name_prefix}*"] if self.span_name_prefix else []
        return ", ".join(words)


class RuleCharge(Row):
    """What a rule would have charged a user, or (`outcome` quarantined) would have tried to, and why it could not."""

    rule_id: str
    outcome: str
    reason: str
    user_id: str
    action_type: str
    usages: int
    units: dict[str, Exact]
    credits: Exact


class StoredTest(Row):
    """What a rule would have charged for the requests that are kept, and how many these are, from when on."""

    requests: int
    spans: int
    received_from: Utc | None
    charges: tuple[RuleCharge, ...]


class QuarantinedUsage(Row):
    """A usage that could not be charged; `detail` says what to do."""

    event_id: UUID
    reason: str
    detail: str
    copies: int
    items: int
    user_id: str
    action_type: str
    model: str
    signal: str
    name: str
    service_name: str
    scope_name: str
    scope_version: str
    trace_id: str
    span_id: str
    attributes: dict[str, str]
    first_received_at: Utc
    last_received_at: Utc


class QuarantinedCopy(Row):
    """One row of the quarantine: one delivery of a usage, or a whole request that could not be inserted.

    `raw_bytes` is the size of such a request, and `raw_begin` its first 64 bytes in hex.
    """

    quarantine_id: UUID
    event_id: UUID
    reason: str
    detail: str
    received_at: Utc
    items: int
    user_id: str
    action_type: str
    model: str
    signal: str
    name: str
    service_name: str
    scope_name: str
    scope_version: str
    receiver: str
    trace_id: str
    span_id: str
    started_at_ns: int
    ended_at_ns: int
    attributes: dict[str, str]
    raw_bytes: int
    raw_begin: str


class QuarantinedRequest(Row):
    """A whole request that could not be inserted; the bytes themselves are `RawRequest`."""

    quarantine_id: UUID
    event_id: UUID
    reason: str
    detail: str
    received_at: Utc
    signal: str
    items: int
    receiver: str
    raw_bytes: int


class QuarantineReason(Row):
    """How many usages are quarantined for a reason, and what to do about it."""

    reason: str
    usages: int
    items: int
    detail: str = ""
    first_received_at: Utc
    last_received_at: Utc


class Replayed(Row):
    """How many rows of the quarantine were tried again. What could not be charged this time either is still there."""

    tried: int


class Discarded(Row):
    """How many rows left the quarantine without being charged; each is recorded in `quarantine_decisions`."""

    discarded: int


class TakenIn(Row):
    """How many spans or data points a request brought, which is now durable and charged like any other."""

    items: int


class Until(Row):
    """The last user of a range; empty: it has no end."""

    until: str


class ClientUsage(Row):
    """Whether what a process recorded has arrived.

    `recorded` is what the process reported, or the highest number that arrived, if that is more. `missing` was recorded, waits no
    longer and was not received: it is lost, or still on its way (in a Collector, in a spool).
    `last_report_at` is the epoch for a process that numbers its usages and does not report its counters.
    """

    service_name: str
    service_instance_id: str
    recorded: int
    exported: int
    failed: int
    waiting: int
    received: int
    charged: int
    quarantined: int
    missing: int
    last_report_at: Utc


class SeriesFault(Row):
    """Where two intervals of one series of data points do not meet: a `gap` between them, or an `overlap`.

    `from_ns` and `until_ns` are its bounds in nanoseconds since 1970, `from_at` and `until_at` the same to the microsecond. User
    and action are those of the interval behind it.
    """

    service_name: str
    series: str
    user_id: str
    action_type: str
    fault: str
    from_ns: int
    until_ns: int
    from_at: Utc
    until_at: Utc


class Missing(Row):
    """By how much a total falls short."""

    credits: Exact


class Difference(Row):
    """A running total that is not the sum of its events or grants.

    `total` names it: granted, consumed and events are behind the balance (action_type and model are empty);
    credits_consumed, events, input_tokens and output_tokens are the monthly usage of an action and model.
    """

    user_id: str
    month: date
    action_type: str
    model: str
    total: str
    expected: Exact
    found: Exact


class Correction(Difference):
    """A total that was corrected: `found` is what it was, `expected` what it is now."""

    corrected_by: str
    comment: str


class Rebuilt(Row):
    """How many rows the two tables of totals have now, and how many sums of the old ones were wrong."""

    user_months: int
    usage_months: int
    changed: int


class Backup(Row):
    """A backup that was taken: its folder on the server's machine, the moment it shows, and its size."""

    path: str
    taken_at: Utc
    files: int
    bytes: int
