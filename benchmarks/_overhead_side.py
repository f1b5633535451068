"""One side of `overhead`, a process of its own: an app with the official instrumentation alone, or with ours on top.

    python -m benchmarks._overhead_side {plain|credits}[@ENDPOINT] {fastapi PORT|asking PORT MODEL_URL|work BROKER|send BROKER}

Spans are discarded, or exported to an OTLP/gRPC endpoint: the app's own by the official exporter, the usages by ours beside it.
Both sides are the same app: a request or a task in which an LLM span is made, as an instrumented SDK would. In `asking` the
Anthropic SDK really asks a server, which speaks its API on this machine and answers at once. `fastapi`, `asking`
and `work` (a Celery worker) serve until they are ended; `send` sends as many tasks as each line of its input says, one after
the other, and prints the microseconds from sending to the result of each.
"""

import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from benchmarks.tracking import Discard

_LLM = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "anthropic",
    "gen_ai.request.model": "claude-sonnet-4-5",
    "gen_ai.response.model": "claude-sonnet-4-5-20250929",
    "gen_ai.usage.input_tokens": 1370,
    "gen_ai.usage.output_tokens": 610,
}


def _set_up(kind: str) -> trace.Tracer:
    side, _, endpoint = kind.partition("@")
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(_exporter(endpoint)))
    trace.set_tracer_provider(provider)
    if side == "credits":
        from otel_credits import configure

        where: dict[str, Any] = {"endpoint": endpoint} if endpoint else {"exporter": Discard()}
        configure(**where, charge_genai=True, user="header:x-user-id")
    return trace.get_tracer("some.llm.instrumentation")


def _exporter(endpoint: str) -> SpanExporter:
    if not endpoint:
        return Discard()
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    return _Delivered(OTLPSpanExporter(endpoint=endpoint))


class _Delivered(SpanExporter):
    """Ends the process if spans do not arrive, and with it the benchmark: what is lost costs less than what is sent."""

    def __init__(self, inner: SpanExporter) -> None:
        self._inner = inner

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._inner.export(spans)
        if result is not SpanExportResult.SUCCESS:
            print(f"{len(spans)} spans did not arrive", file=sys.stderr, flush=True)
            os._exit(1)
        return result

    def shutdown(self) -> None:
        self._inner.shutdown()


def _is_ours(kind: str) -> bool:
    return kind.startswith("credits")


def _serve(kind: str, port: int, model_url: str = "") -> None:
    import uvicorn
    from fastapi import FastAPI
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

    tracer, app = _set_up(kind), FastAPI()
    asked = _asked(model_url) if model_url else None

    @app.get("/ask/{number}")
    async def ask(number: int) -> dict[str, int]:
        with tracer.start_as_current_span("chat", attributes=_LLM) as span:
            if asked is not None:
                span.set_attributes(await asked())
            return {"answer": number}

    FastAPIInstrumentor.instrument_app(app)
    if _is_ours(kind):
        from otel_credits.fastapi import instrument_fastapi

        instrument_fastapi(app)
    uvicorn.run(app, port=port, log_level="warning", timeout_keep_alive=60)


def _asked(model_url: str) -> Callable[[], Awaitable[dict[str, int]]]:
    """Asks the model, and gives the attributes of the span that its answer changes."""
    from anthropic import AsyncAnthropic

    client = AsyncAnthropic(base_url=model_url, api_key="any")

    async def ask() -> dict[str, int]:
        answer = await client.messages.create(
            model="claude-sonnet-4-5", max_tokens=1000, messages=[{"role": "user", "content": "Who pays?"}]
        )
        usage = answer.usage
        return {"gen_ai.usage.input_tokens": usage.input_tokens, "gen_ai.usage.output_tokens": usage.output_tokens}

    return ask


def _celery(kind: str, broker: str) -> tuple[Any, Any]:
    from celery import Celery
    from opentelemetry.instrumentation.celery import CeleryInstrumentor

    tracer, app = _set_up(kind), Celery("overhead", broker=broker, backend=broker)

    @app.task(name="work")
    def work(number: int) -> int:
        with tracer.start_as_current_span("chat", attributes=_LLM):
            return number

    CeleryInstrumentor().instrument()  # type: ignore[no-untyped-call]
    if _is_ours(kind):
        from otel_credits.celery import instrument_celery

        instrument_celery()
    return app, work


def _work(kind: str, broker: str) -> None:
    app, _ = _celery(kind, broker)
    app.worker_main(["worker", "--pool", "solo", "--loglevel", "ERROR", "--without-gossip", "--without-mingle"])


def _send(kind: str, broker: str) -> None:
    from otel_credits import usage_context

    _, work = _celery(kind, broker)
    for line in sys.stdin:
        times = []
        for number in range(int(line)):
            context = usage_context(f"user-{number}") if _is_ours(kind) else nullcontext()
            began = time.perf_counter()
            with context:
                result = work.delay(number)
            if result.get(timeout=60) != number:
                raise RuntimeError(f"task {number} gave something else")
            times.append((time.perf_counter() - began) * 1e6)
        print(json.dumps(times), flush=True)


if __name__ == "__main__":
    if sys.argv[2] in ("fastapi", "asking"):
        _serve(sys.argv[1], int(sys.argv[3]), *sys.argv[4:])
    else:
        {"work": _work, "send": _send}[sys.argv[2]](sys.argv[1], sys.argv[3])
