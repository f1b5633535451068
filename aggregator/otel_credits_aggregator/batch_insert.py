"""How a batch gets into the store: the insert itself, its settings, and which failures are worth another try."""

import uuid
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any

from otel_credits_aggregator.envelope import allowed, framed, framed_parts
from otel_credits_aggregator.migrations import clickhouse_folder
from otel_credits_aggregator.otlp import Signal
from otel_credits_aggregator.privacy import stripped
from otel_credits_aggregator.spool import Batch, Request, Spool
from otel_credits_aggregator.store import Client, DatabaseError, rows

__all__ = [
    "ONE_BLOCK",
    "insert",
    "insert_requests",
    "is_permanent",
    "is_too_much",
    "named_attributes",
    "quarantine_raw",
    "token_settings",
]

_RAW_REASON = "request_not_insertable"
_RAW_COLUMNS = (
    "event_id",
    "reason",
    "detail",
    "received_at",
    "items",
    "signal",
    "receiver",
    "raw_request",
    "allowed_services",
    "allowed_actions",
)
_TARGETS = {Signal.TRACES: ("otlp_traces", "Traces"), Signal.METRICS: ("otlp_metrics", "Metrics")}

# A batch must pass the chain as one block: copies of a usage within it are recognised block by block.
ONE_BLOCK = {
    "max_block_size": 1 << 24,
    "max_insert_block_size": 1 << 24,
    "min_insert_block_size_rows": 1 << 24,
    "min_insert_block_size_bytes": 1 << 32,
    "max_threads": 1,
    "max_insert_threads": 1,
    # Compiling the expressions holds up the insert that triggers it for some 400 ms, and no gain could be measured.
    "compile_expressions": 0,
    # Planning the views is half of what an insert costs; without these two it is a tenth less, and the rest takes no longer.
    "query_plan_merge_expressions": 0,
    "query_plan_remove_unused_columns": 0,
    # Looking for comparisons that follow from others is a fifth of what a small insert of LLM calls takes.
    "optimize_and_compare_chain": 0,
}
# The token makes a repeated insert complete what the first one left undone, in every table behind the views.
_EXACTLY_ONCE = {
    "async_insert": 0,
    "insert_deduplicate": 1,
    "deduplicate_blocks_in_dependent_materialized_views": 1,
    "materialized_views_ignore_errors": 0,
}

# Codes of ClickHouse that say the data is at fault, so that the same bytes fail for ever.
_PERMANENT_CODES = frozenset(
    {
        6,  # CANNOT_PARSE_TEXT
        26,  # CANNOT_PARSE_QUOTED_STRING
        27,  # CANNOT_PARSE_INPUT_ASSERTION_FAILED
        32,  # ATTEMPT_TO_READ_AFTER_EOF
        33,  # CANNOT_READ_ALL_DATA
        36,  # BAD_ARGUMENTS: two fields of one oneof
        38,  # CANNOT_PARSE_DATE
        41,  # CANNOT_PARSE_DATETIME
        43,  # ILLEGAL_TYPE_OF_ARGUMENT
        53,  # TYPE_MISMATCH
        69,  # ARGUMENT_OUT_OF_BOUND
        70,  # CANNOT_CONVERT_TYPE
        72,  # CANNOT_PARSE_NUMBER
        117,  # INCORRECT_DATA
        128,  # TOO_LARGE_ARRAY_SIZE
        131,  # TOO_LARGE_STRING_SIZE
        153,  # ILLEGAL_DIVISION
        190,  # SIZES_OF_ARRAYS_DONT_MATCH
        321,  # VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE
        349,  # CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN
        386,  # NO_COMMON_TYPE
        395,  # FUNCTION_THROW_IF_VALUE_IS_NON_ZERO
        407,  # DECIMAL_OVERFLOW
        436,  # PROTOBUF_BAD_CAST
        444,  # UNKNOWN_PROTOBUF_FORMAT
        469,  # VIOLATED_CONSTRAINT
    }
)

# Codes that say the store is at fault, or not there yet: such a failure passes, however long it takes.
_PASSING_CODES = frozenset(
    {
        47,  # UNKNOWN_IDENTIFIER (as 60 and 81: another version of the tables)
        60,  # UNKNOWN_TABLE
        73,  # UNKNOWN_FORMAT
        74,  # CANNOT_READ_FROM_FILE_DESCRIPTOR
        75,  # CANNOT_WRITE_TO_FILE_DESCRIPTOR
        76,  # CANNOT_OPEN_FILE
        81,  # UNKNOWN_DATABASE
        115,  # UNKNOWN_SETTING
        159,  # TIMEOUT_EXCEEDED
        164,  # READONLY
        173,  # CANNOT_ALLOCATE_MEMORY
        192,  # UNKNOWN_USER
        193,  # WRONG_PASSWORD
        198,  # DNS_ERROR
        201,  # QUOTA_EXCEEDED
        202,  # TOO_MANY_SIMULTANEOUS_QUERIES
        209,  # SOCKET_TIMEOUT
        210,  # NETWORK_ERROR
        225,  # NO_ZOOKEEPER
        236,  # ABORTED
        241,  # MEMORY_LIMIT_EXCEEDED
        242,  # TABLE_IS_READ_ONLY
        243,  # NOT_ENOUGH_SPACE
        252,  # TOO_MANY_PARTS
        279,  # ALL_CONNECTION_TRIES_FAILED
        285,  # TOO_FEW_LIVE_REPLICAS
        286,  # UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE
        319,  # UNKNOWN_STATUS_OF_INSERT
        394,  # QUERY_WAS_CANCELLED
        425,  # SYSTEM_ERROR
        434,  # CANNOT_PARSE_PROTOBUF_SCHEMA
        439,  # CANNOT_SCHEDULE_TASK
        452,  # SETTING_CONSTRAINT_VIOLATION
        473,  # DEADLOCK_AVOIDED
        497,  # ACCESS_DENIED
        499,  # S3_ERROR
        516,  # AUTHENTICATION_FAILED
        745,  # SERVER_OVERLOADED
        999,  # KEEPER_EXCEPTION
    }
)
# A failure with any other code is held to be the data's fault after so many attempts, about 10 s with the pauses between them.
_ATTEMPTS_MAX = 8
# Even what the store calls the data's fault gets a second attempt: a body that was cut on its way looks like it.
_ATTEMPTS_MIN = 2
# Time and memory: half of a batch needs half of them.
_TOO_MUCH_CODES = frozenset({159, 241})
_ATTEMPTS_BEFORE_HALVING = 3


def token_settings(token: str, books: str = "") -> dict[str, Any]:
    """Settings of an insert that must count once however often it is repeated; `books`: what it sees of prices and rules."""
    as_composed = {"additional_table_filters": books} if books else {}
    return {**ONE_BLOCK, **_EXACTLY_ONCE, **as_composed, "insert_deduplication_token": token}


def insert(client: Client, spool: Spool, batch: Batch, *, in_parts: bool) -> None:
    """Inserts a batch; repeating it changes nothing that is already there.

    Args:
        client: of the store.
        spool: where the requests are.
        batch: which.
        in_parts: see :func:`insert_requests`.

    Raises:
        ClickHouseError: it may or may not have been applied, wholly or in part: repeat it.
    """
    # No name is given to the requests: whoever has one keeps them in memory until the insert is done.
    insert_requests(
        client, batch.signal, batch.batch_id, batch.fields, spool.payloads(batch), batch.books, in_parts=in_parts
    )


def insert_requests(
    client: Client,
    signal: Signal,
    batch_id: str,
    fields: bytes,
    requests: Iterable[Request],
    books: str = "",
    *,
    in_parts: bool = False,
) -> None:
    """Inserts requests as one batch.

    Args:
        client: of the store.
        signal: what the requests carry.
        batch_id: the token of the insert, too.
        fields: of the envelope, the same for all.
        requests: to insert.
        books: what the insert sees of prices and rules; empty: all.
        in_parts: whether to give the body to the client piece by piece, which saves its size in memory. For the embedded
            store, which reads it from a file; a server is told the length of a body, so that one that is cut off is noticed.

    Raises:
        ClickHouseError: see :func:`insert`.
    """
    table, message = _TARGETS[signal]
    protobuf = {
        "format_schema_source": "string",
        "format_schema": _schema(),
        "format_schema_message_name": message,
        "input_format_protobuf_oneof_presence": 1,
    }
    body = (framed_parts if in_parts else framed)(batch_id, fields, requests)
    # They are in the body; the insert takes a while.
    del requests
    client.raw_insert(
        table, insert_block=body, fmt="Protobuf", settings={**token_settings(batch_id, books), **protobuf}
    )


def quarantine_raw(client: Client, spool: Spool, batch: Batch, error: Exception, wanted: Sequence[str] = ()) -> None:
    """Keeps the one request of a batch that cannot be inserted, with the store's reason; what no charge needs is left out."""
    ((payload, received_at_us, binding),) = spool.payloads(batch)
    ((_, items),) = spool.request_ids(batch)
    signal = "span" if batch.signal is Signal.TRACES else "point"
    received_at = datetime.fromtimestamp(received_at_us / 1e6, UTC)
    client.insert(
        "credit_quarantine",
        [
            [
                uuid.UUID(batch.batch_id),
                _RAW_REASON,
                str(error)[:1000],
                received_at,
                items,
                signal,
                spool.receiver,
                stripped(batch.signal, payload, wanted, named_attributes(client)),
                *allowed(binding),
            ]
        ],
        column_names=_RAW_COLUMNS,
        settings=token_settings(f"{batch.batch_id}-raw"),
    )
    client.insert(
        "ingest_outcomes",
        [[spool.receiver, signal, "quarantined", _RAW_REASON, items]],
        column_names=["receiver", "signal", "outcome", "reason", "items"],
        settings=token_settings(f"{batch.batch_id}-outcome"),
    )


def named_attributes(client: Client) -> dict[str, list[str]]:
    """By scope, what the rows of `credit_conventions` name. Raises ClickHouseError."""
    found = rows(
        client,
        "SELECT scope_name, arraySort(groupUniqArrayArray(attribute_names)) AS names FROM credit_conventions GROUP BY scope_name",
    )
    return {row["scope_name"]: row["names"] for row in found}


def is_permanent(error: Exception, attempt: int) -> bool:
    """Whether the data itself is at fault: the store says so, or has no other excuse for having failed so often."""
    code = error.code if isinstance(error, DatabaseError) else None
    # Without a code it is the network, or a proxy in front of the store.
    if code is None:
        return False
    enough = _ATTEMPTS_MIN if code in _PERMANENT_CODES else _ATTEMPTS_MAX
    return code not in _PASSING_CODES and attempt >= enough


def is_too_much(error: Exception, attempt: int) -> bool:
    """Whether the store took too much time or memory for it several times, so that less at once may go."""
    return isinstance(error, DatabaseError) and error.code in _TOO_MUCH_CODES and attempt >= _ATTEMPTS_BEFORE_HALVING


@cache
def _schema() -> str:
    return (clickhouse_folder() / "otlp.proto").read_text("utf-8")
