"""What an insert adds to each request: the envelope of clickhouse/otlp.proto, and the framing of ClickHouse's Protobuf format.

Protobuf messages concatenate, so a field appended to a request's bytes becomes part of it; nothing is encoded again.
"""

from collections.abc import Generator, Iterable

from otel_credits_aggregator.otlp import ENVELOPE_FIELD
from otel_credits_aggregator.settings import Settings
from otel_credits_aggregator.spool import Request

__all__ = ["allowed", "binding_fields", "charges_genai", "framed", "framed_parts", "settings_fields"]

# Field numbers of Envelope in clickhouse/otlp.proto.
_BATCH_ID, _RECEIVED_AT_US, _CHARGE_GENAI, _USER_ATTRIBUTES, _DEFAULT_USER, _RECEIVER = 1, 2, 3, 4, 5, 6
_ALLOWED_SERVICES, _ALLOWED_ACTIONS, _ESTIMATED, _KEEP_ATTRIBUTES = 7, 8, 9, 10
_VARINT, _LENGTH_DELIMITED = 0, 2


def settings_fields(settings: Settings, receiver: str) -> bytes:
    """The fields that are the same for all requests of a batch. Kept with the batch, so that a repetition is identical."""
    fields = [
        _integer(_CHARGE_GENAI, int(settings.charge_genai)),
        _text(_DEFAULT_USER, settings.default_user),
        _text(_RECEIVER, receiver),
        _text(_ESTIMATED, settings.estimated),
    ]
    fields += [_text(_USER_ATTRIBUTES, name) for name in settings.user_attributes]
    return b"".join([*fields, *(_text(_KEEP_ATTRIBUTES, name) for name in settings.keep_attributes)])


def charges_genai(fields: bytes) -> bool:
    """Whether the fields of :func:`settings_fields` say that LLM calls of instrumentations are charged."""
    return fields.startswith(_integer(_CHARGE_GENAI, 1))


def binding_fields(services: Iterable[str], action_types: Iterable[str]) -> bytes:
    """The fields that say what the sender of a request may charge; kept with the request. None of either: anything."""
    return b"".join(
        [_text(_ALLOWED_SERVICES, name) for name in services] + [_text(_ALLOWED_ACTIONS, name) for name in action_types]
    )


def allowed(binding: bytes) -> tuple[list[str], list[str]]:
    """The services and the actions of :func:`binding_fields`."""
    names: dict[int, list[str]] = {_ALLOWED_SERVICES: [], _ALLOWED_ACTIONS: []}
    start = 0
    while start < len(binding):
        tag, start = _read_varint(binding, start)
        length, start = _read_varint(binding, start)
        names[tag >> 3].append(binding[start : start + length].decode())
        start += length
    return names[_ALLOWED_SERVICES], names[_ALLOWED_ACTIONS]


def framed(batch_id: str, fields: bytes, requests: Iterable[Request]) -> bytes:
    """The body of an insert: each request, with envelope and length."""
    return b"".join(framed_parts(batch_id, fields, requests))


def framed_parts(batch_id: str, fields: bytes, requests: Iterable[Request]) -> Generator[bytes, None, None]:
    """The same in parts, so that the whole of it is never in memory."""
    common = fields + _text(_BATCH_ID, batch_id)
    for payload, received_at_us, binding in requests:
        envelope = _delimited(ENVELOPE_FIELD, common + binding + _integer(_RECEIVED_AT_US, received_at_us))
        yield _varint(len(payload) + len(envelope))
        yield payload
        yield envelope


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _read_varint(encoded: bytes, start: int) -> tuple[int, int]:
    """A number, and where the next field begins."""
    value, shift = 0, 0
    while encoded[start] & 0x80:
        value |= (encoded[start] & 0x7F) << shift
        start, shift = start + 1, shift + 7
    return value | encoded[start] << shift, start + 1


def _integer(field: int, value: int) -> bytes:
    return _varint(field << 3 | _VARINT) + _varint(value)


def _delimited(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | _LENGTH_DELIMITED) + _varint(len(value)) + value


def _text(field: int, value: str) -> bytes:
    return _delimited(field, value.encode())
