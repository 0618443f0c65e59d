"""Maps and incrementals, and where they say that things are: every mapping ends."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from pyrbd.msgr.types import EntityAddr
from pyrbd.osdmap import Incremental, OSDMap
from pyrbd.osdmap.features import SIGNIFICANT_FEATURES
from tests.fuzz.material import Chunks, epochs, few_draws, sum_map

US = EntityAddr(EntityAddr.TYPE_MSGR2, 7, "127.0.0.1", 0)


@cache
def _base() -> OSDMap:
    return OSDMap.decode_full(epochs()["first"])


def _encodes(m: OSDMap) -> None:
    """What was decoded can be written, and that is read as what it was."""
    data = m.encode()
    again = OSDMap.decode_full(data)
    assert again.crc == m.crc
    assert again.encode() == data


def _use(m: OSDMap) -> None:
    """What a client asks of a map."""
    assert US not in m.blocklist or m.blocklist
    m.min_compat_client  # noqa: B018
    _encodes(m)
    for pool_id in list(m.pools)[:4]:
        pool = m.pools[pool_id]
        for name in ("a", "rbd_header.1"):
            raw = m.object_to_raw_hash(pool_id, name, "", "ns")
            seed = m.raw_hash_to_pg(pool_id, raw).seed
            primary, acting = m.pg_acting_primary(pool_id, seed)
            m.pg_interval(pool_id, seed)
            m.osd_addrs(primary)
            assert len(acting) <= max(255, len(m.pg_temp))
        assert pool.required_alignment is None or pool.required_alignment >= 0
    for osd in range(min(4, m.max_osd)):
        m.crush.full_location(osd)
        m.crush.common_ancestor_distance(osd, frozenset({("host", "a"), ("root", "default")}))


def one(data: bytes) -> None:
    with few_draws():
        _map(data)


def _map(data: bytes) -> None:
    c = Chunks(data)
    options = c.byte()
    if options & 1:
        m = _base()
        for _ in range(1 + (options >> 2) % 3):
            m = m.apply(_incremental(_summed(c.blob(), options)))
            _use(m)
    else:
        _use(OSDMap.decode_full(_summed(c.rest(), options)))


def _incremental(data: bytes) -> Incremental:
    inc = Incremental.decode(data)
    written = inc.encode(SIGNIFICANT_FEATURES)
    assert Incremental.decode(written).encode() == written
    return inc


def _summed(data: bytes, options: int) -> bytes:
    return data if options & 2 else sum_map(data)


def seeds() -> Iterator[bytes]:
    e = epochs()
    yield bytes([0]) + e["first"]
    yield bytes([0]) + e["last"]
    for i in range(3):
        yield Chunks.of(1 | i << 2, *e["incrementals"][: i + 1])
    base = OSDMap.decode_full(e["first"])
    for inc in e["incrementals"]:  # each as the first one
        follows = bytearray(inc)
        at = follows.find(base.fsid) + 16
        follows[at : at + 4] = (base.epoch + 1).to_bytes(4, "little")
        yield Chunks.of(1, bytes(follows))
