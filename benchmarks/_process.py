"""What a process uses of the machine, from /proc."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

__all__ = ["cpu_seconds", "forget_peak", "memory_bytes", "wait_quiet"]

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_WINDOW_S = 0.5
_QUIET_CORES = 0.05


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far, in seconds, its own and the system's on its behalf."""
    # The name, in parentheses, may have blanks; after it come state and 10 more fields, then utime and stime.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def memory_bytes(pid: int) -> dict[str, int]:
    """VmHWM (peak resident), VmRSS (resident now), RssAnon (of that, not backed by a file) in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    pairs = (line.split(":") for line in lines)
    return {key: int(value.split()[0]) * 1024 for key, value in pairs if key in {"VmHWM", "VmRSS", "RssAnon"}}


def forget_peak(pid: int) -> None:
    """Begins the peak of resident memory (VmHWM) of a process anew, at what it has now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def wait_quiet(pids: Sequence[int], timeout_s: float) -> bool:
    """Waits until processes rest (merges in the background are done); returns whether they do."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        before = sum(map(cpu_seconds, pids))
        time.sleep(_WINDOW_S)
        if sum(map(cpu_seconds, pids)) - before <= _QUIET_CORES * _WINDOW_S:
            return True
    return False
