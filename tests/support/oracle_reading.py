"""The oracle's eyes: from the objects of an OTLP request to what each span or data point says, with Decimal.

Who pays, and what is a copy of what: docs/semantic-conventions.md. What is wrong with it, and its quantities, are in
`oracle_quantities.py`; what is made of it (prices, copies, events) is in `oracle.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from support import otlp_build as names
from support.oracle_calls import STANDARD, Convention

__all__ = ["EPOCH", "TOKENS_MAX", "Usage", "candidates"]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TOKENS_MAX = Decimal(10) ** 12
_ID_BYTES_MIN = 16
_DEFAULT_PAYERS = (names.CREDITS_USER, names.USER, names.END_USER)
_INFERENCE = {
    names.OPERATION: {"chat", "text_completion", "generate_content", "embeddings"},
    names.OPENINFERENCE_KIND: {"LLM", "EMBEDDING"},
    names.LLM_REQUEST_TYPE: {"chat", "completion", "embedding"},
}
_PROVIDER = ("gen_ai.provider.name", "gen_ai.system", "llm.provider", "llm.system")


@dataclass
class Usage:
    """A span or data point that may be usage, as read; and, later, why it cannot be charged (`reason`), if so."""

    signal: str
    attributes: dict[str, str]
    doubles: frozenset[str]
    service: str
    scope: str
    end_ns: int
    defect: str
    received_us: int
    settings: Any
    trace_id: bytes = b""
    span_id: bytes = b""
    parent_id: bytes = b""
    scope_version: str = ""
    # What billing rules ask for.
    name: str = ""
    kind: int = 0
    status: int = 0
    start_ns: int = 0
    # The rule that made it a usage, and what the span had before.
    rule_id: str = ""
    original: dict[str, str] | None = None
    model_before: str | None = None
    # Whether it tells of the last of several calls only.
    last_call_only: bool = False
    # Whether another span knows more of the call.
    overruled: bool = False
    # What is known of its emitter; None if nothing is.
    convention: Convention | None = None
    series: Any = None
    reason: str = ""
    units: dict[str, Decimal] = field(default_factory=dict)
    amount: Decimal | None = None
    tokens_in: int = 0
    tokens_out: int = 0
    prices: dict[str, Decimal] = field(default_factory=dict)
    charge: Decimal = Decimal(0)

    def text(self, *keys: str) -> str:
        """The first of these attributes that is not empty."""
        return next((self.attributes[key] for key in keys if self.attributes.get(key)), "")

    def sent(self, key: str) -> str:
        """An attribute of the span as it was before a billing rule made a usage of it."""
        return (self.attributes if self.original is None else self.original).get(key, "")

    @property
    def explicit(self) -> bool:
        """Whether the app itself says that this is usage."""
        return names.ACTION in self.attributes

    @property
    def executes_tool(self) -> bool:
        """Whether it is the execution of a tool, whatever a billing rule makes of it."""
        return bool(self.settings.charge_genai and self.sent(names.OPERATION) == "execute_tool")

    @property
    def may_be_call(self) -> bool:
        """Whether something on it looks like an LLM call, so that what is told within JSON is looked for."""
        marked = any(name in self.attributes for name in _INFERENCE)
        return bool(self.settings.charge_genai and (marked or any("oken" in name for name in self.attributes)))

    @property
    def meaning(self) -> Convention:
        """How it is read."""
        return self.convention or STANDARD

    @property
    def provider(self) -> str:
        """Whose model was called."""
        return self.text(*_PROVIDER).lower()

    @property
    def is_estimate(self) -> bool:
        """Whether its emitter says that it had to estimate."""
        return self.attributes.get(names.ESTIMATED) == "true"

    @property
    def unmarked(self) -> bool:
        """Whether it says neither that it is an LLM call nor that it is anything else of the kind."""
        return not any(self.attributes.get(name) for name in _INFERENCE)

    @property
    def automatic(self) -> bool:
        """Whether it is charged because it is an LLM inference."""
        inference = any(self.attributes.get(name) in values for name, values in _INFERENCE.items())
        counts = self.convention and self.text(self.convention.input_attribute)
        return (
            not self.explicit
            and self.settings.charge_genai
            and not self.text(self.meaning.count_attribute)
            and bool(inference or (self.unmarked and counts))
        )

    @property
    def bare(self) -> bool:
        """Whether it has token counts, and nobody knows what they are."""
        counts = [text for name, text in self.attributes.items() if "token" in name and text.isdecimal()]
        counted = self.text(self.meaning.count_attribute)
        nothing_else = not self.explicit and not self.automatic and self.unmarked and not counted
        return nothing_else and bool(counts) and self.settings.charge_genai

    @property
    def is_call(self) -> bool:
        """Whether other spans may tell of it too."""
        tells = self.automatic or self.bare or (self.explicit and self.text(*self.meaning.token_attributes["input"]))
        return bool(self.settings.charge_genai and self.signal == "span" and tells)

    @property
    def tokens(self) -> dict[str, int]:
        """How many of each class; what is no number is none."""
        texts = {kind: self.text(*keys) for kind, keys in self.meaning.token_attributes.items()}
        read = {kind: int(text) if text.isascii() and text.isdecimal() else 0 for kind, text in texts.items()}
        return {kind: min(n if n < 2**64 else 0, int(TOKENS_MAX)) for kind, n in read.items()}

    @property
    def counts(self) -> tuple[int, int]:
        """Input tokens, with cached ones, and output tokens."""
        tokens = self.tokens
        apart = 0 if self.meaning.input_includes_cache else tokens["cache_read"] + tokens["cache_write"]
        return tokens["input"] + apart, tokens["output"]

    @property
    def counts_without_cache(self) -> tuple[int, int]:
        """The same without cached ones."""
        tokens = self.tokens
        return max(self.counts[0] - tokens["cache_read"] - tokens["cache_write"], 0), tokens["output"]

    @property
    def response_id(self) -> str:
        """The provider's id of the answer; a text that is shorter than any provider's id is none."""
        text = self.text(self.meaning.response_id_attribute)
        return text if len(text.encode()) >= _ID_BYTES_MIN else ""

    @property
    def user(self) -> str:
        """Who pays."""
        return self.text(*(self.settings.user_attributes or _DEFAULT_PAYERS)) or str(self.settings.default_user)

    @property
    def action(self) -> str:
        """What was done."""
        return self.attributes[names.ACTION] if self.explicit else "ai_call"

    @property
    def model(self) -> str:
        """The model that answered, else the one asked for."""
        if self.model_before is not None:
            return self.model_before
        return self.text(self.meaning.model_attribute, self.meaning.request_model_attribute)

    @property
    def identity(self) -> tuple[Any, ...]:
        """What a copy has in common with it; the first element names the kind."""
        if self.text(names.KEY):
            return ("key", self.text(names.KEY))
        if self.settings.charge_genai and self.response_id:
            return ("response", self.response_id)
        return ("point", self.series) if self.signal == "point" else ("span", self.trace_id, self.span_id)

    @property
    def fingerprint(self) -> tuple[Any, ...]:
        """What may not differ between usages of one idempotency key."""
        return (self.user, self.action, self.amount, tuple(sorted(self.units.items())))

    @property
    def created_at(self) -> datetime:
        """Its end, in whole microseconds."""
        return EPOCH + timedelta(microseconds=self.end_ns // 1000)


def candidates(request: Any, received_us: int, settings: Any) -> Iterator[Usage | str]:
    """Each span or point of a request: as a usage, or only its signal if it cannot be one."""
    if isinstance(request, ExportTraceServiceRequest):
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    yield _span(resource, scope, span, received_us, settings)
    else:
        for resource in request.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    for point in getattr(metric, metric.WhichOneof("data")).data_points:
                        yield _point(resource, scope, metric, point, received_us, settings)


def _span(resource: Any, scope: Any, span: Any, received_us: int, settings: Any) -> Usage:
    attributes, doubles, defect = _texts(span.attributes)
    return Usage(
        signal="span",
        attributes=attributes,
        doubles=doubles,
        service=_service(resource),
        scope=scope.scope.name,
        end_ns=span.end_time_unix_nano,
        defect=defect,
        received_us=received_us,
        settings=settings,
        trace_id=span.trace_id,
        span_id=span.span_id,
        parent_id=span.parent_span_id,
        scope_version=scope.scope.version,
        name=span.name,
        kind=span.kind,
        status=span.status.code,
        start_ns=span.start_time_unix_nano,
    )


def _point(resource: Any, scope: Any, metric: Any, point: Any, received_us: int, settings: Any) -> Usage | str:
    if metric.name != names.USAGE_METRIC or point.flags & names.NO_RECORDED_VALUE:
        return "point"
    attributes, _, twice = _texts(point.attributes)
    kind = metric.WhichOneof("data")
    value = point.WhichOneof("value") if kind in ("sum", "gauge") else None
    unit = names.UNITS + (attributes.get(names.UNIT) or "call")
    times = (point.start_time_unix_nano, point.time_unix_nano)
    return Usage(
        signal="point",
        attributes={names.ACTION: "", **attributes, **({unit: _number_text(point, value)} if value else {})},
        doubles=frozenset([unit] if value == "as_double" else []),
        service=_service(resource),
        scope=scope.scope.name,
        # Of points of other kinds nothing is read, not even the time.
        end_ns=point.time_unix_nano if kind in ("sum", "gauge") else 0,
        defect=_metric_defect(metric, kind, value) or twice,
        received_us=received_us,
        settings=settings,
        scope_version=scope.scope.version,
        series=(
            _frozen(resource.resource.attributes),
            (scope.scope.name, scope.scope.version),
            _frozen(point.attributes),
            times,
        ),
    )


def _metric_defect(metric: Any, kind: str, value: str | None) -> str:
    if kind != "sum" or not metric.sum.is_monotonic:
        return "metric_is_not_a_monotonic_sum"
    if metric.sum.aggregation_temporality == names.CUMULATIVE:
        return "metric_is_cumulative_use_cumulativetodelta"
    if metric.sum.aggregation_temporality != names.DELTA:
        return "metric_has_no_temporality"
    return "" if value else "not_a_number"


def _number_text(point: Any, value: str) -> str:
    return str(point.as_int) if value == "as_int" else _double_text(point.as_double)


def _frozen(attributes: Iterable[KeyValue]) -> tuple[Any, ...]:
    return tuple(sorted((one.key, one.value.SerializeToString(deterministic=True)) for one in attributes))


def _service(resource: Any) -> str:
    return next((one.value.string_value for one in resource.resource.attributes if one.key == names.SERVICE), "")


def _texts(attributes: Iterable[KeyValue]) -> tuple[dict[str, str], frozenset[str], str]:
    """Attributes as text, the keys of those sent as double, and whether a key is there twice."""
    listed = list(attributes)
    texts = {one.key: _text(one.value) for one in listed}
    # Of finish reasons it matters that there are some.
    reasons = next((one.value.array_value.values for one in listed if one.key == names.FINISH_REASONS), ())
    texts |= {names.FINISH_REASONS: "several"} if len(reasons) > 1 else {}
    doubles = frozenset(one.key for one in listed if one.value.WhichOneof("value") == "double_value")
    return texts, doubles, "" if len(texts) == len(listed) else "duplicate_attribute"


def _text(value: AnyValue) -> str:
    match value.WhichOneof("value"):
        case "string_value":
            return value.string_value
        case "bool_value":
            return "true" if value.bool_value else "false"
        case "int_value":
            return str(value.int_value)
        case "double_value":
            return _double_text(value.double_value)
        case "array_value" if len(value.array_value.values) == 1:
            return value.array_value.values[0].string_value
    return ""


def _double_text(number: float) -> str:
    """The shortest decimal form."""
    exact = Decimal(repr(number))
    if not exact.is_finite():
        return str(number)
    plain = 1e-7 < abs(number) < 1e21 or number == 0
    return f"{exact.normalize():f}" if plain else f"{exact.normalize():e}".replace("e+", "e")
