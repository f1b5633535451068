"""Reading models from the store by the named queries, and inserting single rows into it."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from clickhouse_connect.driver.exceptions import OperationalError
from pydantic import BaseModel

from otel_credits_aggregator.ledger._pool import ClientPool
from otel_credits_aggregator.ledger._queries import named_query
from otel_credits_aggregator.ledger.errors import StoreUnavailableError
from otel_credits_aggregator.store import ClickHouseError, DatabaseError

__all__ = ["LONG_READS", "OUTPUT_SETTINGS", "Store", "store_errors"]

Model = TypeVar("Model", bound=BaseModel)

# How results are written: exact decimals as strings, times as ISO 8601, bytes that are not UTF-8 replaced.
OUTPUT_SETTINGS: Mapping[str, str | int] = {
    "output_format_json_quote_decimals": 1,
    "output_format_json_quote_64bit_integers": 0,
    "output_format_json_validate_utf8": 1,
    "date_time_output_format": "iso",
}
_READS = {**OUTPUT_SETTINGS, "readonly": 1}
# What reads all events goes through them in the order of their table, and takes no more memory than this.
LONG_READS: Mapping[str, int] = {
    "max_memory_usage": 1_000_000_000,
    "max_bytes_before_external_group_by": 200_000_000,
    "max_bytes_before_external_sort": 200_000_000,
    "optimize_aggregation_in_order": 1,
}
_LONG_READS = {**OUTPUT_SETTINGS, **LONG_READS, "readonly": 1}
# Whatever the server's defaults are: an insert counts once for its token, in every table behind it.
_WRITES = {"async_insert": 0, "insert_deduplicate": 1, "deduplicate_blocks_in_dependent_materialized_views": 1}
_CLIENT_WAIT_S = 30.0

# ClickHouse's codes (src/Common/ErrorCodes.cpp).
_UNKNOWN_TABLE, _UNKNOWN_DATABASE = 60, 81


class Store:
    """The store behind a ledger. Reads do not wait for writes, nor for reads of the whole ledger."""

    def __init__(self, dsn: str, reads: int) -> None:
        self._reads = ClientPool(dsn, _READS, size=reads, wait_s=_CLIENT_WAIT_S)
        self._long_reads = ClientPool(dsn, _LONG_READS, size=1, wait_s=_CLIENT_WAIT_S)
        self._writes = ClientPool(dsn, _WRITES, size=1, wait_s=_CLIENT_WAIT_S)

    def close(self) -> None:
        """Closes all connections."""
        for pool in (self._reads, self._long_reads, self._writes):
            pool.close()

    def read(self, model: type[Model], query: str, **parameters: Any) -> list[Model]:
        """The rows of a named query. Raises StoreUnavailableError."""
        return _read(self._reads, model, query, parameters)

    def read_all(self, model: type[Model], query: str, **parameters: Any) -> list[Model]:
        """The same for queries that may take long and read everything; one at a time, in bounded memory."""
        return _read(self._long_reads, model, query, parameters)

    def insert(
        self, table: str, row: Mapping[str, str], *, token: str, maps: Mapping[str, Mapping[str, str]] | None = None
    ) -> None:
        """Inserts one row of texts, which the server converts, exactly, to the columns' types; once for a token.

        `maps` are columns of texts by text.
        """
        texts = {column: json.dumps(texts) for column, texts in (maps or {}).items()}
        values = [f"{{{column}:String}}" for column in row]
        values += [f"JSONExtract({{{column}:String}}, 'Map(String, String)')" for column in texts]
        with store_errors(), self._writes.client() as client:
            # SELECT and not VALUES, because values that are parameters are not converted to the column's type.
            client.command(
                f"INSERT INTO {table} ({', '.join([*row, *texts])}) SELECT {', '.join(values)}",
                parameters={**row, **texts},
                settings={"insert_deduplication_token": token},
            )


def _read(pool: ClientPool, model: type[Model], query: str, parameters: Mapping[str, Any]) -> list[Model]:
    with store_errors(), pool.client() as client:
        text = client.raw_query(named_query(query), parameters=dict(parameters), fmt="JSONEachRow")
    return [model.model_validate_json(line) for line in text.splitlines()]


@contextmanager
def store_errors() -> Iterator[None]:
    """Turns the driver's errors into the ledger's."""
    try:
        yield
    except OperationalError as error:
        raise StoreUnavailableError(f"the store cannot be reached: {error}") from error
    except DatabaseError as error:
        if error.code in (_UNKNOWN_TABLE, _UNKNOWN_DATABASE):
            raise StoreUnavailableError("the store is not migrated: run `otel-credits migrate`") from error
        raise StoreUnavailableError(f"the store refused: {error}") from error
    except ClickHouseError as error:
        raise StoreUnavailableError(f"the store cannot be used: {error}") from error
