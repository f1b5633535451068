"""The command as an operator uses it, as a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from support.processes import AggregatorProcess, clean_environment

__all__ = ["TIMEOUT_S", "asked", "command", "made"]

COMMAND = (sys.executable, "-m", "otel_credits_aggregator")
TIMEOUT_S = 300.0


def command(*arguments: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """The command as a process of its own, with nothing of this process's settings."""
    return subprocess.run(
        [*COMMAND, *arguments],
        env=clean_environment(env),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def made(data_dir: Path, name: str, *options: str) -> str:
    """A new token of the command's making."""
    done = command("tokens", "add", name, *options, env={"OTEL_CREDITS_DATA_DIR": str(data_dir)})
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def asked(aggregator: AggregatorProcess, *arguments: str) -> str:
    """What the command printed that asked a running aggregator."""
    done = command(*arguments, env={"OTEL_CREDITS_URL": aggregator.url})
    assert done.returncode == 0, done.stderr
    return done.stdout
