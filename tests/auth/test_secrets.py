"""No secret of a session is in what is logged, raised or shown, whatever goes wrong."""

from __future__ import annotations

import base64
import gc
import io as text_io
import json
import logging
import pickle
import time
from collections.abc import Iterator
from typing import Any

import pytest

from pyrbd import rados, rbd
from pyrbd.errors import AuthError
from pyrbd.msgr import cephx
from pyrbd.msgr.auth import AuthResult
from pyrbd.msgr.cephx import CephxMonAuthenticator, Ticket
from pyrbd.msgr.connection import Connection
from pyrbd.msgr.crypto import CryptoKey, Secret
from pyrbd.msgr.types import Utime
from pyrbd.rados.config import Config
from pyrbd.rados.keyring import find_key
from pyrbd.rados.monclient import MonClient
from pyrbd.rados.session import Session
from tests.dumps import dumped


class Secrets:
    """All of them, as they come up: of keys, tickets, connections."""

    def __init__(self) -> None:
        self.raw: set[bytes] = set()
        self.shown: list[str] = []

    def add(self, secret: bytes) -> None:
        if secret:
            self.raw.add(bytes(secret))

    def forms(self) -> Iterator[str]:
        """How one might be written: a part of it is too much already."""
        for raw in self.raw:
            yield raw.hex()[4:28]
            yield raw.hex(" ")[6:40]
            yield repr(raw)[6:24]
            yield repr(list(raw))[6:40]
            for start in range(3):
                yield base64.b64encode(raw[start:])[4:20].decode()

    def check(self) -> None:
        text = "\n".join(self.shown)
        assert len(text) > 1000, "there was something to look through"
        found = [form for form in self.forms() if form in text]
        assert not found


@pytest.fixture
def secrets(conf: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Secrets]:
    """Collects secrets where they are made, and what is logged at level DEBUG."""
    collected = Secrets()
    config = Config()
    config.read_file(conf)
    collected.add(find_key(config).secret)
    open_tickets, done = cephx._open_tickets, Connection._on_auth_done

    def opened(*args: Any) -> dict[int, Ticket]:
        tickets = open_tickets(*args)
        for ticket in tickets.values():
            collected.add(ticket.session_key.secret)
        return tickets

    def authenticated(self: Connection, frame: Any) -> None:
        done(self, frame)
        if self._result is not None:
            collected.add(self._result.connection_secret)

    monkeypatch.setattr(cephx, "_open_tickets", opened)
    monkeypatch.setattr(Connection, "_on_auth_done", authenticated)
    stream = text_io.StringIO()
    handler = logging.StreamHandler(stream)
    logger = logging.getLogger("pyrbd")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield collected
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    log = stream.getvalue()
    assert "connecting to" in log and "tickets of client" in log, "the log is that of a whole session"
    collected.shown.append(log)
    collected.check()
    assert len(collected.raw) >= 5, "the key, and those of four tickets"


def renew(cluster: rados.Rados, *, everything: bool) -> None:
    mon = cluster.client.mon
    assert mon is not None
    before = mon.tickets.renewals
    mon._renew(everything=everything)
    end = time.monotonic() + 10
    while mon.tickets.renewals == before:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_whole_session(conf: str, secrets: Secrets) -> None:
    with rados.Rados(conffile=conf) as cluster, cluster.open_ioctx("rbd") as io:
        rbd.RBD().create(io, "secrets", 4 << 20)
        with rbd.Image(io, "secrets") as image:
            image.write(b"data", 0)
            renew(cluster, everything=False)
            renew(cluster, everything=True)
            for session in list(cluster.client.objecter._sessions.values()):
                session.abort(rados.OSError("cut by the test"))
            assert image.read(0, 4) == b"data"
            cluster.mgr_command(json.dumps({"prefix": "osd df"}), b"")
            with pytest.raises(rados.Error) as e:
                io.read("no such object")
            secrets.shown.append(dumped(e.value))
            ours = [o for o in gc.get_objects() if str(type(o).__module__).startswith("pyrbd.")]
            assert {CryptoKey, Ticket} <= {type(o) for o in ours}
            secrets.shown += [repr(o) for o in ours]
            secrets.shown += [repr(vars(o)) for o in ours if hasattr(o, "__dict__") and not isinstance(o, type)]
        rbd.RBD().remove(io, "secrets")


def test_what_fails_on_the_way(conf: str, secrets: Secrets, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exceptions, with all local variables of all functions that they came through."""

    def fails(what: str) -> Any:
        def at(*args: Any, **kwargs: Any) -> Any:
            raise AuthError(f"made to fail in {what}")

        return at

    places = {
        "the key": (CryptoKey, "prove"),
        "a ticket": (CryptoKey, "check_usable"),
        "the end": (CephxMonAuthenticator, "_open"),
        "the result": (AuthResult, "__new__"),
    }
    closed = MonClient.on_closed

    def on_closed(self: MonClient, session: Session, error: BaseException) -> None:
        secrets.shown.append(dumped(error))
        closed(self, session, error)

    monkeypatch.setattr(MonClient, "on_closed", on_closed)
    for what, (cls, name) in places.items():
        with monkeypatch.context() as patch:
            cluster = rados.Rados(conffile=conf)
            patch.setattr(cls, name, fails(what))
            with pytest.raises(rados.Error) as e:
                cluster.connect(timeout=0.7)
            secrets.shown.append(dumped(e.value))
            assert f"made to fail in {what}" in "".join(secrets.shown)
    wrong = CryptoKey(1, Utime(0, 0), Secret(b"w" * 8 + b"rong key"))
    secrets.add(wrong.secret)
    text = base64.b64encode(wrong.to_bytes()).decode()
    with pytest.raises(rados.PermissionDeniedError) as e:
        rados.Rados(conffile=conf, conf={"key": text}).connect(timeout=10)
    secrets.shown.append(dumped(e.value))
    assert text not in secrets.shown[-1]
    with rados.Rados(conffile=conf) as cluster:
        assert cluster.list_pools()


def test_nothing_of_a_session_is_pickled(handle: rados.Rados) -> None:
    mon = handle.client.mon
    assert mon is not None
    for thing in (mon.tickets, *mon.tickets.held.values(), AuthResult(Secret(b"x"), Secret(b"y"), {})):
        with pytest.raises(TypeError):
            pickle.dumps(thing)


def test_conf_get_gives_the_key_to_who_set_it(conf: str) -> None:
    """As librados does: an option is an option."""
    cluster = rados.Rados(conffile=conf, conf={"key": "AQAAAAAAAAAAABAAAAECAwQFBgcICQoLDA0ODw=="})
    assert cluster.conf_get("key") == "AQAAAAAAAAAAABAAAAECAwQFBgcICQoLDA0ODw=="
