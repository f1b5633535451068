"""What of a request may be kept as it came: what is needed to charge it, and nothing of prompts and answers.

The chain keeps only what it reads (the filter of `credit_quarantine_mv`, which a test compares with the names here). A request
that cannot be inserted does not pass the chain, so it is stripped here before it goes into the quarantine.
"""

import json
import re
from collections.abc import Sequence
from typing import Any, Final

from otel_credits_aggregator.otlp import Signal, parse

__all__ = ["KEPT", "KEPT_ENDINGS", "KEPT_PREFIXES", "for_rules", "stripped"]

KEPT_PREFIXES = ("credits.", "user.", "enduser.", "gen_ai.usage.", "llm.token_count.", "llm.usage.", "anthropic.usage.")
KEPT = frozenset(
    {
        *(
            "gen_ai.operation.name",
            "gen_ai.provider.name",
            "gen_ai.system",
            "gen_ai.request.model",
            "gen_ai.request.stream",
        ),
        "service.instance.id",
        *("gen_ai.response.id", "gen_ai.response.model", "gen_ai.response.finish_reasons"),
        *("anthropic.message.stop_reason", "openinference.span.kind", "llm.model_name", "llm.system", "llm.provider"),
        *("llm.request.type", "error.type"),
    }
)
# What a row of credit_conventions may name, also of an emitter that has none yet, and how its name ends.
KEPT_ENDINGS: Final = (
    *("model", "model_name", "response_id", "response.id", "finish_reason", "finish_reasons", "stop_reason"),
    *("service_tier", "is_streaming", "stream"),
)
_ENDINGS: Final = tuple(sign + ending for ending in KEPT_ENDINGS for sign in "._")
_ONE_WORD: Final = re.compile(r"[!-~]{1,128}")
_COUNT: Final = re.compile(r"[0-9]{1,20}")
_KEPT_OF_RESOURCES = frozenset({"service.name"})
# Of what a rule may match: how long a text may be, and names of prompts and answers, which are not kept as text.
_RULE_TEXT_BYTES_MAX: Final = 256
_SAID: Final = re.compile(
    r"prompt|completion|message|content|instruction|(^|[._])(input|output|text|body|arguments?|documents?|answer|question)([._]|$)"
)
# The JSON of an answer as OpenInference reports it; it may be the only place of the provider's response id and of more.
_ANSWER: Final = "output.value"
# The answers that OpenLLMetry's LangChain reports, of which the chain reads how many there are.
_ANSWERS: Final = "gen_ai.output.messages"


def stripped(signal: Signal, payload: bytes, wanted: Sequence[str]) -> bytes:
    """The request without what is not needed to charge it.

    Args:
        signal: what it carries.
        payload: its bytes, which were accepted.
        wanted: attributes that the settings name: those that may name who pays, and those that are to be kept.

    Raises:
        BadRequest: they are no such request.
    """
    request: Any = parse(signal, payload)
    request.DiscardUnknownFields()
    kept = KEPT | set(wanted)
    for resource in request.resource_spans if signal is Signal.TRACES else request.resource_metrics:
        _keep(resource.resource.attributes, _KEPT_OF_RESOURCES, ())
        for scope in resource.scope_spans if signal is Signal.TRACES else resource.scope_metrics:
            del scope.scope.attributes[:]
            if signal is Signal.TRACES:
                _strip_spans(scope.spans, kept)
            else:
                _strip_metrics(scope.metrics, kept)
    stripped_request: bytes = request.SerializeToString()
    return stripped_request


def for_rules(payload: bytes) -> bytes:
    """A trace request with what a billing rule may match or count: no long texts, and none of what is called prompt or answer.

    Numbers and flags stay, whatever they are called. Raises BadRequest if the bytes are no such request.
    """
    request: Any = parse(Signal.TRACES, payload)
    request.DiscardUnknownFields()
    for resource in request.resource_spans:
        _keep_matched(resource.resource.attributes)
        for scope in resource.scope_spans:
            del scope.scope.attributes[:]
            for span in scope.spans:
                _keep_matched(span.attributes)
                _clear_notes(span)
    kept: bytes = request.SerializeToString()
    return kept


def _keep_matched(attributes: Any) -> None:
    wanted = [one for one in attributes if _may_be_matched(one)]
    del attributes[:]
    attributes.extend(wanted)


def _may_be_matched(one: Any) -> bool:
    kind = one.value.WhichOneof("value")
    if kind in ("bool_value", "int_value", "double_value"):
        return True
    if kind not in ("string_value", "array_value"):
        return False
    return one.value.ByteSize() <= _RULE_TEXT_BYTES_MAX and not _SAID.search(one.key.decode(errors="replace").lower())


def _clear_notes(span: Any) -> None:
    span.ClearField("events")
    span.ClearField("links")
    span.ClearField("trace_state")
    span.status.ClearField("message")


def _strip_spans(spans: Any, kept: frozenset[str]) -> None:
    for span in spans:
        for one in span.attributes:
            if one.key == _ANSWER.encode():
                one.value.string_value = _told_alone(one.value.string_value)
            elif one.key == _ANSWERS.encode():
                one.value.string_value = _how_many(one.value.string_value)
        _keep(span.attributes, kept | {_ANSWER, _ANSWERS}, KEPT_PREFIXES)
        _clear_notes(span)


def _told_alone(answer: bytes) -> bytes:
    """The JSON of an answer with nothing but what the chain reads there, in the places where it looks for it: the provider's
    response id, the service tier and what else sets a price, how long cache writes live, that there were further calls, and
    that it is a count of tokens only."""
    try:
        read = json.loads(answer)
        if {"id", "usage", "model"} <= read.keys():
            alone = _words(read, "id", "service_tier") | {"model": "", "usage": _of_usage(read["usage"] or {})}
        elif "usage_metadata" in read:
            history: list[Any] = [{}] if read.get("automatic_function_calling_history") else []
            alone = _words(read, "response_id") | {"usage_metadata": {}, "automatic_function_calling_history": history}
        elif "input_tokens" in read:
            alone = {"input_tokens": 0}
        else:
            said = read["llm_output"]
            alone = {"llm_output": _words(said, "id", "service_tier"), **_of_generation(read)}
            alone["llm_output"]["usage"] = _of_usage(said.get("usage") or {})
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        return b""
    return json.dumps(alone).encode()


def _of_usage(usage: Any) -> dict[str, Any]:
    iterations = usage.get("iterations")
    kinds = [_words(one, "type") for one in iterations] if isinstance(iterations, list) else []
    kept: dict[str, Any] = {"cache_creation": _hour_writes(usage.get("cache_creation")), "iterations": kinds}
    total = usage.get("total_tokens")
    kept |= {"total_tokens": total} if isinstance(total, int) else {}
    return _words(usage, "service_tier", "speed", "inference_geo") | kept


def _how_many(answers: bytes) -> bytes:
    """A JSON list of as many empty objects as there are answers."""
    try:
        read = json.loads(answers)
    except (ValueError, RecursionError):
        return b""
    return json.dumps([{}] * len(read)).encode() if isinstance(read, list) else b""


def _of_generation(read: Any) -> dict[str, Any]:
    try:
        details = read["generations"][0][0]["message"]["kwargs"]["usage_metadata"]["input_token_details"]
    except (KeyError, TypeError, IndexError):
        return {}
    return {
        "generations": [[{"message": {"kwargs": {"usage_metadata": {"input_token_details": _hour_writes(details)}}}}]]
    }


def _hour_writes(counts: Any) -> dict[str, int]:
    count = counts.get("ephemeral_1h_input_tokens") if isinstance(counts, dict) else None
    return {"ephemeral_1h_input_tokens": count} if isinstance(count, int) else {}


def _words(read: Any, *names: str) -> dict[str, Any]:
    return {name: _word(read.get(name)) for name in names}


def _word(value: object) -> str:
    return value if isinstance(value, str) and _ONE_WORD.fullmatch(value) else ""


def _strip_metrics(metrics: Any, kept: frozenset[str]) -> None:
    for metric in metrics:
        metric.ClearField("description")
        metric.ClearField("metadata")
        form = metric.WhichOneof("data")
        for point in getattr(metric, form).data_points if form else ():
            _keep(point.attributes, kept, KEPT_PREFIXES)
            if form != "summary":
                point.ClearField("exemplars")


def _keep(attributes: Any, kept: frozenset[str], prefixes: tuple[str, ...]) -> None:
    wanted = [one for one in attributes if _is_kept(one, kept, prefixes)]
    del attributes[:]
    attributes.extend(wanted)


def _is_kept(one: Any, kept: frozenset[str], prefixes: tuple[str, ...]) -> bool:
    name = one.key.decode(errors="replace")
    if name in kept or name.startswith(prefixes):
        return True
    kind = one.value.WhichOneof("value")
    text = one.value.string_value.decode(errors="replace") if kind == "string_value" else ""
    if "oken" in name and (kind == "int_value" or _COUNT.fullmatch(text)):
        return True
    return name.endswith(_ENDINGS) and (kind in ("bool_value", "int_value") or _ONE_WORD.fullmatch(text) is not None)
