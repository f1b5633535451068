"""Promises 1 and 2 under SIGKILL: the aggregator, with the store inside it, dies at random moments under load."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from support.chaos import Oracle, assert_nothing_lost_or_doubled, new_seed, sending
from support.processes import AggregatorProcess, accepts_connections
from support.samples import others_long

CLIENTS = 4
# Small batches, so that many inserts and not few are there to be cut off.
SETTINGS = {"OTEL_CREDITS_INSERT_INTERVAL_S": "0.05"}


def kill_at_a_random_moment(aggregator: AggregatorProcess, rng: random.Random) -> None:
    """Kill it, most often while it receives, sometimes while it starts; and start it again."""
    if rng.random() < 0.75:
        aggregator.wait_for(lambda: accepts_connections(aggregator.grpc_port), 60, "it listens")
    time.sleep(rng.uniform(0.0, 1.2))
    aggregator.kill()
    aggregator.start()


def kill_often(data_dir: Path, kills: int) -> None:
    seed, oracle = new_seed(), Oracle()
    rng = random.Random(seed)
    elsewhere = data_dir / "elsewhere"
    elsewhere.mkdir()
    settings = {**SETTINGS, "TMPDIR": str(elsewhere)}
    with AggregatorProcess(data_dir / "data", settings, migrates=True) as aggregator:
        with sending(aggregator, seed, oracle, CLIENTS) as sent:
            for _ in range(kills):
                kill_at_a_random_moment(aggregator, rng)
        sums = assert_nothing_lost_or_doubled(aggregator, oracle, sent)
        assert sums.duplicate > 0
        assert sums.quarantined > 0
        assert aggregator.terminate() == 0
    # What the store was given is nowhere but in the data folder, whatever moment it was killed at.
    assert [*elsewhere.iterdir(), *(data_dir / "data" / "tmp").iterdir()] == []


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kills", others_long([8, 30], short=[8]))
def test_kills_lose_and_double_nothing(tmp_path: Path, kills: int) -> None:
    """Killed 30 times at random moments under load with resending clients, every user's credits are exact."""
    kill_often(tmp_path, kills=kills)
