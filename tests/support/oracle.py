"""What the ledger should be, computed a second time: plain Python on the OTLP objects, with Decimal.

Written from DESIGN sections 5, 6 and 8 and docs/semantic-conventions.md, not from the SQL, and as directly as possible: one
usage at a time, no bytes, no blocks, no hashes. Slow and simple, so that it can be believed.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from support import otlp_build as names

__all__ = ["Event", "Oracle", "Price", "Quarantined"]

EXACT = Context(prec=100, rounding=ROUND_HALF_EVEN)
TWELVE_PLACES = Decimal("1e-12")
NUMBER = re.compile(r"[+-]?[0-9]+([.][0-9]*)?([eE][+-]?[0-9]+)?")
SNAPSHOT = re.compile(r"[-@](20[0-9]{6}|20[0-9]{2}-[0-9]{2}-[0-9]{2})$")
AMOUNT_MAX = Decimal(10) ** 15
TOKENS_MAX = Decimal(10) ** 12
CHARGE_MAX = Decimal(10) ** 18
NUMBER_CHARACTERS_MAX = 40
NAME_BYTES_MAX = 512
EARLIEST_US = 946_684_800_000_000
AHEAD_MAX_US = 31 * 86_400 * 10**6
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DEFAULT_PAYERS = (names.CREDITS_USER, names.USER, names.END_USER)
INFERENCE = {
    names.OPERATION: {"chat", "text_completion", "generate_content", "embeddings"},
    names.OPENINFERENCE_KIND: {"LLM", "EMBEDDING"},
    names.LLM_REQUEST_TYPE: {"chat", "completion"},
}


@dataclass(frozen=True)
class Price:
    """A row of the price book; times in microseconds since 1970."""

    action: str
    model: str
    unit: str
    credits: Decimal
    effective_us: int
    created_us: int


@dataclass(frozen=True)
class Event:
    """An event, as far as others rely on its columns; maps as sorted pairs, so that events can be compared and counted."""

    user_id: str
    action_type: str
    model: str
    input_tokens: int
    output_tokens: int
    credits_charged: Decimal
    description: str
    resource_id: str
    resource_type: str
    metadata: tuple[tuple[str, str], ...]
    units: tuple[tuple[str, Decimal], ...]
    service_name: str
    trace_id: str
    span_id: str
    created_at: datetime
    identity: str
    prices: tuple[tuple[str, Decimal], ...]

    @property
    def month(self) -> date:
        """The first day of the month that it counts for."""
        return self.created_at.date().replace(day=1)


@dataclass(frozen=True)
class Quarantined:
    """A quarantined span or point, as far as it can be known without hashes."""

    reason: str
    user_id: str
    action_type: str
    model: str
    trace_id: bytes
    span_id: bytes
    end_ns: int


@dataclass
class _Usage:
    """A candidate as read: what it says, and why it cannot be charged (`reason`), if so."""

    signal: str
    attributes: dict[str, str]
    doubles: frozenset[str]
    service: str
    scope: str
    trace_id: bytes
    span_id: bytes
    end_ns: int
    series: Any
    defect: str
    explicit: bool
    received_us: int
    settings: Any
    reason: str = ""
    user: str = ""
    units: dict[str, Decimal] = field(default_factory=dict)
    amount: Decimal | None = None
    tokens_in: int = 0
    tokens_out: int = 0
    prices: dict[str, Decimal] = field(default_factory=dict)
    charge: Decimal = Decimal(0)

    def text(self, *keys: str) -> str:
        """The first of these attributes that is not empty."""
        return next((self.attributes[key] for key in keys if self.attributes.get(key)), "")

    @property
    def action(self) -> str:
        return self.attributes[names.ACTION] if self.explicit else "ai_call"

    @property
    def model(self) -> str:
        return self.text(names.RESPONSE_MODEL, names.REQUEST_MODEL)

    @property
    def identity(self) -> tuple[Any, ...]:
        if self.text(names.KEY):
            return ("key", self.text(names.KEY))
        if self.settings.charge_genai and self.text(names.RESPONSE_ID):
            return ("response", self.text(names.RESPONSE_ID))
        if self.signal == "point":
            return ("point", self.series)
        return ("span", self.trace_id, self.span_id)

    @property
    def fingerprint(self) -> tuple[Any, ...]:
        return (self.user, self.action, self.amount, tuple(sorted(self.units.items())))


class Oracle:
    """The ledger so far. Give it every insert in order; then look at its attributes.

    Args:
        prices: the price book.
        input_includes_cache: for each known instrumentation scope, whether its input tokens include cached ones.
    """

    def __init__(self, prices: Iterable[Price], input_includes_cache: Mapping[str, bool]) -> None:
        self.events: list[Event] = []
        self.quarantined: list[Quarantined] = []
        self.outcomes: Counter[tuple[str, str, str]] = Counter()
        self._prices = list(prices)
        self._input_includes_cache = input_includes_cache
        self._charged: dict[tuple[Any, ...], _Usage] = {}

    def insert(self, requests: Iterable[tuple[Any, int]], settings: Any) -> None:
        """Takes the requests of one insert, each with its receive time in microseconds since 1970."""
        usages: list[_Usage] = []
        for request, received_us in requests:
            for candidate in _candidates(request, received_us, settings):
                if isinstance(candidate, str):
                    self.outcomes[candidate, "not_usage", ""] += 1
                else:
                    usages.append(candidate)
        # Of copies, an explicit usage is preferred to an automatic one, then the first that can be charged.
        usages.sort(key=lambda usage: not usage.explicit)
        for usage in usages:
            self._read(usage)
        self._judge(usages)

    @property
    def balances(self) -> dict[str, Decimal]:
        """What each user has consumed."""
        consumed: dict[str, Decimal] = defaultdict(Decimal)
        for event in self.events:
            consumed[event.user_id] += event.credits_charged
        return dict(consumed)

    @property
    def months(self) -> dict[tuple[str, date, str, str], tuple[int, int, int, Decimal]]:
        """By user, month, action and model: events, input tokens, output tokens, credits."""
        sums: dict[Any, Any] = defaultdict(lambda: (0, 0, 0, Decimal(0)))
        for event in self.events:
            key = (event.user_id, event.month, event.action_type, event.model)
            values = (1, event.input_tokens, event.output_tokens, event.credits_charged)
            sums[key] = tuple(old + new for old, new in zip(sums[key], values, strict=True))
        return dict(sums)

    def _read(self, usage: _Usage) -> None:
        payers = usage.settings.user_attributes or DEFAULT_PAYERS
        usage.user = usage.text(*payers) or usage.settings.default_user
        if not usage.explicit and not (_is_inference(usage) and usage.settings.charge_genai):
            usage.reason = "not_usage"
            return
        usage.reason = _fault(usage) or self._read_quantities(usage) or self._rate(usage)

    def _read_quantities(self, usage: _Usage) -> str:
        """Fills in units, amount and tokens; returns what is wrong with them."""
        wrong = _wrong_number(usage)
        if wrong:
            return wrong
        tokens = {unit: int(_number(usage.text(*keys))) for unit, keys in _TOKEN_UNITS.items() if usage.text(*keys)}
        cached = tokens.get("cache_read_token", 0) + tokens.get("cache_write_token", 0)
        includes = self._input_includes_cache.get(usage.scope, True)
        total = tokens.get("input_token", 0) + (0 if includes else cached)
        if total < cached:
            return "tokens_inconsistent"
        usage.tokens_in, usage.tokens_out = total, tokens.get("output_token", 0)
        if "input_token" in tokens:
            tokens["input_token"] = total - cached
        usage.units = {unit: Decimal(n) for unit, n in tokens.items() if n or unit in ("input_token", "output_token")}
        usage.units |= {key.removeprefix(names.UNITS): _read_number(usage, key) for key in _stated_units(usage)}
        if names.AMOUNT in usage.attributes:
            usage.amount = _read_number(usage, names.AMOUNT)
        elif not usage.units:
            usage.units = {"call": Decimal(1)}
        return self._unknown(usage)

    def _unknown(self, usage: _Usage) -> str:
        if usage.attributes.get(names.USAGE_UNKNOWN) == "true":
            return "usage_unknown"
        if usage.explicit:
            return ""
        if usage.scope not in self._input_includes_cache:
            return "unknown_convention"
        operation = usage.text(names.OPERATION)
        complete = usage.text(names.INPUT) and (usage.text(names.OUTPUT) or operation == "embeddings")
        finished = operation != "chat" or usage.text(names.FINISH_REASONS)
        return "" if complete and finished else "usage_unknown"

    def _rate(self, usage: _Usage) -> str:
        if usage.amount is not None:
            usage.charge = usage.amount
            return ""
        found = {unit: self._price(usage, unit) for unit in usage.units}
        needed = [unit for unit, quantity in usage.units.items() if quantity and unit != "reasoning_token"]
        if any(found[unit] is None for unit in needed):
            return "unpriced"
        usage.prices = {unit: price or Decimal(0) for unit, price in found.items()}
        exact = Decimal(0)
        for unit, quantity in usage.units.items():
            exact = EXACT.add(exact, EXACT.multiply(quantity, usage.prices[unit]))
        if exact > CHARGE_MAX:
            return "amount_out_of_range"
        usage.charge = exact.quantize(TWELVE_PLACES, context=EXACT)
        return ""

    def _price(self, usage: _Usage, unit: str) -> Decimal | None:
        """The price of a unit at the end of the usage, the most specific row first; None if there is none."""
        moment = usage.end_ns // 1000
        model, family = usage.model, SNAPSHOT.sub("", usage.model)
        rows = [
            row
            for row in self._prices
            if row.unit == unit and row.action in (usage.action, "*") and row.model in (model, family, "*")
        ]
        in_force = [row for row in rows if row.effective_us <= moment]
        candidates = in_force or [row for row in rows if self._is_first_and_undated(row)]
        ranks = {"*": 0, family: 1} | {model: 2}
        best = max(
            candidates,
            key=lambda row: (row.action == usage.action, ranks[row.model], row.effective_us, row.created_us),
            default=None,
        )
        return best and best.credits

    def _is_first_and_undated(self, row: Price) -> bool:
        """Whether a row was made without a date, and is the first of its action, model and unit."""
        same = [
            other
            for other in self._prices
            if (other.action, other.model, other.unit) == (row.action, row.model, row.unit)
        ]
        return row.effective_us == row.created_us == min(other.effective_us for other in same)

    def _judge(self, usages: list[_Usage]) -> None:
        before = dict(self._charged)
        for usage in usages:
            if not usage.reason and usage.identity not in self._charged:
                self._charged[usage.identity] = usage
        for usage in usages:
            outcome, reason = self._outcome(usage, before)
            self.outcomes[usage.signal, outcome, reason] += 1
            if outcome == "charged":
                self.events.append(_event(usage))
            elif outcome == "quarantined":
                self.quarantined.append(_quarantined(usage, reason))

    def _outcome(self, usage: _Usage, before: Mapping[tuple[Any, ...], _Usage]) -> tuple[str, str]:
        if usage.reason == "not_usage":
            return "not_usage", ""
        charged = self._charged.get(usage.identity)
        if charged is usage and usage.identity not in before:
            return "charged", ""
        if charged is None:
            return "quarantined", usage.reason
        if not usage.reason and usage.identity[0] == "key" and charged.fingerprint != usage.fingerprint:
            return "quarantined", "idempotency_conflict"
        return "duplicate", ""


_TOKEN_UNITS = {
    "input_token": (names.INPUT,),
    "output_token": (names.OUTPUT,),
    "cache_read_token": (names.CACHE_READ,),
    "cache_write_token": (names.CACHE_WRITE, names.CACHE_CREATION),
    "reasoning_token": (names.REASONING,),
}


def _candidates(request: Any, received_us: int, settings: Any) -> Iterator[_Usage | str]:
    """Each span or point of a request: as a usage, or only its signal if it cannot be one."""
    if isinstance(request, ExportTraceServiceRequest):
        yield from _spans(request, received_us, settings)
    else:
        yield from _points(request, received_us, settings)


def _spans(request: Any, received_us: int, settings: Any) -> Iterator[_Usage | str]:
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                attributes, doubles, defect = _texts(span.attributes)
                explicit = names.ACTION in attributes
                if not explicit and not (
                    settings.charge_genai and any(name in attributes for name in (*INFERENCE, names.INPUT))
                ):
                    yield "span"
                    continue
                yield _Usage(
                    "span", attributes, doubles, _service(resource), scope.scope.name, span.trace_id, span.span_id,
                    span.end_time_unix_nano, None, defect, explicit, received_us, settings,
                )  # fmt: skip


def _points(request: Any, received_us: int, settings: Any) -> Iterator[_Usage | str]:
    for resource in request.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in getattr(metric, metric.WhichOneof("data")).data_points:
                    if metric.name != names.USAGE_METRIC or point.flags & names.NO_RECORDED_VALUE:
                        yield "point"
                    else:
                        yield _point_usage(resource, scope, metric, point, received_us, settings)


def _point_usage(resource: Any, scope: Any, metric: Any, point: Any, received_us: int, settings: Any) -> _Usage:
    attributes, _, defect = _texts(point.attributes)
    kind = metric.WhichOneof("data")
    value = point.WhichOneof("value") if kind in ("sum", "gauge") else None
    unit = names.UNITS + (attributes.get(names.UNIT) or "call")
    if kind != "sum" or not metric.sum.is_monotonic:
        defect = "metric_is_not_a_monotonic_sum"
    elif metric.sum.aggregation_temporality == names.CUMULATIVE:
        defect = "metric_is_cumulative_use_cumulativetodelta"
    elif metric.sum.aggregation_temporality != names.DELTA:
        defect = "metric_has_no_temporality"
    elif value is None:
        defect = "not_a_number"
    quantity = {unit: _text(_value_of(point, value))} if value else {}
    # Of points of other kinds nothing is read, not even the time.
    end_ns = point.time_unix_nano if kind in ("sum", "gauge") else 0
    series = (
        _frozen(resource.resource.attributes), scope.scope.name, _frozen(point.attributes),
        point.start_time_unix_nano, point.time_unix_nano,
    )  # fmt: skip
    return _Usage(
        "point", {names.ACTION: "", **attributes, **quantity}, frozenset([unit] if value == "as_double" else []),
        _service(resource), scope.scope.name, b"", b"", end_ns, series, defect, True, received_us, settings,
    )  # fmt: skip


def _value_of(point: Any, value: str) -> AnyValue:
    number = getattr(point, value)
    return AnyValue(int_value=number) if value == "as_int" else AnyValue(double_value=number)


def _frozen(attributes: Iterable[KeyValue]) -> tuple[Any, ...]:
    return tuple(sorted((one.key, one.value.SerializeToString(deterministic=True)) for one in attributes))


def _service(resource: Any) -> str:
    return next((one.value.string_value for one in resource.resource.attributes if one.key == names.SERVICE), "")


def _texts(attributes: Iterable[KeyValue]) -> tuple[dict[str, str], frozenset[str], str]:
    """Attributes as text, the keys of those sent as double, and whether a key is there twice."""
    listed = list(attributes)
    texts = {one.key: _text(one.value) for one in listed}
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
    return (
        f"{exact.normalize():f}"
        if 1e-7 < abs(number) < 1e21 or number == 0
        else f"{exact.normalize():e}".replace("e+", "e")
    )


def _is_inference(usage: _Usage) -> bool:
    return any(usage.attributes.get(name) in values for name, values in INFERENCE.items())


def _fault(usage: _Usage) -> str:
    """What is wrong with a usage, quantities left aside; the first that applies."""
    if usage.defect:
        return usage.defect
    if usage.signal == "span" and (len(usage.trace_id) != 16 or not any(usage.trace_id)):
        return "invalid_trace_id"
    if usage.signal == "span" and (len(usage.span_id) != 8 or not any(usage.span_id)):
        return "invalid_span_id"
    if usage.end_ns == 0:
        return "time_missing"
    if not EARLIEST_US <= usage.end_ns // 1000 <= usage.received_us + AHEAD_MAX_US:
        return "time_out_of_range"
    if not usage.action:
        return "no_action_type"
    if not usage.user:
        return "no_user"
    texts = (usage.user, usage.action, usage.model, usage.text(names.KEY), usage.text(names.RESPONSE_ID))
    return "name_too_long" if max(len(text.encode()) for text in texts) > NAME_BYTES_MAX else ""


def _stated_units(usage: _Usage) -> list[str]:
    return [key for key in usage.attributes if key.startswith(names.UNITS)]


def _wrong_number(usage: _Usage) -> str:
    """What is wrong with the first number that cannot be charged."""
    tokens = [key for keys in _TOKEN_UNITS.values() for key in keys if key in usage.attributes]
    stated = _stated_units(usage) + [key for key in (names.AMOUNT,) if key in usage.attributes]
    faults = [_number_fault(usage.attributes[key], TOKENS_MAX, whole=True) for key in tokens]
    faults += [_number_fault(usage.attributes[key], AMOUNT_MAX, rounded=key in usage.doubles) for key in stated]
    return next((fault for fault in faults if fault), "")


def _number_fault(text: str, largest: Decimal, whole: bool = False, rounded: bool = False) -> str:
    if not NUMBER.fullmatch(text):
        return "not_a_number"
    number = _number(text)
    if number.is_signed():
        return "negative_number"
    if number > largest:
        return "number_out_of_range"
    exact = (
        number == number.to_integral_value()
        if whole
        else rounded or number == number.quantize(TWELVE_PLACES, context=EXACT)
    )
    return "" if exact and len(text) <= NUMBER_CHARACTERS_MAX else "number_not_exact"


def _number(text: str) -> Decimal:
    return Decimal(text)


def _read_number(usage: _Usage, key: str) -> Decimal:
    return _number(usage.attributes[key]).quantize(TWELVE_PLACES, context=EXACT)


def _created_at(usage: _Usage) -> datetime:
    return EPOCH + timedelta(microseconds=usage.end_ns // 1000)


def _event(usage: _Usage) -> Event:
    metadata = {
        key.removeprefix(names.METADATA): text
        for key, text in usage.attributes.items()
        if key.startswith(names.METADATA)
    }
    return Event(
        usage.user, usage.action, usage.model, usage.tokens_in, usage.tokens_out, usage.charge,
        usage.text(names.DESCRIPTION), usage.text(names.RESOURCE_ID), usage.text(names.RESOURCE_TYPE),
        tuple(sorted(metadata.items())), tuple(sorted(usage.units.items())), usage.service,
        usage.trace_id.hex(), usage.span_id.hex(), _created_at(usage), usage.identity[0], tuple(sorted(usage.prices.items())),
    )  # fmt: skip


def _quarantined(usage: _Usage, reason: str) -> Quarantined:
    return Quarantined(reason, usage.user, usage.action, usage.model, usage.trace_id, usage.span_id, usage.end_ns)
