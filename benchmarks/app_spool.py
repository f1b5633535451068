"""`track_ai_usage` with the app's spool on disk (`OTEL_CREDITS_SPOOL_DIR`) beside the same call with the queue in memory."""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from otel_credits import _runtime
from otel_credits._pipeline import Pipeline
from otel_credits._senders import Answer, Batch, Verdict
from otel_credits._settings import Settings

from benchmarks._report import Figure, Report, median, percentile, spread
from benchmarks.tracking import track

__all__ = ["Discard", "run"]

# Less than a batch (1000), so that the export thread rests while the caller is timed; it works in the flush after it.
_CALLS = 500
_FLUSH_TIMEOUT_S = 30.0


class Discard:
    """A receiver that acknowledges and forgets."""

    def __init__(self) -> None:
        self.quantity = 0

    def send(self, spans: Batch, timeout_s: float) -> Answer:
        """Take them."""
        return Answer(Verdict.DELIVERED)

    def report(self, request: ExportMetricsServiceRequest, timeout_s: float) -> Answer:
        """Take them, and add up what was metered."""
        for of_resource in request.resource_metrics:
            for of_scope in of_resource.scope_metrics:
                for metric in of_scope.metrics:
                    if metric.name == "credits.usage":
                        self.quantity += sum(point.as_int for point in metric.sum.data_points)
        return Answer(Verdict.DELIVERED)

    def close(self) -> None:
        """Nothing to close."""


@dataclass
class _Side:
    """One of the two queues."""

    pipeline: Pipeline

    def round_us(self) -> list[float]:
        """Microseconds of each call."""
        _runtime._pipeline = self.pipeline
        before, times = self.pipeline.queue.stats().exported, []
        for _ in range(_CALLS):
            began = time.perf_counter()
            track()
            times.append((time.perf_counter() - began) * 1e6)
        self.pipeline.flush(_FLUSH_TIMEOUT_S)
        if self.pipeline.queue.stats().exported - before != _CALLS:
            raise RuntimeError(f"not all of {_CALLS} usages were delivered: {self.pipeline.queue.stats()}")
        return times


def run(quick: bool) -> Report:
    """Rounds of both queues, one after the other."""
    with tempfile.TemporaryDirectory() as folder:
        # An interval that no round reaches: the flush sends.
        common = Settings(export_interval_s=60.0)
        disk = _Side(Pipeline(Settings(export_interval_s=60.0, spool_dir=str(Path(folder) / "spool")), Discard))
        memory = _Side(Pipeline(common, Discard))
        try:
            pairs = [(disk.round_us(), memory.round_us()) for _ in range(3 if quick else 101)]
        finally:
            _runtime._pipeline = None
            disk.pipeline.shutdown()
            memory.pipeline.shutdown()
    on_disk, in_memory = ([median(pair[side]) for pair in pairs] for side in (0, 1))
    every_call = [call for pair in pairs for call in pair[0]]
    return Report(
        "Spool in the app",
        [
            Figure("`track_ai_usage`, spool on disk", median(on_disk), "µs a call", spread(on_disk, 1)),
            Figure("99 % of these calls within", percentile(every_call, 99), "µs"),
            Figure("`track_ai_usage`, queue in memory", median(in_memory), "µs a call", spread(in_memory, 1)),
            Figure("**what the spool adds**", median(on_disk) - median(in_memory), "µs a call"),
        ],
        [f"A round is {_CALLS} calls; a round's figure is its median call. Every usage was delivered."],
    )
