"""What is wrong with a usage that the oracle read, and how much it is of what, with Decimal.

Which numbers are right, and which fault comes first: docs/semantic-conventions.md.
"""

from __future__ import annotations

import re
from decimal import ROUND_HALF_EVEN, Context, Decimal

from support import otlp_build as names
from support.oracle_json import one_told
from support.oracle_reading import TOKENS_MAX, Usage

__all__ = [
    "EXACT",
    "answered_tier",
    "asked_tier",
    "fault",
    "own_prices_said",
    "read_quantities",
    "rounded",
    "sound_cached",
]

EXACT = Context(prec=100, rounding=ROUND_HALF_EVEN)
_TWELVE_PLACES = Decimal("1e-12")
_NUMBER = re.compile(r"[+-]?[0-9]+([.][0-9]*)?([eE][+-]?[0-9]+)?")
_AMOUNT_MAX = Decimal(10) ** 15
_NUMBER_CHARACTERS_MAX = 40
_NAME_BYTES_MAX = 512
_EARLIEST_US = 946_684_800_000_000
_AHEAD_MAX_US = 31 * 86_400 * 10**6
_OFFICIAL = (names.INPUT, names.OUTPUT, names.CACHE_READ, names.CACHE_WRITE, names.CACHE_CREATION, names.REASONING)
_USUAL_WORDS = ("", "default", "standard", "auto", "on_demand", "global", "not_available")


def rounded(number: Decimal) -> Decimal:
    """To 12 places, half to even."""
    return number.quantize(_TWELVE_PLACES, context=EXACT)


def fault(usage: Usage) -> str:
    """What is wrong with a usage, quantities left aside; the first that applies."""
    if usage.defect:
        return usage.defect
    if usage.signal == "span" and (len(usage.trace_id) != 16 or not any(usage.trace_id)):
        return "invalid_trace_id"
    if usage.signal == "span" and (len(usage.span_id) != 8 or not any(usage.span_id)):
        return "invalid_span_id"
    if usage.end_ns == 0:
        return "time_missing"
    if not _EARLIEST_US <= usage.end_ns // 1000 <= usage.received_us + _AHEAD_MAX_US:
        return "time_out_of_range"
    if not usage.action:
        return "no_action_type"
    if not usage.user:
        return "no_user"
    texts = (usage.user, usage.action, usage.model, usage.text(names.KEY), usage.response_id)
    return "name_too_long" if max(len(text.encode()) for text in texts) > _NAME_BYTES_MAX else ""


def read_quantities(usage: Usage) -> str:
    """Fills in units, amount and tokens; returns what is wrong with them."""
    if usage.bare or (usage.automatic and usage.convention is None):
        return "unknown_convention"
    wrong = _wrong_number(usage)
    if wrong:
        return wrong
    tokens = usage.tokens
    usage.tokens_in, usage.tokens_out = usage.counts
    uncached = usage.tokens_in - tokens["cache_read"] - tokens["cache_write"] - tokens["input_audio"]
    if uncached < 0 or tokens["cache_write_1h"] > tokens["cache_write"] or tokens["output_audio"] > tokens["output"]:
        return "tokens_inconsistent"
    usage.units = _token_units(usage, uncached)
    usage.units |= {key.removeprefix(names.UNITS): _stated(usage, key) for key in _stated_units(usage)}
    if names.AMOUNT in usage.attributes:
        usage.amount = _stated(usage, names.AMOUNT)
    elif not usage.units:
        usage.units = {"call": Decimal(1)}
    return _unknown(usage)


def _token_units(usage: Usage, uncached: int) -> dict[str, Decimal]:
    tokens, keys = usage.tokens, usage.meaning.token_attributes
    answered = answered_tier(usage)
    said = [tier for tier in [asked_tier(usage) if answered is None else answered] if tier] + own_prices_said(usage)
    suffix = "" if usage.explicit else "".join(f"_{word}" for word in said)
    sent = {
        "input_token": uncached if usage.text(*keys["input"]) else None,
        "output_token": tokens["output"] - tokens["output_audio"] if usage.text(*keys["output"]) else None,
    }
    others = {
        "cache_read_token": tokens["cache_read"],
        "cache_write_token": tokens["cache_write"] - tokens["cache_write_1h"],
        "cache_write_1h_token": tokens["cache_write_1h"],
        "input_audio_token": tokens["input_audio"],
        "output_audio_token": tokens["output_audio"],
    }
    found = {unit: n for unit, n in sent.items() if n is not None} | {unit: n for unit, n in others.items() if n}
    units = {unit + suffix: Decimal(n) for unit, n in found.items()}
    return units | ({"reasoning_token": Decimal(tokens["reasoning"])} if tokens["reasoning"] else {})


def answered_tier(usage: Usage) -> str | None:
    """The service tier of the answer, empty if it is the usual one; None if it is not told."""
    told = usage.text(usage.meaning.service_tier_attribute)
    return (told if told not in _USUAL_WORDS else "") if told else None


def asked_tier(usage: Usage) -> str:
    """The service tier that was asked for; empty if it is the usual one."""
    asked = usage.text(usage.meaning.request_service_tier_attribute)
    return asked if asked not in _USUAL_WORDS else ""


def own_prices_said(usage: Usage) -> list[str]:
    """What else has prices of its own: a mode, a country."""
    said = [usage.text(name) for name in usage.meaning.price_attributes]
    return [word for word in said if word not in _USUAL_WORDS]


def sound_cached(usage: Usage) -> bool:
    """Whether there is sound and there are cached tokens, so that some may be both, which no emitter tells."""
    return bool(usage.tokens["input_audio"] and usage.tokens["cache_read"])


def _unknown(usage: Usage) -> str:
    """Why a usage whose emitter did not tell all is not charged."""
    if usage.attributes.get(names.USAGE_UNKNOWN) == "true":
        return "usage_unknown"
    if usage.is_estimate and usage.settings.estimated == "quarantine":
        return "estimated"
    if usage.explicit:
        return ""
    row, keys = usage.meaning, usage.meaning.token_attributes
    marks = {usage.text(names.OPERATION), usage.text(names.OPENINFERENCE_KIND), usage.text(names.LLM_REQUEST_TYPE)}
    embedding = bool(marks & {"embeddings", "EMBEDDING", "embedding"})
    total = usage.text("gen_ai.usage.total_tokens", "llm.token_count.total", row.total_attribute)
    complete = usage.text(*keys["input"]) and (usage.text(*keys["output"]) or embedding)
    if not complete or not usage.counts[0] or not (embedding or _finished(usage)):
        return "usage_unknown"
    sums = (usage.tokens["input"] + usage.tokens["output"], sum(usage.counts))
    if total and not (total.isascii() and total.isdecimal() and int(total) in sums):
        return "tokens_inconsistent"
    if _modality_unknown(usage):
        return "modality_unknown"
    streamed = any(usage.text(name).lower() not in ("", "false") for name in row.stream_attributes)
    if (streamed and _lost_in_streams(usage)) or usage.last_call_only:
        return "emitter_unreliable"
    if usage.tokens["reasoning"] > usage.tokens["output"]:
        return "tokens_inconsistent"
    if row.answers_attribute and not embedding and not one_told(usage.text(row.answers_attribute)):
        return "emitter_unreliable"
    long = 0 < row.cache_unknown_from <= usage.tokens_in
    return "cache_unknown" if long and not embedding and not usage.text(*keys["cache_read"]) else ""


def _modality_unknown(usage: Usage) -> bool:
    """Whether sound or pictures, which have prices of their own, may be among the tokens and are not told apart."""
    counts_sound = bool(usage.meaning.input_audio_attribute)
    words = ("image",) if counts_sound else ("image", "audio", "realtime", "transcribe", "tts")
    return any(word in usage.model for word in words) or (counts_sound and sound_cached(usage))


def _finished(usage: Usage) -> bool:
    if usage.meaning.finish_attribute:
        return bool(usage.text(usage.meaning.finish_attribute))
    return usage.provider != "anthropic" or bool(
        usage.text(names.FINISH_REASONS, names.STOP_REASON, "llm.finish_reason")
    )


def _lost_in_streams(usage: Usage) -> bool:
    cached = usage.tokens["cache_read"] + usage.tokens["cache_write"]
    told = bool(usage.text(*usage.meaning.token_attributes["cache_read"]))
    return {"output": True, "cache_zero": not cached, "cache_absent": not told}.get(usage.meaning.stream_flaw, False)


def _stated_units(usage: Usage) -> list[str]:
    return [key for key in usage.attributes if key.startswith(names.UNITS)]


def _stated(usage: Usage, key: str) -> Decimal:
    return rounded(Decimal(usage.attributes[key]))


def _wrong_number(usage: Usage) -> str:
    """What is wrong with the first number that cannot be charged."""
    texts = usage.attributes
    named = [key for keys in usage.meaning.token_attributes.values() for key in keys if texts.get(key)]
    tokens = [key for key in _OFFICIAL if key in texts] + named
    stated = [key for key in (*_stated_units(usage), names.AMOUNT) if key in texts]
    faults = [_number_fault(texts[key], TOKENS_MAX, whole=True) for key in tokens]
    faults += [_number_fault(texts[key], _AMOUNT_MAX, inexact=key in usage.doubles) for key in stated]
    return next((found for found in faults if found), "")


def _number_fault(text: str, largest: Decimal, whole: bool = False, inexact: bool = False) -> str:
    if not _NUMBER.fullmatch(text):
        return "not_a_number"
    number = Decimal(text)
    if number.is_signed():
        return "negative_number"
    if number > largest:
        return "number_out_of_range"
    fits = number == number.to_integral_value() if whole else inexact or number == rounded(number)
    return "" if fits and len(text) <= _NUMBER_CHARACTERS_MAX else "number_not_exact"
