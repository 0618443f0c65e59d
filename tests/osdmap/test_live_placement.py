"""Placement beside real monitors: names, namespaces and locator keys, and histories epoch by epoch."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from pyrbd import rados
from pyrbd.osdmap import Incremental, OSDMap
from pyrbd.testing import Cluster
from pyrbd.testing.releases import ReleasePrograms
from tests.conftest import Run, own_cluster, tool_of
from tests.osdmap.history import History, Operator
from tests.osdmap.maps.oracle import Oracle, Sets, installed, parse

NAMES = [
    "a",
    "rbd_data.1234.0000000000000000",
    "with blank",
    " blanks at both ends ",
    "tab\there",
    "100% %s %d %%",
    "ümläut ß",
    "日本語",
    "\U0001f40d" * 60,
    "x" * 11,
    "x" * 12,
    "x" * 13,
    "x" * 255,
    "line\nbreak",
    "-dash",
    "'\"\\`$",
]


def placed(m: OSDMap, groups: dict[tuple[int, int], Sets]) -> None:
    """All groups of a map are where Ceph has them."""
    assert len(groups) == sum(p.pg_num for p in m.pools.values())
    for (pool, seed), want in groups.items():
        assert (*m.pg_to_raw_osds(pool, seed), *m.pg_to_up_acting(pool, seed)) == want, f"{pool}.{seed:x}"


def test_names_in_namespaces(handle: rados.Rados) -> None:
    """`ceph osd map POOL OBJECT NAMESPACE`."""
    rng = random.Random(1)
    names = NAMES + ["".join(rng.choice("abc._-0189 %\tä") for _ in range(rng.randint(1, 120))) for _ in range(40)]
    handle.wait_for_latest_osdmap()
    m = handle.client.osdmap
    pool = m.pool_ids["rbd"]
    for name in names:
        for nspace in ("", "ns", "ü %", "n" * 20):
            words: dict[str, Any] = {"prefix": "osd map", "pool": "rbd", "object": name, "format": "json"}
            if nspace:
                words["nspace"] = nspace
            result, output, status = handle.mon_command(json.dumps(words, ensure_ascii=False), b"")
            assert result == 0, status
            theirs = json.loads(output)
            ps = m.object_to_raw_hash(pool, name, nspace=nspace)
            assert theirs["raw_pgid"] == f"{pool}.{ps:x}", (name, nspace)
            pg = m.raw_hash_to_pg(pool, ps)
            assert theirs["pgid"] == str(pg)
            if theirs["epoch"] == m.epoch:
                up, up_primary, acting, primary = m.pg_to_up_acting(pool, pg.seed)
                assert (theirs["up"], theirs["up_primary"]) == (list(up), up_primary)
                assert (theirs["acting"], theirs["acting_primary"]) == (list(acting), primary)


@pytest.mark.parametrize("name", ["plain", "with blank", "100% %s", "ümläut", "k" * 255])
@pytest.mark.parametrize("key", ["", "key", "another ü key %"])
@pytest.mark.parametrize("nspace", ["", "ns ä"])
def test_locator_keys_are_those_of_rados(
    cluster: Cluster, ioctx: rados.Ioctx, tmp_path: Path, name: str, key: str, nspace: str
) -> None:
    """What `rados` puts somewhere is found there, and the other way round."""
    rados_cli = tool_of(cluster, "rados")
    where = ["-p", "rbd", "--object-locator", key] if key else ["-p", "rbd"]
    where += ["-N", nspace] if nspace else []
    with ioctx.dup() as mine:
        mine.set_namespace(nspace)
        mine.set_locator_key(key)
        rados_cli(*where, "put", name, "-", stdin=b"theirs")
        assert mine.read(name) == b"theirs"
        mine.write_full(name, b"ours")
        assert rados_cli(*where, "get", name, "-") == b"ours"
        if key and placement(mine, name, "", nspace) != placement(mine, name, key, nspace):
            mine.set_locator_key("")
            with pytest.raises(rados.ObjectNotFound):
                mine.read(name)
            mine.set_locator_key(key)
        mine.remove_object(name)
        assert name not in rados_cli(*where, "ls").decode().splitlines()


def placement(ioctx: rados.Ioctx, name: str, key: str, nspace: str) -> int:
    m = ioctx._client.osdmap
    return m.raw_hash_to_pg(ioctx.get_pool_id(), m.object_to_raw_hash(ioctx.get_pool_id(), name, key, nspace)).seed


@pytest.mark.parametrize("release", ["nautilus", "pacific", "reef", "tentacle"])
def test_recorded_histories(tmp_path: Path, release: str) -> None:
    """Where the groups are after every few things that happened to a cluster, pg_temp, upmaps and merges among them."""
    if release in ("nautilus", "pacific"):  # nautilus' own tool breaks on holes
        if not installed():
            pytest.skip("osdmaptool is not installed: there is no oracle for this test")
        tool = Oracle(tmp_path)
    else:
        if ReleasePrograms(release).installed() is None:
            pytest.skip(f"{release} is not unpacked on this machine: there is no oracle for this test")
        tool = Oracle(tmp_path, release)
    history = History.load(release)
    m = OSDMap.decode_full(history.full[min(history.full)])
    f = tmp_path / "map"
    for epoch in sorted(history.incrementals):
        m = m.apply(Incremental.decode(history.incrementals[epoch]))
        if epoch in history.full:
            f.write_bytes(history.full[epoch])
            placed(m, parse(tool.tool("osdmaptool", f, "--test-map-pgs-dump-all")))


def test_every_epoch_of_a_living_cluster(tmp_path: Path) -> None:
    """Maps made of incrementals alone, beside the monitor's own."""
    with own_cluster(osds=4) as store, rados.Rados(conffile=str(store.conf)) as handle:
        tool: Run = tool_of(store, "osdmaptool")
        operator = Operator(handle, seed=5, careful=True)
        operator.command("osd set-require-min-compat-client", version="luminous")
        first = operator.epoch
        m = OSDMap.decode_full(operator.full(first))
        for _ in range(40):
            operator.act()
        last = operator.epoch
        assert last >= first + 20
        f = tmp_path / "map"
        for epoch in range(first + 1, last + 1):
            m = m.apply(Incremental.decode(operator.incrementals[epoch]))
            theirs = operator.full(epoch)
            assert m.encode() == theirs
            f.write_bytes(theirs)
            placed(m, parse(tool(str(f), "--test-map-pgs-dump-all")))
