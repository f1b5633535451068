"""Load for the chaos tests: clients that send until they are acknowledged, and an oracle that knows each charge.

A client behaves as an SDK's exporter and a Collector do: it sends the same bytes again until they are acknowledged, over
gRPC or HTTP, sometimes hangs up before it can have the answer, sometimes gives up and has a later batch carry the spans,
sometimes sends one request twice at once, and sometimes sends spans again, in another request, that were acknowledged long
ago. Everything is drawn from a seed.
"""

from __future__ import annotations

import os
import random
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from typing import Final

import grpc
import httpx
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from support import otlp_build as otlp
from support.accounting import Accounting, assert_exact, settle
from support.otlp_clients import GrpcClient, post
from support.processes import AggregatorProcess, wait_until

__all__ = [
    "BROKEN",
    "UNNAMED",
    "Load",
    "Oracle",
    "ResendingClient",
    "assert_nothing_lost_or_doubled",
    "assign_unnamed",
    "discard_broken",
    "new_seed",
    "quarantined",
    "sending",
    "set_late_price",
]

SEED_VARIABLE: Final = "OTEL_CREDITS_TEST_SEED"
USERS: Final = tuple(f"user-{number}" for number in range(12))
# Prices of the starter book, written down a second time (credits a token, credits a call).
MODEL: Final = "claude-sonnet-4-5-20250929"
INPUT_PRICE, CACHE_READ_PRICE, OUTPUT_PRICE = Decimal("0.000003"), Decimal("0.0000003"), Decimal("0.000015")
CALL_PRICES: Final = {"workflow_execution": Decimal("0.001"), "youtube_sync": Decimal("0.005")}
# Who pays, in a run with everything, for usage that names nobody; what can never be charged is discarded there.
ASSIGNED_TO: Final = "assigned-to"
UNNAMED, BROKEN = "no_user", "not_a_number"
# An action without a price until the end of a run.
UNPRICED_ACTION: Final = "priced_later"
LATE_PRICE: Final = Decimal("0.0375")

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

    def __init__(self, seed: str, oracle: Oracle, *, everything: bool = False) -> None:
        self._rng = random.Random(seed)
        self._oracle = oracle
        self._everything = everything
        self._keys = 0.0

    def spans(self, number: int) -> list[Span]:
        """New spans: usages of every kind of price, and some that cannot or need not be charged; half the time some with keys."""
        self._keys = self._rng.choice((0.0, 0.6))
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
        kinds = ("amount", "call", "tokens", "no usage", "no user", "unpriced", "broken")
        kind = rng.choices(kinds, (4, 3, 3, 1, 0.3, *((0.3, 0.3) if self._everything else (0, 0))))[0]
        attributes: dict[str, object] = {otlp.ACTION: "bulk_operation", otlp.USER: user}
        credits = Decimal(0)
        match kind:
            case "amount":
                credits = self._amount(attributes)
                if rng.random() < self._keys:
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
            case "unpriced":
                attributes[otlp.ACTION] = UNPRICED_ACTION
                credits = LATE_PRICE
            case "no usage":
                del attributes[otlp.ACTION]
            case "no user":
                del attributes[otlp.USER]
                user, credits = ASSIGNED_TO, self._amount(attributes)
            case "broken":
                attributes[otlp.AMOUNT] = "no number"
        if kind not in ("no usage", "broken") and (kind != "no user" or self._everything):
            self._oracle.expect(user, credits)
        end_ns = time.time_ns() - rng.randrange(_HOUR_NS)
        return otlp.span(attributes, trace_id=rng.randbytes(16), span_id=rng.randbytes(8), end_ns=end_ns)

    def _amount(self, attributes: dict[str, object]) -> Decimal:
        credits = Decimal(self._rng.randrange(1, 10**9)).scaleb(-self._rng.randrange(13))
        attributes[otlp.AMOUNT] = f"{credits:f}"
        return credits


class ResendingClient(threading.Thread):
    """Sends new spans until `finish()`; each is acknowledged at last, in the first request that held it or in a later one.

    With `everything` among them are spans that have no price until the end, spans that are charged to whom they are
    assigned to, and spans that are discarded; and the pauses are long enough for a storm.
    """

    def __init__(self, aggregator: AggregatorProcess, seed: str, oracle: Oracle, *, everything: bool = False) -> None:
        super().__init__(name=f"client-{seed}", daemon=True)
        self.acknowledged_spans = 0
        self.resent_requests = 0
        self.failure: BaseException | None = None
        self._aggregator = aggregator
        self._rng = random.Random(f"client {seed}")
        self._load = Load(seed, oracle, everything=everything)
        self._pause_max_s = 0.3 if everything else 0.05
        self._old: list[Span] = []
        self._given_up: list[Span] = []
        self._finishing = threading.Event()

    def finish(self, timeout_s: float) -> None:
        """Have everything under way acknowledged, send nothing new, and raise what went wrong, if anything did."""
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
            with GrpcClient(self._aggregator.grpc_port) as client, ThreadPoolExecutor(2) as pool:
                while not self._finishing.is_set():
                    self._deliver(client, pool, self._next_spans())
                    time.sleep(self._rng.uniform(0.0, self._pause_max_s))
                if self._given_up:
                    self._deliver(client, pool, [])
        except BaseException as error:
            self.failure = error

    def _next_spans(self) -> list[Span]:
        spans = self._load.spans(self._rng.randint(1, 30))
        if self._old and self._rng.random() < 0.3:
            spans += self._load.resent(self._rng.sample(self._old, min(len(self._old), self._rng.randint(1, 20))))
            self._rng.shuffle(spans)
        return spans

    def _deliver(self, client: GrpcClient, pool: ThreadPoolExecutor, spans: list[Span]) -> None:
        spans, self._given_up = self._given_up + spans, []
        payload = otlp.traces(*spans).SerializeToString()
        rng = self._rng
        # A sender that stops waiting too early cannot know whether the request was taken.
        timeout_s = 0.01 if rng.random() < 0.1 else 10.0
        copies = 2 if rng.random() < 0.1 else 1
        send = self._post if rng.random() < 0.2 else self._export
        while not any(list(pool.map(partial(send, client, payload), [timeout_s] * copies))):
            self.resent_requests += 1
            timeout_s = 10.0
            if rng.random() < 0.2 and not self._finishing.is_set():
                self._given_up = spans
                return
            time.sleep(rng.uniform(0.02, 0.3))
        self.acknowledged_spans += len(spans)
        self._old = (self._old + spans)[-5_000:]

    def _export(self, client: GrpcClient, payload: bytes, timeout_s: float) -> bool:
        try:
            client.export(payload, timeout_s=timeout_s)
        except grpc.RpcError as error:
            if error.code() not in _RETRYABLE:  # type: ignore[attr-defined]
                raise
            return False
        return True

    def _post(self, _: GrpcClient, payload: bytes, timeout_s: float) -> bool:
        try:
            response = post(self._aggregator.http_endpoint, payload, compress=True, timeout_s=timeout_s)
        except httpx.TransportError:
            return False
        if response.status_code not in (200, 429, 502, 503, 504):
            raise AssertionError(f"{response.status_code} {response.text}")
        return response.is_success


def new_seed() -> str:
    """The seed of a run: from OTEL_CREDITS_TEST_SEED, else a new one; printed, so that the run can be repeated."""
    seed = os.environ.get(SEED_VARIABLE) or str(random.SystemRandom().randrange(10**6))
    print(f"{SEED_VARIABLE}={seed}")
    return seed


@contextmanager
def sending(
    aggregator: AggregatorProcess, seed: str, oracle: Oracle, clients: int, *, answered_within_s: float | None = 90.0
) -> Iterator[list[ResendingClient]]:
    """Clients that send everything inside the block; after it, everything they sent is acknowledged.

    The block begins when each of them was answered once; at once, with None for `answered_within_s`.
    """
    started = [ResendingClient(aggregator, f"{seed}/{number}", oracle, everything=True) for number in range(clients)]
    for client in started:
        client.start()
    try:
        if answered_within_s is not None:
            _wait_until_answered(started, answered_within_s)
        yield started
    except BaseException:
        for client in started:
            client.abandon()
        raise
    for client in started:
        client.finish(timeout_s=180)


def _wait_until_answered(clients: list[ResendingClient], timeout_s: float) -> None:
    wait_until(lambda: all(client.acknowledged_spans for client in clients), timeout_s, "every client was answered")


def set_late_price(aggregator: AggregatorProcess) -> None:
    """Prices what had none, and waits until all of it is charged."""
    price = {"action_type": UNPRICED_ACTION, "unit": "call", "credits_per_unit": str(LATE_PRICE), "source": "test"}
    aggregator.request("POST", "/api/v1/prices", json=price)
    wait_until(lambda: not quarantined(aggregator, "unpriced"), 120, "everything unpriced is charged")


def quarantined(aggregator: AggregatorProcess, reason: str) -> int:
    """How many spans are quarantined for that reason."""
    return int(aggregator.metrics().get(f'otel_credits_spans_quarantined_total{{reason="{reason}"}}', 0))


def assign_unnamed(aggregator: AggregatorProcess) -> None:
    """Has usage that names nobody paid."""
    assignment = {"user_id": ASSIGNED_TO, "comment": "test"}
    aggregator.request("POST", "/api/v1/quarantine/assign", params={"reason": UNNAMED}, json=assignment)


def discard_broken(aggregator: AggregatorProcess) -> None:
    """Takes out what can never be charged."""
    aggregator.request("POST", "/api/v1/quarantine/discard", params={"reason": BROKEN}, json={"comment": "test"})


def decide_the_rest(aggregator: AggregatorProcess) -> None:
    """Assigns and discards what is left, and asserts that each decision of the run is recorded and counted once."""
    assign_unnamed(aggregator)
    discard_broken(aggregator)
    settle(aggregator)
    assert [quarantined(aggregator, reason) for reason in (UNNAMED, BROKEN)] == [0, 0]
    decided = aggregator.sql(
        "SELECT decision, sum(items) AS items, count() - uniqExact(quarantine_id) AS repeated"
        " FROM quarantine_decisions GROUP BY decision ORDER BY decision"
    )
    assert [(one["decision"], one["repeated"]) for one in decided] == [("assigned", 0), ("discarded", 0)]
    assert decided[1]["items"] == quarantined(aggregator, "discarded")


def assert_nothing_lost_or_doubled(
    aggregator: AggregatorProcess, oracle: Oracle, sent: list[ResendingClient]
) -> Accounting:
    """Every credit is exact, and every span that was acknowledged is accounted for."""
    aggregator.wait_ready()
    settle(aggregator)
    set_late_price(aggregator)
    decide_the_rest(aggregator)
    sums = settle(aggregator)
    print(f"{sums}, {sum(client.resent_requests for client in sent)} requests sent again")
    assert sums.charged == oracle.usages
    assert sums.received >= sum(client.acknowledged_spans for client in sent)
    assert_exact(aggregator, oracle.credits)
    return sums
