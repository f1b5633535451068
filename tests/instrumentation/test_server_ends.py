"""Every way in which an app server ends, reloads or replaces a process: as many usages recorded as received.

Real uvicorn and gunicorn, and a real OTLP/gRPC receiver (`support.otlp_sink`). The export interval is an hour, so what
arrives was delivered because the process ended. (Measured with the SDK's own pipeline: 0 of them.)
"""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from support import plain_http
from support.otlp_sink import OtlpSink
from support.processes import Process, free_port, wait_until
from support.samples import others_long

APPS = Path(__file__).parent / "apps"
REQUESTS = 20
PATIENCE_S = 90


class Server:
    """A running app server."""

    def __init__(self, process: Process, url: str) -> None:
        self.process = process
        self.url = url

    def use(self, count: int) -> set[int]:
        """Make `count` requests that are charged, each on a connection of its own. Returns who answered."""
        pids = set()
        for _ in range(count):
            answer = plain_http.get(f"{self.url}/pid", headers={"authorization": "token-alice"}, timeout=30)
            assert answer.status_code == 200
            pids.add(int(answer.json()))
        return pids

    def answers(self) -> bool:
        """Whether something answers."""
        try:
            return plain_http.get(f"{self.url}/docs", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def stop(self, number: signal.Signals) -> None:
        """Send the signal and wait for the end."""
        self.process.send_signal(number)
        self.process.wait(PATIENCE_S)


@pytest.fixture
def serving(sink: OtlpSink, tmp_path: Path) -> Callable[..., object]:
    """`serving(command)` runs an app server of `chat_app` in `tmp_path`."""

    @contextmanager
    def run(module: str, *options: str, **env: str) -> Iterator[Server]:
        port = free_port()
        bind = ["--bind", f"127.0.0.1:{port}"] if module == "gunicorn" else ["--port", str(port)]
        env = {
            "OTEL_CREDITS_ENDPOINT": sink.endpoint,
            "OTEL_CREDITS_EXPORT_INTERVAL_S": "3600",
            "OTEL_CREDITS_SHUTDOWN_TIMEOUT_S": "30",
            "PYTHONPATH": os.pathsep.join([str(APPS), os.environ.get("PYTHONPATH", "")]),
            **env,
        }
        command = [sys.executable, "-m", module, "chat_app:app", *bind, *options]
        with Process(module, command, log_dir=tmp_path, env=env, cwd=tmp_path) as process:
            server = Server(process, f"http://127.0.0.1:{port}")
            process.wait_for(server.answers, PATIENCE_S, f"{module} answers")
            yield server

    return run


def assert_all_arrived(sink: OtlpSink, count: int) -> None:
    """Exactly `count` usages arrived, each process's with numbers without a gap, and its counters agree."""
    assert len(sink.usages()) == len({span.span_id for span in sink.usages()}) == count
    by_instance = Counter(span.resource["service.instance.id"] for span in sink.usages())
    for instance, received in by_instance.items():
        numbers = [s.attributes["credits.seq"] for s in sink.usages() if s.resource["service.instance.id"] == instance]
        assert sorted(numbers) == list(range(1, received + 1))
        assert sink.counters()[instance] == {"recorded": received, "exported": received, "waiting": 0}
    assert sum(counts["recorded"] for counts in sink.counters().values()) == count


@pytest.mark.parametrize("number", others_long([signal.SIGTERM, signal.SIGINT], short=[signal.SIGTERM]))
def test_uvicorn_workers_stopped(serving: Callable[..., object], sink: OtlpSink, number: signal.Signals) -> None:
    """uvicorn with workers is stopped right after the requests: all usages arrive. (test_fastapi.py stops one alone.)"""
    with serving("uvicorn", "--workers", "2") as server:  # type: ignore[attr-defined]
        server.use(REQUESTS)
        server.stop(number)
    assert_all_arrived(sink, REQUESTS)


def test_uvicorn_reloaded(serving: Callable[..., object], sink: OtlpSink, tmp_path: Path) -> None:
    """uvicorn --reload replaces its process when a file changes: the usages of the old one arrive."""
    watched = tmp_path / "code"
    watched.mkdir()
    (watched / "changed.py").write_text("x = 0\n")
    options = ("--reload", "--reload-dir", str(watched))
    with serving("uvicorn", *options) as server:  # type: ignore[attr-defined]
        (old,) = server.use(REQUESTS)
        (watched / "changed.py").write_text("x = 1\n")
        os.utime(watched / "changed.py", (2e9, 2e9))
        sink.wait_for(lambda: len(sink.usages()) == REQUESTS, PATIENCE_S)
        wait_until(server.answers, PATIENCE_S, "the new process answers")
        (new,) = server.use(5)
        assert new != old
        server.stop(signal.SIGTERM)
    assert_all_arrived(sink, REQUESTS + 5)


GUNICORN = ("-k", "uvicorn_worker.UvicornWorker", "-w", "2", "--graceful-timeout", "60", "--no-control-socket")


@pytest.mark.parametrize("preload", others_long([("--preload",), ()], short=[("--preload",)]))
def test_gunicorn_stopped(serving: Callable[..., object], sink: OtlpSink, preload: tuple[str, ...]) -> None:
    """gunicorn's workers, forked after the app was set up or before, are stopped right after the requests: all
    usages arrive, each worker under an instance id of its own."""
    with serving("gunicorn", *GUNICORN, *preload) as server:  # type: ignore[attr-defined]
        server.use(REQUESTS)
        server.stop(signal.SIGTERM)
    assert_all_arrived(sink, REQUESTS)


def test_gunicorn_reloaded(serving: Callable[..., object], sink: OtlpSink) -> None:
    """On SIGHUP gunicorn replaces its workers: the usages of the old ones and of the new ones arrive."""
    with serving("gunicorn", *GUNICORN, "--preload") as server:  # type: ignore[attr-defined]
        old = server.use(REQUESTS)
        server.process.send_signal(signal.SIGHUP)
        sink.wait_for(lambda: len(sink.usages()) == REQUESTS, PATIENCE_S)
        wait_until(lambda: server.answers() and not _alive(old), PATIENCE_S, "the old workers are gone")
        assert not server.use(REQUESTS) & old
        server.stop(signal.SIGTERM)
    assert_all_arrived(sink, 2 * REQUESTS)


def _alive(pids: set[int]) -> bool:
    return any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.long
def test_gunicorn_recycles_workers(serving: Callable[..., object], sink: OtlpSink) -> None:
    """Workers that end by themselves after some requests (`--max-requests`) deliver what they recorded."""
    options = (*GUNICORN, "--preload", "--max-requests", "6")
    with serving("gunicorn", *options) as server:  # type: ignore[attr-defined]
        answered: Counter[int] = Counter()

        def recycled() -> bool:
            """Whether others than the first two took a request. One that ends may close the connection instead, and
            one that was asked often enough answers on until it looks, ten times a second."""
            with suppress(httpx.TransportError):
                answered.update(server.use(1))
            return len(answered) > 2

        wait_until(recycled, PATIENCE_S, "a third worker answers")
        server.stop(signal.SIGTERM)
    # A request whose connection was closed may have been served all the same: the workers know.
    assert_all_arrived(sink, max(answered.total(), sum(counts["recorded"] for counts in sink.counters().values())))
