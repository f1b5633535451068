"""The files that Grafana is started with agree with each other, and the tests expand queries as Grafana does."""

from __future__ import annotations

import itertools
import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml
from otel_credits_aggregator.store import Client, rows
from support.grafana import DASHBOARDS, REPOSITORY, expand
from support.store import Usage, insert_usages

PROVISIONING = REPOSITORY / "grafana" / "provisioning"
SINCE, UNTIL = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture(params=DASHBOARDS, ids=lambda path: path.stem)
def dashboard(request: pytest.FixtureRequest) -> dict[str, Any]:
    return json.loads(request.param.read_text("utf-8"))


def test_panels_do_not_overlap(dashboard: dict[str, Any]) -> None:
    """Every panel has an id and a place of its own on the 24 columns of a dashboard."""
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [cell for panel in panels for cell in cells_of(panel["gridPos"])]
    assert len(set(cells)) == len(cells)
    assert all(0 <= x < 24 for x, _ in cells)


def cells_of(place: dict[str, int]) -> itertools.product[tuple[int, int]]:
    columns = range(place["x"], place["x"] + place["w"])
    return itertools.product(columns, range(place["y"], place["y"] + place["h"]))


def test_everything_reads_from_the_chosen_data_source(dashboard: dict[str, Any]) -> None:
    """A dashboard that is imported elsewhere can be pointed at another ClickHouse with one choice."""
    expected = {"type": "grafana-clickhouse-datasource", "uid": "${datasource}"}
    targets = [target for panel in dashboard["panels"] for target in panel["targets"]]
    variables = [variable for variable in dashboard["templating"]["list"] if variable["type"] == "query"]
    assert all(part["datasource"] == expected for part in [*dashboard["panels"], *targets, *variables])
    [source] = [variable for variable in dashboard["templating"]["list"] if variable["name"] == "datasource"]
    assert (source["query"], source["current"]["value"]) == (expected["type"], provisioned_source()["uid"])


def provisioned_source() -> dict[str, Any]:
    [path] = (PROVISIONING / "datasources").glob("*.yaml")
    [source] = yaml.safe_load(path.read_text("utf-8"))["datasources"]
    return dict(source)


def test_the_plugin_is_told_the_format_of_each_query(dashboard: dict[str, Any]) -> None:
    """A time series is asked for as such (format 0) and has a column `time`; everything else is a table (format 1)."""
    for panel in dashboard["panels"]:
        [target] = panel["targets"]
        series = panel["type"] == "timeseries"
        assert (target["format"], target["queryType"]) == ((0, "timeseries") if series else (1, "table"))
        assert not series or re.search(r"\bAS time\b", target["rawSql"])


def test_the_user_variable_lists_users(memory_store: Client, dashboard: dict[str, Any]) -> None:
    """The choice of users comes from the ledger: the id is the value, the e-mail address the text where it is known."""
    memory_store.insert("user_profiles", [["u1", "u1@example.com"]], column_names=["id", "email"])
    insert_usages(memory_store, Usage("u1"), Usage("u2"), Usage("u2"))
    [variable] = [variable for variable in dashboard["templating"]["list"] if variable["name"] == "user"]
    assert rows(memory_store, variable["query"], readonly=1) == [
        {"value": "u2", "text": "u2"},
        {"value": "u1", "text": "u1@example.com"},
    ]


@pytest.mark.parametrize(
    ("sql", "expanded"),
    [
        ("x WHERE $__timeFilter(e.at)", "x WHERE e.at >= toDateTime(1767225600) AND e.at <= toDateTime(1767312000)"),
        ("$__conditionalAll(id IN (${user:singlequote}), $user)", r"id IN ('a','o\'hara')"),
        ("$__conditionalAll(id IN (${other:singlequote}), $other)", "1=1"),
    ],
)
def test_the_expander_replaces_macros_and_variables(sql: str, expanded: str) -> None:
    """The tests give ClickHouse the text that the plugin would."""
    assert expand(sql, SINCE, UNTIL, {"user": ["a", "o'hara"], "other": None}) == expanded


@pytest.mark.parametrize("sql", ["$__interval_s", "${user:csv}", "$user"])
def test_the_expander_refuses_what_it_does_not_know(sql: str) -> None:
    """A macro that the tests would pass over is an error."""
    with pytest.raises(ValueError, match="not expanded"):
        expand(sql, SINCE, UNTIL, {"user": ["a"]})
