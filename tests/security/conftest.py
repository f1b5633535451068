"""Says at the end how many ways in were tried, for docs/guarantees.md; gives each test of a route an id of its own."""

from __future__ import annotations

import pytest
from _pytest.nodeid import coerce_node_id
from schemathesis.pytest.plugin import SchemathesisFunction
from support.sql_attacks import tried, ways_in


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line with the numbers, if any was tried."""
    if tried:
        number = len(ways_in())
        terminalreporter.write_line(
            f"ways in by SQL: {number} known, {tried.total()} attempts on two kinds of store, open: {tried[True]}"
        )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the route into the id: schemathesis 4 puts it into the name only, which pytest 9 does not make the id of."""
    for item in items:
        if isinstance(item, SchemathesisFunction) and item.parent is not None:
            item._id = coerce_node_id(f"{item.parent.nodeid}::{item.name}")
