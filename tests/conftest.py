"""Fixtures that every test may use, and the order of the tests."""

import gc
import signal
from collections import Counter
from pathlib import Path

import pytest

# A shell starts what runs in its background with SIGINT ignored, and children inherit that; some tests interrupt theirs.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Folders with files that take long. Begun first, so that no core waits for the last of them at the end.
_LONG_FIRST = ("chaos", "benchmarks", "e2e", "security", "aggregator", "instrumentation")
# Of the long ones, single tests that take longer than any other.
_LONGEST = ("test_oracle.py", "test_storm.py")

# What is imported and collected lives until the end: Python's collector need not look through it while it is made, nor later.
gc.disable()

pytest_plugins = ("support.store", "support.chain", "support.clickhouse_http.fixture", "support.explicit_calls")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the folders with the longest tests first."""

    def rank(item: pytest.Item) -> int:
        if item.path.name in _LONGEST and item.get_closest_marker("long"):
            return -1
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        return _LONG_FIRST.index(folder) if folder in _LONG_FIRST else len(_LONG_FIRST)

    items.sort(key=rank)
    _assert_told_apart(items)


def pytest_collection_finish() -> None:
    """Has garbage collected from now on."""
    gc.freeze()
    gc.enable()


def _assert_told_apart(items: list[pytest.Item]) -> None:
    """Of tests with one id only the first would run where several processes share them (`--dist loadfile`)."""
    twice = [name for name, times in Counter(item.nodeid for item in items).items() if times > 1]
    if twice:
        raise pytest.UsageError(f"tests with one and the same id: {', '.join(twice)}")
