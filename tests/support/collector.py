"""A real OpenTelemetry Collector for tests, built once by ``collector/build.sh``, with the shipped configuration."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest

from support import plain_http
from support.processes import ServerProcess, free_port

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = REPOSITORY / "otel-collector.yaml"
SEVERAL_AGGREGATORS = REPOSITORY / "collector" / "several-aggregators.yaml"
BUILD_SCRIPT = REPOSITORY / "collector" / "build.sh"

BUILD_TIMEOUT_S = 1500.0


@functools.cache
def collector_binary() -> Path:
    """Return the Collector's binary, building it if this machine has not yet (minutes, once).

    Raises:
        pytest.skip.Exception: it is not built and there is no Go to build it with.
        RuntimeError: the build failed; the message holds the end of its output.
    """
    path = Path(_build("--print-path").stdout.strip())
    if path.exists():
        return path
    if shutil.which("go") is None and not os.environ.get("CI"):
        pytest.skip("the Collector is not built and Go is not installed: install Go, then `make collector`")
    done = _build()
    if done.returncode != 0:
        raise RuntimeError(f"collector/build.sh failed with {done.returncode}\n{done.stderr[-4000:]}")
    return Path(done.stdout.strip())


def _build(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(BUILD_SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False)


def validate(*configs: Path) -> subprocess.CompletedProcess[str]:
    """Let the Collector itself judge configuration files; later files are laid over earlier ones."""
    command = [str(collector_binary()), "validate", *_config_arguments(configs)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def _config_arguments(configs: tuple[Path, ...]) -> list[str]:
    return [argument for config in configs for argument in ("--config", str(config))]


class CollectorProcess(ServerProcess):
    """A Collector on free ports with its queues under ``data_dir``; a context manager that is ready inside the block.

    Without the block: ``start()``, ``wait_ready()``, ``kill()`` or ``terminate()``, ``start()`` again on the same ports
    and queues.

    Args:
        data_dir: holds the queues and ``collector.log``.
        aggregator: ``host:port`` of the OTLP/gRPC receiver that credits go to.
        env: further settings of otel-collector.yaml.
        configs: the configuration files, later ones laid over earlier ones.
    """

    def __init__(
        self,
        data_dir: Path,
        aggregator: str,
        env: Mapping[str, str] | None = None,
        *,
        configs: tuple[Path, ...] = (CONFIG,),
    ) -> None:
        self.grpc_port, self.http_port = free_port(), free_port()
        self.health_port, self.metrics_port = free_port(), free_port()
        settings = {
            "COLLECTOR_GRPC_PORT": str(self.grpc_port),
            "COLLECTOR_HTTP_PORT": str(self.http_port),
            "COLLECTOR_HEALTH_PORT": str(self.health_port),
            "COLLECTOR_METRICS_PORT": str(self.metrics_port),
            "COLLECTOR_STORAGE_DIR": str(data_dir / "queues"),
            "COLLECTOR_AGGREGATOR_ENDPOINT": aggregator,
        }
        command = [str(collector_binary()), *_config_arguments(configs)]
        super().__init__("collector", command, log_dir=data_dir, env=settings | dict(env or {}))

    @property
    def grpc_endpoint(self) -> str:
        """Where OTLP/gRPC goes."""
        return f"http://127.0.0.1:{self.grpc_port}"

    @property
    def http_endpoint(self) -> str:
        """Where OTLP/HTTP goes (the base; signals live under ``/v1/``)."""
        return f"http://127.0.0.1:{self.http_port}"

    def is_ready(self) -> bool:
        """Whether the health check answers 200."""
        try:
            return plain_http.get(f"http://127.0.0.1:{self.health_port}/", timeout=5.0).status_code == 200
        except httpx.HTTPError:
            return False

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of its own series of that name whose labels include the given ones."""
        text = plain_http.get(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=30.0).text
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        lines = [line for line in text.splitlines() if line.startswith(name) and line[len(name)] in "{ "]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if all(label in line for label in wanted))
