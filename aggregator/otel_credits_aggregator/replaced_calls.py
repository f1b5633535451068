"""Calls that were charged by an instrumentation's span, although the app tells of them itself: found after an insert.

The app's usage and the instrumentation's spans leave the process through different exporters, so either may be charged first.
Whatever the order, the app's word counts. If both have one response id, they are two charges of one event (:mod:`voids`). If a
call is the child of the app's usage, both have kept the usage's place in the trace (`call_links`), and are found by it here,
by whichever insert ends later. Noted is what must not stay, as with two aggregators that have charged copies.
"""

from otel_credits_aggregator.store import Client

__all__ = ["note_replaced_calls", "note_replaced_calls_of"]

_LINKS = "FROM call_links WHERE place IN ({places}) AND role IN ('within', 'encloses')"
_VOID = "SELECT event_id, batch_id FROM credit_voids WHERE kind = 'void' AND event_id IN (SELECT event_id {links})"
# Of a usage of which a person has taken a call back, the calls stay as they are, and the usage is not charged beside them. That
# is so only if the call was not replaced before the decision: what is replaced is not there to be decided about.
_NOTE = """
INSERT INTO double_charges (batch_id, event_id, stays)
SELECT note.1 AS batch, note.2 AS event, note.3 AS stays
FROM
(
    SELECT arrayJoin(if(empty(decided),
        arrayMap(charge -> (charge.1, charge.2, usages[1].2), calls),
        arrayMap(charge -> (charge.1, charge.2, decided[1]), usages))) AS note
    FROM
    (
        SELECT
            place,
            arraySort(groupUniqArrayIf((batch_id, event_id), role = 'within')) AS calls,
            arraySort(groupUniqArrayIf((batch_id, event_id), role = 'encloses')) AS usages,
            groupUniqArrayIf(event_id, role = 'within' AND (event_id, batch_id) IN ({void})
                AND (batch_id, event_id) NOT IN (SELECT batch_id, event_id FROM double_charges)) AS decided
        {links}
        GROUP BY place
        HAVING notEmpty(calls) AND notEmpty(usages)
    )
)
"""
_NOT_NOTED = "WHERE (batch, event, stays) NOT IN (SELECT batch_id, event_id, stays FROM double_charges)"


def _note(places: str) -> str:
    links = _LINKS.format(places=places)
    return _NOTE.format(links=links, void=_VOID.format(links=links))


_NOTE_OF_BATCH = _note("SELECT arrayJoin(places) FROM charged_batches WHERE batch_id = {batch_id:UUID}")


def note_replaced_calls(client: Client, batch_id: str) -> None:
    """Notes the charges of calls that a usage of the app is around, if this batch has charged either.

    Raises:
        ClickHouseError: repeat it; noting twice is noting once.
    """
    client.command(_NOTE_OF_BATCH, parameters={"batch_id": batch_id})


def note_replaced_calls_of(client: Client, batches: str, parameters: dict[str, object]) -> None:
    """The same for the batches that a query finds; what is noted keeps the time at which it was. Raises as above."""
    places = f"SELECT arrayJoin(places) FROM charged_batches WHERE batch_id IN ({batches})"
    client.command(_note(places) + _NOT_NOTED, parameters=parameters)
