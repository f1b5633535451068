"""The spool on disk: usage that outlives its process."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import grpc
import pytest
from otel_credits import _runtime, _spool_queue, configure, flush, shutdown, stats, track_compute_usage
from otel_credits._spool import SpoolFile
from support.app_usage import record, users_of
from support.otlp_sink import OtlpSink
from support.processes import free_port, wait_until

Configured = Callable[..., OtlpSink]


@pytest.fixture(autouse=True)
def look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for files of dead processes at every interval."""
    monkeypatch.setattr(_spool_queue, "_LOOK_FOR_LEFT_FILES_EVERY_S", 0.05)


def app(code: str, spool: Path, endpoint: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run an app in an interpreter of its own."""
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("OTEL_")},
        "OTEL_CREDITS_ENDPOINT": endpoint,
        "OTEL_CREDITS_SPOOL_DIR": str(spool),
        "OTEL_CREDITS_CAPTURE_SPANS": "off",
        **env,
    }
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=env, capture_output=True, text=True, timeout=120, check=False
    )


KILLED = """
    import json, os, signal
    from otel_credits import stats, track_compute_usage
    for number in range({start}, {start} + {count}):
        track_compute_usage(f"user-{{number}}", "a", credits=1)
    print(json.dumps(stats().recorded), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_nothing_is_left_after_delivery(configured: Configured, tmp_path: Path) -> None:
    """With a spool usage arrives in order, numbered and counted as without, and the folder is empty afterwards."""
    sink = configured(spool_dir=str(tmp_path), service_name="shop")
    users = record(500)
    assert len(list(tmp_path.glob("*.usage"))) == 1
    assert flush(20)
    assert users_of(sink) == users
    assert [span.attributes["credits.seq"] for span in sink.usages()] == list(range(1, 501))
    assert {span.resource["service.name"] for span in sink.usages()} == {"shop"}
    assert (stats().recorded, stats().exported, stats().waiting) == (500, 500, 0)
    assert shutdown(60)
    assert list(tmp_path.iterdir()) == []


def test_an_hour_without_endpoint(tmp_path: Path) -> None:
    """The endpoint is away; the app records thousands of usages, is killed, started again, killed again, and started
    once more; then the endpoint is back. Nothing is lost and nothing arrives twice, the dead processes' span ids are
    all different, and their numbers have no gap."""
    spool = tmp_path / "spool"
    endpoint = f"http://127.0.0.1:{free_port()}"
    for start in (0, 3000):
        done = app(KILLED.format(start=start, count=3000), spool, endpoint)
        assert (done.returncode, json.loads(done.stdout)) == (-9, 3000), done.stderr
    with OtlpSink(port=int(endpoint.rpartition(":")[2])) as sink:
        last = """
            import time
            from otel_credits import configure, stats
            import pathlib, os
            configure()
            deadline = time.monotonic() + 60
            while list(pathlib.Path(os.environ["OTEL_CREDITS_SPOOL_DIR"]).iterdir()) and time.monotonic() < deadline:
                time.sleep(0.02)
            print(stats().recorded)
        """
        done = app(last, spool, endpoint)
        assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr
        assert sorted(users_of(sink)) == sorted(f"user-{number}" for number in range(6000))
        assert len({span.span_id for span in sink.usages()}) == 6000
        by_instance: dict[Any, list[int]] = {}
        for span in sink.usages():
            by_instance.setdefault(span.resource["service.instance.id"], []).append(span.attributes["credits.seq"])
        assert [sorted(numbers) for numbers in by_instance.values()] == [list(range(1, 3001))] * 2
    assert list(spool.iterdir()) == []


def test_killed_while_the_endpoint_is_there(sink: OtlpSink, tmp_path: Path) -> None:
    """A process that is killed in the middle of its work loses no usage: what it had not sent, the next one sends.
    What was sent and not yet deleted comes again with the same id."""
    working = """
        import os, signal, time
        from otel_credits import stats, track_compute_usage
        number = 0
        while number < 300 or stats().exported < 100:
            track_compute_usage(f"user-{number}", "a", credits=1)
            number += 1
            time.sleep(0.0005)
        track_compute_usage(f"user-{number}", "a", credits=1)
        print(number + 1, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = app(working, tmp_path, sink.endpoint, OTEL_CREDITS_EXPORT_INTERVAL_S="0.05")
    assert done.returncode == -9
    recorded = int(done.stdout)
    configure(sink.endpoint, capture_spans=False, spool_dir=str(tmp_path))
    wait_until(lambda: not list(tmp_path.iterdir()), 30, "an empty folder")
    ids = {span.span_id: span.attributes["user.id"] for span in sink.usages()}
    assert sorted(ids.values()) == sorted(f"user-{number}" for number in range(recorded))


def test_the_bound(configured: Configured, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """At the bound the newest usages are refused, counted and logged; those on disk arrive."""
    sink = configured(spool_dir=str(tmp_path), spool_bytes_max=3000)
    sink.answer_with(grpc.StatusCode.UNAVAILABLE)
    users = record(100)
    waiting = stats().waiting
    assert 5 < waiting < 50
    assert stats().failed_by_reason == {"queue_full": 100 - waiting}
    assert "NOT charged (queue_full)" in caplog.text
    sink.answer_with(None)
    flush(60)
    assert users_of(sink) == users[:waiting]
    record(1)
    assert flush(60), "there is room again"
    assert sink.usages()[-1].attributes["credits.seq"] == waiting + 1


def test_more_than_memory_would_hold(configured: Configured, tmp_path: Path) -> None:
    """What waits on disk is not bounded by the queue in memory."""
    sink = configured(spool_dir=str(tmp_path), queue_spans_max=10)
    sink.answer_with(grpc.StatusCode.UNAVAILABLE)
    users = record(200)
    assert stats().waiting == 200
    sink.answer_with(None)
    assert flush(60)
    assert users_of(sink) == users


def test_shutdown_leaves_it_on_disk(configured: Configured, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """At a shutdown with the endpoint away, usage is neither given up nor acknowledged: it waits for the next start,
    also of the same process."""
    sink = configured(spool_dir=str(tmp_path))
    sink.stop()
    users = record(4)
    assert shutdown(0.3) is False
    assert (stats().failed, stats().waiting) == (0, 4)
    assert "4 usages wait in" in caplog.text
    sink.start()
    configured(spool_dir=str(tmp_path))
    users += record(1, start=4)
    assert flush(20)
    assert users_of(sink) == users
    assert stats().exported == 5


def test_a_live_process_keeps_its_file(configured: Configured, tmp_path: Path) -> None:
    """A file whose process lives is not touched by another one; when the process is gone, it is sent."""
    owner = SpoolFile.create(tmp_path, "other")
    assert SpoolFile.claim(owner.path) is None
    owner.release()
    claimed = SpoolFile.claim(owner.path)
    assert claimed is not None
    claimed.release()
    configured(spool_dir=str(tmp_path))
    record(1)
    assert flush(60)
    wait_until(lambda: not owner.path.exists(), 10, "the empty file is gone")


def test_fork(configured: Configured, tmp_path: Path) -> None:
    """A forked child has a file of its own; the parent's stays the parent's, and is free when the parent is gone,
    though the child lives on."""
    sink = configured(spool_dir=str(tmp_path))
    sink.answer_with(grpc.StatusCode.UNAVAILABLE)
    record(3)
    parents = next(iter(tmp_path.glob("*.usage")))
    pid = os.fork()
    if pid == 0:
        alone = stats().waiting == 0 and SpoolFile.claim(parents) is None
        track_compute_usage("child", "a", credits=1)
        separate = len(list(tmp_path.glob("*.usage"))) == 2
        delivered = flush(30)
        os._exit(0 if alone and separate and delivered else 1)
    record(1, start=3)
    wait_until(lambda: len(sink.refused) >= 2, 10, "attempts")
    sink.answer_with(None)
    assert flush(20)
    assert os.waitpid(pid, 0)[1] == 0
    assert sorted(users_of(sink)) == ["child", *(f"user-{number}" for number in range(4))]
    assert len({span.span_id for span in sink.usages()}) == 5


def test_a_childs_life_does_not_hold_the_parents_file(tmp_path: Path) -> None:
    """When a parent is killed whose child lives on, the parent's file is free at once."""
    code = """
        import os, signal, sys, time
        from otel_credits import track_compute_usage
        track_compute_usage("parent", "a", credits=1)
        if os.fork() == 0:
            print("ready", flush=True)
            sys.stdout.close(); os.close(1); os.close(2)
            time.sleep(60)
        sys.stdin.readline()
    """
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("OTEL_")},
        "OTEL_CREDITS_ENDPOINT": f"http://127.0.0.1:{free_port()}",
        "OTEL_CREDITS_SPOOL_DIR": str(tmp_path),
    }
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        (path,) = tmp_path.glob("*.usage")
        assert SpoolFile.claim(path) is None
        process.kill()
        process.wait(60)
        claimed = SpoolFile.claim(path)
        assert claimed is not None
        assert len(claimed.read(10, 10_000)) == 1
        claimed.release()
    finally:
        os.killpg(process.pid, 9)
        process.wait(60)


def test_many_threads(configured: Configured, tmp_path: Path) -> None:
    """Usages of many threads at once are each on disk once, with numbers without a gap, while others are sent."""
    sink = configured(spool_dir=str(tmp_path), export_interval_s=0.01, batch_spans_max=50)
    threads = [Thread(target=record, args=(250, number * 250)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert flush(30)
    assert len(users_of(sink)) == len(set(users_of(sink))) == 2000
    assert sorted(span.attributes["credits.seq"] for span in sink.usages()) == list(range(1, 2001))


def test_a_disk_that_takes_nothing(configured: Configured, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where the folder cannot be written, usage waits in memory and arrives, and the log says so once."""
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    sink = configured(spool_dir=str(blocked))
    users = record(20)
    assert flush(60)
    assert users_of(sink) == users
    assert [span.attributes["credits.seq"] for span in sink.usages()] == list(range(1, 21))
    assert caplog.text.count("cannot be spooled") == 1


def test_a_disk_that_fails_in_between(configured: Configured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk fills up while usage waits, what follows waits behind it in memory; order and numbers hold."""
    sink = configured(spool_dir=str(tmp_path))
    sink.answer_with(grpc.StatusCode.UNAVAILABLE)
    users = record(5)
    queue = _runtime._pipeline.queue if _runtime._pipeline else None
    assert isinstance(queue, _spool_queue.SpoolQueue)
    assert queue._file is not None
    with queue.state:
        connection = queue._file._connection or queue._file._open()
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
    users += record(200, start=5)
    assert 0 < len(queue._inbox) + len(queue._held) < 200
    sink.answer_with(None)
    assert flush(60)
    assert users_of(sink) == users
    assert [span.attributes["credits.seq"] for span in sink.usages()] == list(range(1, 206))


def test_a_damaged_file_is_kept(configured: Configured, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A left file that cannot be read is kept under another name and logged, and stops nothing else."""
    (tmp_path / "broken.usage").write_bytes(b"this is no database" * 300)
    sink = configured(spool_dir=str(tmp_path))
    record(1)
    assert flush(60)
    wait_until(lambda: (tmp_path / "broken.usage.damaged").exists(), 10, "the file is set aside")
    assert "cannot be read and is NOT charged" in caplog.text
    record(1, start=1)
    assert flush(60)
    assert users_of(sink) == ["user-0", "user-1"]


def test_text_that_cannot_be_encoded(configured: Configured, tmp_path: Path) -> None:
    """Text that is not Unicode stops neither the queue nor its neighbours."""
    sink = configured(spool_dir=str(tmp_path))
    record(1)
    track_compute_usage("broken", "a\ud800", credits=1, description="\ud800")
    record(1, start=1)
    flush(60)
    assert [user for user in users_of(sink) if user != "broken"] == ["user-0", "user-1"]
    assert stats().waiting == 0


def test_others_cannot_read_it(configured: Configured, tmp_path: Path) -> None:
    """The files are readable by their owner alone."""
    sink = configured(spool_dir=str(tmp_path / "spool"))
    sink.answer_with(grpc.StatusCode.UNAVAILABLE)
    record(1)
    assert {path.stat().st_mode & 0o077 for path in (tmp_path / "spool").iterdir()} == {0}
    assert (tmp_path / "spool").stat().st_mode & 0o077 == 0


def test_neither_lock_nor_sync(configured: Configured, tmp_path: Path) -> None:
    """The file is written ahead and not synced by the tracking call: SQLite's own checkpoints are off."""
    sink = configured(spool_dir=str(tmp_path))
    sink.answer_with(grpc.StatusCode.UNAVAILABLE)
    record(1)
    (path,) = tmp_path.glob("*.usage")
    with sqlite3.connect(path) as reader:
        assert reader.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    reader.close()
    queue = _runtime._pipeline.queue if _runtime._pipeline else None
    assert isinstance(queue, _spool_queue.SpoolQueue)
    assert queue._file is not None
    with queue.state:
        assert queue._file._connection is not None
        assert queue._file._connection.execute("PRAGMA wal_autocheckpoint").fetchone() == (0,)
        assert queue._file._connection.execute("PRAGMA synchronous").fetchone() == (1,)
