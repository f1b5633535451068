"""Requests that no sender sends: recordings of real instrumentations, damaged in every way a seed can think of."""

from __future__ import annotations

import copy
import gzip
import json
import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from google.protobuf import json_format
from otel_credits_aggregator.otlp import _REQUESTS as _MESSAGES
from otel_credits_aggregator.otlp import RECEIVED, Signal

from support.otlp_clients import JSON, PROTOBUF
from support.otlp_mutations import mutated

__all__ = ["Fuzz", "Mangled"]

_FOLDER: Final = Path(__file__).parents[1] / "recordings"
_RECORDING_BYTES_MAX: Final = 20_000
_BOMB_BYTES: Final = 80 << 20
# What only the store refuses has to be looked for among its neighbours, which takes seconds: there may not be too much of it.
_HOSTILE_SHARE: Final = 0.12
_Bytes = Callable[[bytes, random.Random], bytes]


@dataclass(frozen=True)
class Mangled:
    """A request: where it goes, and what is said of it and in it."""

    signal: Signal
    body: bytes
    over_grpc: bool = False
    content_type: str = PROTOBUF
    encoding: str = ""


class Fuzz:
    """Makes mangled requests from a seed."""

    def __init__(self, seed: str) -> None:
        self._rng = random.Random(f"fuzz {seed}")
        self._recordings = {signal: _recordings(signal) for signal in RECEIVED}
        self._bomb = gzip.compress(bytes(_BOMB_BYTES), 9, mtime=0)

    def request(self) -> Mangled:
        """The next one."""
        rng = self._rng
        signal = rng.choices(RECEIVED, (8, 3, 1))[0]
        recording = rng.choice(self._recordings[signal])
        way = rng.choices(("grpc", "http", "compressed", "json", "bomb"), (60, 15, 12, 12.9, 0.1))[0]
        match way:
            case "grpc":
                return Mangled(signal, self._mangled(recording), over_grpc=True)
            case "http":
                kind = PROTOBUF if rng.random() < 0.98 else rng.choice((JSON, "text/plain", ""))
                return Mangled(signal, self._mangled(recording), content_type=kind)
            case "compressed":
                return self._compressed(signal, recording)
            case "json":
                return Mangled(signal, self._json(signal, recording), content_type=JSON)
            case _:
                return Mangled(signal, self._bomb, encoding="gzip")

    def _mangled(self, message: bytes) -> bytes:
        """One to three changes; now and then none, so that the next one meets a store that has work."""
        for _ in range(self._rng.choice((0, 1, 1, 1, 2, 3))):
            change = self._rng.choice(_CHANGES if self._rng.random() < _HOSTILE_SHARE else _OFTEN_REFUSED)
            try:
                message = change(message, self._rng)
            except (ValueError, IndexError):
                # What an earlier change left is no message any more, which this one needs.
                message = _flip_bits(message, self._rng)
        return message

    def _compressed(self, signal: Signal, recording: bytes) -> Mangled:
        rng, plain = self._rng, self._mangled(recording)
        encoding = rng.choice(("gzip", "gzip", "deflate"))
        body = gzip.compress(plain, 1, mtime=0) if encoding == "gzip" else zlib.compress(plain, 1)
        if rng.random() < 0.5:
            body = rng.choice((_flip_bits, _truncate, lambda body, _: body + body, _append_noise))(body, rng)
        return Mangled(signal, body, encoding=encoding if rng.random() < 0.95 else "br")

    def _json(self, signal: Signal, recording: bytes) -> bytes:
        rng = self._rng
        document = json_format.MessageToDict(_MESSAGES[signal].FromString(recording))
        for _ in range(rng.choice((0, 1, 2, 5))):
            _change_json(document, rng)
        text = json.dumps(document).encode()
        return rng.choice((_flip_bits, _truncate, _nested_json))(text, rng) if rng.random() < 0.3 else text


def _recordings(signal: Signal) -> list[bytes]:
    contents = (path.read_bytes() for path in sorted(_FOLDER.glob(f"*.{signal}.bin")))
    return [content for content in contents if 0 < len(content) <= _RECORDING_BYTES_MAX]


def _flip_bits(message: bytes, rng: random.Random) -> bytes:
    changed = bytearray(message)
    for _ in range(rng.choice((1, 1, 1, 2, 8)) if changed else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _truncate(message: bytes, rng: random.Random) -> bytes:
    return message[: rng.randrange(len(message) + 1)]


def _append_noise(message: bytes, rng: random.Random) -> bytes:
    return message + rng.randbytes(rng.randint(1, 30))


def _lie_about_a_length(message: bytes, rng: random.Random) -> bytes:
    """The first field's length, too long, too short, negative or beyond 64 bits."""
    lie = rng.choice((b"\x00", b"\x01", b"\x7f", b"\xff\xff\xff\xff\x0f", b"\xff" * 9 + b"\x01", b"\xff" * 11))
    return message[:1] + lie + message[2:]


def _repeat_a_piece(message: bytes, rng: random.Random) -> bytes:
    begin = rng.randrange(len(message) + 1)
    piece = message[begin : begin + rng.randint(1, 200)]
    return message[:begin] + piece * rng.randint(1, 20) + message[begin:]


def _nest_deeply(message: bytes, rng: random.Random) -> bytes:
    """An attribute whose value is a list of a list of a list ..., behind what was there."""
    value = b"\x0a\x01x"
    for _ in range(rng.choice((5, 50, 99, 500))):
        # AnyValue.array_value (field 5) with one ArrayValue.values (field 1).
        inner = b"\x0a" + _varint(len(value)) + value
        value = b"\x2a" + _varint(len(inner)) + inner
    attribute = b"\x0a\x01k\x12" + _varint(len(value)) + value
    for tag in (b"\x4a", b"\x12", b"\x12", b"\x0a"):  # Span.attributes, spans, scope_spans, resource_spans
        attribute = tag + _varint(len(attribute)) + attribute
    return message + attribute


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


_CHANGES: Final[tuple[_Bytes, ...]] = (
    _flip_bits,
    _flip_bits,
    _truncate,
    _append_noise,
    _lie_about_a_length,
    _repeat_a_piece,
    _nest_deeply,
    mutated,
    mutated,
    mutated,
)

_OFTEN_REFUSED: Final[tuple[_Bytes, ...]] = (_truncate, _append_noise, _lie_about_a_length, _nest_deeply)

_ODD_VALUES: Final = (
    None,
    True,
    -1,
    2**70,
    1e400,
    "",
    "x" * 5_000,
    "\ud800",
    [],
    {},
    [[[]]],
    {"stringValue": 3},
    "é" * 50,
)


def _change_json(document: Any, rng: random.Random) -> None:
    """Puts an odd value somewhere, or takes something away."""
    while isinstance(document, dict | list) and document:
        key = rng.choice(list(document)) if isinstance(document, dict) else rng.randrange(len(document))
        if not isinstance(document[key], dict | list) or rng.random() < 0.15:
            if rng.random() < 0.2:
                del document[key]
            else:
                document[key] = copy.deepcopy(rng.choice(_ODD_VALUES))
            return
        document = document[key]


def _nested_json(text: bytes, rng: random.Random) -> bytes:
    depth = rng.choice((10, 200, 5_000))
    return b'{"resourceSpans":' + b"[" * depth + text + b"]" * depth + b"}"
