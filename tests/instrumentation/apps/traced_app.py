"""plain_app.py with traces of its own, which go to TRACES_URL. It never imports otel_credits either."""

from __future__ import annotations

import os

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from plain_app import app

__all__ = ["app"]

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(endpoint=os.environ["TRACES_URL"], insecure=True)))
trace.set_tracer_provider(provider)
