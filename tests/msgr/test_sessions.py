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
from pyrbd.msgr import cephx
from pyrbd.msgr.cephx import AuthResult, CephxAuthorizer, CephxMonAuthenticator, CryptoKey, Ticket
from pyrbd.msgr.connection import TRANSITIONS, Connection, Event, Message, Ready, State
from pyrbd.msgr.frames import MODE_CRC, MODE_SECURE, Sink, Tag, encode_frame, no_sink
from pyrbd.msgr.messages import Message as Front
from pyrbd.msgr.messages import MMonMap, MMonSubscribe, MonMap, MOSDMap, SubscribeItem
from pyrbd.msgr.osdop import MOSDOp, MOSDOpReply, decode_reply
from pyrbd.msgr.types import ENTITY_TYPE_MON, ENTITY_TYPE_OSD, EntityAddr
from pyrbd.osdmap import OSDMap

RECORDS: dict[str, dict[str, Any]] = json.loads(
    gzip.decompress((Path(__file__).parent / "data" / "sessions.json.gz").read_bytes())
)
RECORD = RECORDS["crc"]
MODES = {"crc": MODE_CRC, "secure": MODE_SECURE}
SESSIONS = ["mon", "osd", "mon secure", "osd secure"]
TEXT = b"\0\0\0" + b"recorded by a test" * 300
BULK = (b"in bulk" + TEXT[7:]).ljust(70_000, b"\0")[1:-9]
"""What the largest answer has."""


@pytest.fixture(autouse=True)
def fixed_random(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cephx, "_random_u64", lambda: RECORD["random"])


def of(which: str) -> tuple[str, str]:
    """Peer and mode of a recorded session."""
    peer, _, mode = which.partition(" ")
    return peer, mode or "crc"


def bytes_of(which: str, direction: str) -> bytes:
    peer, mode = of(which)
    return b"".join(bytes.fromhex(data) for d, data in RECORDS[mode][peer]["log"] if d == direction)


def make(which: str, sink: Sink = no_sink) -> Connection:
    peer, mode = of(which)
    record, modes = RECORDS[mode], (MODES[mode],)
    addr = EntityAddr.from_bytes(bytes.fromhex(record[peer]["addr"]))
    if peer == "mon":
        key = CryptoKey.from_bytes(bytes.fromhex(record["key"]))
        login = CephxMonAuthenticator("admin", key)
        return Connection(ENTITY_TYPE_MON, addr, login, own_nonce=77, modes=modes, sink=sink)
    service, session_key, blob = record["osd"]["ticket"]
    ticket = Ticket(service, CryptoKey.from_bytes(bytes.fromhex(session_key)), bytes.fromhex(blob), 3600, 0)
    global_id = record["mon"]["global_id"]
    authorizer = CephxAuthorizer(ticket, global_id)
    return Connection(ENTITY_TYPE_OSD, addr, authorizer, own_nonce=77, global_id=global_id, modes=modes, sink=sink)


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


@pytest.mark.parametrize("which", SESSIONS)
def test_the_handshake_is_the_recorded_one(which: str) -> None:
    events, sent, conn = play(which, len)
    assert conn.state is State.READY
    assert isinstance(events[0], Ready)
    recorded = bytes_of(which, "tx")
    assert recorded.startswith(sent), "the handshake differs from what the daemon accepted"
    assert len(sent) > 300


@pytest.mark.parametrize("which", SESSIONS)
def test_cut_after_every_byte(which: str) -> None:
    whole, sent, _ = play(which, len)
    single, sent_single, _ = play(which, lambda rest: 1)
    assert single == whole and sent_single == sent


@pytest.mark.parametrize("which", SESSIONS)
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


@pytest.mark.parametrize("which", ["mon", "mon secure"])
def test_our_messages_have_the_recorded_bytes(which: str) -> None:
    """In secure mode that takes the right key, and a nonce for each piece before it."""
    sent = bytes_of(which, "tx")
    conn = make(which)
    handshake = b"".join(map(bytes, conn.data_to_send()))
    rest = bytes_of(which, "rx")
    while conn.state is not State.READY:
        conn.receive_data(rest[:1])
        rest = rest[1:]
        handshake += b"".join(map(bytes, conn.data_to_send()))
    subscribe = MMonSubscribe({"monmap": SubscribeItem(0), "osdmap": SubscribeItem(0)})
    frame = b"".join(map(bytes, conn.encode_message(0, 15, 3, 1, 127, subscribe.to_bytes())))
    assert sent == handshake + frame


def test_requests_hand_packed_and_declared() -> None:
    """The packed front of each recorded MOSDOp is the declaration's, in both directions."""
    for hexed in RECORD["osd"]["fronts"]:
        front = bytes.fromhex(hexed)
        assert front in bytes_of("osd", "tx")
        declared = MOSDOp.from_bytes(front)
        assert declared.to_bytes() == front
        assert declared.oid == b"recorded" and declared.snapid == 0xFFFFFFFFFFFFFFFE


@pytest.mark.parametrize("which", ["osd", "osd secure"])
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


@pytest.mark.parametrize("which", ["osd", "osd secure"])
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
    raw, into = bytearray(bytes_of("osd secure", "rx")), bytearray(69_990)
    whole = make("osd secure")
    whole.receive_data(bytes(raw))
    conn = make("osd secure", lambda tid, length: memoryview(into))
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
    conn = make(f"{peer} secure")
    rest = bytes_of(f"{peer} secure", "rx")
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
    raw = bytes_of(f"{peer} secure", "rx")
    conn = make(f"{peer} secure")
    at = 0
    while conn.state is not State.READY:
        conn.receive_data(raw[at : at + 1])
        at += 1
    messages = raw[at:]
    for changed in (raw[at - 96 : at] + messages, messages[96:] + bytes(96), messages[1:] + bytes(96)):
        conn = make(f"{peer} secure")
        conn.receive_data(raw[:at])
        with pytest.raises(ProtocolError, match="does not decrypt"):
            conn.receive_data(changed)


@pytest.mark.parametrize("which", SESSIONS)
def test_any_changed_byte_ends_in_one_clear_error(which: str) -> None:
    """A damaged or hostile stream costs the connection, never more."""
    raw = bytes_of(which, "rx")
    rng = random.Random(5)
    secure_from = len(raw)
    if which.endswith("secure"):
        conn = make(which)
        secure_from = next(
            i for i in range(1, len(raw)) if conn.receive_data(raw[i - 1 : i]) or conn.mode == MODE_SECURE
        )
    for at in [*range(0, min(len(raw), 1200), 3), *(rng.randrange(len(raw)) for _ in range(200))]:
        conn = make(which)
        damaged = bytearray(raw)
        damaged[at] ^= 1 << rng.randrange(8)
        try:
            conn.receive_data(bytes(damaged))
        except PyrbdError:
            assert conn.state is State.CLOSED
        else:  # the length of a frame grew, and its end is awaited; or a bit that nobody looks at
            assert conn.state is not State.CLOSED and at < secure_from


def test_a_wrong_signature_is_refused() -> None:
    conn = make("osd")
    conn._auth.done = lambda payload: AuthResult(b"another key", b"", {})  # type: ignore[method-assign]
    with pytest.raises(AuthError, match="signature"):
        conn.receive_data(bytes_of("osd", "rx"))


@pytest.mark.parametrize("state", list(State))
def test_frames_that_a_state_does_not_know_are_refused(state: State) -> None:
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


def test_secrets_are_not_shown() -> None:
    key = CryptoKey.from_bytes(bytes.fromhex(RECORD["key"]))
    events, _, conn = play("mon", len)
    shown = repr(key) + repr(events) + repr(conn) + repr(conn._result)
    assert key.secret.hex() not in shown and repr(key.secret)[2:-1] not in shown
    for ticket in events[0].auth.tickets.values():  # type: ignore[union-attr]
        assert repr(ticket.session_key.secret)[2:-1] not in shown


def test_a_wrong_key_does_not_open_tickets() -> None:
    conn = make("mon")
    conn._auth._key = CryptoKey(1, conn._auth._key.created, bytes(16))  # type: ignore[attr-defined]
    with pytest.raises((AuthError, DecodeError)):
        conn.receive_data(bytes_of("mon", "rx"))
