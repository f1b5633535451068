"""Two aggregators on one store, and the same spans for both: exact where they do not come in the same moment."""

from __future__ import annotations

import random
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

from support import otlp_build as otlp
from support.accounting import assert_exact, settle
from support.chaos import new_seed
from support.clickhouse_http import ClickHouseHttp
from support.otlp_clients import GrpcClient
from support.processes import AggregatorProcess

ROUNDS, SPANS = 6, 50


def requests(rng: random.Random) -> Iterator[bytes]:
    for _ in range(ROUNDS):
        spans = [otlp.usage_span({otlp.AMOUNT: "0.3"}, trace_id=rng.randbytes(16)) for _ in range(SPANS)]
        yield otlp.traces(*spans).SerializeToString()


def test_copies_that_reach_another_aggregator_later_are_charged_once(tmp_path: Path) -> None:
    """Sent to one aggregator and then to the other, now in this order and now in that, a span is charged once."""
    rng = random.Random(new_seed())
    with ClickHouseHttp(tmp_path / "store") as store:
        settings = {"OTEL_CREDITS_STORE": store.dsn(), "OTEL_CREDITS_INSERT_INTERVAL_S": "0.02"}
        with (
            AggregatorProcess(tmp_path / "one", settings, name="one") as one,
            AggregatorProcess(tmp_path / "other", settings, name="other") as other,
        ):
            for payload in requests(rng):
                for aggregator in rng.sample((one, other), 2):
                    with GrpcClient(aggregator.grpc_port) as client:
                        client.export(payload)
                    settle(aggregator)
            sums = [settle(aggregator) for aggregator in (one, other)]
            assert sum(each.charged for each in sums) == sum(each.duplicate for each in sums) == ROUNDS * SPANS
            assert_exact(one, {"someone": ROUNDS * SPANS * Decimal("0.3")})
