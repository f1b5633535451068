"""Delivery from several threads, forked children, and signal handlers."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from threading import Thread

import grpc
import pytest
from otel_credits import _runtime, flush, stats, track_compute_usage
from support.app_usage import record, users_of
from support.otlp_sink import OtlpSink
from support.processes import wait_until

Configured = Callable[..., OtlpSink]


def test_from_many_threads(configured: Configured) -> None:
    """Usages of many threads at once are all counted and all arrive, each once."""
    sink = configured()
    threads = [Thread(target=record, args=(500, number * 500)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert flush(20)
    assert len(users_of(sink)) == 4000
    assert len(set(users_of(sink))) == 4000
    assert stats().recorded == stats().exported == 4000


def _child_records(user: str) -> None:
    track_compute_usage(user, "a", credits=1)


def fork_and_record() -> int:
    """Fork a child that begins with nothing, records a usage and delivers it. Returns its process id."""
    pid = os.fork()
    if pid:
        return pid
    alone = stats().waiting == 0
    _child_records("child")
    os._exit(0 if flush(60) and alone else 1)


def test_fork(configured: Configured) -> None:
    """A forked child sends only its own usage, and the parent's waiting usage is sent once, by the parent."""
    sink = configured(export_interval_s=0.2)
    record(1)
    assert flush(60)
    sink.answer_with(grpc.StatusCode.UNAVAILABLE)
    track_compute_usage("parent", "a", credits=1)
    pid = fork_and_record()
    wait_until(lambda: len(sink.refused) >= 2, 60, "attempts of both")
    sink.answer_with(None)
    assert flush(60)
    assert os.waitpid(pid, 0)[1] == 0
    assert sorted(users_of(sink)) == ["child", "parent", "user-0"]
    assert len({span.span_id for span in sink.spans()}) == 3


def test_fork_during_an_export(configured: Configured) -> None:
    """A fork waits for the end of the parent's request: a child that is forked within gRPC could never send anything."""
    sink = configured(export_interval_s=0.01)
    record(1)
    assert flush(60)
    sink.answer_with(None, delay_s=0.4)
    track_compute_usage("parent", "a", credits=1)
    wait_until(lambda: sink.answering, 60, "the request is under way", interval_s=0.01)
    pid = fork_and_record()
    assert users_of(sink)[:2] == ["user-0", "parent"], "the request has ended"
    assert flush(60)
    assert os.waitpid(pid, 0)[1] == 0
    assert sorted(users_of(sink)) == ["child", "parent", "user-0"]


def test_a_fork_does_not_wait_for_long(configured: Configured) -> None:
    """A receiver that takes its time holds a fork up for a second, and not for as long as it takes."""
    sink = configured(export_interval_s=0.01)
    sink.answer_with(None, delay_s=5)
    track_compute_usage("parent", "a", credits=1)
    wait_until(lambda: sink.answering, 60, "the request is under way", interval_s=0.01)
    # What runs before and after a fork, without one: what gRPC makes of a fork within a call is not ours to say.
    _runtime._pipeline.before_fork()
    assert sink.answering
    _runtime._pipeline.after_fork_in_parent()
    assert flush(60)


def test_multiprocessing_child_flushes_at_its_end(configured: Configured) -> None:
    """A child of multiprocessing, which ends without atexit, delivers its usage all the same."""
    sink = configured(export_interval_s=30)
    process = multiprocessing.get_context("fork").Process(target=_child_records, args=("worker",))
    process.start()
    process.join(20)
    assert process.exitcode == 0
    assert users_of(sink) == ["worker"]


SIGNALLED = """
    import signal, threading
    from otel_credits import _runtime, flush, stats, track_compute_usage

    def handle(*_):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        track_compute_usage("of the handler", "a", credits=1)

    def first_signalled(original):
        def call(thread, *arguments, **named):
            if "otel-credits-export" in (named.get("name"), getattr(thread, "_name", None)):
                signal.raise_signal(signal.SIGUSR1)
            return original(thread, *arguments, **named)
        return call

    signal.signal(signal.SIGUSR1, handle)
    threading.Thread.PLACE = first_signalled(threading.Thread.PLACE)
    track_compute_usage("of the program", "a", credits=1)
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
    assert flush(30)
    assert [thread.name for thread in threading.enumerate()].count("otel-credits-export") == 1
    assert (stats().recorded, stats().exported) == (2, 2)
"""


@pytest.mark.parametrize("place", ["__init__", "start"])
def test_a_signal_handler_records_while_the_first_usage_does(sink: OtlpSink, place: str) -> None:
    """A signal that comes while the first usage is starting the export thread may record usage too: nothing hangs, there is
    one thread, and both usages are delivered."""
    code = textwrap.dedent(SIGNALLED).replace("PLACE", place)
    env = {**os.environ, "OTEL_CREDITS_ENDPOINT": sink.endpoint}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=env, check=False
    )
    assert done.returncode == 0, done.stderr
    assert sorted(users_of(sink)) == ["of the handler", "of the program"]
