"""Retried tasks and repeated calls with an idempotency key: from a real Celery worker to the ledger."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from support.accounting import settle
from support.processes import AggregatorProcess, Process, wait_until
from support.redis import redis_server

pytestmark = pytest.mark.redis
APPS = Path(__file__).parents[1] / "instrumentation" / "apps"
PATIENCE_S = 90


class Ledger:
    """A running worker, and the ledger that it is charged in."""

    def __init__(self, aggregator: AggregatorProcess, producer: Celery) -> None:
        self._aggregator = aggregator
        self._producer = producer

    def run(self, user: str, job: str, credits: str = "1") -> None:
        """Run the task, which records its usage in each of its three attempts, to its end."""
        self._producer.send_task("tasks_app.charged_once", (user, job, credits)).get(timeout=PATIENCE_S)

    def charges(self, user: str) -> list[Decimal]:
        """What the user was charged, once nothing is under way: a usage without a key, sent afterwards, is there."""
        marker = str(uuid.uuid4())
        self._producer.send_task("tasks_app.explicit", (marker,)).get(timeout=PATIENCE_S)
        wait_until(lambda: self._events(marker), PATIENCE_S, "the last usage is charged")
        # Until its insert is done: a charge shows before what the same insert puts into the quarantine.
        settle(self._aggregator)
        return [Decimal(row["credits_charged"]) for row in self._events(user)]

    def _events(self, user: str) -> list[dict[str, Any]]:
        return self._aggregator.sql(f"SELECT credits_charged FROM credit_usage_events WHERE user_id = '{user}'")

    def reasons(self, user: str) -> list[str]:
        """Why usages of the user are in quarantine."""
        rows = self._aggregator.sql(f"SELECT reason FROM credit_quarantine WHERE user_id = '{user}'")
        return [row["reason"] for row in rows]


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """Redis, an aggregator with an embedded store, and a prefork worker."""
    folder = tmp_path_factory.mktemp("idempotency")
    command = [sys.executable, "-m", "celery", "-A", "tasks_app", "worker", "--loglevel", "INFO", "-c", "2"]
    with redis_server(folder) as broker, AggregatorProcess(folder / "data") as aggregator:
        env = {
            "BROKER": broker,
            "OTEL_CREDITS_ENDPOINT": aggregator.grpc_endpoint,
            "PYTHONPATH": os.pathsep.join([str(APPS), os.environ.get("PYTHONPATH", "")]),
        }
        with Process("worker", command, log_dir=folder, env=env, cwd=folder) as worker:
            worker.wait_for(lambda: " ready." in worker.output(), PATIENCE_S, "the worker is ready")
            yield Ledger(aggregator, Celery(broker=broker, backend=broker))


def test_a_retried_task_charges_once(ledger: Ledger) -> None:
    """A task that is tried three times, and records its usage under one key each time, is charged once."""
    user = f"retried-{uuid.uuid4().hex}"
    ledger.run(user, job=user)
    assert ledger.charges(user) == [Decimal(1)]
    assert ledger.reasons(user) == []


def test_the_same_key_for_another_amount(ledger: Ledger) -> None:
    """The same key with another amount is neither charged nor ignored: the first stays charged, and the other is
    quarantined as a conflict, once however often it is tried."""
    user = f"conflict-{uuid.uuid4().hex}"
    ledger.run(user, job=user, credits="1")
    ledger.run(user, job=user, credits="2")
    assert ledger.charges(user) == [Decimal(1)]
    assert set(ledger.reasons(user)) == {"idempotency_conflict"}


def test_other_keys_are_other_charges(ledger: Ledger) -> None:
    """Two jobs of one user are two charges, each once."""
    user = f"two-{uuid.uuid4().hex}"
    ledger.run(user, job=f"{user}-a", credits="1")
    ledger.run(user, job=f"{user}-b", credits="2")
    assert sorted(ledger.charges(user)) == [Decimal(1), Decimal(2)]
