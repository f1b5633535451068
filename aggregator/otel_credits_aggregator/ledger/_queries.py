"""The named queries of ``clickhouse/queries``, which people may also run by hand."""

from functools import cache

from otel_credits_aggregator.migrations import clickhouse_folder, statements

__all__ = ["named_query"]


@cache
def named_query(name: str) -> str:
    """The text of ``clickhouse/queries/<name>.sql``, without comments and the last semicolon."""
    path = clickhouse_folder() / "queries" / f"{name}.sql"
    (statement,) = statements(path.read_text("utf-8"))
    return statement
