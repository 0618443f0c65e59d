"""Object maps: those that librbd wrote are read, and those that we write librbd takes for exact."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from pyrbd import rados
from pyrbd.errors import DecodeError
from pyrbd.image import features, flatten, object_map, rebuild, resize, snapshots
from pyrbd.image.bit_vector import BitVector, PairTable
from pyrbd.image.image import Image
from pyrbd.image.object_map import ObjectMap, object_map_object
from pyrbd.msgr.osdop import NOSNAP
from pyrbd.rados import cls_lock
from pyrbd.rados.operations import ObjectOperation
from tests.conftest import Run
from tests.image.test_diff import changed_bytes_are_reported

NONEXISTENT, EXISTS, PENDING, CLEAN = range(4)
FEATURES = "exclusive-lock,object-map,fast-diff,deep-flatten,layering"

# ---------------------------------------------------------------- the vector


def test_a_vector_does_what_a_list_does() -> None:
    rng = random.Random(4)
    for size in (0, 1, 2, 3, 4, 5, 17, 1000, 70000):
        v = BitVector(size, 3)
        model = [3] * size
        for _ in range(20):
            size, value = rng.randrange(size + 20), rng.randrange(4)
            v.resize(size, value)
            model = model[:size] + [value] * (size - len(model))
            first = rng.randrange(size + 1)
            last = rng.randrange(first, size + 1)
            values = (rng.randrange(4), rng.randrange(4), rng.randrange(4), rng.randrange(4))
            v.apply(first, last, values)
            model[first:last] = [values[x] for x in model[first:last]]
            wanted = (rng.random() < 0.2, rng.random() < 0.2, rng.random() < 0.2, rng.random() < 0.2)
            assert v.contains(first, last, wanted) == any(wanted[x] for x in model[first:last])
            assert list(v.nonzero(first, last)) == [n for n in range(first, last) if model[n]]
            base = first & ~3
            part = v.part(base, last)
            assert [part[n] for n in range(part.size)] == model[base:last]
            assert len(v) == size and (size > 2000 or [v[n] for n in range(size)] == model)
            assert BitVector.decode(v.encode()) == v == BitVector.decode(v.encode(checksums=False))


def test_folding_takes_each_pair() -> None:
    rng = random.Random(5)
    table = PairTable(lambda a, b: (a + 2 * b) % 4)
    for size, other_size in ((5, 9), (9, 5), (40000, 39999), (0, 3), (3, 0)):
        a, b = BitVector(size), BitVector(other_size)
        for v in (a, b):
            for _ in range(min(v.size, 500)):
                v[rng.randrange(v.size)] = rng.randrange(4)
        want = [(a[n] + 2 * (b[n] if n < other_size else 0)) % 4 for n in range(size)]
        a.fold(b, table)
        assert [a[n] for n in range(size)] == want


def test_damaged_vectors_are_refused() -> None:
    v = BitVector(40000, EXISTS)
    good = bytes(v.encode())
    for cut in (0, 3, 17, 18, 5000, len(good) - 1):
        with pytest.raises(DecodeError):
            BitVector.decode(good[:cut])
    for at in (12, 18, 5000, len(good) - 1):  # the size, the data, the last checksum
        bad = bytearray(good)
        bad[at] ^= 1
        with pytest.raises(DecodeError):
            BitVector.decode(bad)
    with pytest.raises(DecodeError):  # more than the bytes there are
        BitVector.decode(good[:10] + (1 << 60).to_bytes(8, "little") + good[18:])


# ---------------------------------------------------------------- with images


@pytest.fixture
def tracked(rbd_cli: Run, name: str) -> Iterator[str]:
    """An image of 40 objects of 64 KiB with an object map, made by `rbd`."""
    rbd_cli("create", name, "--size", "2560K", "--object-size", "64K", "--image-feature", FEATURES)
    yield name
    rbd_cli("snap", "purge", name, check=False)
    rbd_cli("rm", name, check=False)


@contextmanager
def opened(ioctx: rados.Ioctx, name: str, **how: Any) -> Iterator[Image]:
    run = ioctx._client.run
    image = run(Image.open(ioctx._io, name=name, **how))
    try:
        yield image
    finally:
        run(image.close())


@contextmanager
def owned(ioctx: rados.Ioctx, name: str) -> Iterator[tuple[Image, ObjectMap]]:
    """An image with the map of its head, as the owner of the exclusive lock has it."""
    run = ioctx._client.run
    with opened(ioctx, name) as image:
        run(image.prepare_write())
        m = image.object_map
        assert m is not None
        yield image, m


def states(m: ObjectMap | BitVector) -> list[int]:
    v = m.vector if isinstance(m, ObjectMap) else m
    return [v[n] for n in range(v.size)]


def stored(ioctx: rados.Ioctx, image: Image, snap_id: int = NOSNAP) -> list[int]:
    vector: BitVector = ioctx._client.run(object_map.load(ioctx._io, image.id, snap_id))
    return states(vector)


def checked(rbd_cli: Run, spec: str) -> list[str]:
    """The flags after librbd has compared the map with the objects."""
    rbd_cli("object-map", "check", spec, "--no-progress")
    flags: list[str] = json.loads(rbd_cli("info", spec, "--format", "json"))["flags"]
    return flags


def make_snapshot(ioctx: rados.Ioctx, image: Image, name: str) -> int:
    """What a snapshot needs but for the map."""
    client = ioctx._client
    snap_id: int = client.run(client.create_selfmanaged_snap(ioctx._io.pool_id))
    raw = name.encode()
    data = len(raw).to_bytes(4, "little") + raw + snap_id.to_bytes(8, "little")
    data += b"\1\1" + (4).to_bytes(4, "little") + bytes(4)  # in the users' namespace
    client.run(image.io.operate(image.header_oid, ObjectOperation().call_write("rbd", "snapshot_add", data)))
    client.run(image.refresh())
    return snap_id


def test_what_librbd_stored_is_what_we_would_store(
    ioctx: rados.Ioctx, name: str, rbd_cli: Run, librbd: Callable[[str], Any]
) -> None:
    rbd_cli("create", name, "--size", "20001M", "--object-size", "1M", "--image-feature", FEATURES)
    librbd(
        f"with rbd.Image(ioctx, {name!r}) as i:\n"
        "    [i.write(b'x', n << 20) for n in (0, 1, 5, 16383, 16384, 20000)]\n"
        "    i.create_snap('s'); i.write(b'y', 5 << 20); i.discard(16384 << 20, 1 << 20)\n"
        "result = 0"
    )
    with opened(ioctx, name, read_only=True) as image:
        for snap_id, want in (
            (NOSNAP, {0: CLEAN, 1: CLEAN, 5: EXISTS, 16383: CLEAN, 20000: CLEAN}),
            (image.header.snaps[0].id, dict.fromkeys((0, 1, 5, 16383, 16384, 20000), EXISTS)),
        ):
            vector = ioctx._client.run(object_map.load(ioctx._io, image.id, snap_id))
            assert {n: s for n, s in enumerate(states(vector)) if s} == want and vector.size == 20001
            assert ioctx.read(object_map_object(image.id, snap_id), 1 << 20) == bytes(vector.encode())
    rbd_cli("snap", "purge", name)


def test_updates_are_stored_before_they_return_and_only_where_something_changes(
    ioctx: rados.Ioctx, tracked: str
) -> None:
    run = ioctx._client.run
    with owned(ioctx, tracked) as (image, m):
        run(m.update(3, 7, EXISTS))
        want = [EXISTS if 3 <= n < 7 else NONEXISTENT for n in range(40)]
        assert states(m) == stored(ioctx, image) == want

        def version() -> int:
            ioctx.stat(m.oid)
            return ioctx.get_last_version()

        before = version()
        run(m.update(4, 6, EXISTS))
        run(m.update(0, 3, NONEXISTENT))
        run(m.update(3, 7, NONEXISTENT))  # only what is going to be removed is
        run(m.update(10, 12, PENDING))  # what is not there is not removed
        run(m.update(40, 50, EXISTS))
        assert version() == before and states(m) == want
        run(m.update(3, 5, PENDING))
        run(m.update(4, 9, NONEXISTENT, PENDING))
        want[3], want[4] = PENDING, NONEXISTENT
        assert states(m) == stored(ioctx, image) == want
        assert m.may_exist(3) and not m.may_exist(4) and m.may_exist(40)


def test_overlapping_updates_take_turns(ioctx: rados.Ioctx, tracked: str) -> None:
    client, rng = ioctx._client, random.Random(6)
    with owned(ioctx, tracked) as (image, m):
        for _ in range(5):
            tasks = []
            for _ in range(60):
                first = rng.randrange(40)
                last = rng.randrange(first + 1, 41)
                tasks.append(client.spawn(m.update(first, last, rng.choice([EXISTS, PENDING, CLEAN, NONEXISTENT]))))
            for t in tasks:
                client.wait(t)
                t.result()
            assert states(m) == stored(ioctx, image)
        assert m.valid


def test_after_an_interrupt_states_are_told_anew(ioctx: rados.Ioctx, tracked: str) -> None:
    """An interrupt comes where a coroutine waits; whether its request was done is not known then."""
    run = ioctx._client.run

    def interrupted(coro: Any) -> None:
        coro.send(None)
        with pytest.raises(KeyboardInterrupt):
            coro.throw(KeyboardInterrupt)

    with owned(ioctx, tracked) as (image, m):
        run(m.update(0, 10, EXISTS))
        interrupted(m.update(2, 4, PENDING))
        interrupted(m.update(20, 22, EXISTS))
        assert m.may_exist(2) and m.may_exist(20)
        run(m.update(0, 22, EXISTS))
        assert stored(ioctx, image)[:22] == states(m)[:22] == [EXISTS] * 22
        snap_id = make_snapshot(ioctx, image, "s")
        interrupted(m.snap_add(snap_id))  # where it reads
        assert states(m)[:22] == [EXISTS] * 22
        run(m.snap_add(snap_id))
        run(m.update(5, 6, EXISTS))
        interrupted(m.rollback(snap_id))
        interrupted(m.replace(BitVector(40, EXISTS)))
        run(m.update(0, 40, EXISTS))
        assert stored(ioctx, image) == states(m) == [EXISTS] * 40 and m.valid


def test_the_lock_of_a_former_owner_is_broken_and_his_changes_fail(
    ioctx: rados.Ioctx, conf: str, tracked: str, rbd_cli: Run
) -> None:
    run = ioctx._client.run
    with (
        owned(ioctx, tracked) as (image, m),
        rados.Rados(conffile=conf) as other,
        other.open_ioctx("rbd") as theirs,
        opened(theirs, tracked) as their_image,
    ):
        newer = other.client.run(ObjectMap.open(their_image))
        assert newer is not None
        other.client.run(newer.update(0, 2, EXISTS))
        assert not json.loads(rbd_cli("info", tracked, "--format", "json"))["flags"]
        run(m.update(5, 6, EXISTS))
        assert not m.valid and m.may_exist(30)
        flags = json.loads(rbd_cli("info", tracked, "--format", "json"))["flags"]
        assert flags == ["object map invalid", "fast diff invalid"]
        assert stored(ioctx, image)[:6] == [EXISTS, EXISTS, 0, 0, 0, 0]


@pytest.mark.parametrize("damage", ["missing", "damaged", "short"])
def test_a_map_that_is_wrong_is_flagged_and_can_be_rebuilt(
    ioctx: rados.Ioctx, tracked: str, rbd_cli: Run, damage: str
) -> None:
    run = ioctx._client.run
    rbd_cli("bench", tracked, "--io-type", "write", "--io-size", "4K", "--io-total", "40K", "--io-pattern", "rand")
    with opened(ioctx, tracked, read_only=True) as image:
        oid = object_map_object(image.id)
        right = stored(ioctx, image)
    if damage == "missing":
        ioctx.remove_object(oid)
    elif damage == "damaged":
        ioctx.write(oid, b"\xff", 20)
    else:
        ioctx.write_full(oid, bytes(BitVector(39).encode()))
    with owned(ioctx, tracked) as (image, m):
        assert not m.valid and states(m) == [EXISTS] * 40
        flags = json.loads(rbd_cli("info", tracked, "--format", "json"))["flags"]
        assert flags == ["object map invalid", "fast diff invalid"]
        seen: list[tuple[int, int]] = []
        run(rebuild.rebuild_object_map(image, lambda done, total: seen.append((done, total))))
        assert seen == [(n, 40) for n in range(1, 41)]
        assert states(m) == stored(ioctx, image) == right and EXISTS in right and NONEXISTENT in right
        assert m.valid
    assert checked(rbd_cli, tracked) == []


def test_maps_follow_writes_snapshots_and_sizes_as_librbd_wants_them(
    ioctx: rados.Ioctx, tracked: str, rbd_cli: Run
) -> None:
    """All through our own image: after each step librbd finds all maps exact."""
    run, rng = ioctx._client.run, random.Random(7)
    with owned(ioctx, tracked) as (image, m):
        snaps: dict[str, int] = {}
        for step in range(30):
            kind = rng.choice(["write", "write", "write", "discard", "snap", "remove"]) if step else "write"
            at = rng.randrange(40) << 16
            if kind == "write":
                run(image.write(at, memoryview(b"w" * min(200000, image.size - at))))
            elif kind == "discard":
                run(image.discard(at, min(300000, image.size - at)))
            elif kind == "snap":
                snap = f"s{step}"
                snaps[snap] = make_snapshot(ioctx, image, snap)
                run(m.snap_add(snaps[snap]))
            elif snaps:
                snap = rng.choice(list(snaps))
                snap_id = snaps.pop(snap)
                run(m.snap_remove(snap_id))
                op = ObjectOperation().call_write("rbd", "snapshot_remove", snap_id.to_bytes(8, "little"))
                run(image.io.operate(image.header_oid, op))
                run(ioctx._client.remove_selfmanaged_snap(ioctx._io.pool_id, snap_id))
                run(image.refresh())
            assert states(m) == stored(ioctx, image) and m.valid
            before = {i: stored(ioctx, image, i) for i in [NOSNAP, *snaps.values()]}
            run(rebuild.rebuild_object_map(image))
            assert {i: stored(ioctx, image, i) for i in before} == before, f"step {step}, {kind}"
        assert snaps
        run(m.resize(3 << 20))
        assert len(states(m)) == 48 and states(m) == stored(ioctx, image)
        run(m.resize(2560 << 10))
        assert m.valid
    for spec in [tracked, *[f"{tracked}@{s}" for s in snaps]]:
        assert checked(rbd_cli, spec) == [], spec


def test_cutting_objects_off_that_exist_flags_the_map(ioctx: rados.Ioctx, tracked: str) -> None:
    run = ioctx._client.run
    with owned(ioctx, tracked) as (image, m):
        run(m.update(39, 40, EXISTS))
        run(m.resize(64 << 10))
        assert not m.valid and m.size == 40
        run(image.refresh())
        assert not m.valid


def test_after_a_rollback_nothing_counts_as_unchanged(ioctx: rados.Ioctx, tracked: str) -> None:
    run = ioctx._client.run
    with owned(ioctx, tracked) as (image, m):
        run(m.update(0, 4, EXISTS))
        first = make_snapshot(ioctx, image, "a")
        run(m.snap_add(first))
        run(m.update(1, 2, EXISTS))
        second = make_snapshot(ioctx, image, "b")
        run(m.snap_add(second))
        assert stored(ioctx, image, second)[:5] == [CLEAN, EXISTS, CLEAN, CLEAN, NONEXISTENT]
        assert states(m)[:5] == [CLEAN, CLEAN, CLEAN, CLEAN, NONEXISTENT]
        run(m.update(7, 8, EXISTS))
        run(m.begin_rollback(second))
        assert states(m)[:9] == [EXISTS] * 4 + [NONEXISTENT] * 3 + [EXISTS, NONEXISTENT]
        assert stored(ioctx, image) == states(m)
        run(m.rollback(second))
        assert states(m)[:9] == [EXISTS] * 4 + [NONEXISTENT] * 5 and stored(ioctx, image) == states(m)
        ioctx.remove_object(object_map_object(image.id, first))
        run(m.rollback(first))
        assert not m.valid
        run(image.refresh())
        assert [object_map.flags(image, s) for s in (first, second, NOSNAP)] == [3, 0, 3]


def test_maps_of_snapshots_are_read(ioctx: rados.Ioctx, tracked: str, librbd: Callable[[str], Any]) -> None:
    librbd(f"with rbd.Image(ioctx, {tracked!r}) as i:\n    i.write(b'x' * 70000, 0); i.create_snap('s')\nresult = 0")
    with opened(ioctx, tracked, snapshot="s") as image:
        m = ioctx._client.run(ObjectMap.open(image, image.snap_id))
        assert m is not None and states(m) == [EXISTS, EXISTS] + [NONEXISTENT] * 38
        ioctx._client.run(m.close())


def test_check_tells_what_is_missing(ioctx: rados.Ioctx, tracked: str, librbd: Callable[[str], Any]) -> None:
    run = ioctx._client.run
    librbd(f"with rbd.Image(ioctx, {tracked!r}) as i:\n    i.write(b'x' * 70000, 0)\nresult = 0")
    with owned(ioctx, tracked) as (image, m):
        run(m.update(20, 30, EXISTS))  # of which there are none, which does not harm
        assert run(rebuild.check_object_map(image))
        run(m.update(1, 2, PENDING))
        run(m.update(1, 2, NONEXISTENT))
        assert not run(rebuild.check_object_map(image))
        run(image.refresh())
        assert not m.valid


def test_an_image_with_too_many_objects_has_no_map(ioctx: rados.Ioctx, tracked: str) -> None:
    run = ioctx._client.run
    size = ((object_map.MAX_OBJECT_COUNT + 1) << 16).to_bytes(8, "little")
    with opened(ioctx, tracked) as image:
        run(image.io.operate(image.header_oid, ObjectOperation().call_write("rbd", "set_size", size)))
        run(image.refresh())
        run(image.prepare_write())
        assert image.object_map is None
        run(image.refresh())
        assert object_map.flags(image) & object_map.OBJECT_MAP_INVALID
        size = (2560 << 10).to_bytes(8, "little")
        run(image.io.operate(image.header_oid, ObjectOperation().call_write("rbd", "set_size", size)))


def test_rebuilding_while_others_write_loses_nothing(ioctx: rados.Ioctx, tracked: str, rbd_cli: Run) -> None:
    client, rng = ioctx._client, random.Random(8)
    with owned(ioctx, tracked) as (image, m):
        client.run(image.write(0, memoryview(b"a" * (20 << 16))))
        client.run(m.snap_add(make_snapshot(ioctx, image, "s")))
        for _ in range(5):
            building = client.spawn(rebuild.rebuild_object_map(image))
            while not building.done:
                at = rng.randrange(40) << 16
                if rng.random() < 0.5:
                    client.run(image.write(at, memoryview(b"b" * 512)))
                else:
                    client.run(image.discard(at, 1 << 16))
            building.result()
            assert states(m) == stored(ioctx, image)
        snap = states(m)
        client.run(rebuild.rebuild_object_map(image))
        assert states(m) == snap and m.valid
    assert checked(rbd_cli, tracked) == []


def test_the_lock_is_given_back(ioctx: rados.Ioctx, tracked: str) -> None:
    with owned(ioctx, tracked) as (image, m):
        info = ioctx._client.run(image.io.operate(m.oid, cls_lock.get_info("rbd_lock")))
        assert len(cls_lock.decode_info(info.ops[0].data).lockers) == 1
    info = ioctx._client.run(ioctx._io.operate(m.oid, cls_lock.get_info("rbd_lock")))
    assert not cls_lock.decode_info(info.ops[0].data).lockers


@pytest.mark.parametrize("kind", ["image", "clone", "striped"])
def test_whatever_we_do_leaves_maps_and_diffs_that_are_right(
    ioctx: rados.Ioctx, name: str, rbd_cli: Run, kind: str
) -> None:
    """Random histories, of snapshots, sizes and rollbacks too: librbd finds all maps exact, and what reads otherwise
    than at a snapshot is in the diffs."""
    run, rng = ioctx._client.run, random.Random(int(os.environ.get("PYRBD_SEED", "21")))
    layout = ("--stripe-unit", "16K", "--stripe-count", "3") if kind == "striped" else ()
    target = name
    rbd_cli("create", name, "--size", "2560K", "--object-size", "64K", "--image-feature", FEATURES, *layout)
    if kind == "clone":
        target = name + "-clone"
        with owned(ioctx, name) as (image, _):
            run(image.write(100000, memoryview(b"p" * 900000)))
            run(snapshots.create(image, "base"))
            run(snapshots.protect(image, "base"))
        small = ("--object-size", "32K", "--stripe-unit", "32K", "--stripe-count", "1")
        rbd_cli("clone", f"{name}@base", target, "--image-feature", FEATURES, *small)
    try:
        with opened(ioctx, target) as image:
            names: list[str] = []
            for step in range(50):
                what = rng.choice(
                    ["write"] * 5 + ["discard", "discard", "snap", "snap", "remove", "rollback", "resize"]
                )
                at = rng.randrange(image.size)
                if what == "write":
                    n = min(rng.choice([512, 70000, 200000]), image.size - at)
                    run(image.write(at, memoryview(bytes([step + 1]) * n)))
                elif what == "discard":
                    run(image.discard(at >> 15 << 15, min(200000, image.size - (at >> 15 << 15))))
                elif what == "snap":
                    names.append(f"s{step}")
                    run(snapshots.create(image, names[-1]))
                elif what == "remove" and len(names) > 3:
                    run(snapshots.remove(image, names.pop(rng.randrange(len(names)))))
                elif what == "rollback" and names:
                    run(snapshots.rollback(image, rng.choice(names)))
                elif what == "resize":
                    run(resize.resize(image, rng.randrange(1, 3 << 20)))
                m = image.object_map
                assert m is None or (m.valid and states(m) == stored(ioctx, image)), (step, what)
            if kind == "clone":
                run(flatten.flatten(image))
            assert names
        for spec in [target, *[f"{target}@{s}" for s in names]]:
            assert checked(rbd_cli, spec) == [], spec
        with ExitStack() as stack:
            images = {s: stack.enter_context(opened(ioctx, target, snapshot=s, read_only=True)) for s in [None, *names]}
            changed_bytes_are_reported(ioctx, images)
            for i in images.values():
                i.header = i.header._replace(raw=i.header.raw.replace(features=features.LAYERING))  # without the maps
            changed_bytes_are_reported(ioctx, images)
    finally:
        rbd_cli("snap", "purge", target, check=False)
        if kind == "clone":
            rbd_cli("rm", target)
            rbd_cli("snap", "unprotect", f"{name}@base", check=False)
            rbd_cli("snap", "purge", name)
