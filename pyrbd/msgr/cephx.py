"""cephx, the client's side (`src/auth/cephx/CephxProtocol.h`, `doc/dev/cephx_protocol.rst`).

With a monitor we prove that we know our key, and get a ticket for the AUTH service and,
under it, tickets for mon, osd and mgr. To an OSD we show such a ticket in an *authorizer*,
answer its challenge, and check that it could open the ticket. Before tickets run out we show
the AUTH ticket to the monitor for new ones (`CephxClientHandler.cc`); before that one runs out
we prove once more that we know our key. How things are encrypted: :mod:`pyrbd.msgr.crypto`.
"""

import hmac
from typing import Annotated, NamedTuple

from ..denc import Buffer, Decoder, Encoder, InBlob, Struct, Vector, blob, boolean, s32, u8, u16, u32, u64
from ..errors import AuthError
from .auth import AUTH_METHOD_CEPHX, AUTH_MODE_AUTHORIZER, Authenticator, AuthResult, mon_auth_request
from .crypto import CRYPTO_AES256KRB5, PREFIX, CryptoKey, KeyUsage, Secret, random_u64, secret_blob
from .types import ENTITY_TYPE_AUTH, ENTITY_TYPE_MGR, ENTITY_TYPE_MON, ENTITY_TYPE_OSD, Utime

REQUEST_GET_AUTH_SESSION_KEY = 0x0100
REQUEST_GET_PRINCIPAL_SESSION_KEY = 0x0200

SERVICES = ENTITY_TYPE_MON | ENTITY_TYPE_OSD | ENTITY_TYPE_MGR
"""What a client wants tickets for, besides AUTH."""

_U64 = 0xFFFFFFFFFFFFFFFF


# ---------------------------------------------------------------- what travels


class CephxServerChallenge(Struct):
    struct_v: u8
    server_challenge: u64


class CephxChallengeBlob(Struct):
    """What our key encrypts to prove that we have it."""

    server_challenge: u64
    client_challenge: u64


class CephxTicketBlob(Struct, secret=("blob",)):
    """A ticket as the service that issued it encrypted it: opaque to us."""

    struct_v: u8
    secret_id: u64
    blob: blob


class CephxAuthenticate(Struct, secret=("key",)):
    struct_v: u8
    client_challenge: u64
    key: u64
    old_ticket: CephxTicketBlob
    other_keys: u32


class CephxAuthorize(Struct):
    struct_v: u8
    nonce: u64
    have_challenge: boolean
    server_challenge_plus_one: u64


class CephxAuthorizeChallenge(Struct):
    struct_v: u8
    server_challenge: u64


class CephxAuthorizeReply(Struct, secret=("connection_secret",)):
    struct_v: u8
    nonce_plus_one: u64
    connection_secret: secret_blob

    @classmethod
    def decode(cls, d: Decoder) -> "CephxAuthorizeReply":
        struct_v, nonce = d.u8(), d.u64()
        return cls(struct_v, nonce, Secret(d.blob()) if struct_v >= 2 else Secret())


class CephxServiceTicket(Struct, secret=("session_key",)):
    struct_v: u8
    session_key: CryptoKey
    validity: Utime


class CephxConnectionSecret(Struct, secret=("secret",)):
    secret: secret_blob


class CephxTicketReply(Struct, secret=("service_ticket", "ticket_blob")):
    """One ticket of a reply: the part for us and the part to be shown to the service."""

    service_id: u32
    struct_v: u8
    service_ticket: blob
    ticket_is_encrypted: boolean
    ticket_blob: blob


class CephxTicketReplies(Struct):
    struct_v: u8
    tickets: Annotated[tuple[CephxTicketReply, ...], Vector(CephxTicketReply)]


class CephxSessionKeyReply(Struct, secret=("connection_secret",)):
    """The payload of the monitor's AUTH_DONE."""

    request_type: u16
    status: s32
    tickets: CephxTicketReplies
    connection_secret: blob = b""
    extra_tickets: Annotated[CephxTicketReplies, InBlob(CephxTicketReplies)] = CephxTicketReplies(1, ())

    @classmethod
    def decode(cls, d: Decoder) -> "CephxSessionKeyReply":
        head = (d.u16(), d.s32(), CephxTicketReplies.decode(d))
        if not d.remaining:  # before nautilus
            return cls(*head)
        secret = d.blob()
        extra = d.blob_decoder()
        return cls(*head, secret, CephxTicketReplies.decode(extra) if extra.remaining else CephxTicketReplies(1, ()))


class CephxServiceTicketRequest(Struct):
    struct_v: u8
    keys: u32
    """Bits of the entity types of the services."""


# ---------------------------------------------------------------- tickets


class Ticket(NamedTuple):
    """What we hold to talk to one kind of service."""

    service_id: int
    session_key: CryptoKey
    ticket_blob: bytes
    validity: float
    """Seconds from the moment when it was issued; 0: it is not known."""
    secret_id: int

    def __repr__(self) -> str:
        return f"<Ticket service={self.service_id} secret_id={self.secret_id} validity={self.validity:.0f}s>"


def _open_tickets(replies: CephxTicketReplies, key: CryptoKey, old: Ticket | None = None) -> dict[int, Ticket]:
    """verify_service_ticket_reply: the tickets of a reply that `key` opens; `old` is the AUTH ticket
    under whose session key the one that replaces it is hidden."""
    found: dict[int, Ticket] = {}
    for t in replies.tickets:
        service = key.decrypt(t.service_ticket, CephxServiceTicket, KeyUsage.TICKET_SESSION_KEY)
        raw = t.ticket_blob
        if t.ticket_is_encrypted:
            if old is None or t.service_id != old.service_id:
                raise AuthError("cephx: a ticket encrypted under a session that we do not have")
            inner = Decoder(old.session_key.decrypt_raw(raw, KeyUsage.TICKET_BLOB))
            inner.skip(len(PREFIX))
            raw = inner.blob()
        secret_id = CephxTicketBlob.decode(Decoder(raw)).secret_id
        service.session_key.check_usable()
        found[t.service_id] = Ticket(t.service_id, service.session_key, raw, float(service.validity), secret_id)
    return found


# ---------------------------------------------------------------- the exchange


class CephxMonAuthenticator(Authenticator):
    """Logs in at a monitor, with tickets for the AUTH, mon, osd and mgr services, and asks for
    others on the session that begins so.

    Args:
        global_id, old_ticket: as who we were known before, and the AUTH ticket that proves it.
    """

    method = AUTH_METHOD_CEPHX
    shown = "name and key"

    def __init__(self, entity_id: str, key: CryptoKey, global_id: int = 0, old_ticket: Ticket | None = None) -> None:
        key.check_usable()
        self._id = entity_id
        self._key = key
        self._global_id = global_id
        self._old = old_ticket
        self._challenge: int | None = None

    def request(self) -> bytes:
        return mon_auth_request(self._id, self._global_id)

    def refused_hint(self) -> str:
        name = f"client.{self._id}"
        if self._key.type == CRYPTO_AES256KRB5:
            more = "keys of type aes256k, as this one, need squid 19.2.6, tentacle 20.2.4 or newer"
        else:
            more = (
                "clusters of squid 19.2.6, tentacle 20.2.4 or newer may not allow keys of type aes, as this one: "
                f"ceph auth rotate {name} --key-type=aes256k"
            )
        return f"is {name} known to this cluster (ceph auth ls), and is this its key? {more}"

    def reply_more(self, payload: Buffer) -> bytes:
        if self._challenge is not None:
            raise AuthError("cephx: the monitor challenged twice")
        self._challenge = CephxServerChallenge.decode(Decoder(payload)).server_challenge
        return self._prove(self._old)

    def _prove(self, old: Ticket | None) -> bytes:
        """A request of CEPHX_GET_AUTH_SESSION_KEY."""
        assert self._challenge is not None
        client = random_u64()
        proof = self._key.prove(CephxChallengeBlob(self._challenge, client))
        known = CephxTicketBlob(1, 0, b"") if old is None else CephxTicketBlob.decode(Decoder(old.ticket_blob))
        e = Encoder()
        e.u16(REQUEST_GET_AUTH_SESSION_KEY)
        CephxAuthenticate(3, client, proof, known, SERVICES).encode(e)
        return bytes(e.buf)

    def done(self, payload: Buffer) -> AuthResult:
        if self._challenge is None:
            raise AuthError("cephx: the monitor did not challenge us")
        reply = CephxSessionKeyReply.decode(Decoder(payload))
        _check(reply.request_type, REQUEST_GET_AUTH_SESSION_KEY, reply.status)
        return self._open(reply, self._old)

    def _open(self, reply: CephxSessionKeyReply, old: Ticket | None) -> AuthResult:
        tickets = _open_tickets(reply.tickets, self._key, old)
        auth = tickets.get(ENTITY_TYPE_AUTH)
        if auth is None:
            raise AuthError("cephx: the monitor's reply has no AUTH ticket")
        secret = Secret()
        if reply.connection_secret:
            encrypted = Decoder(reply.connection_secret).blob()
            usage = KeyUsage.AUTH_CONNECTION_SECRET
            secret = auth.session_key.decrypt(encrypted, CephxConnectionSecret, usage).secret
        tickets.update(_open_tickets(reply.extra_tickets, auth.session_key))
        return AuthResult(auth.session_key.secret, secret, tickets)

    # The two below are the payloads of MAuth and MAuthReply.

    def renewal_request(self, auth_ticket: Ticket, global_id: int, *, prove: bool) -> bytes:
        """Asks, on the session that we logged in to, for new tickets.

        Args:
            auth_ticket: the AUTH ticket that we hold.
            prove: whether it is to be replaced, too.
        """
        if prove:
            return self._prove(auth_ticket)
        e = Encoder()
        e.u16(REQUEST_GET_PRINCIPAL_SESSION_KEY)
        e.raw(CephxAuthorizer(auth_ticket, global_id).request())
        CephxServiceTicketRequest(1, SERVICES).encode(e)
        return bytes(e.buf)

    def renewal_reply(self, payload: Buffer, auth_ticket: Ticket) -> dict[int, Ticket]:
        """The new tickets. Raises AuthError for an answer that is none, or is not for us."""
        d = Decoder(payload)
        kind = d.u16()
        if kind == REQUEST_GET_AUTH_SESSION_KEY:
            reply = CephxSessionKeyReply.decode(Decoder(payload))
            _check(kind, kind, reply.status)
            return self._open(reply, auth_ticket).tickets
        _check(kind, REQUEST_GET_PRINCIPAL_SESSION_KEY, d.s32())
        return _open_tickets(CephxTicketReplies.decode(d), auth_ticket.session_key)


def _check(kind: int, expected: int, status: int) -> None:
    """Of the head of a reply (CephXResponseHeader)."""
    if kind != expected or status:
        raise AuthError(f"cephx: the monitor answered with status {status}", errno=abs(status) or 5)


class CephxAuthorizer(Authenticator):
    """Shows a service ticket to a daemon and checks that the daemon could open it."""

    method = AUTH_METHOD_CEPHX
    shown = "ticket"

    def __init__(self, ticket: Ticket, global_id: int) -> None:
        self._ticket = ticket
        self._global_id = global_id
        self._nonce = random_u64()

    def _authorizer(self, challenge: int | None) -> bytes:
        e = Encoder()
        e.u8(AUTH_MODE_AUTHORIZER)
        e.u64(self._global_id)
        e.u32(self._ticket.service_id)
        e.raw(self._ticket.ticket_blob)
        have = challenge is not None
        plus_one = (challenge + 1) & _U64 if challenge is not None else 0
        message = CephxAuthorize(2, self._nonce, have, plus_one)
        e.blob(self._ticket.session_key.encrypt(message, KeyUsage.AUTHORIZE))
        return bytes(e.buf)

    def request(self) -> bytes:
        return self._authorizer(None)

    def refused_hint(self) -> str:
        return "it has run out, or the daemon does not know yet what it is sealed with"

    def reply_more(self, payload: Buffer) -> bytes:
        key = self._ticket.session_key
        challenge = key.decrypt(bytes(payload), CephxAuthorizeChallenge, KeyUsage.AUTHORIZE_CHALLENGE)
        return self._authorizer(challenge.server_challenge)

    def done(self, payload: Buffer) -> AuthResult:
        encrypted = Decoder(payload).blob()
        reply = self._ticket.session_key.decrypt(encrypted, CephxAuthorizeReply, KeyUsage.AUTHORIZE_REPLY)
        if not hmac.compare_digest(
            reply.nonce_plus_one.to_bytes(8, "little"), ((self._nonce + 1) & _U64).to_bytes(8, "little")
        ):
            raise AuthError("cephx: the daemon did not prove that it could open our ticket")
        return AuthResult(self._ticket.session_key.secret, reply.connection_secret, {})
