"""What goes into the ledger, the same in the API, the command and Python."""

import base64
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, ConfigDict, Field, StrictBool, model_validator

from otel_credits_aggregator.ledger.fields import (
    CREDITS_MAX,
    EVENT_IDS_MAX,
    ExactInput,
    Input,
    Name,
    Text,
    UserId,
    UtcInput,
    base64_text,
)

__all__ = [
    "Assignment",
    "Conditions",
    "Discard",
    "Fix",
    "NewBackup",
    "NewGrant",
    "NewPrice",
    "NewRule",
    "NewVoid",
    "Profile",
    "QuarantineFilter",
    "RawRequest",
    "Source",
]


class NewBackup(Input):
    """Where a backup is to be."""

    path: Name = Field(
        description="A folder on the server's machine that does not exist yet, as an absolute path.",
        examples=["/mnt/backups/2026-11-24"],
    )


class QuarantineFilter(Input):
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


class Assignment(Input):
    """Who pays for quarantined usage that names nobody."""

    user_id: UserId = Field(examples=["42"])
    decided_by: Text = Field("", description="Who decided; recorded.", examples=["ada"])
    comment: Text = Field("", description="Why; recorded.")


class Discard(Input):
    """Why quarantined usage will never be charged."""

    comment: Name = Field(description="Why; recorded.", examples=["load test of 2026-11-20"])
    decided_by: Text = Field("", description="Who decided; recorded.", examples=["ada"])


class RawRequest(Input):
    """An OTLP request as bytes: what `quarantine export` writes a line of, with more fields, and `import` reads."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    signal: Literal["traces", "metrics"]
    raw_request: Annotated[str, AfterValidator(base64_text)] = Field(
        description="The request in OTLP protobuf, base64."
    )
    allowed_services: tuple[Name, ...] = Field((), description="What its sender might charge for; empty: any service.")
    allowed_actions: tuple[Name, ...] = Field((), description="The same of actions.")

    @property
    def payload(self) -> bytes:
        """The request."""
        return base64.b64decode(self.raw_request)


class Fix(Input):
    """Who has totals corrected, and why; both are recorded."""

    corrected_by: Text = Field("", examples=["ada"])
    comment: Text = Field("", examples=["after the disk failure of 2026-11-20"])


class NewVoid(Input):
    """Why a charge is taken back."""

    reason: Name = Field(description="Why; recorded.", examples=["the report was empty"])
    voided_by: Text = Field("", description="Who decided; recorded.", examples=["ada"])


class NewGrant(Input):
    """Credits to give; the same `grant_id` again gives nothing more."""

    credits: ExactInput = Field(
        gt=0, le=CREDITS_MAX, description="Decimal string, at most 12 decimal places.", examples=["100"]
    )
    reason: Text = Field("", examples=["welcome"])
    grant_id: Name | None = Field(None, description="Idempotency key; made up if left out.", examples=["order-1234"])


class Profile(Input):
    """What to remember of a user; what is left out or empty stays as it was."""

    email: Text = Field("", examples=["ada@example.com"])
    name: Text = Field("", examples=["Ada"])


class NewPrice(Input):
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


class NewRule(Input):
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
