"""Connections to real daemons in each mode, compressed, and by IPv6; what they refuse and we refuse."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import pytest

from pyrbd import aio, rados, rbd
from pyrbd.msgr import connection
from pyrbd.msgr.compression import ALGORITHMS
from pyrbd.msgr.frames import BULK_SIZE, MODE_CRC, MODE_SECURE
from pyrbd.msgr.types import ENTITY_TYPE_OSD, EntityAddr, EntityAddrVec
from pyrbd.osdmap import OSDMap
from pyrbd.testing import Cluster
from tests.conftest import own_cluster

pytestmark = pytest.mark.timeout(400)  # when a release is to be downloaded first

SIZES = [0, 1, 15, 16, 17, 4096, 16383, 16384, BULK_SIZE - 1, BULK_SIZE, BULK_SIZE + 1, (1 << 20) + 3, 4 << 20]
NOISE = random.Random(3).randbytes(2 << 20) + b"and what can be compressed " * 80_000


def sessions(client: rados.Rados) -> list[tuple[int, int]]:
    """Mode and compression of the connections to OSDs."""
    found = client._client.objecter._sessions.values()
    return [(s.conn.mode, s.conn.compression) for s in found if s.conn.features]


def use(client: rados.Rados) -> None:
    """Commands to all daemons; data of all sizes there and back, into new bytes and into a buffer."""
    assert client.mon_command('{"prefix": "fsid"}', b"")[0] == 0
    assert client.mgr_command('{"prefix": "pg stat"}', b"")[0] == 0
    assert client.osd_command(0, '{"prefix": "version"}', b"")[0] == 0
    into = bytearray(4 << 20)
    with client.open_ioctx("rbd") as io:
        for size in SIZES:
            data = NOISE[-size:] if size else b""
            io.write_full("of all sizes", data)
            assert io.read("of all sizes", 4 << 20) == data, size
            assert io.read_into("of all sizes", into) == size and into[:size] == data
        io.remove_object("of all sizes")


# ---------------------------------------------------------------- modes


@pytest.mark.parametrize("mode", ["crc", "secure", "secure crc", "crc secure"])
@pytest.mark.parametrize("mon_mode", ["crc", "secure"])
def test_the_client_chooses_where_the_cluster_allows_both(conf: str, mode: str, mon_mode: str) -> None:
    options = {"ms_client_mode": mode, "ms_mon_client_mode": mon_mode}
    with rados.Rados(conffile=conf, conf=options) as client:
        use(client)
        first = MODE_SECURE if mode.startswith("secure") else MODE_CRC
        assert set(sessions(client)) == {(first, 0)}
        session = client._client.mon._session
        assert session is not None
        assert session.conn.mode == (MODE_SECURE if mon_mode == "secure" else MODE_CRC)


@pytest.mark.parametrize("mode", ["crc", "secure"])
def test_the_asyncio_door_in_each_mode(conf: str, mode: str) -> None:
    async def main() -> None:
        async with aio.Rados(conffile=conf, conf={"ms_client_mode": mode}) as client:
            io = await client.open_ioctx("rbd")
            for size in SIZES[1:]:
                await io.write_full("by asyncio", NOISE[-size:])
                assert await io.read("by asyncio", size) == NOISE[-size:]
            await io.remove_object("by asyncio")

    asyncio.run(main())


@pytest.fixture(scope="module", params=["secure", "crc"])
def forced(request: pytest.FixtureRequest) -> Iterator[tuple[str, Cluster]]:
    """A cluster of which all daemons speak one mode."""
    with own_cluster(osds=1, modes=request.param) as cluster:
        yield request.param, cluster


def test_a_cluster_that_allows_one_mode(forced: tuple[str, Cluster]) -> None:
    mode, cluster = forced
    both = {"ms_client_mode": "crc secure", "ms_mon_client_mode": "crc secure"}
    with rados.Rados(conffile=str(cluster.conf), conf=both) as client:
        use(client)
        assert set(sessions(client)) == {(MODE_SECURE if mode == "secure" else MODE_CRC, 0)}
        with client.open_ioctx("rbd") as io:
            rbd.RBD().create(io, "an image", 8 << 20)
            with rbd.Image(io, "an image") as image:
                image.write(NOISE, 1 << 20)
                assert image.read(1 << 20, len(NOISE)) == NOISE
            rbd.RBD().remove(io, "an image")


def test_the_other_mode_is_refused_with_the_option_to_set(forced: tuple[str, Cluster]) -> None:
    mode, cluster = forced
    other = "crc" if mode == "secure" else "secure"
    with pytest.raises(rados.OSError, match=f"in mode {mode}.*ms_mon_client_mode") as caught:
        rados.Rados(conffile=str(cluster.conf), conf={"ms_mon_client_mode": other}).connect()
    assert caught.value.errno == 95
    options = {"ms_mon_client_mode": mode, "ms_client_mode": other}
    with rados.Rados(conffile=str(cluster.conf), conf=options) as client, client.open_ioctx("rbd") as io:
        with pytest.raises(rados.OSError) as refused:
            io.stat("anything")
        assert refused.value.errno == 95
        assert f"in mode {mode}" in str(refused.value.__cause__) and "ms_client_mode" in str(refused.value.__cause__)


@pytest.mark.parametrize("option", ["ms_client_mode", "ms_mon_client_mode"])
def test_modes_that_do_not_exist_are_refused_when_connecting(conf: str, option: str) -> None:
    with pytest.raises(rados.InvalidArgumentError, match="is no connection mode"):
        rados.Rados(conffile=conf, conf={option: "clear"}).connect()


def test_without_checksums_where_both_sides_leave_them_out() -> None:
    """Older releases than quincy do not know how."""
    with (
        own_cluster(release="reef", osds=1, settings=["ms_crc_data=false"]) as cluster,
        rados.Rados(conffile=str(cluster.conf), conf={"ms_crc_data": "false"}) as client,
    ):
        use(client)


# ---------------------------------------------------------------- compression


@pytest.fixture(scope="module", params=["reef", "tentacle"])
def compressing(request: pytest.FixtureRequest) -> Iterator[tuple[str, Cluster]]:
    """OSDs that compress. Among themselves with snappy, as zstd aborts them; and without a throttle for
    clients, which takes the compressed size and gives back the other, and aborts them as well."""
    settings = [
        "osd/ms_osd_compress_mode=force",
        "osd/ms_osd_compression_algorithm=snappy zstd lz4 zlib",
        "osd/ms_compress_secure=true",
        "osd/osd_client_message_size_cap=0",
    ]
    with own_cluster(release=request.param, cipher="aes", osds=1, settings=settings) as cluster:
        yield request.param, cluster


def compressed_options(name: str, mode: str) -> dict[str, str]:
    return {
        "ms_client_mode": mode,
        "ms_osd_compress_mode": "force",
        "ms_osd_compression_algorithm": name,
        "ms_compress_secure": "true",
    }


def test_osds_do_not_compress_for_clients_and_all_is_well(compressing: tuple[str, Cluster]) -> None:
    """CompressorRegistry::get_mode knows OSDs only: a client asks, and is told no."""
    _, cluster = compressing
    with rados.Rados(conffile=str(cluster.conf), conf=compressed_options("zstd", "crc")) as client:
        use(client)
        assert set(sessions(client)) == {(MODE_CRC, 0)}


@pytest.mark.parametrize("mode", ["crc", "secure"])
@pytest.mark.parametrize("name", ["snappy", "zstd", "lz4", "zlib"])
def test_what_osds_say_to_each_other_is_understood(
    compressing: tuple[str, Cluster], name: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To somebody who says that he is an OSD, they compress: all that is sent and received."""
    release, cluster = compressing
    if release == "tentacle" and name in ("lz4", "zlib"):
        pytest.skip("Debian's packages of tentacle lack libqatzip, which this plugin needs")
    monkeypatch.setattr(connection, "ENTITY_TYPE_CLIENT", ENTITY_TYPE_OSD)
    with rados.Rados(conffile=str(cluster.conf), conf=compressed_options(name, mode)) as client:
        use(client)
        assert set(sessions(client)) == {(MODE_SECURE if mode == "secure" else MODE_CRC, ALGORITHMS[name])}


# ---------------------------------------------------------------- addresses


def test_ipv6() -> None:
    with own_cluster(address="::1", osds=1) as cluster:
        for mode in ("crc", "secure"):
            with rados.Rados(conffile=str(cluster.conf), conf={"ms_client_mode": mode}) as client:
                use(client)
                assert "[::1]" in str(client._client.addrs)


V4, V6 = (EntityAddr(EntityAddr.TYPE_MSGR2, 7, host, 6800) for host in ("10.0.0.1", "fd00::1"))
V1 = EntityAddr(EntityAddr.TYPE_LEGACY, 7, "10.0.0.1", 6801)


def test_of_several_addresses_one_of_our_family_is_the_first_choice() -> None:
    both = EntityAddrVec((V1, V6, V4))
    assert both.msgr2_addrs == (V6, V4) and both.msgr2 == V6
    assert [both.choose(None, n) for n in range(3)] == [V6, V4, V6]
    assert [both.choose(V4, n) for n in range(3)] == [V4, V6, V4]
    assert [both.choose(V6, n) for n in range(3)] == [V6, V4, V6]
    assert EntityAddrVec((V6,)).choose(V4) == V6
    assert EntityAddrVec((V1,)).choose(V4) is None


@pytest.mark.parametrize("host", ["fd00::1", "127.0.0.1"])
def test_an_address_that_cannot_be_reached_is_left_for_another(
    conf: str, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = OSDMap.osd_addrs

    def with_another(osdmap: OSDMap, osd: int) -> EntityAddrVec:
        addrs = real(osdmap, osd)
        bad = EntityAddr(EntityAddr.TYPE_MSGR2, addrs.addrs[0].nonce, host, 1)
        return EntityAddrVec((bad, *addrs.addrs))

    monkeypatch.setattr(OSDMap, "osd_addrs", with_another)
    with rados.Rados(conffile=conf, conf={"rados_osd_op_timeout": "30"}) as client:
        use(client) if ":" in host else None
        with client.open_ioctx("rbd") as io:
            io.write_full("reached", b"somehow")
            assert io.read("reached") == b"somehow"
            io.remove_object("reached")


def test_daemons_without_an_address_of_the_new_messenger_are_named(
    conf: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(OSDMap, "osd_addrs", lambda osdmap, osd: EntityAddrVec((V1,)))
    with rados.Rados(conffile=conf, conf={"rados_osd_op_timeout": "0.5"}) as client:
        with client.open_ioctx("rbd") as io, pytest.raises(rados.TimedOut):
            io.read("anything")
        with pytest.raises(rados.OSError, match="has no msgr2 address"):
            client.osd_command(0, '{"prefix": "version"}', b"")
    assert "no msgr2 address" in caplog.text and "14.2.11" in caplog.text
