"""The program that makes a store of many events quickly: through the chain, from the table behind the decoding on.

It inserts into `usage_candidates` blocks of the size that the aggregator inserts, in the order of time, so that rating,
looking for duplicates, totals, parts and merges are those of an ingest. It runs as a process of its own, because the
embedded store belongs to one process at a time, and ends before the aggregator starts. Prints what it left, as JSON.
"""

import argparse
import json
import uuid

from otel_credits import _attributes as names
from otel_credits_aggregator.batch_insert import token_settings
from otel_credits_aggregator.migrations import migrate
from otel_credits_aggregator.store import Client, connect, rows

from benchmarks._spans import ACTION, INPUT_TOKENS_MAX, MODEL, OUTPUT_TOKENS_MAX

_BLOCK_ROWS = 65_536
_DAYS = 90

# `i` numbers the events of the whole store. Users in random order, times in order.
_INSERT = """
INSERT INTO usage_candidates
    (signal, batch_id, received_at, position, service_name, scope_name, trace_id, span_id, name, kind,
    start_time_unix_nano, end_time_unix_nano, attributes)
WITH {names:Array(String)} AS names
SELECT
    'span', {batch:UUID}, fromUnixTimestamp64Nano(toInt64(end_ns), 'UTC'), number, 'benchmark', 'otel_credits',
    unhex(hex(sipHash128('trace', i))), unhex(substring(hex(sipHash128('span', i)), 1, 16)), 'usage', 1,
    end_ns - 1500000000, end_ns,
    map(
        names[1], {action:String},
        names[2], concat('user-', leftPad(toString(user), 8, '0'), '-0000-4000-8000'),
        names[3], {model:String},
        names[4], toString(1 + i % {input_max:UInt64}),
        names[5], toString(1 + i % {output_max:UInt64}),
        names[6], 'AI chat message',
        names[7], lower(leftPad(hex(user), 32, '0')),
        names[8], 'chat')
FROM
(
    SELECT
        number,
        number + {first:UInt64} AS i,
        cityHash64(i) % {users:UInt64} AS user,
        intDiv(({events:UInt64} - i) * {days:UInt64} * 86400000, {events:UInt64}) AS age_ms,
        toUInt64(toUnixTimestamp64Nano(now64(9))) - age_ms * 1000000 AS end_ns
    FROM numbers({rows:UInt64})
)
"""
_LEFT = """
SELECT count() AS parts, sum(rows) AS rows FROM system.parts
WHERE active AND database = currentDatabase() AND table = 'user_month_totals'
"""
_NAMES = [
    names.ACTION_TYPE,
    names.USER_ID,
    names.REQUEST_MODEL,
    names.INPUT_TOKENS,
    names.OUTPUT_TOKENS,
    names.DESCRIPTION,
    names.RESOURCE_ID,
    names.RESOURCE_TYPE,
]


def main() -> None:
    """Fills a new store."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dsn", required=True)
    parser.add_argument("--events", type=int, required=True)
    parser.add_argument("--users", type=int, required=True)
    options = parser.parse_args()
    client = connect(options.dsn)
    migrate(client)
    for first in range(0, options.events, _BLOCK_ROWS):
        _insert(client, first, options.events, options.users)
    print(json.dumps(rows(client, _LEFT)[0]), flush=True)
    client.close()


def _insert(client: Client, first: int, events: int, users: int) -> None:
    batch = str(uuid.uuid4())
    parameters = {
        "batch": batch,
        "first": first,
        "rows": min(_BLOCK_ROWS, events - first),
        "events": events,
        "users": users,
        "days": _DAYS,
        "names": _NAMES,
        "action": ACTION,
        "model": MODEL,
        "input_max": INPUT_TOKENS_MAX,
        "output_max": OUTPUT_TOKENS_MAX,
    }
    client.command(_INSERT, parameters=parameters, settings=token_settings(batch))


if __name__ == "__main__":
    main()
