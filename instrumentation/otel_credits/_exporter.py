"""The export thread: takes batches from the queue, sends them, and keeps them until they are acknowledged.

A batch stays at the head of the queue, in order and with the same span ids, until the receiver has acknowledged it or
has refused it for good; the wait between two attempts doubles up to a limit. What is given up is counted and logged.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, attach, detach, set_value

from otel_credits._guard import say_once
from otel_credits._meter_export import MeterExport
from otel_credits._meter_points import Point
from otel_credits._queue import REJECTED, Stats, UsageQueue
from otel_credits._reports import Reports
from otel_credits._senders import Answer, Batch, Sender, SenderFactory, Verdict
from otel_credits._settings import Settings
from otel_credits._spool_points import StoredPoint, request_of_points

if TYPE_CHECKING:
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

logger = logging.getLogger("otel_credits")

_THREAD = "otel-credits-export"
# How often an answer that OTLP calls final, but that speaks of the server, is asked again before it is believed.
_UNCLEAR_ATTEMPTS_MAX = 8
_RETRY_AFTER_MAX_S = 60.0
_LOG_EVERY_S = 30.0
# A report of the counters may not hold the usage up for longer.
_REPORT_TIMEOUT_MAX_S = 3.0

# How long a fork waits for the end of a request that is under way.
_FORK_WAITS_MAX_S = 1.0

# Connections of a parent process. A forked child keeps them untouched: to close one would be to speak on it.
_left_to_the_parent: list[Sender | None] = []


class ExportThread:
    """Sends what is in `queue`. Started with the first usage, and again in a forked child."""

    def __init__(
        self,
        queue: UsageQueue,
        factory: SenderFactory,
        settings: Settings,
        counters: Callable[[Stats], ExportMetricsServiceRequest],
        meters: MeterExport,
    ) -> None:
        self._queue = queue
        self._meters = meters
        self._counters = counters
        self._reports = Reports(queue.stats, settings.counters_interval_s)
        # Set by whoever waits for a last report, with the event that says it was tried.
        self._report_wanted: threading.Event | None = None
        self._factory = factory
        self._settings = settings
        self._sender: Sender | None = None
        # Empty, or the thread that runs in this process, under one name: who puts it there first starts it (`setdefault`
        # cannot be interrupted).
        self.running: dict[str, threading.Thread] = {}
        # A signal handler that records usage may come while its own thread is starting the thread.
        self._start_lock = threading.RLock()
        # Held during a request. A child that is forked while a thread is inside gRPC can never send anything.
        self._requesting = threading.Lock()
        # Whether this thread, which forks, holds it.
        self._forking = threading.local()
        self._wake = threading.Event()
        self._stopping = False
        self._idle_until = 0.0
        self._attempts = 0
        self._last_failure_logged = 0.0
        self._hurry = False

    def start(self) -> None:
        """Start the thread, unless it runs."""
        with self._start_lock:
            if self.running or self._stopping:
                return
            thread = threading.Thread(target=self._run, name=_THREAD, daemon=True)
            if self.running.setdefault(_THREAD, thread) is not thread:
                return
            try:
                thread.start()
            except RuntimeError as error:  # the process has no threads left, or the interpreter is ending
                say_once("no thread", logging.ERROR, "credits: usage waits, as no thread can be started: %s", error)
                self.running.clear()

    def wake(self) -> None:
        """There is a full batch: do not wait for the interval."""
        self._wake.set()

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything recorded before this call is acknowledged or given up; False at the timeout."""
        deadline = time.monotonic() + timeout_s
        queue = self._queue
        with queue.state:
            target = queue.entered()
            if queue.done() >= target:
                return True
            self.start()
            self._hurry = True
            self._wake.set()
            return queue.state.wait_for(lambda: queue.done() >= target, max(0.0, deadline - time.monotonic()))

    def flush_meters(self, timeout_s: float) -> bool:
        """Wait until everything that was metered before this call is acknowledged or given up; False at the timeout."""
        if self._meters.is_idle():
            return True
        self.start()
        return self._meters.wait_settled(time.monotonic() + timeout_s, self.wake)

    def report(self, timeout_s: float) -> None:
        """Wait until the receiver was told the counters as they are now, or until that failed, or the timeout."""
        if not self.running or self._reports.due(now=True) is None:
            return
        tried = self._report_wanted = threading.Event()
        self._wake.set()
        tried.wait(timeout_s)

    def stop(self, timeout_s: float) -> None:
        """End the thread. What waits stays in the queue."""
        self._stopping = True
        self._wake.set()
        sender, thread = self._sender, self.running.get(_THREAD)
        self._sender = None
        if sender is not None:
            _close(sender)
        if thread is not None and thread.is_alive() and thread is not threading.current_thread():
            thread.join(timeout_s)

    def before_fork(self) -> None:
        """Let a request that is under way end first, but do not hold up the fork for long."""
        self._forking.holds = self._requesting.acquire(timeout=_FORK_WAITS_MAX_S)

    def after_fork_in_parent(self) -> None:
        """Requests go on."""
        if getattr(self._forking, "holds", False):
            self._requesting.release()

    def reset_after_fork(self) -> None:
        """In a forked child: the thread and the connection stayed with the parent."""
        _left_to_the_parent.append(self._sender)
        self.__init__(self._queue, self._factory, self._settings, self._counters, self._meters)  # type: ignore[misc]

    def _run(self) -> None:
        token = attach(set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))
        try:
            while not self._stopping:
                self._wake.wait(self._pause_s())
                self._wake.clear()
                self._write_metered()
                self._round()
                self._send_metered()
                self._report()
        finally:
            detach(token)

    def _pause_s(self) -> float:
        """Until the next look: the interval, or what is left of the wait after a failure, unless meters are written to
        the spool meanwhile."""
        if self._meters.is_written:
            return self._settings.export_interval_s
        return max(self._settings.export_interval_s, self._idle_until - time.monotonic())

    def _round(self) -> None:
        """Send until nothing is left, or until an attempt failed."""
        hurry, self._hurry = self._hurry, False
        try:
            self._queue.take_over()
            if not hurry and time.monotonic() < self._idle_until:
                return
            while not self._stopping and self._send_one():
                self._queue.take_over()
            if time.monotonic() >= self._idle_until:
                while not self._stopping and (self._send_left() or self._send_left_points()):
                    pass
        except Exception:
            # Nothing here is expected to raise. The thread must outlive what is unexpected: it is asked again later.
            logger.exception("credits: the export thread met an unexpected error; it goes on")
            self._back_off(Answer(Verdict.RETRY))

    def _write_metered(self) -> None:
        """With a spool, write what the meters counted before anything is sent, which may take long."""
        try:
            self._meters.write()
        except Exception:
            logger.exception("credits: the export thread met an unexpected error; it goes on")

    def _send_metered(self) -> None:
        """Send what the meters counted, if it is time for that, until nothing is left or an attempt failed."""
        meters = self._meters
        try:
            if not meters.wanted and time.monotonic() < self._idle_until:
                return
            while not self._stopping:
                meters.collect()
                points = meters.waiting()[: self._settings.batch_spans_max]
                if not points or not self._deliver(points, meters.settle, self._attempt_points):
                    return
        except Exception:
            logger.exception("credits: the export thread met an unexpected error; it goes on")
            self._back_off(Answer(Verdict.RETRY))

    def _attempt_points(self, sender: Sender, points: Sequence[Point]) -> Answer:
        return sender.report(self._meters.request(points), self._settings.export_timeout_s)

    def _attempt_spans(self, sender: Sender, batch: Batch) -> Answer:
        return sender.send(batch, self._settings.export_timeout_s)

    def _report(self) -> None:
        """Send the counters, if it is time for that and the receiver is there."""
        wanted, self._report_wanted = self._report_wanted, None
        try:
            stats = self._reports.due(now=wanted is not None)
            if stats is not None and not self._stopping and time.monotonic() >= self._idle_until:
                self._send_report(stats)
        except Exception:
            logger.debug("credits: the counters could not be sent", exc_info=True)
            self._reports.failed(for_good=False)
        finally:
            if wanted is not None:
                wanted.set()

    def _send_report(self, stats: Stats) -> None:
        if self._sender is None:
            self._sender = self._factory()
        timeout_s = min(self._settings.export_timeout_s, _REPORT_TIMEOUT_MAX_S)
        with self._requesting:
            answer = self._sender.report(self._counters(stats), timeout_s)
        if answer.verdict is Verdict.DELIVERED:
            self._reports.sent(stats)
            return
        for_good = answer.verdict in (Verdict.REFUSED_DATA, Verdict.REFUSED_SENDER)
        self._reports.failed(for_good=for_good)
        if for_good and answer.detail:
            say_once("counters", logging.INFO, "credits: the receiver does not take the counters: %s", answer.detail)

    def _send_one(self) -> bool:
        """Send the oldest batch. False: there is nothing to send, or a wait comes first."""
        batch = self._queue.batch(self._settings.batch_spans_max, self._settings.batch_bytes_max)
        return bool(batch) and self._deliver(batch, self._settle_own, self._attempt_spans)

    def _send_left(self) -> bool:
        """Send the oldest batch that a dead process left on disk. False: there is none, or a wait comes first, or
        usage of our own."""
        if self._queue.inbox_length():
            return False
        batch = self._queue.left_batch(self._settings.batch_spans_max, self._settings.batch_bytes_max)
        return bool(batch) and self._deliver(batch, self._settle_left, self._attempt_spans)

    def _send_left_points(self) -> bool:
        """Send the first points that meters of a dead process left on disk, once its usages are sent."""
        points = () if self._queue.inbox_length() else self._queue.left_points(self._settings.batch_spans_max)
        return bool(points) and self._deliver(points, self._settle_left_points, self._attempt_left_points)

    def _attempt_left_points(self, sender: Sender, points: Sequence[StoredPoint]) -> Answer:
        return sender.report(request_of_points(points), self._settings.export_timeout_s)

    def _settle_left_points(self, count: int, rejected: int) -> None:
        self._queue.settle_left_points(count)

    def _settle_left(self, count: int, rejected: int) -> None:
        self._queue.settle_left(count)

    def _settle_own(self, count: int, rejected: int) -> None:
        self._queue.settle(count, rejected, REJECTED)

    def _deliver(
        self, batch: Sequence[Any], settle: Callable[[int, int], None], send: Callable[[Sender, Any], Answer]
    ) -> bool:
        """One attempt with `batch`, which is the head of its queue. False: it is still there, and waits."""
        answer = self._attempt(batch, send)
        if self._stopping:  # the queue may have another owner already
            return False
        unclear_for_long = answer.verdict is Verdict.UNCLEAR and self._attempts + 1 >= _UNCLEAR_ATTEMPTS_MAX
        if answer.verdict in (Verdict.RETRY, Verdict.UNCLEAR) and not unclear_for_long:
            self._back_off(answer)
            return False
        self._attempts = 0
        if answer.verdict is Verdict.REFUSED_DATA and len(batch) > 1:
            # Something in the batch is bad. Its neighbours shall be charged: it is found by sending halves.
            half = len(batch) // 2
            return self._deliver(batch[:half], settle, send) and self._deliver(batch[half:], settle, send)
        self._settle(len(batch), answer, settle)
        return True

    def _attempt(self, batch: Sequence[Any], send: Callable[[Sender, Any], Answer]) -> Answer:
        with self._requesting:
            try:
                sender = self._sender = self._sender or self._factory()
            except Exception as error:
                return Answer(Verdict.RETRY, f"no exporter: {error!r}")
            return send(sender, batch)

    def _settle(self, count: int, answer: Answer, settle: Callable[[int, int], None]) -> None:
        """The receiver has had its last word on the `count` oldest usages."""
        delivered = answer.verdict is Verdict.DELIVERED
        rejected = min(answer.rejected, count) if delivered else count
        if rejected:
            logger.error("credits: %d usages were refused for good and are not charged: %s", rejected, answer.detail)
        elif answer.detail:
            logger.warning("credits: the receiver says: %s", answer.detail)
        if count > rejected and logger.isEnabledFor(logging.DEBUG):
            logger.debug("credits: exported %d usages", count - rejected)
        settle(count, rejected)

    def _back_off(self, answer: Answer) -> None:
        """Wait before the next attempt: doubling, with jitter, or as long as the receiver asks for."""
        doubled = self._settings.retry_initial_s * 2 ** min(self._attempts, 30)
        wait_s = min(doubled, self._settings.retry_max_s) * random.uniform(0.8, 1.2)
        if answer.retry_after_s is not None:
            wait_s = min(answer.retry_after_s, _RETRY_AFTER_MAX_S)
        self._attempts += 1
        now = time.monotonic()
        self._idle_until = now + wait_s
        if now - self._last_failure_logged >= _LOG_EVERY_S or self._last_failure_logged == 0.0:
            self._last_failure_logged = now
            waiting = self._queue.stats().waiting
            logger.warning("credits: %d usages wait, as they cannot be sent now: %s", waiting, answer.detail)


def _close(sender: Sender) -> None:
    try:
        sender.close()
    except Exception:
        logger.debug("credits: closing the exporter failed", exc_info=True)
