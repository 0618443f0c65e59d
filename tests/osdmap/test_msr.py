"""MSR rules find the devices that Ceph's tools of tentacle find, in random maps; recorded answers stand in for the
tools on machines that do not have them.

``python -m tests.osdmap.test_msr COUNT SEED`` compares so many random maps, and ``... record`` writes the record.
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
from pyrbd.testing.releases import ReleasePrograms

RECORD = Path(__file__).parent / "data" / "msr.json.gz"
MAPPING = re.compile(r"CRUSH rule (\d+) x (\d+) \[(.*)\]")
GROUP = re.compile(r"(\d+)\.([0-9a-f]+) raw \(\[([^\]]*)\], p-?\d+\) up \(\[([^\]]*)\], p(-?\d+)\)")


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
                levels = rng.choice([["host"], ["osd", "osd"], ["host", "host", "osd"]])
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


if __name__ == "__main__":
    total = 0
    for s in range(int(sys.argv[2]), int(sys.argv[2]) + int(sys.argv[1])):
        begun = time.monotonic()
        try:
            total += compare(programs(), s, 20)
        except Exception as e:
            print(f"seed {s}: {type(e).__name__} {e}", getattr(e, "stderr", "")[-300:])
        if time.monotonic() - begun > 5:
            print(s, time.monotonic() - begun)
    print(total)
