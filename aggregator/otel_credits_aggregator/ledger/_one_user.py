"""A ledger that shows one user and nothing else, for who may see no more."""

from collections.abc import Sequence
from typing import Any, NoReturn

from otel_credits_aggregator.ledger.errors import NotPermittedError
from otel_credits_aggregator.ledger.interface import LIMIT_DEFAULT, Ledger
from otel_credits_aggregator.ledger.models import Balance, Event, Grant, MonthlyUsage

__all__ = ["OneUserLedger"]


class OneUserLedger:
    """What a ledger says of one user. Whatever is not named here is refused, also what a ledger will learn later."""

    def __init__(self, ledger: Ledger, user_id: str) -> None:
        self._ledger = ledger
        self._user_id = user_id

    def balance(self, user_id: str) -> Balance:
        return self._ledger.balance(self._own(user_id))

    def grants(self, user_id: str, limit: int = LIMIT_DEFAULT) -> Sequence[Grant]:
        return self._ledger.grants(self._own(user_id), limit)

    def events(self, user_id: str | None = None, limit: int = LIMIT_DEFAULT) -> Sequence[Event]:
        return self._ledger.events(self._own(user_id), limit)

    def monthly_usage(self, user_id: str | None = None, limit: int = LIMIT_DEFAULT) -> Sequence[MonthlyUsage]:
        return self._ledger.monthly_usage(self._own(user_id), limit)

    def _own(self, user_id: str | None) -> str:
        """The user, who is meant where nobody is named. Another is refused, whether or not there is one."""
        if user_id not in (None, self._user_id):
            raise NotPermittedError("this token is for another user")
        return self._user_id

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)

        def refuse(*_: object, **__: object) -> NoReturn:
            raise NotPermittedError("this token is for one user's balance, grants, events and monthly usage")

        return refuse
