"""The same mistake gives the same exception as librbd's binding does."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyrbd import rados, rbd
from tests.image import misuse

MIB = 1 << 20

DIFFERENT: dict[str, tuple[list[Any], str]] = {}
"""Rows with another outcome than librbd's: ours, and why."""


@pytest.fixture(scope="module")
def theirs(librbd: Callable[[str], Any]) -> dict[str, list[Any]]:
    """{group: outcomes of its rows} with Ceph's binding."""
    outcomes: dict[str, list[Any]] = librbd(
        f"""
import os
os.environ["RBD_FORCE_ALLOW_V1"] = "1"
sys.path.insert(0, {str(Path(__file__).parent)!r})
import misuse
result = {{}}
for i, group in enumerate(misuse.GROUPS):
    result[group] = misuse.play(group, rbd, cluster, ioctx, "theirs-%d-%d" % (os.getpid(), i))
"""
    )
    return outcomes


@pytest.fixture(scope="module")
def ours(conf: str) -> Callable[[str], list[Any]]:
    """The outcomes of a group's rows with our module."""
    played: dict[str, list[Any]] = {}

    def play(group: str) -> list[Any]:
        if group not in played:
            with rados.Rados(conffile=conf) as cluster, cluster.open_ioctx("rbd") as ioctx:
                name = f"ours-{os.getpid()}-{len(played)}"
                # through JSON, as theirs
                played[group] = json.loads(json.dumps(misuse.play(group, rbd, cluster, ioctx, name)))
        return played[group]

    return play


@pytest.mark.parametrize(
    ("group", "index"),
    [
        pytest.param(group, index, id=f"{group}: {row}")
        for group, (_, rows) in misuse.GROUPS.items()
        for index, row in enumerate(rows)
    ],
)
def test_same_outcome(theirs: dict[str, list[Any]], ours: Callable[[str], list[Any]], group: str, index: int) -> None:
    row = misuse.GROUPS[group][1][index]
    got, wanted = ours(group)[index], theirs[group][index]
    if row in DIFFERENT:
        wanted, _ = DIFFERENT[row]
    assert got == wanted


CALLS = [
    "cluster.open_ioctx('no-such-pool')",
    "ioctx.read('no-such-object')",
    "ioctx.remove_object('no-such-object')",
    "ioctx.get_xattr('rbd_directory', 'no-such-attr')",
    "cluster.conf_set('no_such_option', '1')",
    "cluster.conf_get('no_such_option')",
    "cluster.conf_get('rbd_default_features')",
    "rados.Rados(conffile='/nonexistent/ceph.conf')",
    "rados.Rados(rados_id='a', name='client.b')",
    "rados.Rados().list_pools()",
]


@pytest.mark.parametrize("call", CALLS)
def test_same_outcome_with_rados(ioctx: rados.Ioctx, librbd: Callable[[str], Any], call: str) -> None:
    theirs = librbd(
        f"""
sys.path.insert(0, {str(Path(__file__).parent)!r})
import misuse
result = misuse.outcome({call!r}, {{"rados": rados, "cluster": cluster, "ioctx": ioctx}})
"""
    )
    assert misuse.outcome(call, {"rados": rados, "cluster": ioctx.rados, "ioctx": ioctx}) == theirs


@pytest.mark.parametrize("call", ["image.read(-1, 10)", "image.write(b'x', -1)", "image.discard(-1, 5)"])
def test_negative_offsets(image: rbd.Image, call: str) -> None:
    """Ceph's binding raises OverflowError, its documentation says InvalidArgument: ours is both."""
    with pytest.raises(rbd.InvalidArgument):
        eval(call, {"image": image})  # noqa: S307
    with pytest.raises(OverflowError):
        eval(call, {"image": image})  # noqa: S307


@pytest.mark.parametrize("bad", ["", "a@b", "a/b", "a\0b"])
def test_bad_image_names(ioctx: rados.Ioctx, bad: str) -> None:
    with pytest.raises(rbd.InvalidArgument):
        rbd.RBD().create(ioctx, bad, MIB)


def test_closed_things_are_not_used_again(handle: rados.Rados, name: str) -> None:
    io = handle.open_ioctx("rbd")
    rbd.RBD().create(io, name, MIB)
    image = rbd.Image(io, name)
    image.close()
    image.close()
    for use in (image.size, image.stat, image.flush, lambda: image.read(0, 1), lambda: image.resize(5)):
        with pytest.raises(rbd.InvalidArgument, match="closed"):
            use()
    io.close()
    for use in (lambda: io.read("x"), lambda: rbd.RBD().list(io), lambda: rbd.Image(io, name), io.get_pool_id):
        with pytest.raises(rados.IoctxStateError):
            use()


def test_a_call_after_shutdown(conf: str, name: str) -> None:
    cluster = rados.Rados(conffile=conf)
    cluster.connect()
    io = cluster.open_ioctx("rbd")
    rbd.RBD().create(io, name, MIB)
    image = rbd.Image(io, name)
    cluster.shutdown()
    cluster.shutdown()
    with pytest.raises(rbd.ConnectionShutdown):
        image.read(0, 10)
    image.close()
    with pytest.raises(rados.RadosStateError):
        cluster.list_pools()
    with pytest.raises(rados.RadosStateError):
        cluster.connect()


def test_features_that_cannot_be_created_are_named(ioctx: rados.Ioctx, name: str) -> None:
    with pytest.raises(rbd.FunctionNotSupported, match="journaling"):
        rbd.RBD().create(ioctx, name, MIB, features=rbd.RBD_FEATURE_EXCLUSIVE_LOCK | rbd.RBD_FEATURE_JOURNALING)
    assert name not in rbd.RBD().list(ioctx)
