"""`python -m benchmarks [NAME ...]`: measures, and with all benchmarks writes the figures into benchmarks/README.md."""

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from benchmarks import (
    app_spool,
    balance_growth,
    balance_under_load,
    ingest,
    latency,
    memory,
    metering,
    overhead,
    tracking,
)
from benchmarks._machine import LOAD_HIGH_PER_CORE, load_per_core
from benchmarks._readme import section, write
from benchmarks._report import Report

Run = Callable[[bool], Report]

# In this order; `run` takes whether it should only show that it works.
BENCHMARKS: Mapping[str, Run] = {
    "ingest": ingest.run,
    "tracking": tracking.run,
    "app_spool": app_spool.run,
    "metering": metering.run,
    "overhead": overhead.run,
    "balance_under_load": balance_under_load.run,
    "balance_growth": balance_growth.run,
    "latency": latency.run,
    "memory": memory.run,
}
_README = Path(__file__).parent / "README.md"


def main() -> int:
    """Returns the exit code: 0 measured (whether or not the targets are reached)."""
    options = _arguments()
    # So that the processes and folders of a run that is ended from outside end with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    chosen = options.names or list(BENCHMARKS)
    load, began = load_per_core(), time.monotonic()
    if load > LOAD_HIGH_PER_CORE:
        print(f"warning: {load:.2f} processes want each core; figures of a busy machine are noise", file=sys.stderr)
    reports = [_measure(name, options.quick) for name in chosen]
    if options.json:
        options.json.write_text(json.dumps([asdict(report) for report in reports]), "utf-8")
    if options.readme or not (options.names or options.quick):
        readme = options.readme or _README
        write(readme, section(reports, load, time.monotonic() - began))
        print(f"figures written into {readme}")
    return 0


def _measure(name: str, quick: bool) -> Report:
    print(f"{name} ...", flush=True)
    began = time.monotonic()
    report = BENCHMARKS[name](quick)
    print(f"{report.markdown()}\n({time.monotonic() - began:.0f} s)\n", flush=True)
    return report


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[*BENCHMARKS, []], help=", ".join(BENCHMARKS))
    parser.add_argument(
        "--quick", action="store_true", help="only show that it works: seconds, and figures without meaning"
    )
    parser.add_argument("--json", type=Path, help="also write the figures into this file")
    parser.add_argument(
        "--readme", type=Path, help="write the figures into this file (all benchmarks: benchmarks/README.md)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
