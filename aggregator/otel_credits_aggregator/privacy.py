"""What of a request may be kept as it came: what is needed to charge it, and nothing of prompts and answers.

The chain keeps only what it reads (the filter of `credit_quarantine_mv`, which a test compares with the names here). A request
that cannot be inserted does not pass the chain, so it is stripped here before it goes into the quarantine.
"""

from collections.abc import Sequence
from typing import Any

from otel_credits_aggregator.otlp import Signal, parse

__all__ = ["KEPT", "KEPT_PREFIXES", "stripped"]

KEPT_PREFIXES = ("credits.", "user.", "enduser.", "gen_ai.usage.", "llm.token_count.", "llm.usage.")
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
_KEPT_OF_RESOURCES = frozenset({"service.name"})


def stripped(signal: Signal, payload: bytes, user_attributes: Sequence[str]) -> bytes:
    """The request without what is not needed to charge it.

    Args:
        signal: what it carries.
        payload: its bytes, which were accepted.
        user_attributes: the attributes that may name who pays.

    Raises:
        BadRequest: they are no such request.
    """
    request: Any = parse(signal, payload)
    request.DiscardUnknownFields()
    kept = KEPT | set(user_attributes)
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


def _strip_spans(spans: Any, kept: frozenset[str]) -> None:
    for span in spans:
        _keep(span.attributes, kept, KEPT_PREFIXES)
        span.ClearField("events")
        span.ClearField("links")
        span.ClearField("trace_state")
        span.status.ClearField("message")


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
    wanted = [
        one for one in attributes if (name := one.key.decode(errors="replace")) in kept or name.startswith(prefixes)
    ]
    del attributes[:]
    attributes.extend(wanted)
