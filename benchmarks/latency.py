"""From a usage to its balance, at a low rate, everything with its default settings."""

import json
import sys
import time
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory

from otel_credits_aggregator.demo.processes import Process

from benchmarks._report import Figure, Report, Target, percentile
from benchmarks._sender import REPOSITORY
from benchmarks._server import Server
from benchmarks._spans import Totals

__all__ = ["run"]

_TARGET = Target(1.5)
_USER = "reader-of-balances"
_PER_SECOND = 5.0
_POLL_INTERVAL_S = 0.02
_TIMEOUT_S = 60.0
# What `_app.py` records each time.
_USAGE = Totals(1, 1000, 100)

_Seen = list[tuple[float, int]]


def run(quick: bool) -> Report:
    """Lets the app run, and looks at the balance all the time."""
    usages = 5 if quick else 300
    with TemporaryDirectory(prefix="otel-credits-bench-") as folder, Server(Path(folder)) as server:
        price = _USAGE.credits(server.prices())
        server.balance(_USER)
        options = {"port": server.grpc_port, "user": _USER, "usages": usages, "per-second": _PER_SECOND}
        command = [sys.executable, "-m", "benchmarks._app", *(f"--{key}={value}" for key, value in options.items())]
        with Process("app", command, log_dir=Path(folder), cwd=REPOSITORY) as app:
            seen = _watch(server, price, usages)
            app.wait(_TIMEOUT_S)
        told = json.loads(app.output().splitlines()[-1])
    if not told["delivered"]:
        raise RuntimeError("the app could not deliver all")
    delays = _delays(told["recorded"], seen)
    return Report(
        "Time from a usage to its balance",
        [
            Figure("p50", percentile(delays, 50), "s", f"{len(delays)} usages, {_PER_SECOND:g} a second"),
            Figure("**p99**", percentile(delays, 99), "s", "", _TARGET),
            Figure("longest", max(delays), "s"),
        ],
    )


def _watch(server: Server, price: Decimal, usages: int) -> _Seen:
    """When how many usages were in the balance. All cost the same, so the balance says how many they are."""
    seen: _Seen = []
    last = time.monotonic()
    while not seen or seen[-1][1] < usages:
        balance = server.balance(_USER)
        now = time.monotonic()
        consumed = Decimal(balance["lifetime_consumed"]) if balance else Decimal(0)
        count, rest = divmod(consumed, price)
        if rest or count > usages:
            raise RuntimeError(f"{consumed} credits are not {usages} usages of {price}")
        if not seen or count > seen[-1][1]:
            seen.append((now, int(count)))
            last = now
        if now - last > _TIMEOUT_S:
            raise RuntimeError(f"{count} of {usages} usages are in the balance, and no more came for {_TIMEOUT_S:g} s")
        time.sleep(_POLL_INTERVAL_S)
    return seen


def _delays(recorded: list[float], seen: _Seen) -> list[float]:
    """Seconds from each usage to the first answer that had as many; usages arrive in the order they were recorded."""
    delays: list[float] = []
    for when, count in seen:
        delays += [when - began for began in recorded[len(delays) : count]]
    return delays
