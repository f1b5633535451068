"""What is in the quarantine, and what people do about it."""

import time
from concurrent.futures import TimeoutError as FutureTimeoutError
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from otel_credits_aggregator.envelope import binding_fields
from otel_credits_aggregator.ledger._server import Server
from otel_credits_aggregator.ledger._store import Store
from otel_credits_aggregator.ledger.errors import BusyError, InvalidRequestError, LedgerError, NotFoundError
from otel_credits_aggregator.ledger.inputs import Assignment, Discard, QuarantineFilter, RawRequest
from otel_credits_aggregator.ledger.models import (
    QuarantinedCopy,
    QuarantinedRequest,
    QuarantinedUsage,
    QuarantineReason,
    TakenIn,
)
from otel_credits_aggregator.ledger.reasons import UNKNOWN_CONVENTION, hint
from otel_credits_aggregator.otlp import Signal, item_count, parse
from otel_credits_aggregator.outcomes import Refusal
from otel_credits_aggregator.replay import ASSIGN, DISCARD, Selection, Treatment

__all__ = ["Quarantine"]

_TREATMENT_TIMEOUT_S = 300.0
_TAKE_IN_TIMEOUT_S = 60.0
_COPIES_MAX = 1_000
_LONG_AGO_US, _FAR_AWAY_US = -(1 << 62), 1 << 62


class Quarantine:
    """The quarantine of a store; `server` is the running server around it, if there is one."""

    def __init__(self, store: Store, server: Server | None) -> None:
        self._store = store
        self._server = server

    def usages(self, which: QuarantineFilter, limit: int) -> list[QuarantinedUsage]:
        """See `Ledger.quarantine`."""
        found = self._store.read(QuarantinedUsage, "quarantine", limit=limit, **_parameters(which))
        return [row.model_copy(update={"detail": _detail(row)}) for row in found]

    def summary(self) -> list[QuarantineReason]:
        """See `Ledger.quarantine_summary`."""
        found = self._store.read(QuarantineReason, "quarantine_summary")
        return [row.model_copy(update={"detail": hint(row.reason)}) for row in found]

    def copies(self, event_id: UUID) -> list[QuarantinedCopy]:
        """See `Ledger.quarantined_copies`."""
        found = self._store.read(QuarantinedCopy, "quarantine_copies", event_id=str(event_id), limit=_COPIES_MAX)
        if not found:
            raise NotFoundError(f"nothing with the event id {event_id} is in the quarantine")
        return [row.model_copy(update={"detail": _detail(row)}) for row in found]

    def requests(self, which: QuarantineFilter, limit: int) -> list[QuarantinedRequest]:
        """See `Ledger.quarantined_requests`."""
        return self._store.read(QuarantinedRequest, "quarantine_requests", limit=limit, **_parameters(which))

    def request(self, quarantine_id: UUID) -> RawRequest:
        """See `Ledger.quarantined_request`."""
        found = self._store.read(RawRequest, "quarantine_request", quarantine_id=str(quarantine_id))
        if not found:
            raise NotFoundError(f"no whole request with the id {quarantine_id} is in the quarantine")
        return found[0]

    def assign(self, which: QuarantineFilter, assignment: Assignment) -> int:
        """See `Ledger.assign_quarantine`."""
        decision = _decision(assignment.decided_by, assignment.comment)
        return self.treat(which, Treatment(ASSIGN, assignment.user_id, **decision))

    def discard(self, which: QuarantineFilter, discard: Discard) -> int:
        """See `Ledger.discard_quarantine`."""
        if which.is_everything:
            raise InvalidRequestError("say what is to be discarded: event ids, a reason, a user or a time")
        return self.treat(which, Treatment(DISCARD, **_decision(discard.decided_by, discard.comment)))

    def treat(self, which: QuarantineFilter, treatment: Treatment) -> int:
        """Has the server treat what is meant; returns how many rows that were."""
        if self._server is None:
            raise LedgerError("only a running server can change the quarantine: start `otel-credits serve`")
        try:
            return self._server.treat(_selection(which), treatment).result(_TREATMENT_TIMEOUT_S)
        except FutureTimeoutError:
            raise BusyError("it goes on in the server; look at the quarantine later") from None
        except Refusal as error:
            raise BusyError(str(error)) from error

    def take_in(self, request: RawRequest) -> TakenIn:
        """See `Ledger.take_in`."""
        if self._server is None:
            raise LedgerError("only a running server can receive: start `otel-credits serve`")
        signal, binding = Signal(request.signal), binding_fields(request.allowed_services, request.allowed_actions)
        try:
            items = item_count(signal, parse(signal, request.payload))
            self._server.accept(signal, request.payload, binding).result(_TAKE_IN_TIMEOUT_S)
        except FutureTimeoutError:
            raise BusyError("the spool did not answer in time; importing it again charges nothing twice") from None
        except Refusal as error:
            raise (InvalidRequestError if error.retry_delay_s is None else BusyError)(str(error)) from error
        return TakenIn(items=items)


def _detail(row: QuarantinedUsage | QuarantinedCopy) -> str:
    """What to do about a usage; of an emitter that is not known, which one it is."""
    if row.reason != UNKNOWN_CONVENTION:
        return row.detail or hint(row.reason)
    return f"{hint(row.reason)} Its scope is {row.scope_name} {row.scope_version}".rstrip()


def _decision(decided_by: str, comment: str) -> dict[str, Any]:
    decided_at_us = time.time_ns() // 1000
    return {"decided_by": decided_by or "unknown", "comment": comment, "decided_at_us": decided_at_us}


def _selection(which: QuarantineFilter) -> Selection:
    reasons = (which.reason,) if which.reason else ()
    events = tuple(str(event_id) for event_id in which.event_ids)
    return Selection(reasons, which.user_id, events, which.since, which.until)


def _parameters(which: QuarantineFilter) -> dict[str, Any]:
    return {
        "reason": which.reason or "",
        "user_id": which.user_id or "",
        "event_ids": [str(event_id) for event_id in which.event_ids],
        "since_us": _LONG_AGO_US if which.since is None else _microseconds(which.since),
        "until_us": _FAR_AWAY_US if which.until is None else _microseconds(which.until),
    }


def _microseconds(moment: datetime) -> int:
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
