"""Taking charges back: those that were made twice for one usage, and those that someone decides to.

An insert looks for copies only among what was visible when it began, so two aggregators that insert in the same moment can
charge one usage twice. So after its insert, and before it forgets the batch, an aggregator looks once more: whichever of the two
ends later sees both charges, and notes all but the one that stays (`double_charges`). The aggregator that made a noted charge
takes it back: one writer for each charge, and a batch like any other, so that a crash or a repetition takes it back once.

A call that was charged by an instrumentation's span, and then as the app itself tells of it, is charged twice in the same way,
by one aggregator or two: what the app says stays.

An aggregator may be gone for good. So what it has left noted for long, any other takes back, one charge an insert, under a
token made of the charge; and any other looks once more at the last batches of one that has charged nothing for long, as it may
have died before its look.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from otel_credits_aggregator.replaced_calls import note_replaced_calls, note_replaced_calls_of
from otel_credits_aggregator.replay import DUPLICATE, VOID, Treatment, replay_batch
from otel_credits_aggregator.spool import Batch
from otel_credits_aggregator.store import Client, rows

__all__ = ["VOIDS_MAX", "Charge", "charges_of", "double_batch", "doubles_to_take_back", "note_doubles", "void_batch"]

# Charges that are taken back in one insert; they are named in the query, and a server takes a URL of 1 MB.
VOIDS_MAX = 1_000
_LOOKED_AT_MAX = 100_000
_LOOKED_AT_OF_OTHERS_MAX = 10_000
# As long as notes are kept.
_EVER_S = 31 * 86_400

# Of several charges of one usage the one stays that someone took back by decision, so that the usage stays void; else one that
# the app itself tells of (fingerprint 1); else the one with the smallest id, as texts, because ClickHouse has more than one order
# of UUIDs.
_THE_OTHERS = """arrayJoin(arraySlice(arraySort(charge -> (
    (event_id, charge.1) NOT IN (SELECT event_id, batch_id FROM credit_voids WHERE kind = 'void'),
    charge.2 != 1, toString(charge.1)
), groupUniqArray((batch_id, fingerprint)) AS charged_by), 2)).1"""
_NOTE_DOUBLES = f"""
INSERT INTO double_charges (batch_id, event_id, stays)
SELECT {_THE_OTHERS}, event_id, event_id
FROM
(
    SELECT event_id, batch_id, toUInt64(0) AS fingerprint FROM event_ids_by_second
    WHERE second IN (SELECT arrayJoin(seconds) FROM charged_batches WHERE batch_id = {{batch_id:UUID}})
    UNION ALL
    SELECT event_id, batch_id, fingerprint FROM event_ids_by_key
    WHERE event_id IN (SELECT arrayJoin(keys) FROM charged_batches WHERE batch_id = {{batch_id:UUID}})
)
GROUP BY event_id
HAVING length(charged_by) > 1
"""
# A copy of what someone takes back may be charged in the same moment, by an insert that did not see it yet. Whichever ends later
# sees both: that insert by its look above, the decision by this one.
_NOTE_COPIES_OF_VOID = f"""
INSERT INTO double_charges (batch_id, event_id, stays)
SELECT {_THE_OTHERS}, event_id, event_id
FROM
(
    SELECT event_id, batch_id, toUInt64(0) AS fingerprint FROM event_ids_by_second
    WHERE event_id = {{event_id:UUID}}
        AND second IN (SELECT toDateTime(created_at) FROM credit_voids WHERE event_id = {{event_id:UUID}})
    UNION ALL
    SELECT event_id, batch_id, fingerprint FROM event_ids_by_key WHERE event_id = {{event_id:UUID}}
)
GROUP BY event_id
HAVING length(charged_by) > 1
"""
# Other aggregators' last batches, those that could be under way when they died and more, if they were inserted long ago. What is
# noted keeps the time at which it was.
_LAST_BATCHES = """
SELECT batch_id FROM
(
    SELECT batch_id, inserted_at FROM charged_batches WHERE receiver != {receiver:String}
    ORDER BY inserted_at DESC LIMIT 64 BY receiver
)
WHERE inserted_at <= now() - INTERVAL {orphaned_after_s:UInt32} SECOND AND inserted_at > now() - INTERVAL 7 DAY
"""
_NOTE_DOUBLES_OF_OTHERS = f"""
INSERT INTO double_charges (batch_id, event_id, stays)
SELECT double, event_id, event_id FROM
(
    SELECT {_THE_OTHERS} AS double, event_id
    FROM
    (
        SELECT event_id, batch_id, toUInt64(0) AS fingerprint FROM event_ids_by_second
        WHERE second IN (SELECT arrayJoin(seconds) FROM charged_batches WHERE batch_id IN ({_LAST_BATCHES}))
        UNION ALL
        SELECT event_id, batch_id, fingerprint FROM event_ids_by_key
        WHERE event_id IN (SELECT arrayJoin(keys) FROM charged_batches WHERE batch_id IN ({_LAST_BATCHES}))
    )
    GROUP BY event_id
    HAVING length(charged_by) > 1
)
WHERE (double, event_id) NOT IN (SELECT batch_id, event_id FROM double_charges)
"""
_NOTED_LATELY = "noted_at >= now() - INTERVAL {noted_within_s:UInt32} SECOND"
_NOTED = f"""
SELECT event_id, batch_id, groupUniqArray(toString(stays)) AS beside FROM double_charges
WHERE {_NOTED_LATELY}
    AND batch_id IN (
        SELECT batch_id FROM charged_batches
        WHERE (receiver = {{receiver:String}}) = {{own:Bool}}
            AND batch_id IN (SELECT batch_id FROM double_charges WHERE {_NOTED_LATELY}))
    AND batch_id NOT IN ({{unfinished:Array(UUID)}})
    AND (event_id, batch_id) NOT IN (
        SELECT event_id, batch_id FROM credit_voids WHERE event_id IN (SELECT event_id FROM double_charges WHERE {_NOTED_LATELY}))
GROUP BY event_id, batch_id HAVING min(noted_at) <= now() - INTERVAL {{noted_before_s:UInt32}} SECOND
ORDER BY event_id, batch_id LIMIT {{limit:UInt32}}
"""
_RECEIVERS = """
SELECT batch_id, any(receiver) AS made_by FROM charged_batches
WHERE batch_id IN ({batches:Array(UUID)}) GROUP BY batch_id
"""
_OF_EVENTS = "event_id IN ({events:Array(UUID)})"
_CHARGES = f"""
SELECT
    event_id, batch_id,
    (event_id, batch_id) IN (
        SELECT event_id, batch_id FROM credit_voids WHERE {_OF_EVENTS}
        UNION ALL
        SELECT event_id, batch_id FROM double_charges WHERE {_OF_EVENTS} AND stays != event_id) AS is_void
FROM credit_usage_events WHERE {_OF_EVENTS} AND sign = 1
GROUP BY event_id, batch_id
ORDER BY
    event_id,
    (event_id, batch_id) NOT IN (SELECT event_id, batch_id FROM credit_voids WHERE kind = 'void' AND {_OF_EVENTS}),
    (event_id, batch_id) NOT IN (SELECT event_id, batch_id FROM event_ids_by_key WHERE fingerprint = 1 AND {_OF_EVENTS}),
    toString(batch_id)
"""


@dataclass(frozen=True)
class Charge:
    """A charge in the events: what was charged, and the insert that brought it.

    `is_void`: it was taken back, or is about to be because the app tells of the call itself, in another event.
    """

    event_id: str
    batch_id: str
    is_void: bool = False


def note_doubles(client: Client, batch_id: str) -> None:
    """Notes which charges must not stay, of those that this batch and others have made for the same usage.

    Raises:
        ClickHouseError: repeat it; noting twice is noting once.
    """
    client.command(_NOTE_DOUBLES, parameters={"batch_id": batch_id})


def note_copies_of_void(client: Client, charges: Iterable[tuple[str, str]]) -> None:
    """Notes the charges of copies of what someone has just taken back (ids of event and batch). Raises as above."""
    for event_id, batch_id in charges:
        client.command(_NOTE_COPIES_OF_VOID, parameters={"event_id": event_id})
        note_replaced_calls(client, batch_id)


def doubles_to_take_back(
    client: Client, receiver: str, unfinished: Iterable[Batch], noted_within_s: int = _EVER_S
) -> list[Charge]:
    """The noted charges that this aggregator made and has not taken back, each beside one that stays.

    Args:
        client: of the store.
        receiver: the aggregator's id.
        unfinished: its batches that are under way, whose charges may not have reached every total.
        noted_within_s: how long ago a charge was noted at most. A note stays when its charge was taken back, so that after a
            month of many a look at all of them takes long.

    Raises:
        ClickHouseError: ask again.
    """
    ids = [batch.batch_id for batch in unfinished]
    return _noted(client, receiver, own=True, unfinished=ids, noted_within_s=noted_within_s)


def doubles_of_the_gone(client: Client, receiver: str, orphaned_after_s: int) -> dict[str, list[Charge]]:
    """By aggregator, the charges that others have left noted for so long, after a look for what they may not have noted.

    Args:
        client: of the store.
        receiver: the id of the aggregator that looks; its own charges are left out.
        orphaned_after_s: how long ago a charge was noted (or a batch inserted, for the look) whose aggregator is held to be gone.

    Raises:
        ClickHouseError: ask again.
    """
    parameters = {"receiver": receiver, "orphaned_after_s": orphaned_after_s}
    client.command(_NOTE_DOUBLES_OF_OTHERS, parameters=parameters)
    note_replaced_calls_of(client, _LAST_BATCHES, parameters)
    charges = _noted(client, receiver, own=False, noted_before_s=orphaned_after_s)
    found = rows(client, _RECEIVERS, {"batches": sorted({charge.batch_id for charge in charges})})
    made_by = {str(row["batch_id"]): str(row["made_by"]) for row in found}
    gone: dict[str, list[Charge]] = {}
    for charge in charges:
        gone.setdefault(made_by[charge.batch_id], []).append(charge)
    return gone


def _noted(
    client: Client,
    receiver: str,
    *,
    own: bool,
    unfinished: Sequence[str] = (),
    noted_before_s: int = 0,
    noted_within_s: int = _EVER_S,
) -> list[Charge]:
    parameters = {
        "receiver": receiver,
        "own": own,
        "unfinished": list(unfinished),
        "noted_before_s": noted_before_s,
        "noted_within_s": noted_within_s,
        "limit": _LOOKED_AT_MAX if own else _LOOKED_AT_OF_OTHERS_MAX,
    }
    noted = [
        (Charge(str(row["event_id"]), str(row["batch_id"])), row["beside"]) for row in rows(client, _NOTED, parameters)
    ]
    return [
        charge
        for start in range(0, len(noted), VOIDS_MAX)
        for charge in _beside_one_that_stays(client, noted[start : start + VOIDS_MAX])
    ]


def _beside_one_that_stays(client: Client, noted: Sequence[tuple[Charge, Sequence[str]]]) -> list[Charge]:
    """Those whose other charge is in the events by now: until then the noted one is the only one."""
    first: dict[str, Charge] = {}
    for charge in charges_of(client, sorted({event for _, beside in noted for event in beside})):
        first.setdefault(charge.event_id, Charge(charge.event_id, charge.batch_id))
    return [charge for charge, beside in noted if any(first.get(event, charge) != charge for event in beside)]


def charges_of(client: Client, event_ids: Sequence[str]) -> list[Charge]:
    """The charges of some events; of each event the one that stays comes first. Raises ClickHouseError."""
    found = rows(client, _CHARGES, {"events": list(event_ids)})
    return [Charge(str(row["event_id"]), str(row["batch_id"]), bool(row["is_void"])) for row in found]


def double_batch(charges: Sequence[Charge], receiver: str) -> Batch:
    """A batch that takes back charges of one aggregator that are one too many: one only, if they are not the taker's own."""
    now_us = time.time_ns() // 1000
    comment = "another charge of the same usage stays"
    return void_batch(charges, Treatment(DUPLICATE, "", "otel-credits", comment, now_us, receiver))


def void_batch(charges: Sequence[Charge], treatment: Treatment) -> Batch:
    """A batch that takes back these charges; one only, if someone decided it (the action VOID)."""
    assert treatment.action == DUPLICATE or (treatment.action == VOID and len(charges) == 1)
    return replay_batch([f"{charge.event_id} {charge.batch_id}" for charge in charges], treatment)
