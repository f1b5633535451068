"""Whatever the receivers let pass, the store takes and counts, or refuses in a way that the inserter knows."""

from __future__ import annotations

import random
import uuid

import pytest
from otel_credits_aggregator.batch_insert import is_permanent
from otel_credits_aggregator.independence import identities_of
from otel_credits_aggregator.otlp import Signal, item_count, parse
from otel_credits_aggregator.outcomes import BadRequest
from otel_credits_aggregator.spool import Batch
from otel_credits_aggregator.store import DatabaseError
from support.chain import Chain
from support.otlp_build import INPUT, metric, metrics, point, traces, usage_span
from support.otlp_mutations import mutated

pytest_plugins = ("support.chain",)

REQUESTS = 30


def an_odd_request(rng: random.Random) -> tuple[Signal, bytes]:
    """A request with one to three mutations."""
    if rng.random() < 0.7:
        odd_values = (
            {INPUT: 5},
            {"list": [1, "x"]},
            {"map": {"k": 1}},
            {"nothing": None},
            {"bytes": b"x", "yes": True},
        )
        signal, message = Signal.TRACES, traces(*(usage_span(rng.choice(odd_values)) for _ in range(rng.randint(1, 3))))
    else:
        signal, message = Signal.METRICS, metrics(metric(point(3, {"credits.unit": "x"}), point(1.5)))
    payload = message.SerializeToString()
    for _ in range(rng.randint(1, 3)):
        payload = mutated(payload, rng)
    return signal, payload


def insert(chain: Chain, signal: Signal, payload: bytes, items: int) -> bool:
    """Insert it as a batch of its own; False if the store refused it for what it is."""
    number = chain.spool.append(signal, payload, items).result()
    batch = Batch(str(uuid.uuid4()), signal, number, number, b"")
    try:
        chain.insert(batch)
    except DatabaseError as error:
        # Any other code would be tried again, for a while or for ever, with everything behind it waiting.
        if not is_permanent(error, attempt=2):
            error.add_note(payload.hex())
            raise
        return False
    finally:
        chain.spool.forget(batch)
    return True


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_odd_bytes_never_block_the_others(chain: Chain, seed: int) -> None:
    """A request that is almost OTLP is refused, or inserted with every item counted, or fails as the data's fault.

    And whatever of it is charged has the ids by which the aggregator tells it from others (independence.py).
    """
    rng = random.Random(seed)
    fates = {"refused": 0, "inserted": 0, "isolated": 0}
    counted, told = 0, set[int]()
    for _ in range(REQUESTS):
        signal, payload = an_odd_request(rng)
        try:
            request = parse(signal, payload)
        except BadRequest:
            fates["refused"] += 1
            continue
        items = item_count(signal, request)
        told.update(identities_of(signal, request, payload) or ())
        if items and insert(chain, signal, payload, items):
            fates["inserted"] += 1
            counted += items
        elif items:
            fates["isolated"] += 1
    assert sum(chain.outcomes().values()) == counted
    charged = chain.rows("SELECT span_id AS span FROM credit_usage_events WHERE trace_id != ''")
    assert charged
    assert {hash(bytes.fromhex(row["span"])) for row in charged} <= told
    assert all(fates.values()), fates
