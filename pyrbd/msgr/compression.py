"""On-wire compression (`src/msg/async/compression_onwire.cc`, `src/compressor/*`).

Peers whose banners have the feature agree on an algorithm after the signatures:
COMPRESSION_REQUEST has what the client would like, in order, COMPRESSION_DONE what it gets. From
then on the sender of a frame may compress all of its segments, and says so in the preamble.

OSDs up to tentacle 20.2.4 agree with other OSDs only: `CompressorRegistry::get_mode` looks at the type of
the peer. Where one is made to take compressed requests, its throttle of client messages must be off
(`osd_client_message_size_cap = 0`): it takes the compressed size and gives back the other, and aborts.

The containers are those of Ceph's compressors: each has the length, or the mark, that Ceph puts
before the algorithm's own format. The libraries are optional and imported when they are needed.
"""

from __future__ import annotations

import struct as _struct
from collections.abc import Callable, Iterable
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from ..errors import ProtocolError
from .frames import FLAG_COMPRESSED, HEADER_SIZE, TAG_MESSAGE, Writer

if TYPE_CHECKING:
    from ..denc import Buffer

SNAPPY, ZLIB, ZSTD, LZ4 = 1, 2, 3, 4
ALGORITHMS = {"snappy": SNAPPY, "zlib": ZLIB, "zstd": ZSTD, "lz4": LZ4}
ALGORITHM_NAMES = {number: name for name, number in ALGORITHMS.items()}
PACKAGES = {SNAPPY: "cramjam", ZSTD: "zstandard", LZ4: "lz4"}
"""What has to be installed for an algorithm; zlib is Python's own."""

ZLIB_LEVEL = 5
ZSTD_LEVEL = 1
_RAW_DEFLATE = -15
LZ4_WINDOW = 64 * 1024
MAX_LZ4_BLOCKS = 65536
LZ4_RATIO = 255
SNAPPY_RATIO = 22
"""What a byte of these formats can become at most: more is announced by nobody who means it."""
ZSTD_ROOM = 4 * 1024 * 1024
"""Memory for more than that is made as it comes out, not as it is announced."""

_U32 = _struct.Struct("<I")
_LZ4_BLOCK = _struct.Struct("<II")


class Codec(NamedTuple):
    """One algorithm. `decompress(data, limit)` gives at most `limit` bytes, and raises
    ProtocolError for more, and for what it does not understand."""

    number: int
    compress: Callable[[Buffer], bytes]
    decompress: Callable[[Buffer, int], bytes]

    @property
    def name(self) -> str:
        return ALGORITHM_NAMES[self.number]


def _broken(name: str, error: object) -> ProtocolError:
    return ProtocolError(f"frame whose {name} data does not decompress: {error}", hint="a damaged stream")


def _too_large(name: str, size: int, limit: int) -> ProtocolError:
    return ProtocolError(f"frame whose {name} data is {size} bytes or more, {limit} are accepted")


def _zlib() -> Codec:
    """A mark of one byte, which nobody looks at, and raw deflate."""
    import zlib

    def compress(data: Buffer) -> bytes:
        deflate = zlib.compressobj(ZLIB_LEVEL, zlib.DEFLATED, _RAW_DEFLATE)
        return b"\0" + deflate.compress(data) + deflate.flush()

    def decompress(data: Buffer, limit: int) -> bytes:
        inflate = zlib.decompressobj(_RAW_DEFLATE)
        try:
            raw = inflate.decompress(memoryview(data)[1:], limit + 1)
        except zlib.error as e:
            raise _broken("zlib", e) from None
        if len(raw) > limit:
            raise _too_large("zlib", len(raw), limit)
        if not inflate.eof:
            raise _broken("zlib", "it is cut off")
        if inflate.unused_data:
            raise _broken("zlib", "something comes after it")
        return raw

    return Codec(ZLIB, compress, decompress)


def _zstd() -> Codec:
    """The length, and a frame of zstd."""
    import zstandard

    def compress(data: Buffer) -> bytes:
        # compressor objects must not be shared between threads
        return _U32.pack(len(data)) + zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(data)

    def decompress(data: Buffer, limit: int) -> bytes:
        if len(data) < _U32.size:
            raise _broken("zstd", "it is cut off")
        (size,) = _U32.unpack_from(data)
        if size > limit:
            raise _too_large("zstd", size, limit)
        raw = bytearray(min(size, ZSTD_ROOM))
        try:
            # a stream, as the frame itself may claim any size
            with zstandard.ZstdDecompressor().stream_reader(memoryview(data)[_U32.size :]) as reader:
                at = 0
                while at < size and (n := reader.readinto(memoryview(raw)[at:])):
                    at += n
                    if at == len(raw):
                        raw += bytes(min(size, 2 * at) - at)
                if at < size or reader.read(1):
                    raise _broken("zstd", f"it has not the {size} bytes that it announces")
        except zstandard.ZstdError as e:
            raise _broken("zstd", e) from None
        return bytes(raw)

    return Codec(ZSTD, compress, decompress)


def _lz4() -> Codec:
    """The number of blocks, for each its length before and after, and the blocks, which may
    refer to those before them."""
    import lz4.block

    def compress(data: Buffer) -> bytes:
        block: bytes = lz4.block.compress(data, store_size=False)
        return _U32.pack(1) + _LZ4_BLOCK.pack(len(data), len(block)) + block

    def decompress(data: Buffer, limit: int) -> bytes:
        if len(data) < _U32.size:
            raise _broken("lz4", "it is cut off")
        (count,) = _U32.unpack_from(data)
        at = _U32.size + count * _LZ4_BLOCK.size
        if count > MAX_LZ4_BLOCKS or at > len(data):
            raise _broken("lz4", f"{count} blocks in {len(data)} bytes")
        sizes = [_LZ4_BLOCK.unpack_from(data, _U32.size + i * _LZ4_BLOCK.size) for i in range(count)]
        size = sum(original for original, _ in sizes)
        if size > limit:
            raise _too_large("lz4", size, limit)
        view, raw = memoryview(data), bytearray()
        for original, compressed in sizes:
            if compressed > len(view) - at:
                raise _broken("lz4", "it is cut off")
            if original > LZ4_RATIO * compressed:
                raise _broken("lz4", f"{original} bytes of {compressed} are announced")
            try:
                plain = lz4.block.decompress(
                    view[at : at + compressed], uncompressed_size=original, dict=bytes(raw[-LZ4_WINDOW:])
                )
            except (lz4.block.LZ4BlockError, ValueError, MemoryError) as e:
                raise _broken("lz4", e) from None
            if len(plain) != original:
                raise _broken("lz4", f"a block of {len(plain)} bytes announces {original}")
            if count == 1:
                return bytes(plain)
            raw += plain
            at += compressed
        return bytes(raw)

    return Codec(LZ4, compress, decompress)


def _snappy() -> Codec:
    """Snappy's raw format, which begins with the length."""
    from cramjam import DecompressionError, snappy

    def compress(data: Buffer) -> bytes:
        return bytes(snappy.compress_raw(bytes(data)))

    def decompress(data: Buffer, limit: int) -> bytes:
        raw = bytes(data)
        try:
            size = snappy.decompress_raw_len(raw)
            if size > limit:
                raise _too_large("snappy", size, limit)
            if size > SNAPPY_RATIO * len(raw):
                raise _broken("snappy", f"{size} bytes of {len(raw)} are announced")
            return bytes(snappy.decompress_raw(raw))
        except DecompressionError as e:
            raise _broken("snappy", e) from None

    return Codec(SNAPPY, compress, decompress)


_LOADERS = {SNAPPY: _snappy, ZLIB: _zlib, ZSTD: _zstd, LZ4: _lz4}


@cache
def codec(number: int) -> Codec:
    """The algorithm with this number.

    Raises:
        ImportError: its library is not installed.
    """
    return _LOADERS[number]()


class Offer(NamedTuple):
    """What a connection asks for: `ms_osd_compress_mode = force` and what belongs to it."""

    methods: tuple[int, ...]
    """In order of preference; those whose library is there."""
    min_size: int
    """Frames of fewer bytes are not compressed by us."""
    in_secure_mode: bool
    """`ms_compress_secure`."""


def available(names: Iterable[str]) -> tuple[tuple[int, ...], list[str]]:
    """The algorithms that can be offered out of those named, and what is the matter with the others."""
    found: list[int] = []
    problems: list[str] = []
    for name in names:
        number = ALGORITHMS.get(name)
        if number is None:
            problems.append(f"{name} is not known here")
            continue
        try:
            codec(number)
        except ImportError:
            problems.append(f"{name} needs the package {PACKAGES[number]} (pip install pyrbd-ceph[compression])")
            continue
        if number not in found:
            found.append(number)
    return tuple(found), problems


class CompressingWriter:
    """Makes frames of which those that are large enough are compressed, unless that gains nothing."""

    def __init__(self, writer: Writer, method: Codec, min_size: int) -> None:
        self._writer = writer
        self._compress = method.compress
        self._min_size = min_size

    def encode_frame(self, tag: int, *segments: Buffer, flags: int = 0) -> list[Buffer]:
        size = sum(map(len, segments))
        if size >= self._min_size:
            packed = [self._compress(s) if len(s) else b"" for s in segments]
            if sum(map(len, packed)) < size:
                return self._writer.encode_frame(tag, *packed, flags=flags | FLAG_COMPRESSED)
        return self._writer.encode_frame(tag, *segments, flags=flags)

    def encode_message_frame(self, header: bytes, front: bytes, data: Buffer) -> list[Buffer]:
        if HEADER_SIZE + len(front) + len(data) < self._min_size:
            return self._writer.encode_message_frame(header, front, data)
        return self.encode_frame(TAG_MESSAGE, header, front, b"", data)
