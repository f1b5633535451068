"""The tables of settings in docs/operating.md, made from where the settings are defined.

    PYTHONPATH=tests python -m support.settings_table     writes them into the document

A test compares; so neither a setting nor its default can change without the document.
"""

from __future__ import annotations

import re
from pathlib import Path

from otel_credits_aggregator.settings import Settings

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENT = REPOSITORY / "docs" / "operating.md"
COLLECTOR = REPOSITORY / "otel-collector.yaml"

_HEAD = ["| variable | default | meaning |", "| --- | --- | --- |"]
_COLLECTOR_LINE = re.compile(r"^#   (COLLECTOR_\w+) +(.*) \(([^()]+)\)$", re.MULTILINE)


def aggregator_table() -> str:
    """One row for each field of `Settings`."""
    rows = [
        f"| `OTEL_CREDITS_{name.upper()}` | {_default(field.default)} | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join(_HEAD + rows)


def _default(value: object) -> str:
    if isinstance(value, bool):
        return "`on`" if value else "`off`"
    text = ",".join(value) if isinstance(value, tuple) else str(value)
    return f"`{text}`" if text else "empty"


def collector_table() -> str:
    """One row for each setting that the head of otel-collector.yaml lists."""
    found = _COLLECTOR_LINE.findall(COLLECTOR.read_text("utf-8"))
    return "\n".join(_HEAD + [f"| `{name}` | `{default}` | {meaning} |" for name, meaning, default in found])


def collector_defaults() -> dict[str, set[str]]:
    """The defaults that otel-collector.yaml really uses, by variable."""
    defaults: dict[str, set[str]] = {}
    for name, default in re.findall(r"\$\{env:(\w+):-([^}]*)\}", COLLECTOR.read_text("utf-8")):
        defaults.setdefault(name, set()).add(default)
    return defaults


def with_tables(document: str) -> str:
    """The document with both tables as they should be, between their markers.

    Raises:
        ValueError: a marker is missing.
    """
    for name, table in (("aggregator", aggregator_table()), ("collector", collector_table())):
        begin, end = f"<!-- begin: settings of the {name} -->", f"<!-- end: settings of the {name} -->"
        head, found_begin, rest = document.partition(begin)
        _, found_end, tail = rest.partition(end)
        if not found_begin or not found_end:
            raise ValueError(f"{DOCUMENT.name} has no place for the settings of the {name}: {begin} ... {end}")
        document = f"{head}{begin}\n{table}\n{end}{tail}"
    return document


if __name__ == "__main__":
    DOCUMENT.write_text(with_tables(DOCUMENT.read_text("utf-8")), "utf-8")
