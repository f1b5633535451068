"""Prints rows as a table for people or as JSON for programs."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from pydantic import BaseModel

from otel_credits_aggregator.ledger.fields import exact_text

__all__ = ["Column", "print_json", "print_rows", "print_sql_rows", "shown"]

# A pipe has no width: nothing is cut or folded there.
_UNLIMITED_WIDTH = 10_000


@dataclass(frozen=True)
class Column:
    """A column of a table: the field it shows and its heading."""

    field: str
    heading: str


def print_rows(rows: Sequence[BaseModel], columns: Sequence[Column], *, as_json: bool, none: str) -> None:
    """Prints models: all their fields as JSON, or a table of some; `none` is said instead of an empty table."""
    if as_json:
        print_json([row.model_dump(mode="json") for row in rows])
    elif not rows:
        print(none)
    else:
        cells = [[getattr(row, column.field) for column in columns] for row in rows]
        _print_table([column.heading for column in columns], cells)


def print_sql_rows(rows: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """Prints the rows of a query."""
    if as_json:
        print_json(rows)
    elif not rows:
        print("no rows")
    else:
        _print_table(list(rows[0]), [list(row.values()) for row in rows])


def print_json(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints a JSON array, one object a line."""
    lines = ",\n".join(f"  {json.dumps(row, ensure_ascii=False)}" for row in rows)
    print(f"[\n{lines}\n]" if rows else "[]")


def shown(value: object) -> str:
    """A value as people read it: exact decimals, times in UTC to the second, nothing that a terminal would obey."""
    match value:
        case None:
            return ""
        case Decimal():
            return exact_text(value)
        case datetime():
            return f"{value:%Y-%m-%d %H:%M:%S}"
        case date():
            return value.isoformat()
        case tuple():
            return ", ".join(shown(part) for part in value)
        case dict() | list():
            return _printable(json.dumps(value, ensure_ascii=False))
        case _:
            return _printable(str(value))


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def _print_table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    # Here, so that what prints no table starts sooner.
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for position, heading in enumerate(headings):
        numeric = all(isinstance(row[position], Decimal | int | float | None) for row in rows)
        table.add_column(Text(_printable(heading)), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(shown(value)) for value in row))
    width = None if sys.stdout.isatty() else _UNLIMITED_WIDTH
    Console(width=width, highlight=False).print(table)
