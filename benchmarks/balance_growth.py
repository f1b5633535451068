"""Reading a balance from a store with many events beside one with few."""

import json
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from otel_credits_aggregator.demo.processes import clean_environment

from benchmarks._process import wait_quiet
from benchmarks._report import Figure, Report, Target, median, percentile
from benchmarks._sender import REPOSITORY
from benchmarks._server import Server
from benchmarks._spans import INPUT_TOKENS_MAX, OUTPUT_TOKENS_MAX, Totals, user_id

__all__ = ["run"]

_TARGET = Target(1.5)
_EVENTS_PER_USER = 100
_QUIET_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class _Filled:
    """A store, and what the table behind the balances looked like when the last event was in."""

    data_dir: Path
    events: int
    users: int
    parts: int
    rows: int


def run(quick: bool) -> Report:
    """Fills two stores, and reads from both in turn."""
    sizes, reads = ((200, 2_000), 20) if quick else ((100_000, 10_000_000), 500)
    with TemporaryDirectory(prefix="otel-credits-bench-") as folder, ExitStack() as stack:
        stores = [_fill(Path(folder) / str(events), events) for events in sizes]
        servers = [stack.enter_context(Server(store.data_dir)) for store in stores]
        for server, events in zip(servers, sizes, strict=True):
            server.check(_totals(events))
        _reads(servers, stores, min(reads, 50))
        wait_quiet([server.pid for server in servers], _QUIET_TIMEOUT_S)
        few, many = _reads(servers, stores, reads)
    return Report(
        f"Balance read at {sizes[1]:,} events beside {sizes[0]:,}",
        [
            *(_figure(store, taken) for store, taken in zip(stores, (few, many), strict=True)),
            Figure("**ratio of the medians**", median(many) / median(few), "", "", _TARGET),
            Figure("ratio of the p99", percentile(many, 99) / percentile(few, 99)),
        ],
        [
            f"{_EVENTS_PER_USER} events a user. When the last event was in, the totals behind the balances were "
            + ", and ".join(f"{store.rows:,} rows in {store.parts} parts" for store in stores)
            + "."
        ],
    )


def _fill(data_dir: Path, events: int) -> _Filled:
    began = time.monotonic()
    users = max(1, events // _EVENTS_PER_USER)
    options = {"dsn": f"chdb://{data_dir / 'store'}", "events": events, "users": users}
    data_dir.mkdir(parents=True)
    command = [sys.executable, "-m", "benchmarks._fill", *(f"--{key}={value}" for key, value in options.items())]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, cwd=REPOSITORY, env=clean_environment()
    )
    print(f"  {events:,} events in {time.monotonic() - began:.0f} s", flush=True)
    return _Filled(data_dir, events, users, **json.loads(done.stdout.splitlines()[-1]))


def _totals(events: int) -> Totals:
    """What `_fill.py` books: 1, 2, 3 ... tokens, from the start again after the highest."""

    def tokens(highest: int) -> int:
        rounds, rest = divmod(events, highest)
        return rounds * highest * (highest + 1) // 2 + rest * (rest + 1) // 2

    return Totals(events, tokens(INPUT_TOKENS_MAX), tokens(OUTPUT_TOKENS_MAX))


def _reads(servers: Sequence[Server], stores: Sequence[_Filled], reads: int) -> list[list[float]]:
    """Milliseconds of each read, for each store; random users."""
    chance = random.Random(1)
    taken: list[list[float]] = [[] for _ in servers]
    for _ in range(reads):
        for server, store, mine in zip(servers, stores, taken, strict=True):
            user = user_id(chance.randrange(store.users))
            began = time.perf_counter()
            if server.balance(user) is None:
                raise RuntimeError("a user who was charged has no balance")
            mine.append((time.perf_counter() - began) * 1000)
    return taken


def _figure(store: _Filled, taken: Sequence[float]) -> Figure:
    detail = f"p99 {percentile(taken, 99):.2f} ms, {len(taken)} reads"
    return Figure(f"{store.events:,} events, {store.users:,} users: p50", percentile(taken, 50), "ms", detail)
