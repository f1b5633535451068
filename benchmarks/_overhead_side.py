"""One side of `overhead`, a process of its own: an app with the official instrumentation alone, or with ours on top.

    python -m benchmarks._overhead_side {plain|credits} {fastapi PORT|celery}

Both sides are the same app: a request or a task in which an LLM span is made, as an instrumented SDK would. `fastapi`
serves until it is ended; `celery` runs as many tasks as each line of its input says, and prints the microseconds of each.
"""

import json
import sys
import time

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from benchmarks.tracking import Discard

_LLM = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "anthropic",
    "gen_ai.request.model": "claude-sonnet-4-5",
    "gen_ai.response.model": "claude-sonnet-4-5-20250929",
    "gen_ai.usage.input_tokens": 1370,
    "gen_ai.usage.output_tokens": 610,
}


def _set_up(credits: bool) -> trace.Tracer:
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Discard()))
    trace.set_tracer_provider(provider)
    if credits:
        from otel_credits import configure

        configure(exporter=Discard(), charge_genai=True, user="header:x-user-id")
    return trace.get_tracer("some.llm.instrumentation")


def _serve(credits: bool, port: int) -> None:
    import uvicorn
    from fastapi import FastAPI
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

    tracer, app = _set_up(credits), FastAPI()

    @app.get("/ask/{number}")
    async def ask(number: int) -> dict[str, int]:
        with tracer.start_as_current_span("chat", attributes=_LLM):
            return {"answer": number}

    FastAPIInstrumentor.instrument_app(app)
    if credits:
        from otel_credits.fastapi import instrument_fastapi

        instrument_fastapi(app)
    uvicorn.run(app, port=port, log_level="warning")


def _run_tasks(credits: bool) -> None:
    from celery import Celery
    from opentelemetry.instrumentation.celery import CeleryInstrumentor

    tracer, app = _set_up(credits), Celery("overhead", broker="memory://")

    @app.task
    def work() -> None:
        with tracer.start_as_current_span("chat", attributes=_LLM):
            pass

    CeleryInstrumentor().instrument()  # type: ignore[no-untyped-call]
    if credits:
        from otel_credits.celery import instrument_celery

        instrument_celery()
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            began = time.perf_counter()
            work.apply()
            times.append((time.perf_counter() - began) * 1e6)
        print(json.dumps(times), flush=True)


if __name__ == "__main__":
    if sys.argv[2] == "fastapi":
        _serve(sys.argv[1] == "credits", int(sys.argv[3]))
    else:
        _run_tasks(sys.argv[1] == "credits")
