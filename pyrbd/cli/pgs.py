"""All placement groups of a map as lines, and how many of them each OSD has
(`src/tools/osdmaptool.cc`, --test-map-pgs-dump and --test-map-pgs-dump-all).

All releases from nautilus to tentacle print the same lines. Where they map differently (16 and older find no OSDs by a
rule whose mask does not fit the pool), the sets are those of tentacle.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import chain, islice
from typing import TYPE_CHECKING

from ..osdmap.draws import item_weight
from ..osdmap.placement import pick_primary

if TYPE_CHECKING:
    from ..osdmap import OSDMap
    from ..osdmap.crush import Bucket

Osds = tuple[int, ...]
Row = tuple[int, Osds, Osds, int, Osds, int]
"""seed, raw, up, up primary, acting, acting primary"""

_AT_ONCE = 4096
"""Groups that are printed together."""


def print_pgs(osdmap: OSDMap, pools: Iterable[int], all_sets: bool, write: Callable[[str], object]) -> None:
    """Writes a line for each group of the pools, and then the statistics.

    Args:
        all_sets: raw, up and acting set in each line, instead of only the acting one.
    """
    total = _Counts()
    line = _full_lines if all_sets else _short_lines
    for pool in pools:
        write(f"pool {pool} pg_num {osdmap.pools[pool].pg_num}\n")
        rows = osdmap.map_pgs(pool)
        while part := list(islice(rows, _AT_ONCE)):
            write(line(pool, part))
            total.add(part)
    total.print(osdmap, write)


def _short_lines(pool: int, rows: list[Row]) -> str:
    forms = {n: f"{pool}.%x\t[{_fields(n)}]\t%d\n" for n in {len(row[4]) for row in rows}}
    return "".join([forms[len(acting)] % (seed, *acting, primary) for seed, _, _, _, acting, primary in rows])


def _full_lines(pool: int, rows: list[Row]) -> str:
    lines = []
    forms: dict[tuple[int, int, int], str] = {}
    for seed, raw, up, up_primary, acting, primary in rows:
        shape = (len(raw), len(up), len(acting))
        form = forms.get(shape)
        if form is None:
            one, two, three = map(_fields, shape)
            form = f"{pool}.%x raw ([{one}], p%d) up ([{two}], p%d) acting ([{three}], p%d)\n"
            forms[shape] = form
        lines.append(form % (seed, *raw, pick_primary(raw), *up, up_primary, *acting, primary))
    return "".join(lines)


def _fields(n: int) -> str:
    return ",".join(["%d"] * n)


class _Counts:
    """How many groups each OSD has, has as the first, has as primary; how many sets have which size."""

    def __init__(self) -> None:
        self.count: Counter[int] = Counter()
        self.first: Counter[int] = Counter()
        self.primary: Counter[int] = Counter()
        self.sizes: Counter[int] = Counter()

    def add(self, rows: list[Row]) -> None:
        sets = [row[4] for row in rows]
        self.count.update(chain.from_iterable(sets))
        self.first.update([osds[0] for osds in sets if osds])
        self.primary.update([row[5] for row in rows])
        self.sizes.update(map(len, sets))

    def print(self, osdmap: OSDMap, write: Callable[[str], object]) -> None:
        count = self.count
        write("#osd\tcount\tfirst\tprimary\tc wt\twt\n")
        weights = _item_weights(osdmap.crush.buckets)
        osds = [
            osd
            for osd in range(osdmap.max_osd)
            if osdmap.exists(osd) and osdmap.osd_weight[osd] and weights.get(osd, 0) > 0
        ]
        for osd in osds:
            crush_weight, weight = _fixed(weights[osd]), _fixed(osdmap.osd_weight[osd])
            write(f"osd.{osd}\t{count[osd]}\t{self.first[osd]}\t{self.primary[osd]}\t{crush_weight}\t{weight}\n")
        total, n = sum(count[osd] for osd in osds), len(osds)
        average = total // n if n else 0
        deviation = expected = math.nan
        if n:
            deviation = math.sqrt(sum((average - count[osd]) ** 2 for osd in osds) / n)
            expected = math.sqrt(total / n * (1.0 - 1.0 / n))
        write(
            f" in {n}\n avg {average} stddev {_number(deviation)} ({_ratio(deviation, average)}x)"
            f" (expected {_number(expected)} {_ratio(expected, average)}x))\n"
        )
        used = [osd for osd in osds if count[osd]]
        if used:
            least, most = min(used, key=count.__getitem__), max(used, key=count.__getitem__)
            write(f" min osd.{least} {count[least]}\n max osd.{most} {count[most]}\n")
        for size in sorted(self.sizes):
            write(f"size {size}\t{self.sizes[size]}\n")


def _item_weights(buckets: dict[int, Bucket]) -> dict[int, int]:
    """CrushWrapper::get_item_weight of all devices that are in a bucket."""
    weights: dict[int, int] = {}
    for ident in sorted(buckets, reverse=True):
        bucket = buckets[ident]
        for i, item in enumerate(bucket.items):
            if item >= 0 and item not in weights:
                weight = item_weight(bucket, i)
                weights[item] = weight - (1 << 32) if weight >> 31 else weight
    return weights


def _fixed(weight: int) -> str:
    """A weight as C++ prints the float that it becomes."""
    (value,) = struct.unpack("<f", struct.pack("<f", weight / 0x10000))
    return _number(value)


def _number(value: float) -> str:
    return "-nan" if value != value else f"{value:g}"  # the sign is that of x86's processors


def _ratio(value: float, average: int) -> str:
    if average:
        return _number(value / average)
    return "inf" if value > 0 else "-nan"
