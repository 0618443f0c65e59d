"""The monitor client (`src/mon/MonClient.cc`): finds a monitor that answers, logs in,
keeps the maps coming, runs commands.

Hunting: a few monitors are tried at a time, the first that lets us in stays. When it is lost,
is silent for too long, or is no monitor of the cluster any more, the hunt begins again, what was
asked and not answered is asked again, and the subscriptions go on where they were. Whom to try,
and for how long, says :mod:`pyrbd.rados.hunt`.

All of this runs in the driver (the background thread, or the event loop); callers wait
for completions.
"""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from threading import RLock
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import AuthError, DecodeError, IncompatibleError, ProtocolError, PyrbdError, errno_name
from ..log import Log
from ..msgr.features import FEATURES_SUPPORTED, SERVER_QUINCY_BIT
from ..msgr.messages import (
    PRIO_DEFAULT,
    MAuth,
    MAuthReply,
    MConfig,
    MGetPoolStats,
    MGetPoolStatsReply,
    MMonCommand,
    MMonCommandAck,
    MMonGetVersion,
    MMonGetVersionReply,
    MMonMap,
    MMonSubscribe,
    MonMap,
    MOSDMap,
    MPoolOp,
    MPoolOpReply,
    MStatfs,
    MStatfsReply,
    SubscribeItem,
)
from ..msgr.messages import Message as MessageFront
from ..msgr.types import ENTITY_TYPE_MON, EntityAddr
from .completion import Completion, Event
from .config import short_hostname
from .exceptions import Error, TimedOut, make_ex
from .hunt import Candidate, Hunt
from .objecter import close_session
from .session import Session

if TYPE_CHECKING:
    from ..denc import Buffer
    from ..msgr.auth import Authenticator
    from ..msgr.connection import Connection, Message, Ready
    from .client import Driver
    from .config import Config
    from .tickets import Tickets

_log = Log("monclient")

TICK = 1.0
"""Seconds between looks at whether the monitor is there; less if `mon_client_ping_interval` is."""
FULL_MAP_INTERVAL = 5.0
"""Seconds between requests for a whole osdmap because what changes in one cannot be decoded."""
REFUSED_ROUNDS = 3
"""When the proof of our global id was refused so often in a row, we go on as a new client."""
RENEW_TIMEOUT = 5.0
"""Seconds that a monitor has to renew tickets before we log in at another."""
BROKEN_TRIES = 3
"""So often a monitor may break the protocol until we connect; then it is no monitor."""
MIN_RENEWAL = 0.5
"""Seconds that tickets are used at least, whatever validity they tell."""
RENEW_PAUSE = 1.0
"""Tickets younger than that are not renewed because a daemon does not accept them (yet)."""


ANSWERS: dict[type[MessageFront], type[MessageFront]] = {
    MMonCommand: MMonCommandAck,
    MPoolOp: MPoolOpReply,
    MStatfs: MStatfsReply,
    MGetPoolStats: MGetPoolStatsReply,
}


def features_for_commands() -> int:
    """What we say to a monitor that we have. With SERVER_QUINCY, the signatures of its commands
    contain a keyword that the `ceph` programs of older releases, which work on us, do not take."""
    argdesc = getattr(sys.modules.get("ceph_argparse"), "argdesc", None)
    code = getattr(getattr(argdesc, "__init__", None), "__code__", None)
    if code is None or "positional" in code.co_varnames:
        return FEATURES_SUPPORTED
    return FEATURES_SUPPORTED & ~SERVER_QUINCY_BIT


class CommandReply(NamedTuple):
    """What a command gave: 0 or a negative errno, its output, and a line for people."""

    result: int
    output: bytes
    status: str


class _Pending(NamedTuple):
    """A request that is asked again when the monitor changes."""

    completion: Event[Any]
    front: MessageFront
    data: Buffer


class _Send(NamedTuple):
    tid: int
    front: MessageFront
    data: Buffer = b""

    def encode(self, session: Session) -> list[Buffer]:
        f = self.front
        if _log.active and self.tid:  # and not what it says: that may be a secret
            _log.debug("[%s tid=%d] %s", session.name, self.tid, type(f).__name__)
        return session.conn.encode_message(self.tid, f.TYPE, f.VERSION, f.COMPAT, PRIO_DEFAULT, f.to_bytes(), self.data)


class MonClient:
    """One client's relation to the monitors.

    Args:
        config: options, which are looked at when they are needed.
        monitors: where they may be, by the configuration.
        tickets: who we are, and what proves it.
        connect: makes a connection to a kind of daemon at an address.
        on_config: gets the options of the monitors' own configuration that are for us.
    """

    def __init__(
        self,
        driver: Driver,
        config: Config,
        monitors: Sequence[Candidate],
        tickets: Tickets,
        *,
        connect: Callable[[int, EntityAddr, Authenticator], Connection],
        on_map: Callable[[MOSDMap], None],
        on_config: Callable[[Mapping[str, str]], None],
        osdmap_epoch: Callable[[], int],
    ) -> None:
        self.driver = driver
        self.lock = RLock()
        self.monmap: MonMap | None = None
        self.tickets = tickets
        self.own_addr: EntityAddr | None = None
        self._issued = 0.0
        self._refused = 0
        self._config = config
        self._monitors = list(monitors)
        self._connect = connect
        self._on_map = on_map
        self._on_config = on_config
        self._osdmap_epoch = osdmap_epoch
        self._session: Session | None = None
        self._hunting: dict[int, Session] = {}
        self._hunt = Hunt(config)
        self._configured = False
        """Whether the monitors' configuration has come."""
        self._config_timer: Any = None
        self._hunt_timer: Any = None
        self._errors: dict[EntityAddr, BaseException] = {}
        self._broken: dict[EntityAddr, int] = {}
        self._connected: Event[None] | None = None
        self._tids = count(1)
        self._pending: dict[int, _Pending] = {}
        self._versions: dict[int, _Pending] = {}
        self._closed: Error | None = None
        self._ping_timer: Any = None
        self._renew_timer: Any = None
        self._overdue_timer: Any = None
        self._asked_map = 0.0
        self._asked_full_map = -FULL_MAP_INTERVAL
        self._full_map_timer: Any = None
        self._more_subscriptions: dict[str, int] = {}
        self.on_subscribed: Callable[[MessageFront], None] | None = None
        """Hears what comes for subscriptions other than those for the maps that are kept here."""

    @property
    def known(self) -> list[Candidate]:
        """Where monitors may be, by the configuration."""
        return self._monitors

    @property
    def global_id(self) -> int:
        return self.tickets.global_id

    # ------------------------------------------------------------ connecting

    def connect(self, deadline: float | None, timeout: float | None) -> Event[None]:
        """Starts the hunt; done when a monitor has let us in and sent its map.

        The error is TimedOut, or what makes further tries useless: a refused key, or
        addresses where no monitor of today answers.
        """
        event: Event[None] = Event(
            self.driver, deadline=deadline, on_expire=lambda: self._connect_timeout(timeout or 0.0)
        )
        self._connected = event
        self.driver.defer(self._go_hunting)
        return event

    def _connect_timeout(self, timeout: float) -> Error:
        return TimedOut(f"no monitor let us in within {timeout:g} s; {self._explain()}", errno.ETIMEDOUT)

    def _explain(self) -> str:
        seen = {str(a): str(e) for a, e in self._errors.items()}
        for s in list(self._hunting.values()):
            seen.setdefault(str(s.conn.target), f"silent at {s.state.value}")
        for c in self._monitors:
            seen.setdefault(str(c.addr), "not tried yet")
        session = self._session
        if session is not None:
            seen[str(session.conn.target)] = "let us in, and sent no maps"
        return "; ".join(f"{a}: {e}" for a, e in seen.items())

    def _candidates(self) -> list[Candidate]:
        """The monitors of the map. When none of them was to be had, also those of the configuration:
        all may have moved while we were away."""
        known = []
        if self.monmap is not None:
            for name, m in self.monmap.mons.items():
                for addr in m.public_addrs.msgr2_addrs:
                    known.append(Candidate(name, addr, m.priority, m.weight))
        if known and not self._hunt.rounds:
            return known
        addrs = {c.addr for c in known}
        return known + [c for c in self._monitors if c.addr not in addrs]

    def _go_hunting(self) -> None:
        """Starts sessions to the next monitors; goes on until one is ready."""
        with self.lock:
            if self._closed is not None or self._session is not None:
                return
            for candidate in self._hunt.batch(self._candidates(), len(self._hunting)):
                self._try(candidate)
            if self._hunt_timer is not None:
                self._hunt_timer.cancel()
            self._hunt_timer = self.driver.call_later(self._hunt.interval, self._hunt_on)

    def _hunt_on(self) -> None:
        """Nobody let us in for a while: gives up on them and tries others."""
        with self.lock:
            if self._closed is not None or self._session is not None:
                return
            stale = list(self._hunting.values())
            for s in stale:
                silent = ProtocolError(f"silent for {self._hunt.interval:g} s at {s.conn.state.value}", errno=110)
                self._errors[s.conn.target] = silent
                _log.info("[%s] %s", s.name, silent)
            self._hunting.clear()
            self._hunt.silent()
        for s in stale:
            close_session(s, ProtocolError("hunting on"))
        self._go_hunting()

    def _try(self, candidate: Candidate) -> None:
        try:
            conn = self._connect(ENTITY_TYPE_MON, candidate.addr, self.tickets.login())
        except AuthError as e:
            self._give_up(e)
            return
        try:
            session = Session(f"mon.{candidate.name}", conn, self, self.driver, blocking=False)
        except OSError as e:  # a family of addresses that this machine does not have
            self._errors[candidate.addr] = e
            return
        self._hunting[id(session)] = session
        session.start()

    def _give_up(self, error: PyrbdError) -> None:
        if self._connected is not None and not self._connected.done:
            error = self.tickets.explain(error)
            text = str(error)
            ex = make_ex(-error.errno, text)
            ex.__cause__ = error
            self._connected.set_error(ex)

    def on_ready(self, session: Session, ready: Ready) -> None:
        with self.lock:
            if self._hunting.pop(id(session), None) is None or self._session is not None or self._closed:
                session.abort(ProtocolError("another monitor was faster"))
                return
            self._session = session
            losers = list(self._hunting.values())
            self._hunting.clear()
            self._hunt.found()
            self._errors.clear()
            self._broken.clear()
            self._refused = 0
            self.own_addr = session.conn.own_addr
            self._issued = self.driver.monotonic()
            self.tickets.logged_in(session.conn.auth, ready.auth, ready.global_id, self._issued)
            if self._hunt_timer is not None:
                self._hunt_timer.cancel()
            _log.info("[%s] in as client.%d at %s", session.name, self.global_id, session.conn.target)
            self._subscribe(session)
            for tid in sorted(self._pending):
                p = self._pending[tid]
                _log.debug("[%s tid=%d] %s asked again", session.name, tid, type(p.front).__name__)
                session.queue.append(_Send(tid, p.front, p.data))
            for p in self._versions.values():
                session.queue.append(_Send(0, p.front))
        for s in losers:
            s.abort(ProtocolError("another monitor was faster"))
        self._schedule_renewal()
        if self._ping_timer is None:
            self._ping_timer = self.driver.call_later(self._tick, self._ping)
        if not self._configured and self._config_timer is None:
            patience = self._config.get_float("mon_client_hunt_interval")
            self._config_timer = self.driver.call_later(patience, self._do_without_config)

    def _do_without_config(self) -> None:
        if not self._configured:
            _log.info("[mon] no configuration came; doing without")
            self._configured = True
            self._check_connected()

    def _subscribe(self, session: Session) -> None:
        what = {
            "monmap": SubscribeItem(self.monmap.epoch + 1 if self.monmap else 0),
            "osdmap": SubscribeItem(self._osdmap_epoch() + 1 if self._osdmap_epoch() else 0),
            "config": SubscribeItem(0),
            **{name: SubscribeItem(start) for name, start in self._more_subscriptions.items()},
        }
        _log.debug("[%s] subscribes to %s", session.name, ", ".join(f"{k} from {v.start}" for k, v in what.items()))
        session.queue.append(_Send(0, MMonSubscribe(what, short_hostname())))

    def on_closed(self, session: Session, error: BaseException) -> None:
        with self.lock:
            hunted = self._hunting.pop(id(session), None) is not None
            current = session is self._session
            if current:
                self._session = None
                self._hunt.lost(session.conn.target)
            if self._closed is not None or not (hunted or current):
                return
            self._errors[session.conn.target] = error
            _log.info("[%s] %s at %s: %s", session.name, "lost" if current else "no", session.conn.target, error)
            if isinstance(error, ProtocolError) and error.errno not in (errno.ECONNRESET, errno.ETIMEDOUT):
                self._broken[session.conn.target] = self._broken.get(session.conn.target, 0) + 1
            final = self._is_final(session.conn.target)
            exhausted = self._hunt.exhausted(self._candidates())
            others = bool(self._hunting) or not exhausted
            if hunted and isinstance(error, AuthError | DecodeError):
                # Perhaps the ticket is too old to prove our global id; or this monitor does not know
                # yet, or any more, what another one would open it with.
                self._refused += 1
                if not others or self._refused >= REFUSED_ROUNDS * len(self._candidates()):
                    known = self.tickets.begin_anew()
                    if not known and isinstance(error, AuthError):
                        self.tickets.denied = error
        if final and not others and self._all_final():
            assert isinstance(error, PyrbdError)
            self._give_up(error)
        if not exhausted:
            self.driver.defer(self._go_hunting)
        elif not others:
            self.driver.call_later(self._hunt.pause, self._go_hunting)

    def _all_final(self) -> bool:
        """Every address was tried, and none failed in a way that may pass."""
        return all(self._is_final(c.addr) for c in self._candidates())

    def _is_final(self, addr: EntityAddr) -> bool:
        """Whether another try would end as the last one did. A protocol that is broken once may have been damage."""
        error = self._errors.get(addr)
        if isinstance(error, AuthError | IncompatibleError):
            return True
        return isinstance(error, ProtocolError) and self._broken.get(addr, 0) >= BROKEN_TRIES

    # ------------------------------------------------------------ staying connected

    def _ping(self) -> None:
        with self.lock:
            if self._closed is not None:
                return
            session = self._session
            self._ping_timer = self.driver.call_later(self._tick, self._ping)
            if session is not None:
                self._hunt.calm()
        if session is not None:
            timeout = self._config.get_float("mon_client_ping_timeout")
            session.check_alive(self._config.get_float("mon_client_ping_interval"), timeout or float("inf"))

    @property
    def _tick(self) -> float:
        return min(self._config.get_float("mon_client_ping_interval"), TICK)

    def _schedule_renewal(self) -> None:
        with self.lock:
            if self._overdue_timer is not None:
                self._overdue_timer.cancel()
                self._overdue_timer = None
            if self._renew_timer is not None:
                self._renew_timer.cancel()
                self._renew_timer = None
            due = self.tickets.renew_at
            if due is not None and self._closed is None:
                self._renew_timer = self.driver.call_later(max(MIN_RENEWAL, due - self.driver.monotonic()), self._renew)

    def _renew(self, *, everything: bool = False) -> None:
        """Asks the monitor for new tickets. Without a session, the next login brings them."""
        with self.lock:
            session = self._session
            if session is None or self._closed is not None or self._overdue_timer is not None:
                return
            payload = self.tickets.renewal(self.driver.monotonic(), everything=everything)
            if payload is None:
                return
            epoch = self.monmap.epoch if self.monmap is not None else 0
            front = MAuth(protocol=session.conn.auth.method, auth_payload=payload, monmap_epoch=epoch)
            session.queue.append(_Send(0, front))
            self._overdue_timer = self.driver.call_later(RENEW_TIMEOUT, self._renewal_overdue)
        session.flush()

    def _renewal_overdue(self) -> None:
        self.log_in_again(AuthError(f"tickets were not renewed within {RENEW_TIMEOUT:g} s", errno=errno.ETIMEDOUT))

    def _on_auth_reply(self, reply: MAuthReply) -> None:
        if self._overdue_timer is None:
            return
        try:
            if reply.result:
                raise AuthError(f"the monitor does not renew our tickets: {errno_name(reply.result)}")
            with self.lock:
                now = self.driver.monotonic()
                self.tickets.renewed(reply.result_bl, now)
                self._issued = now
        except (AuthError, DecodeError) as e:
            self.log_in_again(e)
        else:
            self._schedule_renewal()

    def renew_tickets(self) -> None:
        """A daemon did not accept our tickets: asks for others, unless they are quite new."""
        if self.driver.monotonic() - self._issued >= RENEW_PAUSE:
            self._renew()

    def log_in_again(self, why: PyrbdError) -> None:
        """Leaves the monitor for the next that lets us in, with the old ticket as proof of our global id."""
        with self.lock:
            session, self._session = self._session, None
            if self._overdue_timer is not None:
                self._overdue_timer.cancel()
                self._overdue_timer = None
            if self._closed is not None:
                return
            if session is not None:
                self._hunt.lost(session.conn.target)
        _log.warning("[mon] %s; logging in again", why)
        if session is not None:
            close_session(session, ProtocolError("logging in again", errno=errno.ECONNRESET))
        self._go_hunting()

    # ------------------------------------------------------------ maps

    def want_map(self, full: bool = False) -> None:
        """Asks for osdmaps newer than ours, not more than twice a second; or for a whole one, if need be later."""
        with self.lock:
            now = time.monotonic()
            session = self._session
            if full and self._full_map_timer is None and self._closed is None:
                wait = self._asked_full_map + FULL_MAP_INTERVAL - now
                if wait > 0:
                    self._full_map_timer = self.driver.call_later(wait, self._want_full_map)
            if session is None or now - (self._asked_full_map if full else self._asked_map) < (
                FULL_MAP_INTERVAL if full else 0.5
            ):
                return
            if full:
                self._asked_full_map = now
            self._asked_map = now
            item = SubscribeItem(0 if full else self._osdmap_epoch() + 1)
            session.queue.append(_Send(0, MMonSubscribe({"osdmap": item})))
        session.flush()

    def _want_full_map(self) -> None:
        with self.lock:
            self._full_map_timer = None
        self.want_map(True)

    def subscribe(self, what: str, start: int) -> None:
        """Has the monitors send more, for ever: ``mgrmap``, ``log-info``, ..."""
        with self.lock:
            self._more_subscriptions[what] = start
            session = self._session
            if session is not None:
                session.queue.append(_Send(0, MMonSubscribe({what: SubscribeItem(start)})))
        if session is not None:
            session.flush()

    def subscribed(self, what: str, start: int) -> None:
        """Notes from where a subscription would go on with another monitor."""
        with self.lock:
            if what in self._more_subscriptions:
                self._more_subscriptions[what] = start

    def unsubscribe(self, what: str) -> None:
        """The monitor forgets it with the connection; until then what it sends is not heard."""
        with self.lock:
            self._more_subscriptions.pop(what, None)

    def newest_epoch(self, what: str = "osdmap", deadline: float | None = None) -> Event[int]:
        """The epoch of the newest map of that kind that the monitors have."""
        event: Event[int] = Event(
            self.driver,
            deadline=deadline,
            on_expire=lambda: TimedOut(f"the monitors did not say their {what} version in time", errno.ETIMEDOUT),
        )
        handle = self._new_tid()
        self._ask(self._versions, handle, 0, _Pending(event, MMonGetVersion(handle, what), b""))
        return event

    # ------------------------------------------------------------ requests

    def command(
        self, cmd: Sequence[str], inbuf: Buffer = b"", deadline: float | None = None
    ) -> Completion[CommandReply]:
        """Runs a command, as JSON text, on whatever monitor we are connected to."""
        fsid = self.monmap.fsid if self.monmap else bytes(16)
        return self._request(MMonCommand(fsid=fsid, cmd=tuple(cmd)), "a command", deadline, inbuf)

    def pool_op(
        self, op: int, name: str, pool: int, deadline: float | None, rule: int = -1, snapid: int = 0
    ) -> Completion[MPoolOpReply]:
        """Creates or deletes a pool or a snapshot id of it; says in which epoch it is done."""
        fsid = self.monmap.fsid if self.monmap else bytes(16)
        front = MPoolOp(fsid=fsid, pool=pool, op=op, name=name, crush_rule=rule, snapid=snapid)
        return self._request(front, f"the change of pool {name!r}", deadline)

    def statfs(self, deadline: float | None) -> Completion[MStatfsReply]:
        fsid = self.monmap.fsid if self.monmap else bytes(16)
        return self._request(MStatfs(fsid=fsid), "the cluster's statistics", deadline)

    def pool_stats(self, pool: str, deadline: float | None) -> Completion[MGetPoolStatsReply]:
        fsid = self.monmap.fsid if self.monmap else bytes(16)
        return self._request(MGetPoolStats(fsid=fsid, pools=(pool,)), f"the statistics of pool {pool!r}", deadline)

    def _request(self, front: MessageFront, what: str, deadline: float | None, data: Buffer = b"") -> Event[Any]:
        tid = self._new_tid()

        def expired() -> Error:
            self._pending.pop(tid, None)
            return TimedOut(f"no monitor answered for {what} in time", errno.ETIMEDOUT)

        event: Event[Any] = Event(self.driver, deadline=deadline, on_expire=expired)
        self._ask(self._pending, tid, tid, _Pending(event, front, data))
        return event

    def _new_tid(self) -> int:
        with self.lock:
            tid = next(self._tids)
        return tid  # noqa: RET504  (a return from the call would leave the lock's protection)

    def _ask(self, table: dict[int, _Pending], handle: int, tid: int, pending: _Pending) -> None:
        with self.lock:
            if self._closed is not None:
                raise self._closed
            table[handle] = pending
            session = self._session
            if session is not None:
                session.queue.append(_Send(tid, pending.front, pending.data))
        if session is not None:
            session.flush()

    # ------------------------------------------------------------ what monitors say

    def on_message(self, session: Session, message: Message) -> None:
        if session is not self._session:
            return
        session.last_heard = self.driver.monotonic()
        header = message.header
        try:
            front = MessageFront.registry[header.type].decode_front(bytes(message.front), header.version)
        except KeyError:
            _log.debug("[mon] message of type %d is not for clients", header.type)
            return
        if isinstance(front, MOSDMap):
            self._on_map(front)
            self._check_connected()
        elif isinstance(front, MMonMap):
            self._on_monmap(session, MonMap.from_bytes(front.monmap))
        elif isinstance(front, MConfig):
            _log.debug("[%s] configuration: %s", session.name, ", ".join(sorted(front.config)) or "nothing")
            self._on_config(front.config)
            self._configured = True
            self._check_connected()
        elif isinstance(front, MAuthReply):
            self._on_auth_reply(front)
        elif isinstance(front, MMonCommandAck):
            self._answer(header.tid, front, CommandReply(front.result, message.data or b"", front.status))
        elif isinstance(front, MMonGetVersionReply):
            pending = self._versions.pop(front.handle, None)
            if pending is not None:
                self._hunt.useful()
                pending.completion.set_result(front.version)
        elif isinstance(front, MPoolOpReply):
            result = front.result - (1 << 32) if front.result >> 31 else front.result
            if result:
                self._answer(header.tid, front, error=make_ex(result, "the monitors refused the change of a pool"))
            else:
                self._answer(header.tid, front, front)
        elif isinstance(front, MStatfsReply | MGetPoolStatsReply):
            self._answer(header.tid, front, front)
        elif self.on_subscribed is not None:
            self.driver.defer(self.on_subscribed, front)

    def _on_monmap(self, session: Session, new: MonMap) -> None:
        old = self.monmap
        if old is not None and old.fsid != new.fsid:
            raise ProtocolError(f"{session.name} is a monitor of another cluster", errno=errno.ECONNRESET)
        if old is not None and new.epoch < old.epoch:
            return
        self.monmap = new
        _log.info("[%s] monmap %d: %s", session.name, new.epoch, ", ".join(new.ranks))
        if old is not None and old.epoch != new.epoch:
            self._hunt.forget()
        if old is not None and old.auth_epoch < new.auth_epoch:
            _log.info("[mon] the service secrets were thrown away: all tickets are renewed")
            self._renew(everything=True)
        self._check_connected()
        target = session.conn.target
        name = new.name_of(target)
        if name is not None:
            session.name = f"mon.{name}"
        elif old is not None and old.name_of(target) is not None:
            raise ProtocolError(f"{session.name} at {target} is no monitor any more", errno=errno.ECONNRESET)

    def _answer(self, tid: int, front: MessageFront, result: Any = None, error: Error | None = None) -> None:
        pending = self._pending.get(tid)
        if pending is None:
            return
        if ANSWERS.get(type(pending.front)) is not type(front):
            raise ProtocolError(f"a monitor answered {type(pending.front).__name__} with {type(front).__name__}")
        self._pending.pop(tid, None)
        self._hunt.useful()
        _log.debug("[mon tid=%d] answer: %s", tid, error or type(result).__name__)
        if error is not None:
            pending.completion.set_error(error)
        else:
            pending.completion.set_result(result)

    def _check_connected(self) -> None:
        if self._connected is not None and self.monmap is not None and self._osdmap_epoch() and self._configured:
            self._connected.set_result(None)

    # ------------------------------------------------------------ the end

    def forget(self, error: Error) -> None:
        """In a child after fork; see Objecter.forget."""
        self.lock = RLock()
        self._closed = error
        self._session = None

    def close(self, error: Error) -> None:
        """Ends all sessions and fails what is pending with `error`."""
        with self.lock:
            self._closed = error
            sessions = [*self._hunting.values(), *([self._session] if self._session else [])]
            self._hunting.clear()
            self._session = None
            pending = [*self._pending.values(), *self._versions.values()]
            self._pending.clear()
            self._versions.clear()
            timers = (
                self._hunt_timer,
                self._ping_timer,
                self._config_timer,
                self._renew_timer,
                self._overdue_timer,
                self._full_map_timer,
            )
        for t in timers:
            if t is not None:
                t.cancel()
        for p in pending:
            p.completion.set_error(error)
        if self._connected is not None:
            self._connected.set_error(error)
        for s in sessions:
            close_session(s, error)


__all__ = ["CommandReply", "MonClient"]
