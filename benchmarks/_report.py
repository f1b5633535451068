"""What a benchmark found, and how it is shown."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["Figure", "Report", "Target", "median", "percentile", "spread", "table"]


@dataclass(frozen=True)
class Target:
    """The limit that a figure has to keep, and where it should go from there."""

    limit: float
    at_least: bool = False
    goal: float | None = None

    def is_met(self, value: float) -> bool:
        """Whether the limit is kept."""
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        sign = "≥" if self.at_least else "≤"
        goal = "" if self.goal is None else f" (going to {self.goal:g})"
        return f"{sign} {self.limit:g}{goal}"


@dataclass(frozen=True)
class Figure:
    """One number.

    Args:
        name: what it is.
        value: the number, in `unit`.
        spread: how far the repetitions lie apart, in words.
    """

    name: str
    value: float
    unit: str = ""
    spread: str = ""
    target: Target | None = None

    def text(self) -> str:
        """The number as people read it."""
        digits = 0 if abs(self.value) >= 100 else 2
        return f"{self.value:,.{digits}f}{' ' if self.unit else ''}{self.unit}"

    def row(self) -> tuple[str, ...]:
        """Cells of `table`."""
        if self.target is None:
            return (self.name, self.text(), self.spread, "", "")
        met = "reached" if self.target.is_met(self.value) else "**not reached**"
        return (self.name, self.text(), self.spread, str(self.target), met)


@dataclass(frozen=True)
class Report:
    """All that a benchmark found. `notes` are sentences about this run."""

    title: str
    figures: Sequence[Figure]
    notes: Sequence[str] = field(default=())

    def markdown(self) -> str:
        """A heading, a table, and the notes."""
        parts = [f"### {self.title}", table(("", "measured", "spread", "target", ""), [f.row() for f in self.figures])]
        return "\n\n".join([*parts, *self.notes])


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-len(ordered) * percent // 100) - 1))]


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Lowest and highest of the repetitions."""
    if len(values) < 2:
        return "one run"
    return f"{min(values):,.{digits}f} to {max(values):,.{digits}f} in {len(values)} runs"


def median(values: Sequence[float]) -> float:
    """The median, as a float."""
    return float(statistics.median(values))
