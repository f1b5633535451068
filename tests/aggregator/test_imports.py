"""How the command imports itself, and the engine."""

import gc
import subprocess
import sys
import weakref

from otel_credits_aggregator.imports import without_collecting
from support.processes import clean_environment

EMBEDDED = """
import sys
from otel_credits_aggregator.store import connect, rows
with connect("chdb://memory") as client:
    print(rows(client, "SELECT 1 AS one"), {"numpy", "pandas", "pyarrow"} & {*sys.modules})
"""


class Cycle:
    """Refers to itself, so that only the collector can free it."""

    def __init__(self) -> None:
        self.itself = self


def test_garbage_is_collected_only_after_the_imports() -> None:
    """Within the block the collector rests; afterwards it works, and leaves alone what was imported."""
    try:
        with without_collecting():
            assert not gc.isenabled()
        assert gc.isenabled()
        assert gc.get_freeze_count() > 0
        made_later = weakref.ref(Cycle())
        gc.collect()
        assert made_later() is None
    finally:
        gc.unfreeze()


def test_the_engine_comes_without_what_it_is_not_asked_for() -> None:
    """The embedded engine answers, and has loaded neither pyarrow nor numpy nor pandas."""
    done = subprocess.run([sys.executable, "-c", EMBEDDED], capture_output=True, text=True, env=clean_environment())
    assert (done.stdout, done.stderr) == ("[{'one': 1}] set()\n", "")
