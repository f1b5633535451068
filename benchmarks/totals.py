"""`python -m benchmarks.totals`: making all totals anew, comparing them with the events, and correcting one, at 10^8 events.

Apart from the other benchmarks, as it takes as long as all of them and needs some GB of disk. Prints the figures and writes them
into benchmarks/README.md, between markers of their own.
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import httpx
from otel_credits_aggregator.demo.processes import clean_environment
from otel_credits_aggregator.ledger import Difference, Fix, RemoteLedger

from benchmarks._fill_events import EVENTS_PER_USER, WRONG_BY
from benchmarks._machine import load_per_core
from benchmarks._process import cpu_seconds, forget_peak, memory_bytes
from benchmarks._readme import TOTALS, section, write
from benchmarks._report import Figure, Report
from benchmarks._sender import REPOSITORY
from benchmarks._server import Server
from benchmarks._spans import POOL_SPANS, Load

__all__ = ["run"]

T = TypeVar("T")

_EVENTS = 100_000_000
_REQUEST_SPANS = 512
_SEND_INTERVAL_S = 0.25
_SETTLE_TIMEOUT_S = 600.0
_GB = 1e9
_README = Path(__file__).parent / "README.md"


@dataclass(frozen=True)
class _Step:
    """What a request to the aggregator took, from the question to the answer, merges in the background included."""

    name: str
    wall_s: float
    cpu_s: float
    peak_bytes: int

    def figures(self) -> Iterator[Figure]:
        yield Figure(f"{self.name}: by the clock", self.wall_s, "s")
        yield Figure(f"{self.name}: processor time", self.cpu_s, "s")
        yield Figure(f"{self.name}: peak resident", self.peak_bytes / _GB, "GB")


def run(events: int) -> Report:
    """Fills a store and does all of it; raises RuntimeError if a total is not what it must be."""
    with TemporaryDirectory(prefix="otel-credits-bench-") as folder:
        data_dir, began = Path(folder), time.monotonic()
        _on_the_store("fill", data_dir, events)
        filled_s = time.monotonic() - began
        with Server(data_dir) as server, RemoteLedger(server.url) as ledger:
            rebuilt, rebuild = _measured("rebuild", server, ledger.rebuild_totals)
            _must(rebuilt.changed == rebuilt.user_months + rebuilt.usage_months > 0, f"made from nothing: {rebuilt}")
        size = sum(path.stat().st_size for path in data_dir.rglob("*") if path.is_file())
        _on_the_store("break", data_dir, events)
        with Server(data_dir) as server, RemoteLedger(server.url) as ledger:
            found, reconcile = _measured("reconcile", server, ledger.reconcile)
            _must(_is_the_wrong_one(found), f"one total is wrong by {WRONG_BY}, found: {found}")
            why = Fix(corrected_by="benchmark", comment="broken by hand")
            corrected, fix = _measured("reconcile --fix", server, lambda: ledger.fix_totals(None, why))
            _must(_is_the_wrong_one(corrected), f"corrected: {corrected}")
            with _usages(server) as sent:
                before = len(sent)
                found, while_ingesting = _measured("reconcile while usages come in", server, ledger.reconcile)
                came_in = (len(sent) - before) * _REQUEST_SPANS
            _must(not found, f"corrected, and still found: {found}")
            server.wait_committed(events + len(sent) * _REQUEST_SPANS, _SETTLE_TIMEOUT_S)
            _must(server.events() == events + len(sent) * _REQUEST_SPANS, "each usage that came in is an event")
    steps = (rebuild, reconcile, fix, while_ingesting)
    users, totals = events // EVENTS_PER_USER, rebuilt.user_months + rebuilt.usage_months
    return Report(
        f"Totals of {events:,} events of {users:,} users",
        [
            Figure("on disk", size / _GB, "GB", f"filled in {filled_s:.0f} s"),
            *(figure for step in steps for figure in step.figures()),
            Figure("usages that came in meanwhile", came_in / while_ingesting.wall_s, "events/s"),
        ],
        [
            f"{totals:,} totals were made from nothing. One was then made wrong by 10^-12: `reconcile` named it and no other, "
            "`--fix` corrected it, and all agreed afterwards, while usages came in."
        ],
    )


def _on_the_store(what: str, data_dir: Path, events: int) -> None:
    command = [sys.executable, "-m", "benchmarks._fill_events", what]
    options = [f"--dsn=chdb://{data_dir / 'store'}", f"--events={events}"]
    subprocess.run([*command, *options], check=True, cwd=REPOSITORY, env=clean_environment())


def _measured(name: str, server: Server, work: Callable[[], T]) -> tuple[T, _Step]:
    forget_peak(server.pid)
    began, cpu_s = time.monotonic(), cpu_seconds(server.pid)
    result = work()
    wall_s, cpu_s = time.monotonic() - began, cpu_seconds(server.pid) - cpu_s
    step = _Step(name, wall_s, cpu_s, memory_bytes(server.pid)["VmHWM"])
    print(
        f"  {name}: {wall_s:.1f} s, {cpu_s:.1f} s of the processor, {step.peak_bytes / _GB:.2f} GB at most", flush=True
    )
    return result, step


@contextmanager
def _usages(server: Server) -> Iterator[Sequence[int]]:
    """Sends usages while inside the block; gives the numbers of the requests that were acknowledged, one of them at least."""
    load, sent = Load(_REQUEST_SPANS, 1, POOL_SPANS // 8), list[int]()
    begun, stop = threading.Event(), threading.Event()
    headers = {"content-type": "application/x-protobuf"}

    def send() -> None:
        with httpx.Client(base_url=server.http_url, timeout=_SETTLE_TIMEOUT_S, headers=headers) as client:
            while not stop.is_set():
                client.post("/v1/traces", content=load.request(len(sent), time.time_ns())).raise_for_status()
                sent.append(len(sent))
                begun.set()
                stop.wait(_SEND_INTERVAL_S)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        _must(begun.wait(_SETTLE_TIMEOUT_S), "the first usages are acknowledged")
        yield sent
        _must(sender.is_alive(), "usages come in until the end")
    finally:
        stop.set()
        sender.join()


def _is_the_wrong_one(found: Sequence[Difference]) -> bool:
    return [(row.total, row.found - row.expected) for row in found] == [("consumed", WRONG_BY)]


def _must(holds: bool, what: str) -> None:
    if not holds:
        raise RuntimeError(what)


def main() -> int:
    """Returns the exit code: 0 if it was measured and everything was right."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.totals", description=__doc__)
    parser.add_argument("--events", type=int, default=_EVENTS, help=f"in the store (default {_EVENTS:,})")
    parser.add_argument("--json", type=Path, help="also write the figures into this file")
    parser.add_argument("--readme", type=Path, default=_README, help="into which the figures go")
    options = parser.parse_args()
    load, began = load_per_core(), time.monotonic()
    report = run(options.events)
    print(report.markdown(), flush=True)
    if options.json:
        options.json.write_text(json.dumps(asdict(report)), "utf-8")
    write(options.readme, section([report], load, time.monotonic() - began), TOTALS)
    print(f"figures written into {options.readme}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
