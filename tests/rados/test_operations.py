"""Operations on objects, against what librados says and does."""

from __future__ import annotations

import array
import errno
from collections.abc import Callable
from typing import Any

import pytest

from pyrbd import rados
from pyrbd.crc32c import crc32c
from pyrbd.testing import Cluster

Librados = Callable[[str], Any]


def test_data(ioctx: rados.Ioctx, name: str) -> None:
    assert ioctx.write_full(name, b"abcdefghij") == 0
    assert ioctx.write(name, b"XY", 2) == 0
    assert ioctx.append(name, b"kl") == 0
    assert ioctx.read(name) == b"abXYefghijkl"
    assert ioctx.read(name, 3, 4) == b"efg"
    assert ioctx.read(name, 100, 10) == b"kl"
    assert ioctx.read(name, 10, 100) == b""
    assert ioctx.zero(name, 4, 1) == 0
    assert ioctx.read(name) == b"a\0\0\0\0fghijkl"
    assert ioctx.trunc(name, 6) == 0
    assert ioctx.stat(name)[0] == 6
    ioctx.writesame(name, b"ab", 6, 4)
    assert ioctx.read(name) == b"a\0\0\0ababab"
    assert ioctx.remove_object(name) is True
    with pytest.raises(rados.ObjectNotFound):
        ioctx.read(name)
    with pytest.raises(rados.ObjectNotFound):
        ioctx.remove_object(name)


def test_any_bytes_like_object_is_written_and_any_writable_one_read_into(ioctx: rados.Ioctx, name: str) -> None:
    for data in (b"12345678", bytearray(b"12345678"), memoryview(b"x12345678")[1:], array.array("I", [1, 2])):
        ioctx.write_full(name, data)
        raw = bytes(memoryview(data).cast("B"))
        assert ioctx.read(name) == raw
        into = bytearray(12)
        assert ioctx.read_into(name, into) == 8
        assert into == raw + bytes(4)
        part = array.array("H", [0, 0])
        assert ioctx.read_into(name, part, 2) == 4
        assert part.tobytes() == raw[2:6]
    with pytest.raises(TypeError):
        ioctx.write(name, "text")
    with pytest.raises(TypeError):
        ioctx.read_into(name, b"constant")


def test_comparisons_and_checksums(ioctx: rados.Ioctx, name: str) -> None:
    data = bytes(range(200))
    ioctx.write_full(name, data)
    assert ioctx.cmpext(name, data) == 0
    assert ioctx.cmpext(name, data[10:20], 10) == 0
    assert ioctx.cmpext(name, b"\0\1\2x", 0) == -rados.MAX_ERRNO - 3
    assert ioctx.cmpext(name, data[100:] + bytes(5), 100) == 0  # beyond the end there are zeros
    assert ioctx.checksum(name, "crc32c", 0xFFFFFFFF) == [crc32c(data, 0xFFFFFFFF)]
    halves = ioctx.checksum(name, "crc32c", 0xFFFFFFFF, 200, 0, 100)
    assert halves == [crc32c(data[:100], 0xFFFFFFFF), crc32c(data[100:], 0xFFFFFFFF)]
    assert len(ioctx.checksum(name, "xxhash64", 0)) == 1
    with pytest.raises(rados.InvalidArgumentError):
        ioctx.checksum(name, "md5", 0)


def test_sparse_read_and_holes(ioctx: rados.Ioctx, name: str) -> None:
    ioctx.write(name, b"a" * 4096, 0)
    ioctx.write(name, b"b" * 4096, 1 << 20)
    parts = ioctx.sparse_read(name, 2 << 20, 0)
    out = bytearray((1 << 20) + 4096)
    for offset, data in parts:
        out[offset : offset + len(data)] = data
    assert out == ioctx.read(name, 2 << 20)


def test_extended_attributes(ioctx: rados.Ioctx, name: str) -> None:
    ioctx.write(name, b"")
    values = {"a": b"1", "empty": b"", "ü": bytes(range(256)), "long": b"x" * 60_000}
    for key, value in values.items():
        assert ioctx.set_xattr(name, key, value) is True
        assert ioctx.get_xattr(name, key) == value
    assert dict(ioctx.get_xattrs(name)) == values
    assert ioctx.rm_xattr(name, "a") is True
    with pytest.raises(rados.NoData):
        ioctx.get_xattr(name, "a")


def test_an_omap_in_pages(ioctx: rados.Ioctx, name: str) -> None:
    values = {f"key.{i:05d}".encode(): str(i).encode() for i in range(2500)}
    with rados.WriteOpCtx() as op:
        ioctx.set_omap(op, list(values), list(values.values()))
        ioctx.set_omap_header(op, b"the header")
        ioctx.operate_write_op(op, name)
    found: dict[bytes, bytes | None] = {}
    last, pages = b"", 0
    while True:
        with rados.ReadOpCtx() as read:
            it, ret = ioctx.get_omap_vals(read, last, "", 700, omap_key_type=bytes)
            assert ret == 0 and list(it) == []  # nothing before the op has been operated
            headers: list[bytes] = []
            ioctx.get_omap_header(read, headers.append)
            ioctx.operate_read_op(read, name)
        page = dict(it)
        assert headers == [b"the header"]
        found.update(page)
        pages += 1
        if not it.more:
            break
        last = max(page)
    assert found == values and pages == 4
    with rados.ReadOpCtx() as read:
        by_prefix, _ = ioctx.get_omap_vals(read, "", "key.0001", 1000)
        by_keys, _ = ioctx.get_omap_vals_by_keys(read, ("key.00007", "none"))
        keys, _ = ioctx.get_omap_keys(read, "key.02490", 100)
        ioctx.operate_read_op(read, name)
    assert [k for k, _ in by_prefix] == [f"key.{i:05d}" for i in range(10, 20)]
    assert list(by_keys) == [("key.00007", b"7")]
    assert [k for k, _ in keys] == [f"key.{i:05d}" for i in range(2491, 2500)]
    with rados.WriteOpCtx() as op:
        ioctx.remove_omap_range2(op, "key.00100", "key.02400")
        ioctx.remove_omap_keys(op, ("key.00000", "not there"))
        try:
            ioctx.operate_write_op(op, name)
        except rados.OSError as e:
            if e.errno != errno.EOPNOTSUPP:
                raise
            pytest.skip("this cluster's OSDs are from before ranges of keys could be removed")
    with rados.ReadOpCtx() as read:
        left, _ = ioctx.get_omap_keys(read, "", 5000)
        ioctx.operate_read_op(read, name)
    assert len(list(left)) == 199
    with rados.WriteOpCtx() as op:
        ioctx.clear_omap(op)
        ioctx.operate_write_op(op, name)
    with rados.ReadOpCtx() as read:
        left, _ = ioctx.get_omap_keys(read, "", 5000)
        ioctx.operate_read_op(read, name)
    assert list(left) == []


def test_the_operations_of_a_request_are_done_together_or_not_at_all(ioctx: rados.Ioctx, name: str) -> None:
    with rados.WriteOpCtx() as op:
        op.new(rados.LIBRADOS_CREATE_EXCLUSIVE)
        op.write_full(b"none")
        ioctx.operate_write_op(op, name)
    ioctx.write_full(name, b"one")
    version = ioctx.get_last_version()
    for condition, expected in (
        (lambda op: op.new(rados.LIBRADOS_CREATE_EXCLUSIVE), errno.EEXIST),
        (lambda op: op.assert_version(version + 1), errno.EOVERFLOW),
        (lambda op: op.assert_version(version - 1), errno.ERANGE),
        (lambda op: op.cmpext(b"two"), rados.MAX_ERRNO),
        (lambda op: op.omap_cmp("k", "v"), errno.ECANCELED),
        (lambda op: op.cmp_xattr("x", b"v"), errno.ECANCELED),
    ):
        with rados.WriteOpCtx() as op:
            op.write_full(b"changed")
            condition(op)
            with pytest.raises(rados.Error) as e:
                ioctx.operate_write_op(op, name)
            assert e.value.errno == expected
        assert ioctx.read(name) == b"one"
    with rados.WriteOpCtx() as op:
        op.assert_version(version)
        op.assert_exists()
        op.cmpext(b"one")
        op.write_full(b"changed")
        op.set_xattr("n", b"7")
        ioctx.operate_write_op(op, name)
    with rados.WriteOpCtx() as op:
        op.cmp_xattr("n", 5, rados.LIBRADOS_CMPXATTR_OP_LT)
        op.write_full(b"by number")
        ioctx.operate_write_op(op, name)
    assert ioctx.read(name) == b"by number"
    with rados.ReadOpCtx() as read:
        read.assert_exists()
        with pytest.raises(rados.ObjectNotFound):
            ioctx.operate_read_op(read, name + "-not-there")
    with rados.WriteOpCtx() as op:
        ioctx.operate_write_op(op, name + "-not-there")  # nothing to do, so nothing is done
    with pytest.raises(rados.ObjectNotFound):
        ioctx.stat(name + "-not-there")


def test_class_calls(ioctx: rados.Ioctx, name: str) -> None:
    with rados.WriteOpCtx() as op:
        op.execute("hello", "record_hello", b"you")
        ioctx.operate_write_op(op, name)
    assert ioctx.read(name) == b"Hello, you!"
    assert ioctx.execute(name, "hello", "say_hello", b"") == (13, b"Hello, world!")
    with pytest.raises(rados.OSError) as e:
        ioctx.execute(name, "hello", "say_hello", b"", 5)
    assert e.value.errno == errno.ERANGE
    for cls, method in (("nothing", "say"), ("hello", "nothing")):
        with pytest.raises(rados.OSError) as e:
            ioctx.execute(name, cls, method, b"")
        assert e.value.errno == errno.EOPNOTSUPP


def test_namespaces_and_locators(ioctx: rados.Ioctx, name: str, rados_cli: Callable[..., bytes]) -> None:
    ioctx.write_full(name, b"default")
    ioctx.set_namespace("ns one")
    ioctx.write_full(name, b"in a namespace")
    ioctx.set_locator_key("placed by this")
    ioctx.write_full(name + "-loc", b"by a locator")
    assert ioctx.get_namespace() == "ns one" and ioctx.get_locator_key() == "placed by this"
    other = ioctx.dup()
    assert other.read(name + "-loc") == b"by a locator"
    ioctx.set_locator_key("")
    with pytest.raises(rados.ObjectNotFound):
        ioctx.read(name + "-loc")
    ioctx.set_namespace("")
    assert ioctx.read(name) == b"default"
    assert rados_cli("-p", "rbd", "-N", "ns one", "get", name, "-") == b"in a namespace"
    args = ("-p", "rbd", "-N", "ns one", "--object-locator", "placed by this", "get", name + "-loc", "-")
    assert rados_cli(*args) == b"by a locator"
    ioctx.set_namespace(rados.LIBRADOS_ALL_NSPACES)
    ours = {(o.nspace, o.key, o.locator_key or "") for o in ioctx.list_objects() if o.key.startswith(name)}
    assert ours == {("", name, ""), ("ns one", name, ""), ("ns one", name + "-loc", "placed by this")}
    for o in list(ioctx.list_objects()):
        if o.key == name + "-loc":
            assert o.read(5) == b"by a "
            assert o.read(100) == b"locator"
            assert o.write(b"!") == 0
            assert o.stat()[0] == 13
            o.seek(0)
            assert o.read() == b"by a locator!"
            o.set_xattr("a", b"b")
            assert dict(o.get_xattrs()) == {"a": b"b"} and o.get_xattr("a") == b"b"
            o.rm_xattr("a")
            o.remove()
            with pytest.raises(rados.ObjectStateError):
                o.read()
    assert ioctx.get_namespace() == rados.LIBRADOS_ALL_NSPACES


def test_what_would_abort_an_osd_is_refused(ioctx: rados.Ioctx, name: str) -> None:
    ioctx.write_full(name, b"abc")
    for refused in (
        lambda: ioctx.zero(name, 0, 0),
        lambda: ioctx.writesame(name, b"", 10),
        lambda: ioctx.writesame(name, b"abc", 10),
        lambda: rados.WriteOp().writesame(b"abc", 3 << 40),
        lambda: ioctx.write(name, b"x", -1),
        lambda: ioctx.write(name, b"x", (1 << 64) - 1),
        lambda: ioctx.trunc(name, 1 << 64),
        lambda: ioctx.execute(name, "", "method", b""),
        lambda: ioctx.read(name, -1),
    ):
        with pytest.raises(rados.InvalidArgumentError):
            refused()
    with pytest.raises(rados.OSError) as e:
        ioctx.read(name, 1 << 40)
    assert e.value.errno == errno.EDOM
    op = rados.WriteOp()
    with pytest.raises(rados.InvalidArgumentError):
        op.zero(5, 0)
    assert len(op) == 0
    assert ioctx.read(name) == b"abc"


def test_what_osds_refuse_is_an_error_and_not_the_end_of_one(ioctx: rados.Ioctx, name: str, daemons: Cluster) -> None:
    before = {osd: daemons.pid(osd) for osd in daemons.daemons}
    ioctx.write_full(name, b"small")
    for big in (lambda: ioctx.write(name, b"x", 1 << 40), lambda: ioctx.trunc(name, 1 << 40)):
        with pytest.raises(rados.OSError) as e:
            big()
        assert e.value.errno == errno.EFBIG
    with pytest.raises(rados.OSError) as e:
        ioctx.write(name, bytes(100 << 20))
    assert e.value.errno == errno.EMSGSIZE
    assert {osd: daemons.pid(osd) for osd in daemons.daemons} == before
    assert ioctx.write(name, b"x") == 0


def test_pool_properties(ioctx: rados.Ioctx, handle: rados.Rados, librados: Librados) -> None:
    assert ioctx.alignment() is None
    assert ioctx.application_list() == ["rbd"]
    ioctx.application_metadata_set("rbd", "k", "v")
    assert ioctx.application_metadata_get("rbd", "k") == "v"
    assert ioctx.application_metadata_list("rbd") == [("k", "v")]
    ioctx.application_metadata_remove("rbd", "k")
    with pytest.raises(KeyError):
        ioctx.application_metadata_get("rbd", "k")
    with pytest.raises(rados.ObjectNotFound):
        ioctx.application_metadata_list("none")
    assert ioctx.get_stats().keys() == set(librados("result = list(ioctx.get_stats())"))
    assert handle.get_pool_base_tier(ioctx.get_pool_id()) == ioctx.get_pool_id()
    assert handle.get_cluster_stats().keys() == set(librados("result = list(cluster.get_cluster_stats())"))
    assert handle.get_inconsistent_pgs(ioctx.get_pool_id()) == []


def test_a_closed_ioctx(handle: rados.Rados, name: str) -> None:
    ioctx = handle.open_ioctx("rbd")
    ioctx.close()
    ioctx.close()
    for use in (lambda: ioctx.read(name), lambda: ioctx.write(name, b""), ioctx.list_objects, ioctx.dup):
        with pytest.raises(rados.IoctxStateError):
            use()
