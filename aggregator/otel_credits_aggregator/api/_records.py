"""What was charged, by event and by month, whether the totals agree with it, and a copy of it all."""

from collections.abc import Sequence
from http import HTTPStatus
from uuid import UUID

from fastapi import APIRouter, Response

from otel_credits_aggregator.api._errors import errors, errors_with_body
from otel_credits_aggregator.api._state import LIMIT, LedgerOfApp, Limit, QueryUserId
from otel_credits_aggregator.ledger import (
    Backup,
    ClientUsage,
    Correction,
    Difference,
    Event,
    Fix,
    MonthlyUsage,
    NewBackup,
    NewVoid,
    Rebuilt,
    SeriesFault,
    Void,
)

__all__ = ["router"]

router = APIRouter(tags=["ledger"])


@router.get("/events", summary="The latest charges and what took some back, newest first", responses=errors())
def list_events(ledger: LedgerOfApp, user: QueryUserId = None, limit: Limit = LIMIT) -> Sequence[Event]:
    return ledger.events(user, limit)


@router.post(
    "/events/{event_id}/void",
    summary="Take a charge back",
    status_code=HTTPStatus.CREATED,
    responses=errors_with_body(HTTPStatus.NOT_FOUND)
    | {HTTPStatus.OK.value: {"model": Void, "description": "Was taken back before."}},
)
def void_event(event_id: UUID, new: NewVoid, ledger: LedgerOfApp, response: Response) -> Void:
    """By a further entry; the charge itself stays, and shows as `void`. Again: 200, and who did it then and why."""
    void, is_new = ledger.void(event_id, new)
    if not is_new:
        response.status_code = HTTPStatus.OK
    return void


@router.get("/usage/monthly", summary="Consumption by month, action and model", responses=errors())
def list_monthly_usage(ledger: LedgerOfApp, user: QueryUserId = None, limit: Limit = LIMIT) -> Sequence[MonthlyUsage]:
    return ledger.monthly_usage(user, limit)


@router.get("/reconcile", summary="Where totals differ from their events and grants", responses=errors())
def reconcile(ledger: LedgerOfApp, user: QueryUserId = None) -> Sequence[Difference]:
    """An empty list says that every balance and every monthly total is the exact sum of its entries."""
    return ledger.reconcile(user)


@router.get("/clients", summary="Whether what each process recorded has arrived", responses=errors())
def list_clients(ledger: LedgerOfApp, limit: Limit = LIMIT) -> Sequence[ClientUsage]:
    """One row a process of an app that uses the library; those that miss something first."""
    return ledger.clients(limit)


@router.get("/series", summary="Gaps and overlaps in series of data points", responses=errors())
def list_series_faults(ledger: LedgerOfApp, limit: Limit = LIMIT) -> Sequence[SeriesFault]:
    """One row a place where two intervals of a series do not meet, the earliest first; none if all do."""
    return ledger.series_faults(limit)


@router.post("/reconcile/fix", summary="Correct totals that differ from their entries", responses=errors_with_body())
def fix_totals(ledger: LedgerOfApp, fix: Fix, user: QueryUserId = None) -> Sequence[Correction]:
    """Adds what is missing to each total. Each correction is recorded in the table `credit_corrections`."""
    return ledger.fix_totals(user, fix)


@router.post("/rebuild", summary="Make all totals anew from the events and grants", responses=errors())
def rebuild_totals(ledger: LedgerOfApp) -> Rebuilt:
    """Beside the old totals, which are then replaced. What arrives meanwhile waits in the spool."""
    return ledger.rebuild_totals()


@router.post(
    "/backup", summary="Copy the embedded store and its spool", responses=errors_with_body(HTTPStatus.CONFLICT)
)
def backup(ledger: LedgerOfApp, new: NewBackup) -> Backup:
    """Into a new folder on the server's machine, as of one moment, while usage comes in. `otel-credits restore` reads it."""
    return ledger.backup(new)
