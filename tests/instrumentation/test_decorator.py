"""@track_credits on every kind of function."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from otel_credits import ActionType, track_credits, usage_context
from otel_credits._guard import set_strict
from otel_credits.testing import CapturedUsages, capture_usage

report = track_credits(action_type=ActionType.ANALYTICS_GENERATION, manual_credits=0.002, description="a report")


@report
def plain(user_id: object, days: int = 7) -> int:
    """A function."""
    return days


@report
async def coroutine(days: int, *, user_id: object = None) -> int:
    """A coroutine function."""
    return days


@report
def generator(user_id: object, fail: bool = False) -> Iterator[int]:
    """A generator function that echoes what is sent."""
    got = yield 1
    yield got or 2
    if fail:
        raise RuntimeError("broken")


@report
async def async_generator(user_id: object, fail: bool = False) -> AsyncIterator[int]:
    """An async generator function."""
    yield 1
    await asyncio.sleep(0)
    if fail:
        raise RuntimeError("broken")
    yield 2


def test_plain_function(usages: CapturedUsages) -> None:
    """A call is charged once to its `user_id`, given by name or by position, and its result is untouched."""
    assert plain("u1", 3) == 3
    assert plain(user_id=UUID(int=5)) == 7
    assert [usage.user_id for usage in usages] == ["u1", str(UUID(int=5))]
    last = usages.last()
    assert (last.action_type, last.credits, last.description) == ("analytics_generation", Decimal("0.002"), "a report")


async def test_coroutine_function(usages: CapturedUsages) -> None:
    """A coroutine function stays one, and is charged when it returned."""
    assert inspect.iscoroutinefunction(coroutine)
    call = coroutine(4, user_id=9)
    assert len(usages) == 0
    assert await call == 4
    assert [usage.user_id for usage in usages] == ["9"]


def test_failure_is_not_charged(usages: CapturedUsages) -> None:
    """A call that raises is not charged, and raises what it raised."""

    @report
    def broken(user_id: str) -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        broken("u")
    assert len(usages) == 0


async def test_cancelled_is_not_charged(usages: CapturedUsages) -> None:
    """A coroutine that is cancelled did not finish, and is not charged."""

    @report
    async def endless(user_id: str) -> None:
        await asyncio.Event().wait()

    task = asyncio.create_task(endless("u"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(usages) == 0


def test_generator_function(usages: CapturedUsages) -> None:
    """A generator is charged when it ended, not when it is made, and send() goes through."""
    assert inspect.isgeneratorfunction(generator)
    running = generator("u")
    assert next(running) == 1
    assert running.send(5) == 5
    assert len(usages) == 0
    assert list(running) == []
    assert len(usages) == 1


def test_generator_whose_reader_leaves(usages: CapturedUsages) -> None:
    """A generator that is closed after an item is charged; one that nobody read from is not."""
    for _ in generator("early"):
        break
    unread = generator("unread")
    unread.close()
    assert [usage.user_id for usage in usages] == ["early"]


def test_generator_that_raises(usages: CapturedUsages) -> None:
    """A generator that raises by itself is not charged."""
    with pytest.raises(RuntimeError):
        list(generator("u", fail=True))
    assert len(usages) == 0


async def test_async_generator_function(usages: CapturedUsages) -> None:
    """An async generator stays one and is charged when it ended, or when its reader left, but not when it raised."""
    assert inspect.isasyncgenfunction(async_generator)
    assert [item async for item in async_generator("all")] == [1, 2]
    left = async_generator("left")
    assert await anext(left) == 1
    await left.aclose()
    with pytest.raises(RuntimeError):
        _ = [item async for item in async_generator("broken", fail=True)]
    assert [usage.user_id for usage in usages] == ["all", "left"]


async def test_async_generator_in_a_cancelled_task(usages: CapturedUsages) -> None:
    """A reader that is cancelled in the middle of a stream pays for what was delivered."""
    started = asyncio.Event()

    @report
    async def slow(user_id: str) -> AsyncIterator[int]:
        yield 1
        started.set()
        await asyncio.Event().wait()

    async def read() -> None:
        async for _ in slow("u"):
            pass

    task = asyncio.create_task(read())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [usage.user_id for usage in usages] == ["u"]


def test_user_objects(usages: CapturedUsages) -> None:
    """Without `user_id`, the id of `current_user` or `user` pays; without those, the usage context's user."""

    @report
    def with_user(current_user: Any, text: str = "") -> None: ...

    @report
    def with_nothing(text: str) -> None: ...

    with_user(SimpleNamespace(id=3), "x")
    with usage_context("around"):
        with_nothing("x")
    assert [usage.user_id for usage in usages] == ["3", "around"]


def test_method_and_default(usages: CapturedUsages) -> None:
    """Methods work, `**kwargs` are looked into, and a default user counts."""

    class Service:
        """Has a decorated method."""

        @report
        def run(self, user_id: str = "by-default", **rest: object) -> None: ...

    @report
    def open_ended(**anything: object) -> None: ...

    Service().run()
    Service().run("given")
    open_ended(user_id="in kwargs")
    assert [usage.user_id for usage in usages] == ["by-default", "given", "in kwargs"]


def test_signature_is_kept() -> None:
    """Frameworks that look at a function's signature see the original one."""
    assert list(inspect.signature(plain).parameters) == ["user_id", "days"]
    assert plain.__name__ == "plain"


def test_captured_usage_is_strict(usages: CapturedUsages) -> None:
    """capture_usage() raises bad arguments, so that an app's tests find them."""

    @report
    def no_user() -> None: ...

    with pytest.raises(ValueError, match="user_id"):
        no_user()


def keys(usages: CapturedUsages) -> list[object]:
    """The idempotency keys of the captured usages."""
    return [usage.attributes.get("credits.idempotency_key") for usage in usages]


def test_idempotency_key_of_a_call(usages: CapturedUsages) -> None:
    """The key of a call is made from its arguments, by a template or a function; None is no key."""

    @track_credits("report", idempotency_key="report:{report_id}:{kind}")
    def by_template(user_id: str, report_id: int, kind: str = "full") -> None: ...

    @track_credits("report", idempotency_key=lambda user_id, job: job.get("key"))
    async def by_function(user_id: str, job: dict[str, str]) -> None: ...

    @track_credits("report", idempotency_key="{job[key]}")
    def of_items(user_id: str, job: dict[str, str]) -> Iterator[int]:
        yield 1

    by_template("u", 7)
    by_template("u", report_id=8, kind="short")
    asyncio.run(by_function("u", {"key": "k"}))
    asyncio.run(by_function("u", {}))
    list(of_items("u", {"key": "j"}))
    assert keys(usages) == ["report:7:full", "report:8:short", "k", None, "j"]


@pytest.mark.parametrize("template", ["report:{nothing}", "report", "{", "{0}", "{}"])
def test_idempotency_key_that_cannot_work(template: str, caplog: pytest.LogCaptureFixture) -> None:
    """A template that names no argument, or one that is not there, is logged when the function is decorated, and each
    call is charged as a usage of its own."""
    with capture_usage() as usages:
        set_strict(False)

        @track_credits("report", idempotency_key=template)
        def report(user_id: str) -> str:
            return "done"

        assert report("u") == "done"
        assert keys(usages) == [None]
    assert "idempotency_key" in caplog.text


def test_idempotency_key_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """A key function that raises costs the key, not the usage, and does not reach the caller."""
    with capture_usage() as usages:
        set_strict(False)

        @track_credits("report", idempotency_key=lambda user_id: 1 / 0)
        def report(user_id: str) -> str:
            return "done"

        assert report("u") == "done"
        assert keys(usages) == [None]
    assert "division by zero" in caplog.text
