"""Billing rules: as a row of the store, and tried out.

A rule is tried out by the chain itself, in a database of its own: made by the same migrations, with the same books, dropped
afterwards. So a test cannot say something else than what would be charged.
"""

import sqlite3
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from otel_credits_aggregator.batch_insert import insert_requests
from otel_credits_aggregator.envelope import settings_fields
from otel_credits_aggregator.ledger._queries import named_query
from otel_credits_aggregator.ledger._store import Store
from otel_credits_aggregator.ledger.errors import InvalidRequestError, LedgerError
from otel_credits_aggregator.ledger.inputs import NewRule
from otel_credits_aggregator.ledger.models import RuleCharge, StoredTest
from otel_credits_aggregator.migrations import migrate
from otel_credits_aggregator.otlp import Signal, item_count, parse
from otel_credits_aggregator.outcomes import BadRequest
from otel_credits_aggregator.recent import recent_requests
from otel_credits_aggregator.settings import Settings
from otel_credits_aggregator.spool import Request
from otel_credits_aggregator.store import Client, connect, json_rows

__all__ = ["insert_rule", "sent", "would_charge", "would_have_charged"]

_DATABASE_PREFIX = "otel_credits_rule_test_"
_BOOKS = ("credit_action_costs", "credit_conventions", "credit_model_aliases")
# The rules that count now, with the one to be tested switched on; since ever, because what is received now comes after it.
_RULES = """
INSERT INTO credit_rules
SELECT * REPLACE (enabled OR rule_id = {{rule_id:String}} AS enabled, toDateTime64('2000-01-01 00:00:00', 6, 'UTC') AS created_at)
FROM {database}.credit_rules ORDER BY created_at DESC LIMIT 1 BY rule_id
"""


def insert_rule(store: Store, new: NewRule) -> None:
    """Adds a row of a rule. Raises StoreUnavailableError."""
    maps = new.model_dump(include={"attributes", "attribute_prefixes", "quantities"})
    row = {name: str(value) for name, value in new.model_dump(exclude=set(maps)).items()}
    row |= {name: str(int(getattr(new, name))) for name in ("enabled", "charge_failed")}
    store.insert("credit_rules", row, token=str(uuid.uuid4()), maps=maps)


def sent(request: bytes) -> list[Request]:
    """A request to try a rule on, as if it came now.

    Raises:
        InvalidRequestError: the bytes are no OTLP trace request.
    """
    try:
        parse(Signal.TRACES, request)
    except BadRequest as error:
        raise InvalidRequestError(str(error)) from error
    return [Request(request, time.time_ns() // 1000, b"")]


def would_charge(dsn: str, rule_id: str, batches: Iterable[list[Request]], settings: Settings) -> list[RuleCharge]:
    """What a rule would charge for the spans of trace requests, were it on. A span counts once, in whichever of them it is.

    Args:
        dsn: the store, whose price book counts.
        rule_id: one of its rules.
        batches: the requests, as many at a time as one insert may bring.
        settings: who pays, and whether LLM calls are charged anyway.

    Raises:
        ClickHouseError: the store refuses; its user may need the right to create a database.
    """
    fields = settings_fields(settings, "rule test")
    with _scratch(dsn, rule_id) as client:
        for requests in batches:
            insert_requests(client, Signal.TRACES, str(uuid.uuid4()), fields, requests)
        found = json_rows(client, named_query("rule_charges"), {"rule_id": rule_id})
    return [RuleCharge.model_validate_json(row) for row in found]


def would_have_charged(dsn: str, rule_id: str, since: datetime | None, settings: Settings) -> StoredTest:
    """The same for the requests that are kept (OTEL_CREDITS_KEEP_REQUESTS_H) and were received since then; None: for all.

    Raises:
        InvalidRequestError: none are kept.
        ClickHouseError: as above.
    """
    if settings.keep_requests_h == 0:
        raise InvalidRequestError(
            "no requests are kept to test rules on: set OTEL_CREDITS_KEEP_REQUESTS_H, or test with a file"
        )
    read = _Read()
    since_us = int(since.timestamp() * 1_000_000) if since else 0
    try:
        batches = recent_requests(settings, since_us, settings.insert_bytes_max)
        charges = would_charge(dsn, rule_id, map(read.note, batches), settings)
    except sqlite3.Error as error:
        raise LedgerError(f"what is kept of requests cannot be read: {error}") from error
    return StoredTest(requests=read.requests, spans=read.spans, received_from=read.received_from, charges=charges)


@dataclass
class _Read:
    """What was read of the requests that are kept."""

    requests: int = 0
    spans: int = 0
    received_from: datetime | None = None

    def note(self, requests: list[Request]) -> list[Request]:
        self.requests += len(requests)
        self.spans += sum(item_count(Signal.TRACES, parse(Signal.TRACES, one.payload)) for one in requests)
        first = datetime.fromtimestamp(requests[0].received_at_us / 1_000_000, UTC)
        self.received_from = self.received_from or first
        return requests


@contextmanager
def _scratch(dsn: str, rule_id: str) -> Iterator[Client]:
    """A client of a new database with the chain, the books, and the rules of the store, the one to be tested on."""
    scratch = f"{_DATABASE_PREFIX}{uuid.uuid4().hex}"
    with closing(connect(dsn)) as client:
        database = str(client.command("SELECT currentDatabase()"))
        client.command(f"CREATE DATABASE {scratch}")
        try:
            with closing(connect(dsn, database=scratch)) as inside:
                migrate(inside)
                for table in _BOOKS:
                    inside.command(f"TRUNCATE TABLE {table}")
                    inside.command(f"INSERT INTO {table} SELECT * FROM `{database}`.{table}")
                inside.command("TRUNCATE TABLE credit_rules")
                inside.command(_RULES.format(database=f"`{database}`"), parameters={"rule_id": rule_id})
                yield inside
        finally:
            client.command(f"DROP DATABASE {scratch} SYNC")
