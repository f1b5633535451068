"""From a usage's attributes to its delivery: record, flush, shut down, fork.

There is one `Pipeline` for the life of a process. Its queue and its counts survive a second `configure()`, so that
nothing that waits is lost when the endpoint changes.
"""

from __future__ import annotations

import logging
import multiprocessing
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from multiprocessing import util as multiprocessing_util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan

from otel_credits._amounts import AttributeValue
from otel_credits._attributes import ACTION_TYPE
from otel_credits._exporter import ExportThread
from otel_credits._guard import report_dropped
from otel_credits._instance import Instance
from otel_credits._meter_export import MeterExport
from otel_credits._meter_shards import Key, shards
from otel_credits._processor import CreditsSpanProcessor
from otel_credits._provider import ProviderHook
from otel_credits._queue import BAD_ARGUMENT, INTERNAL, QUEUE_FULL, SHUTDOWN, Stats, UsageQueue
from otel_credits._reports import counters_request
from otel_credits._senders import SenderFactory
from otel_credits._settings import Settings
from otel_credits._usage import KeptSpan, finished, kept, usage_span

if TYPE_CHECKING:
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

    from otel_credits._meter import CreditsMeter

logger = logging.getLogger("otel_credits")

_REFUSED_LOG_EVERY_S = 30.0

# What has to be recorded before the end (streams that are still open).
before_shutdown: list[Callable[[], None]] = []


class Pipeline:
    """Records usages and sees to their delivery."""

    def __init__(self, settings: Settings, factory: SenderFactory) -> None:
        self.settings = settings
        self.queue = _queue(settings)
        self.instance = Instance()
        self.meters = MeterExport(self, shards)
        self.thread = ExportThread(self.queue, factory, settings, self._counters, self.meters)
        self._resource: Resource | None = None
        # The resource of an app's span, and the same with our instance id.
        self._stamped: tuple[Resource, Resource] | None = None
        self._processor: CreditsSpanProcessor | None = None
        self._hook: ProviderHook | None = None
        self._refused_logged_at = 0.0
        self._lost_reported = 0
        self.send_left_files()

    def send_left_files(self) -> None:
        """If earlier processes left usage on disk, do not wait for the first usage of this one to send it."""
        folder = self.settings.spool_dir
        if folder is not None and any(Path(folder).glob("*.usage")):
            self._start()

    def change(self, settings: Settings, factory: SenderFactory) -> None:
        """Go on with other settings. What waits is sent by the new ones."""
        self.thread.stop(timeout_s=1.0)
        if settings.spool_dir != self.settings.spool_dir:
            settings = self._change_spool(settings)
        self.settings = settings
        if self._processor is not None:
            self._processor.settings = settings
        self.queue.spans_max, self.queue.bytes_max = settings.queue_spans_max, settings.queue_bytes_max
        self.queue.closed = False
        self._resource = None
        self.thread = ExportThread(self.queue, factory, settings, self._counters, self.meters)
        self.meters.take_again()
        if self.queue.stats().waiting or not self.meters.is_idle():
            self.thread.start()
        self.send_left_files()

    def _change_spool(self, settings: Settings) -> Settings:
        """Usage moves to the disk, or to another folder, only before there is any."""
        if self.queue.stats().recorded == 0 and self.meters.is_idle():
            self.queue = _queue(settings)
            return settings
        logger.error("credits: OTEL_CREDITS_SPOOL_DIR cannot change once usage was recorded; it stays as it was")
        return replace(settings, spool_dir=self.settings.spool_dir)

    def watch_spans(self, accept: Callable[[ReadableSpan, Mapping[str, Any]], None]) -> None:
        """Put the processor on the app's tracer provider. It hands usage spans to `accept`."""
        if self._hook is None:
            self._processor = CreditsSpanProcessor(accept, self.flush, self.settings)
            self._hook = ProviderHook(self._processor, self.forget_resource)
        self._hook.install()

    def record(self, attributes: dict[str, AttributeValue], parent_context: Context | None = None) -> None:
        """Record a usage with these attributes, now. Takes no lock and does not wait."""
        self._accept(usage_span(attributes, self.resource(), parent_context), attributes)

    def accept_span(self, span: ReadableSpan, attributes: Mapping[str, Any]) -> None:
        """Record a usage that the app made a span of, which has these attributes."""
        own, stamped, resource = dict(attributes), self._stamped, span.resource
        if stamped is None or stamped[0] is not resource:
            self._stamped = stamped = (resource, self.instance.stamp(resource))
        self._accept(kept(span, own, stamped[1]), own)

    def _accept(self, span: ReadableSpan | KeptSpan, attributes: dict[str, Any]) -> None:
        new = self.queue.put(span, attributes)
        if not new:
            self.refuse(SHUTDOWN if self.queue.closed else QUEUE_FULL)
            return
        if not self.thread.running:
            self._start()
        elif new == self.settings.batch_spans_max:
            self.thread.wake()
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("credits: recorded %s", attributes.get(ACTION_TYPE) or finished(span).name)

    def _start(self) -> None:
        self.thread.start()
        if multiprocessing.parent_process() is not None:
            # A process of `multiprocessing` ends without atexit; it runs these instead.
            multiprocessing_util.Finalize(None, self.shutdown, exitpriority=10)

    def ensure_started(self) -> None:
        """There is something to send from now on."""
        if not self.thread.running:
            self._start()

    def count_metered(self, meter: CreditsMeter, key: Key, scaled: int) -> None:
        """Count a usage of a meter; `scaled` is in units of 10^-12."""
        self.meters.count(meter, key, scaled)

    def refuse(self, reason: str) -> None:
        """A usage is not taken: count it and say so."""
        self.queue.count_failed(reason)
        now = time.monotonic()
        if now - self._refused_logged_at >= _REFUSED_LOG_EVERY_S or not self._refused_logged_at:
            self._refused_logged_at = now
            logger.error("credits: usage is refused and NOT charged (%s); %d so far", reason, self.queue.stats().failed)

    def drop(self, where: str, error: Exception) -> None:
        """A call that could not be recorded: count it and say so."""
        self.queue.count_failed(BAD_ARGUMENT if hasattr(error, "argument") else INTERNAL)
        report_dropped(where, error)

    def flush(self, timeout_s: float) -> bool:
        """Whether everything recorded so far is acknowledged, after at most `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        settled = self.thread.flush(timeout_s)
        settled = self.thread.flush_meters(max(0.0, deadline - time.monotonic())) and settled
        with self.queue.state:
            lost, self._lost_reported = self.queue.lost() - self._lost_reported, self.queue.lost()
        return settled and lost == 0

    def flush_at_end(self, timeout_s: float | None = None) -> bool:
        """Flush, then let the receiver know the final counters if there is time: the process may end at once."""
        deadline = time.monotonic() + (self.settings.shutdown_timeout_s if timeout_s is None else timeout_s)
        delivered = self.flush(max(0.0, deadline - time.monotonic()))
        if delivered:
            self.thread.report(max(0.0, deadline - time.monotonic()))
        return delivered

    def shutdown(self, timeout_s: float | None = None) -> bool:
        """Deliver what waits, then take nothing more. Whether everything was delivered."""
        if self.queue.closed:
            return True
        for finish in before_shutdown:
            finish()
        self.meters.stop_taking()
        delivered = self.flush_at_end(timeout_s)
        self.queue.closed = True
        self.thread.stop(timeout_s=1.0)
        given_up = self.queue.give_up_waiting(SHUTDOWN) + self.meters.give_up()
        left = self.queue.end()
        if left:
            logger.warning("credits: %d usages wait in %s for the next start", left, self.settings.spool_dir)
        if given_up:
            logger.error("credits: %d usages were not delivered before the end and are NOT charged", given_up)
        return delivered and not given_up

    def resource(self) -> Resource:
        """What the usage of this process says of its service."""
        return self._resource or self._find_resource()

    def _find_resource(self) -> Resource:
        """The resource of the app's tracer provider, so that usage has the same service name; else the standard one."""
        found = getattr(trace.get_tracer_provider(), "resource", None)
        resource = found if isinstance(found, Resource) else Resource.create()
        if self.settings.service_name:
            resource = resource.merge(Resource({SERVICE_NAME: self.settings.service_name}))
        self._resource = self.instance.stamp(resource)
        return self._resource

    def _counters(self, stats: Stats) -> ExportMetricsServiceRequest:
        return counters_request(stats, self.resource(), started_ns=self.instance.started_ns)

    def forget_resource(self) -> None:
        """The app has another tracer provider now: ask it for its resource at the next usage."""
        self._resource = None

    def before_fork(self) -> None:
        """This process is about to fork."""
        self.thread.before_fork()
        self.queue.before_fork()

    def after_fork_in_parent(self) -> None:
        """It has forked."""
        self.queue.after_fork_in_parent()
        self.thread.after_fork_in_parent()

    def after_fork(self) -> None:
        """In a forked child: nothing of the parent's waits here, and no thread runs."""
        self.queue.reset_after_fork()
        self.thread.reset_after_fork()
        self.instance = Instance()
        self._resource = self._stamped = None
        self.meters.reset_after_fork()
        self._lost_reported = 0


def _queue(settings: Settings) -> UsageQueue:
    bounds = {"spans_max": settings.queue_spans_max, "bytes_max": settings.queue_bytes_max}
    if settings.spool_dir is None:
        return UsageQueue(**bounds)
    from otel_credits._spool_queue import SpoolQueue

    return SpoolQueue(Path(settings.spool_dir), spool_bytes_max=settings.spool_bytes_max, **bounds)
