"""Every change of every set of features: the same features after it as with librbd, or the same errno."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from pyrbd import rados
from pyrbd.image import errors
from pyrbd.image import features as bits
from pyrbd.image.update_features import update_features
from tests.image.modelled import opened

Run = Callable[..., bytes]
LOCK, MAP, FAST, DEEP = bits.EXCLUSIVE_LOCK, bits.OBJECT_MAP, bits.FAST_DIFF, bits.DEEP_FLATTEN

SETS = [0, LOCK, LOCK | MAP | FAST, LOCK | MAP | FAST | DEEP]
CHANGES = [
    (sum(some), enabled)
    for enabled in (True, False)
    for some in [
        *itertools.chain.from_iterable(itertools.combinations((LOCK, MAP, FAST), n) for n in range(4)),
        (DEEP,),
        (bits.LAYERING,),
        (bits.DATA_POOL,),
        (1 << 30,),
        (LOCK, bits.LAYERING),
    ]
]


def test_the_same_as_librbd(ioctx: rados.Ioctx, name: str, librbd: Callable[[str], Any], rbd_cli: Run) -> None:
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
