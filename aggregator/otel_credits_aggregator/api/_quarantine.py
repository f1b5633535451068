"""What could not be charged, and what is done about it."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query

from otel_credits_aggregator.api._errors import errors, errors_with_body
from otel_credits_aggregator.api._state import LIMIT, LedgerOfApp, Limit, QueryUserId
from otel_credits_aggregator.ledger import (
    Assignment,
    Discard,
    Discarded,
    QuarantinedCopy,
    QuarantinedRequest,
    QuarantinedUsage,
    QuarantineFilter,
    QuarantineReason,
    RawRequest,
    Replayed,
    TakenIn,
)
from otel_credits_aggregator.ledger.fields import EVENT_IDS_MAX, Name, UtcInput

__all__ = ["router"]

router = APIRouter(tags=["quarantine"])


def _which(
    reason: Annotated[Name | None, Query(description="Only this reason.")] = None,
    user: QueryUserId = None,
    event: Annotated[
        list[UUID] | None, Query(max_length=EVENT_IDS_MAX, description="Only these event ids (repeat the parameter).")
    ] = None,
    since: Annotated[UtcInput | None, Query(description="Received then or later (ISO 8601).")] = None,
    until: Annotated[UtcInput | None, Query(description="Received before then (ISO 8601).")] = None,
) -> QuarantineFilter:
    return QuarantineFilter(reason=reason, user_id=user, event_ids=tuple(event or ()), since=since, until=until)


Which = Annotated[QuarantineFilter, Depends(_which)]


@router.get("/quarantine", summary="Usages that could not be charged, latest first", responses=errors())
def list_quarantine(ledger: LedgerOfApp, which: Which, limit: Limit = LIMIT) -> Sequence[QuarantinedUsage]:
    """One row a usage, however many copies of it arrived. `detail` says what to do."""
    return ledger.quarantine(which, limit)


@router.get("/quarantine/summary", summary="How many usages are quarantined, by reason", responses=errors())
def summarize_quarantine(ledger: LedgerOfApp) -> Sequence[QuarantineReason]:
    return ledger.quarantine_summary()


@router.get(
    "/quarantine/usages/{event_id}",
    summary="Every row of one quarantined usage",
    responses=errors(HTTPStatus.NOT_FOUND),
)
def show_quarantined(ledger: LedgerOfApp, event_id: UUID) -> Sequence[QuarantinedCopy]:
    return ledger.quarantined_copies(event_id)


@router.get("/quarantine/requests", summary="Whole requests that could not be inserted", responses=errors())
def list_requests(ledger: LedgerOfApp, which: Which, limit: Limit = LIMIT) -> Sequence[QuarantinedRequest]:
    """The oldest first, without their bytes."""
    return ledger.quarantined_requests(which, limit)


@router.get(
    "/quarantine/requests/{quarantine_id}",
    summary="The bytes of a request that could not be inserted",
    responses=errors(HTTPStatus.NOT_FOUND),
)
def show_request(ledger: LedgerOfApp, quarantine_id: UUID) -> RawRequest:
    return ledger.quarantined_request(quarantine_id)


@router.post("/quarantine/replay", summary="Try again to charge what is quarantined", responses=errors())
def replay_quarantine(ledger: LedgerOfApp, which: Which) -> Replayed:
    """What can be charged by now is charged and leaves the quarantine; what was charged before is not charged again."""
    return ledger.replay_quarantine(which)


@router.post("/quarantine/assign", summary="Make a user pay for usage that names nobody", responses=errors_with_body())
def assign_quarantine(ledger: LedgerOfApp, which: Which, assignment: Assignment) -> Replayed:
    """Rows that name a user are left alone. Each decision is recorded in the table `quarantine_decisions`."""
    return ledger.assign_quarantine(which, assignment)


@router.post("/quarantine/discard", summary="Take out what will never be charged", responses=errors_with_body())
def discard_quarantine(ledger: LedgerOfApp, which: Which, discard: Discard) -> Discarded:
    """Something must narrow it down. Each row is recorded in the table `quarantine_decisions`."""
    return ledger.discard_quarantine(which, discard)


@router.post("/quarantine/import", summary="Receive a request that was exported", responses=errors_with_body())
def import_request(ledger: LedgerOfApp, request: RawRequest) -> TakenIn:
    """As if it had been sent to the OTLP port: counted as received, and charged once however often it is imported."""
    return ledger.take_in(request)
