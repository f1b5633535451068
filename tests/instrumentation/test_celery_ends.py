"""Every way in which a Celery worker or one of its children ends: as many usages recorded as received.

A real worker on a real Redis, and a real OTLP/gRPC receiver (`support.otlp_sink`). Where the export interval is an
hour, what arrives was delivered because a process ended, or was found on disk.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from uuid import uuid4

import pytest
from celery.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded
from support.otlp_sink import OtlpSink
from support.processes import Process, wait_until
from support.samples import others_long

pytestmark = pytest.mark.redis
Worker = Callable[..., "Process"]
NO_EXPORT = {"OTEL_CREDITS_EXPORT_INTERVAL_S": "3600", "OTEL_CREDITS_SHUTDOWN_TIMEOUT_S": "30"}
PATIENCE_S = 90


def run_twenty(tasks: ModuleType) -> list[str]:
    """Run 20 tasks to their end, and return their users."""
    users = [str(uuid4()) for _ in range(20)]
    for result in [tasks.explicit.delay(user) for user in users]:
        result.get(timeout=PATIENCE_S)
    return users


def wait_until_idle(tasks: ModuleType) -> None:
    """Wait until the worker's main process has taken every result from its children, and says so itself.

    A caller has a result before the worker has it. Celery 5.7 does the whole cold shutdown inside its signal handler
    (`on_cold_shutdown` in celery/apps/worker.py). If the signal comes while the main process counts a child's result, it
    waits in there for the end of the child, with the lock of that counter held (`on_ready` in billiard 4.3's pool.py), and
    the child waits for the lock (`_ensure_messages_consumed`) before it gets to its own end: the worker hangs.
    """
    inspect = tasks.app.control.inspect(timeout=1)
    wait_until(lambda: list((inspect.active() or {}).values()) == [[]], PATIENCE_S, "the worker has no active task")


def users_of(sink: OtlpSink) -> list[str]:
    """The users of all received usages, copies included."""
    return sorted(usage.attributes["user.id"] for usage in sink.usages())


def assert_complete(sink: OtlpSink, users: list[str]) -> None:
    """Each user's usage arrived once, with numbers without a gap, and the counters of every process agree."""
    assert users_of(sink) == sorted(users)
    by_instance = Counter(usage.resource["service.instance.id"] for usage in sink.usages())
    assert {instance: sink.counters()[instance]["exported"] for instance in by_instance} == dict(by_instance)
    assert sum(counts["recorded"] for counts in sink.counters().values()) == len(users)


@pytest.mark.parametrize("recycling", others_long(["1", "3"], short={"1"}))
def test_recycled_children(worker: Worker, tasks: ModuleType, sink: OtlpSink, recycling: str) -> None:
    """Children that end after one task, or three, deliver what they recorded while the worker goes on; a warm shutdown
    delivers the rest."""
    with worker("-c", "2", "--max-tasks-per-child", recycling, **NO_EXPORT) as process:
        users = run_twenty(tasks)
        sink.wait_for(lambda: len(sink.usages()) >= (20 if recycling == "1" else 16), PATIENCE_S)
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_S)
    assert_complete(sink, users)


@pytest.mark.parametrize(
    "signals", others_long([(signal.SIGQUIT,), (signal.SIGINT, signal.SIGINT)], short=[(signal.SIGQUIT,)])
)
def test_cold_shutdown(worker: Worker, tasks: ModuleType, sink: OtlpSink, signals: tuple[signal.Signals, ...]) -> None:
    """A worker that is told to end at once, after 20 tasks, delivers the usage of all of them, and ends."""
    with worker("-c", "2", **NO_EXPORT) as process:
        users = run_twenty(tasks)
        wait_until_idle(tasks)
        for number, one in enumerate(signals):
            if number:
                wait_until(lambda: "Warm shutdown" in process.output(), PATIENCE_S, "the first signal was seen")
            process.send_signal(one)
        process.wait(PATIENCE_S)
    assert_complete(sink, users)


def test_cold_shutdown_that_may_hang(worker: Worker, tasks: ModuleType, sink: OtlpSink) -> None:
    """A worker that is told to end while it still takes results delivers all usage, also if Celery's shutdown then hangs
    (see `wait_until_idle`)."""
    with worker("-c", "2") as process:
        users = run_twenty(tasks)
        process.send_signal(signal.SIGQUIT)
        sink.wait_for(lambda: len(sink.usages()) >= 20, PATIENCE_S)
        process.kill()
    assert users_of(sink) == sorted(users)


def test_soft_time_limit(worker: Worker, tasks: ModuleType, sink: OtlpSink) -> None:
    """A task that its soft time limit ends keeps what it recorded, and the child delivers it at its end."""
    with worker("-c", "1", **NO_EXPORT) as process:
        hanging = tasks.tracked_then_hangs.apply_async(("alice",), soft_time_limit=1)
        with pytest.raises(SoftTimeLimitExceeded):
            hanging.get(timeout=PATIENCE_S)
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_S)
    assert_complete(sink, ["alice"])


def test_hard_time_limit(worker: Worker, tasks: ModuleType, sink: OtlpSink) -> None:
    """A child that is killed by a hard time limit has delivered what is older than the export interval."""
    with worker("-c", "1"):
        hanging = tasks.tracked_then_hangs.apply_async(("alice",), time_limit=8)
        sink.wait_for(lambda: len(sink.usages()) == 1, PATIENCE_S)
        with pytest.raises(TimeLimitExceeded):
            hanging.get(timeout=PATIENCE_S)
    assert users_of(sink) == ["alice"]


def test_hard_time_limit_with_a_spool(worker: Worker, tasks: ModuleType, sink: OtlpSink, tmp_path: Path) -> None:
    """With the spool, what a killed child recorded just before is sent by the child that takes its place."""
    spool = {"OTEL_CREDITS_SPOOL_DIR": str(tmp_path / "spool")}
    # Longer than the task lives; then the next child looks.
    with worker("-c", "1", **spool, OTEL_CREDITS_EXPORT_INTERVAL_S="8"):
        hanging = tasks.tracked_then_hangs.apply_async(("alice",), time_limit=2)
        with pytest.raises(TimeLimitExceeded):
            hanging.get(timeout=PATIENCE_S)
        sink.wait_for(lambda: len(sink.usages()) == 1, PATIENCE_S)
    assert users_of(sink) == ["alice"]


def test_everything_killed_with_a_spool(worker: Worker, tasks: ModuleType, sink: OtlpSink, tmp_path: Path) -> None:
    """A worker whose processes are all killed right after 20 tasks loses nothing: the next worker sends it."""
    spool = {"OTEL_CREDITS_SPOOL_DIR": str(tmp_path / "spool")}
    with worker("-c", "2", **NO_EXPORT, **spool) as process:
        users = run_twenty(tasks)
        _kill_all(process)
    assert sink.usages() == []
    with worker("-c", "2", **spool):
        sink.wait_for(lambda: len(sink.usages()) >= 20, PATIENCE_S)
    assert users_of(sink) == sorted(users)


def _kill_all(process: Process) -> None:
    """Kill the worker and its children, so that no code of theirs runs."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in (process.pid, *map(int, children)):
        os.kill(pid, signal.SIGKILL)
    process.wait(PATIENCE_S)
