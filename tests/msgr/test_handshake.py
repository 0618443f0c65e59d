"""The handshake in each mode with a daemon's side that is made for it, and all that a daemon may
answer to CLIENT_IDENT."""

from __future__ import annotations

import logging
import random
from itertools import count

import pytest

from pyrbd.errors import AuthError, ProtocolError
from pyrbd.msgr import compression
from pyrbd.msgr.compression import LZ4, SNAPPY, ZLIB, ZSTD, Offer
from pyrbd.msgr.connection import (
    AuthBadMethod,
    IdentMissingFeatures,
    Keepalive,
    KeepaliveAck,
    Message,
    SessionReconnectOk,
    SessionReset,
    SessionRetry,
    SessionRetryGlobal,
    State,
)
from pyrbd.msgr.features import FEATURE_NAMES, FEATURES_REQUIRED, FEATURES_SUPPORTED
from pyrbd.msgr.frames import (
    FEATURE_COMPRESSION,
    FEATURE_REVISION_1,
    MODE_CRC,
    MODE_SECURE,
    Tag,
    encode_banner,
)
from pyrbd.msgr.types import ENTITY_TYPE_MON, ENTITY_TYPE_OSD, EntityAddr, Utime

from .peer import ADDR, CLIENT_ADDR, KEY, SECRET, Hello, Peer

MODES = [MODE_CRC, MODE_SECURE]
BOTH = FEATURE_REVISION_1 | FEATURE_COMPRESSION
ALL = (ZSTD, LZ4, SNAPPY, ZLIB)
BIG = b"all work and no play " * 5000 + random.Random(1).randbytes(50_000)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("crc_data", [True, False])
def test_messages_both_ways(mode: int, crc_data: bool) -> None:
    into = bytearray(len(BIG))
    peer = Peer(mode=mode, crc_data=crc_data, sink=lambda tid, n: memoryview(into) if tid == 8 else None)
    if not crc_data:
        peer.reader._verify = False
    peer.ready()
    assert peer.conn.mode == mode and peer.conn.compression == 0
    for seq, data in enumerate([b"", b"small", BIG], 1):
        (event,) = peer.say(peer.message(seq, b"front", data))
        assert isinstance(event, Message) and (bytes(event.front), event.data) == (b"front", data)
        for b in peer.conn.encode_message(seq, 1, 1, 1, 1, b"asked", data):
            peer.take(b)
        frame = peer.reader.next_frame()
        assert frame is not None and (bytes(frame.segments[1]), frame.data) == (b"asked", data)
    (event,) = peer.say(peer.message(4, b"front", BIG, tid=8))
    assert event.data is None and into == BIG


def test_what_crc_data_false_sends_is_damaged_for_who_sums() -> None:
    peer = Peer(crc_data=False)
    with pytest.raises(ProtocolError, match="crc"):
        peer.handshake()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", ALL)
def test_compressed_messages_both_ways(mode: int, method: int) -> None:
    into = bytearray(len(BIG))
    peer = Peer(
        mode=mode,
        banner=BOTH,
        chooses=method,
        compression=Offer(ALL, 1024, True),
        sink=lambda tid, n: memoryview(into) if tid == 8 else None,
    )
    peer.ready()
    assert peer.request is not None and peer.request.is_compress and peer.request.preferred_methods == ALL
    assert peer.conn.compression == method
    for seq, data in enumerate([b"", b"small", BIG, random.Random(2).randbytes(70_000)], 1):
        raw = peer.message(seq, b"front", data)
        (event,) = peer.say(raw)
        assert isinstance(event, Message) and (bytes(event.front), event.data) == (b"front", data)
        sent = peer.conn.encode_message(seq, 1, 1, 1, 1, b"asked", data)
        if data is BIG:
            assert max(sum(map(len, sent)), len(raw)) < len(BIG)
        for b in sent:
            peer.take(b)
        frame = peer.reader.next_frame()
        assert frame is not None and (bytes(frame.segments[1]), frame.data) == (b"asked", data)
    (event,) = peer.say(peer.message(5, b"front", BIG, tid=8))
    assert event.data is None and into == BIG
    (event,) = peer.say(peer.frame(Tag.KEEPALIVE2_ACK, Keepalive(Utime(1, 2)).to_bytes()))
    assert event == KeepaliveAck(Utime(1, 2))


@pytest.mark.parametrize("mode", MODES)
def test_a_peer_that_does_not_want_to_compress(mode: int) -> None:
    peer = Peer(mode=mode, banner=BOTH, chooses=None, compression=Offer(ALL, 0, True))
    peer.ready()
    assert peer.conn.compression == 0
    assert len(b"".join(map(bytes, peer.conn.encode_message(1, 1, 1, 1, 1, b"f", BIG)))) > len(BIG)


def test_a_peer_that_cannot_compress_is_not_asked() -> None:
    peer = Peer(banner=FEATURE_REVISION_1, compression=Offer(ALL, 0, True))
    peer.ready()
    assert peer.request is None


def test_who_does_not_want_to_compress_does_not_say_that_he_can() -> None:
    peer = Peer(banner=BOTH)
    peer.ready()
    assert peer.request is None


def test_secure_mode_is_not_compressed_unless_told_so() -> None:
    """ms_compress_secure: the size of what is compressed tells of what is in it."""
    peer = Peer(mode=MODE_SECURE, banner=BOTH, compression=Offer(ALL, 0, False))
    peer.ready()
    assert peer.request is not None and not peer.request.is_compress
    peer = Peer(mode=MODE_SECURE, banner=BOTH, compression=Offer(ALL, 0, False), chooses=ZLIB)
    with pytest.raises(ProtocolError, match="did not offer"):
        peer.handshake()


def test_an_algorithm_that_was_not_offered_is_refused() -> None:
    peer = Peer(banner=BOTH, compression=Offer((ZSTD,), 0, True), chooses=ZLIB)
    with pytest.raises(ProtocolError, match="compression 2, which we did not offer"):
        peer.handshake()


@pytest.mark.parametrize("mode", MODES)
def test_a_compressed_frame_without_agreement_is_refused(mode: int) -> None:
    peer = Peer(mode=mode)
    peer.ready()
    peer.writer = compression.CompressingWriter(peer.writer, compression.codec(ZLIB), 0)
    with pytest.raises(ProtocolError, match="no compression was agreed on"):
        peer.say(peer.message(1, b"front", b"x" * 5000))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", ALL)
def test_a_bomb_is_refused(mode: int, method: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyrbd.msgr.frames.MAX_SEGMENT", 1 << 20)
    peer = Peer(mode=mode, banner=BOTH, chooses=method, compression=Offer(ALL, 0, True))
    peer.ready()
    peer.say(peer.message(1, b"front", bytes(1000 << 10)))
    with pytest.raises(ProtocolError, match="are accepted"):
        peer.say(peer.message(2, b"front", bytes(2 << 20)))
    peer = Peer(mode=mode, banner=BOTH, chooses=method, compression=Offer(ALL, 0, True))
    peer.ready()
    with pytest.raises(ProtocolError, match="are accepted"):  # several segments that are too much together
        peer.say(peer.frame(Tag.MESSAGE, bytes(41), bytes(500 << 10), bytes(500 << 10), bytes(500 << 10)))


@pytest.mark.parametrize("mode", MODES)
def test_a_compressed_header_of_another_length_is_refused(mode: int) -> None:
    peer = Peer(mode=mode, banner=BOTH, chooses=ZLIB, compression=Offer(ALL, 0, True))
    peer.ready()
    with pytest.raises(ProtocolError, match="message header of 500 bytes"):
        peer.say(peer.frame(Tag.MESSAGE, bytes(500), b"front"))


# ---------------------------------------------------------------- modes


def test_the_peer_chooses_among_our_modes() -> None:
    for modes in ((MODE_CRC, MODE_SECURE), (MODE_SECURE, MODE_CRC)):
        for chosen in modes:
            peer = Peer(mode=chosen, modes=modes)
            peer.ready()
            assert peer.conn.mode == chosen


@pytest.mark.parametrize(("ours", "chosen"), [(MODE_CRC, MODE_SECURE), (MODE_SECURE, MODE_CRC), (MODE_CRC, 7)])
def test_a_mode_that_was_not_offered_is_refused(ours: int, chosen: int) -> None:
    peer = Peer(mode=chosen, modes=(ours,))
    with pytest.raises(ProtocolError, match="did not offer"):
        peer.handshake()


def test_secure_mode_without_a_connection_secret_is_refused() -> None:
    peer = Peer(mode=MODE_SECURE, secret=b"")
    with pytest.raises(AuthError, match="secret of 0 bytes"):
        peer.handshake()


@pytest.mark.parametrize(
    ("kind", "option"), [(ENTITY_TYPE_OSD, "ms_client_mode"), (ENTITY_TYPE_MON, "ms_mon_client_mode")]
)
def test_what_a_peer_refuses_names_its_modes_and_our_option(kind: int, option: str) -> None:
    peer = Peer()
    peer.conn.peer_type = kind
    peer.say(encode_banner())
    peer.say(peer.frame(Tag.HELLO, Hello(kind, CLIENT_ADDR).to_bytes()))
    with pytest.raises(AuthError, match=f"it allows cephx in mode secure.*{option}") as caught:
        peer.say(peer.frame(Tag.AUTH_BAD_METHOD, AuthBadMethod(2, -95, (2,), (MODE_SECURE,)).to_bytes()))
    assert caught.value.errno == 95


# ---------------------------------------------------------------- banners


def test_old_messengers_are_refused_with_what_helps() -> None:
    for banner, text in (
        (b"ceph v027" + bytes(200), "speaks only messenger v1.*14.2.11"),
        (encode_banner(0), "v2.0, which is not safe.*14.2.11, octopus 15.2.5"),
        (encode_banner(FEATURE_COMPRESSION), "v2.0, which is not safe"),
        (encode_banner(BOTH, FEATURE_COMPRESSION), "requires messenger features 0x2"),
        (encode_banner(BOTH, 1 << 40), "requires messenger features 0x10000000000"),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n" + bytes(10), "not a Ceph daemon.*SSH-2.0"),
    ):
        with pytest.raises(ProtocolError, match=text):
            Peer().say(banner)
    Peer(compression=Offer(ALL, 0, True)).say(encode_banner(BOTH, FEATURE_COMPRESSION))


# ---------------------------------------------------------------- what may answer CLIENT_IDENT


@pytest.mark.parametrize("mode", MODES)
def test_a_later_global_seq_is_given_when_asked_for(mode: int) -> None:
    numbers = count(100)
    peer = Peer(mode=mode, global_seq=4, next_global_seq=lambda above: max(above + 1, next(numbers)))
    peer.handshake()
    for seen in (50, 2000):
        peer.say(peer.frame(Tag.SESSION_RETRY_GLOBAL, SessionRetryGlobal(seen).to_bytes()))
        (frame,) = peer.hear()
        peer.hear_ident(frame)
    assert [i.global_seq for i in peer.idents] == [4, 100, 2001]
    peer.say(peer.ident())
    assert peer.conn.state is State.READY


def test_a_peer_that_asks_for_ever_later_numbers_is_given_up() -> None:
    peer = Peer(next_global_seq=lambda above: above + 1)
    peer.handshake()
    with pytest.raises(ProtocolError, match="later global_seq") as caught:
        for seen in range(10):
            peer.say(peer.frame(Tag.SESSION_RETRY_GLOBAL, SessionRetryGlobal(seen).to_bytes()))
    assert caught.value.errno == 104


@pytest.mark.parametrize(
    ("tag", "payload", "text"),
    [
        (Tag.WAIT, b"", "wait for its own connection"),
        (Tag.SESSION_RETRY, SessionRetry(5).to_bytes(), "wants a session resumed"),
        (Tag.SESSION_RESET, SessionReset(True).to_bytes(), "reset a session"),
        (Tag.SESSION_RECONNECT_OK, SessionReconnectOk(7).to_bytes(), "resumed a session"),
        (Tag.SESSION_RETRY_GLOBAL, SessionRetryGlobal(7).to_bytes(), "later global_seq"),
    ],
)
def test_who_takes_us_for_somebody_else_gets_another_connection(tag: int, payload: bytes, text: str) -> None:
    """An error that passes: whoever owns the connection makes another one."""
    peer = Peer()
    peer.handshake()
    with pytest.raises(ProtocolError, match=text) as caught:
        peer.say(peer.frame(tag, payload))
    assert caught.value.errno == 104 and peer.conn.state is State.CLOSED


def test_features_that_one_side_lacks_are_named() -> None:
    peer = Peer()
    peer.handshake()
    with pytest.raises(ProtocolError, match="requires features that pyrbd does not have: SERVER_TENTACLE"):
        peer.say(peer.frame(Tag.IDENT_MISSING_FEATURES, IdentMissingFeatures(1 << 50).to_bytes()))
    peer = Peer()
    peer.handshake()
    with pytest.raises(ProtocolError, match="SERVER_SQUID"):
        peer.say(peer.ident(required=FEATURE_NAMES["SERVER_SQUID"]))
    peer = Peer()
    peer.handshake()
    with pytest.raises(ProtocolError, match=r"too old.*: SERVER_NAUTILUS \("):
        peer.say(peer.ident(features=FEATURES_SUPPORTED & ~(1 << 2)))
    assert FEATURES_REQUIRED & 1 << 2


def test_the_features_are_those_that_both_sides_have() -> None:
    peer = Peer(features=FEATURES_SUPPORTED & ~(1 << 33))
    peer.handshake()
    peer.say(peer.ident(features=(1 << 64) - 1))
    assert peer.conn.features == FEATURES_SUPPORTED & ~(1 << 33)


def test_a_daemon_that_is_another_one_is_not_taken() -> None:
    """Restarted meanwhile, for example: the nonce of its address is another."""
    peer = Peer()
    peer.handshake()
    with pytest.raises(ProtocolError, match="says that it is") as caught:
        peer.say(peer.ident(addr=EntityAddr(ADDR.type, ADDR.nonce + 1, ADDR.host, ADDR.port)))
    assert caught.value.errno == 104


# ---------------------------------------------------------------- keepalives


@pytest.mark.parametrize("mode", MODES)
def test_keepalives_are_answered_in_their_place(mode: int) -> None:
    """An answer that waits to be sent, and a message that is framed before it."""
    peer = Peer(mode=mode)
    peer.ready()
    peer.say(peer.frame(Tag.KEEPALIVE2, Keepalive(Utime(5, 6)).to_bytes()))
    first = b"".join(map(bytes, peer.conn.encode_message(1, 1, 1, 1, 1, b"front")))
    peer.take(first)
    frame = peer.reader.next_frame()
    assert frame is not None and bytes(frame.segments[1]) == b"front"
    (answer,) = peer.hear()
    assert answer.tag == Tag.KEEPALIVE2_ACK and bytes(answer.segments[0]) == Utime(5, 6).to_bytes()
    peer.conn.send_keepalive(Utime(7, 8))
    (asked,) = peer.hear()
    assert asked.tag == Tag.KEEPALIVE2
    (event,) = peer.say(peer.frame(Tag.KEEPALIVE2_ACK, bytes(asked.segments[0])))
    assert event == KeepaliveAck(Utime(7, 8))


# ---------------------------------------------------------------- the log


def test_the_log_tells_the_handshake_and_no_secrets(caplog: pytest.LogCaptureFixture) -> None:
    peer = Peer(mode=MODE_SECURE, banner=BOTH, chooses=ZLIB, compression=Offer(ALL, 0, True))
    peer.conn.label = "osd.3"
    with caplog.at_level(logging.DEBUG, "pyrbd.msgr"):
        peer.ready()
    text = [r.getMessage() for r in caplog.records]
    assert all(line.startswith("[osd.3] ") for line in text)
    for line, word in zip(
        text,
        ["v2.1", "AUTH_REQUEST: cephx in mode secure", "HELLO", "AUTH_DONE", "AUTH_SIGNATURE", "zlib", "SERVER_IDENT"],
        strict=True,
    ):
        assert word in line
    shown = "".join(text)
    assert repr(KEY)[2:-1] not in shown and SECRET[:16].hex() not in shown
