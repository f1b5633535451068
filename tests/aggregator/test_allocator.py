"""Memory that requests took is given back to the system when they are gone."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
from support.processes import clean_environment

# Each thread holds a large request and then a smaller one, as senders do, and keeps something small of each.
_REQUESTS_COME_AND_GO = """
import re, sys, threading
from pathlib import Path
from otel_credits_aggregator.allocator import give_memory_back

def resident_mib():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) >> 10

kept = []
barrier = threading.Barrier(16)

def requests():
    for size in (8 << 20, 4 << 20, 4 << 20):
        barrier.wait()
        request = bytearray(size)
        kept.append(bytes(1000))
        barrier.wait()
        del request

if sys.argv[1] == "on":
    give_memory_back()
before = resident_mib()
threads = [threading.Thread(target=requests) for _ in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(resident_mib() - before)
"""


def kept_mib(switch: str) -> int:
    """What the process has more than before, in MiB, after requests of 16 senders came and went."""
    command = [sys.executable, "-c", _REQUESTS_COME_AND_GO, switch]
    return int(subprocess.run(command, env=clean_environment(), capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_large_requests_leave_no_memory_behind() -> None:
    """After many large requests at once the process keeps little of what they took; by itself it would keep more."""
    assert kept_mib("on") < 16 < kept_mib("off")
