"""Random CRUSH maps as text, for crushtool to compile."""

from __future__ import annotations

import random
import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

TYPES = {0: "osd", 1: "host", 3: "rack", 7: "room", 11: "root"}
ALGORITHMS = ("uniform", "list", "tree", "straw", "straw2")
CLASSES = ("hdd", "ssd", "nvme")
DEFAULT_CHOOSE_ARGS = 18446744073709551615

PROFILES = {  # CrushWrapper::set_tunables_*
    "argonaut": (2, 5, 19, 0, 0, 0),
    "bobtail": (0, 0, 50, 1, 0, 0),
    "firefly": (0, 0, 50, 1, 1, 0),
    "jewel": (0, 0, 50, 1, 1, 1),
}
TUNABLES = (
    "choose_local_tries",
    "choose_local_fallback_tries",
    "choose_total_tries",
    "chooseleaf_descend_once",
    "chooseleaf_vary_r",
    "chooseleaf_stable",
)


class Bucket(NamedTuple):
    name: str
    id: int
    type: int
    alg: str
    items: list[tuple[str, float]]

    @property
    def weight(self) -> float:
        return sum(weight for _, weight in self.items)


class CrushText(NamedTuple):
    text: str
    devices: int
    """One more than the highest."""
    rules: dict[int, str]
    """The type by number."""


class Author:
    """Writes one map."""

    def __init__(self, rng: random.Random, pools: list[int], msr: bool = False) -> None:
        """pools: those that may get weights of their own. msr: with rules of this kind, which squid brought."""
        self.rng = rng
        self.pools = pools
        self.msr = msr
        self.buckets: list[Bucket] = []
        self.classes: dict[int, str] = {}
        self.ids = iter(rng.sample(range(-200, 0), 199) if rng.random() < 0.2 else range(-1, -400, -1))
        self.algorithms = rng.choice([ALGORITHMS, ("straw2",), ("straw2", "straw"), (rng.choice(ALGORITHMS),)])
        self.weights = rng.choice(["even", "even", "odd", "zeros", "tiny", "wild"])

    def write(self) -> CrushText:
        rng = self.rng
        levels = sorted(rng.sample([1, 3, 7], rng.randint(0, 3)))
        devices = self.grow(levels)
        if rng.random() < 0.4 and "uniform" not in self.algorithms:
            for device in devices:
                if rng.random() < 0.9:
                    self.classes[device] = rng.choice(CLASSES)
        lines = [*self.tunables(), ""]
        for device in devices:
            suffix = f" class {self.classes[device]}" if device in self.classes else ""
            lines.append(f"device {device} osd.{device}{suffix}")
        lines += [f"type {number} {name}" for number, name in TYPES.items()]
        for bucket in self.buckets:
            lines += [f"{TYPES[bucket.type]} {bucket.name} {{", f"  id {bucket.id}", f"  alg {bucket.alg}", "  hash 0"]
            lines += [f"  item {name} weight {weight:.5f}" for name, weight in bucket.items]
            lines.append("}")
        rules = {}
        for number in sorted(rng.sample(range(12), rng.randint(2, 5))):
            kind = rng.choice(["replicated", "erasure"])
            if self.msr and rng.random() < 0.5:
                kind = rng.choice(["msr_firstn", "msr_indep"])
            rules[number] = kind
            lines += [f"rule rule{number} {{", f"  id {number}", f"  type {kind}"]
            if not self.msr:
                lines += ["  min_size 1", "  max_size 40"]
            steps = self.msr_steps(levels, devices) if kind.startswith("msr") else self.steps(levels, devices)
            lines += [f"  step {step}" for step in steps]
            lines.append("}")
        if rng.random() < 0.4:
            for index in rng.sample([DEFAULT_CHOOSE_ARGS, *self.pools], rng.randint(1, 2)):
                lines += self.choose_args(index)
        return CrushText("\n".join(lines) + "\n", max(devices, default=-1) + 1, rules)

    def tunables(self) -> list[str]:
        rng = self.rng
        if rng.random() < 0.7:
            values = PROFILES[rng.choice(list(PROFILES))]
        else:
            values = (
                rng.choice([0, 0, 1, 2, 5]),
                rng.choice([0, 0, 1, 3, 5]),
                rng.choice([0, 3, 19, 50, 100]),
                rng.randint(0, 1),
                rng.randint(0, 4),
                rng.randint(0, 1),
            )
        lines = [f"tunable {name} {value}" for name, value in zip(TUNABLES, values)]
        return [*lines, f"tunable straw_calc_version {rng.randint(0, 1)}", "tunable allowed_bucket_algs 62"]

    def weight(self) -> float:
        rng = self.rng
        if self.weights == "even":
            return 1.0
        if self.weights == "odd":
            return rng.choice([0.5, 1.0, 1.81940, 3.63879, 7.27739])
        if self.weights == "zeros":
            return rng.choice([0.0, 1.0, 1.0, 2.0])
        if self.weights == "tiny":
            return rng.choice([0.00002, 0.0001, 0.001, 0.5])
        return rng.uniform(0, 100)

    def bucket(self, kind: int, items: list[tuple[str, float]]) -> Bucket:
        rng = self.rng
        alg = rng.choice(self.algorithms)
        if alg == "uniform" and items:
            items = [(name, items[0][1]) for name, _ in items]
        bucket = Bucket(f"{TYPES[kind]}{len(self.buckets)}", next(self.ids), kind, alg, items)
        self.buckets.append(bucket)
        return bucket

    def grow(self, levels: list[int]) -> list[int]:
        """Fills `buckets`, from the leaves to the root or roots; gives the devices."""
        rng = self.rng
        devices: list[int] = []
        number = 0
        parents = levels[0] if levels else 11

        def leaves(n: int) -> list[tuple[str, float]]:
            nonlocal number
            out = []
            for _ in range(n):
                number += rng.choice([0, 0, 0, 0, 0, 0, 0, 0, 0, 3])
                devices.append(number)
                out.append((f"osd.{number}", self.weight()))
                number += 1
            return out

        even = rng.randint(1, 5) if rng.random() < 0.5 else 0
        if not levels:
            self.bucket(parents, leaves(rng.randint(1, 20)))
            return devices
        row = [
            self.bucket(parents, leaves(even or rng.choice([0, 1, 2, 2, 3, 5, 8]))) for _ in range(rng.randint(1, 9))
        ]
        for kind in levels[1:]:
            above: list[Bucket] = []
            while row:
                n = rng.randint(1, 4) if rng.random() < 0.95 else 0
                above.append(self.bucket(kind, [(b.name, self.of(b)) for b in row[:n]]))
                row = row[n:]
            row = above
        items = [(b.name, self.of(b)) for b in row]
        if rng.random() < 0.15:
            items += leaves(rng.randint(1, 2))  # beside the buckets
        rng.shuffle(items)
        self.bucket(11, items)
        if rng.random() < 0.2:
            self.bucket(11, [(b.name, self.of(b)) for b in row[:3]])  # what is in two trees
        return devices

    def of(self, bucket: Bucket) -> float:
        """What a bucket weighs for the one above, which need not be what is in it."""
        return bucket.weight if self.rng.random() < 0.9 else self.weight()

    def steps(self, levels: list[int], devices: list[int]) -> list[str]:
        rng = self.rng
        out = []
        if rng.random() < 0.3:
            names = ("choose_tries", "chooseleaf_tries", "choose_local_tries", "choose_local_fallback_tries")
            for name in rng.sample([*names, "chooseleaf_vary_r", "chooseleaf_stable"], rng.randint(1, 3)):
                most = {"choose_tries": 100, "chooseleaf_tries": 10, "chooseleaf_stable": 1}.get(name, 4)
                out.append(f"set_{name} {rng.randint(0, most)}")
        rounds = rng.choice([1, 1, 1, 2, 3])
        for i in range(rounds):
            count = 0 if rounds == 1 and rng.random() < 0.6 else rng.choice([0, 1, 2, 3, -1, -2, 5])
            if i:
                count = rng.choice([-1, count])
            out.append(self.take(devices))
            out += self.descend(levels, count)
            if i == 0 or rng.random() < 0.95:
                out.append("emit")
        return out

    def take(self, devices: list[int]) -> str:
        rng = self.rng
        if rng.random() < 0.03 and devices:
            return f"take osd.{rng.choice(devices)}"
        roots = [b for b in self.buckets if b.type == 11]
        bucket = rng.choice(self.buckets) if rng.random() < 0.1 else rng.choice(roots)
        used = sorted(set(self.classes.values()))
        if used and rng.random() < 0.5:
            return f"take {bucket.name} class {rng.choice(used)}"
        return f"take {bucket.name}"

    def descend(self, levels: list[int], count: int) -> list[str]:
        rng = self.rng
        mode = rng.choice(["firstn", "indep"])
        kinds = [0, *levels]
        if len(kinds) == 1 or rng.random() < 0.1:
            return [f"{rng.choice(['choose', 'chooseleaf'])} {mode} {count} type osd"]
        way = sorted(rng.sample(kinds[1:], rng.randint(1, len(kinds) - 1)), reverse=True)
        out = [f"choose {mode} {rng.choice([0, 1, 2, 3, -1])} type {TYPES[kind]}" for kind in way[:-1]]
        last = TYPES[way[-1]]
        if not out or rng.random() < 0.5:
            out.append(f"{'chooseleaf' if rng.random() < 0.95 else 'choose'} {mode} {count} type {last}")
        else:
            other = mode if rng.random() < 0.8 else rng.choice(["firstn", "indep"])
            out.append(f"choose {mode} {rng.choice([0, 2, 3])} type {last}")
            out.append(f"{rng.choice(['choose', 'chooseleaf'])} {other} {rng.choice([0, 1, 2])} type osd")
        return out

    def msr_steps(self, levels: list[int], devices: list[int]) -> list[str]:
        """take, choosemsr down to devices, emit: nothing else is allowed in these rules but what sets tries first."""
        rng = self.rng
        out = []
        if rng.random() < 0.3:
            out.append(f"set_msr_descents {rng.randint(1, 100)}")
        if rng.random() < 0.3:
            out.append(f"set_msr_collision_tries {rng.randint(1, 100)}")
        for _ in range(rng.choice([1, 1, 2])):
            out.append(self.take(devices))
            way = sorted(rng.sample(levels, rng.randint(0, len(levels))), reverse=True)
            out += [f"choosemsr {rng.choice([0, 1, 2, 3, 4])} type {TYPES[kind]}" for kind in way]
            out += [f"choosemsr {rng.choice([1, 2, 2, 3])} type osd", "emit"]
        return out

    def choose_args(self, index: int) -> list[str]:
        rng = self.rng
        lines = [f"choose_args {index} {{"]
        for bucket in self.buckets:
            if not bucket.items or rng.random() < 0.3:
                continue
            lines += ["  {", f"    bucket_id {bucket.id}"]
            parts = rng.choice(["weights", "weights", "ids", "both"])
            if parts != "ids":
                lines.append("    weight_set [")
                for _ in range(rng.choice([1, 1, 2, 3])):
                    row = [
                        w if rng.random() < 0.3 else rng.choice([0.0, w * 0.9, w * 1.3, 2.0]) for _, w in bucket.items
                    ]
                    lines.append(f"      [ {' '.join(f'{w:.5f}' for w in row)} ]")
                lines.append("    ]")
            if parts != "weights":
                lines.append(f"    ids [ {' '.join(str(rng.randint(-500, 500)) for _ in bucket.items)} ]")
            lines.append("  }")
        return [*lines, "}"]


def legacy_choose_args(
    rng: random.Random, compiled: bytes, buckets: Mapping[int, Sequence[int]], pools: list[int], tail: int
) -> bytes:
    """A compiled map without choose_args, with such as old releases left: of the wrong size, and of buckets that are
    gone or cannot have any; `buckets` are items by id, `tail` are the bytes of what newer releases put behind."""
    at = len(compiled) - tail
    entries = []
    mixed = rng.random() < 0.3  # then Ceph does not repair sizes
    for bucket, items in buckets.items():
        positions = rng.randint(0, 3) if mixed else rng.choice([0, 2, 2, 2])
        same = mixed or rng.random() < 0.6
        sizes = [len(items) if same else rng.randint(0, len(items) + 3)] * positions
        entry = struct.pack("<II", -1 - bucket, positions)
        for size in sizes:
            entry += struct.pack(
                f"<{size + 1}I", size, *[rng.choice([0, 0x8000, 0x10000, 0x30000]) for _ in range(size)]
            )
        ids = [rng.randint(-99, 99) for _ in items] if rng.random() < 0.3 else []
        entries.append(entry + struct.pack(f"<I{len(ids)}i", len(ids), *ids))
    index = rng.choice([-1, *pools])
    section = struct.pack("<IqI", 1, index, len(entries)) + b"".join(entries)
    return compiled[: at - 4] + section + compiled[at:]
