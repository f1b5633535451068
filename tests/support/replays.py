"""Treating what waits in the quarantine as the inserter does, also by a process that is killed in between."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from otel_credits_aggregator.replay import Selection, Treatment, quarantined_ids, replay_batch, run_replay
from otel_credits_aggregator.spool import Batch

from support.chain import Chain
from support.otlp_build import AMOUNT, UNITS, USER, usage_span

__all__ = ["DyingClient", "Killed", "compose", "repeat_after", "replay_all", "set_price", "waiting"]


def set_price(chain: Chain, credits: str, unit: str) -> None:
    """Prices a unit for all time."""
    chain.command(
        "INSERT INTO credit_action_costs (unit, credits_per_unit, effective_from)"
        f" VALUES ('{unit}', {credits}, '1990-01-01')"
    )


AGAIN = Treatment()


def compose(chain: Chain, *reasons: str, user_id: str | None = None, treatment: Treatment = AGAIN) -> Batch:
    """Makes it durable that what matches is replayed (or treated otherwise) together."""
    selection = Selection(reasons, user_id)
    batch = replay_batch(quarantined_ids(chain.client, chain.spool.receiver, selection, treatment), treatment)
    chain.spool.compose(batch)
    return batch


def replay_all(chain: Chain, *reasons: str, user_id: str | None = None) -> int:
    """Replays what matches, as the inserter does; returns how many rows were tried."""
    batch = compose(chain, *reasons, user_id=user_id)
    run_replay(chain.client, batch)
    chain.spool.forget(batch)
    return len(json.loads(batch.fields)["ids"])


def waiting(number: int = 3, **attributes: Any) -> list[Span]:
    """Unpriced usages of different quantities of the unit `page`."""
    return [usage_span({AMOUNT: None, UNITS + "page": n + 1, USER: f"user-{n}", **attributes}) for n in range(number)]


class Killed(Exception):
    """The process ended here."""


class DyingClient:
    """A client whose process is killed before or after its n-th statement."""

    def __init__(self, chain: Chain, statements: int) -> None:
        self._client = chain.client
        self._left = statements

    def command(self, *args: Any, **options: Any) -> Any:
        return self._next(self._client.command, args, options)

    def raw_insert(self, *args: Any, **options: Any) -> Any:
        return self._next(self._client.raw_insert, args, options)

    def raw_query(self, *args: Any, **options: Any) -> bytes:
        return self._client.raw_query(*args, **options)

    def _next(self, statement: Callable[..., Any], args: Any, options: Any) -> Any:
        if self._left == 0:
            raise Killed
        self._left -= 1
        return statement(*args, **options)


def repeat_after(statements: int) -> Callable[[Chain, Any], None]:
    """A replay that is killed after so many of its statements, and repeated."""

    def run(chain: Chain, batch: Any) -> None:
        with pytest.raises(Killed):
            run_replay(DyingClient(chain, statements), batch)
        run_replay(chain.client, batch)

    return run
