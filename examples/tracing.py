"""The app's own tracing, as any app sets it up; otel-credits needs none of it.

It is here to show that the two do not disturb each other: the sampler (``OTEL_TRACES_SAMPLER``) thins out the app's
traces, and every usage is charged all the same.
"""

from __future__ import annotations

import functools
import os

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor


@functools.cache
def set_up_tracing() -> None:
    """Send the app's sampled spans to ``OTEL_EXPORTER_OTLP_ENDPOINT``, if that is set; once in a process."""
    if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        provider = TracerProvider()
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        trace.set_tracer_provider(provider)
