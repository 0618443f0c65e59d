"""What comes out of cephx's encryption, and around it: replies of monitors, authorizers' answers, renewed tickets."""

from __future__ import annotations

import base64
from collections.abc import Iterator

from pyrbd.denc import Encoder
from pyrbd.msgr import cephx
from pyrbd.msgr.auth import AuthResult, NoneAuthenticator
from pyrbd.msgr.cephx import CephxAuthorizer, CephxMonAuthenticator, CephxServiceTicket, Ticket
from pyrbd.msgr.crypto import CRYPTO_AES, CRYPTO_AES256KRB5, PREFIX, CryptoKey, KeyUsage, Secret
from pyrbd.msgr.frames import Tag
from pyrbd.msgr.types import ENTITY_TYPE_AUTH, Utime
from tests.fuzz.material import Chunks, fixed_random, frames_of, sessions, ticket

KEYS = (
    CryptoKey(CRYPTO_AES, Utime(1, 0), Secret(range(16))),
    CryptoKey(CRYPTO_AES256KRB5, Utime(1, 0), Secret(range(32))),
)


def _sealed(key: CryptoKey, plain: bytes, way: int, usage: KeyUsage) -> bytes:
    """Encrypted under a key: as a struct, as raw bytes, or not at all."""
    if way % 4 == 0:
        return plain
    return key.encrypt_raw(plain if way % 4 == 1 else PREFIX + plain, usage)


def _blob(data: bytes) -> bytes:
    return len(data).to_bytes(4, "little") + data


def _tickets(c: Chunks, key: CryptoKey, n: int) -> bytes:
    """A vector of tickets whose parts are of the input, sealed so that `key` opens them."""
    e = Encoder()
    e.u8(1)
    e.u32(n)
    for _ in range(n):
        service, how, inner, outer = c.byte(), c.byte(), c.blob(), c.blob()
        e.u32(service)
        e.u8(1)
        e.blob(_sealed(key, inner, how, KeyUsage.TICKET_SESSION_KEY))
        e.u8(how >> 7)
        e.blob(_sealed(key, outer, how >> 4 & 3, KeyUsage.TICKET_BLOB) if how >> 7 else outer)
    return bytes(e.buf)


def _reply(c: Chunks, key: CryptoKey, way: int) -> bytes:
    """A monitor's reply to a login."""
    e = Encoder()
    e.u16(cephx.REQUEST_GET_AUTH_SESSION_KEY)
    e.s32(0)
    e.raw(_tickets(c, key, 1 + way % 3))
    if way & 64:
        e.blob(_blob(_sealed(key, c.blob(), 2, KeyUsage.AUTH_CONNECTION_SECRET)))
        e.blob(_tickets(c, key, way >> 4 & 3))
    return bytes(e.buf)


def one(data: bytes) -> None:
    c = Chunks(data)
    kind, way = c.byte(), c.byte()
    key = KEYS[kind >> 7]
    held = Ticket(ENTITY_TYPE_AUTH, key, b"\1" + bytes(8) + _blob(b"x"), 3600, 0)
    with fixed_random():
        result: object = None
        kind = kind % 128 % 8
        if kind == 0:  # a monitor's challenge and its reply, as they are
            mon = CephxMonAuthenticator("admin", key, 0, None if way & 1 else ticket())
            mon.request()
            mon.reply_more(c.blob())
            result = mon.done(c.rest())
        elif kind == 1:  # a reply with tickets that our key opens
            mon = CephxMonAuthenticator("admin", key, 0, held if way & 128 else None)
            mon.reply_more(bytes([1]) + bytes(8))
            result = mon.done(_reply(c, key, way))
        elif kind == 2:  # an OSD's challenge, and its answer
            osd = CephxAuthorizer(held, 4)
            osd.request()
            osd.reply_more(_sealed(key, c.blob(), way, KeyUsage.AUTHORIZE_CHALLENGE))
            result = osd.done(_blob(_sealed(key, c.rest(), way >> 2, KeyUsage.AUTHORIZE_REPLY)))
        elif kind == 3:
            CryptoKey.from_base64(c.rest().decode("latin-1")).check_usable()
        elif kind == 4:
            result = NoneAuthenticator("admin", 4, mon=bool(way & 1)).done(c.rest())
        elif kind == 5:
            key.decrypt_raw(c.rest(), KeyUsage.AUTHORIZE)
        else:  # tickets that were asked for on a session
            mon = CephxMonAuthenticator("admin", key)
            mon.reply_more(bytes([1]) + bytes(8))
            mon.renewal_request(held, 4, prove=kind == 6)
            if way & 1:
                found = mon.renewal_reply(c.rest(), held)
            elif kind == 6:
                found = mon.renewal_reply(_reply(c, key, way), held)
            else:
                head = cephx.REQUEST_GET_PRINCIPAL_SESSION_KEY.to_bytes(2, "little") + bytes(4)
                found = mon.renewal_reply(head + _tickets(c, key, 1 + way % 3), held)
            for renewed in found.values():
                CephxAuthorizer(renewed, 4).request()
    assert result is None or isinstance(result, AuthResult)


def seeds() -> Iterator[bytes]:
    more, done = (next(p[0] for t, p in frames_of("mon") if t == tag) for tag in (Tag.AUTH_REPLY_MORE, Tag.AUTH_DONE))
    secret = _blob(b"secret" * 11)
    shown = bytes([1]) + bytes(8) + _blob(b"opaque")
    for i, key in enumerate(KEYS):
        which = i << 7
        yield Chunks.of(which, 1, more[4:], done[16:])
        yield Chunks.of(which, 0, more[4:], done[16:])
        service = CephxServiceTicket(1, key, Utime(3600, 0)).to_bytes()
        three: tuple[int | bytes, ...] = (32, 2, service, shown, 4, 2, service, shown, 1, 2, service, shown)
        yield Chunks.of(which | 1, 2, *three)
        yield Chunks.of(which | 1, 64 | 16, 32, 2, service, shown, secret, 4, 2, service, shown)
        yield Chunks.of(which | 1, 128, 32, 0xA2, service, _blob(shown))
        yield Chunks.of(which | 2, 2 | 2 << 2, bytes([1]) + bytes(8)) + bytes([2]) + bytes(8) + secret
        yield bytes([which | 5, 0]) + key.encrypt_raw(b"plain", KeyUsage.AUTHORIZE)
        yield Chunks.of(which | 6, 2, *three)
        yield Chunks.of(which | 7, 2, *three)
    yield bytes([3, 0]) + base64.b64encode(bytes.fromhex(sessions()["key"]))
    yield bytes([4, 1])
