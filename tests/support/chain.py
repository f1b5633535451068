"""Sends OTLP requests into a store the way the aggregator does, without its threads: spool, batch, insert.

What a test wants to look at afterwards (events, outcomes, totals) is read by the methods of :class:`Chain`.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from otel_credits_aggregator.batch_insert import insert
from otel_credits_aggregator.books import books_now
from otel_credits_aggregator.envelope import settings_fields
from otel_credits_aggregator.migrations import clickhouse_folder, migrate
from otel_credits_aggregator.otlp import Signal, item_count
from otel_credits_aggregator.replaced_calls import note_replaced_calls
from otel_credits_aggregator.replay import run_replay
from otel_credits_aggregator.settings import Settings
from otel_credits_aggregator.spool import Batch, Spool
from otel_credits_aggregator.store import Client, Row, connect, rows
from otel_credits_aggregator.voids import double_batch, doubles_to_take_back, note_doubles
from otel_credits_aggregator.window import Window

__all__ = ["STORED_TABLES", "Chain", "chain", "chain_store", "new_database", "shared_chain"]

# Every table that the chain writes to.
STORED_TABLES = (
    "credit_usage_events",
    "event_ids_by_second",
    "event_ids_by_key",
    "call_links",
    "user_month_totals",
    "usage_month_totals",
    "credit_quarantine",
    "ingest_outcomes",
    "user_profiles",
    "client_usages",
    "client_counters",
    "usage_intervals",
    "charged_batches",
)
_BY_DECISION = ("quarantine_decisions", "credit_corrections", "credit_voids", "double_charges")
# What the chain reads, as filled by the migrations.
_BOOKS = ("credit_action_costs", "credit_conventions", "credit_rules", "credit_model_aliases")
_SPOOL_BYTES_MAX = 1 << 30
_RETRY_DELAY_S = 1.0

# Where an insert looks for copies of what it is about to charge.
_LOOKED_AT = ("event_ids_by_second", "event_ids_by_key", "call_links")


@dataclass
class Chain:
    """A migrated store, and the way of the aggregator's inserter into it."""

    client: Client
    spool: Spool
    settings: Settings = field(default_factory=Settings)

    def compose(self, *requests: Message, binding: bytes | Sequence[bytes] = b"", **settings: Any) -> Batch:
        """Makes requests of one signal durable and a batch of them, without inserting it; `binding` is one or one each."""
        signal = Signal.TRACES if isinstance(requests[0], ExportTraceServiceRequest) else Signal.METRICS
        bindings = [binding] * len(requests) if isinstance(binding, bytes) else binding
        futures = [
            self.spool.append(signal, request.SerializeToString(), item_count(signal, request), bound)
            for request, bound in zip(requests, bindings, strict=True)
        ]
        ids = [future.result() for future in futures]
        fields = settings_fields(self.settings.model_copy(update=settings), self.spool.receiver)
        batch = Batch(
            str(uuid.uuid4()), signal, ids[0], ids[-1], fields, books_now(self.client), Window().blocks(self.client)
        )
        self.spool.compose(batch)
        return batch

    def insert(self, batch: Batch) -> None:
        """Inserts a batch; it stays in the spool, so that it can be inserted again."""
        insert(self.client, self.spool, batch, in_parts=True)

    def send(self, *requests: Message, **settings: Any) -> Batch:
        """Inserts requests of one signal as one batch, and forgets it as the inserter does."""
        batch = self.compose(*requests, **settings)
        self.insert(batch)
        self.spool.forget(batch)
        return batch

    def insert_unseeing(self, batch: Batch) -> None:
        """Inserts a batch whose look for copies sees nothing of what is stored, as if all of that ended a moment later."""
        for table in _LOOKED_AT:
            self.command(f"CREATE TABLE {table}_unseen AS {table}")
            self.command(f"EXCHANGE TABLES {table} AND {table}_unseen")
        self.insert(batch)
        for table in _LOOKED_AT:
            self.command(f"EXCHANGE TABLES {table} AND {table}_unseen")
            self.command(f"INSERT INTO {table} SELECT * FROM {table}_unseen")
            self.command(f"DROP TABLE {table}_unseen SYNC")

    def look(self, batch: Batch) -> None:
        """Looks for what was charged twice, as the inserter does after a batch with LLM calls."""
        note_doubles(self.client, batch.batch_id)
        note_replaced_calls(self.client, batch.batch_id)

    def take_back(self) -> int:
        """Takes back what is noted of this aggregator's charges, as its inserter does; returns how many."""
        doubles = doubles_to_take_back(self.client, self.spool.receiver, self.spool.batches())
        if doubles:
            run_replay(self.client, double_batch(doubles, self.spool.receiver))
        return len(doubles)

    def rows(self, sql: str, **parameters: Any) -> list[Row]:
        """The result of a query."""
        return rows(self.client, sql, parameters)

    def command(self, sql: str) -> None:
        """Runs a statement."""
        self.client.command(sql)

    def events(self) -> list[Row]:
        """All events, in the order they ended, then in which they were received."""
        return self.rows("SELECT * FROM credit_usage_events ORDER BY created_at, received_at, event_id")

    def charges(self) -> list[Decimal]:
        """The charge of each event, in the order of :meth:`events`."""
        return [event["credits_charged"] for event in self.events()]

    def reasons(self) -> list[str]:
        """The reason of each quarantined row, in alphabetical order."""
        return [row["reason"] for row in self.rows("SELECT reason FROM credit_quarantine ORDER BY reason")]

    def outcomes(self) -> Counter[str]:
        """How many spans and points became what, reasons left aside."""
        found = self.rows("SELECT outcome, sum(items) AS n FROM ingest_outcomes GROUP BY outcome HAVING n != 0")
        return Counter({row["outcome"]: row["n"] for row in found})

    def contents(self) -> Mapping[str, list[Row]]:
        """All that the chain has stored, every column of every table; rows that merging would add up are added up."""
        return {table: rows(self.client, _contents_query(table)) for table in STORED_TABLES}

    def empty(self) -> None:
        """Empties everything that the chain writes."""
        for table in (*STORED_TABLES, *_BY_DECISION, "credit_grants"):
            self.client.command(f"TRUNCATE TABLE {table}")

    def assert_sums_agree(self) -> None:
        """The accounting of promise 3, and running totals that are the sum of the events (promise 8)."""
        assert self.differences() == []
        received = sum(self.spool.received().values())
        assert sum(self.outcomes().values()) == received
        self.assert_totals_are_the_events()

    def differences(self) -> list[Row]:
        """What `otel-credits reconcile` would find."""
        reconcile = (clickhouse_folder() / "queries" / "reconcile.sql").read_text("utf-8")
        return self.rows(reconcile.rstrip().rstrip(";"), users=[], after="", until="")

    def assert_totals_are_the_events(self) -> None:
        """Tables that repeat what the events say agree with them, and no identity was charged twice."""
        outcomes = self.outcomes()
        (events,) = self.rows(
            "SELECT sum(sign) AS n, countIf(sign = 1) AS made, uniqExactIf(event_id, net = 1) AS ids,"
            " sum(credits_charged) AS credits, sum(input_tokens) AS input, sum(output_tokens) AS output"
            " FROM (SELECT *, sum(sign) OVER (PARTITION BY event_id) AS net FROM credit_usage_events)"
        )
        # What a person has taken back was charged.
        (decided,) = self.rows("SELECT count() AS n FROM credit_voids WHERE kind = 'void'")
        assert events["ids"] == events["n"] == outcomes["charged"] - decided["n"]
        for query, expected in _totals(events):
            assert self.rows(query) == [expected], query
        quarantined = self.rows(
            "SELECT reason, toInt64(sum(items)) AS n FROM credit_quarantine GROUP BY reason ORDER BY reason"
        )
        assert quarantined == self.rows(
            "SELECT reason, sum(items) AS n FROM ingest_outcomes WHERE outcome = 'quarantined'"
            " GROUP BY reason HAVING n != 0 ORDER BY reason"
        )


def _totals(events: Row) -> Iterator[tuple[str, Row]]:
    totals = {"n": events["n"], "credits": events["credits"]}
    yield "SELECT sum(events) AS n, sum(consumed) AS credits FROM user_month_totals", totals
    yield "SELECT sum(lifetime_consumed) AS credits FROM user_credit_balances", {"credits": events["credits"]}
    yield (
        "SELECT sum(m.events) AS n, sum(m.credits_consumed) AS credits, sum(m.input_tokens) AS input,"
        " sum(m.output_tokens) AS output "
        "FROM credit_monthly_usage AS m",
        totals | {"input": events["input"], "output": events["output"]},
    )
    yield (
        "SELECT count() AS n FROM (SELECT event_id FROM event_ids_by_second UNION ALL SELECT event_id FROM event_ids_by_key)",
        {"n": events["made"]},
    )


def _contents_query(table: str) -> str:
    """Ordered rows; a quarantined row's own random id is left out, totals are grouped as merging would."""
    if table == "credit_quarantine":
        return "SELECT * EXCEPT (quarantine_id) FROM credit_quarantine ORDER BY ALL"
    if table == "charged_batches":
        return "SELECT * EXCEPT (inserted_at) FROM charged_batches ORDER BY ALL"
    if table == "client_usages":
        columns = "service_name, service_instance_id, outcome"
        return f"SELECT {columns}, groupBitmapMerge(seqs) AS n FROM client_usages GROUP BY ALL ORDER BY ALL"
    if table in ("user_month_totals", "usage_month_totals", "ingest_outcomes", "usage_intervals"):
        return f"SELECT * FROM {table} FINAL ORDER BY ALL"
    return f"SELECT * FROM {table} ORDER BY ALL"


@contextmanager
def new_database(engine: Client) -> Iterator[Client]:
    """A client of a new, migrated database, which is dropped afterwards."""
    database = f"chain_{uuid.uuid4().hex}"
    engine.command(f"CREATE DATABASE {database}")
    try:
        with connect(f"chdb://memory/{database}") as client:
            migrate(client)
            yield client
    finally:
        engine.command(f"DROP DATABASE {database} SYNC")


def _new_spool(folder: Path) -> Spool:
    return Spool(folder / "spool.sqlite", _SPOOL_BYTES_MAX, _RETRY_DELAY_S)


class _SharedStore:
    """The database that the tests with a `chain` share, one after the other, with its books as the migrations fill them."""

    def __init__(self, client: Client) -> None:
        self.client = client
        for table in _BOOKS:
            client.command(f"CREATE TABLE {table}_as_migrated ENGINE = Memory AS SELECT * FROM {table}")
        self._contents = self._hashes()

    def put_books_back(self) -> None:
        """Fills those anew that were changed."""
        now = self._hashes()
        for table in _BOOKS:
            if now.get(table) != self._contents.get(table):
                self.client.command(f"TRUNCATE TABLE {table}")
                self.client.command(f"INSERT INTO {table} SELECT * FROM {table}_as_migrated")
        if now != self._contents:
            self._contents = self._hashes()

    def _hashes(self) -> dict[str, list[str]]:
        """Of the files that each book is in."""
        found = rows(
            self.client,
            "SELECT table, arraySort(groupArray(hash_of_all_files)) AS hashes FROM system.parts"
            " WHERE active AND database = currentDatabase() AND table IN ({books:Array(String)}) GROUP BY table",
            {"books": list(_BOOKS)},
        )
        return {row["table"]: row["hashes"] for row in found}


@pytest.fixture(scope="session")
def chain_store(memory_engine: Client) -> Iterator[_SharedStore]:
    """The store of all tests with a `chain`."""
    with new_database(memory_engine) as client:
        yield _SharedStore(client)


@pytest.fixture
def chain(chain_store: _SharedStore, tmp_path: Path) -> Iterator[Chain]:
    """A chain into a store as it is after the migrations (emptied, since migrating for each test would take longer)."""
    with _new_spool(tmp_path) as spool:
        fresh = Chain(chain_store.client, spool)
        fresh.empty()
        chain_store.put_books_back()
        yield fresh


@pytest.fixture(scope="module")
def shared_chain(memory_engine: Client, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """A chain into a store that the tests of a module share, with all that they put there."""
    with new_database(memory_engine) as client, _new_spool(tmp_path_factory.mktemp("spool")) as spool:
        yield Chain(client, spool)
