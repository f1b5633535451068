"""Billing rules: which spans are usage without saying so."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import Base64Bytes, BaseModel, ConfigDict, Field, StrictBool

from otel_credits_aggregator.api._errors import errors, errors_with_body
from otel_credits_aggregator.api._state import LedgerOfApp
from otel_credits_aggregator.ledger import NewRule, Rule, RuleCharge, StoredTest
from otel_credits_aggregator.ledger.fields import Name, UtcInput

__all__ = ["router"]

router = APIRouter(tags=["rules"])
RuleId = Annotated[Name, Path(description="The rule's id, percent-encoded.")]


class Switch(BaseModel):
    """Whether a rule counts."""

    model_config = ConfigDict(extra="forbid")

    enabled: StrictBool


class Sent(BaseModel):
    """Spans to test a rule with."""

    model_config = ConfigDict(extra="forbid")

    request: Base64Bytes = Field(description="An OTLP ExportTraceServiceRequest, protobuf, in base64.")


@router.get("/rules", summary="The billing rules", responses=errors())
def list_rules(ledger: LedgerOfApp) -> Sequence[Rule]:
    return ledger.rules()


@router.post("/rules", summary="Add or replace a rule", status_code=HTTPStatus.CREATED, responses=errors_with_body())
def set_rule(new: NewRule, ledger: LedgerOfApp) -> Rule:
    """It counts for spans that are received from now on, if it is enabled. What was charged stays charged."""
    return ledger.set_rule(new)


@router.put(
    "/rules/{rule_id:path}/enabled", summary="Switch a rule on or off", responses=errors_with_body(HTTPStatus.NOT_FOUND)
)
def switch_rule(rule_id: RuleId, switch: Switch, ledger: LedgerOfApp) -> Rule:
    return ledger.switch_rule(rule_id, switch.enabled)


@router.post(
    "/rules/{rule_id:path}/test", summary="What a rule would charge", responses=errors_with_body(HTTPStatus.NOT_FOUND)
)
def test_rule(rule_id: RuleId, sent: Sent, ledger: LedgerOfApp) -> Sequence[RuleCharge]:
    """Reads and prices the spans as if the rule were on, in a database of its own that is dropped afterwards."""
    return ledger.test_rule(rule_id, sent.request)


@router.post(
    "/rules/{rule_id:path}/test/stored",
    summary="What a rule would have charged for the spans of the last hours",
    responses=errors(HTTPStatus.NOT_FOUND),
)
def try_rule_on_stored(
    rule_id: RuleId,
    ledger: LedgerOfApp,
    since: Annotated[UtcInput | None, Query(description="Received then or later (ISO 8601).")] = None,
) -> StoredTest:
    """Of what is kept (`OTEL_CREDITS_KEEP_REQUESTS_H`); otherwise as above."""
    return ledger.test_rule_on_stored(rule_id, since)
