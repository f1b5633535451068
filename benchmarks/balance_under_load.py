"""Reading a balance while spans come in as fast as the aggregator takes them."""

import random
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks._report import Figure, Report, percentile
from benchmarks._sender import Sender
from benchmarks._server import Server
from benchmarks._spans import USERS, user_id

__all__ = ["run"]

_REQUEST_SPANS = 512
_SENDERS = 16
_READ_INTERVAL_S = 0.025
_SETTLE_TIMEOUT_S = 600.0


def run(quick: bool) -> Report:
    """Reads without load, then under load."""
    duration_s, warm_s = (1.0, 0.5) if quick else (30.0, 5.0)
    with TemporaryDirectory(prefix="otel-credits-bench-") as folder, Server(Path(folder)) as server:
        # So that every user has a balance.
        with Sender(_REQUEST_SPANS, 1, _SENDERS, requests=64) as sender:
            sender.go(server.grpc_port)
            first = sender.sent().totals
        server.wait_committed(first.spans, _SETTLE_TIMEOUT_S)
        _reads(server, min(duration_s, 1.0))
        idle = _reads(server, min(duration_s, 5.0))
        with Sender(_REQUEST_SPANS, 2, _SENDERS, duration_s=duration_s + warm_s) as sender:
            sender.go(server.grpc_port)
            time.sleep(warm_s)
            began, before = time.monotonic(), server.events()
            busy = _reads(server, duration_s)
            rate = (server.events() - before) / (time.monotonic() - began)
            total = first + sender.sent().totals
        server.wait_committed(total.spans, _SETTLE_TIMEOUT_S)
        server.check(total)
    return Report(
        "Balance read while ingesting",
        [
            Figure("p50", percentile(busy, 50), "ms", f"{len(busy)} reads"),
            Figure("p99", percentile(busy, 99), "ms"),
            Figure("p50 without load", percentile(idle, 50), "ms", f"{len(idle)} reads"),
            Figure("p99 without load", percentile(idle, 99), "ms"),
            Figure("committed meanwhile", rate, "events/s"),
        ],
    )


def _reads(server: Server, duration_s: float) -> list[float]:
    """Milliseconds of each read: one reader, at a steady pace as long as it can keep it."""
    chance = random.Random(1)
    taken: list[float] = []
    due = time.monotonic()
    until = due + duration_s
    while due < until:
        began = time.perf_counter()
        if server.balance(user_id(chance.randrange(USERS))) is None:
            raise RuntimeError("a user who was charged has no balance")
        taken.append((time.perf_counter() - began) * 1000)
        due = max(due + _READ_INTERVAL_S, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))
    return taken
