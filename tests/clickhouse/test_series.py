"""The intervals of a series of data points follow one another; where they do not, `reconcile --series` says so."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import NumberDataPoint
from otel_credits_aggregator.cli import app
from otel_credits_aggregator.ledger import LocalLedger, RemoteLedger, SeriesFault, _ranges
from otel_credits_aggregator.replay import ASSIGN, Selection, Treatment, quarantined_ids, replay_batch, run_replay
from support.api import running_api
from support.chain import Chain
from support.otlp_build import ACTION, AMOUNT, CUMULATIVE, SOME_TIME_NS, USER, attribute_list, metric, metrics, point
from support.processes import free_port
from typer.testing import CliRunner

MINUTE_NS = 60_000_000_000


def at(minute: float) -> int:
    return SOME_TIME_NS + int(minute * MINUTE_NS)


def interval(start: float, end: float, user: str | None = "ada", amount: str | None = "1") -> NumberDataPoint:
    """A point of one series a user, from one minute to another."""
    attributes = {ACTION: "sync", USER: user, AMOUNT: amount}
    kept = {key: value for key, value in attributes.items() if value is not None}
    return point(1, kept, start_ns=at(start), end_ns=at(end))


def sent_by(process: str, *points: NumberDataPoint, **form: int) -> ExportMetricsServiceRequest:
    request = metrics(metric(*points, **form))
    request.resource_metrics[0].resource.attributes.extend(attribute_list({"service.instance.id": process}))
    return request


@pytest.fixture
def dsn(chain: Chain) -> str:
    """The store of the chain."""
    return f"chdb://memory/{chain.client.command('SELECT currentDatabase()')}"


@pytest.fixture
def ledger(dsn: str) -> Iterator[LocalLedger]:
    with LocalLedger(dsn) as opened:
        yield opened


def faults(ledger: LocalLedger) -> list[tuple[str, str, float, float]]:
    """(fault, user, from, until) of each, in minutes."""
    return [
        (row.fault, row.user_id, (row.from_ns - at(0)) / MINUTE_NS, (row.until_ns - at(0)) / MINUTE_NS)
        for row in ledger.series_faults()
    ]


def test_intervals_that_follow_one_another(chain: Chain, ledger: LocalLedger) -> None:
    """A series without gap has no fault, however long an interval is, in one request or in several; nor has an empty ledger."""
    assert faults(ledger) == []
    chain.send(sent_by("a", interval(0, 1), interval(1, 2)), sent_by("a", interval(2, 90)))
    chain.send(sent_by("a", interval(90, 91), interval(91, 91.5)))
    assert faults(ledger) == []
    assert chain.outcomes() == {"charged": 5}
    chain.assert_sums_agree()


def test_a_lost_interval_is_a_gap(chain: Chain, ledger: LocalLedger) -> None:
    """A point that never came is one gap, with its times to the nanosecond, of its own series only."""
    lost = interval(3, 4)
    lost.start_time_unix_nano += 1
    chain.send(
        sent_by("a", interval(0, 3), interval(4, 5), interval(5, 6), *(interval(n, n + 1, "bob") for n in range(6)))
    )
    (fault,) = ledger.series_faults()
    assert (fault.fault, fault.from_ns, fault.until_ns) == ("gap", at(3), at(4))
    assert (fault.service_name, fault.user_id, fault.action_type) == ("test-service", "ada", "sync")
    assert fault.from_at == datetime.fromtimestamp(at(3) // 1000 / 1_000_000, UTC)
    assert (fault.until_at - fault.from_at).total_seconds() == 60
    chain.send(sent_by("a", lost))
    (fault,) = ledger.series_faults()
    assert (fault.fault, fault.from_ns, fault.until_ns) == ("gap", at(3), at(3) + 1)


def test_intervals_that_overlap(chain: Chain, ledger: LocalLedger) -> None:
    """An interval that begins before an earlier one ended is one overlap, of the time that both cover."""
    chain.send(sent_by("a", interval(0, 2), interval(1.5, 3), interval(3, 4)))
    assert faults(ledger) == [("overlap", "ada", 1.5, 2)]


def test_an_interval_within_another_makes_no_gap(chain: Chain, ledger: LocalLedger) -> None:
    """What lies within a longer interval overlaps it, and what follows the longer one follows it without a gap."""
    chain.send(sent_by("a", interval(0, 10), interval(2, 3), interval(10, 11), interval(12, 13)))
    assert faults(ledger) == [("overlap", "ada", 2, 3), ("gap", "ada", 11, 12)]


def test_old_intervals_can_be_forgotten(chain: Chain, ledger: LocalLedger) -> None:
    """Once all that ended before a moment is deleted, only the gaps and overlaps after it are told, and no charge changes."""
    chain.send(sent_by("a", interval(0, 1), interval(2, 3), interval(3, 4), interval(5, 6)))
    assert len(faults(ledger)) == 2
    chain.command(f"DELETE FROM usage_intervals WHERE end_ns < {at(2.5)}")
    assert faults(ledger) == [("gap", "ada", 4.0, 5.0)]
    assert len(chain.charges()) == 4
    chain.assert_sums_agree()


def test_the_same_interval_again_is_a_copy(chain: Chain, ledger: LocalLedger) -> None:
    """A point that is sent again, in its batch or in a later one, is neither gap nor overlap."""
    points = [interval(n, n + 1) for n in range(4)]
    chain.send(sent_by("a", *points, points[1]), sent_by("a", *points[2:]))
    for again in points:
        chain.send(sent_by("a", again))
    assert faults(ledger) == []
    assert chain.outcomes()["charged"] == 4
    chain.command("OPTIMIZE TABLE usage_intervals FINAL")
    assert chain.rows("SELECT count() AS n FROM usage_intervals") == [{"n": 4}]
    assert faults(ledger) == []


def test_a_restarted_process_starts_anew(chain: Chain, ledger: LocalLedger) -> None:
    """Two processes have two series: a pause between them is no gap, what they count at once no overlap."""
    chain.send(sent_by("a", interval(0, 1), interval(1, 2)), sent_by("b", interval(5, 6)), sent_by("c", interval(1, 6)))
    assert faults(ledger) == []


def test_the_order_of_arrival_does_not_matter(chain: Chain, ledger: LocalLedger) -> None:
    """While a point is on its way there is a gap; when all have arrived, in whatever order, there is none."""
    points = [interval(n, n + 1) for n in range(8)]
    shuffled = random.Random(7).sample(points[1:-1], 6)
    chain.send(sent_by("a", points[-1]))
    chain.send(sent_by("a", points[0]))
    assert faults(ledger) == [("gap", "ada", 1, 7)]
    for late in shuffled:
        chain.send(sent_by("a", late))
    assert faults(ledger) == []


def test_many_series_are_looked_at_range_by_range(
    chain: Chain, ledger: LocalLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the series are cut into ranges, each fault is found once, and the first of them are the earliest of all."""
    gaps = [
        point_ for n in range(20) for point_ in (interval(n, n + 1, f"user-{n}"), interval(n + 2, n + 3, f"user-{n}"))
    ]
    chain.send(sent_by("a", *gaps))
    expected = [("gap", f"user-{n}", n + 1, n + 2) for n in range(20)]
    for rows in (1, 2, 3, 7, 39, 40, 41):
        monkeypatch.setattr(_ranges, "_RANGE_ROWS_MAX", rows)
        assert faults(ledger) == expected
        assert [fault.user_id for fault in ledger.series_faults(3)] == ["user-0", "user-1", "user-2"]


def test_what_waits_in_the_quarantine_has_arrived(chain: Chain, ledger: LocalLedger) -> None:
    """A point that cannot be charged is no gap, before it is treated and after."""
    priceless = [interval(n, n + 1, "ada", None) for n in range(3)]
    ownerless = [interval(n, n + 1, None) for n in range(3)]
    chain.send(sent_by("a", *priceless, *ownerless), default_user="")
    assert chain.reasons() == ["no_user"] * 3 + ["unpriced"] * 3
    assert faults(ledger) == []
    ids = quarantined_ids(chain.client, chain.spool.receiver, Selection(("no_user",)), Treatment(ASSIGN, "bob"))
    run_replay(chain.client, replay_batch(ids, Treatment(ASSIGN, "bob")))
    assert chain.outcomes() == {"charged": 3, "quarantined": 3}
    assert faults(ledger) == []
    chain.send(sent_by("a", interval(4, 5, None)), default_user="")
    assert [fault[0] for fault in faults(ledger)] == ["gap"]


def test_what_cannot_be_compared_is_not_judged(chain: Chain, ledger: LocalLedger) -> None:
    """Points without a start, with an odd one or an impossible end, and cumulative points say nothing of a series."""
    unknown = [interval(n, n + 1, "unknown") for n in (0, 5, 2)]
    for one in unknown:
        one.start_time_unix_nano = 0
    endless = interval(9, 10)
    endless.time_unix_nano = 2**64 - 1
    chain.send(
        sent_by("a", *unknown, interval(0, 1), endless, interval(8, 7)),
        sent_by("a", interval(0, 1, "eve"), interval(0, 2, "eve"), temporality=CUMULATIVE),
        sent_by("a", interval(1, 2)),
    )
    assert faults(ledger) == []
    assert chain.outcomes() == {"charged": 6, "quarantined": 3}


def test_the_command_and_the_api_show_them(chain: Chain, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`reconcile --series` ends with 1 if there is a gap or overlap, with 0 if there is none, and has them as JSON."""
    monkeypatch.delenv("OTEL_CREDITS_URL", raising=False)
    monkeypatch.setenv("OTEL_CREDITS_STORE", dsn)
    monkeypatch.setenv("OTEL_CREDITS_API_PORT", str(free_port()))
    monkeypatch.setenv("COLUMNS", "300")
    chain.send(sent_by("a", interval(0, 1), interval(1, 2)))
    clean = CliRunner().invoke(app, ["reconcile", "--series"])
    assert (clean.exit_code, clean.stdout.strip()) == (0, "the intervals of all series follow one another")
    chain.send(sent_by("a", interval(3, 4), interval(3.5, 5)))
    shown = CliRunner().invoke(app, ["reconcile", "--series"])
    assert (shown.exit_code, "1 gaps and 1 overlaps" in shown.stderr) == (1, True)
    assert "gap" in shown.stdout
    found = CliRunner().invoke(app, ["reconcile", "--series", "--json"])
    assert found.exit_code == 1
    rows = [SeriesFault.model_validate(row) for row in json.loads(found.stdout)]
    assert [(row.fault, row.from_ns, row.until_ns) for row in rows] == [
        ("gap", at(2), at(3)),
        ("overlap", at(3.5), at(4)),
    ]
    with running_api(dsn) as url, RemoteLedger(url) as remote:
        assert remote.series_faults() == rows
