"""Apps of tests/instrumentation/apps under a real uvicorn, as a process of its own."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import httpx

from support import plain_http
from support.otlp_sink import OtlpSink
from support.processes import Process, free_port

APPS = Path(__file__).resolve().parents[1] / "instrumentation" / "apps"


@contextmanager
def serving(
    app: str, sink: OtlpSink | str, log_dir: Path, *, auto: bool = False, **env: str
) -> Iterator[SimpleNamespace]:
    """uvicorn with `app`, sending to `sink` (or to the endpoint of this address)."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        app,
        "--port",
        str(port),
        "--app-dir",
        str(APPS),
        "--log-level",
        "warning",
    ]
    if auto:
        command = [str(Path(sys.executable).with_name("opentelemetry-instrument")), *command]
    endpoint = sink if isinstance(sink, str) else sink.endpoint
    env = {"OTEL_CREDITS_ENDPOINT": endpoint, **env}
    with Process(f"uvicorn-{port}", command, log_dir=log_dir, env=env) as process:
        url = f"http://127.0.0.1:{port}"
        process.wait_for(lambda: answers(url), 60, "uvicorn answers")
        yield SimpleNamespace(
            url=url, port=port, process=process, get=lambda path, **more: plain_http.get(url + path, timeout=60, **more)
        )


def answers(url: str) -> bool:
    """Whether something answers."""
    try:
        plain_http.get(f"{url}/docs", timeout=10)
    except httpx.TransportError:
        return False
    return True


def stop(served: SimpleNamespace) -> None:
    """SIGTERM, and wait for the end."""
    served.process.send_signal(signal.SIGTERM)
    served.process.wait(60)
