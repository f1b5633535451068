"""Golden charges: for each provider and instrumentation, the ledger's credits are the US dollars that the provider bills.

The provider's own rule and price list stand in support/provider_bills.py, with their pages; the recordings are those of
tests/recordings. The table GOLDEN says for each row of credit_conventions what of it is proven here to the last digit.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from decimal import Decimal

import pytest
from support.chain import Chain
from support.golden_cases import Convention, Golden, convention_of, golden_cases
from support.more_recordings import TIER_UNTOLD, TOOLS_UNTOLD, Charged, charge_requests
from support.otlp_build import OPERATION, RESPONSE_ID, RESPONSE_MODEL, STOP_REASON, span, traces
from support.provider_bills import MILLION, PRICES, RULES, Served, bill

UNITS = {
    "input": "input_token",
    "cached": "cache_read_token",
    "written": "cache_write_token",
    "written for an hour": "cache_write_1h_token",
    "output": "output_token",
    "audio input": "input_audio_token",
    "audio output": "output_audio_token",
}
CASES: Mapping[str, Golden] = {golden.case: golden for golden in golden_cases()}

# What of a row of credit_conventions at least one recording proves to be charged as it is billed: plain calls and streams,
# embeddings, and the tokens that are counted or priced in a way of their own.
GOLDEN: Mapping[Convention, str] = {
    ("com.anthropic.sdk.python", "", ""): "cache_read plain reasoning stream write_1h write_5m",
    ("com.anthropic.sdk.python.bedrock", "", ""): "cache_read plain write_1h write_5m",
    ("litellm", "", "anthropic"): "plain",
    ("litellm", "", "openai"): "plain",
    ("logfire.anthropic", "5", "anthropic"): "cache_read plain stream write_1h write_5m",
    ("logfire.openai", "5", "openai"): "cache_read embeddings plain reasoning stream",
    ("openinference.instrumentation.anthropic", "1.1.1", ""): "cache_read plain reasoning stream write_1h write_5m",
    ("openinference.instrumentation.bedrock", "0.1.61", "aws"): "cache_read plain stream write_5m",
    ("openinference.instrumentation.google_genai", "1.4.14", "google"): "audio_in cache_read plain reasoning stream",
    ("openinference.instrumentation.groq", "0.1.33", "groq"): "cache_read plain reasoning",
    ("openinference.instrumentation.langchain", "", "openai"): "cache_read flex plain reasoning stream",
    ("openinference.instrumentation.langchain", "0.1.80", "amazon_bedrock"): "cache_read plain write_5m",
    ("openinference.instrumentation.langchain", "0.1.80", "anthropic"): "cache_read plain write_1h write_5m",
    ("openinference.instrumentation.langchain", "0.1.80", "google"): "cache_read plain reasoning stream",
    ("openinference.instrumentation.litellm", "0.1.51", "anthropic"): "cache_read plain write_5m",
    ("openinference.instrumentation.litellm", "0.1.51", "mistralai"): "cache_read plain",
    ("openinference.instrumentation.litellm", "0.1.51", "openai"): "cache_read plain reasoning stream",
    (
        "openinference.instrumentation.openai",
        "",
        "",
    ): "audio_in audio_out cache_read embeddings flex plain priority reasoning stream write_5m",
    ("openinference.instrumentation.openai_agents", "2.6", "openai"): "cache_read plain reasoning stream",
    ("openlit.instrumentation.anthropic", "", ""): "cache_read plain stream write_5m",
    ("openlit.instrumentation.cohere", "", "cohere"): "embeddings plain stream",
    ("openlit.instrumentation.groq", "", "groq"): "cache_read plain reasoning stream",
    ("openlit.instrumentation.mistral", "", "mistral_ai"): "cache_read embeddings plain stream",
    ("openlit.instrumentation.openai", "", ""): "cache_read embeddings plain reasoning stream",
    ("opentelemetry.instrumentation.anthropic", "0.33.5", ""): "cache_read plain write_5m",
    ("opentelemetry.instrumentation.anthropic", "0.62", ""): "cache_read plain write_5m",
    ("opentelemetry.instrumentation.bedrock", "0.62", "aws.bedrock"): "cache_read plain write_5m",
    (
        "opentelemetry.instrumentation.botocore.bedrock-runtime",
        "0.66",
        "aws.bedrock",
    ): "cache_read plain stream write_5m",
    ("opentelemetry.instrumentation.cohere", "0.62", "cohere"): "plain stream",
    ("opentelemetry.instrumentation.genai.anthropic", "", ""): "cache_read plain reasoning stream write_5m",
    ("opentelemetry.instrumentation.genai.bedrock", "1.3", "aws.bedrock"): "cache_read plain stream write_5m",
    ("opentelemetry.instrumentation.genai.langchain", "", "openai"): "cache_read plain reasoning stream write_5m",
    ("opentelemetry.instrumentation.genai.langchain", "1.3", "anthropic"): "cache_read plain write_5m",
    ("opentelemetry.instrumentation.genai.langchain", "1.3", "aws.bedrock"): "cache_read plain write_5m",
    ("opentelemetry.instrumentation.genai.langchain", "1.3", "gcp.gen_ai"): "cache_read plain reasoning stream",
    (
        "opentelemetry.instrumentation.genai.openai",
        "",
        "",
    ): "cache_read embeddings flex plain priority reasoning stream write_5m",
    (
        "opentelemetry.instrumentation.google_genai",
        "1.3",
        "gemini",
    ): "audio_in cache_read embeddings plain reasoning stream",
    ("opentelemetry.instrumentation.groq", "0.62", "groq"): "cache_read plain reasoning stream",
    ("opentelemetry.instrumentation.langchain", "0.62", "openai"): "cache_read plain reasoning stream write_5m",
    ("opentelemetry.instrumentation.mistralai", "0.62", "mistralai"): "cache_read plain stream",
    ("opentelemetry.instrumentation.openai.v1", "0.33", ""): "embeddings plain",
    (
        "opentelemetry.instrumentation.openai.v1",
        "0.62",
        "",
    ): "cache_read embeddings flex plain priority reasoning stream",
    ("opentelemetry.instrumentation.openai_agents", "0.62", "openai"): "cache_read plain reasoning stream",
    ("opentelemetry.instrumentation.openai_v2", "", ""): "embeddings plain",
    ("opentelemetry.util.genai.handler", "", "openai"): "cache_read embeddings plain reasoning",
    ("pydantic-ai", "2", "anthropic"): "cache_read plain stream write_1h write_5m",
    ("pydantic-ai", "2", "openai"): "cache_read embeddings plain reasoning stream",
}
# Rows without a golden case, and why.
NOT_GOLDEN: Mapping[Convention, str] = {
    ("openinference.instrumentation.anthropic", "", ""): "no recording of 0.1.8 is here; what it reports waits",
    (
        "openinference.instrumentation.mistralai",
        "2.2",
        "mistralai",
    ): "cached tokens are on no attribute, so that all of it waits",
}
# Recordings that no price list has a line for.
NO_PRICE = {
    "cached": "audio models have no price for cached input",
    "written": "no page that we could read prints what Nova bills for writing to the cache",
    "priority": "Anthropic sells its priority tier by contract",
    "image": "what a picture costs is not what these tokens of text cost",
    "'fast'": "Claude Sonnet 4.5 has no fast mode",
    "'us'": "Claude Sonnet 4.5 cannot be kept in one country",
}
# What an emitter leaves out without a trace, so that the charge is not the bill (docs/emitters.md).
UNTOLD = {
    "how long what was written lives": (
        "ga-anthropic.both_lifetimes",
        "ga-anthropic.both_lifetimes_stream",
        "ga-anthropic.mgr_stream_text",
        "ga-anthropic.only_1h",
        "ga-anthropic.thinking_stream",
        "ga-anthropic.bedrock_client",
        "ga-langchain.anthropic_1h",
        "ollm-anthropic.both_lifetimes",
        "ollm-anthropic.only_1h",
        "ollm-anthropic.old0.33.5_both_lifetimes",
        "own-pydantic.old2.0.0_anthropic_1h",
        "own-pydantic.old2.0.0_anthropic_both_lifetimes_stream",
        "ollm-anthropic.bedrock_client",
    ),
    "the service tier": tuple(sorted(TIER_UNTOLD)),
    "what Gemini's own tools add": tuple(sorted(TOOLS_UNTOLD)),
    "the region": (
        "oi-bedrock.invoke",
        "oi-bedrock.invoke_cached",
        "ollm-bedrock.converse_stream",
        "ollm-bedrock.invoke_cached",
    ),
    "some of the calls": ("e2e.contrib", "extra.sampled_01_ollm"),
}
LEFT_OUT = {case for cases in UNTOLD.values() for case in cases}
# OpenLLMetry and the Anthropic SDK's Bedrock client name a model without vendor and region: the operator says which one.
SHORT_NAME = ("claude-sonnet-4-5-20250929-v1:0", "us.anthropic.claude-sonnet-4-5-20250929-v1:0")


def price_book() -> Iterator[tuple[tuple[str, str], Decimal]]:
    """The providers' lists as rows of the price book: model, unit, US dollars for one token."""
    for (model, tier), (lines, _) in PRICES.items():
        for line, price in lines.items():
            yield (model, UNITS[line] + ("" if tier == "standard" else f"_{tier}")), price / MILLION


def billed(case: str) -> Decimal | None:
    """What the provider bills for a recording; None if no list has a price for it, which NO_PRICE tells."""
    try:
        return sum((bill(call) for call in CASES[case].calls), Decimal(0))
    except KeyError as missing:
        if not any(line in str(missing) for line in NO_PRICE):
            raise
        return None


@pytest.fixture(scope="module")
def charged(shared_chain: Chain) -> dict[str, Charged]:
    """What became of each recording, at the providers' prices."""
    name, meant = SHORT_NAME
    shared_chain.command(f"INSERT INTO credit_model_aliases (model, price_model) VALUES ('{name}', '{meant}')")
    sent = [(golden.case, request) for golden in CASES.values() for request in golden.requests]
    return charge_requests(shared_chain, sent, dict(price_book()))


@pytest.fixture(scope="module")
def conventions(shared_chain: Chain) -> Mapping[str, set[Convention]]:
    """The rows of credit_conventions that the spans of each recording are read by."""
    rows = shared_chain.rows("SELECT * FROM credit_conventions")
    return {
        case: {row for told in golden.spoken_for() if (row := convention_of(told, rows)) is not None}
        for case, golden in CASES.items()
    }


def test_a_charge_is_the_providers_bill(
    charged: dict[str, Charged], conventions: Mapping[str, set[Convention]]
) -> None:
    """Of every recording that tells of its calls, the credits are what the provider bills, to the last digit, or
    something of it waits and no more than the bill is charged."""
    wrong = {}
    for case in CASES.keys() - LEFT_OUT:
        true, found = billed(case), charged[case]
        waits = bool(found.reasons) and found.credits < (true or 1)
        if conventions[case] and found.credits != true and not waits:
            wrong[case] = (found.credits, true, dict(found.units), found.reasons)
    assert not wrong


def test_what_has_no_price_waits(charged: dict[str, Charged]) -> None:
    """A call that the price lists do not tell the price of is not charged."""
    unpriced = [case for case in CASES.keys() - LEFT_OUT if billed(case) is None]
    assert unpriced
    assert not {case: charged[case].credits for case in unpriced if charged[case].credits}


def test_each_convention_has_its_golden_cases(
    charged: dict[str, Charged], conventions: Mapping[str, set[Convention]], shared_chain: Chain
) -> None:
    """What is proven of each row of credit_conventions is what the table says, and no row is without a case or a reason."""
    proven: dict[Convention, set[str]] = defaultdict(set)
    for case, golden in CASES.items():
        if len(conventions[case]) == 1 and charged[case].credits and charged[case].credits == billed(case):
            proven[next(iter(conventions[case]))] |= golden.features()
    rows = shared_chain.rows("SELECT DISTINCT scope_name, version_from, provider FROM credit_conventions")
    assert {row: " ".join(sorted(features)) for row, features in proven.items()} == GOLDEN
    assert {tuple(row.values()) for row in rows} == GOLDEN.keys() | NOT_GOLDEN.keys()
    assert not GOLDEN.keys() & NOT_GOLDEN.keys()


def test_what_is_left_out_is_still_left_out(charged: dict[str, Charged]) -> None:
    """The recordings whose emitters leave something out are charged something else than the bill: once that is better, the
    list is shorter."""
    assert not [case for case in LEFT_OUT if charged[case].credits in (billed(case), 0)]


@pytest.mark.parametrize("provider", RULES)
def test_each_rule_and_price_has_its_page(provider: str) -> None:
    """Every provider of a recording has a documented rule, and every price list its page."""
    assert {call.provider for golden in CASES.values() for call in golden.calls} == RULES.keys()
    assert RULES[provider].words
    assert all(page.startswith("https://") for page in RULES[provider].pages)
    assert all(page.startswith("https://") for _, page in PRICES.values())


def test_a_batch_is_charged_by_the_prices_of_batches(chain: Chain) -> None:
    """An answer that says it came from a batch costs what the provider bills for batches; no recording is of one, as no
    instrumentation makes spans of the answers of a batch."""
    call = Served(
        "anthropic", "claude-sonnet-4-5", "batch", 137, cache_read=2048, write_5m=300, write_1h=212, output=61
    )
    chain.command("TRUNCATE TABLE credit_action_costs")
    rows = [[model, unit, price, 0] for (model, unit), price in price_book()]
    chain.client.insert(
        "credit_action_costs", rows, column_names=["model", "unit", "credits_per_unit", "effective_from"]
    )
    told = {
        OPERATION: "chat",
        RESPONSE_MODEL: "claude-sonnet-4-5-20250929",
        RESPONSE_ID: "msg_9dde58b104314827a075bfd8",
        STOP_REASON: "end_turn",
        "anthropic.response.service_tier": "batch",
        "gen_ai.usage.input_tokens": call.prompt,
        "gen_ai.usage.cache_read.input_tokens": call.cache_read,
        "gen_ai.usage.cache_write.input_tokens": call.write_5m + call.write_1h,
        "anthropic.usage.cache_creation.ephemeral_1h_input_tokens": call.write_1h,
        "gen_ai.usage.output_tokens": call.answer,
    }
    chain.send(traces(span(told), scope="com.anthropic.sdk.python"), charge_genai=True, default_user="someone")
    assert chain.charges() == [bill(call)]
