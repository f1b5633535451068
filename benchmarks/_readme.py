"""Writes the figures into README.md, between two markers; the prose around them is left alone."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks._machine import LOAD_HIGH_PER_CORE, description
from benchmarks._report import Report, table

__all__ = ["ALL", "TOTALS", "section", "write"]

# What is before and after the figures of `make bench`, and of `make totals`.
ALL = ("<!-- figures: written by `make bench`, do not edit -->", "<!-- end of figures -->")
TOTALS = ("<!-- figures: written by `make totals`, do not edit -->", "<!-- end of the figures of totals -->")


def section(reports: Sequence[Report], load_before: float, took_s: float) -> str:
    """The machine, then each benchmark."""
    run = [
        ("load before the start", f"{load_before:.2f} processes a core"),
        ("the whole run took", f"{took_s / 60:.0f} minutes"),
    ]
    parts = [table(("", ""), [*description(), *run]), *(report.markdown() for report in reports)]
    if load_before > LOAD_HIGH_PER_CORE:
        parts.insert(0, "**The machine was busy with something else when this started: the figures are noise.**")
    return "\n\n".join(parts)


def write(path: Path, text: str, markers: tuple[str, str] = ALL) -> None:
    """Replaces what is between the markers.

    Raises:
        ValueError: the file has not exactly one of each marker, in this order; it stays as it is.
    """
    begin, end = markers
    before = path.read_text("utf-8")
    head, found, rest = before.partition(begin)
    _, ended, tail = rest.partition(end)
    if not found or not ended or begin in tail or end in head + tail:
        raise ValueError(f"{path} must have one {begin!r} and after it one {end!r}")
    path.write_text(f"{head}{begin}\n\n{text}\n\n{end}{tail}", "utf-8")
