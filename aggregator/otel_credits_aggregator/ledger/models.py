"""What goes into the ledger and comes out of it, the same in the API, the command and Python.

Decimals are exact strings in JSON, without exponent and without trailing zeros; times are UTC, ISO 8601.
"""

import base64
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Literal
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StrictBool,
    model_validator,
)

__all__ = [
    "CREDITS_MAX",
    "EVENT_IDS_MAX",
    "NAME_BYTES_MAX",
    "Assignment",
    "Balance",
    "ClientUsage",
    "Correction",
    "Difference",
    "Discard",
    "Discarded",
    "Event",
    "Fix",
    "Grant",
    "Health",
    "Missing",
    "MonthlyUsage",
    "NewGrant",
    "NewPrice",
    "NewRule",
    "Price",
    "Profile",
    "QuarantineFilter",
    "QuarantineReason",
    "QuarantinedCopy",
    "QuarantinedRequest",
    "QuarantinedUsage",
    "RawRequest",
    "Rebuilt",
    "Replayed",
    "Rule",
    "RuleCharge",
    "SeriesFault",
    "StoredTest",
    "TakenIn",
    "Until",
    "User",
    "UserId",
    "exact_text",
]

# The same bounds as the chain has for usage (clickhouse/migrations/0004_usage_chain.sql).
CREDITS_MAX = Decimal(10**18)
NAME_BYTES_MAX = 512
EVENT_IDS_MAX = 500
_DECIMAL_PLACES = 12


def exact_text(value: Decimal) -> str:
    """A decimal as people write it: all digits, no exponent, no trailing zeros."""
    text = f"{value:f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _not_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number, best as a string")
    return value


def _at_most_12_places(value: Decimal) -> Decimal:
    exponent = value.normalize().as_tuple().exponent
    if isinstance(exponent, int) and -exponent > _DECIMAL_PLACES:
        raise ValueError(f"has more than {_DECIMAL_PLACES} decimal places")
    return value


def _short_text(value: str) -> str:
    try:
        size_bytes = len(value.encode())
    except UnicodeEncodeError:
        raise ValueError("is not valid Unicode") from None
    if size_bytes > NAME_BYTES_MAX:
        raise ValueError(f"is longer than {NAME_BYTES_MAX} bytes")
    return value


def _not_empty(value: str) -> str:
    if not value:
        raise ValueError("must not be empty")
    return value


def _base64(value: str) -> str:
    try:
        base64.b64decode(value, validate=True)
    except ValueError:
        raise ValueError("is not base64") from None
    return value


def _iso_text(value: object) -> object:
    """Refuses numbers: 2026 is a year to people and a second of 1970 to machines."""
    if isinstance(value, datetime) or (isinstance(value, str) and "-" in value):
        return value
    raise ValueError("must be a date or time as in ISO 8601, for example 2026-01-31 or 2026-01-31T12:00:00Z")


def _utc(value: datetime) -> datetime:
    """A time without a zone is taken as UTC."""
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


Exact = Annotated[Decimal, PlainSerializer(exact_text, return_type=str, when_used="json")]
ExactInput = Annotated[Exact, BeforeValidator(_not_bool), AfterValidator(_at_most_12_places)]
Text = Annotated[str, AfterValidator(_short_text)]
Name = Annotated[str, AfterValidator(_not_empty), AfterValidator(_short_text)]
UserId = Name
Utc = Annotated[datetime, AfterValidator(_utc)]
UtcInput = Annotated[Utc, BeforeValidator(_iso_text)]


class _Row(BaseModel):
    """A row of a result."""

    model_config = ConfigDict(frozen=True)


class _Input(BaseModel):
    """What a caller gives; an unknown field is a mistake, not something to ignore."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Health(_Row):
    """What a running aggregator says of itself; `store` tells whether two processes mean the same store."""

    status: Literal["ok"] = "ok"
    service: Literal["otel-credits"]
    store: str


class Balance(_Row):
    """What a user has left. `updated_at` is empty for a user who is known by profile only."""

    user_id: str
    current_balance: Exact = Decimal(0)
    current_month_consumed: Exact = Decimal(0)
    lifetime_granted: Exact = Decimal(0)
    lifetime_consumed: Exact = Decimal(0)
    updated_at: Utc | None = None


class User(_Row):
    """What is known of a user."""

    id: str
    email: str
    name: str


class Event(_Row):
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


class Void(_Row):
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


class Grant(_Row):
    """Credits given to a user."""

    grant_id: str
    user_id: str
    credits: Exact
    reason: str
    created_at: Utc


class MonthlyUsage(_Row):
    """What a user consumed in a month of one action and model."""

    user_id: str
    month: date
    action_type: str
    model: str
    events: int
    input_tokens: int
    output_tokens: int
    credits_consumed: Exact


class Price(_Row):
    """A row of the price book; `status` is current, future, past or replaced."""

    action_type: str
    model: str
    unit: str
    credits_per_unit: Exact
    effective_from: Utc
    source: str
    created_at: Utc
    status: str


class Rule(_Row):
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


class RuleCharge(_Row):
    """What a rule would have charged a user, or (`outcome` quarantined) would have tried to, and why it could not."""

    rule_id: str
    outcome: str
    reason: str
    user_id: str
    action_type: str
    usages: int
    units: dict[str, Exact]
    credits: Exact


class StoredTest(_Row):
    """What a rule would have charged for the requests that are kept, and how many these are, from when on."""

    requests: int
    spans: int
    received_from: Utc | None
    charges: tuple[RuleCharge, ...]


class QuarantinedUsage(_Row):
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


class QuarantinedCopy(_Row):
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


class QuarantinedRequest(_Row):
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


class QuarantineReason(_Row):
    """How many usages are quarantined for a reason, and what to do about it."""

    reason: str
    usages: int
    items: int
    detail: str = ""
    first_received_at: Utc
    last_received_at: Utc


class Replayed(_Row):
    """How many rows of the quarantine were tried again. What could not be charged this time either is still there."""

    tried: int


class Discarded(_Row):
    """How many rows left the quarantine without being charged; each is recorded in `quarantine_decisions`."""

    discarded: int


class TakenIn(_Row):
    """How many spans or data points a request brought, which is now durable and charged like any other."""

    items: int


class Until(_Row):
    """The last user of a range; empty: it has no end."""

    until: str


class ClientUsage(_Row):
    """Whether what a process recorded has arrived.

    `missing` was recorded, waits no longer and was not received: it is lost, or still on its way (in a Collector, in a spool).
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


class SeriesFault(_Row):
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


class Missing(_Row):
    """By how much a total falls short."""

    credits: Exact


class Difference(_Row):
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


class Rebuilt(_Row):
    """How many rows the two tables of totals have now, and how many sums of the old ones were wrong."""

    user_months: int
    usage_months: int
    changed: int


class Backup(_Row):
    """A backup that was taken: its folder on the server's machine, the moment it shows, and its size."""

    path: str
    taken_at: Utc
    files: int
    bytes: int


class NewBackup(_Input):
    """Where a backup is to be."""

    path: Name = Field(
        description="A folder on the server's machine that does not exist yet, as an absolute path.",
        examples=["/mnt/backups/2026-11-24"],
    )


class QuarantineFilter(_Input):
    """Which quarantined usages are meant: those that match all that is given.

    `since` is part of the time in which they were received, `until` is not.
    """

    reason: Name | None = None
    user_id: UserId | None = None
    event_ids: tuple[UUID, ...] = Field((), max_length=EVENT_IDS_MAX)
    since: UtcInput | None = None
    until: UtcInput | None = None

    @property
    def is_everything(self) -> bool:
        """Whether nothing narrows it down."""
        return self == QuarantineFilter()


class Assignment(_Input):
    """Who pays for quarantined usage that names nobody."""

    user_id: UserId = Field(examples=["42"])
    decided_by: Text = Field("", description="Who decided; recorded.", examples=["ada"])
    comment: Text = Field("", description="Why; recorded.")


class Discard(_Input):
    """Why quarantined usage will never be charged."""

    comment: Name = Field(description="Why; recorded.", examples=["load test of 2026-11-20"])
    decided_by: Text = Field("", description="Who decided; recorded.", examples=["ada"])


class RawRequest(_Input):
    """An OTLP request as bytes: what `quarantine export` writes a line of, with more fields, and `import` reads."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    signal: Literal["traces", "metrics"]
    raw_request: Annotated[str, AfterValidator(_base64)] = Field(description="The request in OTLP protobuf, base64.")
    allowed_services: tuple[Name, ...] = Field((), description="What its sender might charge for; empty: any service.")
    allowed_actions: tuple[Name, ...] = Field((), description="The same of actions.")

    @property
    def payload(self) -> bytes:
        """The request."""
        return base64.b64decode(self.raw_request)


class Fix(_Input):
    """Who has totals corrected, and why; both are recorded."""

    corrected_by: Text = Field("", examples=["ada"])
    comment: Text = Field("", examples=["after the disk failure of 2026-11-20"])


class NewVoid(_Input):
    """Why a charge is taken back."""

    reason: Name = Field(description="Why; recorded.", examples=["the report was empty"])
    voided_by: Text = Field("", description="Who decided; recorded.", examples=["ada"])


class NewGrant(_Input):
    """Credits to give; the same `grant_id` again gives nothing more."""

    credits: ExactInput = Field(
        gt=0, le=CREDITS_MAX, description="Decimal string, at most 12 decimal places.", examples=["100"]
    )
    reason: Text = Field("", examples=["welcome"])
    grant_id: Name | None = Field(None, description="Idempotency key; made up if left out.", examples=["order-1234"])


class Profile(_Input):
    """What to remember of a user; what is left out or empty stays as it was."""

    email: Text = Field("", examples=["ada@example.com"])
    name: Text = Field("", examples=["Ada"])


class NewPrice(_Input):
    """A price to add. Without `effective_from` it applies from now on, and to what waits as unpriced."""

    action_type: Name = Field("*", description="Action, or * for any.", examples=["ai_chat_message"])
    model: Name = Field("*", description="Model, or * for any.")
    unit: Name = Field("call", examples=["output_token"])
    credits_per_unit: ExactInput = Field(ge=0, le=CREDITS_MAX, description="Decimal string.", examples=["0.000015"])
    effective_from: UtcInput | None = Field(None, description="Usage that ends then or later has this price.")
    source: Text = Field("", description="Where the price is from.")


Conditions = Annotated[dict[Name, Text], Field(max_length=20)]
_SOURCE = r"^(one|seconds|attribute:.+)$"
Source = Annotated[Name, Field(pattern=_SOURCE)]


class NewRule(_Input):
    """A billing rule, or the new text of one. All of its conditions must hold; at least one is needed."""

    rule_id: Name = Field(examples=["api-routes"])
    enabled: StrictBool = Field(False, description="Whether it counts from now on.")
    priority: int = Field(100, ge=-(2**31), lt=2**31, description="Of the rules that match, the lowest number decides.")
    attributes: Conditions = Field({}, description="Attributes with exactly this text.")
    attribute_prefixes: Conditions = Field(
        {}, description="Attributes whose text begins so; empty: any text.", examples=[{"http.route": "/api/"}]
    )
    span_name: Text = Field("", description="The span's whole name.")
    span_name_prefix: Text = Field("", description="How the span's name begins.")
    kind: Literal["", "internal", "server", "client", "producer", "consumer"] = ""
    scope_name: Text = Field("", description="The instrumentation, by its scope's name.")
    service_name: Text = ""
    status: Literal["", "unset", "ok", "error"] = ""
    charge_failed: StrictBool = Field(
        False, description="Whether spans with status error are charged; if not, they are free."
    )
    action_type: Name = Field(description="What the span is a usage of.", examples=["api_request"])
    quantities: Annotated[dict[Name, Source], Field(min_length=1, max_length=20)] = Field(
        {"call": "one"}, description="Unit to where its quantity is from: one, seconds, or attribute:NAME."
    )
    note: Text = ""

    @model_validator(mode="after")
    def _has_a_condition(self) -> "NewRule":
        conditions = (self.attributes, self.attribute_prefixes, self.span_name, self.span_name_prefix, self.kind)
        if not any((*conditions, self.scope_name, self.service_name, self.status)):
            raise ValueError("a rule needs a condition: without one it would charge every span")
        if self.status == "error" and not self.charge_failed:
            raise ValueError("a rule for failed spans (status error) must charge them: set charge_failed")
        return self
