"""What each provider bills for a call, by its own documentation: what its API reports, how that is billed, its price list.

Independent of the ledger: nothing here knows spans, units or conventions. A recording says what the stand-in served
(`Served`); `report` is the usage block that the provider's API answers with for that, `bill` makes US dollars of it by the
provider's own words. Prices are US dollars for 1,000,000 tokens, with the page that prints them; each was compared with
the table of LiteLLM 1.110.2 on 2026-11-28.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal

Report = dict[str, int]
MILLION = Decimal(1_000_000)


@dataclass(frozen=True)
class Served:
    """One call as the stand-in served it; every token is in exactly one field, but reasoning, which is part of output."""

    provider: str
    model: str
    tier: str = "standard"
    input: int = 0
    cache_read: int = 0
    write_5m: int = 0
    write_1h: int = 0
    output: int = 0
    reasoning: int = 0
    audio_in: int = 0
    audio_out: int = 0

    @property
    def prompt(self) -> int:
        """All input tokens: text, audio, cached."""
        return self.input + self.audio_in + self.cache_read + self.write_5m + self.write_1h

    @property
    def answer(self) -> int:
        """All output tokens: text, reasoning, audio."""
        return self.output + self.audio_out


@dataclass(frozen=True)
class Rule:
    """How a provider counts and bills.

    Attributes:
        report: the numbers of its API's answer.
        billed: these numbers by the line of its price list.
        words: the rule, in short.
        pages: where the provider says so.
    """

    report: Callable[[Served], Report]
    billed: Callable[[Report], Mapping[str, int]]
    words: str
    pages: tuple[str, ...]


def _anthropic_report(call: Served) -> Report:
    return {
        "input_tokens": call.input,
        "cache_read_input_tokens": call.cache_read,
        "ephemeral_5m_input_tokens": call.write_5m,
        "ephemeral_1h_input_tokens": call.write_1h,
        "output_tokens": call.output,
    }


def _anthropic_billed(usage: Report) -> Mapping[str, int]:
    return {
        "input": usage["input_tokens"],
        "cached": usage["cache_read_input_tokens"],
        "written": usage["ephemeral_5m_input_tokens"],
        "written for an hour": usage["ephemeral_1h_input_tokens"],
        "output": usage["output_tokens"],
    }


def _openai_report(call: Served) -> Report:
    return {
        "prompt_tokens": call.prompt,
        "cached_tokens": call.cache_read,
        "cache_write_tokens": call.write_5m,
        "prompt audio_tokens": call.audio_in,
        "completion_tokens": call.answer,
        "completion audio_tokens": call.audio_out,
        "reasoning_tokens": call.reasoning,
    }


def _openai_billed(usage: Report) -> Mapping[str, int]:
    apart = usage["cached_tokens"] + usage["cache_write_tokens"] + usage["prompt audio_tokens"]
    return {
        "input": usage["prompt_tokens"] - apart,
        "cached": usage["cached_tokens"],
        "written": usage["cache_write_tokens"],
        "audio input": usage["prompt audio_tokens"],
        "output": usage["completion_tokens"] - usage["completion audio_tokens"],
        "audio output": usage["completion audio_tokens"],
    }


def _gemini_report(call: Served) -> Report:
    return {
        "promptTokenCount": call.prompt,
        "cachedContentTokenCount": call.cache_read,
        "promptTokensDetails AUDIO": call.audio_in,
        "candidatesTokenCount": call.output - call.reasoning,
        "thoughtsTokenCount": call.reasoning,
    }


def _gemini_billed(usage: Report) -> Mapping[str, int]:
    apart = usage["cachedContentTokenCount"] + usage["promptTokensDetails AUDIO"]
    return {
        "input": usage["promptTokenCount"] - apart,
        "cached": usage["cachedContentTokenCount"],
        "audio input": usage["promptTokensDetails AUDIO"],
        "output": usage["candidatesTokenCount"] + usage["thoughtsTokenCount"],
    }


def _bedrock_report(call: Served) -> Report:
    return {
        "inputTokens": call.input,
        "cacheReadInputTokens": call.cache_read,
        "cacheWriteInputTokens": call.write_5m + call.write_1h,
        "cacheDetails 1h": call.write_1h,
        "outputTokens": call.output,
    }


def _bedrock_billed(usage: Report) -> Mapping[str, int]:
    return {
        "input": usage["inputTokens"],
        "cached": usage["cacheReadInputTokens"],
        "written": usage["cacheWriteInputTokens"] - usage["cacheDetails 1h"],
        "written for an hour": usage["cacheDetails 1h"],
        "output": usage["outputTokens"],
    }


def _chat_report(call: Served) -> Report:
    return {"prompt_tokens": call.prompt, "cached_tokens": call.cache_read, "completion_tokens": call.answer}


def _chat_billed(usage: Report) -> Mapping[str, int]:
    return {
        "input": usage["prompt_tokens"] - usage["cached_tokens"],
        "cached": usage["cached_tokens"],
        "output": usage["completion_tokens"],
    }


def _cohere_report(call: Served) -> Report:
    return {"billed_units.input_tokens": call.prompt, "billed_units.output_tokens": call.answer}


def _cohere_billed(usage: Report) -> Mapping[str, int]:
    return {"input": usage["billed_units.input_tokens"], "output": usage["billed_units.output_tokens"]}


RULES: Mapping[str, Rule] = {
    "anthropic": Rule(
        _anthropic_report,
        _anthropic_billed,
        "input_tokens leave out what was read from the cache and written to it; writes are billed by their lifetime;"
        " thinking is output; a batch costs half of everything",
        (
            "https://platform.claude.com/docs/en/build-with-claude/prompt-caching",
            "https://platform.claude.com/docs/en/api/service-tiers",
            "https://platform.claude.com/docs/build-with-claude/batch-processing",
        ),
    ),
    "openai": Rule(
        _openai_report,
        _openai_billed,
        "prompt_tokens include cached, written and audio tokens, completion_tokens include reasoning and audio; flex is"
        " billed at the rates of a batch, which are half, priority by a list of its own",
        (
            "https://platform.openai.com/docs/guides/prompt-caching",
            "https://developers.openai.com/api/docs/guides/flex-processing.md",
            "https://openai.com/api-priority-processing/",
        ),
    ),
    "gemini": Rule(
        _gemini_report,
        _gemini_billed,
        "promptTokenCount includes cached and audio tokens; thoughts are not in candidatesTokenCount and are billed as output",
        ("https://ai.google.dev/api/generate-content#UsageMetadata",),
    ),
    "bedrock": Rule(
        _bedrock_report,
        _bedrock_billed,
        "inputTokens leave out what was read from the cache and written to it",
        (
            "https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_TokenUsage.html",
            "https://docs.aws.amazon.com/bedrock/latest/userguide/prompt-caching.html",
        ),
    ),
    "groq": Rule(
        _chat_report,
        _chat_billed,
        "prompt_tokens include cached tokens, which cost half; on_demand is the usual tier, and flex costs the same",
        ("https://console.groq.com/docs/prompt-caching", "https://console.groq.com/docs/flex-processing"),
    ),
    "mistral": Rule(
        _chat_report,
        _chat_billed,
        "prompt_tokens include cached tokens, which cost a tenth",
        ("https://docs.mistral.ai/studio-api/conversations/advanced/prompt-caching",),
    ),
    "cohere": Rule(
        _cohere_report,
        _cohere_billed,
        "billed_units are billed; tokens count also what Cohere adds on its own account",
        ("https://docs.cohere.com/v2/docs/how-does-cohere-pricing-work.md",),
    ),
}

CLAUDE_PAGE = "https://platform.claude.com/docs/en/about-claude/pricing"
OPENAI_PAGE = "https://developers.openai.com/api/docs/pricing"
GEMINI_PAGE = "https://ai.google.dev/gemini-api/docs/pricing"
BEDROCK_PAGE = "https://aws.amazon.com/bedrock/pricing/"
COHERE_PAGE = "https://cohere.com/pricing"
GROQ_PAGE = "https://console.groq.com/docs/prompt-caching"
MISTRAL_PAGE = "https://docs.mistral.ai/studio-api/conversations/advanced/prompt-caching"


def _list(**prices: str) -> Mapping[str, Decimal]:
    return {line.replace("_", " "): Decimal(price) for line, price in prices.items()}


# By model and tier; a model is named as the provider's answer names it, without the date of a snapshot.
PRICES: Mapping[tuple[str, str], tuple[Mapping[str, Decimal], str]] = {
    ("claude-sonnet-4-5", "standard"): (
        _list(input="3", cached="0.30", written="3.75", written_for_an_hour="6", output="15"),
        CLAUDE_PAGE,
    ),
    ("claude-sonnet-4-5", "batch"): (
        _list(input="1.50", cached="0.15", written="1.875", written_for_an_hour="3", output="7.50"),
        CLAUDE_PAGE,
    ),
    # Models before GPT-5.6 have no price for writing to the cache: what they write is input.
    ("gpt-5-mini", "standard"): (_list(input="0.25", cached="0.025", written="0.25", output="2"), OPENAI_PAGE),
    ("gpt-5-mini", "flex"): (_list(input="0.125", cached="0.0125", output="1"), OPENAI_PAGE),
    ("gpt-5-mini", "priority"): (
        _list(input="0.45", cached="0.045", output="3.60"),
        "https://openai.com/api-priority-processing/",
    ),
    ("gpt-5.6-luna", "standard"): (_list(input="0.20", cached="0.02", written="0.25", output="1.20"), OPENAI_PAGE),
    ("gpt-4o-audio-preview", "standard"): (
        _list(input="2.50", audio_input="40", output="10", audio_output="80"),
        OPENAI_PAGE,
    ),
    ("text-embedding-3-small", "standard"): (_list(input="0.02"), OPENAI_PAGE),
    ("gemini-2.5-flash", "standard"): (
        _list(input="0.30", cached="0.03", audio_input="1", output="2.50"),
        GEMINI_PAGE,
    ),
    ("gemini-embedding-001", "standard"): (_list(input="0.15"), GEMINI_PAGE),
    # Bedrock: what a geographic endpoint (us.) answers costs a tenth more than in one region.
    ("anthropic.claude-sonnet-4-5-20250929-v1:0", "standard"): (
        _list(input="3", cached="0.30", written="3.75", written_for_an_hour="6", output="15"),
        BEDROCK_PAGE,
    ),
    ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "standard"): (
        _list(input="3.30", cached="0.33", written="4.125", written_for_an_hour="6.60", output="16.50"),
        BEDROCK_PAGE,
    ),
    ("amazon.nova-lite-v1:0", "standard"): (_list(input="0.06", cached="0.015", output="0.24"), BEDROCK_PAGE),
    ("meta.llama3-8b-instruct-v1:0", "standard"): (_list(input="0.30", output="0.60"), BEDROCK_PAGE),
    # For these three the page says what a cached token costs beside one that is not, the table of LiteLLM the rest.
    ("openai/gpt-oss-120b", "standard"): (_list(input="0.15", cached="0.075", output="0.60"), GROQ_PAGE),
    ("mistral-large-2512", "standard"): (_list(input="0.50", cached="0.05", output="1.50"), MISTRAL_PAGE),
    ("mistral-embed", "standard"): (_list(input="0.10"), MISTRAL_PAGE),
    ("command-a-03-2025", "standard"): (_list(input="2.50", output="10"), COHERE_PAGE),
    ("embed-v4.0", "standard"): (_list(input="0.12"), COHERE_PAGE),
}


def bill(call: Served) -> Decimal:
    """US dollars for a call. Raises KeyError for a line that the price list does not have."""
    rule = RULES[call.provider]
    lines, _ = PRICES[call.model, call.tier]
    billed = rule.billed(rule.report(call))
    return sum((lines[line] * tokens / MILLION for line, tokens in billed.items() if tokens), Decimal(0))
