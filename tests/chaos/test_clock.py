"""Clocks that step by hours, spans days late and early, a month's end within a batch: nothing is lost, doubled or misplaced."""

from __future__ import annotations

import os
import random
import time
from collections import defaultdict
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from support import otlp_build as otlp
from support.accounting import assert_exact, settle
from support.chaos import new_seed
from support.clickhouse_http import ClickHouseHttp
from support.otlp_clients import GrpcClient
from support.processes import AggregatorProcess

LIBFAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), Path("libfaketime is missing"))
HOUR_NS = 3_600 * 10**9
STEPS = ("+0", "-7h", "+0", "+11h", "-2h", "+0")
MONTH_END_NS = int(datetime(2026, 3, 1, tzinfo=UTC).timestamp()) * 10**9


def usage(rng: random.Random, end_ns: int, months: dict[str, Decimal]) -> Span:
    """A usage that ends then; its credits are added to what its month must have."""
    credits = Decimal(rng.randrange(1, 10**9)).scaleb(-9)
    months[f"{datetime.fromtimestamp(end_ns // 10**9, UTC):%Y-%m-01}"] += credits
    attributes = {otlp.AMOUNT: f"{credits:f}"}
    return otlp.usage_span(attributes, trace_id=rng.randbytes(16), span_id=rng.randbytes(8), end_ns=end_ns)


def batch(rng: random.Random, months: dict[str, Decimal]) -> list[Span]:
    """Usages of now, of days ago, of days to come, and of both sides of a month's end, to the microsecond."""
    now = time.time_ns()
    ends = [now + hours * HOUR_NS for hours in (0, -1, -30, -24 * 40, 5, 48)]
    ends += [MONTH_END_NS - 1_000, MONTH_END_NS, MONTH_END_NS + 1_000]
    return [usage(rng, end_ns, months) for end_ns in ends]


def assert_months(aggregator: AggregatorProcess, months: dict[str, Decimal]) -> None:
    query = "SELECT toString(month) AS month, sum(credits_consumed) AS credits FROM credit_monthly_usage GROUP BY month"
    assert {row["month"]: Decimal(row["credits"]) for row in aggregator.sql(query)} == months


@pytest.mark.skipif(
    not LIBFAKETIME.exists() and not os.environ.get("CI"), reason="needs libfaketime (apt-get install faketime)"
)
def test_a_clock_that_steps_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """While the aggregator's clock steps by hours, each usage is charged once, resent or not, in the month it ended in."""
    rng, months = random.Random(new_seed()), defaultdict[str, Decimal](Decimal)
    step = tmp_path / "step"
    step.write_text(STEPS[0])
    faked = {
        "LD_PRELOAD": str(LIBFAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(step),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    with ClickHouseHttp(tmp_path / "store", migrated=True) as store:
        settings = {"OTEL_CREDITS_STORE": store.dsn(), "OTEL_CREDITS_STORE_RETRY_MAX_S": "0.2", **faked}
        with AggregatorProcess(tmp_path / "data", settings) as aggregator, GrpcClient(aggregator.grpc_port) as client:
            sent: list[Span] = []
            for offset in STEPS:
                step.write_text(offset)
                sent += batch(rng, months)
                # All so far again, so that copies meet their originals across each step.
                client.export(otlp.traces(*sent).SerializeToString())
                settle(aggregator)
            hours = "SELECT uniqExact(toStartOfHour(received_at)) AS hours FROM credit_usage_events"
            assert aggregator.sql(hours)[0]["hours"] >= 3
            sums = settle(aggregator)
            assert sums.charged == len(sent)
            assert sums.duplicate == sums.received - len(sent) > 0
            assert_months(aggregator, months)
            assert_exact(aggregator, {"someone": sum(months.values(), Decimal(0))})
            assert aggregator.terminate() == 0
