"""`python -m benchmarks.guarantees`: runs the storms, prints the figures of docs/guarantees.md.

A figure is written by the test that it comes from, after its assertions held. What did not run or did not hold is not printed.

Long storms can be run in parts: with `--figures FILE` each part adds what it did to the file, and what is printed is the sum of
all parts. A part that failed or was stopped keeps what it had finished (50 kills, 50,000 requests). Each part draws another
seed unless `--seed` says which, so no two parts are the same.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_STORMS = (
    "tests/chaos/test_storm.py",
    "tests/chaos/test_fuzz.py",
    "tests/chaos/test_crowd.py",
    "tests/chaos/test_outage.py",
    "tests/chaos/test_pair.py",
)

_Figures = dict[str, list[dict[str, Any]]]


def main() -> int:
    """Returns pytest's exit code: 0 if every promise held."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.guarantees", description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="kills in the long storm")
    parser.add_argument("--fuzz", type=int, default=20_000, help="mutated requests in the long run")
    parser.add_argument("--only", choices=_STORMS, help="one of the suites")
    parser.add_argument("--seed", help="of the run; a run that failed printed its own")
    parser.add_argument("--figures", type=Path, help="add what was done to this file, and print the sum of all in it")
    parser.add_argument("--read", type=Path, help="run nothing, print what is in such a file")
    options = parser.parse_args()
    if options.read:
        print("\n".join(_lines(_read(options.read))))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        figures = (options.figures or Path(folder) / "figures.jsonl").absolute()
        exit_code = _run(options, figures)
        print("\n".join(_lines(_read(figures))))
    return exit_code


def _run(options: argparse.Namespace, figures: Path) -> int:
    environment = {
        "OTEL_CREDITS_TEST_FIGURES": str(figures),
        "OTEL_CREDITS_TEST_KILLS": str(options.kills),
        "OTEL_CREDITS_TEST_FUZZ": str(options.fuzz),
    }
    if options.seed:
        environment["OTEL_CREDITS_TEST_SEED"] = options.seed
    suites = [options.only] if options.only else _STORMS
    command = [sys.executable, "-m", "pytest", *suites, "-q", "-s", "--timeout", str(24 * 3600)]
    return subprocess.run(command, env=os.environ | environment, check=False).returncode


def _read(path: Path) -> _Figures:
    found: _Figures = defaultdict(list)
    for line in path.read_text("utf-8").splitlines() if path.exists() else ():
        values = json.loads(line)
        found[values.pop("figure")].append(values)
    return found


def _lines(figures: _Figures) -> Iterator[str]:
    """The table: what was done, how often, and what went wrong (nothing, or it would not be here)."""
    days = sorted({one["date"] for found in figures.values() for one in found})
    yield f"{' to '.join(sorted({*days[:1], *days[-1:]}))}, {os.cpu_count()} cores"
    yield "| what | how much | lost or doubled |"
    yield "| --- | --- | --- |"
    for store in ("embedded", "server"):
        kills = [one for one in figures.get("kills", ()) if one["store"] == store]
        if kills:
            yield f"| kills of the aggregator, {store} store | {sum(one['kills'] for one in kills)} | 0 credits |"
    if figures.get("duplicates"):
        yield f"| copies of spans sent again | {sum(one['sent'] for one in figures['duplicates']):,} | 0 charged twice |"
    if figures.get("doubles"):
        sent = sum(one["sent_at_once"] for one in figures["doubles"])
        doubled = sum(one["charged_twice_at_first"] for one in figures["doubles"])
        yield f"| usages sent to two aggregators at once | {sent:,}, {doubled:,} of them taken back once | 0 charged twice |"
    if figures.get("outage"):
        minutes = sum(one["seconds"] for one in figures["outage"]) / 60
        yield f"| minutes of outage of the store | {minutes:.1f} | 0 events |"
    if figures.get("fuzz"):
        yield f"| mutated requests | {sum(one['requests'] for one in figures['fuzz']):,} | 0 crashes |"
    for one in figures.get("crowd", ()):
        rate = f"{one['spans_a_second']:,} spans/s, spool of {one['spool_mib_max']} MiB full"
        idle, peak = one["idle_connections"], one["peak_memory_mib"]
        yield f"| rate at the limit, {idle:,} idle connections | {rate} | {peak} MiB at most |"


if __name__ == "__main__":
    sys.exit(main())
