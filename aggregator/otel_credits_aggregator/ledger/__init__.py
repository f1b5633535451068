"""The ledger as the API and the command use it: one interface, twice implemented.

`LocalLedger` reads and writes the store (embedded or a server), `RemoteLedger` asks a running aggregator's API. Both
answer with the same models and raise the same errors, and one contract test runs over both.

Order of the files: `errors`, `models` (what goes in and out), `reasons` (what a quarantined usage needs), `interface`,
`_queries` (the named queries of ``clickhouse/queries``), `_pool` (clients), `_store` (models in and out of the store),
`_grants` (granting once), `_server` (what only a running server may do), `_quarantine`, `_totals`, `_read_only_sql` (what a query
from outside may do), `_one_user` (what a user's own token sees), `local`, `remote`.
"""

from otel_credits_aggregator.ledger._one_user import OneUserLedger
from otel_credits_aggregator.ledger.errors import (
    BusyError,
    ConflictError,
    InvalidQueryError,
    InvalidRequestError,
    LedgerError,
    NotFoundError,
    NotPermittedError,
    ServerUnreachableError,
    StoreUnavailableError,
    UnauthenticatedError,
)
from otel_credits_aggregator.ledger.interface import Ledger
from otel_credits_aggregator.ledger.local import LocalLedger, store_id
from otel_credits_aggregator.ledger.models import (
    Assignment,
    Balance,
    ClientUsage,
    Correction,
    Difference,
    Discard,
    Discarded,
    Event,
    Fix,
    Grant,
    MonthlyUsage,
    NewGrant,
    NewPrice,
    NewRule,
    Price,
    Profile,
    QuarantinedCopy,
    QuarantinedRequest,
    QuarantinedUsage,
    QuarantineFilter,
    QuarantineReason,
    RawRequest,
    Rebuilt,
    Replayed,
    Rule,
    RuleCharge,
    TakenIn,
    User,
)
from otel_credits_aggregator.ledger.remote import RemoteLedger

__all__ = [
    "Assignment",
    "Balance",
    "BusyError",
    "ClientUsage",
    "ConflictError",
    "Correction",
    "Difference",
    "Discard",
    "Discarded",
    "Event",
    "Fix",
    "Grant",
    "InvalidQueryError",
    "InvalidRequestError",
    "Ledger",
    "LedgerError",
    "LocalLedger",
    "MonthlyUsage",
    "NewGrant",
    "NewPrice",
    "NewRule",
    "NotFoundError",
    "NotPermittedError",
    "OneUserLedger",
    "Price",
    "Profile",
    "QuarantineFilter",
    "QuarantineReason",
    "QuarantinedCopy",
    "QuarantinedRequest",
    "QuarantinedUsage",
    "RawRequest",
    "Rebuilt",
    "RemoteLedger",
    "Replayed",
    "Rule",
    "RuleCharge",
    "ServerUnreachableError",
    "StoreUnavailableError",
    "TakenIn",
    "UnauthenticatedError",
    "User",
    "store_id",
]
