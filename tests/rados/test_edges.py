"""Arguments at the edges: wrong types, numbers out of range, names and values of every kind. Each
line is an expression that we and Ceph's binding evaluate on an object of ten bytes (see
`Player.evaluate`): the same value, or the same class of exception with the same errno.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.rados.conftest import Librados
from tests.rados.play import Player
from tests.rados.test_differential import excused

EDGES = r"""
io.write(oid, "text")
io.write(oid, None)
io.write(oid, 5)
io.write(oid, [1])
io.write(oid, b"abc", -1)
io.write(oid, b"abc", 1 << 64)
io.write(oid, b"abc", 1 << 63)
io.write(oid, b"abc", "1")
io.write(oid, b"abc", None)
io.write(oid, b"abc", True)
io.write(oid, memoryview(b"abcdef")[::2])
io.write(None, b"abc")
io.write(5, b"abc")
io.write("", b"abc")
io.write(bytearray(b"x"), b"abc")
io.write("x" * 5000, b"abc")
io.write("x" * 2048, b"abc")
io.write("x" * 2049, b"abc")
(io.write("nul\0name", b"abc"), io.read("nul\0name"), io.remove_object("nul\0name"))
io.write_full(oid, "text")
io.write_full(oid, None)
io.append(oid, "text")
io.append(oid, None)
io.read(oid, -1)
io.read(oid, 5, -1)
io.read(oid, 5, 1 << 64)
io.read(oid, 5, 1 << 63)
io.read(oid, 5, (1 << 64) - 1)
io.read(oid, "5")
io.read(oid, None)
io.read(oid, 2.0)
io.read(None)
io.read(5)
io.read("")
io.read(key=oid, length=3, offset=1)
io.trunc(oid, -1)
io.trunc(oid, 1 << 64)
io.trunc(oid, 1 << 63)
io.trunc(oid, None)
io.trunc(oid, "1")
io.trunc("", 1)
io.writesame(oid, b"", 10)
io.writesame(oid, b"abc", 10)
io.writesame(oid, b"abc", -3)
io.writesame(oid, b"abc", 0)
io.writesame(oid, "abc", 3)
io.writesame(oid, b"abc", 3, -1)
io.writesame(oid, b"abc", 3 << 40)
io.cmpext(oid, b"")
io.cmpext(oid, b"0123")
io.cmpext(oid, b"0124")
io.cmpext(oid, None)
io.cmpext(oid, b"01", -1)
io.stat(None)
io.stat("")
io.stat("missing")
io.remove_object("missing")
io.remove_object("")
io.remove_object(None)
io.get_xattr(oid, "missing")
io.get_xattr(oid, None)
io.get_xattr("missing", "x")
io.get_xattr(oid, "x" * 300)
io.set_xattr(oid, "x" * 300, b"")
io.set_xattr(oid, "x" * 100000, b"")
io.set_xattr(oid, "big", b"x" * 65536)
io.set_xattr(oid, "big", b"x" * 65537)
io.set_xattr(oid, "big", b"x" * 200000)
io.set_xattr(oid, "n", "text")
io.set_xattr(oid, "n", None)
io.set_xattr(oid, None, b"")
(io.set_xattr(oid, "new\nline", b"a\nb"), io.get_xattr(oid, "new\nline"))
io.rm_xattr(oid, "missing")
io.rm_xattr(oid, None)
io.get_xattrs("missing")
io.get_xattrs(None)
io.execute(oid, "none", "none", b"")
io.execute(oid, "ü", "say_hello", b"")
io.execute(oid, "hello", "say_hello", None)
io.execute(oid, "hello", "say_hello", "text")
io.execute(oid, "hello", "say_hello", b"", 0)
io.execute(oid, "hello", "say_hello", b"", 13)
io.execute(oid, "hello", "say_hello", b"", 12)
io.execute(oid, "hello", "say_hello", b"", -1)
io.execute(None, "hello", "say_hello", b"")
io.lock_exclusive(oid, "", "c")
io.lock_exclusive(oid, None, "c")
io.lock_exclusive(oid, "l", None)
io.lock_exclusive(oid, "l", "c", None)
io.lock_exclusive(oid, "l", "c", "", -1)
io.lock_exclusive(oid, "l", "c", "", "5")
io.lock_exclusive(oid, "l", "c", "", 1.5)
io.lock_exclusive(oid, "l", "c", "", 1 << 64)
io.lock_exclusive(oid, "l", "c", "", 1 << 33)
io.lock_exclusive(oid, "l", "c", "", None, 256)
io.lock_exclusive(oid, "l", "c", "", None, -1)
io.lock_exclusive(oid, "l", "c", "", None, 8)
io.lock_shared(oid, "l", "c", None)
io.lock_shared(oid, "m", "c", "")
io.unlock(oid, "none", "c")
io.unlock("missing", "l", "c")
io.unlock(oid, None, "c")
io.lock_exclusive("", "l", "c")
io.set_namespace(5)
io.set_locator_key(None)
io.set_locator_key(5)
io.set_read(-1)
io.set_read(1 << 64)
io.set_read("1")
io.set_read(None)
io.set_self_managed_snap_write([-1])
io.set_self_managed_snap_write([1 << 64])
io.set_self_managed_snap_write(["x"])
io.set_self_managed_snap_write(5)
(io.set_self_managed_snap_write(None), io.set_self_managed_snap_write([]), io.set_self_managed_snap_write(()))
io.rollback_self_managed_snap(oid, -1)
io.rollback_self_managed_snap(oid, 1 << 64)
io.rollback_self_managed_snap(oid, None)
io.rollback_self_managed_snap("missing", 1)
io.remove_self_managed_snap(-1)
io.remove_self_managed_snap(None)
io.create_snap(None)
io.create_snap("")
io.remove_snap("missing")
io.remove_snap(None)
io.lookup_snap("missing")
io.lookup_snap("")
io.lookup_snap(None)
io.snap_rollback(oid, "missing")
io.snap_rollback(oid, None)
io.notify("missing", "x")
io.notify(oid, None)
io.notify(oid, 5)
io.notify(oid, "x", -1)
io.notify(oid, "x", "5")
io.notify(oid, "ü", 2000)
io.watch("missing", print)
io.watch(None, print)
io.watch(oid, print, timeout=-1)
io.watch(oid, print, timeout="5")
io.aio_write(oid, "text")
io.aio_write(oid, None)
io.aio_write(oid, b"abc", -1)
io.aio_write(None, b"abc")
io.aio_write_full(oid, None)
io.aio_append(oid, None)
io.aio_writesame(oid, b"", 10)
io.aio_writesame(oid, b"abc", 10)
io.aio_read(oid, -1, 0, print)
io.aio_read(oid, 1, -1, print)
io.aio_read(None, 1, 0, print)
io.aio_stat(None, print)
io.aio_remove(None)
io.aio_execute(oid, None, "x", b"")
io.aio_setxattr(oid, "x", None)
io.aio_cmpext(oid, None)
io.aio_notify(None, print)
w(oid, lambda op: op.new("x"))
w(oid, lambda op: op.new(2))
w(oid, lambda op: op.new(0))
w(oid, lambda op: op.write("x"))
w(oid, lambda op: op.write(b"x", -1))
w(oid, lambda op: op.truncate(-1))
w(oid, lambda op: op.truncate("x"))
w(oid, lambda op: op.assert_version(-1))
w(oid, lambda op: op.assert_version("x"))
w(oid, lambda op: op.assert_version(1 << 64))
w(oid, lambda op: op.set_xattr(None, b""))
w(oid, lambda op: op.set_xattr("a", None))
w(oid, lambda op: op.rm_xattr(None))
w(oid, lambda op: op.rm_xattr("missing"))
w(oid, lambda op: op.execute("none", "none", b""))
w(oid, lambda op: op.execute("hello", "say_hello", None))
w(oid, lambda op: op.omap_cmp("k", "1"))
w(oid, lambda op: op.omap_cmp("k", "2"))
w(oid, lambda op: op.omap_cmp("k", "2", 5))
w(oid, lambda op: op.omap_cmp("k", "0", 3))
w(oid, lambda op: op.omap_cmp("k", "0", 2))
w(oid, lambda op: op.omap_cmp("k", "0", 300))
w(oid, lambda op: op.omap_cmp("k", "0", -1))
w(oid, lambda op: op.omap_cmp(None, "0"))
w(oid, lambda op: op.omap_cmp("k", None))
w(oid, lambda op: op.set_flags(0) if False else op.new(0), flags=-1)
w(oid, lambda op: op.new(0), flags="x")
w(oid, lambda op: op.new(0), flags=1 << 40)
w(oid, lambda op: op.new(0), mtime="x")
w(oid, lambda op: op.new(0), mtime=1200000000)
w(None, lambda op: op.new(0))
w("", lambda op: op.new(0))
w(oid, lambda op: (op.new(1), op.set_flags(0)))
w(oid, lambda op: (op.new(0), op.set_flags(1)))
w(oid, lambda op: (op.new(0), op.set_flags(-1)))
w(oid, lambda op: (op.new(0), op.set_flags("x")))
w(oid, lambda op: io.set_omap(op, ("a",), (b"1", b"2")))
w(oid, lambda op: io.set_omap(op, (), ()))
w(oid, lambda op: io.set_omap(op, ["a", "b"], ["text", b"2"]))
w(oid, lambda op: io.set_omap(op, ("a",), (None,)))
w(oid, lambda op: io.set_omap(op, (None,), (b"",)))
w(oid, lambda op: io.set_omap(op, (5,), (b"",)))
w(oid, lambda op: io.set_omap(op, ("a", "a"), (b"1", b"2")))
w(oid, lambda op: io.set_omap(op, ("x" * 100000,), (b"1",)))
w(oid, lambda op: io.set_omap(op, ("a",), (b"x" * 100000,)))
w(oid, lambda op: io.set_omap(op, ("",), (b"empty",)))
w(oid, lambda op: io.set_omap(op, ("a",), (b"a\0b",)))
w(oid, lambda op: io.remove_omap_keys(op, ("k", "none")))
w(oid, lambda op: io.remove_omap_keys(op, ()))
w(oid, lambda op: io.remove_omap_keys(op, (None,)))
w(oid, lambda op: io.remove_omap_keys(op, "kl"))
w(oid, lambda op: io.remove_omap_range2(op, "l", "k"))
w(oid, lambda op: io.remove_omap_range2(op, "k", "k"))
w(oid, lambda op: io.remove_omap_range2(op, "", "z"))
w(oid, lambda op: io.remove_omap_range2(op, None, "z"))
w(oid, lambda op: io.set_omap(5, ("a",), (b"1",)))
r(oid, lambda op: io.get_omap_vals(op, None, None, 10))
r(oid, lambda op: io.get_omap_vals(op, "", "", 0))
r(oid, lambda op: io.get_omap_vals(op, "", "", -1))
r(oid, lambda op: io.get_omap_vals(op, "", "", 1 << 31))
r(oid, lambda op: io.get_omap_vals(op, "", "", "x"))
r(oid, lambda op: io.get_omap_vals(op, 5, "", 10))
r(oid, lambda op: io.get_omap_vals(op, "k", "", 10))
r(oid, lambda op: io.get_omap_keys(op, "", 10))
r(oid, lambda op: io.get_omap_keys(op, "", 1))
r(oid, lambda op: io.get_omap_keys(op, "", -1))
r(oid, lambda op: io.get_omap_vals_by_keys(op, ("k", "none")))
r(oid, lambda op: io.get_omap_vals_by_keys(op, "kl"))
r(oid, lambda op: io.get_omap_vals_by_keys(op, ()))
r(oid, lambda op: io.get_omap_vals_by_keys(op, (None,)))
r(oid, lambda op: op.cmpext(b"0123"))
r(oid, lambda op: op.cmpext(b"0124"))
r(oid, lambda op: op.cmpext(None))
r("missing", lambda op: io.get_omap_keys(op, "", 1))
r(None, lambda op: io.get_omap_keys(op, "", 1))
r(oid, lambda op: io.get_omap_keys(op, "", 1), flag="x")
io.operate_write_op(rados.ReadOp().create(), oid)
io.operate_read_op(rados.WriteOp().create(), oid)
io.operate_write_op(5, oid)
cluster.open_ioctx("missing")
cluster.open_ioctx(None)
cluster.open_ioctx("")
cluster.open_ioctx2(999999)
cluster.open_ioctx2("x")
cluster.open_ioctx2(-1)
cluster.pool_exists("missing")
cluster.pool_exists(None)
cluster.pool_lookup("missing")
cluster.pool_lookup(None)
cluster.pool_reverse_lookup(999999)
cluster.pool_reverse_lookup(-1)
cluster.pool_reverse_lookup("x")
cluster.pool_reverse_lookup(1 << 63)
cluster.create_pool(None)
cluster.create_pool("")
cluster.create_pool("rbd")
cluster.create_pool("with-rule", 200)
cluster.create_pool("with-rule", 256)
cluster.create_pool("with-rule", -1)
cluster.delete_pool("missing")
cluster.delete_pool(None)
cluster.delete_pool("")
cluster.get_pool_base_tier(999999)
cluster.get_pool_base_tier("x")
cluster.get_inconsistent_pgs(999999)
cluster.get_inconsistent_pgs("x")
cluster.conf_get("nonsense")
cluster.conf_get(None)
cluster.conf_get("rados_osd_op_timeout") is not None
cluster.conf_set("nonsense", "1")
cluster.conf_set("rados_mon_op_timeout", 5)
cluster.conf_set(None, "1")
cluster.conf_set("rados_osd_op_timeout", "nonsense")
cluster.conf_read_file(5)
cluster.conf_read_file("/none")
cluster.conf_parse_argv(["a", "b"])
cluster.conf_parse_argv([])
cluster.conf_parse_argv(None)
cluster.conf_parse_argv([5])
cluster.conf_parse_env(None)
cluster.conf_parse_env("")
cluster.conf_parse_env("PYRBD_NONE")
cluster.ping_monitor(None)
cluster.ping_monitor("none")
cluster.connect()
cluster.mon_command(None, b"")
cluster.mon_command("nonsense", b"")[0]
cluster.mon_command("", b"")[0]
cluster.mon_command('{"prefix": "version"}', b"")[0]
cluster.mon_command('{"prefix": "version"}', b"", 0, "none")[0]
cluster.mon_command('{"prefix": "version"}', b"", 0, 9)[0]
cluster.mon_command('{"prefix": "version"}', b"", 0, "")[0]
cluster.mon_command('{"prefix": "version"}', b"", 0, "0")[0]
cluster.osd_command(-1, '{"prefix": "version"}', b"")[0]
cluster.osd_command("x", '{"prefix": "version"}', b"")[0]
cluster.osd_command(1 << 31, '{"prefix": "version"}', b"")[0]
cluster.osd_command(0, "nonsense", b"")[0]
cluster.mgr_command("nonsense", b"")[0]
cluster.mgr_command('{"prefix": "pg stat"}', b"")[0]
cluster.pg_command(None, "x", b"")
cluster.blocklist_add("nonsense")
cluster.blocklist_add(None)
cluster.blocklist_add("1.2.3.4:0/1", -1)
cluster.blocklist_add("1.2.3.4:0/1", 1)
cluster.blocklist_add("1.2.3.4:0/1", 1 << 32)
cluster.monitor_log("nonsense")
cluster.monitor_log("info", 5)
io.application_enable(None)
io.application_list()
io.application_metadata_get("none", "none")
io.application_metadata_get(None, "none")
io.application_metadata_list("none")
io.application_metadata_set("none", "k", "v")
io.application_metadata_set("none", "k", None)
io.application_metadata_remove("none", "k")
io.alignment()
sorted(io.get_stats())
sorted(cluster.get_cluster_stats())
rados.Rados(rados_id="a", name="client.a")
rados.Rados(name="nonsense")
rados.Rados(name="")
rados.Rados(name=5)
rados.Rados(rados_id=5)
rados.Rados(rados_id="")
rados.Rados(clustername=5)
rados.Rados(conffile="/none")
rados.Rados(conffile=5)
rados.Rados(conf={"nonsense": "1"})
rados.Rados(conf_defaults={"rados_osd_op_timeout": "7"}).conf_get("rados_osd_op_timeout")
rados.Rados(nonsense=1)
rados.Rados().connect()
rados.Rados().list_pools()
rados.Rados().get_fsid()
rados.Rados().state
rados.Rados().rados_id
rados.Rados().parsed_args
str(rados.Version(1, 2, 3))
str(rados.ObjectNotFound("x", 2))
str(rados.Error("x"))
str(rados.LogicError("x"))
str(rados.IoctxStateError("x"))
str(rados.RadosStateError("x"))
str(rados.ObjectStateError("x", 1))
str(rados.ExtendMismatch("x", 4096, 1))
rados.ExtendMismatch("x", 4096, 1).offset
rados.ObjectNotFound("x").errno
[c.__name__ for c in rados.ObjectBusy.__mro__][:4]
[c.__name__ for c in rados.InProgress.__mro__][:3]
rados.Object(io, oid).read(3)
(lambda o: [o.read(3), o.read(3), o.seek(1), o.read(2), o.write(b"xy"), o.offset])(rados.Object(io, oid))
str(rados.Object(io, oid)).split("key=")[1]
rados.Object(io, "missing").read()
rados.Object(io, "missing").remove()
(lambda o: [o.remove(), o.read()])(rados.Object(io, oid))
rados.Object(io, oid, "other").read()
rados.Object(io, oid, None, "other").read()
rados.Object(io, oid).seek("x")
rados.Object(io, oid).read("x")
rados.Snap(io, "n", 5).get_timestamp()
rados.Completion(io, None, None)
rados.MonitorLog(cluster, "nonsense", None, None)
rados.WriteOp().create().release()
next(io.list_snaps())
io.get_pool_name() != ""
isinstance(io.get_pool_id(), int)
io.get_locator_key()
io.name != ""
io.state
"""

BETTER: dict[str, Any] = {
    'io.write(oid, b"abc", (1 << 64) - 1)': ("raises", "InvalidArgumentError", 22),
    'io.write(oid, b"abc", 1.5)': ("raises", "TypeError", None),
    'io.write(oid, b"abc", Index())': ("ok", 0),
    'io.write(oid, bytearray(b"abc"))': ("ok", 0),
    'io.write(oid, memoryview(b"abc"))': ("ok", 0),
    'io.write(oid, array.array("I", [1, 2]))': ("ok", 0),
    "io.write(oid, mmap.mmap(-1, 10))": ("ok", 0),
    'io.write(b"", b"abc")': ("raises", "InvalidArgumentError", 22),
    'io.write("\\udcff", b"abc")': ("ok", 0),
    '(io.write(b"\\xff\\xfe", b"abc"), io.read(b"\\xff\\xfe"), io.remove_object(b"\\xff\\xfe"))': (
        "ok",
        [0, b"abc", True],
    ),
    "io.read(oid, 0)": ("ok", b""),
    "io.read(oid, Index(), Index())": ("ok", b"345"),
    "io.read(oid.encode())": ("ok", b"0123456789"),
    'io.cmpext(oid, b"01", 1 << 63)': ("raises", "OSError", 4095),
    'io.get_xattr(oid, b"x")': ("ok", b"value"),
    '(io.set_xattr(oid, b"\\xff", b"bytes"), io.get_xattr(oid, b"\\xff"))': ("ok", [True, b"bytes"]),
    '(io.set_xattr(oid, b"\\xff", b"bytes"), list(io.get_xattrs(oid)))': (
        "ok",
        [True, [["x", b"value"], ["\udcff", b"bytes"]]],
    ),
    'io.execute(oid, "", "", b"")': ("raises", "InvalidArgumentError", 22),
    'io.execute(oid, "hello", "", b"")': ("raises", "InvalidArgumentError", 22),
    'io.execute(oid, "x" * 300, "say_hello", b"")': ("raises", "InvalidArgumentError", 22),
    '(io.set_namespace(b"bytes"), io.get_namespace(), io.set_namespace(None), io.get_namespace())': (
        "ok",
        [None, "bytes", None, ""],
    ),
    "io.aio_read(oid, 1 << 40, 0, print)": ("raises", "OSError", 33),
    "w(oid, lambda op: op.new(None))": (
        "ok",
        [10, 1000000000, b"0123456789", [["x", b"value"]], [["k", b"1"], ["l", b"2"]]],
    ),
    'w(oid, lambda op: op.write(bytearray(b"xyz"), 3))': (
        "ok",
        [10, 1000000000, b"012xyz6789", [["x", b"value"]], [["k", b"1"], ["l", b"2"]]],
    ),
    'w(oid, lambda op: op.write(memoryview(b"xyz"), 3))': (
        "ok",
        [10, 1000000000, b"012xyz6789", [["x", b"value"]], [["k", b"1"], ["l", b"2"]]],
    ),
    "w(oid, lambda op: op.truncate(Index()))": (
        "ok",
        [3, 1000000000, b"012", [["x", b"value"]], [["k", b"1"], ["l", b"2"]]],
    ),
    "w(oid, lambda op: op.new(0), mtime=None)": (
        "ok",
        [10, "now", b"0123456789", [["x", b"value"]], [["k", b"1"], ["l", b"2"]]],
    ),
    'w(oid, lambda op: io.set_omap(op, ("a\\0b",), (b"1",)))': (
        "ok",
        [10, 1000000000, b"0123456789", [["x", b"value"]], [["a\x00b", b"1"], ["k", b"1"], ["l", b"2"]]],
    ),
    'cluster.mon_command(\'{"prefix": "version"}\', None)[0]': ("ok", 0),
    "cluster.monitor_log(None)": ("raises", "LogicError", None),
    'rados.Rados(conf_defaults={"nonsense": "1"})': ("ok", "Rados"),
    'w(oid, lambda op: io.set_omap(None, ("a",), (b"1",)))': ("raises", "TypeError", None),
    "io.operate_write_op(None, oid)": ("raises", "TypeError", None),
}
"""What we do where the binding does something else; for most of them see docs/compatibility.md."""


@pytest.mark.timeout(240)
def test_arguments_at_the_edges(both: tuple[Player, Librados]) -> None:
    lines = EDGES.strip().splitlines()
    sequence = [("evaluate", "@a", line) for line in lines]
    ours, theirs = (player.play(1, "pool", sequence) for player in both)
    wrong = [
        f"{line}: ours {a}, theirs {b}"
        for line, step, a, b in zip(lines, sequence, eval(repr(ours)), theirs)  # noqa: S307
        if a != b and not excused(step, a, b)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("line", BETTER)
def test_arguments_that_we_treat_otherwise(both: tuple[Player, Librados], line: str) -> None:
    (outcome,) = both[0].play(1, "pool", [("evaluate", "@a", line)])
    assert outcome == BETTER[line]
