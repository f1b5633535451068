"""Which model of the price book a reported name is: snapshots, clouds' and gateways' names, deployments."""

from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.chain import Chain
from support.otlp_build import AMOUNT, RESPONSE_MODEL, traces, usage_span

# Reported name, name in the price book, where such names are documented.
NAMES = [
    ("claude-sonnet-4-5-20250929", "claude-sonnet-4-5", "https://docs.claude.com/en/docs/about-claude/models/overview"),
    ("gpt-4o-2024-08-06", "gpt-4o", "https://platform.openai.com/docs/models/gpt-4o"),
    ("claude-sonnet-4-5@20250929", "claude-sonnet-4-5", "https://docs.claude.com/en/api/claude-on-vertex-ai"),
    ("models/gemini-2.5-flash", "gemini-2.5-flash", "https://ai.google.dev/api/models"),
    (
        "publishers/anthropic/models/claude-sonnet-4-5@20250929",
        "claude-sonnet-4-5",
        "https://docs.claude.com/en/api/claude-on-vertex-ai",
    ),
    ("openai/gpt-5", "gpt-5", "https://openrouter.ai/docs/api-reference/overview"),
    (
        "openrouter/anthropic/claude-sonnet-4-5",
        "claude-sonnet-4-5",
        "https://docs.litellm.ai/docs/providers/openrouter",
    ),
    *(
        (name, "claude-sonnet-4-5", "https://docs.aws.amazon.com/bedrock/latest/userguide/model-ids.html")
        for name in (
            "anthropic.claude-sonnet-4-5-20250929-v1:0",
            "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
            "us-gov.anthropic.claude-sonnet-4-5-20250929-v1:0",
            "global.anthropic.claude-sonnet-4-5-20250929-v1:0",
            "anthropic.claude-sonnet-4-5-20250929-v1:0:200k",
            "bedrock/eu.anthropic.claude-sonnet-4-5-20250929-v1:0",
            "arn:aws:bedrock:us-east-1::foundation-model/anthropic.claude-sonnet-4-5-20250929-v1:0",
            "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-sonnet-4-5-20250929-v1:0",
            "arn:aws-us-gov:bedrock:us-gov-west-1::foundation-model/anthropic.claude-sonnet-4-5-20250929-v1:0",
        )
    ),
    (
        "openai.gpt-oss-120b-1:0",
        "gpt-oss-120b-1:0",
        "https://docs.aws.amazon.com/bedrock/latest/userguide/model-ids.html",
    ),
]
# Names that tell of no model in the book: what they cost is not guessed.
UNTOLD = [
    "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/a1b2c3d4e5f6",
    "arn:aws:bedrock:us-east-1:123456789012:provisioned-model/abcdefghijkl",
    "our-gpt5-deployment",
    "ft:gpt-5:acme::abc123",
    "gpt-5-mini",
    "not-openai.gpt-5",
    "claude-sonnet-4-5-latest",
    "claude-sonnet-4-5-20250929-v1",
]
BOOK = {name: Decimal(number + 1) for number, name in enumerate(sorted({known for _, known, _ in NAMES}))}


@pytest.fixture(autouse=True)
def _book(chain: Chain) -> None:
    chain.command("TRUNCATE TABLE credit_action_costs")
    chain.command("TRUNCATE TABLE credit_model_aliases")
    rows = [[name, credits, 0] for name, credits in BOOK.items()]
    chain.client.insert("credit_action_costs", rows, column_names=["model", "credits_per_unit", "effective_from"])


def use(chain: Chain, *models: str) -> None:
    """One call of each."""
    chain.send(traces(*(usage_span({AMOUNT: None, RESPONSE_MODEL: model}) for model in models)))


def stand_for(chain: Chain, model: str, price_model: str) -> None:
    """Gives a model of the price book another name."""
    chain.command(f"INSERT INTO credit_model_aliases (model, price_model) VALUES ('{model}', '{price_model}')")


@pytest.mark.parametrize(("reported", "known", "source"), NAMES, ids=[name for name, _, _ in NAMES])
def test_a_name_is_the_model_that_it_means(chain: Chain, reported: str, known: str, source: str) -> None:
    """What a provider, a cloud or a gateway calls a model is priced as that model, and kept as it was reported."""
    use(chain, reported)
    assert chain.rows("SELECT model, credits_charged FROM credit_usage_events") == [
        {"model": reported, "credits_charged": BOOK[known]}
    ]


@pytest.mark.parametrize("reported", UNTOLD)
def test_what_a_name_does_not_tell_is_not_guessed(chain: Chain, reported: str) -> None:
    """A deployment, a profile, another model of the family wait as unpriced."""
    use(chain, reported)
    assert chain.reasons() == ["unpriced"]


@pytest.mark.parametrize(("meant", "credits"), [("gpt-5", BOOK["gpt-5"]), ("gpt-4o-2024-08-06", BOOK["gpt-4o"])])
def test_a_deployment_has_the_price_of_its_model(chain: Chain, meant: str, credits: Decimal) -> None:
    """A configured name is priced as the model it stands for, with or without the date of a snapshot; the newest row counts."""
    for price_model in ("claude-sonnet-4-5", meant):
        stand_for(chain, "our-gpt5-deployment", price_model)
    use(chain, "our-gpt5-deployment")
    assert chain.charges() == [credits]


def test_a_name_of_its_own_goes_before_what_it_stands_for(chain: Chain) -> None:
    """A price for exactly the reported name is taken before that of its alias, and that before the cloud's model."""
    own = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
    stand_for(chain, own, "gpt-5")
    use(chain, own)
    assert chain.charges() == [BOOK["gpt-5"]]
    chain.client.insert(
        "credit_action_costs", [[own, Decimal(77), 0]], column_names=["model", "credits_per_unit", "effective_from"]
    )
    use(chain, own)
    assert sorted(chain.charges()) == sorted([BOOK["gpt-5"], Decimal(77)])


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=40),
        min_size=1,
        max_size=20,
    )
)
def test_any_other_text_is_no_model(chain: Chain, names: list[str]) -> None:
    """Whatever a name is made of, it neither stops the insert nor takes another model's price."""
    use(chain, *names)
    assert set(chain.reasons()) == {"unpriced"}
    assert chain.charges() == []
