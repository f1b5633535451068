"""Drives the program that sends (`_send.py`)."""

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from otel_credits_aggregator.demo.processes import clean_environment

from benchmarks._spans import Totals

__all__ = ["REPOSITORY", "Sender", "Sent"]

REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Sent:
    """What was sent and acknowledged. Times are of the monotonic clock, which all processes of a machine share."""

    began: float
    ended: float
    cpu_s: float
    requests: int
    refused: int
    totals: Totals

    @property
    def spans_per_s(self) -> float:
        """How fast the receiver acknowledged."""
        return self.totals.spans / (self.ended - self.began)


class Sender:
    """A process that is ready to send inside the block.

    Args:
        spans: in each request.
        seed: of the spans' ids; the same seed gives the same spans.
        senders: threads, each with a connection and a request under way.
        requests: how many to send; they are prepared before the block begins.
        duration_s: without `requests`: how long to send, in seconds.
    """

    def __init__(
        self, spans: int, seed: int, senders: int, *, requests: int | None = None, duration_s: float = 3600.0
    ) -> None:
        options = {"spans": spans, "seed": seed, "senders": senders, "duration-s": duration_s}
        if requests is not None:
            options["requests"] = requests
        self._command = [
            sys.executable,
            "-m",
            "benchmarks._send",
            *(f"--{key}={value}" for key, value in options.items()),
        ]

    def __enter__(self) -> Self:
        self._child = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            env=clean_environment(),
        )
        self._line()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.kill()
        self._child.communicate()

    def go(self, port: int) -> float:
        """Starts to send to a port of this machine; returns the time of the monotonic clock."""
        assert self._child.stdin is not None
        began = time.monotonic()
        self._child.stdin.write(f"{port}\n")
        self._child.stdin.flush()
        return began

    def sent(self) -> Sent:
        """Waits until all is acknowledged."""
        found = json.loads(self._line())
        totals = Totals(**found.pop("totals"))
        return Sent(**found, totals=totals)

    def _line(self) -> str:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise RuntimeError(f"the sender ended with code {self._child.wait()}")
        return line
