"""Celery with a real worker on a real Redis: users cross to the tasks, and no usage is lost where a process ends."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from uuid import uuid4

import pytest
from celery import chain, chord, group
from opentelemetry import baggage
from opentelemetry import context as context_api
from otel_credits import flush, usage_context
from otel_credits._baggage import header_of, members_of_header
from support.otlp_sink import OtlpSink
from support.processes import Process

pytestmark = pytest.mark.redis
APPS = Path(__file__).parent / "apps"
NO_HURRY = {"OTEL_CREDITS_EXPORT_INTERVAL_S": "30"}
Worker = Callable[..., "Process"]


def charged(sink: OtlpSink) -> list[tuple[str, str]]:
    """(action, user) of each usage, sorted."""
    return sorted((u.attributes["credits.action_type"], u.attributes.get("user.id", "nobody")) for u in sink.usages())


def wait_done(results: list[object]) -> None:
    """Wait until tasks are done."""
    for result in results:
        result.get(timeout=30)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "arguments",
    [
        ("-c", "2"),
        ("-c", "2", "--max-tasks-per-child", "3"),
        ("-P", "threads", "-c", "2"),
        ("-P", "solo"),
    ],
    ids=["prefork", "recycled children", "threads", "solo"],
)
def test_sigterm_right_after_tasks(
    worker: Worker, tasks: ModuleType, sink: OtlpSink, arguments: tuple[str, ...]
) -> None:
    """A worker that is told to end right after 20 tasks delivers the usage of all 20, in every kind of pool."""
    users = [str(uuid4()) for _ in range(20)]
    with worker(*arguments, **NO_HURRY) as process:
        wait_done([tasks.explicit.delay(user) for user in users])
        process.send_signal(signal.SIGTERM)
        process.wait(40)
    assert charged(sink) == sorted(("workflow_execution", user) for user in users)
    assert {u.attributes["credits.amount"] for u in sink.usages()} == {"0.001"}
    assert len({u.span_id for u in sink.usages()}) == 20


def test_the_user_reaches_the_tasks(worker: Worker, tasks: ModuleType, sink: OtlpSink) -> None:
    """Tasks are charged to the user of whoever sent them: delay, apply_async, chains, tasks sent by tasks, retries."""
    with worker("-c", "2"):
        with usage_context("alice"):
            tasks.inherited.delay()
            tasks.inherited.apply_async()
            chain(tasks.inherited.si(), tasks.inherited.si()).delay()
            tasks.sends_another.delay()
            tasks.retried.delay()
        with usage_context("bob"):
            tasks.inherited.delay()
        tasks.inherited.delay()
        sink.wait_for(lambda: len(sink.usages()) == 8, 30)
    assert charged(sink) == [("inherited", "alice")] * 5 + [
        ("inherited", "bob"),
        ("inherited", "nobody"),
        ("retried", "alice"),
    ]


def test_the_user_reaches_workflows(worker: Worker, tasks: ModuleType, sink: OtlpSink) -> None:
    """The same for groups, chords with the task that follows them, and tasks sent by name."""
    with worker("-c", "2"):
        with usage_context("alice"):
            group(tasks.inherited.si(), tasks.inherited.si()).delay()
            chord([tasks.inherited.si(), tasks.inherited.si()])(tasks.followed.si())
            tasks.app.send_task("tasks_app.inherited")
        sink.wait_for(lambda: len(sink.usages()) == 6, 60)
    assert charged(sink) == [("followed", "alice")] + [("inherited", "alice")] * 5


@pytest.mark.parametrize("links", ["on", "off"])
def test_the_usage_context_reaches_the_tasks(worker: Worker, tasks: ModuleType, sink: OtlpSink, links: str) -> None:
    """A task has the whole usage context of whoever sent it, not only its user; and its own span names the user."""
    with worker("-P", "threads", OTEL_CREDITS_CHARGE_GENAI="on", SPAN_LINKS=links):
        with usage_context("alice", action_type="import", resource_id="r=1,2", metadata={"rows": 3, "kind": "ü"}):
            tasks.unnamed.delay()
        sink.wait_for(lambda: len(sink.usages()) == 2, 30)
    tracked, span = sorted(sink.usages(), key=lambda usage: usage.name)
    attributes = {name: value for name, value in tracked.attributes.items() if name != "credits.seq"}
    assert attributes == {
        "credits.action_type": "import",
        "user.id": "alice",
        "credits.amount": "1",
        "credits.resource_id": "r=1,2",
        "credits.metadata.rows": 3,
        "credits.metadata.kind": "ü",
    }
    assert (span.name, span.attributes["credits.user_id"]) == ("run/tasks_app.unnamed", "alice")


def test_a_task_is_forwarded_with_its_user(worker: Worker, tasks: ModuleType, sink: OtlpSink) -> None:
    """With OTEL_CREDITS_FORWARD_SPANS=consumer, an unsampled span of a task is sent with what a rule asks for and the user."""
    with worker("-P", "threads", OTEL_CREDITS_FORWARD_SPANS="consumer", OTEL_TRACES_SAMPLER="always_off"):
        with usage_context("alice"):
            tasks.inherited.delay()
        sink.wait_for(lambda: len(sink.spans()) == 2, 30)
    (span,) = (span for span in sink.spans() if span.name == "run/tasks_app.inherited")
    assert (span.attributes["credits.user_id"], span.attributes["celery.state"]) == ("alice", "SUCCESS")


def test_llm_spans_under_a_task(worker: Worker, tasks: ModuleType, sink: OtlpSink) -> None:
    """LLM spans under a task know the user too, also where the official instrumentation only links its spans."""
    with worker("-P", "threads", OTEL_CREDITS_CHARGE_GENAI="on", SPAN_LINKS="on"):
        with usage_context("alice"):
            tasks.inherited.delay()
        sink.wait_for(lambda: len(sink.spans()) == 2, 30)
    (span,) = (span for span in sink.spans() if span.name == "chat m")
    assert span.attributes["credits.user_id"] == "alice"


def test_inbound_baggage_does_not_pay_for_tasks(worker: Worker, tasks: ModuleType, sink: OtlpSink) -> None:
    """Baggage that a client sent travels to the task and does not become its user."""
    token = context_api.attach(baggage.set_baggage("credits.user_id", "evil"))
    try:
        with worker("-P", "threads"):
            tasks.inherited.delay()
            with usage_context("alice"):
                tasks.inherited.delay()
            sink.wait_for(lambda: len(sink.usages()) == 2, 30)
    finally:
        context_api.detach(token)
    assert charged(sink) == [("inherited", "alice"), ("inherited", "nobody")]


def test_eager(tasks: ModuleType, sink: OtlpSink) -> None:
    """A task that runs eagerly is charged to the user around it, who is still the user afterwards."""
    with usage_context("alice"):
        tasks.inherited.apply()
        tasks.awaited.apply(args=("bob",))
        tasks.inherited.apply()
    assert flush(60)
    assert charged(sink) == [("awaited", "bob"), ("inherited", "alice"), ("inherited", "alice")]
    assert context_api.get_current() == {}


def test_auto_instrumented_worker(worker: Worker, tasks: ModuleType, sink: OtlpSink) -> None:
    """Under `opentelemetry-instrument` it is the same, with no error in its log."""
    with worker("-c", "1", auto=True, **NO_HURRY) as process:
        with usage_context("alice"):
            wait_done([tasks.inherited.delay()])
        process.send_signal(signal.SIGTERM)
        process.wait(40)
        assert "Traceback" not in process.output()
    assert charged(sink) == [("inherited", "alice")]


@pytest.mark.parametrize("user", ["42", "a b,c;d=e", "über", "x" * 300])
def test_users_survive_the_header(user: str) -> None:
    """Whatever a user id looks like, it is the same behind the header."""
    assert members_of_header(header_of({"credits.user_id": user})) == {"credits.user_id": user}


def test_sending_does_not_wait(tasks: ModuleType, sink: OtlpSink) -> None:
    """Sending a task with a user costs no network wait of ours: the receiver is away."""
    sink.stop()
    start = time.monotonic()
    with usage_context("alice"):
        for _ in range(50):
            tasks.inherited.delay()
    assert time.monotonic() - start < 10
