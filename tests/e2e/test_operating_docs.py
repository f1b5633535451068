"""docs/operating.md says what is so: its tables are made from the settings, its metrics exist, its backup restores."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import grpc
from support.collector_traffic import send, usage_span
from support.processes import AggregatorProcess, wait_until
from support.settings_table import DOCUMENT, collector_defaults, collector_table, with_tables

CHARGED_TIMEOUT_S = 60.0


def test_the_tables_of_settings_are_up_to_date() -> None:
    """A setting that is added, renamed or changed appears in the document (`python -m support.settings_table`)."""
    document = DOCUMENT.read_text("utf-8")
    assert document == with_tables(document)


def test_the_collector_lists_its_settings_with_their_defaults() -> None:
    """Every variable that otel-collector.yaml reads is listed at its top, with the default that it uses."""
    listed = dict(re.findall(r"^\| `(COLLECTOR_\w+)` \| `([^`]*)` \|", collector_table(), re.MULTILINE))
    assert {name: {default} for name, default in listed.items()} == collector_defaults()


def test_a_copy_of_a_stopped_folder_is_a_backup(tmp_path: Path) -> None:
    """The folder of a stopped aggregator, copied and started elsewhere, has the same balances; the metrics exist."""
    with AggregatorProcess(tmp_path / "data", migrates=True) as aggregator:
        spans = [usage_span("saved", amount="0.25") for _ in range(8)] + [usage_span("")]
        assert send(aggregator.grpc_port, spans) is grpc.StatusCode.OK
        wait_until(lambda: consumed(aggregator) == ["2"], CHARGED_TIMEOUT_S, "the usages are charged")
        exposed = {series.partition("{")[0] for series in aggregator.metrics()}
        assert aggregator.terminate(timeout_s=60) == 0
    documented = set(re.findall(r"`(otel_credits_\w+)`", DOCUMENT.read_text("utf-8")))
    # A family by reason shows itself with its first case.
    assert documented - exposed <= {"otel_credits_requests_refused_total"}
    shutil.copytree(tmp_path / "data", tmp_path / "copy", symlinks=True)
    shutil.rmtree(tmp_path / "data")
    with AggregatorProcess(tmp_path / "copy") as restored:
        assert consumed(restored) == ["2"]


def consumed(aggregator: AggregatorProcess) -> list[str]:
    """What the balance of the user says was used, if there is one."""
    query = "SELECT toString(lifetime_consumed) AS credits FROM user_credit_balances WHERE user_id = 'saved'"
    return [row["credits"] for row in aggregator.sql(query)]
