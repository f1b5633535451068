"""What the ledger needs of the server around it, for what no other process may do at the same time."""

from collections.abc import Callable
from concurrent.futures import Future
from threading import Lock
from typing import Protocol, TypeVar

from otel_credits_aggregator.ledger._store import store_errors
from otel_credits_aggregator.ledger.errors import BusyError
from otel_credits_aggregator.otlp import Signal
from otel_credits_aggregator.outcomes import Refusal
from otel_credits_aggregator.replay import Selection, Treatment
from otel_credits_aggregator.store import Client

__all__ = ["Server", "undisturbed"]

T = TypeVar("T")

_PAUSE_TIMEOUT_S = 3_600.0


class Server(Protocol):
    """A running server. Each method may raise `outcomes.Refusal`, and so may its future."""

    def treat(self, selection: Selection, treatment: Treatment) -> "Future[int]":
        """Replay, assign or discard quarantined rows, each once; the future has the number of rows taken."""

    def void(self, event_id: str, treatment: Treatment) -> "Future[bool]":
        """Take the charge of an event back; whether it was there and still charged."""

    def between_batches(self, work: Callable[[Client], T]) -> "Future[T]":
        """Do something with the store while no batch is under way."""

    def accept(self, signal: Signal, payload: bytes, binding: bytes) -> "Future[int]":
        """Receive a request that may charge what its binding says; it is durable when the future is done."""


def undisturbed(server: Server, grants: Lock, work: Callable[[Client], T]) -> T:
    """Does something with the store while no batch and no grant of this server is under way. Raises LedgerError."""
    with grants, store_errors():
        try:
            return server.between_batches(work).result(_PAUSE_TIMEOUT_S)
        except TimeoutError:
            raise BusyError("the server did not come to it in time") from None
        except Refusal as error:
            raise BusyError(str(error)) from error
