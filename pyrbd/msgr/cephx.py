"""cephx, the client's side (`src/auth/cephx/CephxProtocol.h`, `doc/dev/cephx_protocol.rst`).

With a monitor we prove that we know our key, and get a ticket for the AUTH service and,
under it, tickets for mon, osd and mgr. To an OSD we show such a ticket in an *authorizer*,
answer its challenge, and check that it could open the ticket.

What is encrypted is `CryptoKey.encrypt` of {u8 1, u64 magic, value}: AES-128-CBC with a
fixed IV. Keys of type 2 (aes256k) are recognised and refused by name.
"""

import base64
import binascii
import hmac
import os
import struct as _struct
from typing import Annotated, ClassVar, NamedTuple, TypeVar

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from ..denc import (
    Buffer,
    Decoder,
    Encoder,
    InBlob,
    Struct,
    Vector,
    blob,
    boolean,
    s32,
    string,
    u8,
    u16,
    u32,
    u64,
)
from ..errors import AuthError, DecodeError
from .types import ENTITY_TYPE_AUTH, ENTITY_TYPE_CLIENT, ENTITY_TYPE_MGR, ENTITY_TYPE_MON, ENTITY_TYPE_OSD, Utime

AUTH_METHOD_NONE = 1
AUTH_METHOD_CEPHX = 2
AUTH_METHOD_NAMES = {1: "none", 2: "cephx", 4: "gss"}

AUTH_MODE_AUTHORIZER = 1
AUTH_MODE_MON = 10

CRYPTO_NONE = 0
CRYPTO_AES = 1
CRYPTO_AES256KRB5 = 2

REQUEST_GET_AUTH_SESSION_KEY = 0x0100
REQUEST_GET_PRINCIPAL_SESSION_KEY = 0x0200

_MAGIC = 0xFF009CAD8826AA55
_IV = b"cephsageyudagreg"
_PREFIX = _struct.pack("<BQ", 1, _MAGIC)
_U64 = 0xFFFFFFFFFFFFFFFF

S = TypeVar("S", bound=Struct)
_StructType = type[S]  # CryptoKey has a field `type`


class CryptoKey(Struct, secret=("secret",)):
    """CryptoKey: a secret and how it is used. `repr` does not show the secret."""

    type: u16
    created: Utime
    secret: bytes

    @classmethod
    def wire_min_size(cls) -> int:
        return 12

    @classmethod
    def decode(cls, d: Decoder) -> "CryptoKey":
        kind = d.u16()
        created = Utime.decode(d)
        return cls(kind, created, d.raw(d.u16()))

    def encode(self, e: Encoder) -> None:
        e.u16(self.type)
        self.created.encode(e)
        e.u16(len(self.secret))
        e.raw(self.secret)

    @classmethod
    def from_base64(cls, text: str) -> "CryptoKey":
        """The key as a keyring writes it.

        Raises:
            AuthError: EINVAL; the text itself is not part of the message.
        """
        try:
            return cls.from_bytes(base64.b64decode(text.strip(), validate=True))
        except (binascii.Error, DecodeError, ValueError):
            raise AuthError("the key is not a cephx key in base64", errno=22) from None

    def check_usable(self) -> None:
        """Refuses, by name, a key whose cipher is not spoken here.

        Raises:
            AuthError: EOPNOTSUPP or EINVAL.
        """
        if self.type == CRYPTO_AES256KRB5:
            raise AuthError(
                "the key is of type aes256k, which this version does not speak",
                errno=95,
                hint="use a key of type aes: ceph auth get-or-create ... --key-type aes, where the cluster allows it",
            )
        if self.type != CRYPTO_AES or len(self.secret) != 16:
            raise AuthError(f"a cephx key of type {self.type} with {len(self.secret)} bytes is not known", errno=22)

    def _cipher(self) -> Cipher[modes.CBC]:
        self.check_usable()
        return Cipher(algorithms.AES(self.secret), modes.CBC(_IV))

    def encrypt_raw(self, plain: bytes) -> bytes:
        pad = 16 - len(plain) % 16
        enc = self._cipher().encryptor()
        return enc.update(plain + bytes([pad]) * pad) + enc.finalize()

    def decrypt_raw(self, data: bytes) -> bytes:
        if not data or len(data) % 16:
            raise AuthError(f"cephx: {len(data)} encrypted bytes are not whole blocks")
        dec = self._cipher().decryptor()
        plain = dec.update(data) + dec.finalize()
        pad = plain[-1]
        if not 1 <= pad <= 16:
            raise AuthError("cephx: cannot decrypt", hint="the key is not the one that the cluster knows")
        return plain[:-pad]

    def encrypt(self, value: Struct) -> bytes:
        """The ciphertext of `value` with cephx's magic before it."""
        e = Encoder()
        e.raw(_PREFIX)
        value.encode(e)
        return self.encrypt_raw(bytes(e.buf))

    def decrypt(self, data: bytes, cls: "_StructType[S]") -> S:
        plain = self.decrypt_raw(data)
        if not plain.startswith(_PREFIX):
            raise AuthError("cephx: cannot decrypt", hint="the key is not the one that the cluster knows")
        return cls.decode(Decoder(plain, len(_PREFIX)))


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
    connection_secret: blob

    @classmethod
    def decode(cls, d: Decoder) -> "CephxAuthorizeReply":
        struct_v, nonce = d.u8(), d.u64()
        return cls(struct_v, nonce, d.blob() if struct_v >= 2 else b"")


class CephxServiceTicket(Struct, secret=("session_key",)):
    struct_v: u8
    session_key: CryptoKey
    validity: Utime


class CephxConnectionSecret(Struct, secret=("secret",)):
    secret: blob


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


class MonAuthRequest(Struct):
    """The payload of AUTH_REQUEST to a monitor."""

    auth_mode: u8
    entity_type: u32
    entity_id: string
    global_id: u64


# ---------------------------------------------------------------- the exchange


class Ticket(NamedTuple):
    """What we hold to talk to one kind of service."""

    service_id: int
    session_key: CryptoKey
    ticket_blob: bytes
    validity: float
    """Seconds from the moment when it was issued."""
    secret_id: int

    def __repr__(self) -> str:
        return f"<Ticket service={self.service_id} secret_id={self.secret_id} validity={self.validity:.0f}s>"


class AuthResult(NamedTuple):
    """What an authentication ends with."""

    session_key: bytes
    connection_secret: bytes
    tickets: dict[int, Ticket]

    def __repr__(self) -> str:
        return f"<AuthResult tickets={sorted(self.tickets)}>"


def _random_u64() -> int:
    return int.from_bytes(os.urandom(8), "little")


def calculate_challenge_key(key: CryptoKey, server_challenge: int, client_challenge: int) -> int:
    """cephx_calc_client_server_challenge: the length-prefixed ciphertext of the two
    challenges, folded by XOR of its whole 64-bit words."""
    data = key.encrypt(CephxChallengeBlob(server_challenge, client_challenge))
    data = _struct.pack("<I", len(data)) + data
    result = 0
    for i in range(0, len(data) - 7, 8):
        result ^= int.from_bytes(data[i : i + 8], "little")
    return result


def _open_tickets(replies: CephxTicketReplies, key: CryptoKey, session_keys: dict[int, Ticket]) -> dict[int, Ticket]:
    """verify_service_ticket_reply: the tickets of a reply that `key` opens."""
    found: dict[int, Ticket] = {}
    for t in replies.tickets:
        service = key.decrypt(t.service_ticket, CephxServiceTicket)
        raw = t.ticket_blob
        if t.ticket_is_encrypted:  # under the session key of the ticket that it replaces
            old = session_keys.get(t.service_id)
            if old is None:
                raise AuthError("cephx: a ticket encrypted under a session that we do not have")
            inner = Decoder(old.session_key.decrypt_raw(raw))
            inner.skip(len(_PREFIX))
            raw = inner.blob()
        secret_id = CephxTicketBlob.decode(Decoder(raw)).secret_id
        service.session_key.check_usable()
        found[t.service_id] = Ticket(t.service_id, service.session_key, raw, float(service.validity), secret_id)
    return found


class Authenticator:
    """One authentication on one connection, as the messenger's handshake drives it."""

    method: ClassVar[int]

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


class CephxMonAuthenticator(Authenticator):
    """Logs in at a monitor and asks for tickets for the AUTH, mon, osd and mgr services."""

    method = AUTH_METHOD_CEPHX

    def __init__(self, entity_id: str, key: CryptoKey, global_id: int = 0, old_ticket: "Ticket | None" = None) -> None:
        key.check_usable()
        self._id = entity_id
        self._key = key
        self._global_id = global_id
        self._old = old_ticket
        self._challenged = False

    def request(self) -> bytes:
        return MonAuthRequest(AUTH_MODE_MON, ENTITY_TYPE_CLIENT, self._id, self._global_id).to_bytes()

    def reply_more(self, payload: Buffer) -> bytes:
        if self._challenged:
            raise AuthError("cephx: the monitor challenged twice")
        self._challenged = True
        server = CephxServerChallenge.decode(Decoder(payload)).server_challenge
        client = _random_u64()
        if self._old is None:
            old = CephxTicketBlob(1, 0, b"")
        else:
            old = CephxTicketBlob.decode(Decoder(self._old.ticket_blob))
        e = Encoder()
        e.u16(REQUEST_GET_AUTH_SESSION_KEY)
        CephxAuthenticate(
            3,
            client,
            calculate_challenge_key(self._key, server, client),
            old,
            ENTITY_TYPE_MON | ENTITY_TYPE_OSD | ENTITY_TYPE_MGR,
        ).encode(e)
        return bytes(e.buf)

    def done(self, payload: Buffer) -> AuthResult:
        if not self._challenged:
            raise AuthError("cephx: the monitor did not challenge us")
        reply = CephxSessionKeyReply.decode(Decoder(payload))
        if reply.request_type != REQUEST_GET_AUTH_SESSION_KEY or reply.status:
            raise AuthError(f"cephx: the monitor answered with status {reply.status}", errno=abs(reply.status) or 5)
        old = {ENTITY_TYPE_AUTH: self._old} if self._old else {}
        tickets = _open_tickets(reply.tickets, self._key, old)
        auth = tickets.get(ENTITY_TYPE_AUTH)
        if auth is None:
            raise AuthError("cephx: the monitor's reply has no AUTH ticket")
        secret = b""
        if reply.connection_secret:
            encrypted = Decoder(reply.connection_secret).blob()
            secret = auth.session_key.decrypt(encrypted, CephxConnectionSecret).secret
        tickets.update(_open_tickets(reply.extra_tickets, auth.session_key, {}))
        return AuthResult(auth.session_key.secret, secret, tickets)


class CephxAuthorizer(Authenticator):
    """Shows a service ticket to a daemon and checks that the daemon could open it."""

    method = AUTH_METHOD_CEPHX

    def __init__(self, ticket: Ticket, global_id: int) -> None:
        self._ticket = ticket
        self._global_id = global_id
        self._nonce = _random_u64()

    def _authorizer(self, challenge: int | None) -> bytes:
        e = Encoder()
        e.u8(AUTH_MODE_AUTHORIZER)
        e.u64(self._global_id)
        e.u32(self._ticket.service_id)
        e.raw(self._ticket.ticket_blob)
        have = challenge is not None
        plus_one = (challenge + 1) & _U64 if challenge is not None else 0
        e.blob(self._ticket.session_key.encrypt(CephxAuthorize(2, self._nonce, have, plus_one)))
        return bytes(e.buf)

    def request(self) -> bytes:
        return self._authorizer(None)

    def reply_more(self, payload: Buffer) -> bytes:
        challenge = self._ticket.session_key.decrypt(bytes(payload), CephxAuthorizeChallenge)
        return self._authorizer(challenge.server_challenge)

    def done(self, payload: Buffer) -> AuthResult:
        reply = self._ticket.session_key.decrypt(Decoder(payload).blob(), CephxAuthorizeReply)
        if not hmac.compare_digest(
            reply.nonce_plus_one.to_bytes(8, "little"), ((self._nonce + 1) & _U64).to_bytes(8, "little")
        ):
            raise AuthError("cephx: the daemon did not prove that it could open our ticket")
        return AuthResult(self._ticket.session_key.secret, reply.connection_secret, {})


class NoneAuthenticator(Authenticator):
    """`auth_client_required = none`: a name and no proof."""

    method = AUTH_METHOD_NONE

    def __init__(self, entity_id: str, global_id: int = 0, *, mon: bool) -> None:
        self._id = entity_id
        self._global_id = global_id
        self._mon = mon

    def request(self) -> bytes:
        if self._mon:
            return MonAuthRequest(AUTH_MODE_MON, ENTITY_TYPE_CLIENT, self._id, self._global_id).to_bytes()
        e = Encoder()
        e.u8(AUTH_MODE_AUTHORIZER)  # also the struct's version
        e.u32(ENTITY_TYPE_CLIENT)
        e.string(self._id)
        e.u64(self._global_id)
        return bytes(e.buf)

    def reply_more(self, payload: Buffer) -> bytes:
        raise AuthError("the peer wants more than a name although it agreed to no authentication")

    def done(self, payload: Buffer) -> AuthResult:
        return AuthResult(b"", b"", {})
