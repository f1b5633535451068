"""A Celery worker that charges for workflows, from plain tasks and from tasks that run async code.

    celery --workdir examples -A tasks worker

``CELERY_BROKER_URL`` names the broker, Redis on its usual port by default. ``filesystem://`` needs no server: messages
are files under ``CELERY_BROKER_DIR``.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from uuid import UUID

from celery import Celery
from celery.signals import worker_ready
from otel_credits import ActionType, configure, get_task_credit_cost, track_compute_usage
from otel_credits.celery import instrument_celery
from tracing import set_up_tracing

BROKER_URL = os.environ.get("CELERY_BROKER_URL", "redis://127.0.0.1:6379/0")


def filesystem_options(folder: Path) -> dict[str, str]:
    """Return kombu's options for a broker that is a folder; what a process sends is what the other reads."""
    for name in ("messages", "processed", "control"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return {
        "data_folder_in": str(folder / "messages"),
        "data_folder_out": str(folder / "messages"),
        "processed_folder": str(folder / "processed"),
        "control_folder": str(folder / "control"),
    }


def make_app() -> Celery:
    """Return the Celery app; nobody reads results here, so none are kept."""
    celery = Celery("tasks", broker=BROKER_URL)
    celery.conf.task_ignore_result = True
    celery.conf.worker_hijack_root_logger = False
    if BROKER_URL.startswith("filesystem:"):
        folder = Path(os.environ.get("CELERY_BROKER_DIR", "celery-broker"))
        celery.conf.broker_transport_options = filesystem_options(folder)
    return celery


set_up_tracing()
configure()
app = make_app()
instrument_celery(app)


@worker_ready.connect
def announce_ready(**_: object) -> None:
    """Touch the file that says so."""
    if "CELERY_READY_FILE" in os.environ:
        Path(os.environ["CELERY_READY_FILE"]).touch()


@app.task(name="run_workflow")
def run_workflow(user_id: str, workflow_id: str) -> None:
    """Pattern 2 in a plain task: the call needs no ``await``, it has recorded when it returns."""
    track_compute_usage(
        user_id=UUID(user_id),
        action_type=ActionType.WORKFLOW_EXECUTION,
        credits=get_task_credit_cost("workflow_execution"),
        description="Workflow run",
        resource_id=workflow_id,
        resource_type="workflow",
    )


@app.task(name="run_workflow_async")
def run_workflow_async(user_id: str, workflow_id: str) -> None:
    """Pattern 2 in a task whose work is async."""
    asyncio.run(execute_workflow(user_id, workflow_id))


async def execute_workflow(user_id: str, workflow_id: str) -> None:
    """Do the work of the task above and track it."""
    await track_compute_usage(
        user_id=UUID(user_id),
        action_type=ActionType.WORKFLOW_EXECUTION,
        credits=get_task_credit_cost("workflow_execution"),
        description="Workflow run",
        resource_id=workflow_id,
        resource_type="workflow",
    )
