"""The price of a call, against a span of the SDK in the same run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from otel_credits import ActionType, configure, track_ai_usage

CALLS = 500
ROUNDS = 15


class Nowhere(SpanExporter):
    """Takes everything at once."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def seconds(call: Callable[[], object]) -> float:
    """How long CALLS calls take."""
    start = time.perf_counter()
    for _ in range(CALLS):
        call()
    return time.perf_counter() - start


def test_a_call_costs_no_more_than_a_span() -> None:
    """track_ai_usage takes at most 1.5 times as long as a plain span with the same attributes and a batch processor."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(Nowhere()))
    tracer = provider.get_tracer("plain")
    configure(exporter=Nowhere(), capture_spans=False)

    def plain() -> None:
        span = tracer.start_span("credits ai_chat_message")
        span.set_attributes(
            {
                "credits.action_type": "ai_chat_message",
                "user.id": "42",
                "credits.description": "AI chat message",
                "credits.resource_id": "s-1",
                "credits.resource_type": "chat_session",
                "gen_ai.request.model": "m",
                "gen_ai.usage.input_tokens": 137,
                "gen_ai.usage.output_tokens": 61,
            }
        )
        span.end()

    def ours() -> None:
        track_ai_usage(
            user_id=42,
            action_type=ActionType.AI_CHAT_MESSAGE,
            input_tokens=137,
            output_tokens=61,
            model="m",
            description="AI chat message",
            resource_id="s-1",
            resource_type="chat_session",
        )

    pairs = [(seconds(ours), seconds(plain)) for _ in range(ROUNDS)]
    provider.shutdown()
    ratio = statistics.median(mine for mine, _ in pairs) / statistics.median(theirs for _, theirs in pairs)
    assert ratio <= 1.5, f"{ratio:.2f}"
