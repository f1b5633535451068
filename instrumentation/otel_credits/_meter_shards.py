"""The numbers that meters add to: one shard for each thread and meter, written by that thread only.

The export thread reads the shards and takes what was added since it last looked, so an addition is counted once
whatever the two do at the same time, and neither waits for the other. Numbers are integers: whole quantities as they
are, others in units of 10^-12, so that a sum is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple
from weakref import ref

from otel_credits._amounts import CREDITS_PLACES

# What one addition, and one data point, may hold: the ledger's bound on a quantity.
QUANTITY_MAX: Final = 10**15
SCALE: Final = 10**CREDITS_PLACES


class Series(NamedTuple):
    """What is counted together. Without a user it is counted all the same, and quarantined."""

    meter: str
    user: str | None
    action_type: str
    unit: str | None


Key = tuple[str | None, str | None, str | None]


class Owner:
    """Lives as long as the thread whose shard it marks."""

    __slots__ = ("__weakref__",)


class Shard:
    """The numbers of one thread and one meter. They only grow; written by that thread, read by the export thread."""

    __slots__ = ("finished", "fractions", "generation", "owner", "seen_fractions", "seen_wholes", "series", "wholes")

    def __init__(self, series: Callable[[Key], Series], owner: Owner, generation: int) -> None:
        self.series = series
        self.owner = ref(owner)
        self.generation = generation
        # Set by the thread when it turns to a new shard: it never writes to this one again.
        self.finished = False
        self.wholes: dict[Key, int] = {}
        self.fractions: dict[Key, int] = {}
        # What the export thread has taken already.
        self.seen_wholes: dict[Key, int] = {}
        self.seen_fractions: dict[Key, int] = {}

    def is_over(self) -> bool:
        """Whether nobody can write to it any more."""
        return self.finished or self.owner() is None

    def take(self) -> Iterator[tuple[Series, int]]:
        """What was added since the last call, in units of 10^-12."""
        for scale, numbers, seen in (
            (SCALE, self.wholes.copy(), self.seen_wholes),
            (1, self.fractions.copy(), self.seen_fractions),
        ):
            for key, total in numbers.items():
                added = total - seen.get(key, 0)
                if added:
                    seen[key] = total
                    yield self.series(key), added * scale


class Shards:
    """All shards of the process, and the generation that threads compare theirs with."""

    def __init__(self) -> None:
        self.generation = 0
        self._all: list[Shard] = []

    def add(self, shard: Shard) -> None:
        """A thread begins a shard. (`append` is atomic.)"""
        self._all.append(shard)

    def take(self, *, new_generation: bool = True) -> dict[Series, int]:
        """All that was added since the last call, in units of 10^-12. For one thread at a time.

        A new generation: threads turn to a new shard with their next addition, and a shard that nobody
        writes any more is forgotten once it is taken. So memory follows the series of the last interval.
        """
        self.generation += new_generation
        taken: dict[Series, int] = {}
        for shard in tuple(self._all):
            over = shard.is_over()  # asked first: what is written before the answer yes is taken below
            for series, added in shard.take():
                taken[series] = taken.get(series, 0) + added
            if over and new_generation:
                self._all.remove(shard)
        return taken

    def series_count(self) -> int:
        """How many series this generation has, one that two threads add to counted twice. Those of the generation
        before are taken, and no series is added to them."""
        current = [shard for shard in tuple(self._all) if shard.generation == self.generation]
        return sum(len(shard.wholes) + len(shard.fractions) for shard in current)

    def is_empty(self) -> bool:
        """Whether nothing was ever counted that is not taken and forgotten."""
        return not self._all

    def begin_generation(self) -> None:
        """The next addition of each thread is looked at, and not only added."""
        self.generation += 1

    def reset_after_fork(self) -> None:
        """In a forked child: what the parent counted is the parent's to send."""
        self.generation += 1
        self._all = []


shards = Shards()
