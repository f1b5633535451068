"""A Celery app as a user would write it. Its worker is run by test_celery.py."""

from __future__ import annotations

import asyncio
import os
import time
from uuid import UUID

from celery import Celery
from opentelemetry import trace
from otel_credits import ActionType, configure, get_task_credit_cost, track_compute_usage
from otel_credits.celery import instrument_celery

app = Celery("tasks_app", broker=os.environ["BROKER"], backend=os.environ["BROKER"])
tracer = trace.get_tracer("tasks_app")
configure()
instrument_celery(use_span_links=os.environ.get("SPAN_LINKS") == "on")


@app.task
def explicit(user_id: str) -> None:
    """Names its user, and does not await."""
    track_compute_usage(
        user_id=UUID(user_id),
        action_type=ActionType.WORKFLOW_EXECUTION,
        credits=get_task_credit_cost("workflow_execution"),
    )


@app.task
def awaited(user_id: str) -> None:
    """Runs a coroutine that awaits."""

    async def work() -> None:
        await track_compute_usage(user_id=user_id, action_type="awaited", credits=1)

    asyncio.run(work())


@app.task
def inherited() -> None:
    """Has its user from whoever sent it, and makes an LLM span."""
    with tracer.start_as_current_span("chat m", attributes={"gen_ai.operation.name": "chat"}):
        track_compute_usage(action_type="inherited", credits=1)


@app.task
def unnamed() -> None:
    """Has everything from whoever sent it, and makes its own span a usage too."""
    trace.get_current_span().set_attribute("credits.action_type", "task")
    track_compute_usage(credits=1)


@app.task
def followed() -> None:
    """Follows a group of tasks."""
    track_compute_usage(action_type="followed", credits=1)


@app.task
def sends_another() -> None:
    """Sends a task on behalf of its own user."""
    inherited.delay()


@app.task(bind=True, max_retries=2)
def retried(self: object) -> None:
    """Fails once, and is charged for the attempt that worked."""
    if self.request.retries == 0:  # type: ignore[attr-defined]
        raise self.retry(countdown=0)  # type: ignore[attr-defined]
    track_compute_usage(action_type="retried", credits=1)


@app.task
def tracked_then_hangs(user_id: str) -> None:
    """Records a usage, then never returns: its time limit ends it."""
    track_compute_usage(user_id, "tracked_then_hangs", credits=1)
    while True:
        time.sleep(0.05)


@app.task(bind=True, max_retries=2)
def charged_once(self: object, user_id: str, job: str, credits: str = "1") -> None:
    """Is charged in every attempt, under one key; the first two attempts fail afterwards."""
    track_compute_usage(user_id, "charged_once", credits=credits, idempotency_key=f"job:{job}")
    if self.request.retries < 2:  # type: ignore[attr-defined]
        raise self.retry(countdown=0)  # type: ignore[attr-defined]
