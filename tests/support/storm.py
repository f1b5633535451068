"""Storms: an aggregator that is killed again and again, at chosen moments, while clients send; and the sums at the end.

A storm is drawn from a seed: which moment of `fault_points.FAULT_POINTS` is fatal, at which passing, how much later, and what
befalls the store meanwhile. The seed is printed, and OTEL_CREDITS_TEST_SEED repeats it.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx
from otel_credits_aggregator.fault_points import FAULT_POINTS

from support.accounting import Accounting
from support.chaos import (
    BROKEN,
    UNNAMED,
    Oracle,
    assert_nothing_lost_or_doubled,
    assign_unnamed,
    discard_broken,
    quarantined,
    sending,
)
from support.clickhouse_http import ClickHouseHttp, Fault
from support.figures import record
from support.otlp_build import span, traces, usage_span
from support.otlp_clients import post
from support.processes import (
    PATIENCE,
    AggregatorProcess,
    WaitTimeout,
    accepts_connections,
    clean_environment,
    wait_until,
)

__all__ = ["Storm", "assert_reconciled"]

CLIENTS: Final = 3
SETTINGS: Final = {
    "OTEL_CREDITS_INSERT_INTERVAL_S": "0.05",
    # So that what waits after a start is more than one batch, and inserts run side by side.
    "OTEL_CREDITS_INSERT_BYTES_MAX": str(1 << 20),
    "OTEL_CREDITS_RECHECK_INTERVAL_S": "0.2",
    "OTEL_CREDITS_STORE_RETRY_MAX_S": "0.3",
}
# How long a fault point may take to be passed as often as it is to be, before the kill comes anyhow.
PATIENCE_S: Final = 25.0
# How long the store may keep it from getting there.
STORE_PATIENCE_S: Final = 4.0 / PATIENCE
# The same for a start that is to be complete.
START_PATIENCE_S: Final = 12.0 / PATIENCE
# Points that load alone does not pass, or that only a stop does.
_AT_STOP: Final = frozenset({"stop_begun", "stop_inserted"})
_AT_MIGRATION: Final = (
    "migration_statement:1",
    "migration_unrecorded:1",
    "migration_statement:9",
    "migration_unrecorded:2",
)
# What people do to the quarantine, of which each passes these points.
_TREATMENTS: Final = {
    "replay_decided": ("assign", "discard"),
    "replay_inserted": ("replay", "assign"),
    "replay_counted": ("replay", "assign", "discard"),
}
_BESIDE: Final = "batch_beside"
_AT_ISOLATION: Final = frozenset({"batch_split", "raw_quarantined"})
# Field 1 of a ResourceSpans as a number: an unknown field to a protobuf library, an exception to the store.
_NOT_INSERTABLE: Final = bytes([0x0A, 0x02, 0x08, 0x01])
# Kills of another kind: after some time, and of a process that merges the embedded store's parts.
_BY_TIME, _WHILE_MERGING = "any moment", "merge"
# What leaves open whether the store has an insert.
_UNCERTAIN: Final = tuple(
    Fault.model_validate({"action": action, "when": when, "times": 1})
    for action, when in (
        ("cut", "after"),
        ("cut", "during"),
        ("http_500", "after"),
        ("hang", "before"),
        ("die", "after"),
        ("die", "during"),
        ("read_only", "before"),
    )
)

# Merges every table of the embedded store, again and again, until it is killed.
_MERGES = """
import sys
from otel_credits_aggregator.store import connect, rows

client = connect("chdb://" + sys.argv[1])
print("merging", flush=True)
while True:
    for row in rows(client, "SELECT name FROM system.tables WHERE database = currentDatabase() AND engine LIKE '%MergeTree'"):
        client.command("OPTIMIZE TABLE " + row["name"] + " FINAL")
"""


@dataclass
class Storm:
    """Kills of an aggregator over one store that was empty at the beginning."""

    folder: Path
    seed: str
    server_mode: bool = False
    hits: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)
    treatments: Counter[str] = field(default_factory=Counter)
    _rng: random.Random = field(init=False)
    _store: ClickHouseHttp | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._rng = random.Random(f"storm {self.seed}")

    def run(self, kills: int) -> Accounting:
        """Kills so often under load, and asserts that every credit is right."""
        oracle = Oracle()
        with ExitStack() as stack:
            self._store = stack.enter_context(ClickHouseHttp(self.folder / "store")) if self.server_mode else None
            settings = SETTINGS | ({"OTEL_CREDITS_STORE": self._store.dsn()} if self._store else {})
            aggregator = AggregatorProcess(self.folder / "data", settings, migrates=True)
            stack.callback(lambda: aggregator.is_running and aggregator.kill())
            with sending(aggregator, self.seed, oracle, CLIENTS, answered_within_s=None) as sent:
                for number, point in enumerate(self._points(kills), start=1):
                    began = time.monotonic()
                    self._befall()
                    self._kill_at(aggregator, point)
                    self._heal()
                    seconds = time.monotonic() - began
                    print(f"storm {self.seed}: kill {number} of {kills}, {seconds:.1f} s: {point}", flush=True)
                _start(aggregator)
            sums = assert_nothing_lost_or_doubled(aggregator, oracle, sent)
            assert_reconciled(aggregator)
            assert aggregator.terminate() == 0
        self._record(sums, kills)
        return sums

    def _points(self, kills: int) -> Iterator[str]:
        """The moments: migrations first, while there are any, then each of the others in turn, shuffled anew each time."""
        yield from _AT_MIGRATION
        others = [name for name in FAULT_POINTS if not name.startswith("migration")] + [_BY_TIME]
        others += [] if self.server_mode else [_WHILE_MERGING]
        left = kills - len(_AT_MIGRATION)
        while left > 0:
            turn = self._rng.sample(others, min(left, len(others)))
            left -= len(turn)
            yield from turn

    def _kill_at(self, aggregator: AggregatorProcess, point: str) -> None:
        if point == _WHILE_MERGING:
            self._kill_a_merge(self.folder / "data" / "store")
            return
        if point == _BY_TIME:
            _start(aggregator)
            time.sleep(self._rng.uniform(0.0, 2.0))
            self._kill(aggregator, point)
            return
        name, fatal = point.partition(":")[0], point if ":" in point else self._fatal(point)
        _start(aggregator, fatal)
        self._hasten(aggregator, name)
        try:
            self._wait_until_dead(aggregator)
        except WaitTimeout:
            self.missed[name] += 1
            self._kill(aggregator, _BY_TIME)
            return
        assert aggregator.returncode == -signal.SIGKILL, aggregator.tail()
        self.hits[name] += 1

    def _fatal(self, name: str) -> str:
        """At which passing, and how much later: at once half the time, else while what follows is under way."""
        passing = 1 if name in _AT_STOP | _AT_ISOLATION | {_BESIDE, *_TREATMENTS} else self._rng.randint(1, 5)
        late = name not in _AT_STOP and self._rng.random() < 0.5
        return f"{name}:{passing}:{self._rng.uniform(0.001, 0.08):.4f}" if late else f"{name}:{passing}"

    def _hasten(self, aggregator: AggregatorProcess, name: str) -> None:
        """What load alone does not lead to."""
        if name in _AT_STOP:
            with suppress(RuntimeError, WaitTimeout):
                self._wait_ready(aggregator)
                aggregator.send_signal(signal.SIGTERM)
        elif name in _AT_ISOLATION:
            with suppress(RuntimeError, WaitTimeout, httpx.HTTPError):
                aggregator.wait_for(lambda: accepts_connections(aggregator.http_port), PATIENCE_S, "it listens")
                for _ in range(2):
                    post(aggregator.http_endpoint, traces(usage_span()).SerializeToString() + _NOT_INSERTABLE)
        elif name == _BESIDE:
            # Each is a whole batch, and has nothing in common with any other; none is a usage.
            with suppress(RuntimeError, WaitTimeout, httpx.HTTPError):
                self._wait_ready(aggregator)
                for _ in range(10):
                    post(aggregator.http_endpoint, traces(span({"note": "x" * (1 << 20)})).SerializeToString())
        elif name in _TREATMENTS:
            treatment = self._rng.choice(_TREATMENTS[name])
            with suppress(RuntimeError, WaitTimeout, httpx.HTTPError):
                self._wait_ready(aggregator)
                self._treat(aggregator, treatment)

    def _treat(self, aggregator: AggregatorProcess, treatment: str) -> None:
        reason = BROKEN if treatment == "discard" else UNNAMED
        aggregator.wait_for(lambda: quarantined(aggregator, reason), PATIENCE_S, f"there is something to {treatment}")
        self.treatments[treatment] += 1
        match treatment:
            case "assign":
                assign_unnamed(aggregator)
            case "discard":
                discard_broken(aggregator)
            case _:
                # What has no user is quarantined again, by a replay like any other.
                aggregator.request("POST", "/api/v1/quarantine/replay", json={})

    def _wait_ready(self, aggregator: AggregatorProcess) -> None:
        """Raises as `wait_ready` does. A store that keeps it from starting recovers after a while."""
        with suppress(WaitTimeout):
            aggregator.wait_ready(START_PATIENCE_S)
            return
        self._heal()
        aggregator.wait_ready()

    def _wait_until_dead(self, aggregator: AggregatorProcess) -> None:
        """Raises WaitTimeout. A store that keeps it from getting there recovers after a while."""
        with suppress(WaitTimeout):
            wait_until(lambda: not aggregator.is_running, STORE_PATIENCE_S, "it has died")
            return
        self._heal()
        wait_until(lambda: not aggregator.is_running, PATIENCE_S, "it has died")

    def _kill(self, aggregator: AggregatorProcess, point: str) -> None:
        aggregator.kill()
        self.hits[point] += 1

    def _kill_a_merge(self, store: Path) -> None:
        command = [sys.executable, "-c", _MERGES, str(store)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=clean_environment()) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"merging\n"
            time.sleep(self._rng.uniform(0.0, 0.3))
            child.kill()
        self.hits[_WHILE_MERGING] += 1

    def _befall(self) -> None:
        """Lets something happen to the next insert, sometimes."""
        fault = self._rng.choice(_UNCERTAIN) if self.server_mode and self._rng.random() < 0.5 else None
        while self._store is not None and fault is not None:
            # An insert of the process that was killed may still be under way there, and end the store only now.
            with suppress(httpx.HTTPError):
                self._store.add_fault(fault)
                return
            self._heal()

    def _heal(self) -> None:
        store = self._store
        while store is not None:
            if not store.is_running:
                store.start()
            # An insert that is under way may still kill it.
            with suppress(RuntimeError, httpx.HTTPError):
                store.wait_ready()
                store.clear_faults()
                return

    def _record(self, sums: Accounting, kills: int) -> None:
        assert sum(self.hits.values()) == kills
        print(f"{kills} kills: {dict(self.hits)}; not passed in time: {dict(self.missed)}; {dict(self.treatments)}")
        store = "server" if self.server_mode else "embedded"
        moments = {"by_moment": dict(self.hits), "treatments": dict(self.treatments)}
        record("kills", seed=self.seed, store=store, kills=kills, **moments)
        record("duplicates", sent=sums.duplicate, charged_twice=0)


def _start(aggregator: AggregatorProcess, fatal: str = "") -> None:
    aggregator.env["OTEL_CREDITS_FAULT_POINT"] = fatal
    aggregator.start()


def assert_reconciled(aggregator: AggregatorProcess) -> None:
    """`otel-credits reconcile` finds nothing."""
    command = [sys.executable, "-m", "otel_credits_aggregator", "reconcile"]
    done = subprocess.run(
        command, env=clean_environment({"OTEL_CREDITS_URL": aggregator.url}), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
