"""A client's connection to one daemon, without a socket (`doc/dev/msgr2.rst`).

Theory of operation
-------------------
The driver writes received bytes into :meth:`Connection.get_buffer`, reports them with
:meth:`Connection.received` and handles the events that come out; it sends whatever
:meth:`Connection.data_to_send` gives. During the handshake the connection answers by
itself; once it is `READY` the owner gives it messages to frame.

:data:`TRANSITIONS` *is* the handshake::

    BANNER --banner--> HELLO --HELLO--> AUTH --AUTH_DONE--> SIGNATURE --AUTH_SIGNATURE--> IDENT
    SIGNATURE --AUTH_SIGNATURE--> COMPRESSION --COMPRESSION_DONE--> IDENT   when both banners say so
    IDENT --SERVER_IDENT--> READY

AUTH_DONE says whether the connection goes on in crc or in secure mode: all that follows it, in
both directions, is in that mode (:mod:`pyrbd.msgr.secure`).

A client's connections are lossy (CLIENT_IDENT says so): when one breaks, a new one starts
from the beginning, and what was not answered is sent again by the layer above. So nothing is
ever resumed here, and the answers to SESSION_RECONNECT, which we do not send, mean that the peer
takes us for somebody else: the connection ends and another is made. Of what a daemon may
say to CLIENT_IDENT, WAIT has the same meaning, and SESSION_RETRY_GLOBAL asks for a later number.

To save round trips, HELLO and AUTH_REQUEST are sent together, as are AUTH_SIGNATURE and
CLIENT_IDENT; nothing of what the peer says is used before its signature has been checked.
"""

import hashlib
import hmac
import struct as _struct
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Annotated, NamedTuple

from ..denc import Buffer, Decoder, Struct, Vector, blob, boolean, s32, s64, u8, u32, u64
from ..errors import AuthError, DecodeError, IncompatibleError, ProtocolError, errno_name
from ..log import Log
from . import frames
from .auth import AUTH_METHOD_NAMES, AUTH_METHOD_NONE, Authenticator, AuthResult
from .features import FEATURES_REQUIRED, FEATURES_SUPPORTED, feature_names
from .frames import (
    BANNER,
    BANNER_PAYLOAD,
    BANNER_SIZE,
    FEATURE_COMPRESSION,
    FEATURE_REVISION_1,
    MODE_CRC,
    MODE_NAMES,
    MODE_SECURE,
    TAG_MESSAGE,
    CrcWriter,
    Frame,
    FrameReader,
    MessageHeader,
    Sink,
    Tag,
    UnsummedWriter,
    Writer,
    decode_message_header,
    encode_banner,
)
from .types import (
    ENTITY_TYPE_CLIENT,
    ENTITY_TYPE_MGR,
    ENTITY_TYPE_MON,
    ENTITY_TYPE_NAMES,
    EntityAddr,
    EntityAddrVec,
    Utime,
)

if TYPE_CHECKING:
    from .compression import Offer

_log = Log("msgr")

# ---------------------------------------------------------------- control frames


class Hello(Struct):
    """HELLO: who speaks, and how it sees its peer's address."""

    entity_type: u8
    peer_addr: EntityAddr


class AuthRequest(Struct):
    """AUTH_REQUEST: method, connection modes in order of preference, method's payload."""

    method: u32
    preferred_modes: Annotated[tuple[int, ...], Vector(u32)]
    payload: blob


class AuthBadMethod(Struct):
    """AUTH_BAD_METHOD: refused, and what would have been allowed."""

    method: u32
    result: s32
    allowed_methods: Annotated[tuple[int, ...], Vector(u32)]
    allowed_modes: Annotated[tuple[int, ...], Vector(u32)]


class AuthMore(Struct):
    """AUTH_REPLY_MORE and AUTH_REQUEST_MORE."""

    payload: blob


class AuthDone(Struct, secret=("payload",)):
    """AUTH_DONE: our global id, the chosen connection mode, the method's payload."""

    global_id: u64
    con_mode: u32
    payload: blob


class ClientIdent(Struct):
    """CLIENT_IDENT: our addresses, the one we believe to talk to, and our features."""

    addrs: EntityAddrVec
    target: EntityAddr
    gid: s64
    global_seq: u64
    features_supported: u64
    features_required: u64
    flags: u64
    cookie: u64


class ServerIdent(Struct):
    """SERVER_IDENT."""

    addrs: EntityAddrVec
    gid: s64
    global_seq: u64
    features_supported: u64
    features_required: u64
    flags: u64
    cookie: u64


class IdentMissingFeatures(Struct):
    features: u64


class SessionReset(Struct):
    """SESSION_RESET."""

    full: boolean


class SessionRetry(Struct):
    """SESSION_RETRY."""

    connect_seq: u64


class SessionRetryGlobal(Struct):
    """SESSION_RETRY_GLOBAL: the highest number of ours that the peer has seen."""

    global_seq: u64


class SessionReconnectOk(Struct):
    """SESSION_RECONNECT_OK."""

    msg_seq: u64


class CompressionRequest(Struct):
    """COMPRESSION_REQUEST: whether we want any, and the algorithms in order of preference."""

    is_compress: boolean
    preferred_methods: Annotated[tuple[int, ...], Vector(u32)]


class CompressionDone(Struct):
    """COMPRESSION_DONE."""

    is_compress: boolean
    method: u32


class Keepalive(Struct):
    """KEEPALIVE2 and its ACK."""

    stamp: Utime


class Ack(Struct):
    seq: u64


FLAG_LOSSY = 1

# ---------------------------------------------------------------- events


class Ready(NamedTuple):
    """The handshake is complete; messages may be sent."""

    auth: AuthResult
    global_id: int
    features: int
    server: ServerIdent


class Message(NamedTuple):
    """A message. `front` and `middle` are views that are valid until more is received;
    `data` is `bytes` to keep, or None when it went to where the sink said."""

    header: MessageHeader
    front: memoryview
    middle: memoryview
    data: "bytes | None"


class KeepaliveAck(NamedTuple):
    """The peer's answer to :meth:`Connection.send_keepalive`."""

    stamp: Utime


Event = Ready | Message | KeepaliveAck


class State(Enum):
    BANNER = "banner"
    HELLO = "hello"
    AUTH = "auth"
    SIGNATURE = "signature"
    COMPRESSION = "compression"
    IDENT = "ident"
    READY = "ready"
    CLOSED = "closed"


TRANSITIONS: dict[State, dict[int, str]] = {
    State.BANNER: {},
    State.HELLO: {Tag.HELLO: "_on_hello"},
    State.AUTH: {
        Tag.AUTH_REPLY_MORE: "_on_auth_reply_more",
        Tag.AUTH_BAD_METHOD: "_on_auth_bad_method",
        Tag.AUTH_DONE: "_on_auth_done",
    },
    State.SIGNATURE: {Tag.AUTH_SIGNATURE: "_on_auth_signature"},
    State.COMPRESSION: {Tag.COMPRESSION_DONE: "_on_compression_done"},
    State.IDENT: {
        Tag.SERVER_IDENT: "_on_server_ident",
        Tag.IDENT_MISSING_FEATURES: "_on_missing_features",
        Tag.WAIT: "_on_wait",
        Tag.SESSION_RETRY_GLOBAL: "_on_retry_global",
        Tag.SESSION_RETRY: "_on_retry",
        Tag.SESSION_RESET: "_on_reset",
        Tag.SESSION_RECONNECT_OK: "_on_reconnect_ok",
        Tag.KEEPALIVE2: "_on_keepalive",
    },
    State.READY: {
        Tag.MESSAGE: "_on_message",
        Tag.KEEPALIVE2: "_on_keepalive",
        Tag.KEEPALIVE2_ACK: "_on_keepalive_ack",
        Tag.ACK: "_on_ack",
    },
    State.CLOSED: {},
}

MAX_HANDSHAKE_FRAMES = 16
"""No handshake needs as many: an authentication has two or three rounds."""

_MSG1_BANNER = b"ceph v027"
MODE_OPTIONS = {ENTITY_TYPE_MON: "ms_mon_client_mode", ENTITY_TYPE_MGR: "ms_mon_client_mode"}
"""The option that has our modes for a kind of daemon; for the others it is `ms_client_mode`."""
MAX_RETRIES = 4
"""So often a peer may ask for a later global_seq."""
_SEQ_TID_ETC = _struct.Struct("<QQHHHIHQBHH")


class Connection:
    """One connection to a monitor, OSD or manager.

    Args:
        peer_type: the kind of daemon that is expected (``ENTITY_TYPE_*``).
        target: the address that is connected to, nonce included (an OSD refuses another).
        auth: the authentication to carry out.
        own_nonce: makes our address unique among our processes and clients.
        global_id: ours, or 0 when this connection is to get one.
        global_seq: numbers the connections of a client, so that a peer tells old from new.
        next_global_seq: gives a number above both its argument and what it gave before.
        modes: connection modes in order of preference. Without authentication there are no keys
            for secure mode, and it is not offered.
        features: what we say that we have; peers choose encodings by it.
        compression: what to ask for, if anything.
        crc_data: False for `ms_crc_data = false`.
        sink: see :data:`pyrbd.msgr.frames.Sink`.

    Raises:
        AuthError: EOPNOTSUPP when no mode is left.

    All methods that take received bytes raise :class:`ProtocolError`, :class:`DecodeError`
    or :class:`AuthError` when the connection cannot go on; it is `CLOSED` then.
    """

    def __init__(
        self,
        peer_type: int,
        target: EntityAddr,
        auth: Authenticator,
        *,
        own_nonce: int,
        global_id: int = 0,
        global_seq: int = 1,
        next_global_seq: Callable[[int], int] | None = None,
        modes: tuple[int, ...] = (MODE_CRC,),
        features: int = FEATURES_SUPPORTED,
        compression: "Offer | None" = None,
        crc_data: bool = True,
        sink: Sink = frames.no_sink,
    ) -> None:
        self.peer_type = peer_type
        self.target = target
        self.label = self.peer_name
        """Of the connection in the log; who knows the daemon's name puts it there."""
        self.state = State.BANNER
        self.global_id = global_id
        self.features = 0
        self.own_addr: EntityAddr | None = None
        self.mode = MODE_CRC
        """The connection mode, once AUTH_DONE has chosen it."""
        self.compression = 0
        """The number of the algorithm that frames may be compressed with, or 0."""
        self.in_seq = 0
        self._auth = auth
        self._modes = self._offered = modes
        self._offer = compression
        self._asked = False  # for compression
        self._announced = features
        self._own_nonce = own_nonce
        self._global_seq = global_seq
        self._next_global_seq = next_global_seq
        self._retries = 0
        self._out_seq = 0
        # appended to by who receives, taken by who sends: each is one operation of the deque
        self._out: deque[Buffer | tuple[int, bytes]] = deque()
        self._sent_log = bytearray()
        self._result: AuthResult | None = None
        self._expected_signature = b""
        self._reader = FrameReader(verify=crc_data)
        self._reader.log = bytearray()
        self._sink = sink
        self._handshake_frames = 0
        self.get_buffer = self._reader.get_buffer
        self._write_with(CrcWriter() if crc_data else UnsummedWriter())
        self._send(encode_banner(FEATURE_REVISION_1 | (FEATURE_COMPRESSION if compression else 0)))

    def _write_with(self, writer: Writer) -> None:
        self._writer = writer
        self._message_frame = writer.encode_message_frame

    def __repr__(self) -> str:
        return f"<Connection to {self.peer_name} at {self.target} {self.state.value}>"

    @property
    def auth(self) -> Authenticator:
        """The authentication in use: of those that we offered, the one that the peer took."""
        return self._auth

    @property
    def peer_name(self) -> str:
        return ENTITY_TYPE_NAMES.get(self.peer_type, str(self.peer_type))

    @property
    def _mode_option(self) -> str:
        return MODE_OPTIONS.get(self.peer_type, "ms_client_mode")

    @property
    def in_bulk(self) -> bool:
        """True while the buffer of :meth:`get_buffer` should be filled to its end."""
        return self._reader.in_bulk

    # ------------------------------------------------------------ bytes in, bytes out

    @property
    def has_data_to_send(self) -> bool:
        return bool(self._out)

    def data_to_send(self) -> list[Buffer]:
        """Takes what the connection itself wants to send; to be called by who sends, and sent
        before what is framed later."""
        out: list[Buffer] = []
        while self._out:
            item = self._out.popleft()
            if isinstance(item, tuple):
                out += self._writer.encode_frame(*item)
            else:
                out.append(item)
        return out

    def received(self, n: int) -> list[Event]:
        """`n` bytes were written into :meth:`get_buffer`; 0 means that the peer closed."""
        if n == 0:
            self._closed_by_peer()
        events: list[Event] = []
        try:
            self._reader.received(n)
            if self.state is State.BANNER and not self._read_banner():
                return events
            # AUTH_DONE may bring another reader
            while (frame := self._reader.next_frame()) is not None:
                if frame.tag == TAG_MESSAGE and self.state is State.READY:
                    events.append(self._on_message(frame))
                    if not self._reader.buffered:
                        break  # most often: one answer, and no more
                else:
                    event = self._dispatch(frame)
                    if event is not None:
                        events.append(event)
        except (ProtocolError, DecodeError, AuthError):
            self.state = State.CLOSED
            raise
        return events

    def only_message(self, n: int) -> Message | None:
        """The message, if the `n` bytes that were written into :meth:`get_buffer` are a small one and nothing else; or
        None, and :meth:`received` is to be called."""
        frame = self._reader.only_reply(n) if self.state is State.READY else None
        return None if frame is None else self._on_message(frame)

    def receive_data(self, data: Buffer) -> list[Event]:
        """As :meth:`received`, for bytes that are already somewhere else."""
        view = memoryview(data)
        events: list[Event] = []
        if not len(view):
            return self.received(0)
        while len(view):
            into = self._reader.get_buffer()
            n = min(len(into), len(view))
            into[:n] = view[:n]
            view = view[n:]
            events += self.received(n)
        return events

    def encode_message(
        self,
        tid: int,
        kind: int,
        version: int,
        compat: int,
        priority: int,
        front: bytes,
        data: Buffer = b"",
    ) -> list[Buffer]:
        """Frames a message; the caller sends the buffers in order, and all of them, before what is
        framed after it: in secure mode a frame has its place in the stream."""
        self._out_seq += 1
        header = _SEQ_TID_ETC.pack(self._out_seq, tid, kind, priority, version, 0, 0, self.in_seq, 1, compat, 0)
        if not front:
            return self._writer.encode_frame(TAG_MESSAGE, header, front, b"", data)
        return self._message_frame(header, front, data)

    def send_keepalive(self, stamp: Utime) -> None:
        """Asks the peer for a sign of life; a :class:`KeepaliveAck` with `stamp` follows."""
        self._send_later(Tag.KEEPALIVE2, Keepalive(stamp).to_bytes())

    # ------------------------------------------------------------ sending in the handshake

    def _send(self, data: bytes) -> None:
        """What is covered by the signature, as it is."""
        self._out.append(data)
        self._sent_log += data

    def _send_signed(self, tag: Tag, value: Struct) -> None:
        self._send(b"".join(self._writer.encode_frame(tag, value.to_bytes())))

    def _send_later(self, tag: Tag, payload: bytes) -> None:
        """What comes after AUTH_DONE: it is framed when it is sent, as its place decides the nonce."""
        self._out.append((tag, payload))

    # ------------------------------------------------------------ the handshake

    def _closed_by_peer(self) -> None:
        state, self.state = self.state, State.CLOSED
        if state is State.READY:
            raise ProtocolError(f"{self.peer_name} at {self.target} closed the connection", errno=104)
        if state is State.BANNER:
            raise ProtocolError(
                f"{self.target} closed the connection before it said who it is",
                errno=104,
                hint="is this the address of a Ceph daemon's msgr2 port?",
            )
        raise ProtocolError(
            f"{self.peer_name} at {self.target} closed the connection during the handshake (at {state.value})",
            errno=104,
        )

    def _read_banner(self) -> bool:
        seen = self._reader.peek()
        if not seen.startswith(BANNER[: len(seen)]):
            if seen.startswith(_MSG1_BANNER[: len(seen)]):
                if len(seen) < len(_MSG1_BANNER):
                    return False
                raise IncompatibleError(
                    f"{self.target} speaks only messenger v1",
                    hint="use the monitor's msgr2 port, 3300 unless set otherwise; nautilus 14.2.11 or newer is needed",
                )
            raise IncompatibleError(
                f"{self.target} is not a Ceph daemon: it began with {seen[:24]!r}",
                hint="check mon_host",
            )
        raw = self._reader.take(BANNER_SIZE)
        if raw is None:
            return False
        if int.from_bytes(raw[8:10], "little") != BANNER_PAYLOAD.size:
            raise IncompatibleError(f"{self.target}: banner with a payload of another size")
        supported, required = BANNER_PAYLOAD.unpack_from(raw, 10)
        if not supported & FEATURE_REVISION_1:
            raise IncompatibleError(
                f"{self.target} speaks messenger v2.0, which is not safe",
                hint="upgrade the cluster to nautilus 14.2.11, octopus 15.2.5 or newer",
            )
        announced = FEATURE_REVISION_1 | (FEATURE_COMPRESSION if self._offer else 0)
        if required & ~announced:
            raise IncompatibleError(
                f"{self.target} requires messenger features {required & ~announced:#x} that are not spoken here",
                errno=95,
            )
        self._asked = bool(supported & announced & FEATURE_COMPRESSION)
        self.state = State.HELLO
        _log.debug("[%s] connected to %s: messenger v2.1, features %#x", self.label, self.target, supported)
        self._send_signed(Tag.HELLO, Hello(ENTITY_TYPE_CLIENT, self.target))
        self._send_auth_request()
        return True

    def _send_auth_request(self) -> None:
        modes = self._modes
        if self._auth.method == AUTH_METHOD_NONE:  # nothing to make keys of
            modes = tuple(m for m in modes if m == MODE_CRC)
            if not modes:
                raise AuthError(
                    f"{self.peer_name} at {self.target}: secure mode needs authentication, and none is configured",
                    errno=95,
                    hint=f"allow crc in {self._mode_option}, or set auth_client_required",
                )
        self._offered = modes
        _log.debug(
            "[%s] we send AUTH_REQUEST: %s in mode %s",
            self.label,
            AUTH_METHOD_NAMES.get(self._auth.method),
            _names(modes),
        )
        self._send_signed(Tag.AUTH_REQUEST, AuthRequest(self._auth.method, modes, self._auth.request()))

    def _dispatch(self, frame: Frame) -> Event | None:
        if self.state is not State.READY:
            self._handshake_frames += 1
            if self._handshake_frames > MAX_HANDSHAKE_FRAMES:
                raise ProtocolError(f"{self.peer_name} at {self.target} does not come to the end of the handshake")
        handler = TRANSITIONS[self.state].get(frame.tag)
        if handler is None:
            raise ProtocolError(
                f"{self.peer_name} at {self.target} sent {Tag(frame.tag).name}, not expected at {self.state.value}"
            )
        event: Event | None = getattr(self, handler)(frame)
        return event

    def _payload(self, frame: Frame) -> memoryview:
        if len(frame.segments) != 1:
            raise ProtocolError(f"{Tag(frame.tag).name} with more than one segment")
        return frame.segments[0]

    def _on_hello(self, frame: Frame) -> None:
        hello = Hello.decode(Decoder(self._payload(frame)))
        if hello.entity_type != self.peer_type:
            found = ENTITY_TYPE_NAMES.get(hello.entity_type, str(hello.entity_type))
            raise IncompatibleError(f"{self.target} is a {found}, not a {self.peer_name}", hint="check mon_host")
        seen = hello.peer_addr
        self.own_addr = EntityAddr(EntityAddr.TYPE_MSGR2, self._own_nonce, seen.host, 0)
        self.state = State.AUTH
        _log.debug("[%s] HELLO: its type is %s, and it sees us at %s", self.label, self.peer_name, seen.host)

    def _on_auth_reply_more(self, frame: Frame) -> None:
        more = AuthMore.decode(Decoder(self._payload(frame)))
        _log.debug("[%s] AUTH_REPLY_MORE: it challenges us; AUTH_REQUEST_MORE has our proof", self.label)
        self._send_signed(Tag.AUTH_REQUEST_MORE, AuthMore(self._auth.reply_more(more.payload)))

    def _on_auth_bad_method(self, frame: Frame) -> None:
        bad = AuthBadMethod.decode(Decoder(self._payload(frame)))
        other = self._auth.instead(bad.allowed_methods)
        if other is not None:
            self._auth = other
            self._send_auth_request()
            return
        if bad.result == -13 or (bad.result == -1 and bad.method in bad.allowed_methods):  # nautilus: EPERM
            raise AuthError(
                f"{self.peer_name} at {self.target} did not accept our {self._auth.shown}",
                hint=self._auth.refused_hint(),
            )
        methods = "/".join(AUTH_METHOD_NAMES.get(m, str(m)) for m in bad.allowed_methods) or "nothing"
        hint = ""
        if (
            bad.result == -95
            and self._auth.method in bad.allowed_methods
            and not set(self._modes) & {*bad.allowed_modes}
        ):
            hint = f"our {self._mode_option} has none of its modes"
        raise AuthError(
            f"{self.peer_name} at {self.target} refused authentication {AUTH_METHOD_NAMES.get(bad.method, bad.method)} "
            f"in mode {_names(self._offered)}: {errno_name(bad.result)}; "
            f"it allows {methods} in mode {_names(bad.allowed_modes)}",
            # EACCES, as librados says, unless it is for the modes
            errno=95 if hint else 13 if bad.result in (0, -95) else abs(bad.result),
            hint=hint,
        )

    def _on_auth_done(self, frame: Frame) -> None:
        done = AuthDone.decode(Decoder(self._payload(frame)))
        if done.con_mode not in self._offered:
            raise ProtocolError(f"{self.peer_name} chose connection mode {done.con_mode}, which we did not offer")
        if done.global_id >> 63:  # it travels as a signed number elsewhere
            raise ProtocolError(f"{self.peer_name} at {self.target} gave us the global id {done.global_id}")
        self._result = self._auth.done(done.payload)
        if self.global_id == 0:
            self.global_id = done.global_id
        _log.debug(
            "[%s] AUTH_DONE: we are client.%d, in %s mode", self.label, self.global_id, MODE_NAMES[done.con_mode]
        )
        key = self._result.session_key
        received, sent = self._reader.log or b"", self._sent_log
        # each side signs what it received, so we expect the signature of what we sent
        if key:
            signature = hmac.new(key, received, hashlib.sha256).digest()
            self._expected_signature = hmac.new(key, sent, hashlib.sha256).digest()
        else:
            signature = self._expected_signature = bytes(32)
        self._reader.log = None
        self._sent_log = bytearray()
        self.mode = done.con_mode
        if self.mode == MODE_SECURE:
            self._go_secure(self._result.connection_secret)
        self.state = State.SIGNATURE
        self._send_later(Tag.AUTH_SIGNATURE, signature)
        if self._asked:
            self._ask_for_compression()
        self._send_ident()

    def _go_secure(self, secret: bytes) -> None:
        from .secure import Keys, SecureReader, SecureWriter

        keys = Keys.from_secret(secret)
        self._reader = SecureReader(keys, self._reader)
        self.get_buffer = self._reader.get_buffer
        self._write_with(SecureWriter(keys))

    def _ask_for_compression(self) -> None:
        offer = self._offer
        assert offer is not None
        methods = offer.methods if self.mode == MODE_CRC or offer.in_secure_mode else ()
        self._send_later(Tag.COMPRESSION_REQUEST, CompressionRequest(bool(methods), methods).to_bytes())

    def _send_ident(self) -> None:
        assert self.own_addr is not None
        ident = ClientIdent(
            EntityAddrVec((self.own_addr,)),
            self.target,
            self.global_id,
            self._global_seq,
            self._announced,
            FEATURES_REQUIRED,
            FLAG_LOSSY,
            0,
        )
        self._send_later(Tag.CLIENT_IDENT, ident.to_bytes())

    def _on_auth_signature(self, frame: Frame) -> None:
        if not hmac.compare_digest(bytes(self._payload(frame)), self._expected_signature):
            raise ProtocolError(
                f"{self.peer_name} at {self.target}: wrong signature of the handshake",
                hint="somebody changed it on its way, or the daemon is not of this cluster",
            )
        _log.debug("[%s] AUTH_SIGNATURE: nobody has changed what we said to each other", self.label)
        self.state = State.COMPRESSION if self._asked else State.IDENT

    def _on_compression_done(self, frame: Frame) -> None:
        done = CompressionDone.decode(Decoder(self._payload(frame)))
        self.state = State.IDENT
        if not done.is_compress:
            _log.debug("[%s] COMPRESSION_DONE: nothing is compressed", self.label)
            return
        from .compression import CompressingWriter, codec

        offer = self._offer
        assert offer is not None
        if done.method not in offer.methods or (self.mode == MODE_SECURE and not offer.in_secure_mode):
            raise ProtocolError(f"{self.peer_name} chose compression {done.method}, which we did not offer")
        method = codec(done.method)
        self.compression = done.method
        self._reader.decompress = method.decompress
        self._write_with(CompressingWriter(self._writer, method, offer.min_size))
        _log.debug("[%s] COMPRESSION_DONE: %s", self.label, method.name)

    def _on_server_ident(self, frame: Frame) -> Ready:
        ident = ServerIdent.decode(Decoder(self._payload(frame)))
        if self.target not in ident.addrs.addrs:
            raise ProtocolError(f"{self.target} says that it is {ident.addrs}", errno=104)
        missing = ident.features_required & ~FEATURES_SUPPORTED
        if missing:
            self._refuse_features(missing, "requires features that pyrbd does not have")
        missing = FEATURES_REQUIRED & ~ident.features_supported
        if missing:
            self._refuse_features(missing, "is too old: it lacks features that pyrbd requires")
        self.features = ident.features_supported & self._announced
        self._reader.max_frame = frames.MAX_SEGMENT
        self._reader.sink = self._sink
        self.state = State.READY
        _log.debug(
            "[%s] SERVER_IDENT: it is %s.%d at %s, with features %#x; the connection is ready",
            self.label,
            self.peer_name,
            ident.gid,
            ident.addrs,
            ident.features_supported,
        )
        assert self._result is not None
        return Ready(self._result, self.global_id, self.features, ident)

    def _on_missing_features(self, frame: Frame) -> None:
        missing = IdentMissingFeatures.decode(Decoder(self._payload(frame))).features
        self._refuse_features(missing, "requires features that pyrbd does not have")

    def _on_wait(self, frame: Frame) -> None:
        """It connects to us at the same time, or so it thinks."""
        raise self._start_again("told us to wait for its own connection")

    def _on_retry_global(self, frame: Frame) -> None:
        """It has seen a later connection of ours than this one."""
        seen = SessionRetryGlobal.decode(Decoder(self._payload(frame))).global_seq
        self._retries += 1
        if self._next_global_seq is None or self._retries > MAX_RETRIES:
            raise self._start_again(f"asked for a later global_seq than {self._global_seq}")
        self._global_seq = self._next_global_seq(seen)
        _log.debug("[%s] SESSION_RETRY_GLOBAL: again, as number %d", self.label, self._global_seq)
        self._send_ident()

    def _on_retry(self, frame: Frame) -> None:
        SessionRetry.decode(Decoder(self._payload(frame)))
        raise self._start_again("wants a session resumed")

    def _on_reset(self, frame: Frame) -> None:
        SessionReset.decode(Decoder(self._payload(frame)))
        raise self._start_again("reset a session")

    def _on_reconnect_ok(self, frame: Frame) -> None:
        SessionReconnectOk.decode(Decoder(self._payload(frame)))
        raise self._start_again("resumed a session")

    def _start_again(self, what: str) -> ProtocolError:
        return ProtocolError(f"{self.peer_name} at {self.target} {what}, where we have none", errno=104)

    def _refuse_features(self, bits: int, why: str) -> None:
        names = ", ".join(feature_names(bits))
        raise IncompatibleError(f"{self.peer_name} at {self.target} {why}: {names} ({bits:#x})", errno=95)

    # ------------------------------------------------------------ the session

    def _on_message(self, frame: Frame) -> Message:
        segments = frame.segments
        header = decode_message_header(segments[0])
        if header.seq != self.in_seq + 1:
            what = "repeated" if header.seq <= self.in_seq else "left messages out before"
            raise ProtocolError(f"{self.peer_name} at {self.target} {what} message {header.seq}")
        self.in_seq = header.seq
        if len(segments) == 1:
            empty = segments[0][:0]
            return Message(header, empty, empty, b"")
        return Message(header, segments[1], segments[2], frame.data)

    def _on_keepalive(self, frame: Frame) -> None:
        self._send_later(Tag.KEEPALIVE2_ACK, Keepalive.decode(Decoder(self._payload(frame))).to_bytes())

    def _on_keepalive_ack(self, frame: Frame) -> KeepaliveAck:
        return KeepaliveAck(Keepalive.decode(Decoder(self._payload(frame))).stamp)

    def _on_ack(self, frame: Frame) -> None:
        """Lossy connections do not resend from a window, so there is nothing to forget."""
        Ack.decode(Decoder(self._payload(frame)))


def _names(modes: tuple[int, ...]) -> str:
    return "/".join(MODE_NAMES.get(m, str(m)) for m in modes) or "nothing"
