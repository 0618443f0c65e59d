"""A daemon's side of the messenger for tests of ours, without a socket: what no real daemon can be
made to say in every state."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

from pyrbd.denc import Buffer, Decoder
from pyrbd.msgr.auth import AUTH_METHOD_CEPHX, Authenticator, AuthResult
from pyrbd.msgr.compression import CompressingWriter, codec
from pyrbd.msgr.connection import (
    AuthDone,
    ClientIdent,
    CompressionDone,
    CompressionRequest,
    Connection,
    Hello,
    ServerIdent,
)
from pyrbd.msgr.features import FEATURES_SUPPORTED
from pyrbd.msgr.frames import (
    BANNER_SIZE,
    FEATURE_COMPRESSION,
    FEATURE_REVISION_1,
    HEADER_SIZE,
    MAX_SEGMENT,
    MODE_CRC,
    MODE_SECURE,
    CrcWriter,
    Frame,
    FrameReader,
    Tag,
    Writer,
    encode_banner,
)
from pyrbd.msgr.secure import Keys, SecureReader, SecureWriter
from pyrbd.msgr.types import ENTITY_TYPE_OSD, EntityAddr, EntityAddrVec

ADDR = EntityAddr(EntityAddr.TYPE_MSGR2, 99, "10.0.0.1", 6800)
CLIENT_ADDR = EntityAddr(EntityAddr.TYPE_MSGR2, 0, "10.0.0.2", 0)
KEY = b"a session's key."
SECRET = bytes(range(64))


class Trusting(Authenticator):
    """An authentication that ends well."""

    method = AUTH_METHOD_CEPHX

    def __init__(self, secret: bytes = SECRET) -> None:
        self.secret = secret

    def request(self) -> bytes:
        return b"it is me"

    def reply_more(self, payload: Buffer) -> bytes:
        return b"really"

    def done(self, payload: Buffer) -> AuthResult:
        return AuthResult(KEY, self.secret, {})


class Peer:
    """An OSD as far as the messenger is concerned. `handshake` goes as far as CLIENT_IDENT."""

    def __init__(
        self,
        *,
        mode: int = MODE_CRC,
        banner: int = FEATURE_REVISION_1,
        chooses: int | None = None,
        secret: bytes = SECRET,
        **options: Any,
    ) -> None:
        self.mode = mode
        self.banner = banner
        self.chooses = chooses
        """The compression that it agrees to, or None for none."""
        self.secret = secret
        self.conn = Connection(
            ENTITY_TYPE_OSD, ADDR, Trusting(secret), own_nonce=5, modes=options.pop("modes", (mode,)), **options
        )
        self.reader: FrameReader = FrameReader()
        self.reader.log = bytearray()
        self.reader.max_frame = MAX_SEGMENT
        self.writer: Writer = CrcWriter()
        self.said = bytearray()
        self.idents: list[ClientIdent] = []
        self.request: CompressionRequest | None = None

    # ------------------------------------------------------------ bytes

    def say(self, raw: bytes) -> list[Any]:
        self.said += raw
        return self.conn.receive_data(raw)

    def frame(self, tag: int, *segments: bytes) -> bytes:
        return b"".join(map(bytes, self.writer.encode_frame(tag, *segments)))

    def hear(self) -> list[Frame]:
        """What the client sends, as frames that stay valid."""
        found = []
        for b in self.conn.data_to_send():
            self.take(b)
            while (frame := self.reader.next_frame()) is not None:
                found.append(frame._replace(segments=tuple(memoryview(bytes(s)) for s in frame.segments)))
        return found

    def take(self, b: Buffer) -> None:
        view = memoryview(b)
        while len(view):
            into = self.reader.get_buffer()
            n = min(len(into), len(view))
            into[:n] = view[:n]
            self.reader.received(n)
            view = view[n:]

    # ------------------------------------------------------------ the handshake

    def handshake(self) -> None:
        self.take(b"".join(map(bytes, self.conn.data_to_send())))
        assert self.reader.take(BANNER_SIZE)
        self.say(encode_banner(self.banner))
        assert [f.tag for f in self.hear()] == [Tag.HELLO, Tag.AUTH_REQUEST]
        self.say(self.frame(Tag.HELLO, Hello(ENTITY_TYPE_OSD, CLIENT_ADDR).to_bytes()))
        self.say(self.frame(Tag.AUTH_DONE, AuthDone(7, self.mode, b"").to_bytes()))
        received, said = bytes(self.reader.log or b""), bytes(self.said)
        self.reader.log = None
        if self.mode == MODE_SECURE:
            keys = Keys.from_secret(self.secret).crossed()
            self.reader, self.writer = SecureReader(keys, self.reader), SecureWriter(keys)
        frames = self.hear()
        assert frames[0].tag == Tag.AUTH_SIGNATURE
        assert bytes(frames[0].segments[0]) == hmac.new(KEY, said, hashlib.sha256).digest()
        self.say(self.frame(Tag.AUTH_SIGNATURE, hmac.new(KEY, received, hashlib.sha256).digest()))
        if self.banner & FEATURE_COMPRESSION and frames[1].tag == Tag.COMPRESSION_REQUEST:
            self.request = CompressionRequest.decode(Decoder(frames.pop(1).segments[0]))
            done = CompressionDone(self.chooses is not None, self.chooses or 0)
            self.say(self.frame(Tag.COMPRESSION_DONE, done.to_bytes()))
            if self.chooses is not None:
                method = codec(self.chooses)
                self.reader.decompress = method.decompress
                self.writer = CompressingWriter(self.writer, method, 0)
        assert [f.tag for f in frames[1:]] == [Tag.CLIENT_IDENT]
        self.hear_ident(frames[1])

    def hear_ident(self, frame: Frame) -> None:
        assert frame.tag == Tag.CLIENT_IDENT
        self.idents.append(ClientIdent.decode(Decoder(frame.segments[0])))

    def ident(self, addr: EntityAddr = ADDR, features: int = FEATURES_SUPPORTED, required: int = 0) -> bytes:
        ident = ServerIdent(EntityAddrVec((addr,)), 3, 1, features, required, 1, 0)
        return self.frame(Tag.SERVER_IDENT, ident.to_bytes())

    def ready(self) -> None:
        self.handshake()
        (event,) = self.say(self.ident())
        assert event.server.gid == 3

    def message(self, seq: int, front: bytes, data: bytes = b"", tid: int = 0) -> bytes:
        header = seq.to_bytes(8, "little") + tid.to_bytes(8, "little") + bytes(HEADER_SIZE - 16)
        return self.frame(Tag.MESSAGE, header, front, b"", data)
