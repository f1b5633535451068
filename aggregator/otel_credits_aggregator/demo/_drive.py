"""Do what the plan says: requests to the chat app, hang-ups in the middle of an answer, scripts that end."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import httpx

from otel_credits_aggregator.demo._options import DemoError
from otel_credits_aggregator.demo._plan import Action, Pattern
from otel_credits_aggregator.demo.processes import Process

CONCURRENT_ACTIONS = 8
REQUEST_TIMEOUT_S = 60.0
SCRIPT_TIMEOUT_S = 60.0
# All text that a long answer sends before it goes on "thinking"; the model server then reports no further usage.
LINES_BEFORE_HANG_UP = 6

_SCRIPTS = {Pattern.SCRIPT_SYNC: "sync_job.py", Pattern.SCRIPT_REPORT: "report.py"}


class Driver:
    """Performs actions against a running chat app.

    Args:
        app_url: address of the chat app.
        examples: folder of the scripts.
        log_dir: where the scripts' output goes.
        script_env: the OpenTelemetry settings for the scripts.
        on_done: called with each action that is done.
    """

    def __init__(
        self,
        app_url: str,
        examples: Path,
        log_dir: Path,
        script_env: Mapping[str, str],
        on_done: Callable[[Action], None],
    ) -> None:
        self._app_url = app_url
        self._examples = examples
        self._log_dir = log_dir
        self._script_env = dict(script_env)
        self._on_done = on_done

    def perform(self, plan: Sequence[Action]) -> None:
        """Perform all actions, some at a time. Raises DemoError if one is not answered as it should be."""
        asyncio.run(self._perform(plan))

    async def _perform(self, plan: Sequence[Action]) -> None:
        slots = asyncio.Semaphore(CONCURRENT_ACTIONS)
        # Each user has a connection of their own. A shared one could be closed by the server (after an error, say) at
        # the moment the next action takes it, and an action may not be sent twice.
        limits = httpx.Limits(max_keepalive_connections=0)
        async with httpx.AsyncClient(base_url=self._app_url, timeout=REQUEST_TIMEOUT_S, limits=limits) as client:

            async def perform_one(action: Action) -> None:
                async with slots:
                    await _ask_app(client, action)
                self._on_done(action)

            try:
                async with asyncio.TaskGroup() as group:
                    for action in plan:
                        if action.pattern not in _SCRIPTS:
                            group.create_task(perform_one(action))
                    for pattern in _SCRIPTS:
                        mine = [action for action in plan if action.pattern is pattern]
                        group.create_task(asyncio.to_thread(self._run_script, pattern, mine))
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from errors

    def _run_script(self, pattern: Pattern, actions: Sequence[Action]) -> None:
        """Run a script once for all its users; it must end by itself with exit code 0."""
        name = _SCRIPTS[pattern]
        command = [sys.executable, str(self._examples / name), *(str(action.user.id) for action in actions)]
        script = Process(name.removesuffix(".py"), command, log_dir=self._log_dir, env=self._script_env)
        with script:
            code = script.wait(SCRIPT_TIMEOUT_S)
        if code != 0:
            raise DemoError(f"{name} ended with code {code}\n{script.tail()}")
        for action in actions:
            self._on_done(action)


async def _ask_app(client: httpx.AsyncClient, action: Action) -> None:
    """Send the request of one action and check its answer."""
    headers = {"X-User-Id": str(action.user.id)}
    question = {"message": f"Question {action.number}?", "model": action.model}
    match action.pattern:
        case Pattern.CHAT_AFTER_STREAM:
            await _read_answer(client, "/chat/tracked-after-stream", question, headers)
        case Pattern.CHAT_TRACKED:
            await _read_answer(client, "/chat", question, headers)
        case Pattern.CHAT_HANG_UP:
            message = f"Question {action.number}? LONG_ANSWER please, as long as I listen."
            await _hang_up(client, "/chat", question | {"message": message}, headers)
        case Pattern.CHAT_FAILS:
            answer = await client.post("/chat/fails-afterwards", json=question, headers=headers)
            _expect(answer, 500)
        case Pattern.COMMENT_REPLY:
            _expect(await client.post("/comments/reply", json=question, headers=headers), 200)
        case Pattern.COMMENT_THANKS:
            remark = question | {"message": f"Nice, {action.number}"}
            _expect(await client.post("/comments/reply", json=remark, headers=headers), 200)
        case Pattern.BULK:
            comments = [f"comment {i}" for i in range(100)]
            _expect(await client.post("/comments/moderate", json=comments, headers=headers), 200)
        case Pattern.SYNC:
            _expect(await client.post("/channel/sync", headers=headers), 200)
        case Pattern.ANALYTICS:
            _expect(await client.get("/analytics", headers=headers), 200)
        case Pattern.WORKFLOW_PLAIN:
            _expect(await client.post("/workflows?style=plain", headers=headers), 202)
        case Pattern.WORKFLOW_ASYNC:
            _expect(await client.post("/workflows?style=async", headers=headers), 202)
        case Pattern.SCRIPT_SYNC | Pattern.SCRIPT_REPORT:
            raise AssertionError("a script is not a request")


async def _read_answer(client: httpx.AsyncClient, path: str, question: dict[str, str], headers: dict[str, str]) -> None:
    """Read a streamed answer to its end."""
    async with client.stream("POST", path, json=question, headers=headers) as answer:
        await answer.aread()
    _expect(answer, 200)
    if not answer.text.startswith("data:"):
        raise DemoError(f"{path} answered without text: {answer.text[:200]!r}")


async def _hang_up(client: httpx.AsyncClient, path: str, question: dict[str, str], headers: dict[str, str]) -> None:
    """Read the beginning of a streamed answer and close the connection in the middle of it."""
    lines = 0
    async with client.stream("POST", path, json=question, headers=headers) as answer:
        async for line in answer.aiter_lines():
            lines += line.startswith("data:")
            if lines == LINES_BEFORE_HANG_UP:
                return
    raise DemoError(f"{path} ended after {lines} lines, before the reader could hang up")


def _expect(answer: httpx.Response, status: int) -> None:
    """Raise DemoError unless the answer has the status."""
    if answer.status_code != status:
        text = answer.text[:500] if answer.is_closed else ""
        raise DemoError(f"{answer.url.path} answered {answer.status_code}, not {status}: {text}")
