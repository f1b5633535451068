"""Whether the running totals are the sums of their entries; correcting them, and making them anew.

A batch or a grant that is under way has reached the events and not yet the totals. So whatever differs is looked at again while
no batch and no grant of this server is under way, and only what differs each time is told.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from otel_credits_aggregator.ledger._corrections import correct, differences, key_of
from otel_credits_aggregator.ledger._grants import Grants
from otel_credits_aggregator.ledger._queries import named_query, named_statements
from otel_credits_aggregator.ledger._ranges import ranges, stored_ranges
from otel_credits_aggregator.ledger._server import Server, undisturbed
from otel_credits_aggregator.ledger._store import LONG_READS, Store
from otel_credits_aggregator.ledger.errors import LedgerError
from otel_credits_aggregator.ledger.inputs import Fix
from otel_credits_aggregator.ledger.models import Correction, Difference, Rebuilt
from otel_credits_aggregator.store import Client, rows

__all__ = ["Totals"]

T = TypeVar("T")

# With several aggregators on one store, the others go on while this one pauses: so a difference is looked at several times.
_LOOKS = 5
_LOOK_INTERVAL_S = 0.3
_USERS_AT_ONCE = 1_000


class Totals:
    """The running totals of a store; `server` is the running server around it, if there is one."""

    def __init__(self, store: Store, grants: Grants, server: Server | None) -> None:
        self._store = store
        self._grants = grants
        self._server = server

    def differences(self, user_id: str | None) -> list[Difference]:
        """See `Ledger.reconcile`."""
        users = [user_id] if user_id else self._suspects()
        return [
            row
            for start in range(0, len(users), _USERS_AT_ONCE)
            for row in self._lasting(users[start:][:_USERS_AT_ONCE])
        ]

    def fix(self, user_id: str | None, fix: Fix) -> list[Correction]:
        """See `Ledger.fix_totals`."""
        if self._server is None:
            raise LedgerError("only a running server can correct totals: start `otel-credits serve`")
        users = sorted({row.user_id for row in self.differences(user_id)})
        corrections: list[Correction] = []
        for start in range(0, len(users), _USERS_AT_ONCE):
            some = users[start : start + _USERS_AT_ONCE]
            corrections += self._undisturbed(partial(correct, users=some, fix=fix))
        return corrections

    def rebuild(self) -> Rebuilt:
        """See `Ledger.rebuild_totals`."""
        if self._server is None:
            raise LedgerError("only a running server can rebuild the totals: start `otel-credits serve`")
        return self._undisturbed(_rebuild)

    def _suspects(self) -> list[str]:
        """Who may have a wrong total: some of them only because a batch was under way."""
        found = (
            row.user_id
            for after, until in stored_ranges(self._store, "user_range")
            for row in self._store.read_all(Difference, "reconcile", users=[], after=after, until=until)
        )
        return sorted(set(found))

    def _lasting(self, users: Sequence[str]) -> list[Difference]:
        """What differs at each look, and by the same amount at two of them at least."""
        looks = []
        for number in range(_LOOKS):
            if number:
                time.sleep(_LOOK_INTERVAL_S)
            looks.append({key_of(row): row for row in self._look(users)})
            if not looks[-1]:
                return []
        return [row for key, row in looks[-1].items() if _stays([look.get(key) for look in looks])]

    def _look(self, users: Sequence[str]) -> list[Difference]:
        if self._server is None:
            return self._store.read_all(Difference, "reconcile", users=list(users), after="", until="")
        return self._undisturbed(lambda client: differences(client, users))

    def _undisturbed(self, work: Callable[[Client], T]) -> T:
        """Does it while no batch and no grant of this server is under way."""
        assert self._server is not None
        return undisturbed(self._server, self._grants.lock, work)


def _stays(seen: Sequence[Difference | None]) -> bool:
    amounts = Counter(row.expected - row.found for row in seen if row is not None)
    return None not in seen and max(amounts.values()) > 1


def _rebuild(client: Client) -> Rebuilt:
    settings = dict(LONG_READS)
    for statement in named_statements("rebuild"):
        client.command(statement, settings=settings)
    done = Rebuilt(user_months=0, usage_months=0, changed=0)
    for after, until in list(ranges(lambda **where: str(rows(client, named_query("user_range"), where)[0]["until"]))):
        where = {"after": after, "until": until}
        for statement in named_statements("rebuild_range"):
            client.command(statement, parameters=where, settings=settings)
        (counted,) = rows(client, named_query("rebuilt"), where, **LONG_READS)
        done = Rebuilt(**{name: number + counted[name] for name, number in done})
    for table in ("user_month_totals", "usage_month_totals"):
        client.command(f"EXCHANGE TABLES {table} AND {table}_rebuilt")
        client.command(f"DROP TABLE {table}_rebuilt")
    return done
