"""Billing rules: as a row of the store, and tried out.

A rule is tried out by the chain itself, in a database of its own: made by the same migrations, with the same books, dropped
afterwards. So a test cannot say something else than what would be charged.
"""

import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager

from otel_credits_aggregator.batch_insert import insert_requests
from otel_credits_aggregator.envelope import settings_fields
from otel_credits_aggregator.ledger._queries import named_query
from otel_credits_aggregator.ledger._store import Store
from otel_credits_aggregator.ledger.errors import InvalidRequestError
from otel_credits_aggregator.ledger.models import NewRule, RuleCharge
from otel_credits_aggregator.migrations import migrate
from otel_credits_aggregator.otlp import Signal, parse
from otel_credits_aggregator.outcomes import BadRequest
from otel_credits_aggregator.settings import Settings
from otel_credits_aggregator.spool import Request
from otel_credits_aggregator.store import Client, connect, json_rows

__all__ = ["insert_rule", "would_charge"]

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


def would_charge(dsn: str, rule_id: str, request: bytes, settings: Settings) -> list[RuleCharge]:
    """What a rule would charge for the spans of a request, were it on.

    Args:
        dsn: the store, whose price book counts.
        rule_id: one of its rules.
        request: an OTLP trace request, protobuf.
        settings: who pays, and whether LLM calls are charged anyway.

    Raises:
        InvalidRequestError: the bytes are no such request.
        ClickHouseError: the store refuses; its user may need the right to create a database.
    """
    try:
        parse(Signal.TRACES, request)
    except BadRequest as error:
        raise InvalidRequestError(str(error)) from error
    with _scratch(dsn, rule_id) as client:
        batch_id = str(uuid.uuid4())
        fields = settings_fields(settings, "rule test")
        insert_requests(client, Signal.TRACES, batch_id, fields, [Request(request, time.time_ns() // 1000, b"")])
        found = json_rows(client, named_query("rule_charges"), {"rule_id": rule_id})
    return [RuleCharge.model_validate_json(row) for row in found]


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
