"""Granting once: an id stands for one grant, however often and by whomever it is sent, also across a crash."""

import threading
import time
import uuid
from datetime import date
from decimal import Decimal

from otel_credits_aggregator.ledger._store import Store
from otel_credits_aggregator.ledger.errors import ConflictError
from otel_credits_aggregator.ledger.fields import exact_text
from otel_credits_aggregator.ledger.inputs import NewGrant
from otel_credits_aggregator.ledger.models import Grant, Missing

__all__ = ["Grants"]

# An insert that is under way has reached the grants and not yet the totals; it takes a small part of this.
_UNDER_WAY_S = 1.0


class Grants:
    """Writes grants."""

    def __init__(self, store: Store) -> None:
        self._store = store
        # Two grants with the same id must not both find that it is not there yet.
        self.lock = threading.Lock()

    def grant(self, user_id: str, new: NewGrant) -> tuple[Grant, bool]:
        """See `Ledger.grant`."""
        grant_id = new.grant_id or str(uuid.uuid4())
        with self.lock:
            found = self._find(grant_id)
            if not found:
                row = {"grant_id": grant_id, "user_id": user_id, "credits": f"{new.credits:f}", "reason": new.reason}
                # The token decides if another aggregator on the same store grants with this id at this moment.
                self._store.insert("credit_grants", row, token=f"grant:{grant_id}")
            grant = found[0] if found else self._find(grant_id)[0]
            if (grant.user_id, grant.credits) != (user_id, new.credits):
                raise ConflictError(
                    f"grant {grant_id!r} was already made: {exact_text(grant.credits)} credits to {grant.user_id!r}; "
                    "use a new id for a new grant"
                )
            if found:
                self._complete(grant)
        return grant, not found

    def _find(self, grant_id: str) -> list[Grant]:
        return self._store.read(Grant, "grant_by_id", grant_id=grant_id)

    def _complete(self, grant: Grant) -> None:
        """Adds to the totals what a crash between the two inserts of a grant left out.

        The sender of a grant that was cut off does not know what became of it and sends it again.
        """
        month = grant.created_at.date().replace(day=1)
        missing = self._missing(grant.user_id, month)
        if missing > 0:
            time.sleep(_UNDER_WAY_S)
            missing = min(missing, self._missing(grant.user_id, month))
        if missing > 0:
            row = {"user_id": grant.user_id, "month": month.isoformat(), "granted": f"{missing:f}"}
            self._store.insert("user_month_totals", row, token=f"grant-completed:{grant.grant_id}")

    def _missing(self, user_id: str, month: date) -> Decimal:
        (row,) = self._store.read(Missing, "granted_but_not_counted", user_id=user_id, month=month.isoformat())
        return row.credits
