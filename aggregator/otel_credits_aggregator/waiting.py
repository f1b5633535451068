"""The requests that wait in the spool for a batch, in the order in which they became durable."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from otel_credits_aggregator.independence import Identities, union
from otel_credits_aggregator.otlp import Signal

__all__ = ["NextBatch", "Queue", "Waiting"]


@dataclass(frozen=True)
class Waiting:
    """A request in the spool that no batch has yet."""

    id: int
    signal: Signal
    bytes: int
    since: float  # time.monotonic()
    identities: Identities = None


@dataclass(frozen=True)
class NextBatch:
    """Requests of one signal that make the next batch; there may be none."""

    requests: tuple[Waiting, ...] = ()

    @cached_property
    def identities(self) -> frozenset[int] | None:
        """What identities they can bring."""
        return union(request.identities for request in self.requests)


class Queue:
    """Whoever uses it holds the condition `arrived` of the spool."""

    def __init__(self) -> None:
        self._requests: deque[Waiting] = deque()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[Waiting]:
        return iter(self._requests)

    def append(self, request: Waiting) -> None:
        """Puts a request at the end."""
        self._requests.append(request)
        self.bytes += request.bytes

    @property
    def oldest_since(self) -> float:
        """When the oldest began to wait, by time.monotonic(); infinity if none waits."""
        return self._requests[0].since if self._requests else float("inf")

    def next_batch(self, bytes_max: int) -> NextBatch:
        """The oldest request and those of its signal that came next, up to the limit; at least one, if any waits."""
        chosen: list[Waiting] = []
        size = 0
        for one in self._requests:
            if one.signal is not self._requests[0].signal:
                continue
            if chosen and size + one.bytes > bytes_max:
                break
            chosen.append(one)
            size += one.bytes
        return NextBatch(tuple(chosen))

    def take(self, batch: NextBatch) -> None:
        """Removes the requests of a batch."""
        taken = {one.id for one in batch.requests}
        self._requests = deque(one for one in self._requests if one.id not in taken)
        self.bytes -= sum(one.bytes for one in batch.requests)
