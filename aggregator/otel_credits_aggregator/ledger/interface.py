"""What can be asked of the ledger."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from otel_credits_aggregator.ledger.aliases import ModelAlias, NewModelAlias
from otel_credits_aggregator.ledger.conventions import Convention, ConventionKey, NewConvention
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

__all__ = ["EVERYTHING", "LIMIT_DEFAULT", "LIMIT_MAX", "Ledger"]

LIMIT_DEFAULT = 1_000
LIMIT_MAX = 100_000
EVERYTHING = QuarantineFilter()


class Ledger(Protocol):
    """The ledger. Methods may be called from several threads; each raises `LedgerError` and nothing else.

    Where a `user_id` may be None, None means everybody. `limit` is a number of rows.
    """

    def balance(self, user_id: str) -> Balance:
        """What a user has left. Raises NotFoundError for a user without grants, usage and profile."""

    def balances(self, limit: int = LIMIT_DEFAULT) -> Sequence[Balance]:
        """What each user has left, by user id."""

    def users(self, limit: int = LIMIT_DEFAULT) -> Sequence[User]:
        """Profiles, by user id."""

    def set_user(self, user_id: str, profile: Profile) -> User:
        """Remember a user's email and name, and return what is known now."""

    def grants(self, user_id: str, limit: int = LIMIT_DEFAULT) -> Sequence[Grant]:
        """What was granted to a user, newest first."""

    def grant(self, user_id: str, new: NewGrant) -> tuple[Grant, bool]:
        """Grant credits once; the bool is False if a grant with this id was there before, which is then returned.

        Raises ConflictError if that one is of another user or amount.
        """

    def events(self, user_id: str | None = None, limit: int = LIMIT_DEFAULT) -> Sequence[Event]:
        """The latest charges, newest first."""

    def void(self, event_id: UUID, new: NewVoid) -> tuple[Void, bool]:
        """Take one charge back, by a further entry; the bool is False if that was done before, and by whom is returned.

        Raises NotFoundError if nothing with this id was charged.
        """

    def monthly_usage(self, user_id: str | None = None, limit: int = LIMIT_DEFAULT) -> Sequence[MonthlyUsage]:
        """Consumption by month, action and model, latest month first."""

    def prices(self) -> Sequence[Price]:
        """The whole price book."""

    def set_price(self, new: NewPrice) -> Price:
        """Add a row to the price book; what was already charged keeps its price."""

    def rules(self) -> Sequence[Rule]:
        """The billing rules as they count now, those that are off too, in the order in which they are asked."""

    def set_rule(self, new: NewRule) -> Rule:
        """Add a rule, or replace the one with its id; what was already charged stays charged."""

    def switch_rule(self, rule_id: str, enabled: bool) -> Rule:
        """Let a rule count from now on, or no longer. Raises NotFoundError."""

    def test_rule(self, rule_id: str, request: bytes) -> Sequence[RuleCharge]:
        """What a rule would charge for the spans of an OTLP trace request, were it on; nothing is stored.

        Raises NotFoundError, and InvalidRequestError if the bytes are no such request.
        """

    def test_rule_on_stored(self, rule_id: str, since: datetime | None = None) -> StoredTest:
        """The same for the spans of the last hours, if the server keeps them; `since` leaves earlier ones out.

        Raises NotFoundError, and InvalidRequestError if none are kept.
        """

    def model_aliases(self) -> Sequence[ModelAlias]:
        """Models under another name, as they count now, by that name."""

    def set_model_alias(self, new: NewModelAlias) -> ModelAlias:
        """Add an alias, or replace that of its model; what was already charged keeps its price."""

    def remove_model_alias(self, model: str) -> ModelAlias:
        """Let an alias no longer count; returns what it meant. Raises NotFoundError."""

    def conventions(self) -> Sequence[Convention]:
        """How each known instrumentation reports tokens, by the name of its scope."""

    def set_convention(self, new: NewConvention) -> Convention:
        """Teach an emitter, or replace what is known of it; it counts for what is inserted or replayed from now on."""

    def remove_convention(self, key: ConventionKey) -> Convention:
        """Forget what is known of an emitter, which is returned; what was charged stays charged. Raises NotFoundError."""

    def quarantine(
        self, which: QuarantineFilter = EVERYTHING, limit: int = LIMIT_DEFAULT
    ) -> Sequence[QuarantinedUsage]:
        """Usages that could not be charged, latest first."""

    def quarantine_summary(self) -> Sequence[QuarantineReason]:
        """How many usages are quarantined, by reason."""

    def quarantined_copies(self, event_id: UUID) -> Sequence[QuarantinedCopy]:
        """Every row of one quarantined usage, latest first. Raises NotFoundError."""

    def quarantined_requests(
        self, which: QuarantineFilter = EVERYTHING, limit: int = LIMIT_DEFAULT
    ) -> Sequence[QuarantinedRequest]:
        """Whole requests that could not be inserted, oldest first."""

    def quarantined_request(self, quarantine_id: UUID) -> RawRequest:
        """The bytes of one of them. Raises NotFoundError."""

    def replay_quarantine(self, which: QuarantineFilter = EVERYTHING) -> Replayed:
        """Try again to charge what is quarantined; what can be charged by now leaves the quarantine."""

    def assign_quarantine(self, which: QuarantineFilter, assignment: Assignment) -> Replayed:
        """Make a user pay for quarantined usage that names nobody, and try again to charge it."""

    def discard_quarantine(self, which: QuarantineFilter, discard: Discard) -> Discarded:
        """Take out of the quarantine what will never be charged, and record that."""

    def take_in(self, request: RawRequest) -> TakenIn:
        """Receive a request, as if it had been sent to the OTLP port. Raises InvalidRequestError if it is none."""

    def reconcile(self, user_id: str | None = None) -> Sequence[Difference]:
        """Compare the totals with the events and grants; nothing returned means that they agree."""

    def clients(self, limit: int = LIMIT_DEFAULT) -> Sequence[ClientUsage]:
        """Whether what each process recorded has arrived; those that miss something first."""

    def series_faults(self, limit: int = LIMIT_DEFAULT) -> Sequence[SeriesFault]:
        """Gaps and overlaps between the intervals of each series of data points, the earliest first."""

    def fix_totals(self, user_id: str | None, fix: Fix) -> Sequence[Correction]:
        """Correct the totals that are not the sum of their entries, by further rows, and record each correction."""

    def rebuild_totals(self) -> Rebuilt:
        """Make all totals anew from the events and grants, and put them in the place of the old ones."""

    def backup(self, new: NewBackup) -> Backup:
        """Copy an embedded store and its spool, as they are at one moment, while both are in use.

        Raises InvalidRequestError if the path cannot be a new folder outside the data folder.
        """

    def sql(self, query: str) -> Sequence[Mapping[str, Any]]:
        """Run a read-only query. Decimals are strings. Raises InvalidQueryError."""

    def close(self) -> None:
        """Close all connections."""
