"""What Grafana and its ClickHouse plugin do to the SQL of a dashboard before ClickHouse sees it, as far as ours use it.

The plugin's macros: https://grafana.com/docs/plugins/grafana-clickhouse-datasource/latest/query-editor/ ("Macros"); the
formats of variables: https://grafana.com/docs/grafana/latest/dashboards/variables/variable-syntax/.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
DASHBOARDS = sorted((REPOSITORY / "grafana" / "dashboards").glob("*.json"))

_CONDITIONAL_ALL = re.compile(r"\$__conditionalAll\((?P<condition>.*?), \$(?P<variable>\w+)\)", re.DOTALL)
_TIME_FILTER = re.compile(r"\$__timeFilter\((?P<column>[^()]+)\)")
_SINGLE_QUOTED = re.compile(r"\$\{(?P<variable>\w+):singlequote\}")


@dataclass(frozen=True)
class Panel:
    """One panel: its title and the SQL of its one query, as written."""

    dashboard: str
    title: str
    sql: str
    definition: Mapping[str, Any]


def panels() -> Iterator[Panel]:
    """Every panel of every dashboard of this repository."""
    for path in DASHBOARDS:
        for definition in json.loads(path.read_text("utf-8"))["panels"]:
            [target] = definition["targets"]
            yield Panel(path.stem, definition["title"], target["rawSql"], definition)


def expand(sql: str, since: datetime, until: datetime, variables: Mapping[str, Sequence[str] | None]) -> str:
    """Replace the macros and variables.

    Args:
        sql: the query as the dashboard holds it.
        since, until: the chosen period.
        variables: the chosen values of each variable; None is "All".

    Raises:
        KeyError: the query uses a variable that is not given.
        ValueError: it uses a macro or a format that this expander does not know.
    """

    def conditional_all(found: re.Match[str]) -> str:
        return "1=1" if variables[found["variable"]] is None else found["condition"]

    def time_filter(found: re.Match[str]) -> str:
        start, end = (f"toDateTime({int(moment.timestamp())})" for moment in (since, until))
        return f"{found['column']} >= {start} AND {found['column']} <= {end}"

    def single_quoted(found: re.Match[str]) -> str:
        return ",".join("'" + value.replace("'", "\\'") + "'" for value in variables[found["variable"]] or ())

    expanded = _CONDITIONAL_ALL.sub(conditional_all, sql)
    expanded = _TIME_FILTER.sub(time_filter, expanded)
    expanded = _SINGLE_QUOTED.sub(single_quoted, expanded)
    if "$" in expanded:
        raise ValueError(f"not expanded: {expanded[expanded.index('$') :][:40]!r}")
    return expanded
