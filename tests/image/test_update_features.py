"""Features switched on and off: what librbd then makes of the image, and what is refused as librbd refuses it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest

from pyrbd import rados
from pyrbd.image import errors, rebuild, snapshots
from pyrbd.image import features as bits
from pyrbd.image.update_features import update_features
from tests.image.modelled import EVERYTHING, MIB, Modelled, check_object_maps, opened, purge

Run = Callable[..., bytes]
LOCK, MAP, FAST, DEEP = bits.EXCLUSIVE_LOCK, bits.OBJECT_MAP, bits.FAST_DIFF, bits.DEEP_FLATTEN


def _features(rbd_cli: Run, name: str) -> set[str]:
    return set(json.loads(rbd_cli("info", "--format", "json", name))["features"])


def _flags(rbd_cli: Run, spec: str) -> list[str]:
    flags: list[str] = json.loads(rbd_cli("info", "--format", "json", spec))["flags"]
    return flags


def test_on_and_off_while_it_is_used(ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> None:
    """We write before and after each step; librbd reads the same, and checks the object maps once they are rebuilt."""
    run = ioctx._client.run
    rbd_cli("create", "--size", "2M", "--image-feature", "layering", "--object-size", "256K", name)
    invalid = ["object map invalid", "fast diff invalid"]
    try:
        with opened(ioctx, name) as image:
            modelled = Modelled(ioctx, image, rbd_cli, bytes(2 * MIB))
            modelled.write(0, b"1" * MIB)
            modelled.snap("a")
            run(update_features(image, LOCK, True))
            assert image.lock is not None
            modelled.write(100, b"2" * 1000)
            assert image.lock.owner
            run(update_features(image, MAP, True))
            assert _features(rbd_cli, name) == {"layering", "exclusive-lock", "object-map", "fast-diff"}
            assert image.object_map is not None
            assert _flags(rbd_cli, name) == _flags(rbd_cli, f"{name}@a") == invalid
            modelled.write(MIB + 5, b"3" * 1000)
            run(rebuild.rebuild_object_map(image))
            modelled.write(MIB + 600000, b"4" * 1000)
            modelled.snap("b")
            modelled.check("with object maps")
            run(update_features(image, FAST, False))
            assert _features(rbd_cli, name) == {"layering", "exclusive-lock"}
            assert image.object_map is None
            assert _flags(rbd_cli, name) == _flags(rbd_cli, f"{name}@a") == []
            assert not [o.key for o in ioctx.list_objects() if o.key.startswith(f"rbd_object_map.{image.id}")]
            modelled.write(5, b"5" * 1000)
            run(update_features(image, LOCK, False))
            assert image.lock is None
            assert json.loads(rbd_cli("lock", "ls", "--format", "json", name)) == []
            modelled.write(50, b"6" * 1000)
            modelled.check("without")
            run(update_features(image, LOCK | MAP | FAST, True))
            assert _flags(rbd_cli, name) == invalid
            modelled.write(7, b"7" * 1000)
            rbd_cli("object-map", "rebuild", "--no-progress", name)
            for snap in "ab":
                rbd_cli("object-map", "rebuild", "--no-progress", f"{name}@{snap}")
            modelled.write(8, b"8" * 1000)
            modelled.check("rebuilt by rbd")
    finally:
        purge(rbd_cli, name)


def test_what_rbd_switches_is_seen_here(ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> None:
    rbd_cli("create", "--size", "2M", "--image-feature", EVERYTHING, "--object-size", "256K", name)
    try:
        with opened(ioctx, name) as image:
            modelled = Modelled(ioctx, image, rbd_cli, bytes(2 * MIB))
            modelled.run(image.write(0, memoryview(bytes(10))))
            modelled.write(0, b"1" * MIB)
            for change in (
                ("disable", "fast-diff"),
                ("disable", "exclusive-lock"),
                ("disable", "deep-flatten"),
                ("enable", "exclusive-lock"),
            ):
                rbd_cli("feature", change[0], name, change[1])
                modelled.write(100, change[1].encode())
                assert bits.names(image.header.features).split(", ") == sorted(
                    _features(rbd_cli, name), key=list(bits.NAMES.values()).index
                )
            modelled.check()
    finally:
        purge(rbd_cli, name)


def test_deep_flatten_goes_and_does_not_come_back(ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> None:
    run = ioctx._client.run
    rbd_cli("create", "--size", "1M", "--image-feature", EVERYTHING, name)
    try:
        with opened(ioctx, name) as image:
            run(update_features(image, DEEP, False))
            assert "deep-flatten" not in _features(rbd_cli, name)
            for wanted in (True, False):
                with pytest.raises(errors.InvalidArgument):
                    run(update_features(image, DEEP, wanted))
            check_object_maps(rbd_cli, name, [])
    finally:
        purge(rbd_cli, name)


SETS = [0, LOCK, LOCK | MAP | FAST, LOCK | MAP | FAST | DEEP]
CHANGES = [
    (sum(some), enabled)
    for enabled in (True, False)
    for some in [
        (),
        *itertools.chain.from_iterable(itertools.combinations((LOCK, MAP, FAST), n) for n in (1, 2, 3)),
        (DEEP,),
        (bits.LAYERING,),
        (bits.DATA_POOL,),
        (1 << 30,),
        (LOCK, bits.LAYERING),
    ]
]


def test_the_same_is_refused_as_by_librbd(
    ioctx: rados.Ioctx, name: str, librbd: Callable[[str], Any], rbd_cli: Run
) -> None:
    """Every change of every set of features: the same features after it, or the same errno."""
    cases = [(start, change, enabled) for start in SETS for change, enabled in CHANGES]
    theirs = librbd(
        f"""
result = []
for start, change, enabled in {cases!r}:
    rbd.RBD().create(ioctx, {name!r}, 1 << 20, old_format=False, features=1 | start)
    with rbd.Image(ioctx, {name!r}) as image:
        try:
            image.update_features(change, enabled)
            result.append(image.features())
        except rbd.OSError as e:
            result.append(-e.errno)
    rbd.RBD().remove(ioctx, {name!r})
"""
    )
    run = ioctx._client.run
    ours = []
    for start, change, enabled in cases:
        rbd_cli("create", "--size", "1M", "--image-feature", bits.names(1 | start).replace(" ", ""), name)
        with opened(ioctx, name) as image:
            try:
                run(update_features(image, change, enabled))
                ours.append(image.header.features)
            except errors.OSError as e:
                ours.append(-(e.errno or 0))
        rbd_cli("rm", "--no-progress", name)
    assert dict(zip(cases, ours)) == dict(zip(cases, theirs))


def test_journaling_and_others_are_refused(
    ioctx: rados.Ioctx, name: str, rbd_cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ioctx._client.run
    rbd_cli("create", "--size", "1M", "--image-feature", EVERYTHING, name)
    try:
        with opened(ioctx, name) as image:
            with pytest.raises(errors.FunctionNotSupported, match="journaling"):
                run(update_features(image, bits.JOURNALING, True))
            run(snapshots.create(image, "s"))
        with opened(ioctx, name, read_only=True) as image, pytest.raises(errors.ReadOnlyImage):
            run(update_features(image, DEEP, False))
        with opened(ioctx, name) as image:
            run(image.set_snapshot("s"))
            with pytest.raises(errors.ReadOnlyImage):
                run(update_features(image, DEEP, False))
    finally:
        purge(rbd_cli, name)
    monkeypatch.setenv("RBD_FORCE_ALLOW_V1", "1")
    rbd_cli("create", "--image-format", "1", "--size", "1M", name)
    with opened(ioctx, name) as image, pytest.raises(errors.InvalidArgument):
        run(update_features(image, LOCK, True))
