"""What could not be charged."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query

from otel_credits_aggregator.api._errors import errors
from otel_credits_aggregator.api._state import LIMIT, LedgerOfApp, Limit, QueryUserId
from otel_credits_aggregator.ledger import QuarantinedUsage, QuarantineReason, Replayed

__all__ = ["router"]

QueryReason = Annotated[str | None, Query(description="Only this reason.")]
router = APIRouter(tags=["quarantine"])


@router.get("/quarantine", summary="Usages that could not be charged, latest first", responses=errors())
def list_quarantine(
    ledger: LedgerOfApp,
    reason: QueryReason = None,
    user: QueryUserId = None,
    limit: Limit = LIMIT,
) -> Sequence[QuarantinedUsage]:
    """One row a usage, however many copies of it arrived. `detail` says what to do."""
    return ledger.quarantine(reason, user, limit)


@router.get("/quarantine/summary", summary="How many usages are quarantined, by reason", responses=errors())
def summarize_quarantine(ledger: LedgerOfApp) -> Sequence[QuarantineReason]:
    return ledger.quarantine_summary()


@router.post("/quarantine/replay", summary="Try again to charge what is quarantined", responses=errors())
def replay_quarantine(ledger: LedgerOfApp, reason: QueryReason = None, user: QueryUserId = None) -> Replayed:
    """What can be charged by now is charged and leaves the quarantine; what was charged before is not charged again."""
    return ledger.replay_quarantine(reason, user)
