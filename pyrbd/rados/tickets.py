"""Who we are to the cluster: name, key, global id, and the tickets that prove it
(`src/auth/cephx/CephxProtocol.cc` CephXTicketManager, `src/auth/AuthRegistry.cc`).

Tickets are good for the time that the monitor says, counted here from when they came: the clock
of the wall may be wrong. A quarter of that before their end new ones are asked for. Whoever has
a method called holds the lock of :class:`~pyrbd.rados.monclient.MonClient`, or is one of the
threads that only want something to show to a daemon.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import AuthError, ConfigError, PyrbdError
from ..log import Log
from ..msgr.auth import (
    AUTH_METHOD_CEPHX,
    AUTH_METHOD_NONE,
    Authenticator,
    AuthResult,
    NoneAuthenticator,
)
from ..msgr.cephx import CephxAuthorizer, CephxMonAuthenticator, Ticket
from ..msgr.types import ENTITY_TYPE_AUTH, ENTITY_TYPE_NAMES
from .keyring import find_key

if TYPE_CHECKING:
    from ..denc import Buffer
    from ..msgr.crypto import CryptoKey
    from .config import Config

_log = Log("auth")

RENEW_AFTER = 0.75
"""The part of a ticket's validity after which it is renewed."""

_METHODS = {"cephx": AUTH_METHOD_CEPHX, "none": AUTH_METHOD_NONE}


class Tickets:
    """One client's identity.

    Args:
        entity: the client's name, without ``client.``.
        key: its secret, or None when it has none.
        methods: how to log in, in order of preference (``AUTH_METHOD_*``).
        no_key: why there is no key, when ``cephx`` would have been preferred.
    """

    def __init__(
        self, entity: str, key: CryptoKey | None, methods: Sequence[int], no_key: PyrbdError | None = None
    ) -> None:
        self.entity = entity
        self.global_id = 0
        self.known_as: set[int] = set()
        """Every global id that we have had."""
        self.held: dict[int, Ticket] = {}
        self.renewals = 0
        """How often tickets were renewed without logging in."""
        self.logins = 0
        self.denied: AuthError | None = None
        """What the monitors said when they would not even have us as a new client."""
        self._key = key
        self._methods = tuple(methods)
        self._no_key = no_key
        self._renew_at: dict[int, float] = {}
        self._method = 0
        self._login: CephxMonAuthenticator | None = None

    def __repr__(self) -> str:
        return f"<Tickets of client.{self.entity} ({self.global_id}): {list(self.held.values())}>"

    @classmethod
    def of(cls, config: Config) -> Tickets:
        """As configured: `auth_supported` or `auth_client_required`, in their order; without a
        keyring ``cephx`` is left out, as librados does.

        Raises:
            ConfigError, AuthError: see :func:`~pyrbd.rados.keyring.find_key`.
        """
        names = config.get_list("auth_supported") or config.get_list("auth_client_required")
        methods = [_METHODS[n] for n in names if n in _METHODS]
        if not methods:
            raise ConfigError(
                f"auth_client_required = {', '.join(names) or 'nothing'}: no method that is spoken here",
                errno=errno.ENOENT,
                hint="cephx and none are",
            )
        key = no_key = None
        if AUTH_METHOD_CEPHX in methods:
            try:
                key = find_key(config)
                key.check_usable()
            except ConfigError as e:
                given = config.get("key") or config.get("keyfile")
                if e.errno != errno.ENOENT or given or AUTH_METHOD_NONE not in methods:
                    raise
                _log.info("%s; trying without authentication", e)
                no_key = e
                methods.remove(AUTH_METHOD_CEPHX)
        return cls(config.id, key, methods, no_key)

    # ------------------------------------------------------------ to log in

    def login(self) -> Authenticator:
        """To log in at a monitor: as who we are already, if we are somebody."""
        global_id = self.global_id
        old = self.held.get(ENTITY_TYPE_AUTH) if global_id else None
        ways: list[Authenticator] = []
        for method in self._methods:
            if method == AUTH_METHOD_NONE:
                ways.append(NoneAuthenticator(self.entity, global_id, mon=True))
            elif self._key is not None:
                ways.append(CephxMonAuthenticator(self.entity, self._key, global_id, old))
        ways[0].others = tuple(ways[1:])
        return ways[0]

    def logged_in(self, way: Authenticator, result: AuthResult, global_id: int, now: float) -> None:
        """A monitor let us in."""
        if self.global_id and global_id != self.global_id:
            _log.warning("client.%d is client.%d now", self.global_id, global_id)
        self.global_id = global_id
        self.known_as.add(global_id)
        self.denied = None
        self.logins += 1
        self._method = way.method
        self._login = way if isinstance(way, CephxMonAuthenticator) else None
        self._keep(result.tickets, now)

    def begin_anew(self) -> bool:
        """The proof of our global id is not accepted: the next login is a new client's. False if
        it would have been one anyway."""
        known = bool(self.global_id)
        self.global_id = 0
        self.held = {service: t for service, t in self.held.items() if service != ENTITY_TYPE_AUTH}
        return known

    def explain(self, error: PyrbdError) -> PyrbdError:
        """Why logging in failed: that there was no key to try, when it was the method that was refused."""
        if self._no_key is None or not isinstance(error, AuthError):
            return error
        return AuthError(str(self._no_key), errno=error.errno)

    # ------------------------------------------------------------ to talk to daemons

    def authorizer(self, service: int) -> Authenticator:
        """What a daemon of the kind `service` (``ENTITY_TYPE_*``) is shown.

        Raises:
            AuthError: EACCES when the monitors gave no ticket for it.
        """
        if self._method == AUTH_METHOD_NONE:
            return NoneAuthenticator(self.entity, self.global_id, mon=False)
        ticket = self.held.get(service)
        if ticket is None:
            raise AuthError(
                f"client.{self.entity} has no ticket for the service {ENTITY_TYPE_NAMES.get(service, service)}"
            )
        return CephxAuthorizer(ticket, self.global_id)

    # ------------------------------------------------------------ renewal

    def _keep(self, tickets: dict[int, Ticket], now: float) -> None:
        self.held = {**self.held, **tickets}
        for service, ticket in tickets.items():
            if ticket.validity:
                self._renew_at[service] = now + ticket.validity * RENEW_AFTER
            else:
                self._renew_at.pop(service, None)
        _log.debug("tickets of client.%d: %s", self.global_id, list(tickets.values()))

    @property
    def renew_at(self) -> float | None:
        """When the first ticket is to be renewed, on the driver's clock."""
        return min(self._renew_at.values(), default=None)

    def renewal(self, now: float, *, everything: bool = False) -> bytes | None:
        """What to ask the monitor for new tickets with, the AUTH ticket among them when that is
        due too or `everything` is to be new; None when we are not logged in by cephx."""
        ticket = self.held.get(ENTITY_TYPE_AUTH)
        if self._login is None or ticket is None:
            return None
        prove = everything or self._renew_at.get(ENTITY_TYPE_AUTH, now + 1.0) <= now
        return self._login.renewal_request(ticket, self.global_id, prove=prove)

    def renewed(self, payload: Buffer, now: float) -> None:
        """The monitor's answer. Raises AuthError or DecodeError for one that cannot be used."""
        ticket = self.held.get(ENTITY_TYPE_AUTH)
        if self._login is None or ticket is None:
            raise AuthError("cephx: tickets that were not asked for")
        self._keep(self._login.renewal_reply(payload, ticket), now)
        self.renewals += 1
