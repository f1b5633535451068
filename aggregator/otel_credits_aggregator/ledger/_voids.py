"""Taking a charge back, once."""

import time
from concurrent.futures import TimeoutError as FutureTimeoutError
from uuid import UUID

from otel_credits_aggregator.ledger._server import Server
from otel_credits_aggregator.ledger._store import Store, store_errors
from otel_credits_aggregator.ledger.errors import BusyError, LedgerError, NotFoundError
from otel_credits_aggregator.ledger.inputs import NewVoid
from otel_credits_aggregator.ledger.models import Void
from otel_credits_aggregator.outcomes import Refusal
from otel_credits_aggregator.replay import VOID, Treatment

__all__ = ["Voids"]

_VOID_TIMEOUT_S = 300.0


class Voids:
    """Takes charges of a store back; `server` is the running server around it, if there is one."""

    def __init__(self, store: Store, server: Server | None) -> None:
        self._store = store
        self._server = server

    def void(self, event_id: UUID, new: NewVoid) -> tuple[Void, bool]:
        """See `Ledger.void`."""
        is_new = self._take_back(event_id, new)
        found = self._store.read(Void, "void", event_id=str(event_id))
        if not found:
            raise NotFoundError(f"nothing with the event id {event_id} was charged, or it was a duplicate")
        return found[0], is_new

    def _take_back(self, event_id: UUID, new: NewVoid) -> bool:
        if self._server is None:
            raise LedgerError("only a running server can take a charge back: start `otel-credits serve`")
        now_us = time.time_ns() // 1000
        treatment = Treatment(VOID, "", new.voided_by or "unknown", new.reason, now_us)
        with store_errors():
            try:
                return self._server.void(str(event_id), treatment).result(_VOID_TIMEOUT_S)
            except FutureTimeoutError:
                raise BusyError("it goes on in the server; the same call again says what became of it") from None
            except Refusal as error:
                raise BusyError(str(error)) from error
