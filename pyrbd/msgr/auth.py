"""Authentication as the messenger's handshake drives it, and the method ``none``
(`src/auth/AuthRegistry.cc`, `src/auth/none/AuthNoneProtocol.h`, `doc/dev/msgr2.rst`)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from ..denc import Buffer, Struct, string, u8, u32, u64
from ..errors import AuthError
from .types import ENTITY_TYPE_CLIENT

if TYPE_CHECKING:
    from .cephx import Ticket

AUTH_METHOD_NONE = 1
AUTH_METHOD_CEPHX = 2
AUTH_METHOD_NAMES = {1: "none", 2: "cephx", 4: "gss"}

AUTH_MODE_AUTHORIZER = 1
AUTH_MODE_MON = 10


class AuthResult(NamedTuple):
    """What an authentication ends with."""

    session_key: bytes
    """Signs the handshake; empty without cephx."""
    connection_secret: bytes
    """What secure mode makes its keys of; empty in crc mode."""
    tickets: "dict[int, Ticket]"

    def __repr__(self) -> str:
        return f"<AuthResult tickets={sorted(self.tickets)}>"


class Authenticator:
    """One authentication on one connection."""

    method: ClassVar[int]
    shown: ClassVar[str] = "name"
    """What the peer is shown and may refuse."""
    others: "tuple[Authenticator, ...]" = ()
    """What else may be tried when the peer does not allow this method, in order of preference."""

    def request(self) -> bytes:
        """The payload of AUTH_REQUEST."""
        raise NotImplementedError

    def reply_more(self, payload: Buffer) -> bytes:
        """The peer's AUTH_REPLY_MORE; gives the payload of AUTH_REQUEST_MORE."""
        raise NotImplementedError

    def done(self, payload: Buffer) -> AuthResult:
        """The payload of AUTH_DONE.

        Raises:
            AuthError: the peer did not prove that it belongs to the cluster.
        """
        raise NotImplementedError

    def refused_hint(self) -> str:
        """What to look at when the peer did not accept us (EACCES)."""
        return ""

    def instead(self, allowed: Sequence[int]) -> "Authenticator | None":
        """The next one of ours whose method the peer, who refused this one, allows."""
        for i, other in enumerate(self.others):
            if other.method in allowed:
                other.others = self.others[i + 1 :]
                return other
        return None


class MonAuthRequest(Struct):
    """The payload of AUTH_REQUEST to a monitor."""

    auth_mode: u8
    entity_type: u32
    entity_id: string
    global_id: u64


class NoneAuthorizer(Struct):
    """AuthNoneAuthorizer: what an OSD or mgr gets; `auth_mode` is also the struct's version."""

    auth_mode: u8
    entity_type: u32
    entity_id: string
    global_id: u64


def mon_auth_request(entity_id: str, global_id: int) -> bytes:
    """Who wants to log in at a monitor; `global_id` 0 for a new client."""
    return MonAuthRequest(AUTH_MODE_MON, ENTITY_TYPE_CLIENT, entity_id, global_id).to_bytes()


class NoneAuthenticator(Authenticator):
    """`auth_client_required = none`: a name and no proof."""

    method = AUTH_METHOD_NONE

    def __init__(self, entity_id: str, global_id: int = 0, *, mon: bool) -> None:
        self._id = entity_id
        self._global_id = global_id
        self._mon = mon

    def request(self) -> bytes:
        if self._mon:
            return mon_auth_request(self._id, self._global_id)
        return NoneAuthorizer(AUTH_MODE_AUTHORIZER, ENTITY_TYPE_CLIENT, self._id, self._global_id).to_bytes()

    def reply_more(self, payload: Buffer) -> bytes:
        raise AuthError("the peer wants more than a name although it agreed to no authentication")

    def done(self, payload: Buffer) -> AuthResult:
        return AuthResult(b"", b"", {})
