"""Recorded connections to real daemons, played again: the same bytes in give the same bytes out,
wherever the stream is cut."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest

from pyrbd.errors import AuthError, DecodeError, ProtocolError, PyrbdError
from pyrbd.msgr import crypto
from pyrbd.msgr.auth import AuthResult
from pyrbd.msgr.cephx import CephxAuthorizer, CephxMonAuthenticator, Ticket
from pyrbd.msgr.connection import TRANSITIONS, Connection, Event, Message, Ready, State
from pyrbd.msgr.crypto import CryptoKey, Secret
from pyrbd.msgr.features import FEATURES_SUPPORTED
from pyrbd.msgr.frames import MODE_CRC, MODE_SECURE, Sink, Tag, encode_frame, no_sink
from pyrbd.msgr.messages import Message as Front
from pyrbd.msgr.messages import MMonMap, MMonSubscribe, MonMap, MOSDMap, SubscribeItem
from pyrbd.msgr.osdop import MOSDOp, MOSDOpReply, decode_reply
from pyrbd.msgr.types import ENTITY_TYPE_MON, ENTITY_TYPE_OSD, EntityAddr
from pyrbd.osdmap import OSDMap

from .record import fixed_bytes

RECORDS: dict[str, dict[str, Any]] = {
    path.name.partition(".")[0]: json.loads(gzip.decompress(path.read_bytes()))
    for path in sorted((Path(__file__).parent / "data").glob("*.json.gz"))
}
RECORD = RECORDS["sessions"]
EVERY = [f"{name}/{which}" for name in RECORDS for which in ("mon", "osd")]
"""``mixed`` is of a client with a key of type aes256k and services with secrets of type aes."""
RECORDED = FEATURES_SUPPORTED & ~(1 << 38)
"""The features of the client that was recorded: without CRUSH_MSR."""
TEXT = b"\0\0\0" + b"recorded by a test" * 300
BULK = (b"in bulk" + TEXT[7:]).ljust(70_000, b"\0")[1:-9]
"""What the largest answer has."""


def record_of(which: str) -> dict[str, Any]:
    """The record of ``sessions/mon``; ``mon`` is short for that."""
    name, _, kind = which.rpartition("/")
    return {**RECORDS[name or "sessions"], "this": RECORDS[name or "sessions"][kind], "kind": kind}


@pytest.fixture(autouse=True)
def fixed_random(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crypto, "random_bytes", fixed_bytes)


def bytes_of(which: str, direction: str) -> bytes:
    return b"".join(bytes.fromhex(data) for d, data in record_of(which)["this"]["log"] if d == direction)


def make(which: str, sink: Sink = no_sink) -> Connection:
    record = record_of(which)
    addr = EntityAddr.from_bytes(bytes.fromhex(record["this"]["addr"]))
    modes = (record.get("mode", MODE_CRC),)
    if record["kind"] == "mon":
        key = CryptoKey.from_bytes(bytes.fromhex(record["key"]))
        login = CephxMonAuthenticator("admin", key)
        return Connection(ENTITY_TYPE_MON, addr, login, own_nonce=77, modes=modes, features=RECORDED, sink=sink)
    service, session_key, blob = record["osd"]["ticket"]
    ticket = Ticket(service, CryptoKey.from_bytes(bytes.fromhex(session_key)), bytes.fromhex(blob), 3600, 0)
    global_id = record["mon"]["global_id"]
    authorizer = CephxAuthorizer(ticket, global_id)
    return Connection(
        ENTITY_TYPE_OSD,
        addr,
        authorizer,
        own_nonce=77,
        global_id=global_id,
        modes=modes,
        features=RECORDED,
        sink=sink,
    )


def keep(event: Event) -> Event:
    if isinstance(event, Message):
        return event._replace(front=bytes(event.front), middle=bytes(event.middle))  # type: ignore[arg-type]
    return event


def play(which: str, cut: Any) -> tuple[list[Event], bytes, Connection]:
    """Feeds what was received, cut into pieces by `cut(rest)`; gives events and what was sent
    in the handshake. Our own messages are sent where they were."""
    conn = make(which)
    sent = b"".join(map(bytes, conn.data_to_send()))
    events: list[Event] = []
    rest = bytes_of(which, "rx")
    while rest:
        n = max(1, min(len(rest), cut(rest)))
        events += [keep(e) for e in conn.receive_data(rest[:n])]
        sent += b"".join(map(bytes, conn.data_to_send()))
        rest = rest[n:]
    return events, sent, conn


@pytest.mark.parametrize("which", EVERY)
def test_the_handshake_is_the_recorded_one(which: str) -> None:
    events, sent, conn = play(which, len)
    assert conn.state is State.READY
    assert isinstance(events[0], Ready)
    recorded = bytes_of(which, "tx")
    assert recorded.startswith(sent), "the handshake differs from what the daemon accepted"
    assert len(sent) > 300


@pytest.mark.parametrize("which", EVERY)
def test_cut_after_every_byte(which: str) -> None:
    whole, sent, _ = play(which, len)
    single, sent_single, _ = play(which, lambda rest: 1)
    assert single == whole and sent_single == sent


@pytest.mark.parametrize("which", ["mon", "osd", "secure/mon", "secure/osd"])
def test_cut_anywhere(which: str) -> None:
    whole, sent, _ = play(which, len)
    for seed in range(20):
        rng = random.Random(seed)
        pieces, sent_pieces, _ = play(which, lambda rest, rng=rng: rng.choice([1, 7, 31, 32, 33, 100, 5000]))
        assert pieces == whole and sent_pieces == sent


def test_what_the_monitor_said() -> None:
    events, _, _ = play("mon", len)
    ready = events[0]
    assert isinstance(ready, Ready)
    assert sorted(ready.auth.tickets) == [1, 4, 16, 32]
    fronts = [
        Front.registry[e.header.type].decode_front(e.front, e.header.version) for e in events if isinstance(e, Message)
    ]
    monmap = next(MonMap.from_bytes(f.monmap) for f in fronts if isinstance(f, MMonMap))
    assert list(monmap.mons) == ["a"]
    maps = next(f for f in fronts if isinstance(f, MOSDMap))
    osdmap = OSDMap.decode_full(max(maps.maps.items())[1])
    assert osdmap.pool_ids["rbd"] and osdmap.max_osd == 3 and monmap.fsid == osdmap.fsid == maps.fsid


@pytest.mark.parametrize("which", ["mon", "secure/mon"])
def test_our_messages_have_the_recorded_bytes(which: str) -> None:
    """In secure mode that takes the right key, and a nonce for each piece before it."""
    _, handshake, conn = play(which, len)
    subscribe = MMonSubscribe({"monmap": SubscribeItem(0), "osdmap": SubscribeItem(0)})
    conn.in_seq = 0
    frame = b"".join(map(bytes, conn.encode_message(0, 15, 3, 1, 127, subscribe.to_bytes())))
    assert bytes_of(which, "tx") == handshake + frame


def test_requests_hand_packed_and_declared() -> None:
    """The packed front of each recorded MOSDOp is the declaration's, in both directions."""
    for hexed in RECORD["osd"]["fronts"]:
        front = bytes.fromhex(hexed)
        assert front in bytes_of("osd", "tx")
        declared = MOSDOp.from_bytes(front)
        assert declared.to_bytes() == front
        assert declared.oid == b"recorded" and declared.snapid == 0xFFFFFFFFFFFFFFFE


@pytest.mark.parametrize("which", ["osd", "secure/osd"])
def test_replies_fast_and_declared(which: str) -> None:
    events, _, _ = play(which, len)
    replies = [e for e in events if isinstance(e, Message)]
    results = []
    for e in replies:
        fast = decode_reply(e.front, e.header.version)
        slow = MOSDOpReply.from_bytes(e.front)
        assert slow.to_bytes() == bytes(e.front)
        assert (fast.result, fast.epoch, fast.attempt, fast.user_version) == (
            slow.result,
            slow.epoch,
            slow.retry_attempt,
            slow.user_version,
        )
        assert [(o.op, o.rval, o.length) for o in fast.ops] == [
            (o.op, r, o.payload_len) for o, r in zip(slow.ops, slow.rvals)
        ]
        results.append(fast.result)
    assert results == [0, 0, 0, -17, 0, 0, 0, 0, 0]
    assert replies[1].data == TEXT
    assert replies[7].data == BULK


@pytest.mark.parametrize("which", ["osd", "secure/osd"])
@pytest.mark.parametrize("piece", [1, 4099, 1 << 20])
def test_bulk_data_goes_where_the_sink_says(which: str, piece: int) -> None:
    raw, into, asked = bytes_of(which, "rx"), bytearray(69_990), []

    def sink(tid: int, length: int) -> memoryview:
        asked.append((tid, length))
        return memoryview(into)

    conn = make(which, sink)
    data = []
    for at in range(0, len(raw), piece):
        data += [e.data for e in conn.receive_data(raw[at : at + piece]) if isinstance(e, Message)]
        conn.data_to_send()
    assert asked == [(8, 69_990)] and data[7] is None
    assert into == BULK


def test_a_wrong_tag_leaves_nothing_in_the_buffer() -> None:
    """What was decrypted on its way into the caller's buffer is not left there unchecked."""
    raw, into = bytearray(bytes_of("secure/osd", "rx")), bytearray(69_990)
    whole = make("secure/osd")
    whole.receive_data(bytes(raw))
    conn = make("secure/osd", lambda tid, length: memoryview(into))
    start = next(
        i for i in range(0, len(raw), 1000) if conn.receive_data(raw[i : i + 1000]) is not None and conn.in_bulk
    )
    assert bytes(into).strip(b"\0")  # it decrypts what comes
    at = start + 1000 + 40_000
    raw[at] ^= 1
    seen: list[Event] = []
    with pytest.raises(ProtocolError, match="does not decrypt"):
        seen += conn.receive_data(bytes(raw[start + 1000 :]))
    assert not seen and not any(into)


@pytest.mark.parametrize("peer", ["mon", "osd"])
def test_a_peer_that_goes_on_in_clear_is_refused(peer: str) -> None:
    """AUTH_DONE chose secure mode, and what follows is a good frame in crc mode."""
    conn = make(f"secure/{peer}")
    rest = bytes_of(f"secure/{peer}", "rx")
    while conn.state is not State.SIGNATURE:
        conn.receive_data(rest[:1])
        rest = rest[1:]
    clear = b"".join(map(bytes, encode_frame(Tag.AUTH_SIGNATURE, conn._expected_signature)))
    with pytest.raises(ProtocolError, match="does not decrypt"):
        conn.receive_data(clear + bytes(200))
    assert conn.state is State.CLOSED


@pytest.mark.parametrize("peer", ["mon", "osd"])
def test_encrypted_frames_are_neither_repeated_nor_left_out(peer: str) -> None:
    """A recorded piece is good in its place only."""
    raw = bytes_of(f"secure/{peer}", "rx")
    conn = make(f"secure/{peer}")
    at = 0
    while conn.state is not State.READY:
        conn.receive_data(raw[at : at + 1])
        at += 1
    messages = raw[at:]
    for changed in (raw[at - 96 : at] + messages, messages[96:] + bytes(96), messages[1:] + bytes(96)):
        conn = make(f"secure/{peer}")
        conn.receive_data(raw[:at])
        with pytest.raises(ProtocolError, match="does not decrypt"):
            conn.receive_data(changed)


@pytest.mark.parametrize("which", ["mon", "osd", "aes256k/mon", "aes256k/osd", "secure/mon", "secure/osd"])
def test_any_changed_byte_ends_in_one_clear_error(which: str) -> None:
    """A damaged or hostile stream costs the connection, never more."""
    raw = bytes_of(which, "rx")
    rng = random.Random(5)
    whole = make(which)
    encrypted = next((i for i in range(len(raw)) if whole.mode == MODE_SECURE or whole.receive_data(raw[i : i + 1])), 0)
    for at in [*range(0, min(len(raw), 1200), 3), *(rng.randrange(len(raw)) for _ in range(200))]:
        conn = make(which)
        damaged = bytearray(raw)
        damaged[at] ^= 1 << rng.randrange(8)
        try:
            conn.receive_data(bytes(damaged))
        except PyrbdError:
            assert conn.state is State.CLOSED
        else:  # the length of a frame grew, and its end is awaited; or a bit that nobody looks at
            assert conn.state is not State.CLOSED and (conn.mode != MODE_SECURE or at < encrypted)


def test_a_wrong_signature_is_refused() -> None:
    conn = make("osd")
    conn._auth.done = lambda payload: AuthResult(b"another key", b"", {})  # type: ignore[method-assign]
    with pytest.raises(ProtocolError, match="signature"):
        conn.receive_data(bytes_of("osd", "rx"))


@pytest.mark.parametrize("state", list(State))
def test_frames_that_a_state_does_not_know_are_refused(state: State) -> None:
    from pyrbd.msgr.frames import Tag, encode_frame

    if state in (State.BANNER, State.CLOSED):
        return
    for tag in Tag:
        if tag in TRANSITIONS[state]:
            continue
        conn = make("mon")
        conn.state = state
        conn._reader.log = None
        with pytest.raises(ProtocolError, match="not expected"):
            conn.receive_data(b"".join(map(bytes, encode_frame(tag, bytes(41)))))


def test_the_end_of_the_stream_is_an_error() -> None:
    conn = make("mon")
    with pytest.raises(ProtocolError, match="closed the connection"):
        conn.receive_data(b"")


@pytest.mark.parametrize("name", RECORDS)
def test_tickets_are_renewed_as_recorded(name: str) -> None:
    """What we ask the monitor for new tickets with, and what it answered."""
    events, _, conn = play(f"{name}/mon", len)
    ready, auth = events[0], conn.auth
    assert isinstance(ready, Ready) and isinstance(auth, CephxMonAuthenticator)
    types = {"sessions": (1, 1), "secure": (1, 1), "aes256k": (2, 2), "mixed": (2, 1)}[name]
    assert (ready.auth.tickets[32].session_key.type, ready.auth.tickets[4].session_key.type) == types
    for prove, request, reply in RECORDS[name]["mon"]["renewals"]:
        held = ready.auth.tickets[32]
        assert auth.renewal_request(held, ready.global_id, prove=prove).hex() == request
        tickets = auth.renewal_reply(bytes.fromhex(reply), held)
        assert sorted(tickets) == ([1, 4, 16, 32] if prove else [1, 4, 16])
        for service, ticket in tickets.items():
            assert ticket.session_key != ready.auth.tickets[service].session_key
            assert ticket.session_key.type == types[service != 32] and ticket.validity > 0
        another = held._replace(session_key=held.session_key.replace(secret=Secret(bytes(32))))
        with pytest.raises((AuthError, DecodeError)):
            auth.renewal_reply(bytes.fromhex(reply), another)
        for at in range(0, len(reply) // 2, 5):
            damaged = bytearray.fromhex(reply)
            damaged[at] ^= 1 << at % 8
            for hostile in (bytes(damaged), bytes.fromhex(reply)[:at]):
                try:
                    auth.renewal_reply(hostile, held)
                except (AuthError, DecodeError):
                    pass  # else a bit of what only the service can read, or of a number that is ours to believe


@pytest.mark.parametrize("name", RECORDS)
def test_secrets_are_not_shown(name: str) -> None:
    key = CryptoKey.from_bytes(bytes.fromhex(RECORDS[name]["key"]))
    events, _, conn = play(f"{name}/mon", len)
    shown = repr(key) + repr(events) + repr(conn) + repr(conn._result)
    secrets = [key.secret, *(t.session_key.secret for t in events[0].auth.tickets.values())]  # type: ignore[union-attr]
    for secret in secrets:
        assert secret.hex() not in shown and repr(bytes(secret))[2:-1] not in shown


def test_a_wrong_key_does_not_open_tickets() -> None:
    conn = make("mon")
    conn._auth._key = CryptoKey(1, conn._auth._key.created, Secret(bytes(16)))  # type: ignore[attr-defined]
    with pytest.raises((AuthError, DecodeError)):
        conn.receive_data(bytes_of("mon", "rx"))
