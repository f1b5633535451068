"""A FastAPI app that never imports otel_credits, for `opentelemetry-instrument`."""

from __future__ import annotations

from fastapi import FastAPI
from opentelemetry import trace

app = FastAPI()
tracer = trace.get_tracer("some.llm.instrumentation")


@app.get("/ask")
def ask() -> str:
    """Makes an LLM span, as an instrumented SDK would."""
    attributes = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m", "gen_ai.usage.input_tokens": 5}
    with tracer.start_as_current_span("chat m", attributes=attributes):
        return "answer"
