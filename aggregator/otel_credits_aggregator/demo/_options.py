"""What can be chosen about a demo."""

from __future__ import annotations

from dataclasses import dataclass

USERS_MIN = 1
USERS_MAX = 10_000


class DemoError(Exception):
    """The demo could not be run; the message says why and what to do. (A wrong balance is a result, not this.)"""


@dataclass(frozen=True)
class DemoOptions:
    """Options of `otel-credits demo`.

    Attributes:
        keep: leave everything running after the comparison, until Ctrl-C.
        usages: how many usages are sent; every pattern gets its share.
        users: how many users they belong to.
        seed: decides who does what, and what the model server charges; the same seed gives the same balances.

    Raises:
        ValueError: a number is out of range.
    """

    keep: bool = False
    usages: int = 320
    users: int = 24
    seed: int = 1

    def __post_init__(self) -> None:
        if not USERS_MIN <= self.users <= USERS_MAX:
            raise ValueError(f"users must be between {USERS_MIN} and {USERS_MAX}, not {self.users}")
        if self.usages < self.users:
            raise ValueError(f"usages must be at least users ({self.users}), so that each user has one")
