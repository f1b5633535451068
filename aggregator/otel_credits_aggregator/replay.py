"""Charges what waits in the quarantine, once it can be: the rows go through the chain again, and leave the quarantine.

A replay is a batch like any other. Which rows it takes is durable in the spool before it starts, and each of its three
statements may be repeated, so that a crash in between neither loses nor doubles a usage.
"""

import json
import uuid
from collections.abc import Sequence
from typing import Any

from otel_credits_aggregator.batch_insert import token_settings
from otel_credits_aggregator.fault_points import passing
from otel_credits_aggregator.otlp import Signal
from otel_credits_aggregator.spool import Batch
from otel_credits_aggregator.store import Client, rows

__all__ = ["REPLAY_ROWS_MAX", "PriceWatch", "halves_of_replay", "quarantined_ids", "replay_batch", "run_replay"]

REPLAY_ROWS_MAX = 10_000
ROWS_LOOKED_AT_MAX = 1_000_000

_CHOSEN = "quarantine_id IN ({ids:Array(UUID)})"

_INTO_THE_CHAIN = f"""
INSERT INTO usage_candidates
SELECT
    signal, {{batch_id:UUID}} AS batch_id, received_at, rowNumberInAllBlocks() AS position,
    charge_genai, user_attributes, default_user, receiver, allowed_services, allowed_actions,
    service_name, scope_name, scope_version,
    trace_id, span_id, name, kind, status_code, start_time_unix_nano, end_time_unix_nano,
    series, attributes, double_keys, defect
FROM (SELECT * FROM credit_quarantine WHERE {_CHOSEN} AND raw_request = '' ORDER BY received_at, quarantine_id)
"""
_OUT_OF_THE_COUNT = f"""
INSERT INTO ingest_outcomes (receiver, signal, outcome, reason, items)
SELECT receiver, signal, 'quarantined', reason, -toInt64(sum(items))
FROM credit_quarantine WHERE {_CHOSEN} GROUP BY receiver, signal, reason
"""
_OUT_OF_THE_QUARANTINE = f"DELETE FROM credit_quarantine WHERE {_CHOSEN}"


def quarantined_ids(
    client: Client, receiver: str, reasons: Sequence[str] = (), user_id: str | None = None
) -> list[str]:
    """The rows that match and came through this aggregator, oldest first, at most :data:`ROWS_LOOKED_AT_MAX`.

    Only its own, because two aggregators that replay one row at the same moment could both charge it.
    """
    found = rows(
        client,
        """
        SELECT toString(quarantine_id) AS id FROM credit_quarantine
        WHERE receiver = {receiver:String} AND raw_request = ''
            AND (empty({reasons:Array(String)}) OR has({reasons:Array(String)}, reason))
            AND ({user:String} = '' OR user_id = {user:String})
        ORDER BY received_at, quarantine_id LIMIT {limit:UInt32}
        """,
        {"receiver": receiver, "reasons": list(reasons), "user": user_id or "", "limit": ROWS_LOOKED_AT_MAX},
    )
    return [row["id"] for row in found]


def replay_batch(ids: Sequence[str]) -> Batch:
    """A batch that replays these rows; it has no requests in the spool."""
    return Batch(str(uuid.uuid4()), Signal.REPLAY, 0, -1, json.dumps(list(ids)).encode())


def halves_of_replay(batch: Batch) -> list[Batch]:
    """Two batches that replay the same rows; none if there is only one row."""
    ids = json.loads(batch.fields)
    middle = len(ids) // 2
    return [replay_batch(ids[:middle]), replay_batch(ids[middle:])] if middle else []


def run_replay(client: Client, batch: Batch) -> None:
    """Runs a replay, or the rest of one that was cut off.

    Raises:
        ClickHouseError: repeat it.
    """
    parameters: dict[str, Any] = {"ids": json.loads(batch.fields), "batch_id": batch.batch_id}
    client.command(_INTO_THE_CHAIN, parameters=parameters, settings=token_settings(batch.batch_id))
    passing("replay_inserted")
    client.command(_OUT_OF_THE_COUNT, parameters=parameters, settings=token_settings(f"{batch.batch_id}-outcome"))
    passing("replay_counted")
    client.command(_OUT_OF_THE_QUARANTINE, parameters=parameters, settings={"lightweight_deletes_sync": 2})


class PriceWatch:
    """Tells when the price book changed, so that what is unpriced may be looked at again."""

    def __init__(self) -> None:
        self._seen: Any = None

    def changed(self, client: Client) -> bool:
        """Whether the price book is another than at the last call; true at the first."""
        (book,) = rows(client, "SELECT sum(cityHash64(*)) AS hash, count() AS number FROM credit_action_costs")
        previous, self._seen = self._seen, book
        return bool(previous != book)
