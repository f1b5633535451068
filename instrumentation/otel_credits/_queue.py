"""The bounded queue between the app's threads and the export thread, and the one place where usages are counted.

An app's thread only appends to a deque, which takes no lock. Everything else (taking a batch, counting what became of
it) is done under `state`, by the export thread and by those who wait for it.

When the queue is full, the newest usage is refused. Dropping the oldest, as the SDK's processor does, would lose
usage that was accepted as recorded long ago and may already be on its way; refusing is known at once, is logged where
it happens and is counted. recorded = exported + failed + waiting holds at any time, by construction.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.trace import ReadableSpan

from otel_credits._attributes import SEQ
from otel_credits._usage import KeptSpan

if TYPE_CHECKING:
    from otel_credits._spool import StoredSpan
    from otel_credits._spool_points import StoredPoint

# What a span weighs beside its text: ids, times, names of attributes, and Python's own overhead.
_SPAN_BYTES = 1000


# Why a usage failed (the attribute of the counter `credits.client.failed`).
BAD_ARGUMENT = "bad_argument"
QUEUE_FULL = "queue_full"
REJECTED = "rejected"
SHUTDOWN = "shutdown"
INTERNAL = "internal_error"


@dataclass(slots=True)
class Stats:
    """What became of the usages recorded in this process. `recorded` is the sum of the three others."""

    recorded: int = 0
    exported: int = 0
    failed: int = 0
    waiting: int = 0
    failed_by_reason: dict[str, int] = field(default_factory=dict)


class UsageQueue:
    """Usages that wait to be acknowledged.

    `_inbox` takes what is new; `_held` is what the export thread has taken over, oldest first, and keeps until it is
    acknowledged or given up.
    """

    def __init__(self, *, spans_max: int, bytes_max: int) -> None:
        self.spans_max = spans_max
        self.bytes_max = bytes_max
        self.closed = False
        self.state = threading.Condition(threading.RLock())
        self._inbox: deque[ReadableSpan | KeptSpan] = deque()
        # How large each of them is. Beside them, as a tuple of the two would be one more object for the garbage collector, and
        # put there first: so there are never fewer. Of two that come at once the sizes may be exchanged.
        self._inbox_sizes: deque[int] = deque()
        # Only an estimate: threads may add to it at the same time and lose an addition. It starts from zero whenever
        # the inbox is emptied, so an error does not add up.
        self._inbox_bytes = 0
        self._held: deque[ReadableSpan | KeptSpan] = deque()
        self._held_sizes: deque[int] = deque()
        self._held_bytes = 0
        self._done = 0
        self._exported = 0
        self._failed: Counter[str] = Counter()
        # `next()` of it is atomic: threads get different numbers without a lock.
        self._numbers = count(1)

    def put(self, span: ReadableSpan | KeptSpan, attributes: MutableMapping[str, Any]) -> int:
        """Take a usage, and number it in `attributes`, which are the span's own. Returns how many usages are new since
        the export thread last looked; 0 means that it was refused, because the queue is full or closed."""
        # Roughly what it takes in memory and on the wire.
        size_bytes = _SPAN_BYTES
        for value in attributes.values():
            if type(value) is str:
                size_bytes += len(value)
            elif type(value) is tuple:
                size_bytes += len(str(value))
        if (
            self.closed
            or len(self._inbox) + len(self._held) >= self.spans_max
            or self._inbox_bytes + self._held_bytes + size_bytes > self.bytes_max
        ):
            return 0
        attributes[SEQ] = next(self._numbers)
        self._inbox_bytes += size_bytes
        self._inbox_sizes.append(size_bytes)
        self._inbox.append(span)
        return len(self._inbox) or 1

    def _waiting(self) -> int:
        return len(self._inbox) + len(self._held)

    def inbox_length(self) -> int:
        """How many usages are new since the export thread last looked."""
        return len(self._inbox)

    def take_over(self) -> None:
        """Move what is new to what is held. For the export thread."""
        with self.state:
            self._inbox_bytes = 0
            for _ in range(len(self._inbox)):
                self._held.append(self._inbox.popleft())
                size_bytes = self._inbox_sizes.popleft()
                self._held_sizes.append(size_bytes)
                self._held_bytes += size_bytes

    def batch(self, spans_max: int, bytes_max: int) -> Sequence[ReadableSpan | KeptSpan | StoredSpan]:
        """The oldest held usages, as many as fit; at least one if any is held. They stay held."""
        with self.state:
            spans: list[ReadableSpan | KeptSpan] = []
            size_bytes = 0
            for span, span_bytes in islice(zip(self._held, self._held_sizes, strict=True), spans_max):
                if spans and size_bytes + span_bytes > bytes_max:
                    break
                spans.append(span)
                size_bytes += span_bytes
            return spans

    def settle(self, count: int, failed: int, reason: str) -> None:
        """The `count` oldest held usages are done with; `failed` of them were given up, for `reason`."""
        with self.state:
            for _ in range(count):
                self._held.popleft()
                self._held_bytes -= self._held_sizes.popleft()
            self._count_settled(count, failed, reason)

    def _count_settled(self, count: int, failed: int, reason: str) -> None:
        self._done += count
        self._exported += count - failed
        if failed:
            self._failed[reason] += failed
        self.state.notify_all()

    def count_failed(self, reason: str, count: int = 1) -> None:
        """Count usages that never got into the queue."""
        with self.state:
            self._failed[reason] += count

    def give_up_waiting(self, reason: str) -> int:
        """Everything that still waits in memory is given up. Returns how many that were."""
        self.take_over()
        with self.state:
            count = len(self._held)
            self.settle(count, count, reason)
            return count

    def stats(self) -> Stats:
        """The counts, consistent with each other."""
        with self.state:
            waiting = self._waiting()
            failed = sum(self._failed.values())
            return Stats(self._exported + failed + waiting, self._exported, failed, waiting, dict(self._failed))

    def entered(self) -> int:
        """How many usages the queue ever took. The queue keeps their order, so `done()` reaches this number when
        all of them are settled."""
        with self.state:
            return self._done + self._waiting()

    def done(self) -> int:
        """How many of the usages that the queue took are settled, well or not."""
        return self._done

    def lost(self) -> int:
        """How many usages were given up after the call that recorded them was accepted or refused: all that failed
        but those with a bad argument."""
        with self.state:
            return sum(self._failed.values()) - self._failed[BAD_ARGUMENT]

    def left_batch(self, spans_max: int, bytes_max: int) -> Sequence[StoredSpan]:
        """The oldest usages that a dead process left behind (only on disk)."""
        return ()

    def settle_left(self, count: int) -> None:
        """The `count` oldest of them are done with."""

    @property
    def keeps_points(self) -> bool:
        """Whether what meters count is written where it outlives the process."""
        return False

    def write_points(self, points: Sequence[StoredPoint], gone: Sequence[int]) -> bool:
        """Write points of the meters, in place of those of the same row, and delete the rows `gone`. Whether it is
        done; if not, all is as it was."""
        return False

    def left_points(self, points_max: int) -> Sequence[StoredPoint]:
        """The first points of meters that a dead process left behind. They are asked for after its usages."""
        return ()

    def settle_left_points(self, count: int) -> None:
        """The `count` first of them are done with."""

    def end(self) -> int:
        """The process ends. Returns how many usages still wait where they outlive it."""
        return 0

    def before_fork(self) -> None:
        """This process is about to fork. A queue in memory needs no preparation, and no lock."""

    def after_fork_in_parent(self) -> None:
        """It has forked."""

    def reset_after_fork(self) -> None:
        """In a forked child: what waits belongs to the parent, which sends it. Start empty, with new locks."""
        closed = self.closed
        self._start_empty()
        self.closed = closed

    def _start_empty(self) -> None:
        UsageQueue.__init__(self, spans_max=self.spans_max, bytes_max=self.bytes_max)
