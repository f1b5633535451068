"""A Collector in front of an aggregator that asks for tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import grpc
import pytest
from support.accounting import charges, settle
from support.collector import CONFIG, CollectorProcess
from support.collector_traffic import send, usage_span
from support.command import made
from support.processes import AggregatorProcess, wait_until

pytestmark = [pytest.mark.collector, pytest.mark.timeout(1800)]

SEEN_TIMEOUT_S = 120.0
# What docs/operating.md says to add.
WITH_TOKEN = """
exporters:
  otlp_grpc/credits:
    headers: {authorization: "Bearer ${env:CREDITS_TOKEN}"}
  otlp_grpc/credits_metrics:
    headers: {authorization: "Bearer ${env:CREDITS_TOKEN}"}
"""


@dataclass
class Guarded:
    """An aggregator that asks for tokens, and one that it takes."""

    aggregator: AggregatorProcess
    ingest: str
    folder: Path

    def collector(self, token: str) -> CollectorProcess:
        """A Collector that shows a token."""
        overlay = self.folder / "token.yaml"
        overlay.write_text(WITH_TOKEN, "utf-8")
        address = f"127.0.0.1:{self.aggregator.grpc_port}"
        return CollectorProcess(self.folder, address, {"CREDITS_TOKEN": token}, configs=(CONFIG, overlay))


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Guarded]:
    data = tmp_path / "aggregator"
    data.mkdir()
    ingest, admin = (made(data, role, "--role", role) for role in ("ingest", "admin"))
    with AggregatorProcess(data, token=admin) as aggregator:
        yield Guarded(aggregator, ingest, tmp_path)


def test_a_collector_shows_its_token(guarded: Guarded) -> None:
    """With an ingest token in its two exporters, what goes through the Collector is charged; the token is in no log."""
    with guarded.collector(guarded.ingest) as collector:
        assert send(collector.grpc_port, [usage_span("ada") for _ in range(20)]) is grpc.StatusCode.OK
        wait_until(lambda: settle(guarded.aggregator).charged == 20, SEEN_TIMEOUT_S, "all of it is charged")
        assert charges(guarded.aggregator) == {"ada": Decimal("0.02")}
        assert guarded.ingest not in collector.output()
        assert guarded.ingest not in guarded.aggregator.output()


def test_a_collector_with_a_wrong_token_says_so(guarded: Guarded) -> None:
    """Nothing is charged, and the Collector counts what was refused and logs why: it gives that up, as OTLP says."""
    with guarded.collector("no-token-of-ours") as collector:
        assert send(collector.grpc_port, [usage_span("ada") for _ in range(20)]) is grpc.StatusCode.OK
        refused = "otelcol_exporter_send_failed_spans"
        wait_until(
            lambda: (
                collector.metric(refused, exporter="otlp_grpc/credits") >= 20
                or collector.metric(f"{refused}_total", exporter="otlp_grpc/credits") >= 20
            ),
            SEEN_TIMEOUT_S,
            "the Collector counts them",
        )
        assert "Unauthenticated" in collector.output()
    assert settle(guarded.aggregator).received == 0
