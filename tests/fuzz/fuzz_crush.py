"""CRUSH maps: decoded, every rule ends, with any weights."""

from __future__ import annotations

from collections.abc import Iterator

from pyrbd.osdmap import OSDMap
from pyrbd.osdmap.crush import CrushMap
from tests.fuzz.material import Chunks, epochs, few_draws


def one(data: bytes) -> None:
    with few_draws():
        _map(data)


def _map(data: bytes) -> None:
    c = Chunks(data)
    size, pool = 1 + c.byte() % 12, c.byte()
    weights = [0x10000 if w & 1 else w << 8 for w in c.blob()]
    m = CrushMap.decode(c.rest())
    for rule in list(m.rules)[:4]:
        for x in (0, 0xFFFFFFFF, 12345):
            found = m.do_rule(rule, x, size, weights, m.choose_args_for(pool))
            assert len(found) <= size
    for item in (-1, 0, 1):
        m.full_location(item)


def seeds() -> Iterator[bytes]:
    e = epochs()
    for full in (e["first"], e["last"]):
        raw = OSDMap.decode_full(full)._crush_raw
        yield Chunks.of(2, 1, b"\1\1\1\1\1") + raw
        yield Chunks.of(5, 1, b"\1\0\x80\x40\1") + raw
