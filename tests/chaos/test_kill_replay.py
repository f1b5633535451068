"""What waits for a price is charged once when the price comes, even if aggregator or store die within the replay."""

from __future__ import annotations

import random
import time
from decimal import Decimal
from pathlib import Path

import pytest
from support import plain_http
from support.accounting import assert_exact, settle
from support.chaos import new_seed
from support.clickhouse_http import ClickHouseHttp, Fault
from support.otlp_build import ACTION, AMOUNT, USER, traces, usage_span
from support.otlp_clients import post
from support.processes import AggregatorProcess, wait_until

USAGES = 40
ROUNDS = 6
SETTINGS = {"OTEL_CREDITS_RECHECK_INTERVAL_S": "0.2", "OTEL_CREDITS_STORE_RETRY_MAX_S": "0.2"}


def send_unpriced(aggregator: AggregatorProcess, action: str) -> None:
    """Usage of one user, `USAGES` times, that no price of the book is for."""
    spans = [usage_span({USER: action, ACTION: action, AMOUNT: None}) for _ in range(USAGES)]
    assert post(aggregator.http_endpoint, traces(*spans).SerializeToString()).is_success


def set_price(aggregator: AggregatorProcess, action: str) -> None:
    price = {"action_type": action, "model": "*", "unit": "call", "credits_per_unit": "0.125", "source": "test"}
    aggregator.request("POST", "/api/v1/prices", json=price)


def assert_all_charged(aggregator: AggregatorProcess, actions: list[str]) -> None:
    """Each usage was charged once, nothing is left in the quarantine, and the sum agrees."""
    wait_until(lambda: settle(aggregator).quarantined == 0, 60, "nothing is left in the quarantine")
    sums = settle(aggregator)
    assert sums.charged == sums.received == len(actions) * USAGES
    assert_exact(aggregator, {action: USAGES * Decimal("0.125") for action in actions})
    assert aggregator.sql("SELECT count() AS rows FROM credit_quarantine") == [{"rows": 0}]


@pytest.mark.long
def test_a_kill_within_a_replay_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """Killed at random moments after a price was set, the aggregator charges each waiting usage once."""
    rng = random.Random(new_seed())
    actions = [f"action_{number}" for number in range(ROUNDS)]
    with AggregatorProcess(tmp_path, SETTINGS) as aggregator:
        for action in actions:
            send_unpriced(aggregator, action)
            settle(aggregator)
            set_price(aggregator, action)
            time.sleep(rng.uniform(0.0, 0.4))
            aggregator.kill()
            aggregator.start()
            aggregator.wait_ready()
        assert_all_charged(aggregator, actions)


FAULTS = [
    Fault(action=action, when=when, on="query", times=1)
    for action in ("cut", "http_500", "die", "exception")
    for when in ("before", "after")
]


@pytest.mark.long
def test_a_store_that_fails_within_a_replay_charges_once(tmp_path: Path) -> None:
    """Whichever statement of a replay fails, or is applied and not answered, each waiting usage is charged once."""
    rng = random.Random(new_seed())
    actions = [f"action_{number}" for number in range(2 * len(FAULTS))]
    with ClickHouseHttp(tmp_path / "store", migrated=True) as store:
        settings = {**SETTINGS, "OTEL_CREDITS_STORE": store.dsn()}
        with AggregatorProcess(tmp_path / "data", settings) as aggregator:
            for action, fault in zip(actions, FAULTS * 2, strict=True):
                send_unpriced(aggregator, action)
                settle(aggregator)
                # The aggregator looks for new prices a few times a second. The price comes first: a store that was to die
                # could do so under it. The first few statements after it pass, so that the fault meets now this one, now that.
                insert_price(store, action)
                store.add_fault(Fault(action="delay", on="query", times=rng.randint(1, 6)))
                store.add_fault(fault)
                if fault.action == "die":
                    wait_until(lambda: not store.is_running, 90, "a statement has killed it")
                    store.restart()
                else:
                    wait_until(lambda: store.faults()[-1].hits, 90, "a statement has met the fault")
                    store.clear_faults()
            assert_all_charged(aggregator, actions)


def insert_price(store: ClickHouseHttp, action: str) -> None:
    """Behind the aggregator's back, as an insert, which the faults of queries leave alone."""
    body = f"('{action}', 0.125)".encode()
    query = "INSERT INTO credit_action_costs (action_type, credits_per_unit) VALUES"
    assert plain_http.post(store.url, params={"query": query}, content=body).is_success
