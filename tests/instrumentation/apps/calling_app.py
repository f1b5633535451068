"""A program that calls three services for a user, with three instrumented HTTP clients. Run by test_trusted_hosts.py.

Its arguments are the addresses to call. INBOUND is the baggage that its own caller sent, SAMPLER its sampler.
"""

from __future__ import annotations

import asyncio
import os
import sys

import httpx
import httpx2
import requests
from opentelemetry import context, propagate, trace
from opentelemetry.instrumentation.httpx import HTTPX2ClientInstrumentor, HTTPXClientInstrumentor
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from otel_credits import configure, usage_context

configure()
for instrumentor in (HTTPXClientInstrumentor, HTTPX2ClientInstrumentor, RequestsInstrumentor):
    instrumentor().instrument()


async def call_async(url: str) -> None:
    """The two clients that have an async side."""
    async with httpx.AsyncClient(follow_redirects=True) as old, httpx2.AsyncClient(follow_redirects=True) as new:
        await old.get(f"{url}/async-httpx")
        await new.get(f"{url}/async-httpx2")


def call(url: str) -> None:
    """All the ways to call."""
    httpx.get(f"{url}/httpx", follow_redirects=True)
    httpx2.get(f"{url}/httpx2", follow_redirects=True)
    requests.get(f"{url}/requests", timeout=20)
    asyncio.run(call_async(url))


inbound = propagate.extract({"baggage": os.environ.get("INBOUND", "")})
token = context.attach(inbound)
with trace.get_tracer("app").start_as_current_span("request"):
    for address in sys.argv[1:]:
        with usage_context("alice", action_type="search", resource_id="r 1"):
            call(address)
        call(address + "/nobody")
context.detach(token)
