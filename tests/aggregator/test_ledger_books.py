"""What the ledger promises of prices, billing rules, conventions and model names, over the same three ways as test_ledger.py."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from otel_credits_aggregator.ledger import (
    ConventionKey,
    InvalidRequestError,
    Ledger,
    NewConvention,
    NewModelAlias,
    NewPrice,
    NewRule,
    NotFoundError,
)
from otel_credits_aggregator.store import Client
from support.otlp_build import span, traces
from support.store import Usage, insert_usages


def test_price_prices_the_next_usage_only(ledger: Ledger, store: Client) -> None:
    """A changed price counts from now on; what was charged keeps its price."""
    ledger.set_price(NewPrice(action_type="render", credits_per_unit=Decimal("0.5")))
    insert_usages(store, Usage("u", "render"))
    changed = ledger.set_price(NewPrice(action_type="render", credits_per_unit=Decimal("0.7"), source="board"))
    insert_usages(store, Usage("u", "render", ended_at=datetime.now(UTC) + timedelta(seconds=1)))
    assert [event.credits_charged for event in ledger.events("u")] == [Decimal("0.7"), Decimal("0.5")]
    assert (changed.credits_per_unit, changed.source, changed.status) == (Decimal("0.7"), "board", "current")


def test_price_book_says_what_applies(ledger: Ledger) -> None:
    """Each row of the price book says whether it applies now, later, no longer, or never did."""
    now = datetime.now(UTC)
    for days, credits in ((-2, "1"), (-1, "2"), (-1, "3"), (1, "4")):
        moment = (now + timedelta(days=days)).replace(hour=0, minute=0, second=0, microsecond=0)
        ledger.set_price(NewPrice(action_type="render", credits_per_unit=Decimal(credits), effective_from=moment))
    mine = {price.credits_per_unit: price.status for price in ledger.prices() if price.action_type == "render"}
    assert mine == {Decimal(1): "past", Decimal(2): "replaced", Decimal(3): "current", Decimal(4): "future"}


def test_a_rule_is_what_was_set(ledger: Ledger) -> None:
    """A rule is read back as it was set, with any text in it; setting it again replaces it, switching it changes no more."""
    odd = {"attributes": {"a'b\\": "c\n'", "ß": ""}, "attribute_prefixes": {"http.route": "/{id}"}, "note": "it's\t🦊"}
    new = NewRule(rule_id="a/b ü?", action_type="work", kind="server", quantities={"s": "seconds"}, priority=-5, **odd)
    set_first = ledger.set_rule(new)
    assert set_first.model_dump(exclude={"created_at"}) == new.model_dump()
    on = ledger.switch_rule("a/b ü?", True)
    assert on.model_dump(exclude={"created_at"}) == {**new.model_dump(), "enabled": True}
    replaced = ledger.set_rule(NewRule(rule_id="a/b ü?", action_type="other", span_name="x"))
    assert (replaced.attributes, replaced.enabled, replaced.quantities) == ({}, False, {"call": "one"})
    assert [rule for rule in ledger.rules() if rule.rule_id == "a/b ü?"] == [replaced]
    with pytest.raises(NotFoundError):
        ledger.switch_rule("unheard of", True)


def test_a_convention_is_what_was_set(ledger: Ledger) -> None:
    """A convention is read back as it was set, with any text in it; the same key again replaces it, removing ends it."""
    odd = {"source": "it's\t🦊\\", "stream_order": ("a'b\\", "ß,["), "model_attribute": "m'", "stream_flaw": "output"}
    odd |= {"stream_attributes": ("a'", "s#/b"), "answers_attribute": "n#", "earlier_calls_attribute": "o#/a~1b/0"}
    new = NewConvention(
        scope_name="github.com/a'b ü?", version_from="1.2", provider="ACME", input_includes_cache=False, **odd
    )
    set_first = ledger.set_convention(new)
    assert set_first.model_dump(exclude={"created_at"}) == new.model_dump()
    assert set_first.provider == "acme"
    for_all = ledger.set_convention(NewConvention(scope_name=new.scope_name, input_includes_cache=True))
    second = ledger.set_convention(
        new.model_copy(update={"version_until": "2", "preference": 0, "cache_unknown_from": 2**62})
    )
    assert (second.version_until, second.preference, second.cache_unknown_from) == ("2", 0, 2**62)
    mine = [row for row in ledger.conventions() if row.scope_name == new.scope_name]
    assert mine == [for_all, second]
    key = ConventionKey(scope_name=new.scope_name, version_from="1.2", provider="Acme")
    assert ledger.remove_convention(key) == second
    assert [row for row in ledger.conventions() if row.scope_name == new.scope_name] == [for_all]
    with pytest.raises(NotFoundError):
        ledger.remove_convention(key)
    assert ledger.set_convention(new).version_until == ""


def test_an_alias_is_what_was_set(ledger: Ledger) -> None:
    """A model's other name is read back as it was set, with any text in it; the same name again replaces it, removing ends it."""
    new = NewModelAlias(model="dep/a'b ü?", price_model="gpt-5\\", source="it's\t🦊")
    assert ledger.set_model_alias(new).model_dump(exclude={"created_at"}) == new.model_dump()
    second = ledger.set_model_alias(NewModelAlias(model=new.model, price_model="gpt-6"))
    assert [row for row in ledger.model_aliases() if row.model == new.model] == [second]
    assert ledger.remove_model_alias(new.model) == second
    assert new.model not in {row.model for row in ledger.model_aliases()}
    with pytest.raises(NotFoundError):
        ledger.remove_model_alias(new.model)
    assert ledger.set_model_alias(new).price_model == new.price_model


def test_a_rule_is_tried_out_before_it_is_on(ledger: Ledger, store: Client) -> None:
    """A test says by user what a rule would charge at the store's prices, on or off, and leaves nothing behind."""
    ledger.set_price(NewPrice(action_type="work", credits_per_unit=Decimal("0.3")))
    ledger.set_rule(NewRule(rule_id="r", action_type="work", attributes={"k": "1"}))
    ledger.set_rule(
        NewRule(rule_id="first", action_type="work", attributes={"k": "1", "first": "x"}, priority=1, enabled=True)
    )
    spans = [span({"k": 1, "user.id": "ada"}), span({"k": 1, "user.id": "ada"}), span({"k": 1}), span({"k": 2})]
    spans.append(span({"k": 1, "first": "x", "user.id": "ada"}))
    databases = "SELECT count() FROM system.databases"
    before = store.command(databases)
    rows = ledger.test_rule("r", traces(*spans).SerializeToString())
    assert [(row.outcome, row.reason, row.user_id, row.usages, row.units, row.credits) for row in rows] == [
        ("charged", "", "ada", 2, {"call": Decimal(2)}, Decimal("0.6")),
        ("quarantined", "no_user", "", 1, {}, Decimal(0)),
    ]
    assert (ledger.events(), ledger.quarantine(), store.command(databases)) == ([], [], before)
    with pytest.raises(InvalidRequestError):
        ledger.test_rule("r", b"no request")
    with pytest.raises(NotFoundError):
        ledger.test_rule("unheard of", b"")
