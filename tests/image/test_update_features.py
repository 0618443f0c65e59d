"""Switching features: what librbd makes of the same sequence of changes, and what it finds afterwards."""

from __future__ import annotations

import errno
import json
import random
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pyrbd import rados, rbd
from pyrbd.image import features, object_map
from pyrbd.rados import exceptions
from tests.conftest import Run
from tests.image.peers import Peer, until

EXCLUSIVE_LOCK, OBJECT_MAP, FAST_DIFF, DEEP_FLATTEN = (
    features.EXCLUSIVE_LOCK,
    features.OBJECT_MAP,
    features.FAST_DIFF,
    features.DEEP_FLATTEN,
)
MAPS = OBJECT_MAP | FAST_DIFF
ALL_SWITCHED = EXCLUSIVE_LOCK | MAPS | DEEP_FLATTEN
IMMUTABLE = (
    features.LAYERING,
    features.STRIPINGV2,
    features.DATA_POOL,
    features.OPERATIONS,
    features.MIGRATING,
    features.NON_PRIMARY,
    features.DIRTY_CACHE,
    1 << 40,
)
BOTH = pytest.mark.parametrize("librbd", [True, False], ids=["librbd", "pyrbd"])
Steps = list[tuple[int, bool]]


@pytest.fixture
def names(name: str, rbd_cli: Run) -> Iterator[tuple[str, str]]:
    """Two images' names."""
    both = name, name + "-librbd"
    yield both
    for n in both:
        rbd_cli("snap", "purge", n, "--no-progress", check=False)
        rbd_cli("rm", n, "--no-progress", check=False)


def info(rbd_cli: Run, spec: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(rbd_cli("info", "--format", "json", spec))
    return found


def maps(ioctx: rados.Ioctx, rbd_cli: Run, name: str) -> list[str]:
    """Which of the image's object maps there are: the head's, those of its snapshots."""
    image_id = info(rbd_cli, name)["id"]
    listed = json.loads(rbd_cli("snap", "ls", "--format", "json", name))
    candidates = {"head": object_map.object_map_object(image_id)}
    candidates |= {s["name"]: object_map.object_map_object(image_id, s["id"]) for s in listed}
    found = []
    for what, oid in candidates.items():
        try:
            ioctx.stat(oid)
            found.append(what)
        except rados.ObjectNotFound:
            pass
    return found


def random_steps(rng: random.Random, count: int) -> Steps:
    steps: Steps = []
    for _ in range(count):
        if rng.random() < 0.15:
            bits = rng.choice(IMMUTABLE) | (rng.choice((0, EXCLUSIVE_LOCK)))
        else:
            bits = sum(b for b in (EXCLUSIVE_LOCK, OBJECT_MAP, FAST_DIFF) if rng.random() < 0.45)
            if rng.random() < 0.08:
                bits |= DEEP_FLATTEN
        steps.append((bits, rng.random() < 0.6))
    return steps


LOOP = """
def flags(image):
    found = [image.flags()]
    for s in ("s1", "s2"):
        image.set_snap(s)
        found.append(image.flags())
    image.set_snap(None)
    return found

def step(image, bits, enabled):
    try:
        image.update_features(bits, enabled)
        error = None
    except rbd.OSError as e:
        error = [type(e).__name__, e.errno]
    image.write(b"x" * 100, 12345)
    return [error, image.features()]

def run(name, steps):
    with rbd.Image(ioctx, name) as image:
        done = [step(image, *s) for s in steps]
    out = []
    with rbd.Image(ioctx, name, read_only=True) as image:
        return [done, flags(image)]
"""


def play(ioctx: rados.Ioctx, name: str, steps: Steps) -> Any:
    """What LOOP does, by us."""
    scope: dict[str, Any] = {"rbd": rbd, "ioctx": ioctx}
    exec(LOOP, scope)  # noqa: S102
    return scope["run"](name, steps)


@pytest.mark.parametrize("seed", range(6))
def test_random_sequences_end_as_with_librbd(
    ioctx: rados.Ioctx, names: tuple[str, str], rbd_cli: Run, librbd: Callable[[str], Any], seed: int
) -> None:
    rng = random.Random(seed)
    start = rng.choice(
        ("layering", "layering,exclusive-lock", "layering,exclusive-lock,object-map,fast-diff,deep-flatten")
    )
    for n in names:
        rbd_cli("create", n, "--size", "8M", "--object-size", "1M", "--image-feature", start)
        rbd_cli("snap", "create", f"{n}@s1", "--no-progress")
        rbd_cli("resize", n, "--size", "12M", "--no-progress")
        rbd_cli("snap", "create", f"{n}@s2", "--no-progress")
        if seed % 3 == 2 and "object-map" in start:  # one without the other, as hammer made them
            with rbd.Image(ioctx, n) as image:
                bits = struct.pack("<QQ", 0, FAST_DIFF)
                ioctx.execute(f"rbd_header.{image.id()}", "rbd", "set_features", bits)
    steps = random_steps(rng, 40)
    for chunk in (steps[:15], steps[15:25], steps[25:]):
        ours = play(ioctx, names[0], chunk)
        theirs = librbd(f"{LOOP}\nresult = run({names[1]!r}, {chunk!r})")
        for i, (our, their) in enumerate(zip(ours[0], theirs[0])):
            assert our == their, f"step {i}: {chunk[i]}"
        assert ours[1] == theirs[1]
        assert maps(ioctx, rbd_cli, names[0]) == maps(ioctx, rbd_cli, names[1])
        mine, their = (info(rbd_cli, n) for n in names)
        assert (mine["features"], mine["flags"]) == (their["features"], their["flags"])


@BOTH
def test_the_owner_of_the_lock_does_it_for_others(
    ioctx: rados.Ioctx, conf: str, names: tuple[str, str], rbd_cli: Run, librbd: bool
) -> None:
    """We ask a peer who owns the lock, and it asks us; who owns it goes on writing."""
    name = names[0]
    rbd_cli("create", name, "--size", "8M", "--object-size", "1M", "--image-feature", "layering,exclusive-lock")
    with Peer(conf, librbd) as peer, rbd.Image(ioctx, name) as image:
        peer.do(f"image = rbd.Image(ioctx, {name!r})")
        for ours, owner_writes, other_updates in (
            (False, lambda: peer.do("image.write(b'a' * 4096, 0)"), image.update_features),
            (True, lambda: image.write(b"b" * 4096, 1 << 20), lambda *a: peer.do(f"image.update_features{a!r}")),
        ):
            owner_writes()
            assert image.is_exclusive_lock_owner() == ours
            other_updates(OBJECT_MAP, True)
            owner_writes()
            assert set(info(rbd_cli, name)["flags"]) == {"object map invalid", "fast diff invalid"}
            rbd_cli("object-map", "rebuild", name, "--no-progress")
            owner_writes()
            other_updates(FAST_DIFF, False)
            owner_writes()
            assert info(rbd_cli, name)["features"] == ["layering", "exclusive-lock"]
            assert maps(ioctx, rbd_cli, name) == []
            other_updates(EXCLUSIVE_LOCK, False)
            owner_writes()
            until(lambda: json.loads(rbd_cli("lock", "ls", "--format", "json", name)) == [], "the lock is given up")
            assert not image.is_exclusive_lock_owner()
            other_updates(EXCLUSIVE_LOCK, True)
        peer.do("image.close()")


def test_a_rebuilt_map_stays_exact_while_features_are_switched(
    ioctx: rados.Ioctx, names: tuple[str, str], rbd_cli: Run
) -> None:
    name = names[0]
    rbd.RBD().create(ioctx, name, 16 << 20, order=20, features=features.LAYERING)
    with rbd.Image(ioctx, name) as image:
        image.write(b"1" * 5000, 0)
        image.create_snap("s")
        image.write(b"2" * 5000, 3 << 20)
        image.update_features(EXCLUSIVE_LOCK | OBJECT_MAP, True)
        image.write(b"3" * 5000, 5 << 20)
        assert image.is_exclusive_lock_owner()
        image.rebuild_object_map()
        assert image.flags() == 0
        image.write(b"4" * 5000, 7 << 20)
        image.update_features(FAST_DIFF, False)
        image.write(b"5" * 5000, 9 << 20)
        image.update_features(FAST_DIFF, True)
        image.write(b"6" * 5000, 11 << 20)
        image.rebuild_object_map()
        image.write(b"7" * 5000, 13 << 20)
    for spec in (name, f"{name}@s"):
        rbd_cli("object-map", "check", spec, "--no-progress")
        assert info(rbd_cli, spec)["flags"] == []
    assert rbd_cli("du", "--exact", "--format", "json", name)  # it can be read at all


def test_writers_do_not_notice(ioctx: rados.Ioctx, names: tuple[str, str], rbd_cli: Run) -> None:
    """Threads write while the features of their image come and go; nothing is lost, and the lock is not either."""
    name = names[0]
    rbd.RBD().create(ioctx, name, 16 << 20, order=20, features=features.LAYERING)
    errors: list[BaseException] = []
    stop = threading.Event()
    with rbd.Image(ioctx, name) as image:

        def write(n: int) -> None:
            try:
                while not stop.is_set():
                    image.write(bytes([n]) * 4096, (n << 20) + 4096 * random.randrange(200))
            except BaseException as e:
                errors.append(e)

        threads = [threading.Thread(target=write, args=(n,)) for n in range(1, 4)]
        for t in threads:
            t.start()
        try:
            for _ in range(8):
                image.update_features(EXCLUSIVE_LOCK | OBJECT_MAP, True)
                image.rebuild_object_map()
                image.update_features(OBJECT_MAP, False)
                image.update_features(EXCLUSIVE_LOCK, False)
            image.update_features(EXCLUSIVE_LOCK | OBJECT_MAP, True)
            image.rebuild_object_map()
        finally:
            stop.set()
            for t in threads:
                t.join(60)
        assert not errors
        image.write(b"x", 0)
        owners = json.loads(rbd_cli("lock", "ls", "--format", "json", name))
        assert image.is_exclusive_lock_owner() and len(owners) == 1
    rbd_cli("object-map", "check", name, "--no-progress")
    assert info(rbd_cli, name)["flags"] == []


def test_a_failure_leaves_an_object_map_that_is_kept(
    ioctx: rados.Ioctx, names: tuple[str, str], rbd_cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the maps cannot be removed, what is written afterwards is still told to the one of the head."""
    name = names[0]
    rbd_cli("create", name, "--size", "8M", "--object-size", "1M")
    with rbd.Image(ioctx, name) as image:
        image.write(b"1", 0)

        async def fail(image: Any) -> None:
            raise exceptions.make_ex(-errno.EIO, "the disk is on fire")

        monkeypatch.setattr(object_map, "remove_object_maps", fail)
        with pytest.raises(rbd.IOError):
            image.update_features(OBJECT_MAP, False)
        image.write(b"2", 3 << 20)
    rbd_cli("object-map", "check", name, "--no-progress")
    assert info(rbd_cli, name)["flags"] == []
    assert "object-map" in info(rbd_cli, name)["features"]


def test_refusals(ioctx: rados.Ioctx, names: tuple[str, str], rbd_cli: Run) -> None:
    name = names[0]
    rbd_cli("create", name, "--size", "8M", "--image-feature", "layering,exclusive-lock")
    with rbd.Image(ioctx, name) as image:
        with pytest.raises(rbd.FunctionNotSupported, match="journaling"):
            image.update_features(features.JOURNALING, True)
        with pytest.raises(OverflowError):
            image.update_features(-1, True)
    with rbd.Image(ioctx, name, read_only=True) as image, pytest.raises(rbd.ReadOnlyImage):
        image.update_features(EXCLUSIVE_LOCK, False)
    rbd_cli("resize", name, "--size", "1P", "--no-progress")
    with rbd.Image(ioctx, name) as image:
        with pytest.raises(rbd.InvalidArgument, match="too many objects"):
            image.update_features(OBJECT_MAP, True)
        assert image.features() == features.LAYERING | EXCLUSIVE_LOCK and image.flags() == 0
    rbd.RBD().remove(ioctx, name)  # which looks for objects before it removes them


def test_format_1_has_none(ioctx: rados.Ioctx, names: tuple[str, str]) -> None:
    rbd.RBD().create(ioctx, names[0], 1 << 20, old_format=True)
    with rbd.Image(ioctx, names[0]) as image, pytest.raises(rbd.InvalidArgument):
        image.update_features(EXCLUSIVE_LOCK, True)
