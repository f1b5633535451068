"""What the demo prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from rich.console import Console
from rich.table import Table

from otel_credits_aggregator.demo._oracle import Expected
from otel_credits_aggregator.demo._plan import Action, DemoUser


@dataclass(frozen=True)
class Account:
    """A user's account as the ledger shows it, in credits."""

    granted: Decimal
    consumed: Decimal
    balance: Decimal
    this_month: Decimal


@dataclass(frozen=True)
class Difference:
    """A figure of the ledger that is not what it must be."""

    email: str
    figure: str
    ledger: Decimal | None
    expected: Decimal

    def __str__(self) -> str:
        return f"{self.email}: {self.figure} is {self.ledger} in the ledger and must be {self.expected}"


def exactly(amount: Decimal) -> str:
    """Write an amount with all its digits, without an exponent and without zeros at the end."""
    text = format(amount, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def find_differences(
    users: Sequence[DemoUser],
    accounts: Mapping[str, Account],
    expected: Mapping[str, Expected],
    *,
    same_month: bool,
) -> list[Difference]:
    """Compare every account, to the last decimal; a user without an account differs in everything.

    Args:
        same_month: all usage was in the current month, so that the month's consumption must be the whole.
    """
    found = []
    for user in users:
        account, must = accounts.get(str(user.id)), expected[str(user.id)]
        figures = {"granted": must.granted, "consumed": must.consumed, "balance": must.balance}
        if same_month:
            figures["this_month"] = must.consumed
        for name, amount in figures.items():
            shown = getattr(account, name) if account else None
            if shown != amount:
                found.append(Difference(user.email, name.replace("_", " "), shown, amount))
    return found


def users_table(users: Sequence[DemoUser], accounts: Mapping[str, Account], expected: Mapping[str, Expected]) -> Table:
    """Return the table of users, each compared with what was really served."""
    table = Table(title="Users, in credits (1 credit = 1 US dollar of list price)")
    table.add_column("user")
    for column in ("granted", "consumed", "balance", "this month"):
        table.add_column(column, justify="right")
    table.add_column("as served", justify="center")
    for user in users:
        account = accounts.get(str(user.id))
        if account is None:
            table.add_row(user.email, "-", "-", "-", "-", "NO")
            continue
        amounts = (account.granted, account.consumed, account.balance, account.this_month)
        same = account.balance == expected[str(user.id)].balance
        table.add_row(user.email, *(exactly(amount) for amount in amounts), "yes" if same else "NO")
    return table


def patterns_table(plan: Iterable[Action]) -> Table:
    """Return how often each pattern was used."""
    counts = Counter(action.pattern for action in plan)
    table = Table(title="What the users did")
    table.add_column("pattern")
    table.add_column("times", justify="right")
    for pattern, count in counts.most_common():
        table.add_row(pattern.title, str(count))
    return table


def make_console() -> Console:
    """Return the console; where the output is no terminal, wide enough that no amount is cut."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=140)
