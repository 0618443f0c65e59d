"""Frames in secure mode: AES-128-GCM (`doc/dev/msgr2.rst` "secure mode", `src/msg/async/frames_v2.cc`
``asm_secure_rev1``, `src/msg/async/crypto_onwire.cc`).

What crc mode sums is encrypted here, in two or three pieces with a tag and a nonce of its own each::

    piece A    preamble | the first 48 bytes of seg0, filled up with zeros       | tag
    piece B    the rest of seg0, to whole blocks; absent when 48 bytes were enough | tag
    piece C    seg1 | seg2 | seg3, each to whole blocks | late status, 15 zeros  | tag
               absent when there is one segment

The header of a message has 41 bytes, so a message is A and C. A nonce is four fixed bytes and
a counter of 64 bits that goes up with each piece, in each direction; it never comes round.

Small pieces are one call of `AESGCM`. A data segment of some size is decrypted while it comes
in: its ciphertext passes through the receive buffer, which stays in the cache, into its final
place. What is there before the tag was checked belongs to nobody yet: it is given out, or
taken by the caller whose buffer it is, with the frame; a wrong tag ends the connection and
leaves zeros.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ..errors import AuthError, ProtocolError
from .buffers import BytesBuffer
from .frames import (
    BULK_ROOM,
    BULK_SIZE,
    HEADER_SIZE,
    LATE_STATUS_COMPLETE,
    LATE_STATUS_MASK,
    PREAMBLE_SIZE,
    TAG_MESSAGE,
    Frame,
    FrameReader,
    Preamble,
    encode_preamble,
    message_preamble,
    message_preambles,
    without_empty_tail,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers import AEADDecryptionContext

    from ..denc import Buffer

KEY_SIZE = 16
NONCE_SIZE = 12
TAG_SIZE = 16
BLOCK = 16
INLINE_SIZE = 48
"""Bytes of the first segment that travel with the preamble."""
PIECE_A_SIZE = PREAMBLE_SIZE + INLINE_SIZE + TAG_SIZE
EPILOGUE_SIZE = 16
_EPILOGUE = bytes([LATE_STATUS_COMPLETE]).ljust(EPILOGUE_SIZE, b"\0")
_ZEROS = bytes(BLOCK)
_PADDING = [bytes(-n % BLOCK) for n in range(BLOCK)]
_HEADER_PADDING = bytes(INLINE_SIZE - HEADER_SIZE)
_U64 = (1 << 64) - 1

STREAM_SIZE = 128 * 1024
"""A piece of at least so many bytes is encrypted part by part into one buffer: below it, copying
the parts together for one call takes less time."""


@cache
def has_streams() -> bool:
    """Whether a cipher writes into a buffer of the right size. Releases of `cryptography` that are older
    than what we ask for, as a distribution's on PYTHONPATH, want 15 bytes more; all goes by `AESGCM` then."""
    try:
        Cipher(algorithms.AES(bytes(KEY_SIZE)), modes.GCM(bytes(NONCE_SIZE))).encryptor().update_into(
            b"x", bytearray(1)
        )
    except ValueError:
        return False
    return True


class Nonces:
    """The nonces of one direction, each used once."""

    __slots__ = ("_end", "_fixed", "_next")

    def __init__(self, first: bytes) -> None:
        self._fixed = first[:4]
        self._next = int.from_bytes(first[4:NONCE_SIZE], "little")
        self._end = self._next + (1 << 64)

    def take(self) -> bytes:
        """The next one.

        Raises:
            ProtocolError: all have been used; the connection has to end.
        """
        counter = self._next
        if counter >= self._end:
            raise ProtocolError("all nonces of this connection have been used")
        self._next = counter + 1
        return self._fixed + (counter & _U64).to_bytes(8, "little")


class Keys(NamedTuple):
    """What a connection secret is made of (`rxtx_t::create_handler_pair`)."""

    key: bytes
    rx_nonce: bytes
    tx_nonce: bytes

    def __repr__(self) -> str:
        return "<Keys>"

    @classmethod
    def from_secret(cls, secret: bytes) -> Keys:
        """Those of the side that connects; the other one has the nonces crossed.

        Raises:
            AuthError: EPROTO when the secret is too short, as after no authentication.
        """
        if len(secret) < KEY_SIZE + 2 * NONCE_SIZE:
            raise AuthError(f"secure mode with a connection secret of {len(secret)} bytes", errno=71)
        at = KEY_SIZE + NONCE_SIZE
        return cls(secret[:KEY_SIZE], secret[KEY_SIZE:at], secret[at : at + NONCE_SIZE])

    def crossed(self) -> Keys:
        """Those of the side that was connected to."""
        return Keys(self.key, self.tx_nonce, self.rx_nonce)


class SecureWriter:
    """Makes encrypted frames."""

    def __init__(self, keys: Keys) -> None:
        self._algorithm = algorithms.AES(keys.key)
        self._encrypt = AESGCM(keys.key).encrypt
        self._nonce = Nonces(keys.tx_nonce).take

    def encode_frame(self, tag: int, *segments: Buffer, flags: int = 0) -> list[Buffer]:
        """The buffers of one frame: one for what is small, two with a large data segment."""
        segments = without_empty_tail(segments)
        preamble = encode_preamble(tag, [len(s) for s in segments], flags)
        first = bytes(segments[0])
        head = self._encrypt(self._nonce(), preamble + first[:INLINE_SIZE].ljust(INLINE_SIZE, b"\0"), None)
        if len(first) > INLINE_SIZE:
            head += self._encrypt(self._nonce(), first[INLINE_SIZE:] + _PADDING[len(first) % BLOCK], None)
        if len(segments) == 1:
            return [head]
        rest = segments[1:]
        size = sum(len(s) + -len(s) % BLOCK for s in rest) + EPILOGUE_SIZE
        if size >= STREAM_SIZE and has_streams():
            return [head, self._stream(rest, size)]
        parts: list[Buffer] = []
        for s in rest:
            parts += (s, _PADDING[len(s) % BLOCK])
        parts.append(_EPILOGUE)
        return [head + self._encrypt(self._nonce(), b"".join(parts), None)]

    def _stream(self, segments: tuple[Buffer, ...], size: int) -> bytes:
        """Piece C, encrypted without joining its parts first."""
        encryptor = Cipher(self._algorithm, modes.GCM(self._nonce())).encryptor()
        buffer = BytesBuffer(size + TAG_SIZE)
        view, at = buffer.view, 0
        for s in segments:
            n = len(s)
            if n:
                encryptor.update_into(s, view[at : at + n])
                padding = _PADDING[n % BLOCK]
                if padding:
                    encryptor.update_into(padding, view[at + n : at + n + len(padding)])
                at += n + len(padding)
        encryptor.update_into(_EPILOGUE, view[at : at + EPILOGUE_SIZE])
        encryptor.finalize()
        view[size:] = encryptor.tag
        return buffer.take()

    def encode_message_frame(self, header: bytes, front: bytes, data: Buffer) -> list[Buffer]:
        """The same for a message with a front and without a middle, in a hurry."""
        n = len(data)
        if n >= STREAM_SIZE:
            return self.encode_frame(TAG_MESSAGE, header, front, b"", data)
        preamble = message_preambles.get((len(front), n)) or message_preamble(len(front), n)
        nonce, encrypt = self._nonce, self._encrypt
        head = encrypt(nonce(), preamble + header + _HEADER_PADDING, None)
        if n:
            rest = b"".join((front, _PADDING[len(front) % BLOCK], data, _PADDING[n % BLOCK], _EPILOGUE))
        else:
            rest = b"".join((front, _PADDING[len(front) % BLOCK], _EPILOGUE))
        return [head + encrypt(nonce(), rest, None)]


class _Bulk:
    """A data segment on its way into its final place, and what came before it."""

    __slots__ = ("decryptor", "filled", "frame", "owned", "size", "view")

    def __init__(self, size: int, view: memoryview | None, frame: Frame, decryptor: AEADDecryptionContext) -> None:
        self.size = size
        self.owned: BytesBuffer | None = None
        if view is None:
            self.owned = BytesBuffer(min(size, BULK_ROOM))
            view = self.owned.view
        self.view = view
        self.filled = 0
        self.frame = frame
        self.decryptor = decryptor

    def take(self, ciphertext: memoryview) -> None:
        n = len(ciphertext)
        if self.filled + n > len(self.view):
            larger = BytesBuffer(min(self.size, 2 * (self.filled + n)))
            larger.view[: self.filled] = self.view[: self.filled]
            self.owned, self.view = larger, larger.view
        if n:
            self.decryptor.update_into(ciphertext, self.view[self.filled : self.filled + n])
            self.filled += n


class SecureReader(FrameReader):
    """Cuts received bytes into frames, of which nothing is given out before its tag was checked.

    It goes on where `before`, the reader of the connection's beginning, has ended.
    """

    def __init__(self, keys: Keys, before: FrameReader) -> None:
        super().__init__(before.sink)
        self.max_frame = before.max_frame
        self._buf, self._view, self._pos, self._end = before._buf, before._view, before._pos, before._end
        self._algorithm = algorithms.AES(keys.key)
        self._decrypt = AESGCM(keys.key).decrypt
        self._nonce = Nonces(keys.rx_nonce).take
        self._head: tuple[Preamble, bytes] | None = None
        """What piece A of the current frame had, once it was opened."""
        self._stream: _Bulk | None = None

    @property
    def in_bulk(self) -> bool:
        stream = self._stream
        return stream is not None and stream.filled < stream.size

    def get_buffer(self) -> memoryview:
        stream = self._stream
        if stream is not None and stream.filled < stream.size:
            # nothing else is in the receive buffer, so all of it is there for the ciphertext
            return self._view[: stream.size - stream.filled]
        return super().get_buffer()

    def received(self, n: int) -> None:
        stream = self._stream
        if stream is not None and stream.filled < stream.size:
            stream.take(self._view[:n])
        else:
            self._end += n

    def _open(self, at: int, size: int) -> bytes:
        """The plaintext of the piece of `size` bytes, tag included, at `at` of the receive buffer."""
        try:
            return self._decrypt(self._nonce(), bytes(self._view[at : at + size]), None)
        except InvalidTag:
            raise _wrong_tag() from None

    def next_frame(self) -> Frame | None:
        while True:
            if self._stream is not None:
                return self._finish_stream()
            have = self._end - self._pos
            head = self._head
            if head is None:
                if have < PIECE_A_SIZE:
                    self._want = PIECE_A_SIZE
                    return None
                plain = self._open(self._pos, PIECE_A_SIZE)
                head = (self._preamble(plain[:PREAMBLE_SIZE]), plain[PREAMBLE_SIZE:])
                self._advance(PIECE_A_SIZE)
                have -= PIECE_A_SIZE
            (tag, n, l0, l1, l2, l3, compressed), first = head
            piece_b = l0 + -l0 % BLOCK - INLINE_SIZE + TAG_SIZE if l0 > INLINE_SIZE else 0
            if n == 1:
                if have < piece_b:
                    self._head, self._want = head, piece_b
                    return None
                self._head = None
                if piece_b:
                    first += self._open(self._pos, piece_b)
                    self._advance(piece_b)
                segment = memoryview(first)[:l0]
                return self._expand(tag, (segment,)) if compressed else Frame(tag, (segment,), None)
            at2 = l1 + -l1 % BLOCK
            at3 = at2 + l2 + -l2 % BLOCK
            bulk = l3 >= BULK_SIZE and not compressed and has_streams()
            end = at3 + l3 + -l3 % BLOCK
            need = piece_b + at3 if bulk else piece_b + end + EPILOGUE_SIZE + TAG_SIZE
            if have < need:
                self._head, self._want = head, need
                return None
            self._head = None
            if piece_b:
                first += self._open(self._pos, piece_b)
                self._advance(piece_b)
            if bulk:
                self._start_stream(tag, first[:l0], l1, l2, l3)
                continue
            size = end + EPILOGUE_SIZE + TAG_SIZE
            rest = self._open(self._pos, size)
            self._advance(size)
            if rest[end] & LATE_STATUS_MASK != LATE_STATUS_COMPLETE:
                self._check_aborted(rest[end])
                continue
            view = memoryview(rest)
            segments = (memoryview(first)[:l0], view[:l1], view[at2 : at2 + l2])
            if compressed:
                return self._expand(tag, (*segments, view[at3 : at3 + l3]))
            return Frame(tag, segments, rest[at3 : at3 + l3])

    def _start_stream(self, tag: int, header: bytes, l1: int, l2: int, l3: int) -> None:
        """Piece C with a large data segment, of which the middle and all before it are there."""
        decryptor = Cipher(self._algorithm, modes.GCM(self._nonce())).decryptor()
        at2 = l1 + -l1 % BLOCK
        at3 = at2 + l2 + -l2 % BLOCK
        view, pos = self._view, self._pos
        plain = memoryview(decryptor.update(view[pos : pos + at3]))
        self._advance(at3)
        # of what this frame is, only its header is known for sure yet
        into = self._place(header, l3) if tag == TAG_MESSAGE else None
        frame = Frame(tag, (memoryview(header), plain[:l1], plain[at2 : at2 + l2]), None)
        self._stream = stream = _Bulk(l3, into, frame, decryptor)
        view, pos = self._view, self._pos
        n = min(l3, self._end - pos)
        stream.take(view[pos : pos + n])
        self._advance(n)

    def _finish_stream(self) -> Frame | None:
        stream = self._stream
        assert stream is not None
        if stream.filled < stream.size:
            return None
        padding = -stream.size % BLOCK
        size = padding + EPILOGUE_SIZE + TAG_SIZE
        pos = self._pos
        if self._end - pos < size:
            self._want = size
            return None
        tail = bytes(self._view[pos : pos + size])
        epilogue = stream.decryptor.update(tail[:-TAG_SIZE])[padding:]
        try:
            stream.decryptor.finalize_with_tag(tail[-TAG_SIZE:])
        except InvalidTag:
            stream.view[:] = bytes(len(stream.view))
            raise _wrong_tag() from None
        self._advance(size)
        self._stream = None
        if epilogue[0] & LATE_STATUS_MASK != LATE_STATUS_COMPLETE:
            self._check_aborted(epilogue[0])
            return self.next_frame()
        if stream.owned is None:
            return stream.frame
        return stream.frame._replace(data=stream.owned.take())


def _wrong_tag() -> ProtocolError:
    return ProtocolError(
        "frame that does not decrypt in secure mode", hint="a damaged stream, or somebody else's, or a peer in crc mode"
    )
