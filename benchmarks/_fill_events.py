"""The program that makes a store of very many events: `fill`, and `break`, which makes one of its totals wrong.

`fill` inserts into the events themselves, which no view of the totals reads, so that there are no totals until they are made from
the events (`otel-credits rebuild`). A user's events come together, as they lie in a store whose parts were merged. It runs as a
process of its own, because the embedded store belongs to one process at a time.
"""

import argparse
import time
from decimal import Decimal

from otel_credits_aggregator.migrations import migrate
from otel_credits_aggregator.store import Client, connect

__all__ = ["EVENTS_PER_USER", "WRONG_BY"]

EVENTS_PER_USER = 100
# The smallest that a total can be wrong by.
WRONG_BY = Decimal("0.000000000001")

_BLOCK_EVENTS = 1_000_000
_PROGRESS_BLOCKS = 10

# Of each user 100 events over 90 days, in 12 pairs of action and model: some 40 totals a user.
_INSERT = """
INSERT INTO credit_usage_events (event_id, user_id, action_type, model, input_tokens, output_tokens, credits_charged,
    service_name, created_at, received_at, batch_id, identity)
SELECT
    generateUUIDv4(), concat('user-', leftPad(toString(intDiv(number, {events_per_user:UInt64})), 8, '0'), '-0000-4000-8000'),
    concat('action-', toString(chance % 3)), concat('model-', toString(intDiv(chance, 3) % 4)),
    chance % 3000, chance % 1000, toDecimal128(chance % 1000003, 12) / 1000000,
    'benchmark', ended_at, ended_at, {batch:UUID}, 'span'
FROM
(
    SELECT
        number, cityHash64(number) AS chance,
        {began:DateTime('UTC')} - toIntervalMillisecond(sipHash64(number) % 7776000000) AS ended_at
    FROM numbers({first:UInt64}, {rows:UInt64})
)
"""
_BREAK = """
INSERT INTO user_month_totals (user_id, month, consumed)
SELECT max(user_id), toStartOfMonth({began:DateTime('UTC')}), {wrong_by:Decimal(38, 12)} FROM user_month_totals
"""
_BATCH = "00000000-0000-4000-8000-000000000000"


def main() -> None:
    """Fills a new store, or breaks one."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("fill", "break"))
    parser.add_argument("--dsn", required=True)
    parser.add_argument("--events", type=int, default=0)
    options = parser.parse_args()
    with connect(options.dsn) as client:
        if options.what == "fill":
            migrate(client)
            _fill(client, options.events)
        else:
            client.command(_BREAK, parameters={"began": int(time.time()), "wrong_by": str(WRONG_BY)})


def _fill(client: Client, events: int) -> None:
    began = int(time.time())
    for number, first in enumerate(range(0, events, _BLOCK_EVENTS), 1):
        parameters = {
            "began": began,
            "batch": _BATCH,
            "first": first,
            "rows": min(_BLOCK_EVENTS, events - first),
            "events_per_user": EVENTS_PER_USER,
        }
        client.command(_INSERT, parameters=parameters)
        if number % _PROGRESS_BLOCKS == 0:
            print(f"  {first + parameters['rows']:,} events after {time.time() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
