"""Frames of messenger v2.1 (`doc/dev/msgr2.rst` "Frame format", `src/msg/async/frames_v2.h`).

A frame is a 32-byte preamble, one to four segments and, when there is more than one, an
epilogue::

    crc mode:  preamble | seg0 | crc(seg0) | seg1 | seg2 | seg3 | late_status, crc(seg1..3)
               a frame with one segment has no epilogue, an empty seg0 has no crc

:class:`FrameReader` cuts a stream of received bytes into frames, :func:`encode_frame`
makes them: in crc mode, which every connection begins with. :mod:`pyrbd.msgr.secure` has both
for the mode that takes their place when the peers agree on it.

A frame whose preamble says so has compressed segments (:mod:`pyrbd.msgr.compression`); lengths,
sums and encryption are those of the compressed bytes.
"""

from __future__ import annotations

import struct as _struct
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ..crc32c import MASK, standard_crc32c
from ..errors import ProtocolError
from .buffers import BytesBuffer

if TYPE_CHECKING:
    from ..denc import Buffer


class Tag(IntEnum):
    """What a frame is."""

    HELLO = 1
    AUTH_REQUEST = 2
    AUTH_BAD_METHOD = 3
    AUTH_REPLY_MORE = 4
    AUTH_REQUEST_MORE = 5
    AUTH_DONE = 6
    AUTH_SIGNATURE = 7
    CLIENT_IDENT = 8
    SERVER_IDENT = 9
    IDENT_MISSING_FEATURES = 10
    SESSION_RECONNECT = 11
    SESSION_RESET = 12
    SESSION_RETRY = 13
    SESSION_RETRY_GLOBAL = 14
    SESSION_RECONNECT_OK = 15
    WAIT = 16
    MESSAGE = 17
    KEEPALIVE2 = 18
    KEEPALIVE2_ACK = 19
    ACK = 20
    COMPRESSION_REQUEST = 21
    COMPRESSION_DONE = 22


TAG_MESSAGE = int(Tag.MESSAGE)
_KNOWN_TAGS = frozenset(map(int, Tag))

MODE_CRC = 1
MODE_SECURE = 2
MODE_NAMES = {MODE_CRC: "crc", MODE_SECURE: "secure"}

MAX_SEGMENTS = 4
PREAMBLE_SIZE = 32
EPILOGUE_SIZE = 13
SEGMENT_ALIGN = (8, 8, 8, 4096)

LATE_STATUS_ABORTED = 0x1
LATE_STATUS_COMPLETE = 0xE
LATE_STATUS_MASK = 0xF

BUFFER_SIZE = 256 * 1024
"""Bytes asked of one receive call."""
BULK_SIZE = 64 * 1024
"""A data segment of at least this many bytes is received into its final place."""
BULK_CHUNK = 128 * 1024
"""Of which so many bytes at a time: each is summed while it is still in the cache."""
BULK_ROOM = 16 * 1024 * 1024
"""Memory for a data segment that is longer is made as it comes, not as it is announced."""
JOIN_LIMIT = 16384
"""Smaller segments are sent in one buffer with what is around them."""

MAX_FRAME_HANDSHAKE = 256 * 1024
MAX_SEGMENT = 256 * 1024 * 1024
"""No message of Ceph is larger: `osd_max_write_size` is 90 MiB, the largest maps are
tens of MiB."""

_PREAMBLE = _struct.Struct("<BBIHIHIHIHBB")
_U32 = _struct.Struct("<I")
_EPILOGUE = _struct.Struct("<BIII")
_HEADER = _struct.Struct("<QQHHHIHQBHH")

HEADER_SIZE = _HEADER.size  # 41, ceph_msg_header2

BANNER = b"ceph v2\n"
BANNER_PAYLOAD = _struct.Struct("<QQ")
BANNER_SIZE = len(BANNER) + 2 + BANNER_PAYLOAD.size
FEATURE_REVISION_1 = 1
FEATURE_COMPRESSION = 2

FLAG_COMPRESSED = 1
"""FRAME_EARLY_DATA_COMPRESSED, in a preamble's flags."""


def encode_banner(supported: int = FEATURE_REVISION_1, required: int = 0) -> bytes:
    return BANNER + _struct.pack("<H", BANNER_PAYLOAD.size) + BANNER_PAYLOAD.pack(supported, required)


class Frame(NamedTuple):
    """A received frame. Segments are views of the receive buffer and valid until more is
    received, except `data`, the fourth segment, which is the receiver's to keep: `bytes`,
    or None when it went into the buffer that the sink provided."""

    tag: int
    segments: tuple[memoryview, ...]
    data: bytes | None


class MessageHeader(NamedTuple):
    """ceph_msg_header2, the first segment of a MESSAGE frame."""

    seq: int
    tid: int
    type: int
    priority: int
    version: int
    data_pre_padding_len: int
    data_off: int
    ack_seq: int
    flags: int
    compat_version: int
    reserved: int

    def to_bytes(self) -> bytes:
        return _HEADER.pack(*self)


def decode_message_header(segment: Buffer) -> MessageHeader:
    if len(segment) != HEADER_SIZE:
        raise ProtocolError(f"message header of {len(segment)} bytes, {HEADER_SIZE} expected")
    return MessageHeader._make(_HEADER.unpack(segment))


def encode_preamble(tag: int, lengths: Sequence[int], flags: int = 0) -> bytes:
    fields: list[int] = []
    for i in range(MAX_SEGMENTS):
        if i < len(lengths):
            fields += (lengths[i], SEGMENT_ALIGN[i])
        else:
            fields += (0, 0)
    head = _PREAMBLE.pack(tag, len(lengths), *fields, flags, 0)
    # the preamble's crc starts from 0, those of the segments from -1
    return head + _U32.pack(standard_crc32c(head, MASK) ^ MASK)


def without_empty_tail(segments: tuple[Buffer, ...]) -> tuple[Buffer, ...]:
    """The segments that a frame has: at least one, and no empty one at the end."""
    n = len(segments)
    while n > 1 and not len(segments[n - 1]):
        n -= 1
    return segments[:n]


class Writer(Protocol):
    """What makes the frames of a connection. Frames are sent in the order in which they are made."""

    def encode_frame(self, tag: int, *segments: Buffer, flags: int = 0) -> list[Buffer]:
        """The buffers of one frame, in the order in which they are sent."""
        ...

    def encode_message_frame(self, header: bytes, front: bytes, data: Buffer) -> list[Buffer]:
        """The same for a message with a front and without a middle."""
        ...


def encode_frame(tag: int, *segments: Buffer, flags: int = 0, summed: bool = True) -> list[Buffer]:
    """The buffers of one frame in crc mode, in the order in which they are sent. Empty
    segments at the end are left out; small ones are joined. Not `summed`: with 0 for the
    segments' crcs."""
    segments = without_empty_tail(segments)
    n = len(segments)
    head = bytearray(encode_preamble(tag, [len(s) for s in segments], flags))
    first = segments[0]
    if len(first):
        head += first
        head += _U32.pack(standard_crc32c(first, 0) ^ MASK if summed else 0)
    if n == 1:
        return [head]
    out: list[Buffer] = [head]
    own: bytearray | None = head  # the last buffer, when it is ours to append to
    crcs = [0, 0, 0]
    for i in range(1, n):
        s = segments[i]
        # the crc of an empty segment is the seed, -1; of one that does not exist, 0
        crcs[i - 1] = standard_crc32c(s, 0) ^ MASK if summed else 0
        if len(s) >= JOIN_LIMIT:
            out.append(s)
            own = None
        elif own is None:
            own = bytearray(s)
            out.append(own)
        else:
            own += s
    epilogue = _EPILOGUE.pack(LATE_STATUS_COMPLETE, *crcs)
    if own is None:
        out.append(epilogue)
    else:
        own += epilogue
    return out


message_preambles: dict[tuple[int, int], bytes] = {}


def message_preamble(front: int, data: int) -> bytes:
    """The preamble of a message with a front and data of these lengths, made once for each pair
    of them: who is in a hurry looks into :data:`message_preambles` first."""
    if len(message_preambles) >= 4096:
        message_preambles.clear()
    lengths = [HEADER_SIZE, front, 0, data] if data else [HEADER_SIZE, front]
    preamble = message_preambles[front, data] = encode_preamble(TAG_MESSAGE, lengths)
    return preamble


def encode_message_frame(header: bytes, front: bytes, data: Buffer) -> list[Buffer]:
    """:func:`encode_frame` for messages with a front and without a middle, which is all that a
    client sends often: small frames are one buffer."""
    n = len(data)
    if n >= JOIN_LIMIT:
        return encode_frame(TAG_MESSAGE, header, front, b"", data)
    preamble = message_preambles.get((len(front), n)) or message_preamble(len(front), n)
    crc0 = _U32.pack(standard_crc32c(header, 0) ^ MASK)
    crc1 = standard_crc32c(front, 0) ^ MASK
    if n:
        epilogue = _EPILOGUE.pack(LATE_STATUS_COMPLETE, crc1, MASK, standard_crc32c(data, 0) ^ MASK)
        return [b"".join((preamble, header, crc0, front, data, epilogue))]
    return [b"".join((preamble, header, crc0, front, _EPILOGUE.pack(LATE_STATUS_COMPLETE, crc1, 0, 0)))]


class CrcWriter:
    """Makes frames in crc mode."""

    encode_frame = staticmethod(encode_frame)
    encode_message_frame = staticmethod(encode_message_frame)


class UnsummedWriter:
    """The same for `ms_crc_data = false`. A peer that sums takes such frames for damaged, so both
    sides must be set to it."""

    def encode_frame(self, tag: int, *segments: Buffer, flags: int = 0) -> list[Buffer]:
        return encode_frame(tag, *segments, flags=flags, summed=False)

    def encode_message_frame(self, header: bytes, front: bytes, data: Buffer) -> list[Buffer]:
        return encode_frame(TAG_MESSAGE, header, front, b"", data, summed=False)


Sink = Callable[[int, int], "memoryview | None"]
"""`sink(tid, length)`: where the data segment of this reply shall go: a writable view of
exactly that many bytes, or None for a new `bytes`."""


def no_sink(tid: int, length: int) -> None:
    """For connections whose answers go to no caller's buffer."""


Decompress = Callable[["Buffer", int], bytes]
"""`decompress(segment, limit)`: what it was, of at most `limit` bytes; raises ProtocolError."""

Preamble = tuple[int, int, int, int, int, int, int]
"""Tag, number of segments, four lengths, flags."""


class _Bulk:
    """A data segment on its way into its final place."""

    __slots__ = ("crc", "filled", "frame", "owned", "size", "view")

    def __init__(self, size: int, view: memoryview | None, frame: Frame) -> None:
        self.size = size
        self.owned: BytesBuffer | None = None
        if view is None:
            self.owned = BytesBuffer(min(size, BULK_ROOM))
            view = self.owned.view
        self.view = view
        self.filled = 0
        self.crc = 0
        self.frame = frame

    def room(self) -> memoryview:
        """Where its next bytes belong."""
        if self.filled == len(self.view):
            larger = BytesBuffer(min(self.size, 2 * self.filled))
            larger.view[: self.filled] = self.view
            self.owned, self.view = larger, larger.view
        return self.view[self.filled : self.filled + BULK_CHUNK]


class FrameReader:
    """Cuts received bytes into frames and checks every crc (but those of segments when told not
    to `verify` them: `ms_crc_data = false`).

    The caller writes received bytes into :meth:`get_buffer`, says how many with
    :meth:`received`, and then takes frames with :meth:`next_frame` until it gives None.
    The reader keeps its place in itself, so that it does not matter where the stream is cut.
    """

    def __init__(self, sink: Sink = no_sink, *, verify: bool = True) -> None:
        self.sink = sink
        self.max_frame = MAX_FRAME_HANDSHAKE
        self.decompress: Decompress | None = None
        self._verify = verify
        self.log: bytearray | None = None  # raw bytes of the handshake, for its signature
        self._buf = bytearray(BUFFER_SIZE)
        self._view = memoryview(self._buf)
        self._pos = 0
        self._end = 0
        self._want = 0  # bytes from _pos that the current frame needs at least
        self._bulk: _Bulk | None = None
        self._preambles: dict[bytes, Preamble] = {}
        self._replies: dict[bytes, tuple[int, int]] = {}
        """Preambles of messages with a front, no middle and little data: where both end in the frame."""

    @property
    def buffered(self) -> int:
        return self._end - self._pos

    @property
    def in_bulk(self) -> bool:
        """True while :meth:`get_buffer` gives the final place of a data segment, all of
        which may be waited for."""
        return self._bulk is not None and self._bulk.filled < self._bulk.size

    def get_buffer(self) -> memoryview:
        """Where the next received bytes belong; never empty."""
        bulk = self._bulk
        if bulk is not None and bulk.filled < bulk.size:
            return bulk.room()
        if self._pos == self._end:
            self._pos = self._end = 0
        elif self._pos and self._pos + self._want > len(self._buf):
            n = self._end - self._pos
            self._buf[:n] = self._buf[self._pos : self._end]
            self._pos, self._end = 0, n
        if self._end == len(self._buf):
            # grows with what has really come, not with what was announced
            self._buf = self._buf + bytearray(max(BUFFER_SIZE, min(self._want - self._end, len(self._buf))))
            self._view = memoryview(self._buf)
        return self._view[self._end :]

    def received(self, n: int) -> None:
        bulk = self._bulk
        if bulk is not None and bulk.filled < bulk.size:
            if self._verify:
                bulk.crc = standard_crc32c(bulk.view[bulk.filled : bulk.filled + n], bulk.crc)
            bulk.filled += n
        else:
            self._end += n

    def take(self, n: int) -> bytes | None:
        """Unframed bytes, as of the banner; None until `n` are there."""
        if self._end - self._pos < n:
            self._want = n
            return None
        raw = bytes(self._view[self._pos : self._pos + n])
        self._advance(n)
        return raw

    def peek(self) -> bytes:
        """What has been received and not taken yet."""
        return bytes(self._view[self._pos : self._end])

    def _advance(self, n: int) -> None:
        if self.log is not None:
            self.log += self._view[self._pos : self._pos + n]
        self._pos += n
        self._want = 0
        if len(self._buf) > 4 * BUFFER_SIZE and self._pos == self._end:
            self._buf = bytearray(BUFFER_SIZE)  # a large map has passed; do not keep its room
            self._view = memoryview(self._buf)
            self._pos = self._end = 0

    def _preamble(self, raw: bytes) -> Preamble:
        known = self._preambles.get(raw)
        if known is not None:  # equal bytes, so the crc was right as well
            return known
        if standard_crc32c(raw[:28], MASK) ^ MASK != int.from_bytes(raw[28:], "little"):
            raise ProtocolError("frame preamble with a wrong crc", hint="a damaged stream, or not messenger v2.1")
        tag, n, l0, _a0, l1, _a1, l2, _a2, l3, _a3, flags, _reserved = _PREAMBLE.unpack_from(raw)
        if tag not in _KNOWN_TAGS:
            raise ProtocolError(f"frame with the unknown tag {tag}")
        if not 1 <= n <= MAX_SEGMENTS:
            raise ProtocolError(f"frame with {n} segments")
        lengths = (l0, l1, l2, l3)
        if any(lengths[n:]):
            raise ProtocolError("frame preamble with lengths for segments that it does not have")
        if n > 1 and lengths[n - 1] == 0:
            raise ProtocolError("frame whose last segment is empty")
        if max(lengths) > MAX_SEGMENT or sum(lengths) > self.max_frame:
            raise ProtocolError(f"frame of {sum(lengths)} bytes, more than the {self.max_frame} accepted")
        if flags & FLAG_COMPRESSED:
            if self.decompress is None:
                raise ProtocolError("compressed frame on a connection for which no compression was agreed on")
        elif tag == TAG_MESSAGE and l0 != HEADER_SIZE:
            raise ProtocolError(f"message header of {l0} bytes, {HEADER_SIZE} expected")
        result = (tag, n, l0, l1, l2, l3, flags & FLAG_COMPRESSED)
        if len(self._preambles) >= 512:
            self._preambles.clear()
            self._replies.clear()
        self._preambles[raw] = result
        if tag == TAG_MESSAGE and n > 1 and not l2 and l3 < BULK_SIZE and not result[-1]:
            front_end = PREAMBLE_SIZE + HEADER_SIZE + 4 + l1
            self._replies[raw] = front_end, front_end + l3
        return result

    def next_frame(self) -> Frame | None:
        """The next complete frame, or None when more bytes are needed.

        Raises:
            ProtocolError: the stream is not what it should be; it cannot be read on.
        """
        while True:
            if self._bulk is not None:
                return self._finish_bulk()
            pos = self._pos
            have = self._end - pos
            if have < PREAMBLE_SIZE:
                self._want = PREAMBLE_SIZE
                return None
            view = self._view
            raw = bytes(view[pos : pos + PREAMBLE_SIZE])
            lengths = self._replies.get(raw)
            if lengths is not None and len(self._buf) <= 4 * BUFFER_SIZE:
                frame = self._next_reply(pos, have, *lengths)
                if frame is not None:
                    return frame
            tag, n, l0, l1, l2, l3, compressed = self._preamble(raw)
            at0 = pos + PREAMBLE_SIZE
            at1 = at0 + l0 + 4 if l0 else at0
            if n == 1:
                total = at1 - pos
                if have < total:
                    self._want = total
                    return None
                self._check_first(at0, l0)
                segment = view[at0 : at0 + l0]
                self._advance(total)
                return self._expand(tag, (segment,)) if compressed else Frame(tag, (segment,), None)
            at2 = at1 + l1
            at3 = at2 + l2
            if l3 >= BULK_SIZE and self.log is None and not compressed:
                head = at3 - pos
                if have < head:
                    self._want = head
                    return None
                self._start_bulk(tag, at0, l0, at1, at2, at3, l3)
                continue
            end = at3 + l3
            total = end + EPILOGUE_SIZE - pos
            if have < total:
                self._want = total
                return None
            self._check_first(at0, l0)
            status, crc1, crc2, crc3 = _EPILOGUE.unpack_from(view, end)
            if self._verify and (
                standard_crc32c(view[at1:at2], 0) ^ MASK != crc1
                or (n > 2 and standard_crc32c(view[at2:at3], 0) ^ MASK != crc2)
                or (n > 3 and standard_crc32c(view[at3:end], 0) ^ MASK != crc3)
            ):
                raise ProtocolError("frame with a wrong segment crc", hint="a damaged stream")
            segments = (view[at0 : at0 + l0], view[at1:at2], view[at2:at3])
            data = bytes(view[at3:end]) if l3 and not compressed else b""
            self._advance(total)
            if status & LATE_STATUS_MASK != LATE_STATUS_COMPLETE:
                self._check_aborted(status)
                continue
            if compressed:
                return self._expand(tag, (*segments, view[at3:end]))
            return Frame(tag, segments, data)

    def _next_reply(self, pos: int, have: int, front_end: int, end: int) -> Frame | None:
        """The straight path for what comes most often, a message with a front and a little data; None for what has to
        be looked at in full: it is not all there, or something is wrong with it."""
        if have < end + EPILOGUE_SIZE or self.log is not None:
            return None
        view = self._view
        at = pos + PREAMBLE_SIZE
        header, front = view[at : at + HEADER_SIZE], view[at + HEADER_SIZE + 4 : pos + front_end]
        data = bytes(view[pos + front_end : pos + end])
        (crc0,) = _U32.unpack_from(view, at + HEADER_SIZE)
        status, crc1, crc2, crc3 = _EPILOGUE.unpack_from(view, pos + end)
        if self._verify and (
            standard_crc32c(header, 0) ^ MASK != crc0
            or standard_crc32c(front, 0) ^ MASK != crc1
            or crc2 != (MASK if data else 0)  # of nothing, and of no segment
            or crc3 != (standard_crc32c(data, 0) ^ MASK if data else 0)
        ):
            return None
        if status & LATE_STATUS_MASK != LATE_STATUS_COMPLETE:
            return None
        self._pos = pos + end + EPILOGUE_SIZE
        self._want = 0
        return Frame(TAG_MESSAGE, (header, front, front[:0]), data)

    def only_reply(self, n: int) -> Frame | None:
        """The frame, if the `n` bytes that came last are all that there is, and one of the straight path."""
        if self._end or self._bulk is not None:
            return None
        lengths = self._replies.get(bytes(self._view[:PREAMBLE_SIZE]))
        if lengths is None or lengths[1] + EPILOGUE_SIZE != n:
            return None
        frame = self._next_reply(0, n, *lengths)
        self._pos = 0  # nothing was put into the buffer, as it were
        return frame

    def _check_first(self, at: int, length: int) -> None:
        if length and self._verify:
            segment = self._view[at : at + length]
            if standard_crc32c(segment, 0) ^ MASK != _U32.unpack_from(self._view, at + length)[0]:
                raise ProtocolError("frame with a wrong crc of its first segment", hint="a damaged stream")

    @staticmethod
    def _check_aborted(status: int) -> None:
        """The sender gave up in the middle: what it sent is garbage and the frame is dropped."""
        if status & LATE_STATUS_MASK != LATE_STATUS_ABORTED:
            raise ProtocolError(f"frame with the late status {status:#x}")

    def _expand(self, tag: int, segments: tuple[memoryview, ...]) -> Frame:
        """The frame whose segments these are, compressed."""
        decompress, budget = self.decompress, self.max_frame
        assert decompress is not None  # else its preamble was refused
        plain = []
        for segment in segments:
            raw = decompress(segment, budget) if len(segment) else b""
            budget -= len(raw)
            plain.append(raw)
        if tag == TAG_MESSAGE and len(plain[0]) != HEADER_SIZE:
            raise ProtocolError(f"message header of {len(plain[0])} bytes, {HEADER_SIZE} expected")
        if len(plain) == 1:
            return Frame(tag, (memoryview(plain[0]),), None)
        data: bytes | None = plain[3] if len(plain) > 3 else b""
        if data and len(data) >= BULK_SIZE and tag == TAG_MESSAGE:
            into = self._place(plain[0], len(data))
            if into is not None:
                into[:] = data
                data = None
        return Frame(tag, (memoryview(plain[0]), memoryview(plain[1]), memoryview(plain[2])), data)

    def _place(self, header: bytes, length: int) -> memoryview | None:
        """Where the sink wants the data of the message with this header."""
        into = self.sink(_HEADER.unpack(header)[1], length)
        return into if into is not None and len(into) == length else None

    def _start_bulk(self, tag: int, at0: int, l0: int, at1: int, at2: int, at3: int, l3: int) -> None:
        self._check_first(at0, l0)
        view = self._view
        header = bytes(view[at0 : at0 + l0])
        # copies: the receive buffer is reused while the data segment comes in
        segments = (memoryview(header), memoryview(bytes(view[at1:at2])), memoryview(bytes(view[at2:at3])))
        into = self._place(header, l3) if tag == TAG_MESSAGE else None
        self._bulk = bulk = _Bulk(l3, into, Frame(tag, segments, None))
        self._advance(at3 - self._pos)
        while bulk.filled < l3 and self._pos < self._end:
            room = bulk.room()
            n = min(len(room), self._end - self._pos)
            room[:n] = view[self._pos : self._pos + n]
            if self._verify:
                bulk.crc = standard_crc32c(room[:n], bulk.crc)
            bulk.filled += n
            self._advance(n)

    def _finish_bulk(self) -> Frame | None:
        bulk = self._bulk
        assert bulk is not None
        if bulk.filled < bulk.size:
            return None
        if self._end - self._pos < EPILOGUE_SIZE:
            self._want = EPILOGUE_SIZE
            return None
        status, crc1, crc2, crc3 = _EPILOGUE.unpack_from(self._view, self._pos)
        self._advance(EPILOGUE_SIZE)
        _, front, middle = bulk.frame.segments
        if self._verify and (
            standard_crc32c(front, 0) ^ MASK != crc1
            or standard_crc32c(middle, 0) ^ MASK != crc2
            or bulk.crc ^ MASK != crc3
        ):
            raise ProtocolError("frame with a wrong segment crc", hint="a damaged stream")
        self._bulk = None
        if status & LATE_STATUS_MASK != LATE_STATUS_COMPLETE:
            self._check_aborted(status)
            return self.next_frame()
        if bulk.owned is None:
            return bulk.frame
        return bulk.frame._replace(data=bulk.owned.take())
