"""Billing rules, prices for what they charge, and what spans are made of that they ask for."""

from typing import Any

import pytest

from support.chain import Chain

__all__ = [
    "CLIENT",
    "CONSUMER",
    "ERROR",
    "INTERNAL",
    "OK",
    "ROUTE",
    "SERVER",
    "charged_names",
    "priced",
    "set_price",
    "set_rule",
]

INTERNAL, SERVER, CLIENT, CONSUMER = 1, 2, 3, 5
OK, ERROR = 1, 2
ROUTE = "http.route"


def set_rule(chain: Chain, rule_id: str = "rule", **columns: Any) -> None:
    """Adds a row of a rule, switched on unless `enabled` says otherwise; action `work`."""
    row = {"rule_id": rule_id, "enabled": True, "action_type": "work", **columns}
    chain.client.insert("credit_rules", [list(row.values())], column_names=list(row))


def set_price(chain: Chain, credits: str, unit: str = "call", action: str = "*") -> None:
    """Prices a unit for all time."""
    chain.command(
        "INSERT INTO credit_action_costs (action_type, unit, credits_per_unit, effective_from)"
        f" VALUES ('{action}', '{unit}', {credits}, '1990-01-01')"
    )


@pytest.fixture
def priced(chain: Chain) -> Chain:
    """A chain where a call costs 2 and a second 3 credits."""
    set_price(chain, "2")
    set_price(chain, "3", "second")
    return chain


def charged_names(chain: Chain) -> list[str]:
    """The names of the spans that were charged, in the order in which they ended."""
    return [event["description"] for event in chain.events()]
