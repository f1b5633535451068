"""Requests that are not quite OTLP: valid ones with fields doubled, dropped, exchanged, or of another wire type.

Written on the wire format (https://protobuf.dev/programming-guides/encoding/), because a protobuf library only writes what its
schema allows. Groups, which nothing has sent since 2008, are left out.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["mutated"]

_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5
_VARINTS = (0, 1, 2, 127, 128, 2**31, 2**32, 2**63, 2**64 - 1)
_DEPTH_MAX = 9


@dataclass(frozen=True)
class _Field:
    number: int
    wire_type: int
    value: bytes

    def encoded(self) -> bytes:
        length = _varint(len(self.value)) if self.wire_type == _DELIMITED else b""
        return _varint(self.number << 3 | self.wire_type) + length + self.value


def mutated(message: bytes, rng: random.Random) -> bytes:
    """The message with one field changed, somewhere in it."""
    return _mutated(message, rng, 0)


def _mutated(message: bytes, rng: random.Random, depth: int) -> bytes:
    fields = list(_fields(message))
    if not fields:
        return _random_field(rng.randint(1, 20), rng).encoded()
    chosen = rng.randrange(len(fields))
    field = fields[chosen]
    if field.wire_type == _DELIMITED and depth < _DEPTH_MAX and rng.random() < 0.75 and _is_message(field.value):
        changed = _Field(field.number, _DELIMITED, _mutated(field.value, rng, depth + 1)).encoded()
    else:
        changed = _changed(field, rng)
    return b"".join(changed if number == chosen else one.encoded() for number, one in enumerate(fields))


def _changed(field: _Field, rng: random.Random) -> bytes:
    same = field.encoded()
    return rng.choice(
        [
            b"",
            same + same,
            _random_field(field.number, rng).encoded(),
            same + _random_field(field.number, rng).encoded(),
            _random_field(rng.randint(1, 20), rng).encoded() + same,
            same + _random_field(rng.choice((100, 1_001, 2**29 - 1)), rng).encoded(),
        ]
    )


def _random_field(number: int, rng: random.Random) -> _Field:
    match rng.choice((_VARINT, _FIXED64, _DELIMITED, _FIXED32)):
        case 0:
            return _Field(number, _VARINT, _varint(rng.choice(_VARINTS)))
        case 1:
            return _Field(number, _FIXED64, rng.randbytes(8))
        case 2:
            return _Field(number, _DELIMITED, rng.randbytes(rng.randrange(10)))
        case _:
            return _Field(number, _FIXED32, rng.randbytes(4))


def _is_message(value: bytes) -> bool:
    try:
        return bool(list(_fields(value)))
    except (ValueError, IndexError):
        return False


def _fields(message: bytes) -> Iterator[_Field]:
    """The fields of a message. Raises ValueError or IndexError if it is none."""
    at = 0
    while at < len(message):
        tag, at = _read_varint(message, at)
        start = at
        match tag & 7:
            case 0:
                _, at = _read_varint(message, at)
            case 1:
                at += 8
            case 2:
                length, start = _read_varint(message, at)
                at = start + length
            case 5:
                at += 4
            case _:
                raise ValueError("a group")
        if at > len(message) or tag >> 3 == 0:
            raise ValueError("cut off")
        yield _Field(tag >> 3, tag & 7, message[start:at])


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value, at


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
