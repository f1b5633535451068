"""What the ledger promises, the same embedded, on a ClickHouse server, and over a running aggregator's API.

Of prices, billing rules, conventions and model names: test_ledger_books.py.
"""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from otel_credits_aggregator.ledger import (
    ConflictError,
    InvalidQueryError,
    Ledger,
    NewGrant,
    NewPrice,
    NotFoundError,
    Profile,
    QuarantineFilter,
)
from otel_credits_aggregator.store import Client
from support.store import Usage, insert_usages

# Ids that break careless URLs, file names and SQL.
ODD_IDS = (
    "a/b",
    "..",
    "a b?c#d%2F",
    "Zoë 用户 🦊",
    "x' OR 1=1 --",
    "line\nbreak",
    "end\n",
    "a/balance",
    "a/grants",
    "+&=;,",
    "\\",
)


def test_balance_is_grants_minus_charges(ledger: Ledger, store: Client) -> None:
    """A balance is what was granted minus what was charged, to the last of twelve decimals."""
    ledger.grant("u", NewGrant(credits=Decimal("100")))
    insert_usages(store, Usage("u", amount=Decimal("0.000000000001")), Usage("u", amount=Decimal("0.1")))
    balance = ledger.balance("u")
    assert balance.current_balance == Decimal("99.899999999999")
    assert (balance.lifetime_granted, balance.lifetime_consumed) == (Decimal(100), Decimal("0.100000000001"))
    assert balance.current_month_consumed == balance.lifetime_consumed
    assert ledger.balances() == [balance]


def test_last_months_usage_is_not_this_months(ledger: Ledger, store: Client) -> None:
    """Consumption of this month leaves out what was used before it began."""
    last_month = datetime.now(UTC).replace(day=1) - timedelta(days=1)
    insert_usages(store, Usage("u", amount=Decimal(3), ended_at=last_month), Usage("u", amount=Decimal(1)))
    balance = ledger.balance("u")
    assert (balance.current_month_consumed, balance.lifetime_consumed) == (Decimal(1), Decimal(4))
    assert [row.credits_consumed for row in ledger.monthly_usage("u")] == [Decimal(1), Decimal(3)]


def test_unknown_user_has_no_balance(ledger: Ledger) -> None:
    """A user of whom nothing is known is not a user with zero credits."""
    with pytest.raises(NotFoundError, match="nobody"):
        ledger.balance("nobody")


def test_user_with_a_profile_only_has_zero(ledger: Ledger) -> None:
    """A user who is known, and has neither grants nor usage, has a balance of zero."""
    ledger.set_user("u", Profile(email="u@example.com"))
    balance = ledger.balance("u")
    assert (balance.user_id, balance.current_balance, balance.updated_at) == ("u", Decimal(0), None)


def test_same_grant_id_grants_once(ledger: Ledger) -> None:
    """A grant that is sent again, with the same id, changes nothing and answers what was granted first."""
    first, is_new = ledger.grant("u", NewGrant(credits=Decimal("1.50"), reason="one", grant_id="g"))
    second, is_new_again = ledger.grant("u", NewGrant(credits=Decimal("1.5"), reason="two", grant_id="g"))
    assert (is_new, is_new_again) == (True, False)
    assert first == second
    assert ledger.grants("u") == [first]
    assert ledger.balance("u").current_balance == Decimal("1.5")


@pytest.mark.parametrize(("user_id", "credits"), [("u", "2"), ("other", "1")])
def test_same_grant_id_for_another_grant_is_refused(ledger: Ledger, user_id: str, credits: str) -> None:
    """A grant id cannot stand for two grants: another amount or user is an error, and adds nothing."""
    ledger.grant("u", NewGrant(credits=Decimal(1), grant_id="g"))
    with pytest.raises(ConflictError, match="'g'"):
        ledger.grant(user_id, NewGrant(credits=Decimal(credits), grant_id="g"))
    assert [balance.lifetime_granted for balance in ledger.balances()] == [Decimal(1)]


def test_same_grant_id_at_once_grants_once(ledger: Ledger) -> None:
    """Of many equal grants with one id at the same moment, exactly one counts."""
    new = NewGrant(credits=Decimal(5), grant_id="g")
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: ledger.grant("u", new), range(8)))
    assert sorted(is_new for _, is_new in answers) == [False] * 7 + [True]
    assert len({grant.created_at for grant, _ in answers}) == 1
    assert ledger.balance("u").current_balance == Decimal(5)


def test_a_grant_cut_off_by_a_crash_is_completed(ledger: Ledger, store: Client) -> None:
    """A grant that reached the grants but not the balance counts once when its sender sends it again."""
    new = NewGrant(credits=Decimal(5), grant_id="g")
    ledger.grant("u", NewGrant(credits=Decimal(1), grant_id="before"))
    store.command("CREATE TABLE kept AS user_month_totals")
    store.command("INSERT INTO kept SELECT * FROM user_month_totals")
    ledger.grant("u", new)
    # As if the process had been killed between the two inserts of the last grant.
    store.command("EXCHANGE TABLES kept AND user_month_totals")
    assert ledger.balance("u").current_balance == Decimal(1)
    for _ in range(2):
        assert ledger.grant("u", new)[1] is False
        assert ledger.balance("u").current_balance == Decimal(6)
    assert ledger.reconcile("u") == []


def test_grants_without_id_all_count(ledger: Ledger) -> None:
    """Without an id, two equal grants are two grants."""
    for _ in range(2):
        ledger.grant("u", NewGrant(credits=Decimal(5)))
    assert ledger.balance("u").current_balance == Decimal(10)
    assert len({grant.grant_id for grant in ledger.grants("u")}) == 2


def test_largest_and_smallest_grant_are_exact(ledger: Ledger) -> None:
    """The largest and the smallest grant keep every digit."""
    for credits in ("1000000000000000000", "0.000000000001"):
        ledger.grant("u", NewGrant(credits=Decimal(credits)))
    assert ledger.balance("u").current_balance == Decimal("1000000000000000000.000000000001")


def test_any_id_is_a_user_id(ledger: Ledger) -> None:
    """An id may hold slashes, dots, blanks, quotes, line breaks and any script; no two are confused."""
    for number, user_id in enumerate(ODD_IDS, start=1):
        ledger.grant(user_id, NewGrant(credits=Decimal(number)))
        ledger.set_user(user_id, Profile(name=f"odd {number}"))
    for number, user_id in enumerate(ODD_IDS, start=1):
        balance = ledger.balance(user_id)
        assert (balance.user_id, balance.current_balance) == (user_id, Decimal(number))
        assert ledger.set_user(user_id, Profile(email="e")).name == f"odd {number}"
        assert [grant.user_id for grant in ledger.grants(user_id)] == [user_id]
        assert ledger.events(user_id) == []


def test_profile_keeps_what_is_left_out(ledger: Ledger) -> None:
    """Setting the name leaves the email as it was, and the newest of each counts."""
    ledger.set_user("u", Profile(email="old@example.com"))
    ledger.set_user("u", Profile(email="new@example.com"))
    assert ledger.set_user("u", Profile(name="U")).model_dump() == {"id": "u", "email": "new@example.com", "name": "U"}
    assert [user.id for user in ledger.users()] == ["u"]


def test_events_are_latest_first(ledger: Ledger, store: Client) -> None:
    """Events come newest first, of one user or of all, as many as asked for."""
    now = datetime.now(UTC)
    ages = {"a": 3, "b": 2, "c": 1}
    usages = [Usage("u", action, Decimal(age), now - timedelta(minutes=age)) for action, age in ages.items()]
    insert_usages(store, *usages, Usage("v", "d", Decimal(4), now))
    assert [event.action_type for event in ledger.events()] == ["d", "c", "b", "a"]
    assert [event.action_type for event in ledger.events("u", limit=2)] == ["c", "b"]


def test_event_carries_what_the_app_said(ledger: Ledger, store: Client) -> None:
    """An event keeps description, resource, metadata, units and prices as they were charged."""
    ledger.set_price(NewPrice(action_type="render", unit="page", credits_per_unit=Decimal("0.25")))
    said = {
        "credits.units.page": "3",
        "credits.description": "report",
        "credits.resource_id": "r-1",
        "credits.resource_type": "report",
        "credits.metadata.pages": "3",
    }
    insert_usages(store, Usage("u", "render", attributes=said))
    (event,) = ledger.events("u")
    assert (event.credits_charged, event.units, event.prices) == (
        Decimal("0.75"),
        {"page": Decimal(3)},
        {"page": Decimal("0.25")},
    )
    assert (event.description, event.resource_id, event.resource_type) == ("report", "r-1", "report")
    assert event.metadata == {"pages": "3"}


def test_quarantine_lists_a_usage_once(ledger: Ledger, store: Client) -> None:
    """Copies of a usage that cannot be charged are one row, with their number and what to do."""
    usage = Usage("u", "unheard_of")
    insert_usages(store, usage, Usage(None, "render", Decimal(1)))
    insert_usages(store, usage)
    (row,) = ledger.quarantine(QuarantineFilter(reason="unpriced"))
    assert (row.copies, row.user_id, row.action_type) == (2, "u", "unheard_of")
    assert "otel-credits prices set" in row.detail
    assert [row.reason for row in ledger.quarantine(QuarantineFilter(user_id="u"))] == ["unpriced"]
    assert {row.reason for row in ledger.quarantine()} == {"unpriced", "no_user"}
    assert len(ledger.quarantine(limit=1)) == 1
    assert {row.reason: row.usages for row in ledger.quarantine_summary()} == {"unpriced": 1, "no_user": 1}


def test_totals_that_agree_have_no_differences(ledger: Ledger, store: Client) -> None:
    """Reconciling a sound ledger, of one user or of all, finds nothing."""
    ledger.grant("u", NewGrant(credits=Decimal(5)))
    insert_usages(store, Usage("u", amount=Decimal(1)), Usage("v", amount=Decimal(2)))
    assert ledger.reconcile() == []
    assert ledger.reconcile("u") == []


def test_a_wrong_total_is_found(ledger: Ledger, store: Client) -> None:
    """Reconciling names the user, month and total that are not the sum of their entries, with both values."""
    ledger.grant("u", NewGrant(credits=Decimal(5)))
    insert_usages(store, Usage("u", "render", Decimal(1)), Usage("v", "render", Decimal(2)))
    month = datetime.now(UTC).date().replace(day=1)
    store.insert("user_month_totals", [["v", month, Decimal("0.000000000001")]], ["user_id", "month", "consumed"])
    store.command("TRUNCATE TABLE usage_month_totals")
    found = {(row.user_id, row.action_type, row.total): (row.expected, row.found) for row in ledger.reconcile("v")}
    assert found == {
        ("v", "", "consumed"): (Decimal(2), Decimal("2.000000000001")),
        ("v", "render", "credits_consumed"): (Decimal(2), Decimal(0)),
        ("v", "render", "events"): (Decimal(1), Decimal(0)),
    }
    assert {row.user_id for row in ledger.reconcile()} == {"u", "v"}


def test_sql_gives_decimals_as_strings(ledger: Ledger) -> None:
    """A query's decimals are strings, times are ISO 8601 in UTC, and no bytes break the answer."""
    (row,) = ledger.sql(
        "SELECT toDecimal128('0.000000000001', 12) AS d, toDateTime64('2026-01-02 03:04:05.6', 3, 'UTC') AS t,"
        " toUInt64(18446744073709551615) AS n, map('k', [1, 2]) AS m, unhex('ff') AS b, NULL AS nothing"
    )
    assert row == {
        "d": "0.000000000001",
        "t": "2026-01-02T03:04:05.600Z",
        "n": 18446744073709551615,
        "m": {"k": [1, 2]},
        "b": "\N{REPLACEMENT CHARACTER}",
        "nothing": None,
    }


def test_sql_mistakes_are_told(ledger: Ledger) -> None:
    """A query with a mistake is refused with ClickHouse's own words."""
    with pytest.raises(InvalidQueryError, match="nonsense"):
        ledger.sql("SELECT nonsense FROM users")
    with pytest.raises(InvalidQueryError, match="Syntax error"):
        ledger.sql("SELEC 1")


def test_the_two_queries_of_the_design_work(ledger: Ledger, store: Client) -> None:
    """The two queries that people have in their notebooks work word for word."""
    ledger.set_user("u", Profile(email="u@example.com"))
    insert_usages(store, Usage("u", "render", Decimal("0.5"), attributes={"credits.description": "a page"}))
    (event,) = ledger.sql(
        """SELECT u.email, ce.action_type, ce.credits_charged, ce.description, ce.created_at
    FROM credit_usage_events ce JOIN users u ON u.id = ce.user_id
    ORDER BY ce.created_at DESC LIMIT 20;
"""
    )
    created_at = event.pop("created_at")
    assert event == {
        "email": "u@example.com",
        "action_type": "render",
        "credits_charged": "0.5",
        "description": "a page",
    }
    assert datetime.fromisoformat(created_at) == ledger.events("u")[0].created_at
    assert ledger.sql(
        """SELECT u.email, cb.current_balance, cb.current_month_consumed
    FROM user_credit_balances cb JOIN users u ON u.id = cb.user_id;"""
    ) == [{"email": "u@example.com", "current_balance": "-0.5", "current_month_consumed": "0.5"}]


def test_reads_do_not_wait_for_a_long_query(ledger: Ledger) -> None:
    """A balance is read while long queries from outside use all the clients they may."""
    ledger.grant("u", NewGrant(credits=Decimal(1)))
    long_query = "SELECT count() FROM numbers(1500000000) WHERE cityHash64(number) = 1"
    with ThreadPoolExecutor(2) as threads:
        running = [threads.submit(ledger.sql, long_query) for _ in range(2)]
        assert ledger.balance("u").current_balance == Decimal(1)
        assert not any(query.done() for query in running)
        assert all(len(query.result()) == 1 for query in running)
