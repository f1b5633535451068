"""OpenLIT's recordings (recordings/more): which of them are charged what was billed, and which wait, for what reason.

Its scopes name no version, so that what is true of 1.45.0 has to be told from what is not of 1.40.3 (`v140_`).
"""

import pytest
from support.chain import Chain
from support.more_recordings import CASES, Charged, bill, charge

WAITS = {
    # Cached tokens of streams may be lost, and without usage from the provider the counts are those of a tokenizer.
    "openlit-anthropic.stream_now": "emitter_unreliable",
    "openlit-anthropic.both_lifetimes_stream": "emitter_unreliable",
    "openlit-anthropic.v140_stream_now": "emitter_unreliable",
    "openlit-anthropic.v140_mgr_stream_now": "emitter_unreliable",
    "openlit-anthropic.v140_both_lifetimes_stream": "emitter_unreliable",
    "openlit-openai.stream_nousage": "emitter_unreliable",
    "openlit-openai.responses_flex_stream": "emitter_unreliable",
    "openlit-openai.v140_stream": "emitter_unreliable",
    "openlit-openai.v140_stream_plain": "emitter_unreliable",
    "openlit-openai.v140_stream_nousage": "emitter_unreliable",
    # Whose model LiteLLM called is not told; of LangChain cached tokens are lost and counts invented, with nothing that says so.
    **{case: "unknown_convention" for case in CASES if case.startswith(("openlit-litellm.", "openlit-langchain."))},
}
CHARGED = [case for case in CASES if case.startswith("openlit-") and case not in WAITS]


@pytest.fixture(scope="module")
def charged(shared_chain: Chain) -> dict[str, Charged]:
    """What became of each case."""
    return charge(shared_chain, [*WAITS, *CHARGED])


def test_what_the_provider_may_not_have_said_waits(charged: dict[str, Charged]) -> None:
    """Nothing is charged of a stream whose counts may be invented, or whose cached tokens may be lost, in either release."""
    assert {case: (charged[case].credits, charged[case].reasons) for case in WAITS} == {
        case: (0, [reason]) for case, reason in WAITS.items()
    }


def test_what_the_provider_said_is_charged(charged: dict[str, Charged]) -> None:
    """Calls whose counts are the provider's are charged what it bills; beside Mistral's, the span of its own SDK waits."""
    assert len(CHARGED) > 20
    assert {
        case: (dict(charged[case].units), set(charged[case].reasons) - {"unknown_convention"}) for case in CHARGED
    } == {case: (bill(case), set()) for case in CHARGED}
