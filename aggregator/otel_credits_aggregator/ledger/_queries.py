"""The named queries of ``clickhouse/queries``, which people may also run by hand."""

from functools import cache

from otel_credits_aggregator.migrations import clickhouse_folder, statements

__all__ = ["named_query", "named_statements"]


def named_query(name: str) -> str:
    """The text of ``clickhouse/queries/<name>.sql``, without comments and the last semicolon."""
    (statement,) = named_statements(name)
    return statement


@cache
def named_statements(name: str) -> tuple[str, ...]:
    """The same of a file with several statements, in their order."""
    path = clickhouse_folder() / "queries" / f"{name}.sql"
    return tuple(statements(path.read_text("utf-8")))
