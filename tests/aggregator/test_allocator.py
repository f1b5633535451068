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


def printed(program: str, *arguments: str) -> list[int]:
    """The numbers that a program in a process of its own prints."""
    command = [sys.executable, "-c", program, *arguments]
    answer = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, check=True).stdout
    return [int(number) for number in answer.split()]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_large_requests_leave_no_memory_behind() -> None:
    """After many large requests at once the process keeps little of what they took; by itself it would keep more."""
    (kept,), (kept_by_itself,) = printed(_REQUESTS_COME_AND_GO, "on"), printed(_REQUESTS_COME_AND_GO, "off")
    assert kept < 16 < kept_by_itself


# Blocks too small to be mapped by themselves, and something that stays in use behind each.
_FREE_BETWEEN_USED = """
import re, sys
from pathlib import Path
from otel_credits_aggregator.allocator import trim

def resident_mib():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) >> 10

before = resident_mib()
blocks, kept = [], []
for _ in range(1000):
    blocks.append(bytearray(100 << 10))
    kept.append(bytes(1000))
del blocks
if sys.argv[1] == "on":
    trim()
print(resident_mib() - before)
"""

_ENGINE_GOES_ON = """
import re
from pathlib import Path
from otel_credits_aggregator.allocator import unmap_code
from otel_credits_aggregator.store import connect, rows

def mapped_mib():
    return int(re.search(r"RssFile:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) >> 10

client = connect("chdb://memory")
before = mapped_mib()
unmap_code()
print(before, mapped_mib())
assert rows(client, "SELECT sum(number) AS total FROM numbers(1000)") == [{"total": 499500}]
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc has malloc_trim; with another C library trim() does nothing"
)
def test_what_is_free_between_blocks_in_use_is_given_back() -> None:
    """Memory that was freed goes back to the system also if something behind it is still in use."""
    (left,), (left_by_itself,) = printed(_FREE_BETWEEN_USED, "on"), printed(_FREE_BETWEEN_USED, "off")
    assert left < 16 < left_by_itself


@pytest.mark.skipif(
    platform.system() != "Linux", reason="only Linux has /proc/self/smaps; elsewhere unmap_code() does nothing"
)
def test_code_that_only_a_start_needs_is_resident_no_longer() -> None:
    """Of the engine's code less is resident after it was unmapped, and the engine works on."""
    before, after = printed(_ENGINE_GOES_ON)
    assert after < before / 2
