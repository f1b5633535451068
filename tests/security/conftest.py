"""Says at the end how many ways in were tried, for docs/guarantees.md."""

from __future__ import annotations

import pytest
from support.sql_attacks import tried, ways_in


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line with the numbers, if any was tried."""
    if tried:
        number = len(ways_in())
        terminalreporter.write_line(
            f"ways in by SQL: {number} known, {tried.total()} attempts on two kinds of store, open: {tried[True]}"
        )
