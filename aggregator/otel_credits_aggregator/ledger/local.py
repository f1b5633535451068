"""The ledger over the store itself."""

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager
from hashlib import sha256
from typing import Any, Self, TypeVar

from clickhouse_connect.driver.exceptions import OperationalError
from pydantic import BaseModel

from otel_credits_aggregator.ledger._pool import ClientPool
from otel_credits_aggregator.ledger._queries import named_query
from otel_credits_aggregator.ledger._read_only_sql import checked_query
from otel_credits_aggregator.ledger.errors import (
    BusyError,
    ConflictError,
    InvalidQueryError,
    LedgerError,
    NotFoundError,
    StoreUnavailableError,
)
from otel_credits_aggregator.ledger.interface import LIMIT_DEFAULT
from otel_credits_aggregator.ledger.models import (
    Balance,
    Difference,
    Event,
    Grant,
    MonthlyUsage,
    NewGrant,
    NewPrice,
    Price,
    Profile,
    QuarantinedUsage,
    QuarantineReason,
    Replayed,
    User,
)
from otel_credits_aggregator.ledger.reasons import hint
from otel_credits_aggregator.store import READ_ONLY_SETTINGS, ClickHouseError, Client, DatabaseError

__all__ = ["LocalLedger", "Replay", "store_id"]

Replay = Callable[[tuple[str, ...], str | None], "Future[int]"]
"""Starts to charge what can be charged by now of the quarantined rows with one of these reasons (none: any) and of this
user (None: any); the future has the number of rows tried."""

Model = TypeVar("Model", bound=BaseModel)

# How results are written: exact decimals as strings, times as ISO 8601, bytes that are not UTF-8 replaced.
_OUTPUT_SETTINGS: Mapping[str, str | int] = {
    "output_format_json_quote_decimals": 1,
    "output_format_json_quote_64bit_integers": 0,
    "output_format_json_validate_utf8": 1,
    "date_time_output_format": "iso",
}
_OUR_READS = {**_OUTPUT_SETTINGS, "readonly": 1}
_READS_FROM_OUTSIDE = {
    **_OUTPUT_SETTINGS,
    **READ_ONLY_SETTINGS,
    "max_result_bytes": 200_000_000,
}
_BOUNDED_READS = {
    **_OUTPUT_SETTINGS,
    "max_bytes_before_external_group_by": 500_000_000,
    "max_bytes_before_external_sort": 500_000_000,
    "optimize_aggregation_in_order": 1,
    "readonly": 1,
}
_CLIENT_WAIT_S = 30.0
_REPLAY_TIMEOUT_S = 300.0
_RECONCILE_WAIT_S = 0.5
_RECONCILE_ATTEMPTS = 4

# ClickHouse's codes (src/Common/ErrorCodes.cpp).
_UNKNOWN_TABLE, _UNKNOWN_DATABASE = 60, 81
_NOT_MIGRATED = (_UNKNOWN_TABLE, _UNKNOWN_DATABASE)


def store_id(dsn: str) -> str:
    """A short id of a store, to tell whether two processes mean the same one; it does not reveal the DSN."""
    return sha256(dsn.encode()).hexdigest()[:16]


class LocalLedger:
    """The ledger over the store.

    Args:
        dsn: the store; it must be migrated.
        replay: tries the quarantine again; None where only a server can.
        reads: how many balance reads and the like run at once.
        queries: how many queries from outside run at once.
    """

    def __init__(self, dsn: str, *, replay: Replay | None = None, reads: int = 4, queries: int = 2) -> None:
        self._replay = replay
        self._reads = ClientPool(dsn, _OUR_READS, size=reads, wait_s=_CLIENT_WAIT_S)
        self._long_reads = ClientPool(dsn, _BOUNDED_READS, size=1, wait_s=_CLIENT_WAIT_S)
        self._queries = ClientPool(dsn, _READS_FROM_OUTSIDE, size=queries, wait_s=_CLIENT_WAIT_S)
        self._writes = ClientPool(dsn, {}, size=1, wait_s=_CLIENT_WAIT_S)
        # Two grants with the same id must not both find that it is not there yet.
        self._grant_lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for pool in (self._reads, self._long_reads, self._queries, self._writes):
            pool.close()

    def balance(self, user_id: str) -> Balance:
        found = self._read(Balance, "balance", user_id=user_id)
        if found:
            return found[0]
        profiles = self._read(User, "users", user_id=user_id, limit=1)
        if not profiles:
            raise NotFoundError(
                f"no user {user_id!r}: nothing was granted to or used by this id; is it the id your app sends?"
            )
        return Balance(user_id=user_id, email=profiles[0].email, name=profiles[0].name)

    def balances(self, limit: int = LIMIT_DEFAULT) -> Sequence[Balance]:
        return self._read(Balance, "balances", limit=limit)

    def users(self, limit: int = LIMIT_DEFAULT) -> Sequence[User]:
        return self._read(User, "users", user_id="", limit=limit)

    def set_user(self, user_id: str, profile: Profile) -> User:
        row = {"id": user_id, "email": profile.email, "name": profile.name}
        self._insert("user_profiles", row, token=str(uuid.uuid4()))
        return self._read(User, "users", user_id=user_id, limit=1)[0]

    def grants(self, user_id: str, limit: int = LIMIT_DEFAULT) -> Sequence[Grant]:
        return self._read(Grant, "grants", user_id=user_id, limit=limit)

    def grant(self, user_id: str, new: NewGrant) -> tuple[Grant, bool]:
        grant_id = new.grant_id or str(uuid.uuid4())
        with self._grant_lock:
            found = self._read(Grant, "grant_by_id", grant_id=grant_id)
            if not found:
                row = {"grant_id": grant_id, "user_id": user_id, "credits": f"{new.credits:f}", "reason": new.reason}
                # The token decides if another aggregator on the same store grants with this id at this moment.
                self._insert("credit_grants", row, token=f"grant:{grant_id}")
        grant = found[0] if found else self._read(Grant, "grant_by_id", grant_id=grant_id)[0]
        if (grant.user_id, grant.credits) != (user_id, new.credits):
            raise ConflictError(
                f"grant {grant_id!r} was already made, of other credits or to another user: "
                f"{grant.credits.normalize():f} to {grant.user_id!r}; use a new id for a new grant"
            )
        return grant, not found

    def events(self, user_id: str | None = None, limit: int = LIMIT_DEFAULT) -> Sequence[Event]:
        return self._read(Event, "events", user_id=user_id or "", limit=limit)

    def monthly_usage(self, user_id: str | None = None, limit: int = LIMIT_DEFAULT) -> Sequence[MonthlyUsage]:
        return self._read(MonthlyUsage, "monthly_usage", user_id=user_id or "", limit=limit)

    def prices(self) -> Sequence[Price]:
        return self._read(Price, "prices")

    def set_price(self, new: NewPrice) -> Price:
        row = new.model_dump(include={"action_type", "model", "unit", "source"})
        row["credits_per_unit"] = f"{new.credits_per_unit:f}"
        if new.effective_from is not None:
            row["effective_from"] = new.effective_from.strftime("%Y-%m-%d %H:%M:%S.%f")
        self._insert("credit_action_costs", row, token=str(uuid.uuid4()))
        key = (new.action_type, new.model, new.unit)
        mine = [price for price in self.prices() if (price.action_type, price.model, price.unit) == key]
        return max(mine, key=lambda price: price.created_at)

    def quarantine(
        self, reason: str | None = None, user_id: str | None = None, limit: int = LIMIT_DEFAULT
    ) -> Sequence[QuarantinedUsage]:
        found = self._read(QuarantinedUsage, "quarantine", reason=reason or "", user_id=user_id or "", limit=limit)
        return [row.model_copy(update={"detail": row.detail or hint(row.reason)}) for row in found]

    def quarantine_summary(self) -> Sequence[QuarantineReason]:
        found = self._read(QuarantineReason, "quarantine_summary")
        return [row.model_copy(update={"detail": hint(row.reason)}) for row in found]

    def replay_quarantine(self, reason: str | None = None, user_id: str | None = None) -> Replayed:
        if self._replay is None:
            raise LedgerError("only a running server can replay the quarantine: start `otel-credits serve`")
        tried = self._replay((reason,) if reason else (), user_id)
        try:
            return Replayed(tried=tried.result(_REPLAY_TIMEOUT_S))
        except FutureTimeoutError:
            raise BusyError("the replay goes on in the server; look at the quarantine later") from None

    def reconcile(self, user_id: str | None = None) -> Sequence[Difference]:
        """Differences that stay: an insert that is under way has reached one table and not yet the other."""
        lasting = self._differences(user_id)
        for _ in range(_RECONCILE_ATTEMPTS - 1):
            if not lasting:
                break
            time.sleep(_RECONCILE_WAIT_S)
            now = set(self._differences(user_id))
            lasting = [difference for difference in lasting if difference in now]
        return lasting

    def sql(self, query: str) -> Sequence[Mapping[str, Any]]:
        with _query_errors(), self._queries.client() as client:
            text = checked_query(client, query)
            return [json.loads(line) for line in client.raw_query(text, fmt="JSONEachRow").splitlines()]

    def _differences(self, user_id: str | None) -> list[Difference]:
        return self._read(Difference, "reconcile", self._long_reads, user_id=user_id or "")

    def _read(self, model: type[Model], name: str, pool: ClientPool | None = None, **parameters: Any) -> list[Model]:
        with _store_errors(), (pool or self._reads).client() as client:
            text = client.raw_query(named_query(name), parameters=parameters, fmt="JSONEachRow")
        return [model.model_validate_json(line) for line in text.splitlines()]

    def _insert(self, table: str, row: Mapping[str, str], *, token: str) -> None:
        """Inserts one row of texts; the server converts them, exactly, to the columns' types."""
        with _store_errors(), self._writes.client() as client:
            _insert_row(client, table, row, token)


def _insert_row(client: Client, table: str, row: Mapping[str, str], token: str) -> None:
    columns = ", ".join(row)
    values = ", ".join(f"{{{column}:String}}" for column in row)
    # SELECT and not VALUES, because values that are parameters are not converted to the column's type.
    client.command(
        f"INSERT INTO {table} ({columns}) SELECT {values}",
        parameters=dict(row),
        settings={"insert_deduplication_token": token},
    )


@contextmanager
def _store_errors() -> Iterator[None]:
    """Turns the driver's errors into the ledger's."""
    try:
        yield
    except OperationalError as error:
        raise StoreUnavailableError(f"the store cannot be reached: {error}") from error
    except DatabaseError as error:
        if error.code in _NOT_MIGRATED:
            raise StoreUnavailableError("the store is not migrated: run `otel-credits migrate`") from error
        raise StoreUnavailableError(f"the store refused: {error}") from error
    except ClickHouseError as error:
        raise StoreUnavailableError(f"the store cannot be used: {error}") from error


@contextmanager
def _query_errors() -> Iterator[None]:
    """The same for queries from outside, where what the store refuses is the query's fault."""
    try:
        yield
    except OperationalError as error:
        raise StoreUnavailableError(f"the store cannot be reached: {error}") from error
    except ClickHouseError as error:
        raise InvalidQueryError(str(error)) from error
