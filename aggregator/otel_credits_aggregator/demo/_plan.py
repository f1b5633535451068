"""Who does what: users, patterns of use, and a random deal of both from a seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from uuid import UUID

FIRST_NAMES = ("ada", "alan", "barbara", "dennis", "edsger", "frances", "grace", "hedy", "john", "katherine")
GRANTED_CREDITS = (Decimal("5"), Decimal("10"), Decimal("12.5"), Decimal("0.75"))


@dataclass(frozen=True)
class DemoUser:
    """A customer of the chat app."""

    id: UUID
    name: str
    email: str
    granted: Decimal


class Pattern(Enum):
    """A way of using otel-credits.

    Each has a title, a weight (its share of the usages), and a fixed cost in credits; without one, the usage is priced
    by the tokens that the model server served.
    """

    CHAT_AFTER_STREAM = ("chat, tracked after the stream", 6, None)
    CHAT_TRACKED = ("chat, the stream itself tracked", 6, None)
    CHAT_HANG_UP = ("chat, the reader hangs up mid-stream", 4, None)
    CHAT_FAILS = ("chat, the handler raises after tracking", 3, None)
    COMMENT_REPLY = ("comment answered by the model (positional call)", 3, None)
    BULK = ("bulk operation, one call", 2, Decimal("0.01"))
    SYNC = ("sync of external data, with metadata", 3, Decimal("0.005"))
    ANALYTICS = ("report by a decorated function", 3, Decimal("0.002"))
    WORKFLOW_PLAIN = ("workflow in a plain Celery task", 4, Decimal("0.001"))
    WORKFLOW_ASYNC = ("workflow in an async Celery task", 4, Decimal("0.001"))
    SCRIPT_SYNC = ("sync job, a script that ends", 1, Decimal("0.005"))
    SCRIPT_REPORT = ("report script that ends", 1, Decimal("0.002"))
    COMMENT_THANKS = ("comment answered without the model (free)", 0, Decimal(0))

    def __init__(self, title: str, weight: int, fixed_cost: Decimal | None) -> None:
        self.title = title
        self.weight = weight
        self.fixed_cost = fixed_cost

    @property
    def is_usage(self) -> bool:
        """Whether it is charged at all."""
        return self.weight > 0


@dataclass(frozen=True)
class Action:
    """One thing that one user does."""

    number: int
    user: DemoUser
    pattern: Pattern
    model: str


def make_users(count: int, seed: int) -> list[DemoUser]:
    """Return ``count`` users; the seed decides their ids and grants."""
    rng = random.Random(f"users/{seed}")
    names = [f"{FIRST_NAMES[i % len(FIRST_NAMES)]}-{i // len(FIRST_NAMES) + 1}" for i in range(count)]
    return [
        DemoUser(UUID(int=rng.getrandbits(128), version=4), name, f"{name}@example.com", rng.choice(GRANTED_CREDITS))
        for name in names
    ]


def make_plan(users: Sequence[DemoUser], models: Sequence[str], usages: int, seed: int) -> list[Action]:
    """Deal ``usages`` usages to the users, every user and every pattern its share, in random order.

    One more action in twenty is of the kind that must stay free.
    """
    rng = random.Random(f"plan/{seed}")
    charged = [pattern for pattern in Pattern if pattern.is_usage]
    # Each pattern once at the top of the deck, so that even a short run has every one.
    deck = charged + [pattern for pattern in charged for _ in range(pattern.weight - 1)]
    patterns = [deck[i % len(deck)] for i in range(usages)] + [Pattern.COMMENT_THANKS] * (usages // 20)
    # Each deal of the pack gives every user one; shuffling patterns and users apart mixes who does what.
    payers = [users[i % len(users)] for i in range(len(patterns))]
    rng.shuffle(patterns)
    rng.shuffle(payers)
    return [
        Action(number, user, pattern, rng.choice(models))
        for number, (user, pattern) in enumerate(zip(payers, patterns, strict=True))
    ]
