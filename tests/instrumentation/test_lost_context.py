"""The places where OpenTelemetry's context gets lost on the way from a request to an LLM call: the user does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest
from otel_credits import set_user, track_compute_usage, usage_context
from otel_credits._threads import carry_into_thread_pools, leave_thread_pools
from otel_credits.testing import capture_usage
from support.otlp_sink import OtlpSink
from support.uvicorn_app import serving, stop
from websockets.sync.client import connect

PLACES = (
    "sync-dependency",
    "async-dependency",
    "pool",
    "executor",
    "background",
    "task",
    "stream",
    "many-attributes",
    "fails",
    "refused",
)


@pytest.mark.parametrize("telemetry", ["contrib", "native"])
def test_the_user_reaches_every_llm_call(sink: OtlpSink, tmp_path: Path, telemetry: str) -> None:
    """Under either FastAPI telemetry, an LLM call names the user whom a dependency found, wherever it is made, and so
    does the server span above it; one request's user never is another's."""
    with serving("contexts_app:app", sink, tmp_path, TELEMETRY=telemetry) as served:
        for number, place in enumerate(PLACES):
            served.get(f"/{place}", headers={"token": f"token-{number}"})
        with connect(f"{served.url.replace('http', 'ws')}/websocket", additional_headers={"token": "token-ws"}) as ws:
            list(ws)
        stop(served)
    spans = sink.spans()
    users = {**{place: str(number) for number, place in enumerate(PLACES)}, "websocket": "ws"}
    calls = {(span.name, span.attributes.get("credits.user_id")) for span in spans if span.name in users}
    # The SDK's limit took the user from the copy of the app's own exporter, and not from ours.
    assert calls - {("many-attributes", None)} == set(users.items())
    names = {f"GET /{place}": user for place, user in users.items()} | {
        "HTTP /websocket": "ws",
        "WS /websocket": "ws",
        "/websocket": "ws",
    }
    servers = {(span.name, span.attributes.get("credits.user_id")) for span in spans if span.name in names}
    assert servers <= set(names.items())
    assert len(servers) == len(PLACES) + 1, "every request has a server span"


def test_a_pool_keeps_no_user() -> None:
    """A pool's thread that one user's request made start works for the next user, and for nobody, as theirs."""
    with capture_usage(strict=False) as usages, ThreadPoolExecutor(1) as pool:
        with usage_context("alice", action_type="work"):
            pool.submit(track_compute_usage, credits=1).result()
        with usage_context("bob", action_type="work"):
            pool.submit(track_compute_usage, credits=1).result()
        pool.submit(track_compute_usage, action_type="work", credits=1).result()
        assert [usage.user_id for usage in usages] == ["alice", "bob", None]


def test_a_user_who_is_known_late_reaches_a_pool() -> None:
    """What was submitted before the user was known is charged to that user all the same."""
    with capture_usage() as usages, usage_context(action_type="work"), ThreadPoolExecutor(1) as pool:
        started, known = Event(), Event()

        def work() -> None:
            started.set()
            known.wait(10)
            track_compute_usage(credits=1)

        future = pool.submit(work)
        started.wait(10)
        set_user("late")
        known.set()
        future.result()
    assert usages.last().user_id == "late"


def test_pools_can_be_left_alone(configured: Callable[..., OtlpSink]) -> None:
    """With OTEL_CREDITS_THREAD_POOLS=off, the pools of the app are as Python makes them."""
    configured(thread_pools=False)
    assert ThreadPoolExecutor.submit.__module__ == "concurrent.futures.thread"
    configured(thread_pools=True)
    assert ThreadPoolExecutor.submit.__code__.co_filename.endswith("_threads.py")


@pytest.fixture(autouse=True)
def pools_are_watched() -> Iterator[None]:
    """As `configure()` does; afterwards the pools of other tests are as they were."""
    carry_into_thread_pools()
    yield
    leave_thread_pools()
