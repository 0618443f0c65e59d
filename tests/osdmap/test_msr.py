"""MSR rules find the devices that Ceph's tools of tentacle find, in random maps; recorded answers stand in for the
tools on machines that do not have them.

``python -m tests.osdmap.test_msr compare COUNT SEED`` compares so many random maps, from that seed on; with ``record``
their answers are written to the record.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from pyrbd import rados
from pyrbd.errors import DecodeError
from pyrbd.osdmap import OSDMap
from pyrbd.osdmap.crush import (
    CRUSH_ITEM_NONE,
    RULE_CHOOSE_MSR,
    RULE_EMIT,
    RULE_SET_MSR_COLLISION_TRIES,
    RULE_SET_MSR_DESCENTS,
    RULE_TAKE,
    RULE_TYPE_MSR_FIRSTN,
    RULE_TYPE_MSR_INDEP,
    Bucket,
    CrushMap,
    Rule,
    Step,
)
from pyrbd.osdmap.draws import trace_rule
from pyrbd.testing.releases import ReleasePrograms
from tests.conftest import own_cluster
from tests.osdmap.maps.oracle import Oracle, differences, things

RECORD = Path(__file__).parent / "data" / "msr.json.gz"
MAPPING = re.compile(r"CRUSH rule (\d+) x (\d+) \[(.*)\]")


def programs() -> ReleasePrograms:
    """Tentacle's tools: those of releases before squid do not know the rules."""
    found = ReleasePrograms("tentacle")
    if not found.prefix.is_dir():
        pytest.skip("the tools of tentacle are not here: there is no oracle for this test")
    return found


def run(tools: ReleasePrograms, *args: object) -> str:
    argv = tools.argv(str(args[0]), *[str(a) for a in args[1:]])
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=300).stdout


def devices(text: str) -> list[int]:
    return [CRUSH_ITEM_NONE if x in ("NONE", str(CRUSH_ITEM_NONE)) else int(x) for x in text.split(",") if x]


# ---------------------------------------------------------------- random maps


class RandomMap:
    """The text of a CRUSH map with racks, hosts and OSDs, and MSR rules; weights to test it with."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.lines: list[str] = []
        self.buckets = 0
        self.osds = 0
        for name in ("msr_descents", "msr_collision_tries"):
            if rng.random() < 0.4:
                self.lines.append(f"tunable {name} {rng.choice([0, 1, 2, 3, 7, 20, 200])}")
        tree: list[str] = []
        self.roots = ["root0", "root1"][: rng.choice([1, 1, 2])]
        self.racks = rng.random() < 0.6
        self.hosts: list[str] = []
        for root in self.roots:
            self.root(tree, root)
        kinds = ("osd", "host", "rack", "root")
        types = [f"type {i} {kind}" for i, kind in enumerate(kinds)]
        self.lines += [f"device {i} osd.{i}" for i in range(self.osds)] + types + tree
        self.rules = rng.randint(2, 4)
        for i in range(self.rules):
            self.rule(i)
        chosen = rng.sample(range(self.osds), rng.randint(0, self.osds // 2))
        self.weights = {i: rng.choice([0.0, 0.0, 0.5, 0.25, 0.9]) for i in chosen}

    def weight(self) -> str:
        return self.rng.choice(["1.000", "1.000", "1.000", "2.500", "0.250", "0.000"])

    def bucket(self, tree: list[str], kind: str, name: str, items: list[str]) -> str:
        self.buckets += 1
        alg = self.rng.choice(["straw2", "straw2", "straw2", "straw", "list", "tree", "uniform"])
        fixed = "1.000" if alg == "uniform" else None
        tree += [f"{kind} {name} {{", f"  id -{self.buckets}", f"  alg {alg}", "  hash 0"]
        tree += [f"  item {item} weight {fixed or self.weight()}" for item in items] + ["}"]
        return name

    def root(self, tree: list[str], name: str) -> None:
        rng = self.rng
        racks = []
        for rack in range(rng.randint(1, 5) if self.racks else 1):
            hosts = []
            for host in range(rng.randint(1, 5 if self.racks else 12)):
                n = rng.randint(1, 6)
                items = [f"osd.{i}" for i in range(self.osds, self.osds + n)]
                self.osds += n
                hosts.append(self.bucket(tree, "host", f"{name}-{rack}-{host}", items))
            self.hosts += hosts
            racks.append(self.bucket(tree, "rack", f"{name}-{rack}", hosts) if self.racks else "")
        self.bucket(tree, "root", name, racks if self.racks else hosts)

    def rule(self, number: int) -> None:
        rng = self.rng
        lines = [f"rule r{number} {{", f"  id {number}", f"  type {rng.choice(['msr_firstn', 'msr_indep'])}"]
        for name in ("set_msr_descents", "set_msr_collision_tries"):
            if rng.random() < 0.3:
                lines.append(f"  step {name} {rng.choice([0, 1, 2, 5, 50])}")
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            levels = rng.choice([["osd"], ["host", "osd"], ["host", "osd"], ["rack", "host", "osd"], ["rack", "osd"]])
            if not self.racks:
                levels = [level for level in levels if level != "rack"]
            if rng.random() < 0.03:  # not of the right form
                levels = rng.choice([["host"], ["osd", "osd"]])
            lines.append(f"  step take {rng.choice(self.roots)}")
            lines += [f"  step choosemsr {rng.choice([0, 1, 1, 2, 2, 3, 4, 5])} type {level}" for level in levels]
            lines.append("  step emit")
        if rng.random() < 0.03:
            lines.append(rng.choice(["  step take root0", "  step emit", "  step set_msr_descents 5"]))
        self.lines += [*lines, "}"]

    def compiled(self, tools: ReleasePrograms, directory: Path) -> Path:
        text, out = directory / "text", directory / "crush"
        text.write_text("\n".join(self.lines) + "\n")
        run(tools, "crushtool", "-c", text, "-o", out)
        return out

    def osd_weights(self) -> list[int]:
        return [int(self.weights.get(i, 1.0) * 0x10000) for i in range(self.osds)]

    def asked(self, tools: ReleasePrograms, f: Path, replicas: int, inputs: int) -> list[tuple[int, int, list[int]]]:
        """What the tool answers: (rule, x, devices)."""
        args = ["--test", "--show-mappings", "--num-rep", replicas, "--min-x", 0, "--max-x", inputs - 1]
        for osd, weight in self.weights.items():
            args += ["--weight", osd, weight]
        out = run(tools, "crushtool", "-i", f, *args)
        return [(int(rule), int(x), devices(found)) for rule, x, found in MAPPING.findall(out)]


def compare(tools: ReleasePrograms, seed: int, inputs: int) -> int:
    """One random map, its rules with several numbers of replicas."""
    m = RandomMap(random.Random(seed))
    with tempfile.TemporaryDirectory() as directory:
        f = m.compiled(tools, Path(directory))
        crush = CrushMap.decode(f.read_bytes())
        n = 0
        for replicas in m.rng.sample([1, 2, 3, 4, 6, 8, 12, 15], 3):
            for rule, x, want in m.asked(tools, f, replicas, inputs):
                got = crush.do_rule(rule, x, replicas, m.osd_weights())
                assert got == want, f"seed {seed}, rule {rule}, x {x}, {replicas} replicas"
                n += 1
    assert n == m.rules * 3 * inputs
    return n


@pytest.mark.parametrize("seed", [1, 2, 3, 4, 12])
def test_random_maps(seed: int) -> None:
    assert compare(programs(), seed, 8) > 0


def test_pools(tmp_path: Path) -> None:
    """Replicated and erasure-coded pools, with all that comes after the rule."""
    programs()
    oracle = Oracle(tmp_path, "tentacle")
    seen: set[str] = set()
    for seed in (3, 4, 5, 6):
        answer = oracle.play(seed, msr=True)
        assert not differences(answer), f"seed {seed}"
        seen |= things(answer)
        m = OSDMap.decode_full(answer.map)
        for pool, seed in answer.groups:
            x = m.pools[pool].raw_pg_to_pps(pool, seed)
            steps, found = trace_rule(m, pool, x)
            assert list(found) == m.crush.do_rule(
                m.pools[pool].crush_rule, x, m.pools[pool].size, m.osd_weight, m.crush.choose_args_for(pool)
            )
            assert not any("not known" in step.text for step in steps)
    assert {f"step {RULE_CHOOSE_MSR}", "erasure", "replicated"} <= seen


def recorded() -> list[dict[str, Any]]:
    maps: list[dict[str, Any]] = json.loads(gzip.decompress(RECORD.read_bytes()))
    return maps


def record(seeds: range) -> None:
    """Writes what the tools answer, one map for each seed."""
    maps = []
    for seed in seeds:
        m = RandomMap(random.Random(seed))
        with tempfile.TemporaryDirectory() as directory:
            f = m.compiled(programs(), Path(directory))
            answers = {n: m.asked(programs(), f, n, 4) for n in (3, 8)}
            maps.append({"crush": f.read_bytes().hex(), "weights": m.osd_weights(), "answers": answers})
    RECORD.write_bytes(gzip.compress(json.dumps(maps).encode(), 9, mtime=0))


def test_recorded_answers() -> None:
    kinds = set()
    for i, each in enumerate(recorded()):
        crush = CrushMap.decode(bytes.fromhex(each["crush"]))
        kinds |= {rule.type for rule in crush.rules.values()}
        for replicas, answers in each["answers"].items():
            for rule, x, want in answers:
                got = crush.do_rule(rule, x, int(replicas), each["weights"])
                assert got == want, f"map {i}, rule {rule}, x {x}, {replicas} replicas"
    assert kinds == {RULE_TYPE_MSR_FIRSTN, RULE_TYPE_MSR_INDEP}


# ---------------------------------------------------------------- maps of one's own


def flat(*steps: Step, hosts: int = 4, kind: int = RULE_TYPE_MSR_INDEP) -> CrushMap:
    """Hosts of two OSDs each in one root, and a rule."""
    m = CrushMap()
    m.max_devices = 2 * hosts
    names = tuple([-2 - i for i in range(hosts)])
    m.buckets[-1] = Bucket(-1, 2, 5, 0, 0, names, (0x20000,) * hosts)
    for i, host in enumerate(names):
        m.buckets[host] = Bucket(host, 1, 5, 0, 0, (2 * i, 2 * i + 1), (0x10000,) * 2)
    m.rules[0] = Rule(kind, steps)
    return m


TAKE, EMIT = Step(RULE_TAKE, -1, 0), Step(RULE_EMIT, 0, 0)
HOSTS, OSDS = Step(RULE_CHOOSE_MSR, 0, 1), Step(RULE_CHOOSE_MSR, 1, 0)


def test_more_domains_than_there_are() -> None:
    """The tries that cannot find any are not made: Ceph makes 100,000 of them here."""
    m = flat(TAKE, HOSTS, OSDS, EMIT)
    begun = time.monotonic()
    found = m.do_rule(0, 1, 14, [0x10000] * 8)
    assert time.monotonic() - begun < 2
    assert len(found) == 14 and len({osd // 2 for osd in found if osd != CRUSH_ITEM_NONE}) == 4


def test_a_device_that_is_out_is_replaced_elsewhere() -> None:
    m = flat(TAKE, Step(RULE_CHOOSE_MSR, 3, 1), Step(RULE_CHOOSE_MSR, 2, 0), EMIT)
    before = m.do_rule(0, 5, 6, [0x10000] * 8)
    weights = [0x10000] * 8
    weights[before[0]] = 0
    after = m.do_rule(0, 5, 6, weights)
    assert CRUSH_ITEM_NONE not in after and before[0] not in after and before[2:] == after[2:]
    assert {osd // 2 for osd in after[:2]} != {before[0] // 2}


@pytest.mark.parametrize(
    "steps",
    [
        (),
        (TAKE,),
        (TAKE, HOSTS, OSDS),
        (HOSTS, EMIT),
        (TAKE, Step(2, 0, 0), EMIT),
        (TAKE, HOSTS, OSDS, EMIT, EMIT),
        (Step(RULE_TAKE, 3, 0), OSDS, EMIT),
        (TAKE, HOSTS, OSDS, EMIT, Step(RULE_SET_MSR_DESCENTS, 5, 0)),
    ],
)
@pytest.mark.parametrize("kind", [RULE_TYPE_MSR_FIRSTN, RULE_TYPE_MSR_INDEP])
def test_rules_of_another_form(steps: tuple[Step, ...], kind: int) -> None:
    """Such a rule finds nothing, whatever its first blocks would have found; an empty one only has no devices."""
    nothing = [CRUSH_ITEM_NONE] * 3 if not steps and kind == RULE_TYPE_MSR_INDEP else []
    assert flat(*steps, kind=kind).do_rule(0, 1, 3, [0x10000] * 8) == nothing


LARGE = 2**31 - 1


@pytest.mark.parametrize(
    ("steps", "size", "match"),
    [
        ((TAKE, EMIT), 3, "chooses nothing"),
        ((Step(RULE_TAKE, 3, 0), EMIT), 3, "takes device 3"),
        ((Step(RULE_TAKE, -77, 0), OSDS, EMIT), 3, "-77, which is no bucket"),
        ((TAKE, Step(RULE_CHOOSE_MSR, 3, 7), OSDS, EMIT), 3, "which is no bucket"),
        ((TAKE, HOSTS, HOSTS, OSDS, EMIT), 3, "which is no bucket"),  # crushtool ends with SIGSEGV
        ((TAKE, *[Step(RULE_CHOOSE_MSR, 3, 1)] * 30, EMIT), 3, "too large|no bucket"),
        ((TAKE, Step(RULE_CHOOSE_MSR, LARGE, 1), Step(RULE_CHOOSE_MSR, 3, 0), EMIT), 3, "too large"),
        ((TAKE, HOSTS, OSDS, EMIT), 2**31, "are asked for"),
    ],
)
def test_hostile_rules(steps: tuple[Step, ...], size: int, match: str) -> None:
    """Where Ceph ends with an assertion or goes on for ever, a DecodeError, soon."""
    begun = time.monotonic()
    with pytest.raises(DecodeError, match=match):
        flat(*steps).do_rule(0, 1, size, [0x10000] * 8)
    assert time.monotonic() - begun < 20


ENDLESS = (Step(RULE_SET_MSR_DESCENTS, -1, 0), Step(RULE_SET_MSR_COLLISION_TRIES, -1, 0), TAKE)


def test_a_rule_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """All OSDs are out, and each try might find another."""
    monkeypatch.setattr("pyrbd.osdmap.crush.MAX_DRAWS", 1 << 18)
    with pytest.raises(DecodeError, match="does not come to an end"):
        flat(*ENDLESS, HOSTS, OSDS, EMIT).do_rule(0, 1, 40, [0] * 8)


def test_tries_in_vain_come_to_an_end() -> None:
    """Four thousand million tries, each with as many collisions, but all hosts are taken after a few."""
    found = flat(*ENDLESS, Step(RULE_CHOOSE_MSR, LARGE, 1), OSDS, EMIT).do_rule(0, 1, 40, [0x10000] * 8)
    assert len(set(found)) == 5 and found.count(CRUSH_ITEM_NONE) == 36


def test_an_empty_bucket() -> None:
    m = flat(TAKE, HOSTS, OSDS, EMIT)
    m.buckets[-1] = m.buckets[-1]._replace(items=(), weights=())
    with pytest.raises(DecodeError, match="is empty"):
        m.do_rule(0, 1, 3, [0x10000] * 8)


# ---------------------------------------------------------------- a cluster


@pytest.mark.timeout(400)  # when the release is to be downloaded first
def test_a_pool_with_such_a_rule() -> None:
    """Clients that do not announce CRUSH_MSR are not let in then."""
    with own_cluster(release="tentacle", osds=3) as cluster:
        cluster.command("osd set-require-min-compat-client", version="squid", yes_i_really_mean_it=True)
        profile = ["k=2", "m=1", "crush-failure-domain=host", "crush-num-failure-domains=1"]
        profile += ["crush-osds-per-failure-domain=3"]
        cluster.command("osd erasure-code-profile set", name="msr", profile=profile)
        cluster.command("osd pool create", pool="msr", pool_type="erasure", erasure_code_profile="msr", pg_num=8)
        with rados.Rados(conffile=str(cluster.conf)) as handle, handle.open_ioctx("msr") as ioctx:
            handle.wait_for_latest_osdmap()
            m = handle.client.osdmap
            assert m.crush.rules[m.pools[m.pool_ids["msr"]].crush_rule].type == RULE_TYPE_MSR_INDEP
            for i in range(20):
                ioctx.write_full(f"object {i}", b"%d" % i * 5000)
                assert ioctx.read(f"object {i}", 1 << 16) == b"%d" % i * 5000
                placed = cluster.command("osd map", pool="msr", object=f"object {i}")
                seed = int(placed["pgid"].split(".")[1], 16)
                assert list(m.pg_to_up_acting(m.pool_ids["msr"], seed)[0]) == placed["up"]


if __name__ == "__main__":
    count, first = int(sys.argv[2]), int(sys.argv[3])
    if sys.argv[1] == "record":
        record(range(first, first + count))
    else:
        print(sum(compare(programs(), s, 20) for s in range(first, first + count)), "mappings are the same")
