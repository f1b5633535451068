"""The books as an insert reads them: prices, rules, conventions and aliases as they were when its batch was composed.

An insert that was cut off is repeated minutes or hours later. Had someone set a price meanwhile, the repetition would charge what
the first attempt left undone by another book than what it had done. So where each book ends is durable with the batch before its
first attempt, and every attempt reads so far and no further.
"""

from otel_credits_aggregator.store import Client, rows

__all__ = ["BOOKS", "books_now"]

BOOKS = ("credit_action_costs", "credit_rules", "credit_conventions", "credit_model_aliases")

# Rows are only ever added. The number of the block that brought a row grows with each insert, in the order in which rows become
# visible, whatever the clocks say. The time is for a store that was restored, which counts its blocks anew.
_ENDS = " UNION ALL ".join(
    f"SELECT '{book}' AS book, max(_block_number) AS block, max(toUnixTimestamp64Micro(created_at)) AS last_us FROM {book}"
    for book in BOOKS
)


def books_now(client: Client) -> str:
    """ClickHouse's setting `additional_table_filters` for a query that is to see the books as they are now.

    Raises:
        ClickHouseError: ask again.
    """
    filters = (
        f"'{end['book']}': '_block_number <= {end['block']} AND toUnixTimestamp64Micro(created_at) <= {end['last_us']}'"
        for end in sorted(rows(client, _ENDS, max_threads=1), key=lambda end: str(end["book"]))
    )
    return f"{{{', '.join(filters)}}}"
