"""Load for the chaos tests: clients that send until they are acknowledged, and an oracle that knows each charge.

A client behaves as an SDK's exporter and a Collector do: it sends the same bytes again until they are acknowledged,
sometimes hangs up before it can have the answer, and sometimes sends spans again, in another request, that were
acknowledged long ago. Everything is drawn from a seed.
"""

from __future__ import annotations

import os
import random
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

import grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from support import otlp_build as otlp
from support.accounting import Accounting, assert_exact, settle
from support.otlp_clients import GrpcClient
from support.processes import AggregatorProcess, wait_until

__all__ = ["Load", "Oracle", "ResendingClient", "assert_nothing_lost_or_doubled", "new_seed", "sending"]

SEED_VARIABLE: Final = "OTEL_CREDITS_TEST_SEED"
USERS: Final = tuple(f"user-{number}" for number in range(12))
# Prices of the starter book, written down a second time (credits a token, credits a call).
MODEL: Final = "claude-sonnet-4-5-20250929"
INPUT_PRICE, CACHE_READ_PRICE, OUTPUT_PRICE = Decimal("0.000003"), Decimal("0.0000003"), Decimal("0.000015")
CALL_PRICES: Final = {"workflow_execution": Decimal("0.001"), "youtube_sync": Decimal("0.005")}

_RETRYABLE = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)
_HOUR_NS = 3_600 * 10**9


@dataclass
class Oracle:
    """What must be charged, counted where the usage is made."""

    credits: defaultdict[str, Decimal] = field(default_factory=lambda: defaultdict(Decimal))
    usages: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def expect(self, user: str, credits: Decimal) -> None:
        """Expect one more event."""
        with self._lock:
            self.credits[user] += credits
            self.usages += 1


class Load:
    """Makes spans, each expected by the oracle if it is to be charged."""

    def __init__(self, seed: str, oracle: Oracle) -> None:
        self._rng = random.Random(seed)
        self._oracle = oracle

    def spans(self, number: int) -> list[Span]:
        """New spans: usages of every kind of price, and some that cannot or need not be charged."""
        return [self._span() for _ in range(number)]

    def resent(self, spans: list[Span]) -> list[Span]:
        """Copies of spans; one that has an idempotency key gets other ids, as a repeated job gives it."""
        copies = []
        for span in spans:
            copy = Span.FromString(span.SerializeToString())
            if any(attribute.key == otlp.KEY for attribute in copy.attributes):
                copy.span_id = self._rng.randbytes(8)
            copies.append(copy)
        return copies

    def _span(self) -> Span:
        rng, user = self._rng, self._rng.choice(USERS)
        kind = rng.choices(("amount", "call", "tokens", "no usage", "no user"), (4, 3, 3, 1, 0.3))[0]
        attributes: dict[str, object] = {otlp.ACTION: "bulk_operation", otlp.USER: user}
        credits = Decimal(0)
        match kind:
            case "amount":
                credits = Decimal(rng.randrange(1, 10**9)).scaleb(-rng.randrange(13))
                attributes[otlp.AMOUNT] = f"{credits:f}"
                if rng.random() < 0.3:
                    attributes[otlp.KEY] = uuid.UUID(bytes=rng.randbytes(16)).hex
            case "call":
                attributes[otlp.ACTION] = rng.choice(tuple(CALL_PRICES))
                calls = rng.randrange(1, 50)
                attributes[f"{otlp.UNITS}call"] = calls
                credits = calls * CALL_PRICES[str(attributes[otlp.ACTION])]
            case "tokens":
                uncached, cached, out = rng.randrange(1, 20_000), rng.randrange(1, 5_000), rng.randrange(1, 8_000)
                tokens = {otlp.INPUT: uncached + cached, otlp.CACHE_READ: cached, otlp.OUTPUT: out}
                attributes |= {otlp.ACTION: "ai_chat_message", otlp.RESPONSE_MODEL: MODEL, **tokens}
                credits = uncached * INPUT_PRICE + cached * CACHE_READ_PRICE + out * OUTPUT_PRICE
            case "no usage":
                del attributes[otlp.ACTION]
            case "no user":
                del attributes[otlp.USER]
        if kind not in ("no usage", "no user"):
            self._oracle.expect(user, credits)
        end_ns = time.time_ns() - rng.randrange(_HOUR_NS)
        return otlp.span(attributes, trace_id=rng.randbytes(16), span_id=rng.randbytes(8), end_ns=end_ns)


class ResendingClient(threading.Thread):
    """Sends new spans over OTLP/gRPC until `finish()`, each request until it is acknowledged."""

    def __init__(self, port: int, seed: str, oracle: Oracle) -> None:
        super().__init__(name=f"client-{seed}", daemon=True)
        self.acknowledged_spans = 0
        self.resent_requests = 0
        self.failure: BaseException | None = None
        self._port = port
        self._rng = random.Random(f"client {seed}")
        self._load = Load(seed, oracle)
        self._old: list[Span] = []
        self._finishing = threading.Event()

    def finish(self, timeout_s: float) -> None:
        """Have the request under way acknowledged, send nothing new, and raise what went wrong, if anything did."""
        self._finishing.set()
        self.join(timeout_s)
        if self.failure is not None:
            raise self.failure
        assert not self.is_alive(), f"{self.name}: a request was not acknowledged within {timeout_s} s"

    def abandon(self) -> None:
        """Stop soon, whatever is still under way."""
        self._finishing.set()

    def run(self) -> None:
        try:
            with GrpcClient(self._port) as client:
                while not self._finishing.is_set():
                    self._deliver(client, self._next_spans())
                    time.sleep(self._rng.uniform(0.0, 0.05))
        except BaseException as error:
            self.failure = error

    def _next_spans(self) -> list[Span]:
        spans = self._load.spans(self._rng.randint(1, 30))
        if self._old and self._rng.random() < 0.3:
            spans += self._load.resent(self._rng.sample(self._old, min(len(self._old), self._rng.randint(1, 20))))
            self._rng.shuffle(spans)
        return spans

    def _deliver(self, client: GrpcClient, spans: list[Span]) -> None:
        payload = otlp.traces(*spans).SerializeToString()
        # A sender that stops waiting too early cannot know whether the request was taken.
        timeout_s = 0.01 if self._rng.random() < 0.1 else 10.0
        while not self._is_acknowledged(client, payload, timeout_s):
            self.resent_requests += 1
            timeout_s = 10.0
            time.sleep(self._rng.uniform(0.02, 0.3))
        self.acknowledged_spans += len(spans)
        self._old = (self._old + spans)[-5_000:]

    def _is_acknowledged(self, client: GrpcClient, payload: bytes, timeout_s: float) -> bool:
        try:
            client.export(payload, timeout_s=timeout_s)
        except grpc.RpcError as error:
            if error.code() not in _RETRYABLE:  # type: ignore[attr-defined]
                raise
            return False
        return True


def new_seed() -> str:
    """The seed of a run: from OTEL_CREDITS_TEST_SEED, else a new one; printed, so that the run can be repeated."""
    seed = os.environ.get(SEED_VARIABLE) or str(random.SystemRandom().randrange(10**6))
    print(f"{SEED_VARIABLE}={seed}")
    return seed


@contextmanager
def sending(aggregator: AggregatorProcess, seed: str, oracle: Oracle, clients: int) -> Iterator[list[ResendingClient]]:
    """Clients that send inside the block; after it, everything they sent is acknowledged."""
    started = [ResendingClient(aggregator.grpc_port, f"{seed}/{number}", oracle) for number in range(clients)]
    for client in started:
        client.start()
    try:
        wait_until(lambda: all(client.acknowledged_spans for client in started), 30, "every client was answered")
        yield started
    except BaseException:
        for client in started:
            client.abandon()
        raise
    for client in started:
        client.finish(timeout_s=60)


def assert_nothing_lost_or_doubled(
    aggregator: AggregatorProcess, oracle: Oracle, sent: list[ResendingClient]
) -> Accounting:
    """Every credit is exact, and every span that was acknowledged is accounted for."""
    aggregator.wait_ready()
    sums = settle(aggregator)
    print(f"{sums}, {sum(client.resent_requests for client in sent)} requests sent again")
    assert sums.charged == oracle.usages
    assert sums.received >= sum(client.acknowledged_spans for client in sent)
    assert_exact(aggregator, oracle.credits)
    return sums
