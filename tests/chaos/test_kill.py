"""Promises 1 and 2 under SIGKILL: the aggregator, with the store inside it, dies at random moments under load."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.accounting import Accounting, assert_exact, settle
from support.chaos import Oracle, ResendingClient
from support.processes import AggregatorProcess, accepts_connections, wait_until

CLIENTS = 4
SEED_VARIABLE = "OTEL_CREDITS_TEST_SEED"
# Small batches, so that many inserts and not few are there to be cut off.
SETTINGS = {"OTEL_CREDITS_BATCH_INTERVAL_S": "0.05"}


def new_seed() -> str:
    """The seed of a run, printed so that the run can be repeated."""
    seed = os.environ.get(SEED_VARIABLE) or str(random.SystemRandom().randrange(10**6))
    print(f"{SEED_VARIABLE}={seed}")
    return seed


@contextmanager
def clients(aggregator: AggregatorProcess, seed: str, oracle: Oracle) -> Iterator[list[ResendingClient]]:
    """Clients that send inside the block; after it, everything they sent is acknowledged."""
    started = [ResendingClient(aggregator.grpc_port, f"{seed}/{number}", oracle) for number in range(CLIENTS)]
    for client in started:
        client.start()
    yield started
    for client in started:
        client.finish(timeout_s=60)


def kill_at_a_random_moment(aggregator: AggregatorProcess, rng: random.Random) -> None:
    """Kill it, most often while it receives, sometimes while it starts; and start it again."""
    if rng.random() < 0.75:
        aggregator.wait_for(lambda: accepts_connections(aggregator.grpc_port), 60, "it listens")
    time.sleep(rng.uniform(0.0, 1.5))
    aggregator.kill()
    aggregator.start()


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


def run(data_dir: Path, kills: int) -> None:
    seed = new_seed()
    oracle, rng = Oracle(), random.Random(seed)
    aggregator = AggregatorProcess(data_dir, SETTINGS)
    with aggregator:
        with clients(aggregator, seed, oracle) as sent:
            wait_until(lambda: all(client.acknowledged_spans for client in sent), 30, "every client was answered")
            for _ in range(kills):
                kill_at_a_random_moment(aggregator, rng)
        sums = assert_nothing_lost_or_doubled(aggregator, oracle, sent)
        assert sums.duplicate > 0
        assert sums.quarantined > 0


def test_thirty_kills_lose_and_double_nothing(tmp_path: Path) -> None:
    """Killed 30 times at random moments under load with resending clients, every user's credits are exact at the end."""
    run(tmp_path, kills=30)


@pytest.mark.long
@pytest.mark.timeout(3_000)
def test_many_kills_lose_and_double_nothing(tmp_path: Path) -> None:
    """The same with 400 kills."""
    run(tmp_path, kills=400)
