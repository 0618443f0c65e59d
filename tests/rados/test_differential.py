"""The same random sequences by us and by librados' own binding, each in pools of its own: the
same results, the same exceptions with the same errno, the same objects.

Some seconds of it are in the test suite; ``PYRBD_DIFFERENTIAL=600`` goes on for ten minutes, with
seeds that nobody has tried.
"""

from __future__ import annotations

import ast
import itertools
import os
import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.rados.conftest import Librados
from tests.rados.play import LOCATORS, NAMESPACES, Player

SECONDS = float(os.environ.get("PYRBD_DIFFERENTIAL", "20"))
STEPS = 60
OBJECTS = ("@a", "@a", "@a", "@b", "@c")
KEYS = ("a", "b", "bb", "c", "ü", "new\nline", "")
ATTRIBUTES = ("a", "b", "ü", "with space", "_")
Step = tuple[Any, ...]


class Generator:
    """Random steps (see :mod:`tests.rados.play`) from a seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.kind = self.rng.choice(("pool", "self"))
        self.snaps = 0

    def sequence(self, n: int) -> list[Step]:
        makers: list[tuple[int, Callable[[], Step | list[Step]]]] = [
            (30, self.call),
            (20, self.write_op),
            (12, self.read_op),
            (8, self.aio),
            (10, lambda: ("state", self.oid())),
            (8, self.snap),
            (4, self.lock),
            (3, lambda: ("namespace", self.rng.choice(NAMESPACES))),
            (3, lambda: ("locator", self.rng.choice(LOCATORS))),
            (2, lambda: ("listing",)),
            (1, lambda: ("through_objects",)),
            (4, self.condition),
            (3, self.checksum),
            (4, self.versions),
        ]
        weights = [w for w, _ in makers]
        steps: list[Step] = []
        while len(steps) < n:
            made = self.rng.choices(makers, weights)[0][1]()
            steps.extend(made if isinstance(made, list) else [made])
        steps.append(("read_from", -1))
        for nspace in NAMESPACES:
            steps += [("namespace", nspace), ("listing",)]
            for key in LOCATORS:
                steps += [("locator", key), *(("state", oid) for oid in ("@a", "@b", "@c"))]
        return steps

    # ------------------------------------------------------------ arguments

    def oid(self) -> str:
        return self.rng.choice(OBJECTS)

    def data(self) -> bytes:
        n = self.rng.choice((0, 1, 3, 20, 100, 100, 512, 4096, 5000))
        if self.rng.random() < 0.01:
            n = 1 << 20
        unit = self.rng.choice((b"\0", b"x", b"abc", bytes(range(256)), b"xyz\0"))
        return (unit * (n // len(unit) + 1))[:n]

    def offset(self) -> int:
        r = self.rng
        return r.choice((0, 0, r.randrange(200), r.randrange(200), r.randrange(6000), 4096, 1 << 20))

    def extent(self) -> tuple[bytes, int]:
        """Data and where. No data beyond an object's end make an OSD of 16.2 expect a checksum
        that the object has not, and repair it for ever."""
        data = self.data()
        return data, self.offset() if data else 0

    def length(self) -> int:
        r = self.rng
        return r.choice((1, r.randrange(1, 300), r.randrange(1, 9000)))

    def key(self) -> str:
        return self.rng.choice(KEYS)

    def keys(self) -> tuple[str, ...]:
        return tuple(self.rng.sample(KEYS, self.rng.randrange(4)))

    def attribute(self) -> str:
        return self.rng.choice(ATTRIBUTES)

    def operation_flags(self) -> int:
        r = self.rng
        return r.choice((0, 0, 0, 1, 2, 4, 8, 16, 32))

    def same(self) -> tuple[bytes, int, int]:
        data = self.data()[:600]
        length = len(data) * self.rng.randrange(5) + self.rng.choice((0, 0, 0, 0, 1))
        return data, length, self.offset()

    # ------------------------------------------------------------ steps

    def versions(self) -> list[Step]:
        """What an operation makes of the last version."""
        oid = self.oid()
        between = (self.call(oid), self.call(oid), self.aio(), self.read_op(oid))
        return [self.call(oid), ("note_version", oid), self.rng.choice(between), ("compare_version", oid)]

    def call(self, oid: str | None = None) -> Step:
        r, oid = self.rng, oid or self.oid()
        method = r.choice(
            (
                *("write", "write", "write_full", "append", "trunc", "writesame", "cmpext", "remove_object"),
                *("stat", "read", "read", "get_xattr", "get_xattrs", "set_xattr", "set_xattr", "rm_xattr"),
                *("execute", "execute"),
            )
        )
        args: tuple[Any, ...]
        if method in ("write", "cmpext"):
            args = self.extent()
        elif method in ("write_full", "append"):
            args = (self.data(),)
        elif method == "trunc":
            args = (r.choice((self.offset(), self.offset(), 1 << 40)),)
        elif method == "writesame":
            args = self.same()
        elif method == "read":
            args = (r.choice((self.length(), 1 << 20)), self.offset())
        elif method in ("get_xattr", "rm_xattr"):
            args = (self.attribute(),)
        elif method == "set_xattr":
            args = (self.attribute(), self.data())
        elif method == "execute":
            args = self.execute()
        else:
            args = ()
        return ("call", method, oid, *args)

    def execute(self) -> tuple[Any, ...]:
        cls, methods = self.rng.choice(
            (
                (
                    "hello",
                    (
                        *("say_hello", "record_hello", "replay", "turn_it_to_11", "bad_reader", "bad_writer"),
                        *("write_return_data", "write_too_much_return_data", "none"),
                    ),
                ),
                ("lock", ("get_info", "list_locks")),
                ("none", ("none",)),
            )
        )
        return (
            cls,
            self.rng.choice(methods),
            self.rng.choice((b"", b"you", b"x" * 200)),
            self.rng.choice((5, 100, 8192)),
        )

    def operations(self) -> list[Step]:
        r = self.rng
        ops: list[Step] = []
        for _ in range(r.choice((0, 1, 1, 1, 2, 3, 5))):
            method = r.choice(
                (
                    *("write", "write_full", "append", "zero", "truncate", "writesame", "set_xattr", "rm_xattr"),
                    *("new", "new", "remove", "cmpext", "set_omap", "set_omap", "remove_omap_keys", "clear_omap"),
                    *("remove_omap_range2", "omap_cmp", "execute", "assert_version"),
                )
            )
            args: tuple[Any, ...]
            if method in ("write", "cmpext"):
                args = self.extent()
            elif method in ("write_full", "append"):
                args = (self.data(),)
            elif method == "zero":
                args = (self.offset(), self.length())
            elif method == "truncate":
                args = (self.offset(),)
            elif method == "writesame":
                data = self.data()[:600] or b"x"
                args = (data, len(data) * r.randrange(1, 5), self.offset())
            elif method == "set_xattr":
                args = (self.attribute(), self.data())
            elif method == "rm_xattr":
                args = (self.attribute(),)
            elif method == "new":
                args = (r.randrange(3),)
            elif method == "set_omap":
                keys = self.keys()
                args = (keys, tuple(self.data()[:50] for _ in keys))
            elif method == "remove_omap_keys":
                args = (self.keys(),)
            elif method == "remove_omap_range2":
                args = tuple(k for k in r.choices(KEYS, k=9) if k.isascii())[:2]  # nor counts bytes of others
            elif method == "omap_cmp":
                value = r.choice(("", "x", "abcabc", "\0" * 20, "x" * 50))  # the binding of 16.2 takes no bytes
                args = (self.key(), value, r.choice((1, 1, 2, 3, 4, 5, 6)))
            elif method == "execute":
                args = ("hello", r.choice(("record_hello", "turn_it_to_11", "say_hello", "none")), b"you")
            elif method == "assert_version":
                args = (r.choice((-1, 0, 0, 1)),)
            else:
                args = ()
            ops.append((method, *args))
            if r.random() < 0.15:
                ops.append(("set_flags", r.choice((0, 1, 2, 2, 4, 8, 16, 32, 64, 3, 128))))
        return ops

    def how(self) -> str:
        return self.rng.choice(("sync", "sync", "aio"))

    def write_op(self) -> list[Step]:
        mtime = 1_000_000_000 + self.rng.randrange(1000)  # 0 leaves it alone in the binding of 16.2
        oid = self.oid()
        step = ("write_op", "sync", oid, self.operations(), self.operation_flags(), mtime)
        if not step[3]:
            return [step]  # asynchronously, librados sends it, which aborts the OSD
        return self.rng.choice(([step], [step, ("note_version", oid)], [(step[0], "aio", *step[2:])]))

    def read_op(self, oid: str | None = None) -> Step:
        r = self.rng
        ops: list[Step] = []
        for _ in range(r.choice((0, 1, 1, 2, 3))):
            method = r.choice(("get_omap_vals", "get_omap_vals", "get_omap_keys", "get_omap_vals_by_keys", "cmpext"))
            n = r.choice((0, 1, 2, 3, 1000))
            if method == "get_omap_vals":
                ops.append((method, self.key(), r.choice(("", "", "b", "ü")), n))
            elif method == "get_omap_keys":
                ops.append((method, self.key(), n))
            elif method == "get_omap_vals_by_keys":
                ops.append((method, self.keys()))
            else:
                ops.append((method, *self.extent()))
            if r.random() < 0.15:
                ops.append(("set_flags", r.choice((0, 2, 2, 4))))
        how = self.how() if ops else "sync"
        return ("read_op", how, oid or self.oid(), ops, self.operation_flags())

    def aio(self) -> Step:
        r, calls = self.rng, []
        for _ in range(r.choice((1, 2, 5, 20))):
            method = r.choice(
                (
                    *("write", "write_full", "append", "writesame", "remove", "read", "stat", "execute"),
                    *("cmpext", "setxattr", "rmxattr"),
                )
            )
            args: tuple[Any, ...]
            if method in ("write", "cmpext"):
                args = self.extent()
            elif method in ("write_full", "append"):
                args = (self.data(),)
            elif method == "writesame":
                args = self.same()
            elif method == "read":
                args = (self.length(), self.offset())
            elif method == "setxattr":
                args = (self.attribute(), self.data())
            elif method == "rmxattr":
                args = (self.attribute(),)
            elif method == "execute":
                args = (*self.execute()[:3], 8192)  # the binding crashes when there is more
            else:
                args = ()
            calls.append((f"aio_{method}", self.oid(), *args))
        return ("aio", calls)

    def snap(self) -> Step:
        r = self.rng
        some = r.randrange(self.snaps + 1) if self.snaps else 0
        kind = r.choice(("snapshot", "snapshot", "preserve", "rollback", "rollback", "read_from", "read_from", "drop",
                         "list_snaps", "snap_again"))  # fmt: skip
        if kind == "snapshot" and self.snaps < 6:
            self.snaps += 1
            return ("snapshot",)
        if kind == "preserve":
            return ("preserve", r.sample(range(self.snaps), r.randrange(self.snaps + 1)))
        if kind == "rollback":
            return ("rollback", self.oid(), some)
        if kind == "drop" and r.random() < 0.5:
            return ("drop", some)
        if kind in ("list_snaps", "snap_again") and r.random() < 0.5:
            return (kind,)
        return ("read_from", r.choice((-1, -1, some)))

    def lock(self) -> Step:
        r, oid = self.rng, self.oid()
        name, cookie = r.choice(("l", "m")), r.choice(("one", "two", ""))
        kind = r.randrange(5)
        if kind == 0:
            rest = (r.choice(("", "desc ü")), r.choice((None, 1000)), r.choice((0, 0, 1, 2, 3)))
            return ("call", "lock_exclusive", oid, name, cookie, *rest)
        if kind == 1:
            rest = (r.choice(("", "desc")), r.choice((None, 1000)), r.choice((0, 0, 1, 2, 3)))
            return ("call", "lock_shared", oid, name, cookie, r.choice(("", "tag")), *rest)
        if kind == 2:
            return ("call", "unlock", oid, name, cookie)
        if kind == 3:
            return ("lockers", oid, name)
        return ("break_locks", oid, name, cookie)

    def condition(self) -> Step:
        r = self.rng
        conditions = [
            r.choice((None, (self.attribute(), r.randrange(1, 7), self.data()[:30]))) for _ in range(r.randrange(1, 3))
        ]
        return ("conditions", self.oid(), r.random() < 0.5, conditions)

    def checksum(self) -> Step:
        r = self.rng
        length = r.choice((0, self.length(), 512))
        kind = r.choice(("crc32c", "xxhash32", "xxhash64"))
        chunk = r.choice((0, 0, 128, 7))
        return ("checksum", self.oid(), kind, r.choice((0, 0xFFFFFFFF)), length, self.offset(), chunk)


def excused(step: Step, ours: Any, theirs: Any) -> bool:
    """Whether a difference is one that we want: see docs/compatibility.md."""
    if step[:2] == ("call", "cmpext") and theirs[:2] == ("raises", "AssertionError"):
        return bool(ours[0] == "raises")  # the binding asserts that there was no error
    if theirs[:2] == ("raises", "OverflowError"):
        return bool(ours[:2] == ("raises", "OutOfRangeArgument"))  # which is an OverflowError
    return False


def compare(seed: int, both: tuple[Player, Librados], n: int = STEPS) -> None:
    generator = Generator(seed)
    sequence = generator.sequence(n)
    ours = ast.literal_eval(repr(both[0].play(seed, generator.kind, sequence)))
    theirs = both[1].play(seed, generator.kind, sequence)
    assert len(ours) == len(theirs) == len(sequence)
    for i, (step, a, b) in enumerate(zip(sequence, ours, theirs)):
        if a != b and not excused(step, a, b):
            where = f"seed {seed}, step {i} of a pool of kind {generator.kind!r}"
            steps = "\n  ".join(map(short, sequence[max(0, i - 6) : i + 1]))
            raise AssertionError("\n  ".join([where, *difference(a, b, "result"), "the last steps:", steps]))


def difference(a: Any, b: Any, where: str) -> list[str]:
    """Where two outcomes differ."""
    if type(a) is type(b) and isinstance(a, list | tuple) and len(a) == len(b):
        return [line for i, (x, y) in enumerate(zip(a, b)) for line in difference(x, y, f"{where}[{i}]")]
    return [] if a == b else [f"{where}: ours {short(a)}, theirs {short(b)}"]


def short(value: Any) -> str:
    if isinstance(value, bytes | str) and len(value) > 60:
        return f"{value[:20]!r}..{len(value)}..{value[-20:]!r}"
    if isinstance(value, list | tuple):
        return f"({', '.join(map(short, value))})"
    return repr(value)


@pytest.mark.timeout(SECONDS + 120)
def test_random_sequences_do_what_librados_does(both: tuple[Player, Librados]) -> None:
    first = random.getrandbits(32) if "PYRBD_DIFFERENTIAL" in os.environ else 0
    seeds = itertools.count(first)
    end = time.monotonic() + SECONDS
    n = 0
    while time.monotonic() < end:
        compare(next(seeds), both)
        n += 1
    assert n > 3
