"""A monitor and OSDs of our own, that do a true handshake and serve objects; and lie where a test wants them to.

They exist to do what no real daemon does, and prove nothing about Ceph: what they say when they behave was recorded
from a real cluster (its maps), or is what `tests/msgr` holds against recorded traffic.

A test gives :attr:`FakeCluster.mischief` a function ``(peer, step, data) -> bytes``, which is asked before anything is
sent: `step` is ``banner``, ``hello``, ``done``, ``signature``, ``ident`` or ``message``, `data` what an honest daemon
would say now. What it returns is sent instead. It may also send by itself, wait, or raise :class:`Leave`.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pyrbd.denc import Decoder
from pyrbd.msgr.connection import AuthDone, AuthRequest, ClientIdent, Hello, Keepalive, ServerIdent
from pyrbd.msgr.features import FEATURES_SUPPORTED
from pyrbd.msgr.frames import (
    BANNER_SIZE,
    MAX_SEGMENT,
    MODE_CRC,
    Frame,
    FrameReader,
    MessageHeader,
    Tag,
    decode_message_header,
    encode_banner,
    encode_frame,
)
from pyrbd.msgr.messages import (
    MConfig,
    Message,
    MMonCommand,
    MMonCommandAck,
    MMonGetVersion,
    MMonGetVersionReply,
    MMonMap,
    MMonSubscribe,
    MonMap,
    MOSDMap,
)
from pyrbd.msgr.osdop import MSG_OSD_OP, MSG_OSD_OPREPLY, MOSDOp, MOSDOpReply, Op, RawOp, Trace
from pyrbd.msgr.types import ENTITY_TYPE_MON, ENTITY_TYPE_OSD, EntityAddr, EntityAddrVec, Eversion
from pyrbd.osdmap import OSDMap
from pyrbd.rados import session
from tests.fuzz.material import messages_of, sum_map

GLOBAL_ID = 4711
_EPOCH_AT = 6 + 6 + 16


class Leave(Exception):
    """The peer closes the connection."""


Mischief = Callable[["Peer", str, bytes], bytes]


def honest(peer: Peer, step: str, data: bytes) -> bytes:
    return data


def frame(tag: int, *segments: bytes) -> bytes:
    """A frame in crc mode."""
    return b"".join(map(bytes, encode_frame(tag, *segments)))


class Peer:
    """One connection, as the daemon has it. `number` counts those of all daemons of its kind, from 0."""

    def __init__(self, cluster: FakeCluster, sock: socket.socket, addr: EntityAddr, number: int) -> None:
        self.cluster = cluster
        self.sock = sock
        self.addr = addr
        self.number = number
        self.is_mon = addr == cluster.mon_addr
        self.seq = 0
        self.ended = threading.Event()
        self.begun = time.monotonic()
        self._reader = FrameReader()
        self._reader.max_frame = MAX_SEGMENT

    # ------------------------------------------------------------ bytes

    def say(self, step: str, data: bytes) -> None:
        """Sends what the mischief makes of `data`."""
        self.send(self.cluster.mischief(self, step, data))

    def send(self, data: bytes) -> None:
        if data:
            self.sock.sendall(data)

    def message(self, front: Message, data: bytes = b"", tid: int = 0) -> bytes:
        return self.framed(front.TYPE, front.VERSION, front.to_bytes(), data, tid)

    def framed(self, kind: int, version: int, front: bytes, data: bytes = b"", tid: int = 0, seq: int = 0) -> bytes:
        """A frame with a message; `seq` 0 for the next number."""
        if not seq:
            self.seq += 1
            seq = self.seq
        header = MessageHeader(seq, tid, kind, 127, version, 0, 0, 0, 0, 1, 0)
        return frame(Tag.MESSAGE, header.to_bytes(), front, b"", data)

    def sleep(self, seconds: float) -> None:
        """Waits, unless the cluster ends or the client has gone."""
        end = time.monotonic() + seconds
        self.sock.settimeout(0.05)
        try:
            while time.monotonic() < end and not self.cluster.closing:
                try:
                    if not self.sock.recv(1, socket.MSG_PEEK):
                        raise Leave
                    self.cluster.tick.wait(0.02)
                except TimeoutError:
                    pass
        finally:
            self.sock.settimeout(30)

    def until_gone(self, seconds: float = 30.0) -> None:
        """Takes whatever comes until the client has closed the connection."""
        end = time.monotonic() + seconds
        self.sock.settimeout(0.1)
        while time.monotonic() < end and not self.cluster.closing:
            try:
                if not self.sock.recv(1 << 16):
                    break
            except TimeoutError:
                pass
        raise Leave

    def dribble(self, data: bytes, pause: float = 0.1) -> bytes:
        """Sends byte after byte, over and over, until the client has enough of it."""
        while not self.cluster.closing:
            for i in range(len(data)):
                self.send(data[i : i + 1])
                self.cluster.tick.wait(pause)
        raise Leave

    def _frame(self) -> Frame:
        while (found := self._reader.next_frame()) is None:
            n = self.sock.recv_into(self._reader.get_buffer())
            if not n:
                raise Leave
            self._reader.received(n)
        return found

    # ------------------------------------------------------------ the connection

    def run(self) -> None:
        try:
            self.sock.settimeout(30)
            self._handshake()
            while True:
                got = self._frame()
                if got.tag == Tag.MESSAGE:
                    header = decode_message_header(got.segments[0])
                    front = bytes(got.segments[1]) if len(got.segments) > 1 else b""
                    self._serve(header, front, got.data or b"")
                elif got.tag == Tag.KEEPALIVE2:
                    stamp = Keepalive.decode(Decoder(got.segments[0]))
                    self.say("keepalive", frame(Tag.KEEPALIVE2_ACK, stamp.to_bytes()))
        except (Leave, OSError):
            pass
        finally:
            self.ended.set()
            self.sock.close()

    def _handshake(self) -> None:
        self.say("banner", encode_banner())
        while self._reader.take(BANNER_SIZE) is None:
            n = self.sock.recv_into(self._reader.get_buffer())
            if not n:
                raise Leave
            self._reader.received(n)
        kind = ENTITY_TYPE_MON if self.is_mon else ENTITY_TYPE_OSD
        self.say("hello", frame(Tag.HELLO, Hello(kind, EntityAddr(2, 0, "127.0.0.1", 1)).to_bytes()))
        Hello.decode(Decoder(self._frame().segments[0]))
        AuthRequest.decode(Decoder(self._frame().segments[0]))
        self.say("done", frame(Tag.AUTH_DONE, AuthDone(GLOBAL_ID, MODE_CRC, b"").to_bytes()))
        self.say("signature", frame(Tag.AUTH_SIGNATURE, bytes(32)))
        assert bytes(self._frame().segments[0]) == bytes(32)
        ClientIdent.decode(Decoder(self._frame().segments[0]))
        ident = ServerIdent(EntityAddrVec((self.addr,)), 0, 1, FEATURES_SUPPORTED, 0, 1, 0)
        self.say("ident", frame(Tag.SERVER_IDENT, ident.to_bytes()))

    def _serve(self, header: MessageHeader, front: bytes, data: bytes) -> None:
        if header.type == MSG_OSD_OP:
            self.cluster.operations += 1
            kind, version, reply, answer = self.cluster.operate(header.tid, MOSDOp.from_bytes(front), data)
            self.say("message", self.framed(kind, version, reply, answer, header.tid))
            return
        cls = Message.registry[header.type]
        asked = cls.decode_front(front, header.version)
        if isinstance(asked, MMonSubscribe):
            self.cluster.subscriptions.append({what: item.start for what, item in asked.what.items()})
            if "monmap" in asked.what:
                self.say("monmap", self.message(MMonMap(self.cluster.monmap)))
            if "config" in asked.what:
                self.say("config", self.message(MConfig({})))
            if "osdmap" in asked.what:
                self.say("osdmap", self.message(self.cluster.maps(asked.what["osdmap"].start)))
        elif isinstance(asked, MMonGetVersion):
            self.say("version", self.message(MMonGetVersionReply(asked.handle, self.cluster.epoch, 1)))
        elif isinstance(asked, MMonCommand):
            self.say("command", self.message(MMonCommandAck(0, -1, 0, 0, "done", asked.cmd), b"output", header.tid))


class FakeCluster:
    """One monitor and three OSDs in threads of this process.

    Attributes:
        mischief: see the module's text.
        connects: (when, whether to a monitor) of each connection.
        applied: (oid, tid) of each write, in the order in which they were done.
    """

    def __init__(self) -> None:
        fronts = {h.type: f for h, f, _ in messages_of("mon")}
        self.monmap = MMonMap.decode_front(fronts[MMonMap.TYPE], 1).monmap
        recorded = MOSDMap.decode_front(fronts[MOSDMap.TYPE], 4)
        self.epoch, self.full = max(recorded.maps.items())
        self.fsid = recorded.fsid
        self.mon_addr = next(iter(MonMap.from_bytes(self.monmap).mons.values())).public_addrs.msgr2_addrs[0]
        self.pool = OSDMap.decode_full(self.full).pool_ids["rbd"]
        self.mischief: Mischief = honest
        self.incrementals: dict[int, bytes] = {}
        self.connects: list[tuple[float, bool]] = []
        self.applied: list[tuple[bytes, int]] = []
        self.objects: dict[bytes, bytearray] = {}
        self.subscriptions: list[dict[str, int]] = []
        self.operations = 0
        self.closing = False
        self.tick = threading.Event()
        """Never set while the cluster lives: to wait for."""
        self._results: dict[int, tuple[bytes, bytes]] = {}
        self._lock = threading.Lock()
        self._listeners: dict[tuple[str, int], socket.socket] = {}
        self._threads: list[threading.Thread] = []
        self.peers: list[Peer] = []

    # ------------------------------------------------------------ connections

    def address_for(self, addr: EntityAddr) -> tuple[str, int]:
        """Where the daemon is that a client believes at `addr`."""
        key = (addr.host, addr.port)
        with self._lock:
            listener = self._listeners.get(key)
            if listener is None:
                listener = self._listeners[key] = socket.create_server(("127.0.0.1", 0), backlog=64)
                thread = threading.Thread(target=self._accept, args=(listener, addr), daemon=True, name="hostile")
                self._threads.append(thread)
                thread.start()
        host, port = listener.getsockname()[:2]
        return host, port

    def _accept(self, listener: socket.socket, addr: EntityAddr) -> None:
        while not self.closing:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            is_mon = addr == self.mon_addr
            with self._lock:
                number = sum(m is is_mon for _, m in self.connects)
                self.connects.append((time.monotonic(), is_mon))
                peer = Peer(self, sock, addr, number)
                self.peers.append(peer)
                thread = threading.Thread(target=peer.run, daemon=True, name="hostile")
                self._threads.append(thread)
            thread.start()

    def count(self, *, mon: bool, since: float = 0.0) -> int:
        """How many connections were made."""
        return sum(m is mon and when >= since for when, m in self.connects)

    def most_in_a_second(self, *, mon: bool) -> int:
        """The most connections within one second."""
        times = sorted(when for when, m in self.connects if m is mon)
        return max((sum(t <= x < t + 1 for x in times) for t in times), default=0)

    def say_to_all(self, *, mon: bool, make: Callable[[Peer], bytes]) -> int:
        """Sends something to all clients there are; gives to how many."""
        live = [p for p in self.peers if p.is_mon is mon and not p.ended.is_set()]
        for peer in live:
            peer.send(make(peer))
        return len(live)

    def close(self) -> None:
        self.closing = True
        self.tick.set()
        for listener in self._listeners.values():
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for peer in self.peers:
            try:
                peer.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in self._threads:
            thread.join(5)

    # ------------------------------------------------------------ maps

    def full_map(self, epoch: int, fsid: bytes | None = None) -> bytes:
        """The recorded map as that of another epoch, or cluster."""
        raw = bytearray(self.full)
        raw[_EPOCH_AT : _EPOCH_AT + 4] = epoch.to_bytes(4, "little")
        if fsid is not None:
            raw[_EPOCH_AT - 16 : _EPOCH_AT] = fsid
        return sum_map(bytes(raw))

    def maps(self, start: int) -> MOSDMap:
        """What a monitor sends to a client that wants maps from `start` on: all of one, or what changes."""
        if start and self.incrementals:
            found = {e: inc for e, inc in self.incrementals.items() if e >= start}
            return MOSDMap(self.fsid, found, {}, 1, self.epoch)
        full = {self.epoch: self.full_map(self.epoch)} if start <= self.epoch else {}
        return MOSDMap(self.fsid, {}, full, 1, self.epoch)

    # ------------------------------------------------------------ objects

    def operate(self, tid: int, request: MOSDOp, data: bytes) -> tuple[int, int, bytes, bytes]:
        """Does what a request asks; a write that was done is answered again."""
        with self._lock:
            done = self._results.get(tid)
            if done is None:
                done = self._do(tid, request, data)
        front, answer = done
        return MSG_OSD_OPREPLY, 8, front, answer

    def _do(self, tid: int, request: MOSDOp, data: bytes) -> tuple[bytes, bytes]:
        outputs: list[bytes] = []
        rvals: list[int] = []
        at, wrote = 0, False
        for op in request.ops:
            offset, length = struct.unpack_from("<QQ", op.union)
            piece = data[at : at + op.payload_len]
            at += op.payload_len
            here = self.objects.get(request.oid)
            output, rval = b"", 0
            if op.op == Op.READ:
                if here is None:
                    rval = -2
                else:
                    output = bytes(here[offset : offset + length])
            elif op.op == Op.STAT:
                if here is None:
                    rval = -2
                else:
                    output = struct.pack("<QII", len(here), 1, 2)
            elif op.op in (Op.WRITE, Op.WRITEFULL, Op.APPEND):
                wrote = True
                here = self.objects.setdefault(request.oid, bytearray())
                if op.op == Op.WRITEFULL:
                    here[:] = piece
                elif op.op == Op.APPEND:
                    here += piece
                else:
                    here += bytes(max(0, offset - len(here)))
                    here[offset : offset + len(piece)] = piece
            outputs.append(output)
            rvals.append(rval)
            if rval:
                break
        result = rvals[-1] if rvals else 0
        ops = tuple([RawOp(o.op, o.flags, o.union, len(out)) for o, out in zip(request.ops, outputs)])
        reply = MOSDOpReply(
            request.oid,
            request.pgid.pgid,
            0,
            result,
            Eversion(),
            self.epoch,
            ops,
            -1,
            tuple(rvals),
            Eversion(1, self.epoch),
            1,
            False,
            Trace(),
        ).to_bytes()
        done = (reply, b"".join(outputs))
        if wrote:
            self.applied.append((request.oid, tid))
            self._results[tid] = done
        return done


@contextmanager
def fake_cluster() -> Iterator[FakeCluster]:
    """The daemons that all clients of this process reach meanwhile, whatever address they connect to."""
    cluster = FakeCluster()
    before = session.socket_address
    setattr(session, "socket_address", cluster.address_for)  # noqa: B010 - mypy sees a function there
    try:
        yield cluster
    finally:
        session.socket_address = before
        cluster.close()
