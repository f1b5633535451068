"""`meter.add` in one thread: additions each second, and the memory that they take."""

import time
import tracemalloc

import otel_credits
from otel_credits import _runtime, credits_meter

from benchmarks._report import Figure, Report, Target, median, spread
from benchmarks.app_spool import Discard

__all__ = ["run"]

_TARGET = Target(1_000_000, at_least=True)
_SERIES = 1000


def run(quick: bool) -> Report:
    """Rounds of additions to 1,000 series, then as many with their memory traced."""
    turns, rounds = (10, 2) if quick else (1000, 15)
    discard = Discard()
    otel_credits.configure(exporter=None, capture_spans=False, endpoint="http://127.0.0.1:1", meter_interval_s=1)
    pipeline = _runtime._pipeline
    assert pipeline is not None
    pipeline.thread._factory = lambda: discard
    meter, users = credits_meter("storage", unit="byte"), [f"user-{number}" for number in range(_SERIES)]

    def additions() -> float:
        began = time.perf_counter()
        for _ in range(turns):
            for user in users:
                meter.add(4096, user_id=user)
        return turns * _SERIES / (time.perf_counter() - began)

    additions()
    rates = [additions() for _ in range(rounds)]
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    additions()
    grown = max(0, tracemalloc.get_traced_memory()[0] - before)
    tracemalloc.stop()
    if not otel_credits.flush(30) or discard.quantity != 4096 * turns * _SERIES * (rounds + 2):
        raise RuntimeError(f"{discard.quantity} bytes arrived")
    return Report(
        "Metering",
        [
            Figure("**additions**", median(rates), "a second", spread(rates), _TARGET),
            Figure(f"memory that {turns * _SERIES:,} additions took", grown, "bytes"),
        ],
        [f"{_SERIES:,} series, an export every second; the sum of what arrived is exactly what was added."],
    )
