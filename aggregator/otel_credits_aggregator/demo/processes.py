"""Children of a program: start them on free ports, wait for a condition, end them by their own ids.

The demo runs every part as a process of its own, and so do the tests; both use this file.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

POLL_INTERVAL_S = 0.05
LOG_TAIL_LINES = 30

# Below Linux's ephemeral range (32768-60999): no outgoing connection takes the port between the look and the use.
ports = range(15000, 32000)
_handed_out: set[int] = set()


class WaitTimeout(AssertionError):
    """A condition did not come true before its deadline."""


def free_port() -> int:
    """Return a TCP port of 127.0.0.1, one of `ports`, that nothing listens on and that this process has not handed out before.

    Raises:
        OSError: no free port was found in 1,000 attempts.
    """
    for _ in range(1000):
        port = random.choice(ports)
        if port not in _handed_out and _can_bind(port):
            _handed_out.add(port)
            return port
    raise OSError(f"no free port in {ports}")


def _can_bind(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def accepts_connections(port: int) -> bool:
    """Tell whether something on 127.0.0.1 accepts a TCP connection on ``port`` now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until(
    predicate: Callable[[], object], timeout_s: float, message: str, *, interval_s: float = POLL_INTERVAL_S
) -> None:
    """Poll ``predicate`` until it is true.

    Args:
        predicate: called again and again; what it raises is not caught.
        timeout_s: the deadline, in seconds from now.
        message: says what was waited for, in the error.
        interval_s: the pause between two calls, in seconds.

    Raises:
        WaitTimeout: (an ``AssertionError``) the deadline passed.
    """
    deadline = time.monotonic() + timeout_s
    while not predicate():
        if time.monotonic() >= deadline:
            raise WaitTimeout(f"not within {timeout_s:g} s: {message}")
        time.sleep(interval_s)


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment without any ``OTEL_*`` variable, with ``extra`` laid over it.

    A variable of the developer's own shell would otherwise send a child's telemetry somewhere else.
    """
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    return inherited | {"PYTHONUNBUFFERED": "1"} | dict(extra or {})


class Process:
    """One child process with its output in a file; a context manager that leaves no child behind.

    Args:
        name: for messages and the log file's name.
        command: program and arguments.
        env: laid over `clean_environment`.
        cwd: the child's current directory.
        log_dir: where ``<name>.log`` is written (appended to, so that a restart keeps the history).
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log_dir: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.name = name
        self.command = list(command)
        self.env = dict(env or {})
        self.cwd = cwd
        self.log_path = log_dir / f"{name}.log"
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Start the child in a session of its own, so that a Ctrl-C in the terminal reaches only its starter.

        Raises:
            RuntimeError: it is already running.
            OSError: the program cannot be started.
        """
        if self.is_running:
            raise RuntimeError(f"{self.name} is already running")
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self._child = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=clean_environment(self.env),
                cwd=self.cwd,
                start_new_session=True,
            )
        return self

    @property
    def pid(self) -> int:
        """The child's process id. Raises RuntimeError if it was never started."""
        return self._started().pid

    @property
    def is_running(self) -> bool:
        """Whether the child was started and has not ended."""
        return self._child is not None and self._child.poll() is None

    @property
    def returncode(self) -> int | None:
        """The exit code (negative: the signal that ended it), or None while it runs."""
        return self._started().poll()

    def output(self) -> str:
        """Everything the child has written to stdout and stderr so far."""
        if not self.log_path.exists():
            return ""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def tail(self, lines: int = LOG_TAIL_LINES) -> str:
        """The last lines of `output`, for an error message."""
        return "\n".join(self.output().splitlines()[-lines:])

    def send_signal(self, signal_number: signal.Signals) -> None:
        """Send a signal to the child itself (not to its children)."""
        self._started().send_signal(signal_number)

    def wait(self, timeout_s: float) -> int:
        """Wait for the child's end and return its exit code. Raises WaitTimeout after ``timeout_s`` seconds."""
        try:
            return self._started().wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise WaitTimeout(f"{self.name} did not end within {timeout_s:g} s\n{self.tail()}") from None

    def wait_for(self, is_ready: Callable[[], object], timeout_s: float, message: str) -> None:
        """Wait until ``is_ready`` is true; give up at once, with the child's last words, if the child ends.

        Raises:
            WaitTimeout: the deadline passed.
            RuntimeError: the child ended.
        """

        def ready_or_ended() -> object:
            if not self.is_running:
                raise RuntimeError(f"{self.name} ended with code {self.returncode}\n{self.tail()}")
            return is_ready()

        try:
            wait_until(ready_or_ended, timeout_s, message)
        except WaitTimeout as error:
            raise WaitTimeout(f"{error}\n{self.tail()}") from None

    def terminate(self, timeout_s: float = 20.0) -> int:
        """Ask the child to end (SIGTERM) and return its exit code; kill it if it is not gone after ``timeout_s``."""
        if self.is_running:
            self.send_signal(signal.SIGTERM)
            try:
                return self.wait(timeout_s)
            except WaitTimeout:
                return self.kill()
        return self._started().wait()

    def kill(self) -> int:
        """End the child and the children it started, at once (SIGKILL), and return its exit code."""
        child = self._started()
        if child.poll() is None:
            # The child leads its own group, so its own children (Celery's pool, say) end with it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
        return child.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._child is not None:
            self.terminate()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._child is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._child
