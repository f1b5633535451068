"""The ledger over the store itself."""

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Self, TypeVar
from uuid import UUID

from clickhouse_connect.driver.exceptions import OperationalError
from pydantic import BaseModel

from otel_credits_aggregator.ledger._backup import Backups
from otel_credits_aggregator.ledger._grants import Grants
from otel_credits_aggregator.ledger._pool import ClientPool
from otel_credits_aggregator.ledger._quarantine import Quarantine
from otel_credits_aggregator.ledger._read_only_sql import OWN_ROWS_ONLY, checked_query
from otel_credits_aggregator.ledger._rules import insert_rule, sent, would_charge, would_have_charged
from otel_credits_aggregator.ledger._series import series_faults
from otel_credits_aggregator.ledger._server import Server
from otel_credits_aggregator.ledger._store import OUTPUT_SETTINGS, Store, store_errors
from otel_credits_aggregator.ledger._totals import Totals
from otel_credits_aggregator.ledger._voids import Voids
from otel_credits_aggregator.ledger.aliases import (
    ModelAlias,
    NewModelAlias,
    model_aliases,
    remove_model_alias,
    set_model_alias,
)
from otel_credits_aggregator.ledger.conventions import (
    Convention,
    ConventionKey,
    NewConvention,
    conventions,
    remove_convention,
    set_convention,
)
from otel_credits_aggregator.ledger.errors import (
    InvalidQueryError,
    NotFoundError,
    StoreUnavailableError,
)
from otel_credits_aggregator.ledger.inputs import (
    Assignment,
    Discard,
    Fix,
    NewBackup,
    NewGrant,
    NewPrice,
    NewRule,
    NewVoid,
    Profile,
    QuarantineFilter,
    RawRequest,
)
from otel_credits_aggregator.ledger.interface import EVERYTHING, LIMIT_DEFAULT
from otel_credits_aggregator.ledger.models import (
    Backup,
    Balance,
    ClientUsage,
    Correction,
    Difference,
    Discarded,
    Event,
    Grant,
    MonthlyUsage,
    Price,
    QuarantinedCopy,
    QuarantinedRequest,
    QuarantinedUsage,
    QuarantineReason,
    Rebuilt,
    Replayed,
    Rule,
    RuleCharge,
    SeriesFault,
    StoredTest,
    TakenIn,
    User,
    Void,
)
from otel_credits_aggregator.replay import Treatment
from otel_credits_aggregator.settings import Settings
from otel_credits_aggregator.store import READ_ONLY_SETTINGS, ClickHouseError

__all__ = ["LocalLedger", "store_id"]

Model = TypeVar("Model", bound=BaseModel)

_QUERIES_FROM_OUTSIDE: dict[str, str | int] = {
    **OUTPUT_SETTINGS,
    **READ_ONLY_SETTINGS,
    "max_result_bytes": 200_000_000,
    "max_temporary_data_on_disk_size_for_query": 2_000_000_000,
    "additional_table_filters": OWN_ROWS_ONLY,
}
_QUERY_WAIT_S = 30.0


def store_id(dsn: str) -> str:
    """A short id of a store, to tell whether two processes mean the same one; it does not reveal the DSN."""
    return sha256(dsn.encode()).hexdigest()[:16]


class LocalLedger:
    """The ledger over the store.

    Args:
        dsn: the store; it must be migrated.
        server: the running server around it; None where there is none, and then what only a server can do is refused.
        settings: where the spool is, and what a test of a rule reads spans by; None: those of the environment.
        reads: how many balance reads and the like run at once.
        queries: how many queries from outside run at once.
    """

    def __init__(
        self,
        dsn: str,
        *,
        server: Server | None = None,
        settings: Settings | None = None,
        reads: int = 4,
        queries: int = 2,
    ) -> None:
        self._dsn = dsn
        self._settings = settings
        self._store = Store(dsn, reads)
        self._grants = Grants(self._store)
        self._quarantine = Quarantine(self._store, server)
        self._voids = Voids(self._store, server)
        self._totals = Totals(self._store, self._grants, server)
        self._backups = Backups(dsn, settings, self._grants, server)
        self._queries = ClientPool(dsn, _QUERIES_FROM_OUTSIDE, size=queries, wait_s=_QUERY_WAIT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._queries.close()
        self._store.close()

    def balance(self, user_id: str) -> Balance:
        found = self._store.read(Balance, "balance", user_id=user_id)
        if found:
            return found[0]
        if not self._store.read(User, "users", user_id=user_id, limit=1):
            raise NotFoundError(
                f"no user {user_id!r}: nothing was granted to or used by this id; is it the id your app sends?"
            )
        return Balance(user_id=user_id)

    def balances(self, limit: int = LIMIT_DEFAULT) -> Sequence[Balance]:
        return self._store.read(Balance, "balances", limit=limit)

    def users(self, limit: int = LIMIT_DEFAULT) -> Sequence[User]:
        return self._store.read(User, "users", user_id="", limit=limit)

    def set_user(self, user_id: str, profile: Profile) -> User:
        row = {"id": user_id, "email": profile.email, "name": profile.name}
        self._store.insert("user_profiles", row, token=str(uuid.uuid4()))
        return self._store.read(User, "users", user_id=user_id, limit=1)[0]

    def grants(self, user_id: str, limit: int = LIMIT_DEFAULT) -> Sequence[Grant]:
        return self._store.read(Grant, "grants", user_id=user_id, limit=limit)

    def grant(self, user_id: str, new: NewGrant) -> tuple[Grant, bool]:
        return self._grants.grant(user_id, new)

    def events(self, user_id: str | None = None, limit: int = LIMIT_DEFAULT) -> Sequence[Event]:
        return self._store.read(Event, "events", user_id=user_id or "", limit=limit)

    def void(self, event_id: UUID, new: NewVoid) -> tuple[Void, bool]:
        return self._voids.void(event_id, new)

    def monthly_usage(self, user_id: str | None = None, limit: int = LIMIT_DEFAULT) -> Sequence[MonthlyUsage]:
        return self._store.read(MonthlyUsage, "monthly_usage", user_id=user_id or "", limit=limit)

    def prices(self) -> Sequence[Price]:
        return self._store.read(Price, "prices")

    def set_price(self, new: NewPrice) -> Price:
        row = new.model_dump(include={"action_type", "model", "unit", "source"})
        row["credits_per_unit"] = f"{new.credits_per_unit:f}"
        if new.effective_from is not None:
            row["effective_from"] = new.effective_from.strftime("%Y-%m-%d %H:%M:%S.%f")
        self._store.insert("credit_action_costs", row, token=str(uuid.uuid4()))
        key = (new.action_type, new.model, new.unit)
        mine = [price for price in self.prices() if (price.action_type, price.model, price.unit) == key]
        return max(mine, key=lambda price: price.created_at)

    def rules(self) -> Sequence[Rule]:
        return self._store.read(Rule, "rules")

    def set_rule(self, new: NewRule) -> Rule:
        insert_rule(self._store, new)
        return self._rule(new.rule_id)

    def switch_rule(self, rule_id: str, enabled: bool) -> Rule:
        known = self._rule(rule_id).model_dump(exclude={"created_at"})
        return self.set_rule(NewRule.model_validate({**known, "enabled": enabled}))

    def test_rule(self, rule_id: str, request: bytes) -> Sequence[RuleCharge]:
        self._rule(rule_id)
        with store_errors():
            return would_charge(self._dsn, rule_id, [sent(request)], self._settings or Settings())

    def test_rule_on_stored(self, rule_id: str, since: datetime | None = None) -> StoredTest:
        self._rule(rule_id)
        with store_errors():
            return would_have_charged(self._dsn, rule_id, since, self._settings or Settings())

    def _rule(self, rule_id: str) -> Rule:
        found = next((rule for rule in self.rules() if rule.rule_id == rule_id), None)
        if found is None:
            raise NotFoundError(f"no rule {rule_id!r}: see `otel-credits rules list`")
        return found

    def model_aliases(self) -> Sequence[ModelAlias]:
        return model_aliases(self._store)

    def set_model_alias(self, new: NewModelAlias) -> ModelAlias:
        return set_model_alias(self._store, new)

    def remove_model_alias(self, model: str) -> ModelAlias:
        return remove_model_alias(self._store, model)

    def conventions(self) -> Sequence[Convention]:
        return conventions(self._store)

    def set_convention(self, new: NewConvention) -> Convention:
        return set_convention(self._store, new)

    def remove_convention(self, key: ConventionKey) -> Convention:
        return remove_convention(self._store, key)

    def quarantine(
        self, which: QuarantineFilter = EVERYTHING, limit: int = LIMIT_DEFAULT
    ) -> Sequence[QuarantinedUsage]:
        return self._quarantine.usages(which, limit)

    def quarantine_summary(self) -> Sequence[QuarantineReason]:
        return self._quarantine.summary()

    def quarantined_copies(self, event_id: UUID) -> Sequence[QuarantinedCopy]:
        return self._quarantine.copies(event_id)

    def quarantined_requests(
        self, which: QuarantineFilter = EVERYTHING, limit: int = LIMIT_DEFAULT
    ) -> Sequence[QuarantinedRequest]:
        return self._quarantine.requests(which, limit)

    def quarantined_request(self, quarantine_id: UUID) -> RawRequest:
        return self._quarantine.request(quarantine_id)

    def replay_quarantine(self, which: QuarantineFilter = EVERYTHING) -> Replayed:
        return Replayed(tried=self._quarantine.treat(which, Treatment()))

    def assign_quarantine(self, which: QuarantineFilter, assignment: Assignment) -> Replayed:
        return Replayed(tried=self._quarantine.assign(which, assignment))

    def discard_quarantine(self, which: QuarantineFilter, discard: Discard) -> Discarded:
        return Discarded(discarded=self._quarantine.discard(which, discard))

    def take_in(self, request: RawRequest) -> TakenIn:
        return self._quarantine.take_in(request)

    def reconcile(self, user_id: str | None = None) -> Sequence[Difference]:
        return self._totals.differences(user_id)

    def clients(self, limit: int = LIMIT_DEFAULT) -> Sequence[ClientUsage]:
        return self._store.read(ClientUsage, "clients", limit=limit)

    def series_faults(self, limit: int = LIMIT_DEFAULT) -> Sequence[SeriesFault]:
        return series_faults(self._store, limit)

    def fix_totals(self, user_id: str | None, fix: Fix) -> Sequence[Correction]:
        return self._totals.fix(user_id, fix)

    def rebuild_totals(self) -> Rebuilt:
        return self._totals.rebuild()

    def backup(self, new: NewBackup) -> Backup:
        return self._backups.take(Path(new.path))

    def sql(self, query: str) -> Sequence[Mapping[str, Any]]:
        with _query_errors(), self._queries.client() as client:
            text = checked_query(client, query)
            return [json.loads(line) for line in client.raw_query(text, fmt="JSONEachRow").splitlines()]


@contextmanager
def _query_errors() -> Iterator[None]:
    """As `store_errors`, for queries from outside, where what the store refuses is the query's fault."""
    try:
        yield
    except OperationalError as error:
        raise StoreUnavailableError(f"the store cannot be reached: {error}") from error
    except ClickHouseError as error:
        raise InvalidQueryError(str(error)) from error
