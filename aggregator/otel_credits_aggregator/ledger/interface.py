"""What can be asked of the ledger."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

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

__all__ = ["LIMIT_DEFAULT", "LIMIT_MAX", "Ledger"]

LIMIT_DEFAULT = 1_000
LIMIT_MAX = 100_000


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

    def monthly_usage(self, user_id: str | None = None, limit: int = LIMIT_DEFAULT) -> Sequence[MonthlyUsage]:
        """Consumption by month, action and model, latest month first."""

    def prices(self) -> Sequence[Price]:
        """The whole price book."""

    def set_price(self, new: NewPrice) -> Price:
        """Add a row to the price book; what was already charged keeps its price."""

    def quarantine(
        self, reason: str | None = None, user_id: str | None = None, limit: int = LIMIT_DEFAULT
    ) -> Sequence[QuarantinedUsage]:
        """Usages that could not be charged, latest first."""

    def quarantine_summary(self) -> Sequence[QuarantineReason]:
        """How many usages are quarantined, by reason."""

    def replay_quarantine(self, reason: str | None = None, user_id: str | None = None) -> Replayed:
        """Try again to charge what is quarantined; what can be charged by now leaves the quarantine."""

    def reconcile(self, user_id: str | None = None) -> Sequence[Difference]:
        """Compare the totals with the events and grants; nothing returned means that they agree."""

    def sql(self, query: str) -> Sequence[Mapping[str, Any]]:
        """Run a read-only query. Decimals are strings. Raises InvalidQueryError."""

    def close(self) -> None:
        """Close all connections."""
