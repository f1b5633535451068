"""Correcting totals that are not the sum of their entries: once each, and once on record, also across a kill.

An insert into the corrections is durable before the views behind it have added it to the totals. A kill in between leaves a
correction on record that a total does not have. So the next correction first inserts again, under the same token, what is on
record and by its amount still missing: whatever has it already takes no notice. Only what is wrong then is another correction.
"""

import json
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from otel_credits_aggregator.batch_insert import token_settings
from otel_credits_aggregator.ledger._queries import named_query
from otel_credits_aggregator.ledger._store import LONG_READS
from otel_credits_aggregator.ledger.inputs import Fix
from otel_credits_aggregator.ledger.models import Correction, Difference
from otel_credits_aggregator.store import Client, Row, rows

__all__ = ["Key", "correct", "differences", "key_of"]

Key = tuple[object, ...]

_COLUMNS = (
    "user_id",
    "month",
    "action_type",
    "model",
    "total",
    "before",
    "after",
    "difference",
    "corrected_by",
    "comment",
    "corrected_at",
    "insert_id",
)
_KEY = _COLUMNS[:5]
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "corrections.otel-credits")
# An insert is one block, whose token the views' targets know again: few enough for the driver to send them as one.
_ROWS_AT_ONCE = 5_000


def differences(client: Client, users: Sequence[str]) -> list[Difference]:
    """Which totals of some users are not the sum of their entries now."""
    found = rows(client, named_query("reconcile"), {"users": list(users), "after": "", "until": ""}, **LONG_READS)
    return [Difference.model_validate(row) for row in found]


def key_of(row: Difference) -> Key:
    """What tells a total from the others."""
    return (row.user_id, row.month, row.action_type, row.model, row.total)


def correct(client: Client, users: Sequence[str], fix: Fix) -> list[Correction]:
    """Adds what is missing (or too much) to the totals of some users, while no batch and no grant is under way."""
    wrong, last = differences(client, users), _last(client, users)
    completed, touched = _completed(client, wrong, last)
    if touched:
        # A store that has forgotten the token adds all of the insert once more, to totals that had it, too.
        users = sorted({*users, *touched})
    left, last = (differences(client, users), _last(client, users)) if touched else (wrong, last)
    still = {(key_of(row), row.expected - row.found) for row in left}
    done = [row for row in completed if (key_of(row), row.expected - row.found) not in still]
    return done + _corrected(client, left, fix, last)


def _last(client: Client, users: Sequence[str]) -> dict[Key, Row]:
    """The last correction of each total of some users."""
    found = rows(client, named_query("last_corrections"), {"users": list(users)})
    return {tuple(row[name] for name in _KEY): row for row in found}


def _completed(client: Client, wrong: Sequence[Difference], last: dict[Key, Row]) -> tuple[list[Correction], set[str]]:
    """Inserts again what is on record and may be missing; returns what is wrong by just what is on record, and whose
    totals were inserted."""
    perhaps = [(row, last[key_of(row)]) for row in wrong if _may_be_missing(row, last.get(key_of(row)))]
    touched: set[str] = set()
    # Of the two kinds of totals, a view has added all of an insert or nothing.
    for insert_id, of_balance in sorted({(str(found["insert_id"]), row.action_type == "") for row, found in perhaps}):
        recorded = rows(client, named_query("corrections"), {"insert_id": insert_id, "of_balance": of_balance})
        _insert(client, insert_id, [[row[name] for name in _COLUMNS] for row in recorded])
        touched.update(str(row["user_id"]) for row in recorded)
    return [
        Correction(**row.model_dump(), corrected_by=found["corrected_by"], comment=found["comment"])
        for row, found in perhaps
    ], touched


def _may_be_missing(row: Difference, last: Row | None) -> bool:
    return last is not None and bool(last["counts"]) and last["difference"] == row.expected - row.found


def _corrected(client: Client, wrong: Sequence[Difference], fix: Fix, last: dict[Key, Row]) -> list[Correction]:
    by, now = fix.corrected_by or "unknown", datetime.now(UTC)
    corrections = [Correction(**row.model_dump(), corrected_by=by, comment=fix.comment) for row in wrong]
    for some in _slices(corrections):
        insert_id = _insert_id(some, last)
        _insert(client, insert_id, [[*_values(correction), now, uuid.UUID(insert_id)] for correction in some])
    return corrections


def _slices(corrections: Sequence[Correction]) -> Iterator[Sequence[Correction]]:
    for start in range(0, len(corrections), _ROWS_AT_ONCE):
        yield corrections[start : start + _ROWS_AT_ONCE]


def _values(correction: Correction) -> tuple[object, ...]:
    before, after = correction.found, correction.expected
    return (*key_of(correction), before, after, after - before, correction.corrected_by, correction.comment)


def _insert_id(corrections: Sequence[Correction], last: dict[Key, Row]) -> str:
    """An id made of what is corrected, by how much, and after how many corrections of the same total.

    So a server that still goes on with the insert of a client that is gone knows the same one again. What was before and is
    after is not in it, as usage changes that meanwhile.
    """
    contents = [
        [*map(str, key_of(row)), str(row.expected - row.found), int(last.get(key_of(row), {"times": 0})["times"])]
        for row in corrections
    ]
    return str(uuid.uuid5(_NAMESPACE, json.dumps(contents)))


def _insert(client: Client, insert_id: str, data: Sequence[Sequence[object]]) -> None:
    client.insert("credit_corrections", data, column_names=_COLUMNS, settings=token_settings(f"correction {insert_id}"))
