"""Response ids that a local server repeats."""

from __future__ import annotations

import pytest
from support.chain import Chain
from support.more_recordings import PRICES
from support.otlp_build import (
    FINISH_REASONS,
    INPUT,
    OPERATION,
    OUTPUT,
    RESPONSE_ID,
    SOME_TIME_NS,
    USER,
    span,
    traces,
)

CHAT = {OPERATION: "chat", INPUT: 10, OUTPUT: 5, FINISH_REASONS: ["stop"], USER: "ada"}
SCOPE = "opentelemetry.instrumentation.genai.openai"


def price_tokens(chain: Chain) -> None:
    """Prices input and output for every action."""
    for unit in ("input_token", "output_token"):
        chain.command(
            "INSERT INTO credit_action_costs (action_type, model, unit, credits_per_unit, effective_from)"
            f" VALUES ('*', '*', '{unit}', {PRICES[unit]}, 0)"
        )


@pytest.mark.parametrize("together", [True, False], ids=["one insert", "two inserts"])
@pytest.mark.parametrize("response_id", ["1", "chatcmpl-642", "x" * 15])
def test_ids_that_a_server_repeats_swallow_nothing(chain: Chain, response_id: str, together: bool) -> None:
    """Calls that share an id shorter than any provider's, as local servers give, are each charged."""
    price_tokens(chain)
    calls = [
        traces(span({**CHAT, RESPONSE_ID: response_id}, end_ns=SOME_TIME_NS + n * 10**10), scope=SCOPE)
        for n in range(3)
    ]
    for requests in [calls] if together else [[call] for call in calls]:
        chain.send(*requests, charge_genai=True)
    assert chain.outcomes() == {"charged": 3}
    assert sum(chain.charges()) == 3 * (10 * PRICES["input_token"] + 5 * PRICES["output_token"])


def test_a_short_id_is_no_bar_to_ancestry(chain: Chain) -> None:
    """Two instrumentations of one call to such a server are one charge by their place in the trace."""
    price_tokens(chain)
    outer = span({**CHAT, RESPONSE_ID: "1"})
    inner = span({**CHAT, RESPONSE_ID: "1"}, trace_id=outer.trace_id, parent_span_id=outer.span_id)
    chain.send(
        traces(outer, scope=SCOPE), traces(inner, scope="opentelemetry.instrumentation.openai_v2"), charge_genai=True
    )
    assert chain.outcomes() == {"charged": 1, "duplicate": 1}
