"""Rows of `credit_conventions` that are added while the store is in use: which of them counts for a span."""

from typing import Any

from support.chain import Chain
from support.otlp_build import OPERATION, RESPONSE_ID, USER, resource_spans, span, traces

IN, OUT = "acme.tokens.in", "acme.tokens.out"


def teach(chain: Chain, **columns: Any) -> None:
    """Adds a row."""
    row = {"scope_name": "acme.llm", "input_attribute": IN, "output_attribute": OUT, "input_includes_cache": True}
    row |= columns
    chain.client.insert("credit_conventions", [list(row.values())], column_names=list(row))


def call(chain: Chain, version: str, provider: str = "acme", **attributes: Any) -> str:
    """Sends a call of that version; returns the number of input tokens it was charged for, else the reason."""
    one = span(
        {
            OPERATION: "chat",
            USER: "ada",
            "gen_ai.provider.name": provider,
            IN: 7,
            "acme.tokens.in2": 8,
            OUT: 1,
            **attributes,
        }
    )
    request = traces()
    request.resource_spans.append(resource_spans([one], scope="acme.llm", version=version))
    chain.send(request, charge_genai=True)
    # Each call comes to what the ones before are forgotten for.
    charged = [str(row["input_tokens"]) for row in chain.rows("SELECT input_tokens FROM credit_usage_events")]
    found = [*charged, *chain.reasons()]
    chain.empty()
    (result,) = found
    return result


def prices(chain: Chain) -> None:
    """Any token costs a credit."""
    for unit in ("input_token", "output_token"):
        chain.command(
            f"INSERT INTO credit_action_costs (unit, credits_per_unit, effective_from) VALUES ('{unit}', 1, '1990-01-01')"
        )


def test_the_newest_row_of_a_key_counts(chain: Chain) -> None:
    """A further row of the same scope, first version and provider replaces the one before, also where it covers less."""
    prices(chain)
    assert call(chain, "1.0") == "unknown_convention"
    teach(chain)
    assert call(chain, "1.0") == "7"
    teach(chain, input_attribute="acme.tokens.in2", version_until="2")
    assert (call(chain, "1.0"), call(chain, "2.0")) == ("8", "unknown_convention")


def test_a_row_that_ends_one_lets_the_others_be(chain: Chain) -> None:
    """After a removal the next that matches counts: that of an earlier version, or of any provider; else the call waits."""
    prices(chain)
    second = {"input_attribute": "acme.tokens.in2"}
    teach(chain)
    teach(chain, **second, version_from="1.5")
    assert (call(chain, "1.4"), call(chain, "1.5")) == ("7", "8")
    teach(chain, version_from="1.5", enabled=False)
    assert (call(chain, "1.4"), call(chain, "1.5")) == ("7", "7")
    teach(chain, **second, provider="other")
    assert (call(chain, "1.5"), call(chain, "1.5", "other")) == ("7", "8")
    teach(chain, provider="other", enabled=False)
    assert call(chain, "1.5", "other") == "7"
    teach(chain, enabled=False)
    assert call(chain, "1.4") == "unknown_convention"
    teach(chain)
    assert call(chain, "1.4", **{RESPONSE_ID: "again"}) == "7"


def test_what_is_shipped_can_be_ended(chain: Chain) -> None:
    """A row of the migrations is ended like any, and the migrations, applied again, do not bring it back."""
    shipped = chain.rows("SELECT scope_name, version_from, provider FROM credit_conventions LIMIT 3")
    for row in shipped:
        teach(chain, **row, enabled=False)
    left = chain.rows(
        "SELECT count() AS n FROM"
        " (SELECT * FROM credit_conventions ORDER BY created_at DESC LIMIT 1 BY scope_name, version_from, provider)"
        " WHERE enabled"
    )
    assert left == [{"n": chain.rows("SELECT count() AS n FROM credit_conventions")[0]["n"] - 2 * len(shipped)}]


COUNTS = (
    *("acme.tokens.in", "acme.tokens_out", "tokens.used", "acme.token.count", "acme.usage.tokens", "llm.token_count.x"),
    *("acme.promptTokens", "input_tokens", "total_token_count", "acme.tokens.output"),
)
NO_COUNTS = ("gen_ai.request.max_tokens", "acme.tokens_per_second", "token_index", "acme.token.id", "tokens.included")


def test_names_of_counts_wait_and_others_are_no_usage(chain: Chain) -> None:
    """A span without any mark waits if an attribute is called like a count of tokens used; limits and rates are none."""
    spans = [span({USER: "ada", name: 7}, name=name) for name in (*COUNTS, *NO_COUNTS)]
    chain.send(traces(*spans, scope="acme.llm"), charge_genai=True)
    waiting = {
        row["name"] for row in chain.rows("SELECT name FROM credit_quarantine WHERE reason = 'unknown_convention'")
    }
    assert waiting == set(COUNTS)
    assert chain.outcomes() == {"quarantined": len(COUNTS), "not_usage": len(NO_COUNTS)}
    chain.assert_sums_agree()
