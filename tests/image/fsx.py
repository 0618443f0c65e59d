"""An exerciser in the manner of fsx: random operations on one image at a time, and on clones of
it, against memory, each read compared.

    python -m tests.image.fsx --seed 7 --seconds 3600       # a cluster is started for it
    python -m tests.image.fsx --seed 7 --conf ceph.conf --role librbd

A seed makes a chain: an image of a random layout with random features, operations, a clone of a
snapshot of it on which the operations go on, and so on. At the chain's end, and now and then before, the
other library reads all of it, and Ceph's tool checks the object maps. The next chain has the next seed.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests import oracle
from tests.image.model.client import Client, digest, modules, payload
from tests.image.model.engine import Mismatch, Raised, Remote, prepare, spec_of
from tests.image.model.steps import OBJECT_MAP, OTHER, POOL, Generator, Spec, Where, World, discarded

OPERATIONS: dict[str, int] = {
    "read": 30,
    "write": 34,
    "discard": 9,
    "write_zeroes": 8,
    "compare_and_write": 3,
    "resize": 6,
    "aio": 8,
    "reopen": 3,
    "snapshot": 3,
    "rollback": 1,
    "clone": 3,
    "flatten": 3,
    "verify": 1,
}
CHAIN = 250
MAX_SNAPS = 3


class Local:
    """A client in this process, called as one in another."""

    role = "pyrbd"

    def __init__(self, client: Client) -> None:
        self.client = client
        self.has = frozenset(client.capabilities())

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.client, method)(*args, **kwargs)


class Chain:
    """One seed's image and its clones. `worker` does the operations, `witness` reads now and then."""

    def __init__(self, worker: Any, witness: Any, seed: int, tool: Callable[..., str], prefix: str = "fsx") -> None:
        self.worker, self.witness, self.seed, self.tool = worker, witness, seed, tool
        self.rng = random.Random(seed)
        self.generator = Generator(self.rng, World())
        self.prefix = f"{prefix}{seed}"
        self.counts: Counter[str] = Counter()
        self.log: list[str] = []
        self.chain: list[tuple[Where, str, Spec]] = []
        self.links: list[tuple[str, bool]] = []
        """(the snapshot that the next of the chain is a clone of, whether it is protected)."""
        self.weights = dict(OPERATIONS)
        needs = {
            "compare_and_write": "Image.compare_and_write",
            "aio": "Image.aio_write",
            "clone": "RBD.clone",
            "flatten": "Image.flatten",
            "snapshot": "Image.create_snap",
            "rollback": "Image.rollback_to_snap",
        }
        for what, need in needs.items():
            if need not in worker.has:
                del self.weights[what]
        self.create()

    def note(self, text: str) -> None:
        self.log.append(f"{len(self.log):5} {text}")

    # ------------------------------------------------------------ chains

    def place(self) -> Where:
        return (self.rng.choice((POOL, POOL, OTHER)), "")

    def create(self) -> None:
        spec = self.generator.spec()
        size = self.generator.size(spec["order"])
        where, name = self.place(), f"{self.prefix}.0"
        self.note(f"create {where} {name} {size} {spec}")
        self.worker.call("create", where, name, size, {"old_format": False, **spec})
        self.begin(where, name, Spec(**spec), bytearray(size))

    def begin(self, where: Where, name: str, spec: Spec, data: bytearray) -> None:
        self.chain.append((where, name, spec))
        self.spec, self.data = spec, data
        self.snaps: dict[str, bytes] = {}
        self.is_clone = len(self.chain) > 1
        self.doubt = False
        self.worker.call("open", "fsx", where, name)

    @property
    def size(self) -> int:
        return len(self.data)

    def extent(self, least: int = 1) -> tuple[int, int] | None:
        r, size = self.rng, self.size
        if size < least:
            return None
        unit = self.spec.stripe_unit or self.spec.object_size
        length = r.choice((r.randrange(1, 5000), r.randrange(1, 200_000), 4096, 65536, unit, 512, size))
        length = max(1, min(length, size))
        offset = r.randrange(size - length + 1)
        if r.random() < 0.4:
            offset = offset // r.choice((512, 4096, 65536, unit)) * r.choice((1, 512, 4096))
            offset = min(offset, size - length)
        return offset, length

    def step(self) -> str:
        """One operation; gives what it was."""
        what = self.rng.choices(list(self.weights), list(self.weights.values()))[0]
        try:
            getattr(self, what)()
        except Raised as e:
            raise Mismatch(f"{what}: {e}") from None
        self.counts[what] += 1
        return what

    def run(self, n: int = CHAIN, until: float = float("inf")) -> None:
        """`n` operations, and everything is verified and removed."""
        try:
            for _ in range(n):
                self.step()
                if time.monotonic() > until:
                    break
            self.verify()
            self.remove()
        except (Mismatch, AssertionError) as e:
            tail = "\n".join(line[:300] for line in self.log[-60:])
            raise Mismatch(f"seed {self.seed}: {e}\nthe last of {len(self.log)} operations:\n{tail}") from None

    # ------------------------------------------------------------ operations

    def read(self) -> None:
        extent = self.extent()
        if extent is None:
            return
        offset, length = extent
        self.note(f"read {offset} {length}")
        self.compare(self.worker.call("image", "fsx", "read", offset, length), offset, length)

    def compare(self, found: bytes, offset: int, length: int) -> None:
        want = self.data[offset : offset + length]
        if found != want:
            if len(found) != length:
                raise Mismatch(f"{len(found)} bytes were read at {offset}, not {length}")
            bad = [i for i, (a, b) in enumerate(zip(found, want)) if a != b]
            raise Mismatch(
                f"{len(bad)} bytes differ of those read at {offset}+{length}: the first at {offset + bad[0]}, "
                f"the last at {offset + bad[-1]}; {found[bad[0] : bad[0] + 16].hex()}, "
                f"not {bytes(want[bad[0] : bad[0] + 16]).hex()}"
            )

    def write(self) -> None:
        extent = self.extent()
        if extent is None:
            return
        offset, length = extent
        seed = self.rng.randrange(1 << 30)
        self.note(f"write {offset} {length} {seed}")
        assert self.worker.call("write", "fsx", offset, length, seed) == length
        self.data[offset : offset + length] = payload(seed, length)

    def discard(self) -> None:
        extent = self.extent()
        if extent is None:
            return
        self.note(f"discard {extent}")
        self.worker.call("image", "fsx", "discard", *extent)
        for at, n in discarded(self.spec, *extent):
            self.data[at : at + n] = bytes(n)

    def write_zeroes(self) -> None:
        extent = self.extent()
        if extent is None:
            return
        thick = self.rng.random() < 0.25
        self.note(f"write_zeroes {extent} {thick}")
        self.worker.call("image", "fsx", "write_zeroes", *extent, int(thick))
        self.data[extent[0] : sum(extent)] = bytes(extent[1])

    def compare_and_write(self) -> None:
        extent = self.extent()
        if extent is None:
            return
        offset = extent[0]
        length = min(extent[1], next(iter(self.spec.pieces(*extent)))[2], 100_000)
        seed, differs = self.rng.randrange(1 << 30), self.rng.random() < 0.3
        there = bytearray(self.data[offset : offset + length])
        if differs:
            there[length // 2] ^= 1
        self.note(f"compare_and_write {offset} {length} {seed} {differs}")
        try:
            self.worker.call("compare_and_write", "fsx", offset, bytes(there), seed)
        except Exception:
            if not differs:
                raise
            return
        assert not differs, "what is there was said to be what is not"
        self.data[offset : offset + length] = payload(seed, length)

    def resize(self) -> None:
        r, size = self.rng, self.size
        new = r.choice(
            (self.generator.size(self.spec.order), max(0, size - r.randrange(1, 70_000)), size // 2, size + 4097)
        )
        new = min(new, 8 << 20) if new < size or size < 8 << 20 else size
        self.note(f"resize {size} to {new}")
        self.worker.call("image", "fsx", "resize", new)
        del self.data[new:]
        self.data.extend(bytes(new - len(self.data)))

    def aio(self) -> None:
        if self.size < 100:
            return
        r = self.rng
        n = r.choice((2, 6, 16))
        marks = sorted(r.sample(range(self.size + 1), 2 * n))
        calls = []
        for low, high in zip(marks[::2], marks[1::2]):
            kind = r.choice(("write", "write", "write_zeroes", "read"))
            calls.append((kind, low, min(high - low, 200_000), r.randrange(1 << 30)))
        r.shuffle(calls)
        self.note(f"aio {calls}")
        results = self.worker.call("aio", "fsx", calls)
        assert not any(results), results
        for kind, offset, length, seed in calls:
            if kind == "write":
                self.data[offset : offset + length] = payload(seed, length)
            elif kind == "write_zeroes":
                self.data[offset : offset + length] = bytes(length)

    def reopen(self) -> None:
        self.note("reopen")
        self.worker.call("close", "fsx")
        self.worker.call("open", "fsx", *self.chain[-1][:2])

    def snapshot(self) -> None:
        name = f"s{len(self.log)}"
        self.note(f"snapshot {name}")
        if len(self.snaps) >= MAX_SNAPS:
            old = self.rng.choice(list(self.snaps))
            self.worker.call("image", "fsx", "remove_snap", old)
            del self.snaps[old]
        self.worker.call("image", "fsx", "create_snap", name)
        self.snaps[name] = bytes(self.data)

    def rollback(self) -> None:
        if self.snaps:
            name = self.rng.choice(list(self.snaps))
            self.note(f"rollback {name}")
            self.worker.call("image", "fsx", "rollback_to_snap", name)
            self.data = bytearray(self.snaps[name])
            self.doubt = True

    def clone(self) -> None:
        if self.spec.old_format or not self.size or len(self.chain) > 4:
            return
        where, name, _ = self.chain[-1]
        snap, protect = f"c{len(self.log)}", self.rng.random() < 0.5
        spec = self.generator.spec(clone=True)
        new_where, new_name = self.place(), f"{self.prefix}.{len(self.chain)}"
        self.note(f"clone {name}@{snap} to {new_where} {new_name} {spec} protected {protect}")
        self.worker.call("image", "fsx", "create_snap", snap)
        if protect:
            self.worker.call("image", "fsx", "protect_snap", snap)
        spec["clone_format"] = 1 if protect else 2
        self.worker.call("clone", where, name, snap, new_where, new_name, dict(spec))
        del spec["clone_format"]
        self.verify_snapshots()
        for old in self.snaps:
            self.worker.call("image", "fsx", "remove_snap", old)
        self.worker.call("close", "fsx")
        self.links.append((snap, protect))
        self.begin(new_where, new_name, Spec(**spec), self.data)

    def flatten(self) -> None:
        if self.is_clone:
            self.note("flatten")
            self.worker.call("image", "fsx", "flatten")
            self.is_clone = False

    # ------------------------------------------------------------ verifying

    def verify(self) -> None:
        """All of the head and the snapshots, by both; the object maps by Ceph's tool."""
        self.note("verify")
        where, name, _ = self.chain[-1]
        self.same(self.worker, "fsx", self.data, "the head")
        self.witness.call("open", "witness", where, name, None, True)
        self.same(self.witness, "witness", self.data, "the head")
        self.witness.call("close", "witness")
        self.verify_snapshots()
        image = spec_of(where, name)
        if self.spec.features & OBJECT_MAP and not self.doubt:
            for snap in (None, *self.snaps):
                self.tool("object-map", "check", "--no-progress", spec_of(where, name, snap))
                said = self.tool("info", image)
                if "invalid" in said:
                    raise Mismatch(f"the object map is wrong: {said}")

    def verify_snapshots(self) -> None:
        where, name, _ = self.chain[-1]
        for snap, data in self.snaps.items():
            for who in (self.worker, self.witness):
                who.call("open", "witness", where, name, snap, True)
                self.same(who, "witness", data, f"snapshot {snap}")
                who.call("close", "witness")

    def same(self, who: Any, key: str, data: Any, what: str) -> None:
        size, sums = who.call("digest", key)
        if size != len(data):
            raise Mismatch(f"{what} has {size} bytes by {who.role}, not {len(data)}")
        want = digest(data)
        if sums != want:
            bad = [i for i, (a, b) in enumerate(zip(sums, want)) if a != b]
            raise Mismatch(f"{what} differs by {who.role} in {len(bad)} blocks of 4096, {bad[0]} to {bad[-1]}")

    def remove(self) -> None:
        """Everything, the youngest clone first."""
        self.worker.call("close", "fsx")
        snaps = [(s, False) for s in self.snaps]
        while self.chain:
            where, name, _ = self.chain.pop()
            self.worker.call("open", "fsx", where, name)
            for snap, protected in snaps:
                if protected:
                    self.worker.call("image", "fsx", "unprotect_snap", snap)
                self.worker.call("image", "fsx", "remove_snap", snap)
            self.worker.call("close", "fsx")
            self.worker.call("top", "remove", where, name)
            snaps = [self.links.pop()] if self.links else []


def exercise(
    conf: str, seed: int, seconds: float, role: str = "pyrbd", say: Callable[[str], None] = lambda text: None
) -> Counter[str]:
    """Chains from `seed` on for so long; Mismatch at the first difference. Gives what was done."""
    import subprocess

    def tool(*args: str) -> str:
        done = subprocess.run(oracle.argv(conf, "rbd", *args), capture_output=True, text=True, check=False)
        if done.returncode:
            raise Mismatch(f"rbd {' '.join(args)}: {done.stdout}{done.stderr}")
        return done.stdout

    prepare(conf)
    worker = Remote(role, conf)
    witness = Remote("librbd", conf)
    total: Counter[str] = Counter()
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            begun = time.monotonic()
            chain = Chain(worker, witness, seed, tool)
            try:
                chain.run(until=end + 20)
            except BaseException:
                print(f"fsx failed: seed {seed}")
                raise
            total += chain.counts
            say(f"seed {seed}: {sum(chain.counts.values())} operations, {time.monotonic() - begun:.1f} s")
            seed += 1
            total["chains"] += 1
    finally:
        for client in (worker, witness):
            client.stop()
    return total


def local(conf: str) -> Local:
    """pyrbd in this process."""
    return Local(Client(*modules("pyrbd"), conf, {}))


def main() -> int:
    from pyrbd.testing.native import NativeCluster

    parser = argparse.ArgumentParser(prog="python -m tests.image.fsx", description=__doc__)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--seconds", type=float, default=120, help="(%(default)s)")
    parser.add_argument("--role", default="pyrbd", choices=["pyrbd", "librbd"], help="who does it (%(default)s)")
    parser.add_argument("--conf", default=os.environ.get("CEPH_CONF"))
    args = parser.parse_args()
    seed = args.seed if args.seed is not None else int(time.time())
    cluster, conf = None, args.conf
    if conf is None:
        cluster = NativeCluster(Path(tempfile.mkdtemp(prefix="pyrbd-fsx-", dir="/tmp")) / "c")
        cluster.up(store="bluestore", settings=("osd/osd_max_markdown_count=100000",))
        conf = str(cluster.conf)
    try:
        print(dict(exercise(conf, seed, args.seconds, args.role, lambda text: print(text, flush=True))))
    except Mismatch as e:
        print(e)
        return 1
    finally:
        if cluster is not None:
            cluster.down()
    return 0


if __name__ == "__main__":
    sys.exit(main())
