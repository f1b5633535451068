"""From a request's bytes to a durable request: what every receiver does, whatever the transport."""

import threading
from concurrent.futures import Future

from otel_credits_aggregator.access import Gate, Role
from otel_credits_aggregator.envelope import binding_fields
from otel_credits_aggregator.fault_points import passing
from otel_credits_aggregator.independence import identities_of, may_be_side_by_side
from otel_credits_aggregator.otlp import Signal, item_count, parse
from otel_credits_aggregator.outcomes import Refusal, RequestTooLarge, Stopping
from otel_credits_aggregator.settings import Settings
from otel_credits_aggregator.spool import Spool

__all__ = ["Intake"]


class Intake:
    """Validates requests and makes them durable. Methods may be called from any thread."""

    def __init__(self, spool: Spool, settings: Settings, gate: Gate) -> None:
        self.request_bytes_max = settings.request_bytes_max
        self._told_apart = may_be_side_by_side(settings)
        self._gate = gate
        self._refused: dict[str, int] = {}
        self._lock = threading.Lock()
        self._reading = threading.Lock()
        self._spool = spool
        self._open = True

    def close(self) -> None:
        """From now on requests are refused as to be tried again."""
        self._open = False

    @property
    def refused(self) -> dict[str, int]:
        """Requests that were not taken, by the name of the refusal, since the start."""
        with self._lock:
            return dict(self._refused)

    def count_refusal(self, refusal: Refusal) -> None:
        """Counts a request that was not taken. Receivers call it where they answer, so that each refusal is counted once."""
        reason = type(refusal).__name__
        with self._lock:
            self._refused[reason] = self._refused.get(reason, 0) + 1

    def admit(self, authorization: str | None) -> bytes:
        """Lets a sender in; returns what its token is bound to, for :meth:`accept`.

        Raises:
            Refusal: it shows no token that may send.
        """
        token = self._gate.admit(authorization, Role.INGEST)
        return binding_fields(token.services, token.action_types) if token else b""

    def accept(self, signal: Signal, payload: bytes, binding: bytes) -> "Future[int]":
        """Takes a request in OTLP protobuf; the sender may be told so when the future is done.

        Args:
            signal: what it carries.
            payload: its bytes.
            binding: what its sender may charge, from :meth:`admit`.

        Raises:
            Refusal: the request is not taken; its type says why, its ``retry_delay_s`` whether to try again. The future
                may have one, too.
        """
        if not self._open:
            raise Stopping("the aggregator is stopping", 1.0)
        if len(payload) > self.request_bytes_max:
            raise RequestTooLarge(
                f"the request has {len(payload)} bytes, the limit is {self.request_bytes_max}: send smaller batches"
            )
        # One at a time: more threads that read take turns in vain, and each holds some times the size of its request.
        with self._reading:
            request = parse(signal, payload)
            items = item_count(signal, request)
            identities = identities_of(signal, request, payload) if self._told_apart else None
            del request
        if signal is Signal.LOGS or items == 0:
            return self._count_only(signal, items)
        passing("request_read")
        return self._spool.append(signal, payload, items, binding, identities)

    def _count_only(self, signal: Signal, items: int) -> "Future[int]":
        if items:
            self._spool.count(signal, items)
        done: Future[int] = Future()
        done.set_result(0)
        return done
