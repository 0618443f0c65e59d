"""A client's operations, with OSDs and monitors that say anything at all, in well-formed frames.

The objecter and the monitor client are the real ones; the driver and the sessions stand in for what has sockets. What
must hold: no exception but those that end the connection, no operation done twice, none lost.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from functools import cache
from types import SimpleNamespace
from typing import Any

from pyrbd.errors import PyrbdError
from pyrbd.msgr.auth import AUTH_METHOD_NONE
from pyrbd.msgr.connection import Message
from pyrbd.msgr.frames import MessageHeader
from pyrbd.msgr.messages import MMonCommandAck, MOSDBackoff, MOSDMap, MStatfsReply, MWatchNotify
from pyrbd.msgr.osdop import MSG_OSD_OPREPLY, MOSDOpReply, RawOp, Trace
from pyrbd.msgr.types import Eversion, HObject, PgId, SpgId
from pyrbd.osdmap import OSDMap
from pyrbd.rados.config import Config
from pyrbd.rados.exceptions import Error
from pyrbd.rados.io import IoContext
from pyrbd.rados.monclient import CommandReply, MonClient
from pyrbd.rados.objecter import Objecter
from pyrbd.rados.operations import ObjectOperation
from pyrbd.rados.session import State
from pyrbd.rados.tickets import Tickets
from pyrbd.rados.watch import Watches
from tests.fuzz.material import Chunks, epochs, few_draws, messages_of, sum_map

POOL = 1


class _Driver:
    """Time that stands still; what is deferred runs when the target says so."""

    blocking = False
    listening = False

    def __init__(self) -> None:
        self.deferred: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()

    def defer(self, fn: Callable[..., object], *args: Any) -> None:
        self.deferred.append((fn, args))

    def run(self) -> None:
        for _ in range(200):
            if not self.deferred:
                return
            fn, args = self.deferred.popleft()
            fn(*args)
        raise AssertionError("there is always more to do")

    def call_later(self, delay: float, fn: Callable[[], object]) -> Any:
        assert delay > 0, "a timer that is due at once, again and again"
        return SimpleNamespace(cancel=lambda: None)

    def monotonic(self) -> float:
        return 0.0

    def wake(self) -> None:
        pass


class _Session:
    def __init__(self, osd: int) -> None:
        self.name = f"osd.{osd}"
        self.state = State.READY
        self.alive = True
        self.ops: dict[int, Any] = {}
        self.aio: set[int] = set()
        self.queue: deque[Any] = deque()
        self.leader = None
        self.conn = SimpleNamespace(features=1, target=None, global_id=4, encode_message=lambda *a: [b""])
        self.last_heard = self.since = 0.0
        self.answered = False

    def flush(self) -> bool:
        while self.queue:
            self.queue.popleft().encode(self)
        return True

    def attended(self) -> bool:
        return True

    def abort(self, error: BaseException) -> None:
        self.alive = False


@cache
def _map() -> OSDMap:
    return OSDMap.decode_full(epochs()["first"])


def _no_connection(*args: Any) -> Any:
    raise OSError("there are no sockets here")


class World:
    """A client with operations in flight."""

    def __init__(self) -> None:
        self.driver = _Driver()
        driver: Any = self.driver
        self.objecter = o = Objecter(
            driver,
            _no_connection,
            lambda *a: None,
            lambda e: True,
            lambda then: None,
        )
        o.osdmap = _map()
        epoch = lambda: o.osdmap.epoch if o.osdmap else 0  # noqa: E731
        tickets = Tickets("admin", None, (AUTH_METHOD_NONE,))
        self.mon = MonClient(
            driver,
            Config(environ={}),
            [],
            tickets,
            connect=_no_connection,
            on_map=o.handle_map,
            on_config=lambda config: None,
            osdmap_epoch=epoch,
        )
        self.client: Any = SimpleNamespace(
            driver=driver, objecter=o, closed=False, op_timeout=0.0, read_flags=0, forked=False, osdmap=o.osdmap
        )
        self.watches = Watches(self.client)
        o.on_notify = self.watches.on_notify
        self.sessions: dict[int, Any] = {}
        o._open = self._open  # type: ignore[assignment,method-assign]
        io = IoContext(self.client, POOL)
        into = memoryview(bytearray(64))
        self.done: dict[int, int] = {}
        self.ops = [
            io.submit_read("a", 0, 64),
            io.submit_read("a", 0, 64, into=into),
            io.submit_write("a", 0, b"data"),
            io.submit("a", ObjectOperation().stat().read(0, 100)),
            io.submit("b", ObjectOperation().call("rbd", "get_size", b"")),
        ]
        for i, op in enumerate(self.ops):
            op.add_done_callback(lambda _, i=i: self._count(i))  # type: ignore[misc]
        self.monitor = _Session(-1)
        self.mon._session = self.monitor  # type: ignore[assignment]
        self.question = self.mon.command(("{}",))
        self.statfs = self.mon.statfs(None)
        self.version = self.mon.newest_epoch()

    def _count(self, i: int) -> None:
        self.done[i] = self.done.get(i, 0) + 1
        assert self.done[i] == 1, "done twice"

    def _open(self, osd: int, osdmap: OSDMap) -> Any:
        session: Any = _Session(osd)
        self.sessions[osd] = session
        self.objecter._sessions[osd] = session
        self.objecter._osd_of[id(session)] = osd
        session.conn.target = osdmap.osd_addrs(osd).msgr2
        return session

    def hear(self, who: int, kind: int, version: int, tid: int, front: bytes, data: bytes | None) -> None:
        header = MessageHeader(1, tid, kind, 127, version, 0, 0, 0, 0, 1, 0)
        message = Message(header, memoryview(front), memoryview(b""), data)
        live = [s for s in self.sessions.values() if s.alive]
        session = live[who % len(live)] if live and who < 200 else self.monitor
        owner: Any = self.mon if session is self.monitor else self.objecter
        try:
            owner.on_message(session, message)
        except PyrbdError:
            session.alive = False
        self.driver.run()
        for s in [s for s in self.sessions.values() if not s.alive]:
            s.state = State.CLOSED
            osd = int(s.name[4:])
            if self.sessions.get(osd) is s:
                del self.sessions[osd]
            self.objecter.on_closed(s, OSError("it was closed"))
            self.driver.run()

    def check(self) -> None:
        o = self.objecter
        for op in self.ops:
            if op.done:
                assert op.error is None or isinstance(op.error, Error), op.error
            else:
                there = op.session is not None and op.session.ops.get(op.tid) is op
                assert there or op.tid in o._homeless, f"{op!r} is lost"
        if self.question.done:
            assert isinstance(self.question.result(), CommandReply)
        if self.statfs.done:
            assert isinstance(self.statfs.result(), MStatfsReply)
        if self.version.done:
            assert isinstance(self.version.result(), int)


def one(data: bytes) -> None:
    with few_draws():
        _hear(data)


def _hear(data: bytes) -> None:
    c = Chunks(data)
    world = World()
    for _ in range(12):
        if not c:
            break
        who, kind, version, tid = c.byte(), c.byte(), c.byte(), c.byte()
        front = c.blob()
        if kind == MOSDMap.TYPE and version & 0x80:
            front = _summed_maps(front)
        piece = c.blob() if version & 0x40 else b""
        world.hear(who, kind | (version & 0x20) << 6, version & 0x1F, tid, front, piece if version & 0x40 else b"")
        world.check()


def _summed_maps(front: bytes) -> bytes:
    try:
        m = MOSDMap.decode_front(front, 4)
    except PyrbdError:
        return front
    return m.replace(
        incremental_maps={k: sum_map(v) for k, v in m.incremental_maps.items()},
        maps={k: sum_map(v) for k, v in m.maps.items()},
    ).to_bytes()


def _reply(oid: bytes, n: int, lengths: tuple[int, ...], result: int = 0) -> bytes:
    ops = tuple([RawOp(0x1201, 0, bytes(28), length) for length in lengths])
    return MOSDOpReply(
        oid, PgId(POOL, 1), 0, result, Eversion(), 9, ops, -1, (0,) * len(ops), Eversion(), 3, False, Trace()
    ).to_bytes()


def seeds() -> Iterator[bytes]:
    for header, front, body in messages_of("osd"):
        yield Chunks.of(0, header.type, header.version | 0x40, 1, front, body[:500])
    world = World()
    for i, (lengths, data) in enumerate(
        [((5,), b"hello"), ((5,), b"hello"), ((0,), b""), ((16, 4), bytes(20)), ((9,), bytes(9))]
    ):
        tid = world.ops[i].tid
        for who in range(3):
            yield Chunks.of(who, MSG_OSD_OPREPLY, 8 | 0x40, tid, _reply(b"a", i, lengths), data)
    yield Chunks.of(0, MSG_OSD_OPREPLY, 8 | 0x40, 1, _reply(b"a", 0, (), -11), b"")
    e = epochs()
    base = _map()
    maps = MOSDMap(base.fsid, {}, {base.epoch + 1: e["last"]}, 1, base.epoch + 9)
    yield Chunks.of(0, MOSDMap.TYPE, 4 | 0x80, 0, maps.to_bytes())
    incs = {base.epoch + 1 + i: inc for i, inc in enumerate(e["incrementals"][:3])}
    yield Chunks.of(200, MOSDMap.TYPE, 4 | 0x80, 0, maps.replace(incremental_maps=incs, maps={}).to_bytes())
    bound = HObject("", "a", 0, 7, False, "", POOL).to_bytes()
    for op in (1, 3):
        backoff = MOSDBackoff(SpgId(PgId(POOL, 1)), base.epoch, op, 7, bound, bound)
        yield Chunks.of(0, MOSDBackoff.TYPE, 1, 0, backoff.to_bytes())
    for op in (1, 2, 3):
        yield Chunks.of(0, MWatchNotify.TYPE, 3, 0, MWatchNotify(1, op, 5, 1, 9, b"x", 0, 4).to_bytes())
    yield Chunks.of(200, MMonCommandAck.TYPE, 1 | 0x40, 1, MMonCommandAck(0, -1, 0, 0, "", ()).to_bytes(), b"output")
    for tid in (1, 2):
        stats = MStatfsReply(bytes(16), 1, 2, 3, 4, 5).to_bytes()
        yield Chunks.of(200, MStatfsReply.TYPE, 1 | 0x40, tid, stats, b"")
    for header, front, body in messages_of("mon"):
        yield Chunks.of(200, header.type, header.version | 0x40, 1, front[:3000], body[:100])
