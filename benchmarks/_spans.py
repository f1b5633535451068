"""Requests to measure with: one usage a span, 11 attributes, some 512 bytes, and no span twice.

Building a span with Python's protobuf takes longer than anything that is measured here. So a pool of requests is built
once, and each request that is sent is a copy of one of them with new ids and times written over the old ones.
"""

import random
import struct
import time
from dataclasses import dataclass
from decimal import Decimal

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans, Span
from otel_credits import _attributes as names

__all__ = [
    "ACTION",
    "INPUT_TOKENS_MAX",
    "MODEL",
    "OUTPUT_TOKENS_MAX",
    "POOL_SPANS",
    "USERS",
    "Load",
    "Totals",
    "user_id",
]

ACTION = "ai_chat_message"
MODEL = "claude-sonnet-4-5"
USERS = 1000
INPUT_TOKENS_MAX = 3000
OUTPUT_TOKENS_MAX = 1000
# More than one insert of the aggregator takes (20 MiB), so that no insert sees the same attributes twice.
POOL_SPANS = 65_536
_TIMES = struct.Struct("<BQBQ")
_START_TAG, _END_TAG = 7 << 3 | 1, 8 << 3 | 1
_SPAN_ID_TAG = b"\x12\x08"
_DURATION_NS = 1_500_000_000
# The one attribute that our library does not write; other instrumentations do.
_OPERATION_NAME = "gen_ai.operation.name"


@dataclass(frozen=True)
class Totals:
    """What a number of requests must come to."""

    spans: int
    input_tokens: int
    output_tokens: int

    def __add__(self, other: "Totals") -> "Totals":
        return Totals(
            self.spans + other.spans,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
        )

    def credits(self, prices: dict[str, Decimal]) -> Decimal:
        """The exact charge, with the book's prices of the two units."""
        return self.input_tokens * prices["input_token"] + self.output_tokens * prices["output_token"]


@dataclass(frozen=True)
class _Pooled:
    payload: bytes
    id_offsets: list[int]
    time_offsets: list[int]
    totals: Totals


class Load:
    """An endless row of requests, the same for the same seed, apart from the times.

    Args:
        spans: spans in each request.
        seed: of the ids; the rest of the spans is always the same.
        pool_spans: how many different spans there are, apart from ids and times.
    """

    def __init__(self, spans: int, seed: int, pool_spans: int) -> None:
        self._seed = seed
        self._spans = spans
        self._pool = [_pooled(spans, number) for number in range(max(1, pool_spans // spans))]

    def request(self, number: int, last_end_ns: int) -> bytes:
        """A request; its spans end within the second before ``last_end_ns`` (nanoseconds since 1970)."""
        pooled = self._pool[number % len(self._pool)]
        payload = bytearray(pooled.payload)
        ids = random.Random(f"{self._seed}/{number}").randbytes(24 * self._spans)
        step_ns = 1_000_000_000 // self._spans
        for i, (id_at, times_at) in enumerate(zip(pooled.id_offsets, pooled.time_offsets, strict=True)):
            fresh = ids[24 * i : 24 * i + 24]
            payload[id_at : id_at + 26] = fresh[:16] + _SPAN_ID_TAG + fresh[16:]
            end_ns = last_end_ns - i * step_ns
            _TIMES.pack_into(payload, times_at, _START_TAG, end_ns - _DURATION_NS, _END_TAG, end_ns)
        return bytes(payload)

    def totals(self, requests: int) -> Totals:
        """What the first so many requests must come to."""
        rounds, rest = divmod(requests, len(self._pool))
        total = Totals(0, 0, 0)
        for number, pooled in enumerate(self._pool):
            times = rounds + (number < rest)
            one = pooled.totals
            total += Totals(one.spans * times, one.input_tokens * times, one.output_tokens * times)
        return total


def user_id(number: int) -> str:
    """The id of a user: as long as a real one."""
    return f"user-{number:08d}-0000-4000-8000"


def _pooled(spans: int, number: int) -> _Pooled:
    chance = random.Random(f"pool/{number}")
    request = ExportTraceServiceRequest()
    resource_spans = request.resource_spans.add()
    resource_spans.resource.attributes.add(key="service.name").value.string_value = "benchmark"
    scope_spans = resource_spans.scope_spans.add()
    scope_spans.scope.name, scope_spans.scope.version = "otel_credits", "0"
    input_tokens = output_tokens = 0
    for i in range(spans):
        used = chance.randint(1, INPUT_TOKENS_MAX), chance.randint(1, OUTPUT_TOKENS_MAX)
        _add_span(scope_spans, chance, i, used)
        input_tokens, output_tokens = input_tokens + used[0], output_tokens + used[1]
    payload = request.SerializeToString()
    id_offsets, time_offsets = _offsets(payload, scope_spans)
    return _Pooled(payload, id_offsets, time_offsets, Totals(spans, input_tokens, output_tokens))


def _add_span(scope_spans: ScopeSpans, chance: random.Random, i: int, used: tuple[int, int]) -> None:
    end_ns = time.time_ns()
    span = scope_spans.spans.add(
        trace_id=chance.randbytes(16),
        span_id=chance.randbytes(8),
        parent_span_id=chance.randbytes(8),
        name=f"credits {ACTION}",
        kind=Span.SPAN_KIND_INTERNAL,
        start_time_unix_nano=end_ns - _DURATION_NS,
        end_time_unix_nano=end_ns,
    )
    user = chance.randrange(USERS)
    attributes: dict[str, str | int] = {
        names.ACTION_TYPE: ACTION,
        names.USER_ID: user_id(user),
        names.REQUEST_MODEL: MODEL,
        names.INPUT_TOKENS: used[0],
        names.OUTPUT_TOKENS: used[1],
        names.DESCRIPTION: "AI chat message",
        names.RESOURCE_ID: f"{user:032x}",
        names.RESOURCE_TYPE: "chat",
        _OPERATION_NAME: "chat",
        names.PROVIDER_NAME: "anthropic",
        f"{names.METADATA_PREFIX}session": f"{i:08d}",
    }
    for key, value in attributes.items():
        any_value = span.attributes.add(key=key).value
        if isinstance(value, int):
            any_value.int_value = value
        else:
            any_value.string_value = value


def _offsets(payload: bytes, scope_spans: ScopeSpans) -> tuple[list[int], list[int]]:
    """Where each span's ids (trace id to span id) and times (start's tag to end) are."""
    ids: list[int] = []
    times: list[int] = []
    at = 0
    for span in scope_spans.spans:
        at = payload.index(span.trace_id + _SPAN_ID_TAG + span.span_id, at)
        ids.append(at)
        packed = _TIMES.pack(_START_TAG, span.start_time_unix_nano, _END_TAG, span.end_time_unix_nano)
        times.append(payload.index(packed, at))
    return ids, times
