"""Commands to daemons: a named monitor, the mgr, an OSD, the primary of a placement group
(`src/osdc/Objecter.cc` CommandOp, `src/mgr/MgrClient.cc`, `src/mon/MonClient.cc`).

A command travels on a connection of its own that ends with it. When that breaks before
the answer, or the map says that the daemon is elsewhere or another one now, the command is
sent again to where it belongs; so a daemon may see it twice, as with librados.

All of this is coroutines of :class:`~pyrbd.rados.client.Client`, so it works under both drivers.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ..errors import AuthError, DecodeError, ProtocolError, PyrbdError
from ..log import Log
from ..msgr.connection import Connection
from ..msgr.features import FEATURE_NAMES
from ..msgr.messages import (
    PRIO_DEFAULT,
    LogEntry,
    MCommand,
    MCommandReply,
    MgrMap,
    MLog,
    MMgrCommand,
    MMgrCommandReply,
    MMgrConfigure,
    MMgrMap,
    MMgrOpen,
    MMgrReport,
    MMonCommand,
    MMonCommandAck,
    MPing,
)
from ..msgr.messages import Message as MessageFront
from ..msgr.types import ENTITY_TYPE_MGR, ENTITY_TYPE_MON, ENTITY_TYPE_OSD, EntityAddr, EntityAddrVec
from .completion import Completion, Event
from .exceptions import ConnectionShutdown, Error, TimedOut, make_ex
from .monclient import CommandReply
from .objecter import close_session
from .session import Session
from .target import PgTarget

if TYPE_CHECKING:
    from ..denc import Buffer
    from ..msgr.connection import Message, Ready
    from .client import Client
    from .hunt import Candidate

_log = Log("commands")
T = TypeVar("T")

RETRY_PAUSE = 0.5
CHECK_INTERVAL = 0.5
"""Seconds between looks at whether a daemon is still there."""
EMPTY_COUNTERS = b"\x01\x01\x00\x00\x00\x00"
LOG_LEVELS = {
    "debug": "log-debug",
    "info": "log-info",
    "warn": "log-warn",
    "warning": "log-warn",
    "err": "log-error",
    "error": "log-error",
    "sec": "log-sec",
}
LOG_PRIORITIES = ("[DBG]", "[INF]", "[SEC]", "[WRN]", "[ERR]")


class Broken(Exception):
    """The connection ended before the answer."""


class Answer(NamedTuple):
    front: MessageFront
    data: bytes


class _Queued(NamedTuple):
    front: MessageFront
    data: Buffer
    tid: int

    def encode(self, session: Session) -> list[Buffer]:
        f = self.front
        return session.conn.encode_message(self.tid, f.TYPE, f.VERSION, f.COMPAT, PRIO_DEFAULT, f.to_bytes(), self.data)


class Dialog:
    """One connection to one daemon, for questions that are answered in order."""

    def __init__(self, client: Client, name: str, conn: Connection, deadline: float | None) -> None:
        self._client = client
        self._deadline = deadline
        self._answer: Completion[Answer] | None = None
        self._awaited: tuple[type[MessageFront], ...] = ()
        """What may be the answer."""
        self.error: BaseException | None = None
        self.on_front: Callable[[MessageFront], None] | None = None
        """Hears what comes besides an answer."""
        self.on_lost: Callable[[], None] | None = None
        self._patience = client.config.get_float(
            "mon_client_hunt_interval" if conn.peer_type == ENTITY_TYPE_MON else "ms_connection_ready_timeout"
        )
        self._session = Session(name, conn, self, client.driver, blocking=False)
        self._ready: Event[None] = self._event(f"{name} did not let us in in time")
        client.dialogs.add(self)
        self._session.start()
        self._timer = client.driver.call_later(CHECK_INTERVAL, self._check)

    def _check(self) -> None:
        """A daemon that is silent may be alive no more; keepalives tell."""
        if self.error is not None or self not in self._client.dialogs:
            return
        config = self._client.config
        timeout = config.get_float("mon_client_ping_timeout") if self._ready.done else self._patience
        self._session.check_alive(config.get_float("mon_client_ping_interval"), timeout or float("inf"))
        self._timer = self._client.driver.call_later(CHECK_INTERVAL, self._check)

    def _event(self, message: str) -> Event[Any]:
        return Event(self._client.driver, deadline=self._deadline, on_expire=lambda: TimedOut(message, errno.ETIMEDOUT))

    async def ready(self) -> int:
        """Returns the daemon's features when it has let us in. Raises Broken."""
        await self._ready
        return self._session.conn.features

    async def ask(self, front: MessageFront, data: Buffer = b"") -> Answer:
        """Sends a message and gives the answer. Raises Broken."""
        name = self._session.name
        self._awaited = (MPing,) if isinstance(front, MPing) else (MCommandReply, MMgrCommandReply, MMonCommandAck)
        self._answer = answer = self._event(f"{name} did not answer in time")
        if self.error is not None:
            raise Broken(str(self.error)) from self.error
        _log.debug("[%s] %s", name, type(front).__name__)
        self._session.queue.append(_Queued(front, data, 1))
        self._session.flush()
        result: Answer = await answer
        return result

    def tell(self, front: MessageFront) -> None:
        """Sends a message that has no answer."""
        self._session.queue.append(_Queued(front, b"", 0))
        self._session.flush()

    def close(self, error: BaseException | None = None) -> None:
        self._client.dialogs.discard(self)
        self._timer.cancel()
        close_session(self._session, error or ProtocolError("the command is done"))

    # ------------------------------------------------------------ the session's owner

    def on_ready(self, session: Session, ready: Ready) -> None:
        self._client.accepted(session.name.partition(".")[0])
        self._ready.set_result(None)

    def on_message(self, session: Session, message: Message) -> None:
        cls = MessageFront.registry.get(message.header.type)
        if cls is None:
            return
        front = cls.decode_front(bytes(message.front), message.header.version)
        answer = self._answer
        if isinstance(front, self._awaited) and answer is not None:
            _log.debug("[%s] answer: %s", session.name, type(front).__name__)
            answer.set_result(Answer(front, bytes(message.data or b"")))
        elif self.on_front is not None:
            self.on_front(front)

    def on_closed(self, session: Session, error: BaseException) -> None:
        self.error = error
        self._client.dialogs.discard(self)
        broken: BaseException = Broken(str(error))
        broken.__cause__ = error
        if isinstance(error, Error):
            broken = error
        self._ready.set_error(broken)
        if self._answer is not None:
            self._answer.set_error(broken)
        if self.on_lost is not None:
            self._client.driver.defer(self.on_lost)


class Commands:
    """The commands of one client."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.mgrmap: MgrMap | None = None
        self._mgr_waiters: list[tuple[int, Event[MgrMap]]] = []
        self._on_mgrmap: list[Callable[[], None]] = []
        self._log_sub = ""
        self._log_version = 0
        self._on_log: Callable[[LogEntry], None] | None = None
        self._service: _Service | None = None

    # ------------------------------------------------------------ connections

    def _connection(self, kind: int, addrs: EntityAddrVec, what: str) -> Connection:
        client = self._client
        mon = client.mon
        assert mon is not None
        addr = addrs.choose(mon.own_addr)
        if addr is None:
            raise make_ex(-errno.EPROTONOSUPPORT, f"{what} has no msgr2 address")
        try:
            auth = mon.tickets.login() if kind == ENTITY_TYPE_MON else mon.tickets.authorizer(kind)
        except AuthError as e:
            raise make_ex(-e.errno, f"{what}: {e}") from e
        return client.connection(kind, addr, auth)

    async def _pause(self, deadline: float | None) -> None:
        event: Event[None] = Event(
            self._client.driver, deadline=deadline, on_expire=lambda: TimedOut("no answer in time", errno.ETIMEDOUT)
        )
        timer = self._client.driver.call_later(RETRY_PAUSE, lambda: event.set_result(None))
        try:
            await event
        finally:
            timer.cancel()

    async def _once(
        self,
        name: str,
        conn: Connection,
        front: MessageFront | Callable[[int], MessageFront],
        data: Buffer,
        deadline: float | None,
        gone: Callable[[], bool] | None = None,
        told: list[Callable[[], None]] | None = None,
    ) -> CommandReply:
        """One attempt. It ends as well when a map, for which `told` has functions called, says that the
        daemon is `gone`: it may have fallen silent."""
        dialog = Dialog(self._client, name, conn, deadline)

        def check() -> None:
            if gone is not None and gone():
                dialog.close(ProtocolError(f"{name} is not at {conn.target} any more", errno=errno.ECONNRESET))

        if told is not None:
            told.append(check)
        try:
            features = await dialog.ready()
            message = front if isinstance(front, MessageFront) else front(features)
            answer = await dialog.ask(message, data)
        finally:
            if told is not None:
                told.remove(check)
            dialog.close()
        reply: Any = answer.front
        return CommandReply(reply.result, answer.data, reply.status)

    def _refused(self, name: str, e: Broken) -> None:
        """Raises when another attempt would end the same way."""
        cause = e.__cause__
        if self._client.closed:
            raise ConnectionShutdown("the client was shut down", errno.ESHUTDOWN) from None
        if isinstance(cause, AuthError):
            # a monitor was shown our key, and the others tickets
            kind = name.partition(".")[0]
            if kind == "mon" or not self._client.renew_tickets(cause, kind):
                raise make_ex(-cause.errno, f"{name}: {cause}") from cause
        elif isinstance(cause, DecodeError):
            raise make_ex(-errno.EBADMSG, f"{name}: {cause}") from cause
        _log.info("[%s] %s; the command is sent again", name, cause)

    # ------------------------------------------------------------ monitors

    def _mon_addr(self, target: str) -> tuple[str, EntityAddrVec] | CommandReply:
        monmap = self._client.monmap
        if target.isdigit():
            rank = int(target)
            if rank >= len(monmap.ranks):
                return CommandReply(-errno.ENOENT, b"", f"mon.{rank} (rank) does not exist")
            target = monmap.ranks[rank]
        name = target.removeprefix("mon.")
        info = monmap.mons.get(name)
        if info is None:
            return CommandReply(-errno.ENOENT, b"", f"mon.{name} does not exist")
        return f"mon.{name}", info.public_addrs

    async def mon(self, target: str, cmd: str, inbuf: Buffer, deadline: float | None) -> CommandReply:
        """A command for one monitor, by name or rank."""
        fsid = self._client.monmap.fsid

        def front(features: int) -> MessageFront:
            if features & FEATURE_NAMES["SERVER_OCTOPUS"] == FEATURE_NAMES["SERVER_OCTOPUS"]:
                return MCommand(fsid=fsid, cmd=(cmd,))
            return MMonCommand(fsid=fsid, cmd=(cmd,))

        name = f"mon.{target}"
        for attempt in range(self._client.config.get_int("mon_client_directed_command_retry") + 1):
            if attempt:
                await self._pause(deadline)
            where = self._mon_addr(target)  # which may change meanwhile
            if isinstance(where, CommandReply):
                return where
            name, addr = where
            try:
                return await self._once(name, self._connection(ENTITY_TYPE_MON, addr, name), front, inbuf, deadline)
            except Broken as e:
                self._refused(name, e)
        return CommandReply(-errno.ENXIO, b"", f"{name} does not answer")

    async def ping(self, mon_id: str, deadline: float) -> str:
        """The health of a monitor, as JSON; it need not be in the quorum."""
        where = self._mon_addr(f"mon.{mon_id}")
        if isinstance(where, CommandReply):
            raise make_ex(where.result, where.status)
        return await self._ping(*where, deadline)

    async def ping_any(self, mon_id: str, candidates: Sequence[Candidate], deadline: float) -> str:
        """The same, when no map has come yet: asks those of the configuration until one says that it
        is called so."""
        import json

        client = self._client
        tasks = [(c, client.spawn(self._ping(f"mon.{c.name}", EntityAddrVec((c.addr,)), deadline))) for c in candidates]
        problem: Exception | None = None
        for candidate, task in tasks:
            try:
                text = await task
                name = json.loads(text)["mon_status"]["name"]
            except (Error, ValueError, LookupError, TypeError) as e:
                problem = e if isinstance(e, Error) else problem
                continue
            if mon_id in (name, candidate.name, candidate.name.removeprefix("noname-")):
                return text
        if problem is not None:
            raise problem
        raise make_ex(-errno.ENOENT, f"mon.{mon_id} does not exist")

    async def _ping(self, name: str, addrs: EntityAddrVec, deadline: float) -> str:
        while True:
            dialog = Dialog(self._client, name, self._connection(ENTITY_TYPE_MON, addrs, name), deadline)
            try:
                await dialog.ready()
                answer = await dialog.ask(MPing())
                assert isinstance(answer.front, MPing)
                return answer.front.text
            except Broken as e:
                self._refused(name, e)
            finally:
                dialog.close()
            await self._pause(deadline)

    # ------------------------------------------------------------ the mgr

    async def _active_mgr(self, deadline: float | None, after: int = 0) -> MgrMap:
        """The map, once there is an active mgr in an epoch after `after`."""
        if self.mgrmap is not None and self.mgrmap.epoch > after and self._has_active(self.mgrmap):
            return self.mgrmap
        event: Event[MgrMap] = Event(
            self._client.driver, deadline=deadline, on_expire=lambda: TimedOut("no mgr is active", errno.ETIMEDOUT)
        )
        self._mgr_waiters.append((after, event))
        self._client.subscribe("mgrmap", self.mgrmap.epoch + 1 if self.mgrmap else 0)
        return await event

    @staticmethod
    def _has_active(m: MgrMap) -> bool:
        return m.available and any(not a.is_blank for a in m.active_addrs.addrs)

    async def mgr(self, target: str | None, cmd: str, inbuf: Buffer, deadline: float | None) -> CommandReply:
        """A command for the active mgr: its modules' (target None), or its own."""
        after = 0
        while True:
            m = await self._active_mgr(deadline, after)
            name = f"mgr.{m.active_name}"
            if target and target not in (m.active_name, name):
                return CommandReply(-errno.ENXIO, b"", f"the active mgr is {m.active_name}, not {target}")

            def front(features: int) -> MessageFront:
                octopus = features & FEATURE_NAMES["SERVER_OCTOPUS"] == FEATURE_NAMES["SERVER_OCTOPUS"]
                if target is None and octopus:
                    return MMgrCommand(cmd=(cmd,))
                return MCommand(fsid=self._client.monmap.fsid if target is not None else bytes(16), cmd=(cmd,))

            def replaced(before: MgrMap = m) -> bool:
                now = self.mgrmap
                return now is not None and (now.active_gid, now.active_addrs) != (
                    before.active_gid,
                    before.active_addrs,
                )

            try:
                conn = self._connection(ENTITY_TYPE_MGR, m.active_addrs, name)
                return await self._once(name, conn, front, inbuf, deadline, replaced, self._on_mgrmap)
            except Broken as e:
                self._refused(name, e)
            await self._pause(deadline)
            # the same mgr may be up again; if it is not, the monitors name another
            self._client.subscribe("mgrmap", m.epoch + 1)

    def on_front(self, front: MessageFront) -> None:
        """What monitors send for our subscriptions."""
        if isinstance(front, MMgrMap):
            m = self.mgrmap = front.map
            _log.debug("[mon] mgrmap %d: %s", m.epoch, m.active_name if self._has_active(m) else "no active mgr")
            for check in list(self._on_mgrmap):
                check()
            ready = [e for after, e in self._mgr_waiters if m.epoch > after and self._has_active(m)]
            self._mgr_waiters = [(after, e) for after, e in self._mgr_waiters if e not in ready]
            for event in ready:
                event.set_result(m)
            if self._service is not None:
                self._service.on_map(m)
        elif isinstance(front, MLog) and self._on_log is not None and front.version > self._log_version:
            self._log_version = front.version
            for entry in front.entries:
                self._client.driver.call_back(self._deliver_log, (entry,), None)
            self._client.subscribed(self._log_sub, front.version + 1)

    # ------------------------------------------------------------ OSDs

    async def osd(self, osd: int, cmd: str, inbuf: Buffer, deadline: float | None) -> CommandReply:
        """A command for one OSD; ENOENT when it is not in the map, ENXIO when it is down."""
        return await self._to_osd(lambda: osd, cmd, inbuf, deadline)

    async def pg(self, pool: int, seed: int, cmd: str, inbuf: Buffer, deadline: float | None) -> CommandReply:
        """A command for the primary of a placement group."""

        def primary() -> int | CommandReply:
            osdmap = self._client.osdmap
            info = osdmap.pools.get(pool)
            if info is None:
                return CommandReply(-errno.ENOENT, b"", "pool dne")
            # a group that there is not has an OSD all the same, which says so
            target = PgTarget(pool, seed)
            target.locate(osdmap)
            return target.primary

        return await self._to_osd(primary, cmd, inbuf, deadline)

    async def _to_osd(
        self, find: Callable[[], int | CommandReply], cmd: str, inbuf: Buffer, deadline: float | None
    ) -> CommandReply:
        client = self._client
        front = MCommand(fsid=client.monmap.fsid, cmd=(cmd,))
        fresh = False
        while True:
            osd = find()
            if isinstance(osd, int):
                problem = None
                if not client.osdmap.exists(osd):
                    problem = CommandReply(-errno.ENOENT, b"", "osd dne")
                elif not client.osdmap.is_up(osd):
                    problem = CommandReply(-errno.ENXIO, b"", "osd down")
            else:
                problem = osd
            if problem is not None:
                if fresh:
                    return problem
                await client.wait_for_latest_osdmap()
                fresh = True
                continue
            assert isinstance(osd, int)
            name = f"osd.{osd}"
            epoch = client.osdmap.epoch
            try:
                conn = self._connection(ENTITY_TYPE_OSD, client.osdmap.osd_addrs(osd), name)

                def gone(osd: int = osd, addr: EntityAddr = conn.target) -> bool:
                    osdmap = client.objecter.osdmap
                    return osdmap is not None and (
                        not osdmap.is_up(osd) or addr not in osdmap.osd_addrs(osd).msgr2_addrs
                    )

                return await self._once(name, conn, front, inbuf, deadline, gone, client.on_map)
            except Broken as e:
                self._refused(name, e)
            if client.osdmap.epoch == epoch:
                await self._pause(deadline)
                await client.wait_for_latest_osdmap()
            fresh = False

    # ------------------------------------------------------------ the cluster's log

    def watch_log(self, level: str, callback: Callable[[LogEntry], None] | None) -> None:
        """Has `callback` called for each line of the cluster's log from now on, of `level` or
        worse; None ends it."""
        if self._log_sub:
            self._client.unsubscribe(self._log_sub)
        self._on_log = callback
        self._log_sub = LOG_LEVELS[level] if callback is not None else ""
        if callback is not None:
            self._log_version = 0
            self._client.subscribe(self._log_sub, 0)

    def _deliver_log(self, arguments: tuple[LogEntry]) -> None:
        if self._on_log is not None:
            self._on_log(*arguments)

    # ------------------------------------------------------------ being a daemon of a service

    async def register_service(
        self, service: str, daemon: str, metadata: dict[str, str], deadline: float | None
    ) -> None:
        """Shows us in the cluster's service map while we are connected."""
        if self._service is not None:
            raise make_ex(-errno.EEXIST, "this client is a daemon of a service already")
        self._service = _Service(self._client, self, service, daemon, metadata)
        self._client.subscribe("mgrmap", self.mgrmap.epoch + 1 if self.mgrmap else 0)
        if self.mgrmap is not None:
            self._service.on_map(self.mgrmap)

    def update_service(self, status: dict[str, str]) -> None:
        """Changes what we show, with the next report."""
        if self._service is None:
            raise make_ex(-errno.ENOENT, "this client is not a daemon of a service")
        self._service.status = dict(status)

    def connection_to_mgr(self, m: MgrMap) -> Connection:
        return self._connection(ENTITY_TYPE_MGR, m.active_addrs, f"mgr.{m.active_name}")

    # ------------------------------------------------------------ the end

    def close(self, error: Error) -> None:
        self._on_log = None
        for dialog in list(self._client.dialogs):
            dialog.close(error)
        for _, event in self._mgr_waiters:
            event.set_error(error)
        if self._service is not None:
            self._service.close()


class _Service:
    """Our session with the active mgr, when we are a daemon of a service."""

    def __init__(self, client: Client, commands: Commands, service: str, daemon: str, metadata: dict[str, str]) -> None:
        self._client = client
        self._commands = commands
        self._service = service
        self._daemon = daemon
        self._metadata = metadata
        self.status: dict[str, str] = {}
        self._dialog: Dialog | None = None
        self._gid = 0
        self._period = 5
        self._timer: Any = None
        self._closed = False

    def on_map(self, m: MgrMap) -> None:
        if self._closed or not Commands._has_active(m) or (self._dialog is not None and m.active_gid == self._gid):
            return
        if self._dialog is not None:
            self._dialog.on_lost = None
            self._dialog.close()
        self._gid = m.active_gid
        try:
            self._dialog = dialog = Dialog(
                self._client, f"mgr.{m.active_name}", self._commands.connection_to_mgr(m), None
            )
        except (Error, PyrbdError) as e:
            _log.warning("[mgr.%s] %s", m.active_name, e)
            self._again(RETRY_PAUSE)
            return
        dialog.on_front = self._heard
        dialog.on_lost = self._lost
        dialog.tell(
            MMgrOpen(
                daemon_name=self._daemon,
                service_name=self._service,
                daemon_metadata=self._metadata,
                daemon_status=self.status,
            )
        )
        self._again(self._period)

    def _heard(self, front: MessageFront) -> None:
        if isinstance(front, MMgrConfigure):
            self._period = max(1, front.stats_period)
            self._client.driver.defer(self._report)

    def _lost(self) -> None:
        self._dialog = None
        self._again(RETRY_PAUSE)

    def _again(self, delay: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._closed:
            self._timer = self._client.driver.call_later(delay, self._report)

    def _report(self) -> None:
        self._timer = None
        if self._closed:
            return
        if self._dialog is None:
            if self._commands.mgrmap is not None:
                self._client.subscribe("mgrmap", self._commands.mgrmap.epoch + 1)
                self.on_map(self._commands.mgrmap)
            return
        report = MMgrReport(
            daemon_name=self._daemon, service_name=self._service, packed=EMPTY_COUNTERS, daemon_status=self.status
        )
        self._dialog.tell(report)
        self._again(self._period)

    def close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()


def parse_pgid(pgid: str) -> tuple[int, int]:
    """(pool, seed) of text such as ``2.1f``; EINVAL for anything else."""
    pool, dot, seed = pgid.partition(".")
    try:
        if not dot or not pool.isdigit():
            raise ValueError
        return int(pool), int(seed, 16)
    except ValueError:
        raise make_ex(-errno.EINVAL, f"{pgid!r} is not the name of a placement group, such as 2.1f") from None


def decode_json(output: bytes, pick: Callable[[Any], T]) -> T:
    """What `pick` takes out of the JSON that a daemon sent.

    Raises:
        DecodeError: it is no JSON, or not of the form that `pick` wants.
    """
    import json

    try:
        return pick(json.loads(output))
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as e:
        raise DecodeError(f"a daemon's JSON cannot be used: {type(e).__name__}: {e}") from None


def inconsistent_pgs(output: bytes) -> list[str]:
    """The names in the output of ``pg ls``. Raises DecodeError."""

    def pick(found: Any) -> list[str]:
        stats = found if isinstance(found, list) else found.get("pg_stats", [])
        return [str(pg["pgid"]) for pg in stats]

    return decode_json(output, pick) if output else []


__all__ = ["LOG_PRIORITIES", "Commands", "decode_json", "inconsistent_pgs", "parse_pgid"]
