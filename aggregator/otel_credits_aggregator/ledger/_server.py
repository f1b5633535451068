"""What the ledger needs of the server around it, for what no other process may do at the same time."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol, TypeVar

from otel_credits_aggregator.otlp import Signal
from otel_credits_aggregator.replay import Selection, Treatment
from otel_credits_aggregator.store import Client

__all__ = ["Server"]

T = TypeVar("T")


class Server(Protocol):
    """A running server. Each method may raise `outcomes.Refusal`, and so may its future."""

    def treat(self, selection: Selection, treatment: Treatment) -> "Future[int]":
        """Replay, assign or discard quarantined rows, each once; the future has the number of rows taken."""

    def between_batches(self, work: Callable[[Client], T]) -> "Future[T]":
        """Do something with the store while no batch is under way."""

    def accept(self, signal: Signal, payload: bytes) -> "Future[int]":
        """Receive a request; it is durable when the future is done."""
