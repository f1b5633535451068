"""The processes of the demo: started together, ready together, ended in the order that loses nothing."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from otel_credits_aggregator.demo._api import answers_ok
from otel_credits_aggregator.demo.processes import Process, accepts_connections, free_port

READY_TIMEOUT_S = 60.0
WORKER_PROCESSES = 2
# The apps trace 10 % of their requests; usage is not sampled.
TRACES_SAMPLED = "0.1"


class Stack:
    """Everything the demo runs: broker, aggregator, model server, chat app, Celery worker.

    As a context manager it is ready inside the block; at the end, also after an error, each process that was started is
    ended by its id, those that send usage before the one that receives it.

    Args:
        data_dir: for the store, the broker's files and the logs.
        examples: folder of the example apps.
        seed: for the model server.
        aggregator_env: further settings of the aggregator, for example another store.
    """

    def __init__(
        self, data_dir: Path, examples: Path, seed: int, aggregator_env: Mapping[str, str] | None = None
    ) -> None:
        self.data_dir = data_dir
        self.log_dir = data_dir / "logs"
        self._examples = examples
        self._seed = seed
        self._aggregator_env = dict(aggregator_env or {})
        self._api_port, self._grpc_port, self._http_port = free_port(), free_port(), free_port()
        self._llm_port, self._app_port, self._redis_port = free_port(), free_port(), free_port()
        self._redis = shutil.which("redis-server")
        self._exit_stack = ExitStack()
        self._starting: list[tuple[Process, Callable[[], object]]] = []

    @property
    def api_url(self) -> str:
        """Address of the aggregator's API."""
        return f"http://127.0.0.1:{self._api_port}"

    @property
    def llm_url(self) -> str:
        """Address of the model server."""
        return f"http://127.0.0.1:{self._llm_port}"

    @property
    def app_url(self) -> str:
        """Address of the chat app."""
        return f"http://127.0.0.1:{self._app_port}"

    @property
    def broker_url(self) -> str:
        """Celery's broker: the Redis started here, or files where there is no Redis."""
        return f"redis://127.0.0.1:{self._redis_port}/0" if self._redis else "filesystem://"

    @property
    def app_env(self) -> dict[str, str]:
        """The environment of whatever tracks usage: the standard OpenTelemetry settings, nothing else."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self._grpc_port}",
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": TRACES_SAMPLED,
        }

    def addresses(self) -> dict[str, str]:
        """What can be looked at while it runs."""
        return {
            "aggregator (API, /metrics, /docs)": self.api_url,
            "OTLP/gRPC": f"http://127.0.0.1:{self._grpc_port}",
            "OTLP/HTTP": f"http://127.0.0.1:{self._http_port}",
            "chat app (/docs)": self.app_url,
            "model server (/_served)": self.llm_url,
            "Celery broker": self.broker_url,
            "logs": str(self.log_dir),
        }

    def __enter__(self) -> Self:
        with self._exit_stack:
            # Started first, ended last: what others still send to while they end.
            self._start_aggregator()
            self._start_llm()
            if self._redis:
                self._start_redis(self._redis)
            self._start_worker()
            self._start_app()
            for process, is_ready in self._starting:
                process.wait_for(is_ready, READY_TIMEOUT_S, f"{process.name} is ready")
            self._exit_stack = self._exit_stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit_stack.close()

    def _start(self, name: str, command: list[str], is_ready: Callable[[], object], env: dict[str, str]) -> None:
        process = Process(name, command, log_dir=self.log_dir, env=env, cwd=self.data_dir)
        self._exit_stack.enter_context(process)
        self._starting.append((process, is_ready))

    def _start_aggregator(self) -> None:
        env = {
            "OTEL_CREDITS_DATA_DIR": str(self.data_dir / "aggregator"),
            "OTEL_CREDITS_HOST": "127.0.0.1",
            "OTEL_CREDITS_GRPC_PORT": str(self._grpc_port),
            "OTEL_CREDITS_HTTP_PORT": str(self._http_port),
            "OTEL_CREDITS_API_PORT": str(self._api_port),
        }
        command = [sys.executable, "-m", "otel_credits_aggregator", "serve"]
        self._start("aggregator", command, lambda: answers_ok(f"{self.api_url}/readyz"), env | self._aggregator_env)

    def _start_llm(self) -> None:
        script = str(self._examples / "llm_server.py")
        command = [sys.executable, script, "--port", str(self._llm_port), "--seed", str(self._seed)]
        self._start("llm-server", command, lambda: answers_ok(f"{self.llm_url}/_served"), {})

    def _start_redis(self, program: str) -> None:
        where = ["--bind", "127.0.0.1", "--port", str(self._redis_port), "--dir", str(self.data_dir)]
        command = [program, *where, "--save", "", "--appendonly", "no"]
        self._start("redis", command, lambda: accepts_connections(self._redis_port), {})

    def _start_worker(self) -> None:
        ready_file = self.data_dir / "worker-ready"
        env = self._celery_env("workflow-worker") | {"CELERY_READY_FILE": str(ready_file)}
        options = ["--concurrency", str(WORKER_PROCESSES), "--loglevel", "warning", "--without-mingle"]
        command = [sys.executable, "-m", "celery", "-A", "tasks", "worker", *options]
        self._start("worker", command, ready_file.exists, env)

    def _start_app(self) -> None:
        # The model server holds the real key, if there is one; the app only has to have some key.
        env = self._celery_env("chat-app") | {"ANTHROPIC_BASE_URL": self.llm_url, "ANTHROPIC_API_KEY": "held-elsewhere"}
        options = ["--host", "127.0.0.1", "--port", str(self._app_port), "--log-level", "warning"]
        command = [sys.executable, "-m", "uvicorn", "chat_app:app", *options]
        self._start("chat-app", command, lambda: answers_ok(f"{self.app_url}/healthz"), env)

    def _celery_env(self, service_name: str) -> dict[str, str]:
        """The environment of both ends of the queue."""
        python_path = os.pathsep.join(filter(None, (str(self._examples), os.environ.get("PYTHONPATH"))))
        return self.app_env | {
            "PYTHONPATH": python_path,
            "OTEL_SERVICE_NAME": service_name,
            "CELERY_BROKER_URL": self.broker_url,
            "CELERY_BROKER_DIR": str(self.data_dir / "broker"),
        }
