"""hypothesis strategies for what emitters tell within the JSON of an attribute, and the rows that say where they do.

The answers are those of providers, as instrumentations put them on their spans: whole, cut off, without what is looked for, and
with anything else in its place.
"""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from support.oracle_calls import Convention

__all__ = ["JSON_CONVENTIONS", "TOLD_IN_JSON"]

_ANSWER, _TYPE, _ASKED, _RAW = "output.value", "output.mime_type", "llm.invocation_parameters", "gen_ai.usage.raw"
_HOUR = "/cache_creation/ephemeral_1h_input_tokens"
_OPENINFERENCE: dict[str, Any] = {
    "response_id_attribute": f"{_ANSWER}#/id",
    "request_service_tier_attribute": f"{_ASKED}#/service_tier",
}
# Those called tests.* are made up; the token attributes of the others are OpenTelemetry's, to be the same as of other spans.
JSON_CONVENTIONS = [
    Convention(
        "openinference.instrumentation.anthropic",
        service_tier_attribute=f"{_ANSWER}#/usage/service_tier",
        cache_write_1h_attribute=f"{_ANSWER}#/usage{_HOUR}",
        price_attributes=(f"{_ANSWER}#/usage/speed", f"{_ANSWER}#/usage/country"),
        earlier_calls_attribute=f"{_ANSWER}#/usage/iterations/1",
        count_attribute=f"{_ANSWER}#/input_tokens",
        **_OPENINFERENCE,
        preference=3,
    ),
    Convention(
        "openinference.instrumentation.openai", service_tier_attribute=f"{_ANSWER}#/service_tier", **_OPENINFERENCE
    ),
    Convention(
        "openinference.instrumentation.google_genai",
        **_OPENINFERENCE | {"response_id_attribute": f"{_ANSWER}#/response_id"},
        earlier_calls_attribute=f"{_ANSWER}#/automatic_function_calling_history",
    ),
    Convention(
        "openinference.instrumentation.langchain",
        provider="acme",
        **_OPENINFERENCE | {"response_id_attribute": f"{_ANSWER}#/llm_output/id"},
        cache_write_1h_attribute=f"{_ANSWER}#/generations/0/0/usage/ephemeral_1h_input_tokens",
    ),
    Convention("opentelemetry.instrumentation.langchain", answers_attribute="gen_ai.output.messages#", preference=8),
    Convention(
        "logfire.anthropic", service_tier_attribute=f"{_RAW}#/service_tier", cache_write_1h_attribute=f"{_RAW}#{_HOUR}"
    ),
    Convention(
        "tests.words",
        answers_attribute="tests.count",
        earlier_calls_attribute="tests.before",
        stream_attributes=("tests.stream", "tests.live", f"{_ASKED}#/a~1b~0c"),
        stream_flaw="output",
    ),
    # Its counts are within JSON alone; of version 2 they are not known.
    Convention(
        "tests.counts", version_until="2", input_attribute=f"{_RAW}#/tokens/in", output_attribute=f"{_RAW}#/tokens/out"
    ),
]
_WORDS = st.sampled_from(["default", "standard", "flex"] * 3 + ["priority", "two words", "ß\n"])
_IDS = st.sampled_from(["msg_01_the_first_one", "msg_02_the_second_one"] * 3 + ["1", "x" * 600])
_COUNTS = st.sampled_from([0, 1, 5, 7, 9] * 6 + [-1, 1.5, 5.0, 10**13, 10**30, "5", "many", True])
_ODD = st.sampled_from([None, [], [1, 2], {}, {"a": 1}, "", "text", 3, -3, 10**30, False, [[]], [[{"usage": []}]]])
_LISTS = st.sampled_from([0, 0, 0, 1, 3]).map(lambda n: [{"role": "model"}] * n)


def _or_odd(usual: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Mostly what belongs there, sometimes anything else."""
    return st.sampled_from([usual] * 9 + [_ODD]).flatmap(lambda one: one)


@st.composite
def _object(draw: st.DrawFn, **fields: st.SearchStrategy[Any]) -> dict[str, Any]:
    """An object with all of these, mostly; sometimes one is missing."""
    found = {name: draw(_or_odd(value)) for name, value in fields.items()}
    missing = draw(st.sampled_from([None] * 3 * len(fields) + sorted(fields)))
    return {name: value for name, value in found.items() if name != missing}


_HOURS = _object(ephemeral_1h_input_tokens=_COUNTS)
_USAGE = _object(
    speed=st.sampled_from(["standard", "standard", "flex", None]),
    country=st.sampled_from(["global", "global", "two words", "not_available"]),
    iterations=st.sampled_from([0, 1, 1, 1, 2]).map(lambda n: [{"type": "message"}] * n),
    service_tier=_WORDS,
    cache_creation=_HOURS,
    tokens=st.builds(lambda n, m: {"in": n, "out": m}, st.integers(1, 9), _COUNTS),
)
_ANSWERS = _object(
    id=_IDS,
    response_id=_IDS,
    usage=_USAGE,
    service_tier=_WORDS,
    automatic_function_calling_history=_LISTS,
    llm_output=_object(id=_IDS),
    generations=_HOURS.map(lambda hours: [[{"usage": hours}]]),
)
_REQUESTS = _object(**{"service_tier": _WORDS, "a/b~c": st.sampled_from([True, "no", None, False])})


_COUNTED = st.just({"input_tokens": 7})


@st.composite
def _json(draw: st.DrawFn, of: st.SearchStrategy[Any]) -> str:
    text = json.dumps(draw(of), ensure_ascii=draw(st.booleans()))
    broken = [text[:-1], text + " and more", "", "null", "5", "[" + text, text.replace(":", "", 1)]
    twice = '{"id": "msg_02_the_second_one", ' + text[1:] if text.startswith('{"') else text
    return draw(st.sampled_from([text] * 24 + [twice, *broken]))


@st.composite
def _told(draw: st.DrawFn) -> dict[str, Any]:
    found: dict[str, Any] = {
        _ANSWER: draw(_json(st.sampled_from([_or_odd(_ANSWERS)] * 12 + [_COUNTED]).flatmap(lambda one: one))),
        _TYPE: draw(st.sampled_from(["application/json"] * 8 + ["text/plain", ""])),
        "gen_ai.output.messages": draw(_json(_or_odd(st.sampled_from([1, 1, 1, 2, 0]).map(lambda n: [{}] * n)))),
        "tests.count": draw(st.sampled_from([1, "1", 1, 2, 0, "one"])),
        "tests.before": draw(st.sampled_from([0, 0, "", "0", 2])),
    }
    rare = {
        _ASKED: _json(_or_odd(_REQUESTS)),
        _RAW: _json(_or_odd(_USAGE)),
        "tests.live": st.booleans(),
        "openai.request.service_tier": _WORDS,
    }
    return found | {name: draw(value) for name, value in rare.items() if draw(st.booleans())}


TOLD_IN_JSON = _told()
