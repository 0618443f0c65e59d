"""The same mistake gives the same exception as librbd's binding does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pyrbd import rados, rbd

MIB = 1 << 20

# what is done with an image `image` of 4 MiB called `name`
CALLS = [
    "image.read(4 << 20, 1)",
    "image.read(5 << 20, 10)",
    "image.read((4 << 20) - 1, 100)",
    "image.read(5 << 20, 0)",
    "image.write(b'x', 4 << 20)",
    "image.write(b'xyz', (4 << 20) - 1)",
    "image.write('text', 0)",
    "image.discard(5 << 20, 10)",
    "image.discard((4 << 20) - 10, 100)",
    "image.resize(1 << 20, False)",
    "rbd.Image(ioctx, 'no-such-image')",
    "rbd.Image(ioctx, name, 'no-such-snap')",
    "rbd.RBD().create(ioctx, name, 1)",
    "rbd.RBD().create(ioctx, name + 'q', 1, 11, False, 1)",
    "rbd.RBD().create(ioctx, name + 'q', 1, 26, False, 1)",
    "rbd.RBD().create(ioctx, name + 'q', 1, 22, False, 3, 7, 2)",
    "rbd.RBD().create(ioctx, '', 1, 22, False, 1)",
    "rbd.RBD().remove(ioctx, 'no-such-image')",
    "rbd.RBD().remove(ioctx, name)",
    "rbd.RBD().rename(ioctx, 'no-such-image', 'x')",
    "rbd.RBD().rename(ioctx, name, name)",
    "image.parent_info()",
    "image.overlap()",
    "rbd.Image(ioctx, name, read_only=True).write(b'x', 0)",
    "(image.close(), image.read(0, 1))",
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

OUTCOME = """
def outcome(fn):
    try:
        value = fn()
    except BaseException as e:
        return [type(e).__name__, getattr(e, "errno", None)]
    if isinstance(value, bytes):
        value = value.hex()
    return ["ok", value if isinstance(value, (int, str, type(None))) else None]
"""


@pytest.mark.parametrize("call", CALLS)
def test_same_outcome(ioctx: rados.Ioctx, name: str, librbd: Callable[[str], Any], call: str) -> None:
    rbd.RBD().create(ioctx, name, 4 * MIB)
    theirs = librbd(
        f"""{OUTCOME}
name = {name!r}
image = rbd.Image(ioctx, name)
result = outcome(lambda: {call})
"""
    )
    scope: dict[str, Any] = {"rados": rados, "rbd": rbd, "ioctx": ioctx, "name": name, "cluster": ioctx.rados}
    exec(OUTCOME, scope)  # noqa: S102 - the code above, so that both sides run the same
    with rbd.Image(ioctx, name) as image:
        scope["image"] = image
        ours = eval(f"outcome(lambda: {call})", scope)  # noqa: S307
    if theirs[0] == "OSError" and ours[0] == "FunctionNotSupported":
        pytest.fail(f"{call}: not supported here, {theirs} there")
    assert ours == theirs


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


def test_exceptions_form_the_tree_of_ceph() -> None:
    for n in ("ImageNotFound", "ImageExists", "ImageBusy", "InvalidArgument", "ReadOnlyImage", "FunctionNotSupported"):
        cls = getattr(rbd, n)
        assert issubclass(cls, rbd.OSError) and issubclass(cls, rbd.Error)
        assert not issubclass(cls, OSError)
    assert rbd.ArgumentOutOfRangeException is rbd.ArgumentOutOfRange
    assert issubclass(rados.ObjectNotFound, rados.OSError) and not issubclass(rados.OSError, OSError)
    assert str(rbd.ImageNotFound("m", 2)) == "[errno 2] RBD image not found (m)"
