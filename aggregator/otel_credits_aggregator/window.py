"""How far the store's memory for tokens reaches, and what becomes of a batch that may have fallen out of it.

Each table of the chain remembers the tokens of its last blocks (`non_replicated_deduplication_window`). A batch that was cut off
half-way and is repeated after that would be inserted again where it was already. So where each table stands is durable with the
batch before its first attempt, and a repetition asks how many blocks have come since.

If it may be too many, what the batch has left is taken out wherever its rows can be told, and it begins anew under another id:
then each event and each id is there once. Totals do not say which batch they are of. They may count it twice, and `otel-credits
reconcile` finds that, as it computes them from the events.
"""

import json
import time
from collections.abc import Mapping

from otel_credits_aggregator.store import Client, DatabaseError, rows

__all__ = ["Window", "is_forgotten", "take_out"]

# Where a row says of which batch it is.
_TOLD = (
    "credit_usage_events",
    "event_ids_by_second",
    "event_ids_by_key",
    "call_links",
    "charged_batches",
    "credit_quarantine",
)
_NOT_TOLD = ("user_month_totals", "usage_month_totals", "ingest_outcomes")
_TABLES = (*_TOLD, *_NOT_TOLD)

# Numbers only grow, with each insert and with each mutation, whatever is merged.
_BLOCKS = """
SELECT table, toInt64(max(greatest(max_block_number, data_version))) AS block FROM system.parts
WHERE database = currentDatabase() AND active AND table IN ({tables:Array(String)}) GROUP BY table
"""
_WINDOWS = r"""
SELECT name, toInt64OrZero(extract(engine_full, '\\bnon_replicated_deduplication_window = (\\d+)')) AS blocks
FROM system.tables WHERE database = currentDatabase() AND name IN ({tables:Array(String)})
"""
# What someone, or another aggregator, has decided meanwhile about the rows of a batch, refers to them as they are.
_OF_THE_BATCH = """
SELECT event_id FROM event_ids_by_second WHERE batch_id = {batch_id:UUID}
UNION ALL SELECT event_id FROM event_ids_by_key WHERE batch_id = {batch_id:UUID}
UNION ALL SELECT event_id FROM credit_usage_events WHERE batch_id = {batch_id:UUID}
"""
_DECIDED = f"""
SELECT (SELECT count() FROM credit_voids WHERE event_id IN ({_OF_THE_BATCH}))
    + (SELECT count() FROM double_charges WHERE event_id IN ({_OF_THE_BATCH}))
    + (SELECT count() FROM quarantine_decisions WHERE quarantine_id IN (
        SELECT quarantine_id FROM credit_quarantine WHERE batch_id = {{batch_id:UUID}})) AS decisions
"""
_ACCESS_DENIED = 497
# Numbers that are so old only make a repetition look a little later than it is.
_REFRESH_S = 10.0
# What others may insert between the question and the end of the repetition: a fiftieth of the window, 50 s at 4 inserts a second.
_MARGIN = 50


class Window:
    """Says where the tables stand. For one thread at a time."""

    def __init__(self) -> None:
        self._blocks = ""
        self._asked_at: float | None = None

    def blocks(self, client: Client) -> str:
        """The number of the last block of each table now, or some seconds ago, as JSON.

        Raises:
            ClickHouseError: ask again.
        """
        now = time.monotonic()
        if self._asked_at is None or now - self._asked_at >= _REFRESH_S:
            self._blocks, self._asked_at = _as_text(client), now
        return self._blocks


def is_forgotten(client: Client, blocks: str) -> bool:
    """Whether the store may have forgotten the token of a batch that was composed when its tables stood at `blocks`.

    Raises:
        ClickHouseError: ask again.
    """
    if not blocks:
        return False
    before: Mapping[str, int] = json.loads(blocks)
    windows = {row["name"]: row["blocks"] for row in rows(client, _WINDOWS, {"tables": list(_TABLES)})}
    for table, block in _last_blocks(client).items():
        # A table that was empty says nothing of where it stood, unless all were: then the store was new.
        since = block - before.get(table, -1 if not before else block)
        # A table of another kind has another memory, which is not known here.
        window = windows.get(table, 0)
        if window and since > window - window // _MARGIN:
            return True
    return False


def take_out(client: Client, batch_id: str) -> bool:
    """Deletes what a batch that will begin anew has left. False: nothing was deleted, as somebody has decided about some of it.

    Raises:
        ClickHouseError: repeat it.
    """
    (found,) = rows(client, _DECIDED, {"batch_id": batch_id})
    if found["decisions"]:
        return False
    for table in _TOLD:
        client.command(f"DELETE FROM {table} WHERE batch_id = {{batch_id:UUID}}", parameters={"batch_id": batch_id})
    return True


def _as_text(client: Client) -> str:
    """The numbers as JSON; empty for a user of the store that may not see them."""
    try:
        return json.dumps(_last_blocks(client))
    except DatabaseError as error:
        if error.code != _ACCESS_DENIED:
            raise
        return ""


def _last_blocks(client: Client) -> dict[str, int]:
    return {row["table"]: row["block"] for row in rows(client, _BLOCKS, {"tables": list(_TABLES)})}
