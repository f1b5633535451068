"""FastAPI under real uvicorn: the user of a request, streams, shutdown, and who may not choose the payer."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, WebSocket
from fastapi.testclient import TestClient
from otel_credits import track_compute_usage
from otel_credits._request_user import usage_of_request
from otel_credits.fastapi import CreditsMiddleware, instrument_fastapi, uninstrument_fastapi
from otel_credits.testing import capture_usage
from support.llm_server import LlmServer, Usage
from support.otlp_sink import OtlpSink, SinkSpan
from support.processes import Process
from support.uvicorn_app import APPS, serving, stop

ALICE = {"authorization": "token-alice"}
# 30 s between two exports: what arrives was flushed at the end, or by asking for it.
NO_HURRY = {"OTEL_CREDITS_EXPORT_INTERVAL_S": "30"}


def by_action(sink: OtlpSink) -> dict[str, SinkSpan]:
    """The usages by their action."""
    return {span.attributes["credits.action_type"]: span for span in sink.usages()}


def test_the_user_of_a_request(sink: OtlpSink, tmp_path: Path) -> None:
    """The request's user pays for what is tracked in async and sync endpoints, after a response, and before an error,
    under a dependency and in a mounted app; and SIGTERM loses none of it."""
    with serving("chat_app:app", sink, tmp_path, **NO_HURRY) as served:
        for path in ("/compute", "/threaded", "/background", "/sub/inner", "/raises"):
            served.get(path, headers=ALICE)
        served.get("/dependency", headers={"token": "token-bob"})
        served.get("/compute")
        stop(served)
    usages = sink.usages()
    assert sorted((u.attributes["credits.action_type"], u.attributes.get("user.id", "nobody")) for u in usages) == [
        ("background", "alice"),
        ("before_the_error", "alice"),
        ("dependency", "bob"),
        ("mounted", "alice"),
        ("threaded", "alice"),
        ("workflow_execution", "alice"),
        ("workflow_execution", "nobody"),
    ]


def test_a_client_does_not_choose_the_payer(sink: OtlpSink, tmp_path: Path) -> None:
    """A client's baggage names another user, and its traceparent says not sampled: the authenticated user pays."""
    spoof = {
        "baggage": "credits.user_id=bob,user.id=bob,enduser.id=bob,credits_baggage=bob",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
    }
    with serving("chat_app:app", sink, tmp_path, OTEL_CREDITS_CHARGE_GENAI="on") as served:
        assert "bob" in served.get("/compute", headers={**ALICE, **spoof}).text, "the baggage did arrive"
        served.get("/llm-span", headers={**ALICE, **spoof})
        served.get("/compute", headers=spoof)
        stop(served)
    mine, nobodys = (u for u in sink.usages() if u.attributes["credits.action_type"] == "workflow_execution")
    assert mine.attributes["user.id"] == "alice"
    assert mine.trace_id == "0af7651916cd43dd8448eb211c80319c"
    assert "user.id" not in nobodys.attributes
    (llm,) = (span for span in sink.spans() if span.name == "chat m")
    assert (llm.attributes["credits.user_id"], llm.attributes["user.id"]) == ("alice", "alice")
    assert "bob" not in str([span.attributes for span in sink.spans()])


def test_trusted_baggage(sink: OtlpSink, tmp_path: Path) -> None:
    """Behind senders that are declared trusted, inbound baggage names the user where the app itself knows none."""
    with serving("chat_app:app", sink, tmp_path, OTEL_CREDITS_TRUST_BAGGAGE="on") as served:
        served.get("/compute", headers={"baggage": "credits.user_id=carol"})
        served.get("/compute", headers={**ALICE, "baggage": "credits.user_id=carol"})
        stop(served)
    assert [u.attributes["user.id"] for u in sink.usages()] == ["carol", "alice"]


def test_a_client_that_hangs_up(sink: OtlpSink, tmp_path: Path) -> None:
    """A client that goes away in the middle of a stream leaves a usage with what the provider had reported."""
    with LlmServer() as llm:
        llm.next = Usage(input=137, cache_read=2048, output=61, text_events=100, delay_s=0.05)
        with serving("chat_app:app", sink, tmp_path, LLM_URL=llm.url) as served:
            with httpx.stream("GET", f"{served.url}/stream", headers=ALICE) as response:
                next(response.iter_text())
            sink.wait_for(lambda: len(sink.usages()) == 1)
            llm.next = Usage(output=7)
            assert "message_stop" in served.get("/stream", headers=ALICE).text
            sink.wait_for(lambda: len(sink.usages()) == 2)
    aborted, complete = (u.attributes for u in sink.usages())
    assert (aborted["user.id"], aborted["gen_ai.usage.input_tokens"], aborted["gen_ai.usage.output_tokens"]) == (
        "alice",
        2185,
        4,
    )
    assert aborted["credits.metadata.stream"] == "aborted"
    assert (complete["gen_ai.usage.output_tokens"], complete["credits.metadata.stream"]) == (7, "completed")


def test_header_resolver(sink: OtlpSink, tmp_path: Path) -> None:
    """A header that the app trusts names the user."""
    with serving("chat_app:app", sink, tmp_path, APP_RESOLVER="header:x-user-id") as served:
        served.get("/compute", headers={"x-user-id": "17"})
        stop(served)
    assert [u.attributes["user.id"] for u in sink.usages()] == ["17"]


def test_websocket() -> None:
    """A websocket has a user as a request has."""
    app = FastAPI()
    app.add_middleware(CreditsMiddleware, user="header:x-user-id")

    @app.websocket("/ws")
    async def endpoint(socket: WebSocket) -> None:
        await socket.accept()
        track_compute_usage(action_type="websocket", credits=1)
        await socket.close()

    with (
        capture_usage() as usages,
        TestClient(app) as client,
        client.websocket_connect("/ws", headers={"x-user-id": "18"}) as socket,
    ):
        assert socket.receive()["type"] == "websocket.close"
    assert [usage.user_id for usage in usages] == ["18"]


def test_an_app_that_knows_nothing_of_us(sink: OtlpSink, tmp_path: Path) -> None:
    """`opentelemetry-instrument` and environment variables charge an app that never imports otel_credits."""
    env = {
        "OTEL_CREDITS_CHARGE_GENAI": "on",
        "OTEL_CREDITS_USER": "header:x-user-id",
        "OTEL_TRACES_SAMPLER": "always_off",
    }
    with serving("plain_app:app", sink, tmp_path, auto=True, **env, **NO_HURRY) as served:
        served.get("/ask", headers={"x-user-id": "17", "baggage": "credits.user_id=evil"})
        stop(served)
    (span,) = sink.spans()
    assert (span.name, span.attributes["credits.user_id"]) == ("chat m", "17")
    assert "Traceback" not in served.process.output()


def test_one_server_span_a_request(sink: OtlpSink, tmp_path: Path) -> None:
    """With FastAPI's native telemetry and the official instrumentation both there, a request has one server span,
    also in a mounted app, and it names the user."""
    code = """
import json, sys
sys.path.insert(0, sys.argv[1])
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
from chat_app import app
from fastapi.testclient import TestClient
from opentelemetry.trace import SpanKind
with TestClient(app) as client:
    client.get("/sub/inner", headers={"authorization": "token-alice"})
    client.get("/compute", headers={"authorization": "token-alice"})
spans = [s for s in exporter.get_finished_spans() if s.kind is SpanKind.SERVER]
print(json.dumps([s.attributes.get("credits.user_id") for s in spans]))
"""
    process = Process(
        "script",
        [sys.executable, "-c", code, str(APPS)],
        log_dir=tmp_path,
        env={"OTEL_CREDITS_ENDPOINT": sink.endpoint},
    )
    with process:
        process.wait(30)
    assert process.output().strip().endswith('["alice", "alice"]')


def resolver_cases() -> dict[str, Callable[..., Any]]:
    """Resolvers of every kind, for a request with user 5."""

    async def asynchronous(request: Any) -> int:
        return 5

    return {
        "header": "header:X-User",
        "state": "state:user.id",
        "sync": lambda request: request.headers["x-user"],
        "async": asynchronous,
    }


@pytest.mark.parametrize("kind", ["header", "state", "sync", "async"])
async def test_resolvers(kind: str) -> None:
    """Each kind of resolver finds the user of a request."""
    scope = {"type": "http", "headers": [(b"x-user", b"5")], "state": {"user": SimpleNamespace(id=5)}}
    usage = await usage_of_request(resolver_cases()[kind], scope)
    assert usage.user == "5"


async def test_resolver_that_knows_later() -> None:
    """A user that is not known yet, or a resolver that raises, is asked again."""
    scope: dict[str, Any] = {"type": "http", "headers": []}
    usage = await usage_of_request(lambda request: scope["state"]["user"], scope)
    assert usage.user is None
    scope["state"] = {"user": 5}
    assert usage.user == "5"


def test_bad_resolver() -> None:
    """A resolver with a typing mistake is told at set-up."""
    with pytest.raises(ValueError, match="cookie:x"):
        instrument_fastapi(FastAPI(), user="cookie:x")


def test_resolver_of_configure(configured: Callable[..., OtlpSink]) -> None:
    """`configure(user=...)` takes a resolver for all apps of the process; one that an app is given wins over it."""
    sink = configured(user=lambda request: request.headers["x-user"])
    for given in (None, "header:x-other"):
        app = FastAPI()
        instrument_fastapi(app, user=given)
        app.get("/work")(lambda: track_compute_usage(action_type="work", credits=1) and None)
        with TestClient(app) as client:
            client.get("/work", headers={"x-user": "5", "x-other": "6"})
    assert [usage.attributes["user.id"] for usage in sink.usages()] == ["5", "6"]


def test_instrument_and_uninstrument() -> None:
    """Instrumenting twice adds one middleware; uninstrumenting takes everything away."""
    app = FastAPI()
    instrument_fastapi(app)
    instrument_fastapi(app)
    assert [m.cls for m in app.user_middleware] == [CreditsMiddleware]
    uninstrument_fastapi(app)
    assert app.user_middleware == []
    assert app._is_instrumented_by_opentelemetry is False
