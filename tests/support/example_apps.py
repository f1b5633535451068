"""The apps of ``examples/`` as running processes, and what a test asks of them and of the ledger."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import httpx
from otel_credits_aggregator.demo._api import Api, served_requests
from otel_credits_aggregator.demo.stack import Stack

from support import plain_http
from support.processes import Process, wait_until

EXAMPLES = Path(__file__).parents[2] / "examples"
CHARGED_TIMEOUT_S = 60.0
SCRIPT_TIMEOUT_S = 60.0
REQUEST_TIMEOUT_S = 30.0


class ExampleApps:
    """Aggregator, model server, chat app under uvicorn, Celery worker on Redis; ready inside the block.

    Args:
        data_dir: for the embedded store, the logs and the broker.
        aggregator_env: further settings of the aggregator.
    """

    def __init__(self, data_dir: Path, aggregator_env: Mapping[str, str] | None = None) -> None:
        self._stack = Stack(data_dir, EXAMPLES, seed=7, aggregator_env=aggregator_env)
        self.api = Api(self._stack.api_url)

    @property
    def api_url(self) -> str:
        """The aggregator's API, what ``OTEL_CREDITS_URL`` wants."""
        return self._stack.api_url

    def __enter__(self) -> Self:
        self._stack.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.api.close()
        self._stack.__exit__(*error)

    def ask(self, method: str, path: str, user_id: uuid.UUID, **options: Any) -> httpx.Response:
        """Send a request of a signed-in user to the chat app."""
        headers = {"X-User-Id": str(user_id)}
        url = f"{self._stack.app_url}{path}"
        return plain_http.request(method, url, headers=headers, timeout=REQUEST_TIMEOUT_S, **options)

    def hang_up(self, path: str, user_id: uuid.UUID, question: dict[str, str], after_lines: int) -> None:
        """Send a question and close the connection after so many lines of text."""
        headers = {"X-User-Id": str(user_id)}
        with httpx.stream("POST", f"{self._stack.app_url}{path}", json=question, headers=headers) as answer:
            texts = (line for line in answer.iter_lines() if line.startswith("data:"))
            for _ in range(after_lines):
                next(texts)

    def run_script(self, name: str, *arguments: str) -> int:
        """Run one of the example scripts to its end and return its exit code."""
        command = [sys.executable, str(EXAMPLES / name), *arguments]
        script = Process(Path(name).stem, command, log_dir=self._stack.log_dir, env=self._stack.app_env)
        with script:
            return script.wait(SCRIPT_TIMEOUT_S)

    def events(self, user_id: uuid.UUID, count: int) -> list[dict[str, Any]]:
        """Wait until the user has at least ``count`` events and return all, oldest first."""
        query = f"SELECT * FROM credit_usage_events WHERE user_id = '{user_id}' ORDER BY created_at"
        wait_until(lambda: len(self.api.sql(query)) >= count, CHARGED_TIMEOUT_S, f"{count} events of {user_id}")
        return self.api.sql(query)

    def served(self, user_id: uuid.UUID) -> list[dict[str, Any]]:
        """Return the model server's own record of what it served the user."""
        return [entry for entry in served_requests(self._stack.llm_url) if entry["user_id"] == str(user_id)]
