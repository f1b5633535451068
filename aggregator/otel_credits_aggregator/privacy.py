"""What of a request may be kept as it came: what is needed to charge it, and nothing of prompts and answers.

The chain keeps only what it reads (the filter of `credit_quarantine_mv`, which a test compares with the names here). A request
that cannot be inserted does not pass the chain, so it is stripped here before it goes into the quarantine.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from otel_credits_aggregator.json_places import is_place, told_at
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
    *("service_tier", "api.type", "is_streaming", "stream"),
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


def stripped(signal: Signal, payload: bytes, wanted: Sequence[str], named: Mapping[str, Sequence[str]]) -> bytes:
    """The request without what is not needed to charge it.

    Args:
        signal: what it carries.
        payload: its bytes, which were accepted.
        wanted: attributes that the settings name: those that may name who pays, and those that are to be kept.
        named: by scope, the attributes that its conventions name, and the places within their JSON; of these, what is said in one
            word is kept.

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
                _strip_spans(scope.spans, kept, named.get(scope.scope.name.decode(errors="replace"), ()))
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


def _strip_spans(spans: Any, kept: frozenset[str], named: Sequence[str]) -> None:
    for span in spans:
        told = _told_within(span.attributes, named)
        _keep(span.attributes, kept, KEPT_PREFIXES, frozenset(named))
        for name, text in told.items():
            span.attributes.add(key=name.encode()).value.string_value = text.encode()
        _clear_notes(span)


def _told_within(attributes: Any, named: Iterable[str]) -> dict[str, str]:
    """What is said in one word at the places within JSON that have these names."""
    sent = {one.key.decode(errors="replace"): one.value.string_value for one in attributes}
    found = {name: told_at(name, sent) for name in named if is_place(name) and name not in sent}
    return {name: text for name, text in found.items() if _ONE_WORD.fullmatch(text)}


def _strip_metrics(metrics: Any, kept: frozenset[str]) -> None:
    for metric in metrics:
        metric.ClearField("description")
        metric.ClearField("metadata")
        form = metric.WhichOneof("data")
        for point in getattr(metric, form).data_points if form else ():
            _keep(point.attributes, kept, KEPT_PREFIXES)
            if form != "summary":
                point.ClearField("exemplars")


def _keep(
    attributes: Any, kept: frozenset[str], prefixes: tuple[str, ...], words: frozenset[str] = frozenset()
) -> None:
    wanted = [one for one in attributes if _is_kept(one, kept, prefixes, words)]
    del attributes[:]
    attributes.extend(wanted)


def _is_kept(one: Any, kept: frozenset[str], prefixes: tuple[str, ...], words: frozenset[str]) -> bool:
    name = one.key.decode(errors="replace")
    if name in kept or name.startswith(prefixes):
        return True
    if name in words and _is_one_word(one.value):
        return True
    kind = one.value.WhichOneof("value")
    text = one.value.string_value.decode(errors="replace") if kind == "string_value" else ""
    if "oken" in name and (kind == "int_value" or _COUNT.fullmatch(text)):
        return True
    return name.endswith(_ENDINGS) and (kind in ("bool_value", "int_value") or _ONE_WORD.fullmatch(text) is not None)


def _is_one_word(value: Any) -> bool:
    kind = value.WhichOneof("value")
    if kind == "string_value":
        return _ONE_WORD.fullmatch(value.string_value.decode(errors="replace")) is not None
    if kind == "array_value":
        return all(one.WhichOneof("value") != "array_value" and _is_one_word(one) for one in value.array_value.values)
    return kind in ("bool_value", "int_value", "double_value")
