"""Who pays, and what is known of who pays."""

from typing import Any

import pytest
from support.chain import Chain
from support.otlp_build import (
    ACTION,
    AMOUNT,
    CREDITS_USER,
    END_USER,
    METADATA,
    USER,
    USER_EMAIL,
    metric,
    metrics,
    point,
    span,
    traces,
    usage_span,
)

EIGHT = tuple(f"payer.{number}" for number in range(8))
USAGE = {ACTION: "some_action", AMOUNT: "1"}


def payers(chain: Chain) -> list[str]:
    """Who pays each event, in the order they were received."""
    return [event["user_id"] for event in chain.rows("SELECT user_id FROM credit_usage_events ORDER BY received_at")]


def emails(chain: Chain) -> dict[str, str]:
    """The addresses of the view `users`."""
    return {row["id"]: row["email"] for row in chain.rows("SELECT id, email FROM users")}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({CREDITS_USER: "a", USER: "b", END_USER: "c"}, "a"),
        ({END_USER: "c", USER: "b"}, "b"),
        ({END_USER: "c"}, "c"),
        ({CREDITS_USER: "", USER: "b"}, "b"),
        ({CREDITS_USER: "a"}, "a"),
    ],
)
def test_the_first_user_attribute_pays(chain: Chain, names: dict[str, str], expected: str) -> None:
    """credits.user_id goes before user.id, and that before enduser.id, in whatever order the span has them."""
    chain.send(traces(span({**USAGE, **names})))
    chain.send(traces(span(dict(reversed({**USAGE, **names}.items())))))
    assert payers(chain) == [expected] * 2


@pytest.mark.parametrize("last", range(8))
def test_up_to_eight_attributes_may_name_the_payer(chain: Chain, last: int) -> None:
    """OTEL_CREDITS_USER_ATTRIBUTES replaces the list, and the first of them that is there pays."""
    chain.send(
        traces(span({**USAGE, USER: "not listed", **{name: name for name in EIGHT[last:]}})), user_attributes=EIGHT
    )
    assert payers(chain) == [EIGHT[last]]


def test_the_default_user_pays_what_nobody_does(chain: Chain) -> None:
    """OTEL_CREDITS_DEFAULT_USER pays for what names nobody, spans and data points, and for nothing else."""
    nobody = usage_span({USER: None, METADATA + USER: "no payer"})
    chain.send(traces(nobody), traces(usage_span({USER: "someone"})), default_user="house")
    chain.send(metrics(metric(point(1, USAGE))), default_user="house")
    assert sorted(payers(chain)) == ["house", "house", "someone"]
    chain.assert_sums_agree()


def test_users_of_the_resource_do_not_pay(chain: Chain) -> None:
    """A user on the resource is nobody's order: the span or data point itself says who pays."""
    request = traces(usage_span({USER: None}))
    request.resource_spans[0].resource.attributes.add(key=USER).value.string_value = "someone"
    chain.send(request)
    assert chain.reasons() == ["no_user"]


def test_the_email_of_a_charged_usage_is_known(chain: Chain) -> None:
    """user.email fills the view `users`, the newest counts, and what is not charged says nothing."""
    chain.send(traces(usage_span({USER: "a", USER_EMAIL: "a@old"}), usage_span({USER: "b"})))
    chain.send(
        traces(usage_span({USER: "a", USER_EMAIL: "a@new"}), usage_span({USER: "c", USER_EMAIL: "c@x", AMOUNT: "-1"}))
    )
    chain.send(traces(usage_span({USER: "a"})))
    assert emails(chain) == {"a": "a@new"}


def test_an_email_that_is_known_is_not_stored_again(chain: Chain) -> None:
    """A million usages with the same address leave one row of it."""
    for _ in range(3):
        chain.send(traces(*(usage_span({USER: "a", USER_EMAIL: "a@x"}) for _ in range(3))))
    assert chain.rows("SELECT count() AS n FROM user_profiles") == [{"n": 1}]


def test_an_email_goes_back_to_what_it_was(chain: Chain) -> None:
    """Whoever takes an earlier address again has it."""
    for email in ("a@one", "a@two", "a@one"):
        chain.send(traces(usage_span({USER: "a", USER_EMAIL: email})))
    assert emails(chain) == {"a": "a@one"}


@pytest.mark.parametrize("user", ["u", "U", "u ", "ü", "u\u0308", "0", "00", "u'; --", "*"])
def test_users_are_told_apart_to_the_byte(chain: Chain, user: str) -> None:
    """Names that look alike are different users."""
    others: list[Any] = [other for other in ("u", "U", "u ", "ü", "u\u0308", "0", "00", "u'; --", "*") if other != user]
    chain.send(traces(*(usage_span({USER: other}) for other in [user, user, *others])))
    found = {row["user_id"]: row["lifetime_consumed"] for row in chain.rows("SELECT * FROM user_credit_balances")}
    assert found == {user: 2} | dict.fromkeys(others, 1)
