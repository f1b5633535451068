"""`track_ai_usage` beside a plain span of the SDK with the same attributes and a batch processor."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock

import otel_credits
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from otel_credits import ActionType, track_ai_usage
from otel_credits import _attributes as names

from benchmarks._report import Figure, Report, Target, median, spread

__all__ = ["Discard", "run", "track"]

_TARGET = Target(1.5, goal=1.25)
# Less than the batch of either (512, 1000), so that no export thread works while the caller is timed; it does so in the
# flush after each round.
_CALLS = 500
_FLUSH_TIMEOUT_S = 30.0


class Discard(SpanExporter):
    """Counts what it gets and forgets it."""

    def __init__(self) -> None:
        self.spans = 0
        self._lock = Lock()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with self._lock:
            self.spans += len(spans)
        return SpanExportResult.SUCCESS


@dataclass(frozen=True)
class _Side:
    """One of the two ways to record a usage."""

    record: Callable[[], object]
    flush: Callable[[], object]
    end: Callable[[], object]
    exporter: Discard

    def round_us(self) -> float:
        """Microseconds a call in this thread."""
        record, before = self.record, self.exporter.spans
        began = time.perf_counter()
        for _ in range(_CALLS):
            record()
        took = time.perf_counter() - began
        self.flush()
        if self.exporter.spans - before != _CALLS:
            raise RuntimeError(f"{self.exporter.spans - before} of {_CALLS} spans were exported")
        return took / _CALLS * 1e6


def run(quick: bool) -> Report:
    """Rounds of both sides, one after the other."""
    rounds = 3 if quick else 301
    ours, plain = _ours(), _plain()
    try:
        pairs = [(ours.round_us(), plain.round_us()) for _ in range(rounds)]
    finally:
        ours.end()
        plain.end()
    mine, theirs = [a for a, _ in pairs], [b for _, b in pairs]
    ratios = [a / b for a, b in pairs]
    return Report(
        "Tracking",
        [
            Figure("`track_ai_usage`", median(mine), "µs a call", spread(mine, 1)),
            Figure("plain span, batch processor", median(theirs), "µs a call", spread(theirs, 1)),
            Figure("**ratio**", median(mine) / median(theirs), "", spread(ratios, 2), _TARGET),
        ],
        [f"A round is {_CALLS} calls; each call's span reached its exporter, none was dropped."],
    )


def _ours() -> _Side:
    exporter = Discard()
    otel_credits.configure(exporter=exporter)
    return _Side(track, lambda: otel_credits.flush(timeout_s=_FLUSH_TIMEOUT_S), otel_credits.shutdown, exporter)


def track() -> None:
    """One usage of a model, as a chat app records it."""
    track_ai_usage(
        user_id="8a1cf6a4-3f0e-4f5e-9d5c-5d1f6f1f9a10",
        action_type=ActionType.AI_CHAT_MESSAGE,
        input_tokens=1370,
        output_tokens=610,
        model="claude-sonnet-4-5",
        description="AI chat message",
        resource_id="session-1",
        resource_type="chat_session",
    )


def _plain() -> _Side:
    exporter = Discard()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    tracer = provider.get_tracer("benchmark")

    def record() -> None:
        span = tracer.start_span("credits ai_chat_message")
        span.set_attributes(
            {
                names.ACTION_TYPE: "ai_chat_message",
                names.USER_ID: "8a1cf6a4-3f0e-4f5e-9d5c-5d1f6f1f9a10",
                names.REQUEST_MODEL: "claude-sonnet-4-5",
                names.INPUT_TOKENS: 1370,
                names.OUTPUT_TOKENS: 610,
                names.DESCRIPTION: "AI chat message",
                names.RESOURCE_ID: "session-1",
                names.RESOURCE_TYPE: "chat_session",
            }
        )
        span.end()

    return _Side(record, provider.force_flush, provider.shutdown, exporter)
