"""The limit of the store's memory for tokens: what a repetition does that comes after it, and who notices."""

from support.chain import STORED_TABLES, Chain
from support.otlp_build import AMOUNT, USER, traces, usage_span

WINDOW = 3


def shorten_memory(chain: Chain, blocks: int) -> None:
    """Has the tables remember so many blocks."""
    for table in STORED_TABLES:
        chain.command(f"ALTER TABLE {table} MODIFY SETTING non_replicated_deduplication_window = {blocks}")


def test_a_repetition_after_the_window_counts_again_and_reconcile_says_so(chain: Chain) -> None:
    """Within the window a repetition changes nothing; after it totals are doubled, and what is doubled is shown."""
    shorten_memory(chain, WINDOW)
    try:
        batch = chain.compose(traces(*(usage_span({USER: "ada", AMOUNT: "1"}) for _ in range(4))))
        chain.command("DETACH TABLE credit_usage_events_mv SYNC")
        chain.insert(batch)
        chain.command("ATTACH TABLE credit_usage_events_mv")
        for _ in range(WINDOW - 1):
            chain.send(traces(usage_span({USER: "bob", AMOUNT: "1"})))
        before = chain.rows("SELECT sum(consumed) AS credits FROM user_month_totals WHERE user_id = 'ada'")
        for _ in range(WINDOW):
            chain.send(traces(usage_span({USER: "bob", AMOUNT: "1"})))
        chain.insert(batch)
        after = chain.rows("SELECT sum(consumed) AS credits FROM user_month_totals WHERE user_id = 'ada'")
        assert (before[0]["credits"], after[0]["credits"]) == (4, 8)
        assert {row["user_id"] for row in chain.differences()} == {"ada"}
    finally:
        shorten_memory(chain, 10_000)
