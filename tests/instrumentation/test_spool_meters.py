"""What meters counted in the spool on disk: it outlives its process, and is charged once."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import textwrap
from collections import defaultdict
from collections.abc import Callable, Sequence
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.metrics.v1.metrics_pb2 import NumberDataPoint
from opentelemetry.sdk.resources import Resource
from otel_credits import _runtime, _spool_queue, configure, credits_meter, flush, shutdown, stats
from otel_credits._meter_export import MeterExport
from otel_credits._meter_open import OpenInterval
from otel_credits._meter_points import Point, exact_parts
from otel_credits._meter_shards import Series
from otel_credits._spool_points import StoredPoint, request_of_points
from support.otlp_points import identities
from support.otlp_sink import OtlpSink
from support.processes import free_port, wait_until

Configured = Callable[..., OtlpSink]
WHEN_ASKED = {"meter_interval_s": 3600, "counters_interval_s": 0, "export_interval_s": 0.01}

# Adds for some users, waits until the spool has all of it (read by a connection of its own), and is killed.
APP = """
    import os, pathlib, signal, sqlite3, time
    from decimal import Decimal
    from otel_credits import credits_meter, track_compute_usage
    from opentelemetry.proto.metrics.v1.metrics_pb2 import NumberDataPoint
    folder = pathlib.Path(os.environ["OTEL_CREDITS_SPOOL_DIR"])
    before = set(folder.glob("*.usage"))
    def stored():
        total = Decimal(0)
        for path in set(folder.glob("*.usage")) - before:
            with sqlite3.connect(path) as reader:
                for (raw,) in reader.execute("SELECT point FROM meter_point"):
                    point = NumberDataPoint.FromString(raw)
                    total += Decimal(repr(getattr(point, point.WhichOneof("value"))))
        return total
    meter, added = credits_meter("storage", unit="byte"), Decimal(0)
    if "SPAN" in os.environ:
        track_compute_usage("span", "a", credits=1)
    for turn in range(20):
        for number in range(30):
            meter.add(number + 1, user_id=f"user-{number}")
            meter.add("0.000000000001", user_id=f"user-{number}")
            added += number + 1 + Decimal("0.000000000001")
        time.sleep(0.02)
    deadline = time.monotonic() + 60
    while stored() != added and time.monotonic() < deadline:
        time.sleep(0.01)
    print(added, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
ADDED_EACH = {f"user-{number}": 20 * (number + 1 + Decimal("1e-12")) for number in range(30)}


@pytest.fixture(autouse=True)
def look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for files of dead processes at every interval."""
    monkeypatch.setattr(_spool_queue, "_LOOK_FOR_LEFT_FILES_EVERY_S", 0.05)


def killed_app(spool: Path, endpoint: str, **env: str) -> None:
    """Run the app until it kills itself with everything in the spool."""
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("OTEL_")},
        "OTEL_CREDITS_ENDPOINT": endpoint,
        "OTEL_CREDITS_SPOOL_DIR": str(spool),
        "OTEL_CREDITS_CAPTURE_SPANS": "off",
        **env,
    }
    command = [sys.executable, "-c", textwrap.dedent(APP)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == -9, done.stderr
    assert Decimal(done.stdout) == sum(ADDED_EACH.values())


def charged(sink: OtlpSink) -> dict[str, Decimal]:
    """What each user pays for: a point that came several times counts once, and is the same each time."""
    sums: dict[str, Decimal] = defaultdict(Decimal)
    for identity, quantities in identities(sink.metrics).items():
        assert len(set(quantities)) == 1, (identity, quantities)
        sums[dict(identity.attributes)["user.id"]] += quantities[0]
    return dict(sums)


@pytest.mark.parametrize("interval_s", ["0.1", "3600"], ids=["many intervals", "within the first interval"])
def test_killed_twice_while_the_receiver_is_away(tmp_path: Path, interval_s: str) -> None:
    """The receiver is away; the app counts, is killed, started again and killed again; then the receiver is back.
    All that was in the spool arrives, as two processes counted it, and the folder is empty afterwards."""
    spool, port = tmp_path / "spool", free_port()
    for _ in range(2):
        killed_app(spool, f"http://127.0.0.1:{port}", OTEL_CREDITS_METER_INTERVAL_S=interval_s, SPAN="1")
    with OtlpSink(port=port) as sink:
        configure(sink.endpoint, capture_spans=False, spool_dir=str(spool))
        wait_until(lambda: not list(spool.iterdir()), 60, "an empty folder")
        assert charged(sink) == {user: 2 * added for user, added in ADDED_EACH.items()}
        assert len({identity.instance for identity in identities(sink.metrics)}) == 2
        assert len(sink.usages()) == 2


def test_points_that_a_killed_app_had_sent_already(sink: OtlpSink, tmp_path: Path) -> None:
    """A receiver that takes the points and answers with an error each time, an app that is killed meanwhile, and a next
    one that sends all of it again: each point is the same, however often it comes, and their sum is what was added."""
    sink.answer_with(grpc.StatusCode.UNAVAILABLE, store_before_failing=True)
    killed_app(tmp_path, sink.endpoint, OTEL_CREDITS_METER_INTERVAL_S="0.05")
    sent = set(identities(sink.metrics))
    assert sent
    sink.answer_with(None)
    configure(sink.endpoint, capture_spans=False, spool_dir=str(tmp_path))
    wait_until(lambda: not list(tmp_path.iterdir()), 60, "an empty folder")
    assert charged(sink) == ADDED_EACH
    assert any(len(identities(sink.metrics)[identity]) >= 2 for identity in sent), "something came twice"


def test_nothing_is_left_after_delivery(configured: Configured, tmp_path: Path) -> None:
    """What was acknowledged is deleted, while additions go on in the next interval."""
    sink = configured(**WHEN_ASKED, spool_dir=str(tmp_path))
    meter = credits_meter("storage")
    for _ in range(3):
        meter.add(1, user_id="alice")
        meter.add(2, user_id="bob")
        assert flush(60)
    assert charged(sink) == {"alice": 3, "bob": 6}
    assert shutdown(60)
    assert list(tmp_path.iterdir()) == []


def test_shutdown_leaves_it_on_disk(configured: Configured, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """At a shutdown with the receiver away, what was counted is not given up: it waits for the next start, also of the
    same process."""
    sink = configured(**WHEN_ASKED, spool_dir=str(tmp_path))
    sink.stop()
    meter = credits_meter("storage")
    meter.add(1, user_id="alice")
    assert not flush(0.3)
    meter.add("0.5", user_id="alice")
    meter.add(2, user_id="bob")
    assert shutdown(0.3) is False
    assert stats().failed == 0
    assert "3 usages wait in" in caplog.text
    sink.start()
    configured(**WHEN_ASKED, spool_dir=str(tmp_path))
    meter.add(1, user_id="alice")
    assert flush(60)
    assert charged(sink) == {"alice": Decimal("2.5"), "bob": 2}
    assert shutdown(60)
    assert list(tmp_path.iterdir()) == []


def test_a_long_outage_takes_the_room_of_the_series(configured: Configured, tmp_path: Path) -> None:
    """While the receiver is away the file has one point a series that waits, and one of what was added since."""
    sink = configured(spool_dir=str(tmp_path), meter_interval_s=0.01, export_interval_s=0.01, counters_interval_s=0)
    sink.answer_with(grpc.StatusCode.UNAVAILABLE)
    meter = credits_meter("storage")
    meter.add(1, user_id="alice")
    wait_until(lambda: bool(_meters().waiting()), 20, "a point waits")
    for turn in range(50):
        meter.add(1, user_id="alice")
        wait_until(lambda turn=turn: _stored(tmp_path) == turn + 2, 20, "it is written")  # type: ignore[misc]
        assert len(_points(tmp_path)) <= 2
    sink.answer_with(None)
    assert flush(60)
    assert charged(sink) == {"alice": 51}


def test_a_disk_that_fails_in_between(configured: Configured, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """When the disk takes no more, what is counted waits in memory and arrives; what is on disk was sent as it is
    there, so that nobody who finds it charges it again."""
    sink = configured(**WHEN_ASKED, spool_dir=str(tmp_path))
    meter = credits_meter("storage")
    meter.add(4, user_id="alice")
    assert flush(60)
    meter.add(1, user_id="alice")
    wait_until(lambda: _stored(tmp_path) == 1, 20, "it is written")
    queue = _runtime._pipeline.queue if _runtime._pipeline else None
    assert isinstance(queue, _spool_queue.SpoolQueue)
    assert queue._file is not None
    with queue.state:
        connection = queue._file._connection or queue._file._open()
        connection.execute("PRAGMA query_only = 1")  # every write fails, as on a disk that is read-only or full
    meter.add(10, user_id="alice")
    meter.add(5, user_id="bob")
    wait_until(lambda: "cannot be spooled" in caplog.text, 20, "the disk takes no more")
    assert flush(60)
    assert charged(sink) == {"alice": 15, "bob": 5}
    sink.metrics.append(request_of_points(_points(tmp_path)))
    assert charged(sink) == {"alice": 15, "bob": 5}, "whoever finds the file changes nothing"


def test_fork(configured: Configured, tmp_path: Path) -> None:
    """A forked child counts its own in a file of its own; the parent's stays the parent's."""
    sink = configured(**WHEN_ASKED, spool_dir=str(tmp_path))
    meter = credits_meter("storage")
    meter.add(4, user_id="parent")
    assert flush(60)
    meter.add(1, user_id="parent")
    wait_until(lambda: _stored(tmp_path) == 1, 20, "it is written")
    pid = os.fork()
    if pid == 0:
        meter.add(10, user_id="child")
        os._exit(0 if shutdown(20) else 1)
    meter.add(1, user_id="parent")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert flush(60)
    assert charged(sink) == {"parent": 6, "child": 10}


@settings(deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.sampled_from("abc"), st.integers(1, 3 * 10**27)),
            st.tuples(st.sampled_from(["write", "close", "restart"]), st.booleans()),
        ),
        max_size=40,
    )
)
def test_whatever_the_disk_does(steps: list[Any]) -> None:
    """Additions, writes and the ends of intervals in any order, with a disk that fails at any time: at each moment what
    was sent and what is on disk are points of which none contradicts another, whose intervals do not overlap, and which
    together are what was added, but for what the disk refused since."""
    disk = Disk()
    for step in steps:
        disk.do(*step)
        disk.check()


class Disk:
    """A disk, what was added, and what was sent."""

    def __init__(self) -> None:
        self.export = MeterExport.__new__(MeterExport)  # for its numbers and intervals; it has no pipeline here
        self.export._begin_table(0, 0)
        self.open = OpenInterval()
        self.resource = Resource({"service.name": "shop"})
        self.now = 0
        self.works = True
        self.is_told = True
        self.rows: dict[int, StoredPoint] = {}
        self.sent: list[Point] = []
        self.added: dict[Series, int] = defaultdict(int)

    def do(self, what: str, *details: Any) -> None:
        self.now += 1000
        if what == "add":
            series = Series("storage", details[0], "a", None)
            self.added[series] += details[1]
            self.open.add({series: details[1]})
            self.is_told = False
        else:
            self.works = details[0]
            if what == "restart":  # another resource: everything is written anew
                self.resource = Resource({"service.name": f"shop {self.now}"})
            self.open.write(self._make, self._write, self.resource)
            self.is_told = self.is_told or self.works
            if what == "close":
                points = self.open.close(self._make)
                self.sent += points
                self.export._ends_ns.update({point.series: point.end_ns for point in points})

    def _make(self, series: Series, scaled: int) -> list[Point]:
        return self.export._points(self.now, self.resource, series, scaled)

    def _write(self, points: Sequence[StoredPoint], gone: Sequence[int]) -> bool:
        if self.works:
            self.rows.update({point.row: point for point in points})
            for row in gone:
                del self.rows[row]
        return self.works

    def check(self) -> None:
        """What somebody who has both what was sent and the disk would charge."""
        known: dict[Series, dict[tuple[int, int], Decimal]] = defaultdict(dict)
        for point in self.sent:
            known[point.series][point.start_ns, point.end_ns] = Decimal(repr(point.value))
        for stored in self.rows.values():
            data = NumberDataPoint.FromString(stored.point)
            texts = {a.key: a.value.string_value for a in data.attributes}
            series = Series("storage", texts["user.id"], "a", None)
            interval = (data.start_time_unix_nano, data.time_unix_nano)
            quantity = Decimal(repr(getattr(data, data.WhichOneof("value") or "")))
            assert known[series].setdefault(interval, quantity) == quantity, "one identity is one number"
        for series, points in known.items():
            assert all(before[1] <= after[0] for before, after in pairwise(sorted(points)))
            charged = sum(int(quantity.scaleb(12)) for quantity in points.values())
            assert charged <= self.added[series]
            assert charged == self.added[series] or not self.is_told


def _meters() -> MeterExport:
    assert _runtime._pipeline is not None
    return _runtime._pipeline.meters


def _points(folder: Path) -> list[StoredPoint]:
    """The points in the files of the spool."""
    found: list[StoredPoint] = []
    for path in folder.glob("*.usage"):
        with sqlite3.connect(path) as reader:
            query = "SELECT p.id, resource_metrics, point FROM meter_point p JOIN meter_origin o ON o.id = p.origin"
            found += map(StoredPoint._make, reader.execute(query))
        reader.close()
    return found


def _stored(folder: Path) -> Decimal:
    """The sum of the points in the files of the spool."""
    try:
        stored = identities([request_of_points(_points(folder))])
    except sqlite3.Error:  # just being made
        return Decimal(-1)
    return sum((quantities[0] for quantities in stored.values()), Decimal(0))


def test_a_stored_point_is_the_point_that_was_sent(configured: Configured, tmp_path: Path) -> None:
    """A point from the disk has the identity and the number that it has when its own process sends it."""
    sink = configured(**WHEN_ASKED, spool_dir=str(tmp_path), service_name="shop")
    sink.answer_with(grpc.StatusCode.UNAVAILABLE, store_before_failing=True)
    meter = credits_meter("storage", unit="byte")
    for quantity in (10**15, 10**15, "0.000000000001", 7):
        meter.add(quantity, user_id="alice", action_type="upload")
    meter.add(3)
    assert not flush(1)
    stored = identities([request_of_points(_points(tmp_path))])
    sent = identities(sink.metrics[:1])
    assert stored == sent
    assert len(exact_parts((2 * 10**15 + 7) * 10**12 + 1)) == len(stored) - 1
