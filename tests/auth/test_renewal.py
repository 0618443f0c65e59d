"""Tickets that run out in seconds are renewed under load; who we are survives what may happen to them."""

from __future__ import annotations

import asyncio
import itertools
import json
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from pyrbd import aio, rados, rbd
from pyrbd.msgr.frames import MODE_NAMES
from pyrbd.msgr.types import ENTITY_TYPE_AUTH, ENTITY_TYPE_MGR, ENTITY_TYPE_OSD
from pyrbd.rados.monclient import MonClient
from pyrbd.testing.base import Cluster
from tests.auth import checks, soak
from tests.conftest import own_cluster
from tests.proxy import redirected

pytestmark = pytest.mark.timeout(120)

RECORD = struct.Struct("<Q")


@pytest.fixture(scope="module")
def native() -> Iterator[Cluster]:
    """Three monitors, whose tickets are good for two seconds, and to ask for others for four."""
    settings = ["auth_service_ticket_ttl=2", "auth_mon_ticket_ttl=4", "mon_tick_interval=1"]
    with own_cluster(mons=3, osds=2, settings=settings) as cluster:
        yield cluster


@pytest.fixture
def client(native: Cluster) -> Iterator[rados.Rados]:
    with rados.Rados(conffile=str(native.conf)) as cluster:
        yield cluster


@pytest.fixture
def mon(client: rados.Rados) -> MonClient:
    assert client.client.mon is not None
    return client.client.mon


def wait_for(what: Callable[[], object], timeout: float = 20) -> None:
    end = time.monotonic() + timeout
    while not what():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.02)


def spoil(mon: MonClient, service: int) -> None:
    """Has us hold a ticket that nobody can open."""
    with mon.lock:
        held = mon.tickets.held[service]
        blob = bytearray(held.ticket_blob)
        blob[14] ^= 1  # in the block with the magic: keys of type aes notice nothing else
        mon.tickets.held = {**mon.tickets.held, service: held._replace(ticket_blob=bytes(blob))}


def cut_osds(client: rados.Rados) -> None:
    """New connections need tickets; those that are there do not."""
    for session in list(client.client.objecter._sessions.values()):
        session.abort(rados.OSError("cut by the test"))


def test_tickets_are_renewed_on_the_session_under_load(client: rados.Rados, mon: MonClient) -> None:
    """Also the one that the others are got with; the connections that are there stay."""
    global_id, tickets = client.get_instance_id(), mon.tickets
    secrets: set[int] = set()
    proofs: set[bytes] = set()
    with client.open_ioctx("rbd") as io:
        rbd.RBD().create(io, "tickets", 64 << 20)
        with rbd.Image(io, "tickets") as image:
            rounds, end = 0, time.monotonic() + 60
            sessions = set()
            while tickets.renewals < 5 or len(secrets) < 3 or len(proofs) < 2:
                assert time.monotonic() < end, (tickets.renewals, secrets)
                block = b"%8d" % rounds
                image.write(block, rounds % 60 * 1000000)
                assert image.read(rounds % 60 * 1000000, 8) == block
                rounds += 1
                secrets.add(tickets.held[ENTITY_TYPE_OSD].secret_id)
                proofs.add(tickets.held[ENTITY_TYPE_AUTH].ticket_blob)
                sessions |= {id(s) for s in client.client.objecter._sessions.values()}
            assert len(sessions) <= 2, "OSDs do not close connections because a ticket runs out"
            cut_osds(client)
            assert int(image.read(0, 8)) >= 0, "a new connection needs the new tickets"
            result, _, _ = client.mgr_command(json.dumps({"prefix": "osd df"}), b"")
            assert result == 0
    assert tickets.logins == 1, "all was asked on the session that was there"
    assert client.get_instance_id() == global_id


@pytest.mark.parametrize("mode", ["secure", "crc"])
def test_memory_stays_the_same_over_many_tickets(native: Cluster, mode: str) -> None:
    """`tests/auth/soak.py` does it for as long as one likes."""
    modes = {"ms_client_mode": mode, "ms_mon_client_mode": mode}
    with checks.login(str(native.conf), options=modes) as cluster:
        mon = cluster.client.mon
        assert mon is not None and mon._session is not None and MODE_NAMES[mon._session.conn.mode] == mode
        soaked = soak.soak(cluster, 6)
        assert soaked.renewals >= 3 and soaked.logins == 0 and soaked.connections > 5
        assert soaked.growth < 1024, soaked


@pytest.mark.parametrize("service", [ENTITY_TYPE_OSD, ENTITY_TYPE_MGR])
def test_a_daemon_that_does_not_accept_a_ticket_is_shown_another(
    client: rados.Rados, mon: MonClient, service: int
) -> None:
    with client.open_ioctx("rbd") as io:
        io.write_full("refused", b"before")
        wait_for(lambda: mon.driver.monotonic() - mon._issued > 1)
        renewals = mon.tickets.renewals
        spoil(mon, service)
        if service == ENTITY_TYPE_OSD:
            cut_osds(client)
            io.write_full("refused", b"after")
            assert io.read("refused") == b"after"
        else:
            assert client.mgr_command(json.dumps({"prefix": "osd df"}), b"")[0] == 0
    assert mon.tickets.renewals > renewals
    assert mon.tickets.logins == 1


def test_a_ticket_of_secrets_that_are_gone_is_replaced(client: rados.Rados, mon: MonClient) -> None:
    """As after the machine has slept: nobody renewed anything, and the OSDs know the secret no more."""
    with client.open_ioctx("rbd") as io:
        io.write_full("asleep", b"before")
        old = mon.tickets.held[ENTITY_TYPE_OSD]
        wait_for(lambda: mon.tickets.held[ENTITY_TYPE_OSD].secret_id >= old.secret_id + 3, 60)
        with mon.lock:
            mon.tickets.held = {**mon.tickets.held, ENTITY_TYPE_OSD: old}
            mon._issued -= 10
        cut_osds(client)
        io.write_full("asleep", b"after")
        assert io.read("asleep") == b"after"
        assert mon.tickets.held[ENTITY_TYPE_OSD].secret_id > old.secret_id


def test_the_old_ticket_proves_who_we_are_to_any_monitor(client: rados.Rados, mon: MonClient) -> None:
    global_id = client.get_instance_id()
    seen: set[object] = set()
    end = time.monotonic() + 60
    while len(seen) < 3:
        assert time.monotonic() < end, seen
        session = mon._session
        if session is None or not mon.tickets.held:
            time.sleep(0.01)
            continue
        seen.add(session.conn.target)
        logins = mon.tickets.logins
        session.abort(rados.OSError("cut by the test"))
        wait_for(lambda: mon.tickets.logins > logins)  # noqa: B023
        assert client.get_instance_id() == global_id
    result, out, _ = client.mon_command(json.dumps({"prefix": "health", "format": "json"}), b"")
    assert result == 0 and b'INSECURE_GLOBAL_ID_RECLAIM"' not in out, "we reclaimed as one should"


def test_a_renewal_that_is_not_answered_ends_in_another_login(
    client: rados.Rados, mon: MonClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyrbd.rados import monclient

    global_id, logins = client.get_instance_id(), mon.tickets.logins
    monkeypatch.setattr(monclient, "RENEW_TIMEOUT", 0.3)
    monkeypatch.setattr(MonClient, "_on_auth_reply", lambda self, reply: None)
    wait_for(lambda: mon.tickets.logins > logins)
    assert client.get_instance_id() == global_id


def test_who_cannot_prove_who_he_was_goes_on_as_a_new_client(client: rados.Rados, mon: MonClient) -> None:
    """And what was on its way is done once: the OSDs know it by the name that it was sent under first."""
    with redirected() as proxy, client.open_ioctx("rbd") as io:
        cut_osds(client)  # from here on through the proxy
        io.write_full("anew", b"")
        before = client.get_instance_id()
        for pipe in proxy.pipes:
            pipe.hold()
        done = [io.aio_append("anew", RECORD.pack(n)) for n in range(5)]
        direct = rados.Rados(conffile=client.conf_get("conf") or str(client.client.config.files[0]))
        with direct, direct.open_ioctx("rbd") as other:
            wait_for(lambda: len(other.read("anew")) == 5 * RECORD.size)  # done, and no answer comes
        assert not any(c.is_complete() for c in done)
        spoil(mon, ENTITY_TYPE_AUTH)
        mon.log_in_again(rados.OSError("asked for by the test"))  # type: ignore[arg-type]
        wait_for(lambda: client.get_instance_id() not in (0, before))
        for pipe in proxy.pipes:
            pipe.reset()
        for c in done:
            c.wait_for_complete()
            assert c.get_return_value() == 0
        assert io.read("anew") == b"".join(RECORD.pack(n) for n in range(5))
        io.append("anew", RECORD.pack(5))
        assert len(io.read("anew")) == 6 * RECORD.size
        assert client.client.objecter.resends >= 5


def test_an_image_and_its_lock_after_we_became_a_new_client(client: rados.Rados, mon: MonClient) -> None:
    """The lock is of who we were: it is taken again, and we do not fence ourselves for it."""
    with client.open_ioctx("rbd") as io:
        rbd.RBD().create(io, "anew-image", 8 << 20)
        with rbd.Image(io, "anew-image") as image:
            image.write(b"a" * 512, 0)
            before = client.get_instance_id()
            spoil(mon, ENTITY_TYPE_AUTH)
            mon.log_in_again(rados.OSError("asked for by the test"))  # type: ignore[arg-type]
            wait_for(lambda: client.get_instance_id() not in (0, before))
            cut_osds(client)
            image.write(b"b" * 512, 512)
            assert image.read(0, 1024) == b"a" * 512 + b"b" * 512
        with rbd.Image(io, "anew-image") as image:
            image.write(b"c", 0)
            assert image.is_exclusive_lock_owner()
    _, out, _ = client.mon_command(json.dumps({"prefix": "osd blocklist ls"}), b"")
    assert b"127.0.0.1" not in out


def test_a_renewal_that_is_refused_ends_in_another_login(client: rados.Rados, mon: MonClient) -> None:
    before, stop, errors = client.get_instance_id(), threading.Event(), []

    def work() -> None:
        try:
            with client.open_ioctx("rbd") as io:
                while not stop.is_set():
                    io.write_full("while", b"renewing")
                    assert io.read("while") == b"renewing"
        except BaseException as e:
            errors.append(e)

    thread = threading.Thread(target=work)
    thread.start()
    spoil(mon, ENTITY_TYPE_AUTH)
    wait_for(lambda: client.get_instance_id() not in (0, before))
    logins = mon.tickets.logins
    renewals = mon.tickets.renewals
    wait_for(lambda: mon.tickets.renewals > renewals)
    stop.set()
    thread.join()
    assert not errors and mon.tickets.logins == logins


def test_tickets_are_renewed_on_an_event_loop(native: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """And when the wall's clock is wrong: validity is counted from when a ticket came."""
    wrong = itertools.count(10, 1_000_000)
    monkeypatch.setattr(time, "time", lambda: float(next(wrong)))

    async def run() -> None:
        async with aio.Rados(conffile=str(native.conf)) as cluster:
            io = await cluster.open_ioctx("rbd")
            assert cluster.client.mon is not None
            tickets = cluster.client.mon.tickets
            end = time.monotonic() + 30
            while tickets.renewals < 2:
                assert time.monotonic() < end
                await io.write_full("loop", b"data")
                assert await io.read("loop") == b"data"
            assert tickets.logins == 1

    asyncio.run(run())


def test_a_key_that_is_taken_away_is_told_at_last(native: Cluster, client: rados.Rados) -> None:
    """A client goes on as long as OSDs take its ticket; then everything fails with what the monitors say."""
    out = client.mon_command(
        json.dumps(
            {
                "prefix": "auth get-or-create",
                "entity": "client.gone",
                "format": "json",
                "caps": ["mon", "allow r", "osd", "allow *"],
            }
        ),
        b"",
    )[1]
    key = json.loads(out)[0]["key"]
    with rados.Rados(conffile=str(native.conf), name="client.gone", conf={"key": key}) as gone:
        io = gone.open_ioctx("rbd")
        io.write_full("gone", b"x")
        assert client.mon_command(json.dumps({"prefix": "auth rm", "entity": "client.gone"}), b"")[0] == 0
        assert gone.client.mon is not None
        tickets = gone.client.mon.tickets
        with pytest.raises(rados.PermissionDeniedError) as e:
            end = time.monotonic() + 60
            while time.monotonic() < end:
                io.write_full("gone", b"y")
                cut_osds(gone)
        assert e.value.errno == 13 and tickets.denied is not None
        said = str(e.value.__cause__ or e.value.__context__)
        assert "did not accept our ticket" in said and key not in said
