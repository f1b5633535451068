"""What people and the price book do to the quarantine: rows go through the chain again, get a payer, or are discarded.

Each is a batch like any other. Which rows it takes is durable in the spool before it starts, and each of its statements may be
repeated, so that a crash in between neither loses nor doubles a usage, nor the record of a decision.
"""

import json
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from otel_credits_aggregator.batch_insert import ONE_BLOCK, token_settings
from otel_credits_aggregator.fault_points import passing
from otel_credits_aggregator.otlp import Signal
from otel_credits_aggregator.spool import Batch
from otel_credits_aggregator.store import Client, rows

__all__ = [
    "ASSIGN",
    "DISCARD",
    "DUPLICATE",
    "ESTIMATED",
    "REPLAY",
    "REPLAY_ROWS_MAX",
    "VOID",
    "PriceWatch",
    "Selection",
    "Treatment",
    "charges_taken_back",
    "halves_of_replay",
    "quarantined_ids",
    "replay_batch",
    "run_replay",
]

REPLAY_ROWS_MAX = 10_000
ROWS_LOOKED_AT_MAX = 1_000_000

# The reason of what waits because of OTEL_CREDITS_ESTIMATED.
ESTIMATED = "estimated"

REPLAY, ASSIGN, DISCARD = "replay", "assign", "discard"
# These take back charges (voids.py): their ids are not those of quarantined rows, but an event's and a batch's.
VOID, DUPLICATE = "void", "duplicate"

# Its columns are found by their names.
_FORMAT = "RowBinaryWithNames"

# What the token of each insert ends with, and where the storms may cut it off.
_FAULT_POINTS = {"-decision": "replay_decided", "": "replay_inserted", "-outcome": "replay_counted"}

_CHOSEN = "quarantine_id IN ({ids:Array(UUID)})"


@dataclass(frozen=True)
class _Copy:
    """Rows of the quarantine, read and then inserted elsewhere under a token that ends with `token`.

    Not as one INSERT SELECT: its block is deduplicated by how the source's parts lie, token or not, so that a repetition
    after a merge of the quarantine would count everything again.
    """

    token: str
    table: str
    select: str


# A payer that was assigned is the only one that the row names from now on.
_INTO_THE_CHAIN = _Copy(
    "",
    "usage_candidates",
    f"""
SELECT
    signal, {{batch_id:UUID}} AS batch_id, received_at, rowNumberInAllBlocks() AS position,
    charge_genai, if({{payer:String}} = '', q.user_attributes, ['credits.user_id']) AS user_attributes, default_user, receiver,
    allowed_services, allowed_actions, {{estimated:String}} AS estimated, service_name, scope_name, scope_version,
    trace_id, span_id, parent_span_id, name, kind, status_code, start_time_unix_nano, end_time_unix_nano, series,
    if({{payer:String}} = '', q.attributes, mapUpdate(q.attributes, map('credits.user_id', {{payer:String}}))) AS attributes,
    double_keys, defect, rule_id
FROM (SELECT * FROM credit_quarantine WHERE {_CHOSEN} AND raw_request = '' ORDER BY received_at, quarantine_id) AS q
""",
)
_OUT_OF_THE_COUNT = _Copy(
    "-outcome",
    "ingest_outcomes",
    f"""
SELECT receiver, signal, 'quarantined' AS outcome, q.reason AS reason, -toInt64(sum(items)) AS items
FROM credit_quarantine AS q WHERE {_CHOSEN} GROUP BY receiver, signal, q.reason ORDER BY ALL
""",
)
# What is discarded stays quarantined in the accounting, for another reason: received is still the sum.
_COUNTED_AS_DISCARDED = _Copy(
    "-outcome",
    "ingest_outcomes",
    f"""
SELECT receiver, signal, 'quarantined' AS outcome, moved.1 AS reason, sum(moved.2) AS items
FROM
(
    SELECT receiver, signal, arrayJoin([(toString(q.reason), -toInt64(items)), ('discarded', toInt64(items))]) AS moved
    FROM credit_quarantine AS q WHERE {_CHOSEN}
)
GROUP BY receiver, signal, moved.1 ORDER BY ALL
""",
)
# Not what is recorded already: the token does not help where a batch is halved after that.
_DECIDED = _Copy(
    "-decision",
    "quarantine_decisions",
    f"""
SELECT
    {{decision:String}} AS decision, {{decided_by:String}} AS decided_by, {{comment:String}} AS comment,
    fromUnixTimestamp64Micro({{decided_at_us:Int64}}, 'UTC') AS decided_at,
    quarantine_id, event_id, reason, detail, received_at, items,
    if({{payer:String}} = '', user_id, {{payer:String}}) AS user_id,
    action_type, model, signal, service_name, receiver,
    lower(hex(trace_id)) AS trace_id, lower(hex(span_id)) AS span_id, name, attributes,
    length(raw_request) AS raw_bytes
FROM credit_quarantine
WHERE {_CHOSEN} AND quarantine_id NOT IN (
    SELECT quarantine_id FROM quarantine_decisions
    WHERE {_CHOSEN} AND decided_at = fromUnixTimestamp64Micro({{decided_at_us:Int64}}, 'UTC'))
ORDER BY received_at, quarantine_id
""",
)
# What is read is the charges alone, so that a repetition inserts the same rows and no entry is taken back for its part. Left out
# is what others have taken back meanwhile, who held this aggregator to be gone.
_TAKEN_BACK = _Copy(
    "-void",
    "credit_voids",
    """
SELECT
    event_id, batch_id, {action:String} AS kind, {decided_by:String} AS voided_by, {comment:String} AS comment,
    fromUnixTimestamp64Micro({decided_at_us:Int64}, 'UTC') AS voided_at, {receiver:String} AS receiver,
    user_id, action_type, model, input_tokens, output_tokens, credits_charged, resource_id, resource_type, metadata, units,
    service_name, trace_id, span_id, created_at, identity, prices, rule_id
FROM credit_usage_events
WHERE event_id IN (SELECT toUUID(substring(arrayJoin({ids:Array(String)}), 1, 36)))
    AND has({ids:Array(String)}, concat(toString(event_id), ' ', toString(batch_id))) AND sign = 1
    AND (event_id, batch_id) NOT IN (
        SELECT event_id, batch_id FROM credit_voids
        WHERE voided_at != fromUnixTimestamp64Micro({decided_at_us:Int64}, 'UTC'))
ORDER BY event_id, batch_id
""",
)
_OUT_OF_THE_QUARANTINE = f"DELETE FROM credit_quarantine WHERE {_CHOSEN}"


@dataclass(frozen=True)
class Selection:
    """Which rows of the quarantine are meant: those that match all that is given; nothing given means every row.

    `since` is part of the time in which they were received, `until` is not. `event_ids` are UUIDs.
    """

    reasons: tuple[str, ...] = ()
    user_id: str | None = None
    event_ids: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True)
class Treatment:
    """What is done with them.

    `action` is one of :data:`REPLAY`, :data:`ASSIGN`, :data:`DISCARD`, :data:`VOID`, :data:`DUPLICATE`; `payer` pays what is
    assigned; `decided_by`, `comment` and `decided_at_us` (microseconds since 1970) are recorded with a decision; `receiver` is
    the aggregator that received a duplicate; `estimated` says what becomes of estimates, as `OTEL_CREDITS_ESTIMATED` does.
    """

    action: str = REPLAY
    payer: str = ""
    decided_by: str = ""
    comment: str = ""
    decided_at_us: int = 0
    receiver: str = ""
    estimated: str = ""


def quarantined_ids(
    client: Client, receiver: str, selection: Selection = Selection(), treatment: Treatment = Treatment()
) -> list[str]:
    """The rows that are meant and came through this aggregator, oldest first, at most :data:`ROWS_LOOKED_AT_MAX`.

    Only its own, because two aggregators that replay one row at the same moment could both charge it. A whole request can
    only be discarded, and a payer is only assigned where none is named, so that no charge moves from one user to another.
    """
    found = rows(
        client,
        """
        SELECT toString(quarantine_id) AS id FROM credit_quarantine
        WHERE receiver = {receiver:String}
            AND (raw_request = '' OR {action:String} = 'discard')
            AND (user_id = '' OR {action:String} != 'assign')
            AND (empty({reasons:Array(String)}) OR has({reasons:Array(String)}, reason))
            AND ({user:String} = '' OR user_id = {user:String})
            AND (empty({events:Array(UUID)}) OR event_id IN ({events:Array(UUID)}))
            AND toUnixTimestamp64Micro(received_at) >= {since_us:Int64}
            AND toUnixTimestamp64Micro(received_at) < {until_us:Int64}
        ORDER BY received_at, quarantine_id LIMIT {limit:UInt32}
        """,
        {
            "receiver": receiver,
            "action": treatment.action,
            "reasons": list(selection.reasons),
            "user": selection.user_id or "",
            "events": list(selection.event_ids),
            "since_us": _microseconds(selection.since, -(1 << 62)),
            "until_us": _microseconds(selection.until, 1 << 62),
            "limit": ROWS_LOOKED_AT_MAX,
        },
    )
    return [row["id"] for row in found]


def replay_batch(ids: Sequence[str], treatment: Treatment = Treatment()) -> Batch:
    """A batch that treats these rows (or charges); it has no requests in the spool."""
    fields = json.dumps({"ids": list(ids), **asdict(treatment)}).encode()
    return Batch(str(uuid.uuid4()), Signal.REPLAY, 0, -1, fields)


def halves_of_replay(batch: Batch) -> list[Batch]:
    """Two batches that treat the same rows; none if there is only one row."""
    ids, treatment = _contents(batch)
    middle = len(ids) // 2
    halves = [ids[:middle], ids[middle:]] if middle else []
    return [replace(replay_batch(half, treatment), books=batch.books) for half in halves]


def charges_taken_back(batch: Batch) -> list[tuple[str, str]]:
    """The charges that a batch takes back because someone decided so, as ids of event and batch; of other batches none."""
    ids, treatment = _contents(batch) if batch.signal is Signal.REPLAY else ([], Treatment())
    pairs = [charge.split() for charge in ids] if treatment.action == VOID else []
    return [(event_id, batch_id) for event_id, batch_id in pairs]


def run_replay(client: Client, batch: Batch) -> None:
    """Does to the rows of a batch what is to be done, or the rest of it if it was cut off.

    Raises:
        ClickHouseError: repeat it.
    """
    ids, treatment = _contents(batch)
    parameters: dict[str, Any] = {"ids": ids, "batch_id": batch.batch_id, **asdict(treatment)}
    parameters["decision"] = {ASSIGN: "assigned", DISCARD: "discarded"}.get(treatment.action, "")
    for copy in _copies(treatment.action):
        _insert_copy(client, copy, parameters, batch.books)
        if copy.token in _FAULT_POINTS:
            passing(_FAULT_POINTS[copy.token])
    if treatment.action not in (VOID, DUPLICATE):
        client.command(_OUT_OF_THE_QUARANTINE, parameters=parameters, settings={"lightweight_deletes_sync": 2})


def _copies(action: str) -> list[_Copy]:
    """The inserts of a treatment."""
    if action in (VOID, DUPLICATE):
        return [_TAKEN_BACK]
    if action == DISCARD:
        return [_DECIDED, _COUNTED_AS_DISCARDED]
    charge = [_INTO_THE_CHAIN, _OUT_OF_THE_COUNT]
    return [_DECIDED, *charge] if action == ASSIGN else charge


def _insert_copy(client: Client, copy: _Copy, parameters: dict[str, Any], books: str) -> None:
    # Row by row, so that what is inserted is one block, however many the rows were read in.
    found = client.raw_query(copy.select, parameters=parameters, fmt=_FORMAT, settings=ONE_BLOCK)
    # A charge is void once, whichever aggregator is told to take it back, or takes back what one that is gone has left.
    of_one = copy is _TAKEN_BACK and len(parameters["ids"]) == 1
    token = f"void {parameters['ids'][0]}" if of_one else f"{parameters['batch_id']}{copy.token}"
    client.raw_insert(copy.table, insert_block=found, fmt=_FORMAT, settings=token_settings(token, books))


def _contents(batch: Batch) -> tuple[list[str], Treatment]:
    fields = json.loads(batch.fields)
    return fields.pop("ids"), Treatment(**fields)


def _microseconds(moment: datetime | None, none: int) -> int:
    if moment is None:
        return none
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


class PriceWatch:
    """Tells when the price book or a model's other name changed, so that what is unpriced may be looked at again."""

    def __init__(self) -> None:
        self._seen: Any = None

    def changed(self, client: Client) -> bool:
        """Whether the price book is another than at the last call; true at the first."""
        (book,) = rows(
            client,
            "SELECT (SELECT (sum(cityHash64(*)), count()) FROM credit_action_costs) AS prices,"
            " (SELECT (sum(cityHash64(*)), count()) FROM credit_model_aliases) AS aliases",
        )
        previous, self._seen = self._seen, book
        return bool(previous != book)
