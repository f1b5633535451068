"""Recordings of versions and providers that a row of credit_conventions would read wrong, but for what their spans show."""

import pytest
from support.chain import Chain
from support.more_recordings import charge

WAITS = {
    # A release that did not report yet what is written to the cache, of a model of which that is billed.
    "oi-openai.old0.1.45_written": "cache_unknown",
    # A release that reports cached tokens as input.
    "logfire-anthropic.v6b8_cached": "unknown_convention",
    "logfire-anthropic.v6b8_plain": "unknown_convention",
    # A picture, which has a price of its own.
    "ga-google.picture": "modality_unknown",
    "oi-google.picture": "modality_unknown",
    # A provider that counts reasoning beside the output.
    "ga-openai.reasoning_apart": "tokens_inconsistent",
    "ga-openai.reasoning_apart_stream": "tokens_inconsistent",
    "oi-openai.reasoning_apart": "tokens_inconsistent",
    "oi-openai.reasoning_apart_stream": "tokens_inconsistent",
}


@pytest.mark.parametrize("case", WAITS)
def test_what_would_be_charged_wrong_waits(chain: Chain, case: str) -> None:
    """It is not charged, and the reason says what of it is not known."""
    found = charge(chain, [case])[case]
    assert (found.events, found.reasons) == (0, [WAITS[case]])
