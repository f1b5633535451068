"""hypothesis strategies for what a span or data point says: the attributes that apps, SDKs and their faults give it.

They come from small pools of users, actions, models and keys, so that copies and conflicts are frequent.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from support import otlp_build as names
from support.otlp_random_json import TOLD_IN_JSON

__all__ = ["ACTIONS", "ATTRIBUTES", "UNIT_NAMES", "one_in", "who_and_what"]

USERS = ["alice", "bob", "carol", "dave", "u'\"\\\0ß"] * 3 + ["", None]
ACTIONS = ["chat", "report", "sync"]
MODELS = ["claude-x", "claude-x-20250929", "claude-x@20250929", "gpt-y-2025-08-07", None]
UNIT_NAMES = ["call", "second", "image", "input_token", "output_token", "cache_read_token", "reasoning_token"]
KEYS = [None] * 6 + ["key-1", "key-2", "key-3"]
RESPONSES = [None] * 3 + ["msg_01_the_first_one", "msg_02_the_second_one", "1"]
WRONG_NUMBERS = [
    "-1",
    -3,
    "abc",
    True,
    "1e16",
    "0.0000000000001",
    1e300,
    float("nan"),
    "9" * 50,
    [1, 2],
    -0.5,
    "1,5",
    2**62,
]


def _plain(number: int) -> str:
    return f"{Decimal(number).scaleb(-12):f}"


# Numbers that can be charged, as text with up to 12 decimals, as double, as int.
QUANTITIES = st.one_of(
    st.integers(0, 10**15).map(_plain),
    st.integers(0, 10**6).map(str),
    st.floats(0, 1e6, allow_nan=False).map(abs),
    st.integers(0, 10**6),
    st.sampled_from(["0", 0, 0.0, "1e3", "1.5E-3", "+2", "0.5", 2.5e-12, 3.5e-12, 5e-13, "1000000000000000", 0.1]),
)


def one_in(draw: st.DrawFn, number: int) -> bool:
    """True in one of so many draws."""
    # hypothesis likes the ends of a range of integers, so a rare thing is drawn from a list.
    return draw(st.sampled_from([False] * (number - 1) + [True]))


@st.composite
def _tokens(draw: st.DrawFn) -> dict[str, Any]:
    cached, written = draw(st.sampled_from([0, 0, 3, 1000])), draw(st.sampled_from([0, 0, 7]))
    write_name = draw(st.sampled_from([names.CACHE_WRITE, names.CACHE_CREATION]))
    # One in eight is inconsistent for a scope that includes cached tokens.
    total = draw(st.integers(0, 10**6)) + (0 if one_in(draw, 8) else cached + written)
    found: dict[str, Any] = {names.INPUT: total, names.OUTPUT: draw(st.integers(0, 10**5))}
    if cached or draw(st.booleans()):
        found |= {names.CACHE_READ: cached, write_name: written}
    if draw(st.booleans()):
        found[names.REASONING] = draw(st.integers(0, 100))
    if one_in(draw, 6):
        found = {name: str(value) for name, value in found.items()}
    if one_in(draw, 6):
        del found[draw(st.sampled_from(sorted(found)))]
    return found


# The few counts that many spans have, so that two often seem to tell of one call.
_SAME_COUNTS = {names.INPUT: 1100, names.OUTPUT: 7}


@st.composite
def _tokens_of_some_emitter(draw: st.DrawFn) -> dict[str, Any]:
    """Token counts under one set of names or another, often the same ones."""
    kind = draw(st.sampled_from(["same"] * 4 + ["official"] * 2 + ["other", "both"]))
    if kind == "same":
        return _SAME_COUNTS | draw(st.sampled_from([{}, {}, {names.CACHE_READ: 100}]))
    official = draw(_tokens())
    other = {"llm.token_count.prompt": draw(st.sampled_from([3, 1100])), "llm.token_count.completion": 7}
    for name in ("read", "write", "reasoning", "audio_in", "audio_out"):
        if one_in(draw, 3):
            other[f"llm.token_count.{name}"] = draw(st.integers(0, 8))
    if kind == "official":
        hours = {"tests.cache_write_1h": draw(st.sampled_from([0, 5, 9]))} if one_in(draw, 3) else {}
        return official | hours
    return other if kind == "other" else official | other


_UNITS = st.dictionaries(st.sampled_from(UNIT_NAMES).map(names.UNITS.__add__), QUANTITIES, max_size=3)
_AMOUNT = QUANTITIES.map(lambda value: {names.AMOUNT: value})


@st.composite
def who_and_what(draw: st.DrawFn) -> dict[str, Any]:
    """Payer, model, key, response id and texts; None is left out."""
    payer = draw(st.sampled_from([names.USER, names.USER, names.CREDITS_USER, names.END_USER, "tenant"]))
    found = {
        payer: draw(st.sampled_from(USERS)),
        draw(st.sampled_from([names.RESPONSE_MODEL, names.REQUEST_MODEL])): draw(st.sampled_from(MODELS)),
        names.KEY: draw(st.sampled_from(KEYS)),
        names.RESPONSE_ID: draw(st.sampled_from(RESPONSES)),
    }
    if one_in(draw, 4):
        found |= {
            names.USER: "carol",
            names.DESCRIPTION: draw(st.text(max_size=5)),
            names.RESOURCE_ID: "r-1",
            names.RESOURCE_TYPE: "t",
        }
        found |= {names.METADATA + "n": draw(st.sampled_from([1, "two", True, ["a"], {"k": 1}, b"b", "", 0.5]))}
    return {name: value for name, value in found.items() if value is not None}


@st.composite
def _explicit(draw: st.DrawFn) -> dict[str, Any]:
    both = st.tuples(_AMOUNT, _tokens()).map(lambda two: two[0] | two[1])
    kinds = [_AMOUNT, _UNITS, _UNITS, _tokens(), _tokens(), st.just({}), st.just({}), both]
    quantities = draw(draw(st.sampled_from(kinds)))
    if one_in(draw, 6):
        quantities = dict(_SAME_COUNTS)
    found = draw(who_and_what()) | {names.ACTION: draw(st.sampled_from(ACTIONS))} | quantities
    if quantities and one_in(draw, 10):
        found[draw(st.sampled_from(sorted(quantities)))] = draw(st.sampled_from(WRONG_NUMBERS))
    elif one_in(draw, 20):
        found |= draw(st.sampled_from([{names.ACTION: ""}, {names.USER: "x" * 513}, {names.USAGE_UNKNOWN: True}]))
    if one_in(draw, 8):
        found[names.ESTIMATED] = draw(st.sampled_from([True, True, "no"]))
    return found


@st.composite
def _automatic(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(
        st.sampled_from(
            [(names.OPERATION, "chat")] * 4
            + [(names.OPERATION, "embeddings"), (names.OPERATION, "execute_tool"), (names.OPENINFERENCE_KIND, "LLM")]
            + [("tests.unmarked", "yes")] * 2
            + [
                (names.OPENINFERENCE_KIND, "AGENT"),
                (names.LLM_REQUEST_TYPE, "completion"),
                (names.LLM_REQUEST_TYPE, "rerank"),
            ]
        )
    )
    finished = [{names.FINISH_REASONS: ["stop"]}] * 4 + [{names.FINISH_REASONS: ["stop", "stop"]}]
    finish = draw(st.sampled_from([*finished, {names.STOP_REASON: "end_turn"}, {}]))
    provider = draw(st.sampled_from([{}, {}, {names.PROVIDER: "Acme"}, {names.PROVIDER: "anthropic"}]))
    rare = draw(st.sampled_from([{}] * 4 + [{"tests.tier": "default"}, {"tests.tier": "flex"}, {"tests.stream": True}]))
    told = draw(TOLD_IN_JSON) if one_in(draw, 2) else {}
    return draw(who_and_what()) | draw(_tokens_of_some_emitter()) | dict([kind]) | finish | provider | rare | told


_NOISE = st.sampled_from(
    [{}, {"http.route": "/"}, {names.USER: "alice"}, {names.AMOUNT: "1"}, {names.INPUT: 5}, {names.KEY: "key-1"}]
)


@st.composite
def _for_rules(draw: st.DrawFn) -> dict[str, Any]:
    """What a span has that says nothing of a usage, for billing rules to ask."""
    rows = draw(st.sampled_from([5, 5, 0, 0.25, "7.5", "many", -1, [1, 2], None]))
    found = draw(who_and_what()) | {"http.route": draw(st.sampled_from(["/", "/films"]))}
    return found | ({"rows": rows} if rows is not None else {})


ATTRIBUTES = st.sampled_from(
    [_explicit(), _explicit(), _explicit(), _explicit(), _automatic(), _automatic(), _for_rules(), _for_rules(), _NOISE]
).flatmap(lambda one: one)
