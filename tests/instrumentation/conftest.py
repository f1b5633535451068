"""What the library's tests share: a receiver, and a library that starts afresh in each test."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
from otel_credits import _context, _guard, _propagator, _runtime, _threads, configure, reset_task_credit_costs
from otel_credits.celery import instrument_celery, uninstrument_celery
from otel_credits.testing import CapturedUsages, capture_usage
from support.llm_server import LlmServer
from support.otlp_sink import OtlpSink
from support.processes import Process
from support.redis import redis_server

if TYPE_CHECKING:
    import anthropic
    import openai

# Before a test imports it.
pytest.register_assert_rewrite("support.streams")

APPS = Path(__file__).parent / "apps"
Worker = Callable[..., "Process"]


@pytest.fixture(autouse=True)
def fresh_library(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test starts with nothing set up, no OTEL_* variable, and ends with its pipeline stopped."""
    for name in list(os.environ):
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)
    _forget()
    yield
    if _runtime._pipeline is not None:
        _runtime._pipeline.queue.closed = True
        _runtime._pipeline.thread.stop(timeout_s=2.0)
    _forget()


def _forget() -> None:
    _runtime._pipeline = None
    _runtime._given.clear()
    _guard.set_strict(False)
    _guard.forget_what_was_said()
    _context.trust_inbound_baggage(False)
    _propagator.remove_propagator()
    _threads.leave_thread_pools()
    reset_task_credit_costs()


@pytest.fixture
def sink() -> Iterator[OtlpSink]:
    """A receiver that acknowledges everything."""
    with OtlpSink() as started:
        yield started


@pytest.fixture
def configured(sink: OtlpSink) -> Callable[..., OtlpSink]:
    """`configured(**settings)` sets the library up to send to the sink, leaving the global tracer provider alone."""

    def set_up(**settings: object) -> OtlpSink:
        configure(**{"endpoint": sink.endpoint, "capture_spans": False, "retry_initial_s": 0.05, **settings})
        return sink

    return set_up


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis, the same in all modules: the app is imported once, with its address."""
    with redis_server(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture
def tasks(broker: str, sink: OtlpSink, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The app, imported here as the producer that sends tasks."""
    monkeypatch.setenv("BROKER", broker)
    monkeypatch.setenv("OTEL_CREDITS_ENDPOINT", sink.endpoint)
    monkeypatch.setenv("OTEL_CREDITS_CAPTURE_SPANS", "off")
    monkeypatch.syspath_prepend(str(APPS))
    module = importlib.import_module("tasks_app")
    configure()
    instrument_celery()
    yield module
    uninstrument_celery()
    module.app.control.purge()


@pytest.fixture
def worker(broker: str, sink: OtlpSink, tmp_path: Path) -> Worker:
    """`worker("-P", "threads", SETTING="x")` is a running worker, as a context manager."""

    @contextmanager
    def run(*arguments: str, auto: bool = False, **env: str) -> Iterator[Process]:
        tools = Path(sys.executable)
        path = os.pathsep.join([str(APPS), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, "-m", "celery", "-A", "tasks_app", "worker", "--loglevel", "INFO", *arguments]
        if auto:
            command = [str(tools.with_name("opentelemetry-instrument")), *command]
        env = {"BROKER": broker, "OTEL_CREDITS_ENDPOINT": sink.endpoint, "PYTHONPATH": path, **env}
        with Process("worker", command, log_dir=tmp_path, env=env, cwd=tmp_path) as process:
            process.wait_for(lambda: " ready." in process.output(), 60, "the worker is ready")
            yield process

    return run  # type: ignore[return-value]


@pytest.fixture
def server() -> Iterator[LlmServer]:
    """The LLM."""
    from support.streams import CACHED

    with LlmServer() as started:
        started.next = CACHED
        yield started


@pytest.fixture
def usages() -> Iterator[CapturedUsages]:
    """What is recorded, at once."""
    with capture_usage() as captured:
        yield captured


@pytest.fixture
def claude(server: LlmServer) -> anthropic.Anthropic:
    """The sync Anthropic client."""
    import anthropic

    return anthropic.Anthropic(api_key="x", base_url=server.url, max_retries=0)


@pytest.fixture
def async_claude(server: LlmServer) -> anthropic.AsyncAnthropic:
    """The async Anthropic client."""
    import anthropic

    return anthropic.AsyncAnthropic(api_key="x", base_url=server.url, max_retries=0)


@pytest.fixture
def gpt(server: LlmServer) -> openai.OpenAI:
    """The sync OpenAI client."""
    import openai

    return openai.OpenAI(api_key="x", base_url=f"{server.url}/v1", max_retries=0)


@pytest.fixture
def async_gpt(server: LlmServer) -> openai.AsyncOpenAI:
    """The async OpenAI client."""
    import openai

    return openai.AsyncOpenAI(api_key="x", base_url=f"{server.url}/v1", max_retries=0)
