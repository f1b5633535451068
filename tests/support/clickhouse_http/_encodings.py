"""HTTP's content encodings, and ClickHouse's own compressed blocks (`compress=1`, `decompress=1`)."""

import bz2
import gzip
import lzma
import struct
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import lz4.block
import lz4.frame
from backports import zstd
from clickhouse_cityhash.cityhash import CityHash128

from ._errors import BAD_ARGUMENTS, UNSUPPORTED_MEDIA_TYPE, ServerError


class _Codec(NamedTuple):
    encode: Callable[[Any], bytes]
    decode: Callable[[Any], bytes]


# In the order in which a server prefers them for its answer. It also knows br and snappy.
_CODECS = {
    "zstd": _Codec(zstd.compress, zstd.decompress),
    "lz4": _Codec(lz4.frame.compress, lz4.frame.decompress),
    "gzip": _Codec(gzip.compress, gzip.decompress),
    "deflate": _Codec(zlib.compress, zlib.decompress),
    "xz": _Codec(lzma.compress, lzma.decompress),
    "bz2": _Codec(bz2.compress, bz2.decompress),
}

_HEADER = struct.Struct("<BII")  # method, compressed size with this header, plain size
_CHECKSUM_BYTES = 16
_BLOCK_BYTES_MAX = 1 << 20
_LZ4, _ZSTD, _NONE = 0x82, 0x90, 0x02


def decode(body: bytes, encoding: str) -> bytes:
    """Undo a request's Content-Encoding. Raises `ServerError` for one that is unknown or does not fit."""
    if encoding in {"", "identity"}:
        return body
    if encoding not in _CODECS:
        raise ServerError(UNSUPPORTED_MEDIA_TYPE, f"Unknown compression method: {encoding}")
    try:
        return _CODECS[encoding].decode(body)
    except Exception as error:
        raise ServerError(BAD_ARGUMENTS, f"Cannot decompress the {encoding} body: {error}") from error


def choose(accept_encoding: str) -> str | None:
    """Return the encoding for the answer, the one a server would prefer of those the client accepts."""
    accepted = {part.partition(";")[0].strip().lower() for part in accept_encoding.split(",")}
    return next((name for name in _CODECS if name in accepted), None)


def encode(body: bytes, encoding: str) -> bytes:
    """Compress an answer with what `choose` returned."""
    return _CODECS[encoding].encode(body)


def decode_blocks(body: bytes) -> bytes:
    """Undo ClickHouse's own block compression, checking every block's checksum."""
    parts = []
    at = 0
    while at < len(body):
        plain, at = _decode_block(body, at)
        parts.append(plain)
    return b"".join(parts)


def encode_blocks(body: bytes) -> bytes:
    """Compress into ClickHouse's own LZ4 blocks."""
    return b"".join(_encode_block(body[at : at + _BLOCK_BYTES_MAX]) for at in range(0, len(body), _BLOCK_BYTES_MAX))


def _decode_block(body: bytes, at: int) -> tuple[bytes, int]:
    start = at + _CHECKSUM_BYTES
    if start + _HEADER.size > len(body):
        raise ServerError(BAD_ARGUMENTS, "The compressed body ends within a block")
    method, size, plain_size = _HEADER.unpack_from(body, start)
    block = body[start : start + size]
    if _checksum(block) != body[at:start]:
        raise ServerError(40, "Checksum doesn't match: corrupted data")
    payload = block[_HEADER.size :]
    if method == _LZ4:
        plain: bytes = lz4.block.decompress(payload, uncompressed_size=plain_size)
        return plain, start + size
    if method == _ZSTD:
        return zstd.decompress(payload), start + size
    if method == _NONE:
        return payload, start + size
    raise ServerError(89, f"Unknown codec family code: {method}")


def _encode_block(plain: bytes) -> bytes:
    payload: bytes = lz4.block.compress(plain, store_size=False)
    block = _HEADER.pack(_LZ4, _HEADER.size + len(payload), len(plain)) + payload
    return _checksum(block) + block


def _checksum(block: bytes) -> bytes:
    # cityhash gives the first half of the 128 bits as the high one; ClickHouse writes the low half first.
    value: int = CityHash128(block)
    return struct.pack("<QQ", value >> 64, value & 0xFFFF_FFFF_FFFF_FFFF)
