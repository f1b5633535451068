"""A folder of an embedded store as the migrations leave it, to be copied for tests that are about something else."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from functools import cache
from pathlib import Path

from otel_credits_aggregator.demo.processes import clean_environment

__all__ = ["copy_migrated_store"]

_MIGRATE_TIMEOUT_S = 300.0
_making = threading.Lock()


def copy_migrated_store(path: Path) -> None:
    """Make a folder of a store there that nobody has used."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A cache alone lets two threads make one each, and removes the one that it does not keep while it is copied.
    with _making:
        store = Path(_made().name) / "store"
    subprocess.run(["cp", "-R", str(store), str(path)], check=True)


@cache
def _made() -> tempfile.TemporaryDirectory[str]:
    """Made once by the real command, which has ended before it is copied; removed when this process ends."""
    folder = tempfile.TemporaryDirectory(prefix="otel-credits-migrated-")
    command = [sys.executable, "-m", "otel_credits_aggregator", "migrate"]
    env = clean_environment({"OTEL_CREDITS_DATA_DIR": folder.name})
    subprocess.run(command, env=env, check=True, capture_output=True, timeout=_MIGRATE_TIMEOUT_S)
    return folder
