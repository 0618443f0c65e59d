"""Differences: callback by callback what librbd's binding gives.

librbd has become more exact since the release that is installed here: an older one also reports what had been
written and was cut off again, so with it every extent of ours must be among its own. With `PYRBD_ORACLE_PYTHON`, a
Python that has the modules of tentacle, everything must be equal.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from pyrbd import rados, rbd
from pyrbd.image import features
from pyrbd.image.diff import _intersect, _subtract, _union, diff_iterate, snap_set_diff
from pyrbd.image.image import Image
from pyrbd.msgr.osdop import NOSNAP
from pyrbd.msgr.types import CloneInfo, SnapInterval
from pyrbd.rados.operations import ObjectOperation
from tests import oracle
from tests.conftest import Run

HISTORIES = Path(__file__).with_name("histories.py")
LAYOUTS: dict[str, dict[str, Any]] = {
    "large": {"size": 5 << 20, "order": 20},
    "small": {"size": 1 << 20, "order": 16},
    "striped": {"size": 4 << 20, "order": 20, "stripe_unit": 65536, "stripe_count": 3},
}
DEFAULT = 61
LAYERING = features.LAYERING
OBJECT_MAP = features.LAYERING | features.EXCLUSIVE_LOCK | features.OBJECT_MAP


def history(conf: str, name: str, seed: int, **options: Any) -> dict[str, Any]:
    """An image that Ceph's modules made, and what they say of it."""
    if "stripe_unit" in options:
        options["features"] |= features.STRIPINGV2
    program = [str(HISTORIES), conf, "rbd", name, str(seed), json.dumps(options)]
    other = os.environ.get("PYRBD_ORACLE_PYTHON")
    done = subprocess.run(
        [other, *program] if other else oracle.argv(conf, "python3", *program),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    made: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return made


def ours(ioctx: rados.Ioctx, image: Image, *arguments: Any) -> Any:
    found: list[list[Any]] = []
    try:
        ioctx._client.run(
            diff_iterate(image, *arguments[:3], lambda *extent: found.append(list(extent)), *arguments[3:])
        )
    except rbd.OSError as e:
        return type(e).__name__
    return found


def covers(outer: list[list[Any]], inner: list[list[Any]]) -> bool:
    a = _union([(offset, offset + length) for offset, length, _ in outer])
    b = _union([(offset, offset + length) for offset, length, _ in inner])
    return _intersect(a, b) == b


def compare(ioctx: rados.Ioctx, name: str, made: dict[str, Any]) -> None:
    exact = tuple(made["version"]) >= (1, 20, 0)
    kinds = set()
    with ExitStack() as stack:
        images = {}
        for at in [None, *[s for _, s in made["snaps"]]]:
            images[at] = ioctx._client.run(Image.open(ioctx._io, name=name, snapshot=at, read_only=True))
            stack.callback(lambda i: ioctx._client.run(i.close()), images[at])
        for at, begin, offset, length, parent, whole, want in made["cases"]:
            got = ours(ioctx, images[at], offset, length, begin, parent, whole)
            what = f"{name}@{at} from {begin}, {length} at {offset}, parent {parent}, whole {whole}"
            if exact or isinstance(want, str):
                assert got == want, what
            else:
                assert covers(want, got), what
            if not isinstance(got, str):
                kinds |= {(whole, exists) for _, _, exists in got}
        assert {(False, True), (True, True)} <= kinds
        changed_bytes_are_reported(ioctx, images)


def changed_bytes_are_reported(ioctx: rados.Ioctx, images: dict[str | None, Image]) -> None:
    """Whatever reads otherwise than before is in the diff."""
    run = ioctx._client.run
    contents = {at: run(image.read(0, image.size)) for at, image in images.items()}
    for at, image in images.items():
        for begin, before in contents.items():
            if begin is not None and image.snap_id <= images[begin].snap_id:
                continue
            after, before = contents[at], before if begin is not None else b""
            before = before[: len(after)].ljust(len(after), b"\0")
            for whole in (False, True):
                found = ours(ioctx, image, 0, image.size, begin, True, whole)
                reported = bytearray(after)
                for offset, length, exists in found:
                    reported[offset : offset + length] = before[offset : offset + length]
                    assert exists or not any(after[offset : offset + length])
                assert reported == before, f"from {begin} to {at}, whole {whole}"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bits", [LAYERING, OBJECT_MAP, DEFAULT])
def test_differences_are_those_of_librbd(
    ioctx: rados.Ioctx, conf: str, name: str, rbd_cli: Run, layout: str, bits: int
) -> None:
    seed = int(os.environ.get("PYRBD_SEED", "11")) + bits
    made = history(conf, name, seed, features=bits, shrinks=True, **LAYOUTS[layout])
    try:
        compare(ioctx, name, made)
    finally:
        rbd_cli("snap", "purge", name)
        rbd_cli("rm", name)


@pytest.mark.parametrize("bits", [LAYERING, DEFAULT])
def test_differences_without_truncation_are_the_same_with_every_librbd(
    ioctx: rados.Ioctx, name: str, rbd_cli: Run, librbd: Callable[[str], Any], bits: int
) -> None:
    """What is only written and snapshotted, all releases report alike."""
    code = f"""
import random
rng = random.Random(5)
rbd.RBD().create(ioctx, {name!r}, 4 << 20, 18, old_format=False, features={bits})
with rbd.Image(ioctx, {name!r}) as image:
    for step in range(30):
        image.write(b'x' * rng.choice([512, 5000, 300000]), rng.randrange(3 << 20))
        if step % 8 == 7:
            image.create_snap(f's{{step}}')
result = []
for at in (None, 's7', 's23'):
    with rbd.Image(ioctx, {name!r}, snapshot=at, read_only=True) as image:
        for begin in (None, 's7', 's15'):
            for whole in (False, True):
                if at is None or begin is None or int(begin[1:]) < int(at[1:]):
                    found = []
                    image.diff_iterate(1000, 3 << 20, begin, lambda *e: found.append(e), True, whole)
                    result.append([at, begin, whole, found])
"""
    cases = librbd(code)
    assert len(cases) == 14
    for at, begin, whole, want in cases:
        image = ioctx._client.run(Image.open(ioctx._io, name=name, snapshot=at, read_only=True))
        assert want and ours(ioctx, image, 1000, 3 << 20, begin, True, whole) == want, (at, begin, whole)
        ioctx._client.run(image.close())
    rbd_cli("snap", "purge", name)


@pytest.mark.parametrize("child", ["large", "striped"])
@pytest.mark.parametrize("bits", [LAYERING, DEFAULT])
def test_differences_of_clones_are_those_of_librbd(
    ioctx: rados.Ioctx, conf: str, name: str, rbd_cli: Run, child: str, bits: int
) -> None:
    clone = name + "-clone"
    history(conf, name, 3, features=bits, shrinks=True, steps=12, **LAYOUTS["small"])
    rbd_cli("resize", name, "--size", "3M", "--no-progress")
    rbd_cli("snap", "create", f"{name}@base")
    rbd_cli("snap", "protect", f"{name}@base")
    made = history(conf, clone, 4, features=bits, shrinks=True, parent=[name, "base"], **LAYOUTS[child])
    try:
        compare(ioctx, clone, made)
    finally:
        rbd_cli("snap", "purge", clone)
        rbd_cli("rm", clone)
        rbd_cli("snap", "unprotect", f"{name}@base")
        rbd_cli("snap", "purge", name)


def test_the_command_shows_the_same(ioctx: rados.Ioctx, image: rbd.Image, name: str, rbd_cli: Run) -> None:
    image.write(b"x" * 5000, 123)
    image.write(b"y" * (3 << 20), 5 << 20)
    core = ioctx._client.run(Image.open(ioctx._io, name=name, read_only=True))
    for extra, whole in (((), False), (("--whole-object",), True)):
        shown = json.loads(rbd_cli("diff", name, "--format", "json", *extra))
        want = [[e["offset"], e["length"], e["exists"] == "true"] for e in shown]
        assert ours(ioctx, core, 0, 64 << 20, None, True, whole) == want
    ioctx._client.run(core.close())


def test_a_callback_that_raises_ends_it(ioctx: rados.Ioctx, image: rbd.Image, name: str) -> None:
    for n in range(0, 64, 2):
        image.write(b"x" * 512, n << 20)
    client = ioctx._client
    core = client.run(Image.open(ioctx._io, name=name, read_only=True))
    seen: list[int] = []

    def stop(offset: int, length: int, exists: bool) -> int | None:
        seen.append(offset)
        if len(seen) == 3:
            raise KeyError("enough")
        if len(seen) == 7:
            return -1
        return 5  # which says nothing

    for whole in (False, True):
        seen.clear()
        with pytest.raises(KeyError):
            client.run(diff_iterate(core, 0, 64 << 20, None, stop, True, whole))
        assert seen == [0, 2 << 20, 4 << 20]
        with pytest.raises(rbd.PermissionError):
            client.run(diff_iterate(core, 0, 64 << 20, None, stop, True, whole))
        assert len(seen) == 7
    client.run(core.close())


def test_misuse_is_refused(ioctx: rados.Ioctx, image: rbd.Image, name: str, rbd_cli: Run) -> None:
    rbd_cli("snap", "create", f"{name}@a")
    rbd_cli("snap", "create", f"{name}@b")
    client = ioctx._client
    head = client.run(Image.open(ioctx._io, name=name, read_only=True))
    old = client.run(Image.open(ioctx._io, name=name, snapshot="a", read_only=True))
    assert ours(ioctx, head, 0, 1 << 20, "nope", True, False) == "ImageNotFound"
    assert ours(ioctx, head, 0, 1 << 20, 12345678, True, False) == "ImageNotFound"
    assert ours(ioctx, head, 64 << 20, 1, None, True, False) == "InvalidArgument"
    assert ours(ioctx, head, -1, 1, None, True, False) == "OutOfRangeArgument"
    assert ours(ioctx, old, 0, 1 << 20, "b", True, False) == "InvalidArgument"
    assert ours(ioctx, old, 0, 1 << 20, "a", True, True) == []
    assert ours(ioctx, head, 0, 0, None, True, True) == []
    assert ours(ioctx, head, 0, 1 << 60, head.header.snaps[0].id, True, True) == []
    for i in (head, old):
        client.run(i.close())
    rbd_cli("snap", "purge", name)


def test_holes_are_reported_as_such(ioctx: rados.Ioctx, name: str, rbd_cli: Run, librbd: Callable[[str], Any]) -> None:
    want = librbd(f"""
rbd.RBD().create(ioctx, {name!r}, 4 << 20, 20, old_format=False, features=61)
result = []
with rbd.Image(ioctx, {name!r}) as image:
    for n in range(3):
        image.write(b'x' * (1 << 20), n << 20)
    image.create_snap('s')
    image.discard(0, 1 << 20)
    image.discard((2 << 20) - 65536, 65536)
    image.discard((2 << 20) + 65536, 65536)
    for whole in (False, True):
        found = []
        image.diff_iterate(0, 4 << 20, 's', lambda *e: found.append(e), True, whole)
        result.append(found)
""")
    assert want == [
        [[0, 1 << 20, False], [(2 << 20) - 65536, 65536, False], [(2 << 20) + 65536, 65536, True]],
        [[0, 1 << 20, False], [1 << 20, 1 << 20, True], [2 << 20, 1 << 20, True]],
    ]
    image = ioctx._client.run(Image.open(ioctx._io, name=name, read_only=True))
    assert [ours(ioctx, image, 0, 4 << 20, "s", True, whole) for whole in (False, True)] == want
    ioctx._client.run(image.close())
    rbd_cli("snap", "purge", name)


@pytest.mark.parametrize("bits", [LAYERING, DEFAULT])
def test_a_sparse_image_takes_as_long_as_what_is_there(
    ioctx: rados.Ioctx, name: str, rbd_cli: Run, librbd: Callable[[str], Any], bits: int
) -> None:
    """Of 50 TiB, of which there are three pieces, one in a snapshot only, and of a clone, which has one of its own."""
    clone, size, client = name + "-clone", 50 << 40, ioctx._client
    pieces = [0, size // 2, size - 4096]
    librbd(f"""
rbd.RBD().create(ioctx, {name!r}, {size}, 22, old_format=False, features={bits})
with rbd.Image(ioctx, {name!r}) as image:
    for n in {pieces}:
        image.write(b'x' * 4096, n)
    image.write(b'x', {pieces[1] + (4 << 20) - 1})
    image.create_snap('base')
    image.protect_snap('base')
    image.discard({pieces[1] >> 22 << 22}, 4 << 20)
rbd.RBD().clone(ioctx, {name!r}, 'base', ioctx, {clone!r}, features={bits})
with rbd.Image(ioctx, {clone!r}) as image:
    image.write(b'y' * (4 << 20), {size // 4})
result = 0
""")
    head = client.run(Image.open(ioctx._io, name=name, read_only=True))
    base = client.run(Image.open(ioctx._io, name=name, snapshot="base"))
    child = client.run(Image.open(ioctx._io, name=clone, read_only=True))
    try:
        begin = time.monotonic()
        for whole in (False, True):
            found = ours(ioctx, base, 0, size, None, True, whole)
            assert ours(ioctx, head, 0, size, None, True, whole) == [found[0], found[2]]
            assert ours(ioctx, head, 0, size, "base", True, whole) == [[*found[1][:2], False]]
            assert [o for o, _, _ in found] == [n >> 22 << 22 for n in pieces]
            assert ours(ioctx, child, 0, size, None, False, whole) == [[size // 4, 4 << 20, True]]
            assert ours(ioctx, child, 0, size, None, True, whole) == sorted([*found, [size // 4, 4 << 20, True]])
        assert time.monotonic() - begin < 20
    finally:
        small = (4 << 20).to_bytes(8, "little")
        client.run(base.close())
        for i in (child, head):  # `rbd rm` takes as long as the size
            client.run(i.io.operate(i.header_oid, ObjectOperation().call_write("rbd", "set_size", small)))
            client.run(i.close())
        rbd_cli("rm", clone)
        rbd_cli("snap", "unprotect", f"{name}@base")
        rbd_cli("snap", "purge", name)


# ---------------------------------------------------------------- the arithmetic


def test_intervals() -> None:
    rng = random.Random(3)
    for _ in range(500):
        lists = []
        for _ in range(2):
            cuts = sorted(rng.sample(range(40), 2 * rng.randrange(5)))
            lists.append(list(zip(cuts[::2], cuts[1::2])))
        a, b = lists
        sa, sb = ({n for x in v for n in range(*x)} for v in (a, b))
        for got, want in ((_union([*b, *a]), sa | sb), (_intersect(a, b), sa & sb), (_subtract(a, b), sa - sb)):
            assert [n for x in got for n in range(*x)] == sorted(want)


def clone(id: int, snaps: tuple[int, ...], size: int, *overlap: tuple[int, int]) -> CloneInfo:
    return CloneInfo(id, snaps, tuple(SnapInterval(o, n) for o, n in overlap), size)


def test_an_object_tells_of_its_differences() -> None:
    clones = (clone(4, (2, 4), 100, (0, 50)), clone(NOSNAP, (), 80))
    assert snap_set_diff(clones, 4, 0, NOSNAP) == ([(0, 80)], 80, True)
    assert snap_set_diff(clones, 4, 2, NOSNAP) == ([(50, 100)], 80, True)
    assert snap_set_diff(clones, 4, 2, 4) == ([], 100, True)
    assert snap_set_diff(clones, 4, 0, 1) == ([], 0, False)  # it came later
    gone = clones[:1]
    assert snap_set_diff(gone, 4, 2, NOSNAP) == ([(0, 100)], 0, False)
    assert snap_set_diff(gone, 4, 0, NOSNAP) == ([], 0, False)
    assert snap_set_diff((clone(4, (), 100), clones[1]), 4, 2, NOSNAP) is None
    beyond = (clone(4, (4,), 10, (0, 1 << 60)), clone(NOSNAP, (), 20))
    assert snap_set_diff(beyond, 4, 4, NOSNAP) == ([], 20, True)
