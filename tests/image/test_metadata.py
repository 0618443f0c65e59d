"""Metadata and configuration of images and pools: `rbd` and librbd read what we set, and the reverse; what is
refused is the same."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pyrbd import rados, rbd
from pyrbd.image import config_schema, directory, errors, metadata
from pyrbd.image.image import Image
from pyrbd.rados.io import IoContext
from pyrbd.rados.operations import ObjectOperation
from tests import oracle

Run = Callable[..., bytes]


@pytest.fixture(scope="module")
def pool(handle: rados.Rados) -> Iterator[rados.Ioctx]:
    """A pool whose configuration is nobody else's."""
    name = f"metadata-{os.getpid()}"
    handle.create_pool(name)
    try:
        with handle.open_ioctx(name) as ioctx:
            ioctx.application_enable("rbd")
            yield ioctx
    finally:
        handle.delete_pool(name)


@pytest.fixture
def io(pool: rados.Ioctx) -> Iterator[IoContext]:
    io = pool._io
    yield io
    for key in io.client.run(metadata.pool_list(io)):
        io.client.run(metadata.pool_remove(io, key))


@pytest.fixture
def image(io: IoContext) -> Iterator[Image]:
    """An open image of a name of its own."""
    name = f"i{time.monotonic_ns()}"
    run = io.client.run
    run(directory.create(io, name, 4 << 20, 20, 1))
    opened = run(Image.open(io, name))
    yield opened
    run(opened.close())
    run(directory.remove(io, name))


def spec(image: Image) -> str:
    return f"{image.client.osdmap.pool_names[image.io.pool_id]}/{image.name}"


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except (errors.OSError, rados.Error) as e:
        return [type(e).__name__, e.errno]
    except KeyError as e:
        return ["KeyError", str(e)]


def test_an_images_metadata_is_shared_with_rbd(image: Image, rbd_cli: Run) -> None:
    run = image.client.run
    assert run(metadata.list_(image)) == {}
    run(metadata.set(image, "ours", "größe"))
    rbd_cli("image-meta", "set", spec(image), "theirs", "2")
    assert rbd_cli("image-meta", "get", spec(image), "ours").strip() == "größe".encode()
    assert run(metadata.get(image, "theirs")) == "2"
    assert run(metadata.list_(image)) == {"ours": "größe", "theirs": "2"}
    assert json.loads(rbd_cli("image-meta", "ls", "--format", "json", spec(image))) == {"ours": "größe", "theirs": "2"}
    run(metadata.remove(image, "theirs"))
    rbd_cli("image-meta", "remove", spec(image), "ours")
    assert run(metadata.list_(image)) == {}
    with pytest.raises(KeyError, match=f"no metadata ours for image {image.name}"):
        run(metadata.get(image, "ours"))
    with pytest.raises(KeyError):
        run(metadata.remove(image, "ours"))


def test_many_and_large_keys(image: Image, rbd_cli: Run) -> None:
    run = image.client.run
    pairs = {f"key{i:04}": "x" * 1025 for i in range(200)} | {"large": "y" * 100_000, "empty": ""}
    for key, value in pairs.items():
        run(image.io.operate(image.header_oid, metadata._set_operation(key, value)))
    assert run(metadata.list_(image)) == pairs
    assert json.loads(rbd_cli("image-meta", "ls", "--format", "json", spec(image))) == pairs


def test_more_keys_than_one_request_brings(io: IoContext) -> None:
    run, client = io.client.run, io.client
    many = {f"key{i:04}": str(i) for i in range(2100)}
    setting = [io.submit("rbd_info", metadata._set_operation(k, v)) for k, v in many.items()]
    for s in setting:
        client.wait(s)
    options = config_schema.pool_options()
    run(metadata.pool_config_set(io, options[0], "1"))
    assert run(metadata.pool_list(io)) == {f"conf_{options[0]}": "1"} | many
    run(io.operate("rbd_info", ObjectOperation().remove()))


def test_the_owner_of_the_exclusive_lock_changes_metadata_for_others(
    io: IoContext, conf: str, rbd_cli: Run, librbd: Callable[[str], Any]
) -> None:
    """librbd for us, while it keeps the lock; and we for `rbd`, which gets what we did even where it has no
    way to the lock."""
    run, name = io.client.run, f"owned{time.monotonic_ns()}"
    run(directory.create(io, name, 4 << 20, 20, 61))
    image = run(Image.open(io, name))
    try:
        pool_name = spec(image).partition("/")[0]
        script = (
            "import rados, rbd, sys\n"
            f"cluster = rados.Rados(conffile={conf!r}); cluster.connect()\n"
            f"image = rbd.Image(cluster.open_ioctx({pool_name!r}), {name!r})\n"
            "image.lock_acquire(rbd.RBD_LOCK_MODE_EXCLUSIVE)\n"
            "print('ready', flush=True); sys.stdin.read(); image.close()\n"
        )
        with subprocess.Popen(
            oracle.argv(conf, "python3", "-c", script), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None and process.stdin is not None
            assert process.stdout.readline() == "ready\n"
            run(metadata.set(image, "ours", "1"))
            run(metadata.config_set(image, "rbd_cache_size", "1M"))
            run(metadata.remove(image, "ours"))
            assert image.lock is not None and not image.lock.owner
            process.stdin.close()
            process.wait(30)
        assert run(metadata.list_(image)) == {"conf_rbd_cache_size": "1M"}
        run(image.lock.acquire_now())
        image.lock.policy = "standard"  # as after lock_acquire: who asks is refused
        rbd_cli("image-meta", "set", spec(image), "theirs", "2")
        rbd_cli("image-meta", "remove", spec(image), "conf_rbd_cache_size")
        assert image.lock.owner
        assert run(metadata.list_(image)) == {"theirs": "2"}
    finally:
        run(image.close())
        run(directory.remove(io, name))


def test_a_read_only_image_keeps_its_metadata(image: Image) -> None:
    run = image.client.run
    run(metadata.set(image, "k", "v"))
    reader = run(Image.open(image.io, image.name, read_only=True))
    try:
        for change in (metadata.set(reader, "k", "w"), metadata.remove(reader, "k"), metadata.remove(reader, "none")):
            with pytest.raises(rbd.ReadOnlyImage):
                run(change)
        assert run(metadata.get(reader, "k")) == "v"
    finally:
        run(reader.close())


def test_pool_metadata_is_shared_with_librbd(io: IoContext, librbd: Callable[[str], Any]) -> None:
    run = io.client.run
    name = io.client.osdmap.pool_names[io.pool_id]
    assert run(metadata.pool_list(io)) == {}
    run(metadata.pool_set(io, "ours", "1"))
    seen = librbd(
        f"io = cluster.open_ioctx({name!r}); r = rbd.RBD(); r.pool_metadata_set(io, 'theirs', '2')\n"
        "result = [dict(r.pool_metadata_list(io)), r.pool_metadata_get(io, 'ours')]; r.pool_metadata_remove(io, 'ours')"
    )
    assert seen == [{"ours": "1", "theirs": "2"}, "1"]
    assert run(metadata.pool_list(io)) == {"theirs": "2"} and run(metadata.pool_get(io, "theirs")) == "2"
    run(metadata.pool_remove(io, "theirs"))
    with pytest.raises(KeyError, match="no metadata theirs"):
        run(metadata.pool_get(io, "theirs"))
    with pytest.raises(KeyError):
        run(metadata.pool_remove(io, "theirs"))


NEWER = {"rbd_qos_exclude_ops"}
"""Options that 16.2 does not have."""


def test_options_and_their_sources_are_listed_as_by_librbd(
    io: IoContext, image: Image, librbd: Callable[[str], Any]
) -> None:
    run = io.client.run
    pool_name, _, name = spec(image).partition("/")
    run(metadata.pool_config_set(io, "rbd_cache", "false"))
    run(metadata.pool_config_set(io, "rbd_qos_iops_limit", "1K"))
    run(metadata.pool_config_set(io, "rbd_default_order", "20"))
    run(metadata.config_set(image, "rbd_qos_iops_limit", "5"))
    run(metadata.config_set(image, "rbd_cache_size", "64M"))
    theirs = librbd(
        f"io = cluster.open_ioctx({pool_name!r}); i = rbd.Image(io, {name!r})\n"
        "lists = (i.config_list(), rbd.RBD().config_list(io))\n"
        "result = [[[o['name'], o['value'], o['source']] for o in x] for x in lists]; i.close()"
    )
    of_image, of_pool = (
        [list(o) for o in options if o.name not in NEWER]
        for options in (run(metadata.config_list(image)), run(metadata.pool_config_list(io)))
    )
    assert of_image == theirs[0]
    assert of_pool == theirs[1]
    by_name = {n: (v, s) for n, v, s in of_image}
    assert by_name["rbd_cache"] == ("false", metadata.RBD_CONFIG_SOURCE_POOL)
    assert by_name["rbd_qos_iops_limit"] == ("5", metadata.RBD_CONFIG_SOURCE_IMAGE)
    assert by_name["rbd_qos_bps_limit"] == ("0", metadata.RBD_CONFIG_SOURCE_CONFIG)


OVERRIDES = [
    ("rbd_cache", "true"),
    ("rbd_cache", "maybe"),
    ("rbd_cache", ""),
    ("rbd_cache_policy", "writeback"),
    ("rbd_cache_policy", "other"),
    ("rbd_cache_size", "32M"),
    ("rbd_cache_size", "-1"),
    ("rbd_request_timed_out_seconds", "100"),
    ("rbd_request_timed_out_seconds", "1.5"),
    ("rbd_discard_granularity_bytes", "8192"),
    ("rbd_discard_granularity_bytes", "8193"),
    ("rbd_default_features", "layering,exclusive-lock"),
    ("rbd_default_features", "3"),
    ("rbd_default_features", ""),
    ("rbd_default_features", "nonsense"),
    ("rbd_default_features", "1048576"),
    ("rbd_default_features", "256"),
    ("rbd_default_order", "20"),
    ("rbd_default_pool", "x"),
    ("rbd_op_threads", "1"),
    ("rbd_validate_pool", "true"),
    ("rbd_mirror_perf_stats_prio", "5"),
    ("rbd_journal_order", "20"),
    ("rbd_no_such_option", "1"),
    ("debug_rbd", "20"),
    ("", "1"),
]


def test_what_may_be_overridden_is_what_librbd_allows(
    io: IoContext, image: Image, librbd: Callable[[str], Any]
) -> None:
    run = io.client.run
    pool_name, _, name = spec(image).partition("/")
    theirs = librbd(
        f"io = cluster.open_ioctx({pool_name!r}); i = rbd.Image(io, {name!r}); r = rbd.RBD()\n"
        "def outcome(set, get, remove, key, value):\n"
        "    try:\n"
        "        set(key, value)\n"
        "        value = get(key)\n"
        "        remove(key)\n"
        "        return value\n"
        "    except rbd.OSError as e:\n"
        "        return [type(e).__name__, e.errno]\n"
        "def of_pool(f): return lambda *a: f(io, *a)\n"
        "pool = [of_pool(f) for f in (r.config_set, r.config_get, r.config_remove)]\n"
        f"result = [[outcome(i.config_set, i.config_get, i.config_remove, k, v), outcome(*pool, k, v)]\n"
        f"  for k, v in {OVERRIDES!r}]\n"
        "i.close()"
    )

    async def of_image(key: str, value: str) -> str:
        await metadata.config_set(image, key, value)
        value = await metadata.config_get(image, key)
        await metadata.config_remove(image, key)
        return value

    async def of_pool(key: str, value: str) -> str:
        await metadata.pool_config_set(io, key, value)
        value = await metadata.pool_config_get(io, key)
        await metadata.pool_config_remove(io, key)
        return value

    ours = [
        [outcome(lambda: run(of_image(k, v))), outcome(lambda: run(of_pool(k, v)))]  # noqa: B023
        for k, v in OVERRIDES
    ]
    assert list(zip(OVERRIDES, ours)) == list(zip(OVERRIDES, theirs))
    for function in (metadata.config_get, metadata.config_remove):
        with pytest.raises(KeyError, match=f"no config rbd_cache for image {image.name}"):
            run(function(image, "rbd_cache"))
    for function2 in (metadata.pool_config_get, metadata.pool_config_remove):
        with pytest.raises(KeyError, match=f"no config rbd_cache for pool {pool_name}"):
            run(function2(io, "rbd_cache"))


def test_what_is_in_effect_for_an_image(io: IoContext, image: Image, rbd_cli: Run) -> None:
    run = io.client.run
    pool_name = spec(image).partition("/")[0]
    config = run(metadata.load_config(image))
    assert config.get_int("rbd_cache_size") == 32 << 20 and config.get_bool("rbd_skip_partial_discard")
    assert config.get("mon_host") == io.client.config.get("mon_host") and config.get("no_such_option") is None
    rbd_cli("config", "pool", "set", pool_name, "rbd_cache_size", "1M")
    rbd_cli("config", "pool", "set", pool_name, "rbd_skip_partial_discard", "false")
    rbd_cli("config", "image", "set", spec(image), "rbd_cache_size", "2M")
    rbd_cli("config", "image", "set", spec(image), "rbd_cache_max_dirty_age", "0.5")
    config = run(metadata.load_config(image))
    assert config.get("rbd_cache_size") == str(2 << 20) and not config.get_bool("rbd_skip_partial_discard")
    assert config.get_float("rbd_cache_max_dirty_age") == 0.5
    of_pool = run(metadata.load_pool_config(io))
    assert of_pool.get_int("rbd_cache_size") == 1 << 20 and of_pool.get_float("rbd_cache_max_dirty_age") == 1
    # it is the pool that counts, in any namespace
    assert run(metadata.load_pool_config(io.with_namespace("n"))).get_int("rbd_cache_size") == 1 << 20
    # what another program wrote without asking librbd
    for key, value in (("conf_rbd_cache_size", "nonsense"), ("conf_debug_ms", "1"), ("conf_rbd_other", "1")):
        run(image.io.operate(image.header_oid, metadata._set_operation(key, value)))
    config = run(metadata.load_config(image))
    assert config.get_int("rbd_cache_size") == 32 << 20 and config.get("debug_ms") == "0/0"


def test_a_change_of_a_pools_configuration_is_announced(io: IoContext, ceph_cli: Run) -> None:
    run = io.client.run
    before = int(time.time())
    run(metadata.pool_config_set(io, "rbd_cache", "false"))
    got = ceph_cli("config", "get", "client", "rbd_config_pool_override_update_timestamp")
    assert int(got) >= before
