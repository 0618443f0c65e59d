"""KeyboardInterrupt at each place of a change of an image, one after the other: nothing that is acknowledged later is
undone by what it leaves behind, nothing hangs, and the object map is never less than the truth."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from pyrbd import rados, rbd
from tests.image.test_concurrency import stored
from tests.interrupts import Interrupter, known_version

Run = Callable[..., bytes]
OBJECT = 1 << 16
OBJECTS = 4096


def block(n: int) -> bytes:
    return n.to_bytes(8, "little") * 512


@known_version
@pytest.mark.timeout(180)
# what an interrupt leaves behind before it is anybody's: a coroutine that never ran
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("cached", [False, True], ids=["through", "cached"])
@pytest.mark.parametrize("kind", ["write", "first write", "discard", "write three", "snapshot"])
def test_nothing_is_undone_by_what_was_interrupted(
    conf: str, ioctx: rados.Ioctx, name: str, rbd_cli: Run, kind: str, cached: bool
) -> None:
    rbd.RBD().create(ioctx, name, OBJECT * OBJECTS, 16, features=61)
    expected: dict[int, set[bytes]] = {}
    with (
        rados.Rados(conffile=conf, conf={"rados_osd_op_timeout": "30"}) as cluster,
        cluster.open_ioctx("rbd") as io,
        rbd.Image(io, name) as image,
    ):
        image.write(block(1), (OBJECTS - 1) * OBJECT)  # we have the lock
        if cached:
            image.flush()  # from now on writes return early
        n, turn, at = 1, 0, 0
        while True:
            turn += 1
            before, changed, after = (block(10 * turn + k) for k in range(3))
            if kind in ("write", "discard", "snapshot"):
                image.write(before, at)
            tracer = Interrupter(n)
            try:
                with tracer:
                    if kind in ("write", "first write"):
                        image.write(changed, at)
                    elif kind == "discard":
                        image.discard(at, OBJECT)
                    elif kind == "snapshot":
                        image.create_snap(f"s{turn}")
                    else:
                        image.write(changed * (2 * OBJECT // len(changed) + 1), at)
            except KeyboardInterrupt:
                pass
            begun = time.monotonic()
            if turn % 3 == 0:
                image.write(after, at)
                expected[at] = {after}
            elif turn % 3 == 1:
                image.discard(at, OBJECT)
                expected[at] = {bytes(len(after))}
            else:  # done or not done
                old = bytes(len(after)) if kind in ("first write", "write three") else before
                expected[at] = {old, {"discard": bytes(len(after)), "snapshot": before}.get(kind, changed)}
            assert image.read(at, len(after)) in expected[at], tracer.where
            took = time.monotonic() - begun
            assert took < 10, f"an interrupt at {tracer.where} holds up what follows"
            if kind == "snapshot" and f"s{turn}" in [s["name"] for s in image.list_snaps()]:
                with rbd.Image(io, name, snapshot=f"s{turn}") as snapshot:
                    assert snapshot.read(at, len(before)) == before, tracer.where
            if kind == "snapshot" and turn % 20 == 0:
                for snap in list(image.list_snaps()):
                    image.remove_snap(snap["name"])
            if tracer.left > 0:
                break  # it came to its end before
            n += 97 if kind == "snapshot" else 1 if n < 200 else 7
            at += 3 * OBJECT if kind == "write three" else OBJECT
            assert at < OBJECT * (OBJECTS - 4)
        print(f"{kind}: {n} places, {turn} of them tried")
        assert n > 5
        for snap in list(image.list_snaps()):
            image.remove_snap(snap["name"])
        for at, may in expected.items():
            assert image.read(at, len(after)) in may
    exported = rbd_cli("export", "--no-progress", name, "-")
    for at, may in expected.items():
        assert exported[at : at + len(after)] in may
    assert exported == stored(ioctx, name), "by the object map, librbd reads what is there"
    assert rbd_cli("lock", "ls", name) == b""
    rbd_cli("object-map", "check", "--no-progress", name)
    rbd.RBD().remove(ioctx, name)
