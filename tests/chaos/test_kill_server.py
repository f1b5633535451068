"""The same in server mode: the aggregator, the store, or both die at random moments under load, or the store fails."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from support.chaos import Oracle, assert_nothing_lost_or_doubled, new_seed, sending
from support.clickhouse_http import ClickHouseHttp, Fault
from support.processes import AggregatorProcess

CLIENTS = 3
SETTINGS = {"OTEL_CREDITS_INSERT_INTERVAL_S": "0.05", "OTEL_CREDITS_STORE_RETRY_MAX_S": "0.5"}
# What happens to an insert that leaves open whether the store has it.
UNCERTAIN = [
    Fault(action="cut", when="after", times=1),
    Fault(action="cut", when="during", times=1),
    Fault(action="http_500", when="after", times=1),
    Fault(action="hang", when="before", times=1),
    Fault(action="die", when="after", times=1),
    Fault(action="die", when="during", times=1),
]


def strike(store: ClickHouseHttp, aggregator: AggregatorProcess, rng: random.Random) -> None:
    """Kill one or both of them at a random moment, sometimes just when the store has become uncertain."""
    if rng.random() < 0.5 and store.is_running:
        store.add_fault(rng.choice(UNCERTAIN))
    time.sleep(rng.uniform(0.0, 1.2))
    victims = rng.choice(("aggregator", "store", "both"))
    if victims != "store":
        aggregator.kill()
    if victims != "aggregator" or not store.is_running:
        store.kill()
        store.start()
    if victims != "store":
        aggregator.start()
    store.wait_ready()
    store.clear_faults()
    time.sleep(rng.uniform(0.0, 0.6))


def strike_often(data_dir: Path, strikes: int) -> None:
    seed, oracle = new_seed(), Oracle()
    rng = random.Random(seed)
    with (
        ClickHouseHttp(data_dir / "store") as store,
        AggregatorProcess(data_dir / "data", {**SETTINGS, "OTEL_CREDITS_STORE": store.dsn()}) as aggregator,
    ):
        with sending(aggregator, seed, oracle, CLIENTS) as sent:
            for _ in range(strikes):
                strike(store, aggregator, rng)
        sums = assert_nothing_lost_or_doubled(aggregator, oracle, sent)
        assert sums.duplicate > 0
        assert aggregator.terminate() == 0


@pytest.mark.long
def test_kills_of_both_sides_lose_and_double_nothing(tmp_path: Path) -> None:
    """With aggregator and store killed 16 times, alone and together, every user's credits are exact at the end."""
    strike_often(tmp_path, strikes=16)
