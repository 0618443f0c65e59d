"""Watches, notifications and advisory locks, from both sides: ours and the C++ tools'."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from pyrbd import rados
from pyrbd.testing import Cluster
from tests import oracle
from tests.proxy import redirected

Rados = Callable[..., bytes]


def until(condition: Callable[[], object], what: str, timeout: float = 30) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"not in time: {what}"
        time.sleep(0.02)


@pytest.fixture
def oid(ioctx: rados.Ioctx, name: str) -> Iterator[str]:
    ioctx.write_full(name, b"")
    yield name
    try:
        ioctx.remove_object(name)
    except rados.ObjectNotFound:
        pass


class Heard:
    """A watcher's callbacks, and what they were called with."""

    def __init__(self, answer: Any = None) -> None:
        self.notifications: list[tuple[int, int, int, bytes]] = []
        self.errors: list[tuple[int, int]] = []
        self.answer = answer

    def notified(self, *args: Any) -> Any:
        self.notifications.append(args)
        return self.answer

    def failed(self, *args: Any) -> None:
        self.errors.append(args)

    @property
    def messages(self) -> list[bytes]:
        return [n[3] for n in self.notifications]


def test_what_the_cpp_tool_notifies_is_heard_and_answered(ioctx: rados.Ioctx, oid: str, rados_cli: Rados) -> None:
    heard = Heard("our answer")
    with ioctx.watch(oid, heard.notified, heard.failed) as watch:
        listed = rados_cli("-p", "rbd", "listwatchers", oid).decode()
        assert f"watcher={ioctx.rados.get_addrs().removeprefix('v2:')}" in listed
        assert f"client.{ioctx.rados.get_instance_id()}" in listed and f"cookie={watch.get_id()}" in listed
        out = rados_cli("-p", "rbd", "notify", oid, "from the tool").decode()
        assert "our answer" in out
        assert len(heard.notifications) == 1
        _, gid, cookie, data = heard.notifications[0]
        assert data.rstrip(b"\0").endswith(b"from the tool") and cookie == watch.get_id()
        assert gid != ioctx.rados.get_instance_id()
        assert timedelta() <= watch.check() < timedelta(seconds=20)
    assert "watcher=" not in rados_cli("-p", "rbd", "listwatchers", oid).decode()
    assert not heard.errors
    with pytest.raises(rados.NotConnected):
        watch.check()
    watch.close()


def test_what_we_notify_the_cpp_tool_hears(conf: str, ioctx: rados.Ioctx, oid: str, rados_cli: Rados) -> None:
    tool = subprocess.Popen(
        oracle.argv(conf, "rados", "-p", "rbd", "watch", oid), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        until(lambda: b"watcher=" in rados_cli("-p", "rbd", "listwatchers", oid), "the tool watches")
        assert ioctx.notify(oid, "from us") is True
        acks: list[Any] = []
        ioctx.aio_notify(oid, lambda *args: acks.append(args), "again").wait_for_complete_and_cb()
        (_, result, answers, missing) = acks[0]
        assert result == 0 and len(answers) == 1 and missing == []
    finally:
        out, _ = tool.communicate("\n", timeout=20)
    assert out.count("NOTIFY") == 2
    assert re.search(r"from us", out) or re.search(r"66 72 6f 6d 20 75 73", out)


def test_several_watchers_answer(ioctx: rados.Ioctx, oid: str) -> None:
    """Each with its own answer; callbacks may use the cluster."""

    def answer(notify_id: int, notifier: int, watch_id: int, data: bytes) -> bytes:
        return data + b"/" + ioctx.read(oid)

    ioctx.write_full(oid, b"content")
    one, two = ioctx.watch(oid, answer), ioctx.watch(oid, lambda *args: "second")
    results: list[Any] = []
    ioctx.aio_notify(oid, lambda *args: results.append(args), b"\0\1 binary").wait_for_complete_and_cb()
    _, code, acks, missing = results[0]
    assert code == 0 and not missing
    gid = ioctx.rados.get_instance_id()
    expected = {(gid, one.get_id(), b"\0\1 binary/content"), (gid, two.get_id(), b"second")}
    assert set(acks) == expected
    one.close()
    two.close()


def test_a_watcher_that_does_not_answer(ioctx: rados.Ioctx, oid: str) -> None:
    release = threading.Event()
    with ioctx.watch(oid, lambda *args: release.wait(20)):
        begun = time.monotonic()
        with pytest.raises(rados.TimedOut):
            ioctx.notify(oid, "x", timeout_ms=1000)
        assert 0.9 < time.monotonic() - begun < 5
        release.set()
    with pytest.raises(rados.ObjectNotFound):
        ioctx.notify(oid + "-none", "x")
    with pytest.raises(rados.ObjectNotFound):
        ioctx.watch(oid + "-none", lambda *args: None)
    assert ioctx.notify(oid, "nobody listens") is True


def test_a_callback_that_fails_is_an_empty_answer(ioctx: rados.Ioctx, oid: str, caplog: Any) -> None:
    def broken(*args: Any) -> None:
        raise KeyError("a mistake of the user")

    with ioctx.watch(oid, broken):
        assert ioctx.notify(oid, "x") is True
    assert "a mistake of the user" in caplog.text


def test_a_removed_object_ends_its_watches(ioctx: rados.Ioctx, oid: str) -> None:
    heard = Heard()
    watch = ioctx.watch(oid, heard.notified, heard.failed)
    ioctx.remove_object(oid)
    until(lambda: heard.errors, "the owner is told")
    assert heard.errors == [(watch.get_id(), -107)]
    with pytest.raises(rados.NotConnected):
        watch.check()
    watch.close()


@pytest.mark.timeout(120)
@pytest.mark.pyrbd_needs("configure")
def test_a_watch_survives_cut_connections_and_new_primaries(
    cluster: Cluster, conf: str, ioctx: rados.Ioctx, oid: str, ceph_cli: Rados
) -> None:
    with redirected() as proxy, rados.Rados(conffile=conf) as client, client.open_ioctx("rbd") as io:
        heard = Heard()
        watch = io.watch(oid, heard.notified, heard.failed)
        for i in range(5):
            proxy.reset_all()
            until(lambda: f"cookie={watch.get_id()}" in _watchers(conf, oid), "the watch is back")
            ioctx.notify(oid, f"after cut {i}")
        for i in range(3):
            primary = json.loads(ceph_cli("osd", "map", "rbd", oid, "--format", "json"))["acting_primary"]
            ceph_cli("osd", "primary-affinity", f"osd.{primary}", "0")
            until(lambda: f"cookie={watch.get_id()}" in _watchers(conf, oid), "the watch has moved")
            ioctx.notify(oid, f"after move {i}")
            ceph_cli("osd", "primary-affinity", f"osd.{primary}", "1")
        cluster.wait_clean()
        assert not heard.errors
        assert set(heard.messages) == {b"after cut %d" % i for i in range(5)} | {b"after move %d" % i for i in range(3)}
        assert watch.check() < timedelta(seconds=20)
        watch.close()


def _watchers(conf: str, oid: str) -> str:
    return subprocess.run(
        oracle.argv(conf, "rados", "-p", "rbd", "listwatchers", oid), capture_output=True, text=True, check=False
    ).stdout


@pytest.mark.timeout(120)
def test_the_owner_is_told_when_a_watch_is_lost(conf: str, ioctx: rados.Ioctx, oid: str) -> None:
    """Nothing comes through for longer than the watch's own timeout: a notification is missed."""
    with redirected() as proxy, rados.Rados(conffile=conf) as cluster, cluster.open_ioctx("rbd") as io:
        heard = Heard()
        watch = io.watch(oid, heard.notified, heard.failed, timeout=3)
        for pipe in proxy.pipes:
            pipe.hold()
            pipe.up.held = True
        until(lambda: "watcher=" not in _watchers(conf, oid), "the OSD gives it up", 60)
        ioctx.notify(oid, "missed")
        for pipe in proxy.pipes:
            pipe.hold(False)
            pipe.up.held = False
        proxy.reset_all()
        until(lambda: heard.errors, "the owner is told", 60)
        assert heard.errors == [(watch.get_id(), -107)]
        assert heard.messages == []
        with pytest.raises(rados.NotConnected):
            watch.check()


def test_a_notification_is_not_lost_with_the_connection(conf: str, ioctx: rados.Ioctx, oid: str) -> None:
    """The OSD that was to say when all have answered goes away: it is asked again."""
    again = threading.Event()

    def slowly(*args: Any) -> str:
        again.wait(20)
        return "late"

    with ioctx.watch(oid, slowly), redirected() as proxy, rados.Rados(conffile=conf) as cluster:
        io = cluster.open_ioctx("rbd")
        results: list[Any] = []
        completion = io.aio_notify(oid, lambda *args: results.append(args), "x", 15000)
        time.sleep(0.3)  # it is on its way
        assert not completion.is_complete()
        assert proxy.reset_all()
        again.set()
        completion.wait_for_complete_and_cb()
        assert results[0][1] == 0
        assert [answer for _, _, answer in results[0][2]] == [b"late"]


# ---------------------------------------------------------------- locks


def test_our_lock_is_the_cpp_tools_lock(ioctx: rados.Ioctx, oid: str, rados_cli: Rados) -> None:
    ioctx.lock_exclusive(oid, "lk", "cookie one", "described", 1000)
    shown = json.loads(rados_cli("-p", "rbd", "lock", "info", oid, "lk"))
    locker = f"client.{ioctx.rados.get_instance_id()}"
    assert shown["type"] == "exclusive" and shown["tag"] == ""
    assert [(x["name"], x["cookie"], x["description"]) for x in shown["lockers"]] == [
        (locker, "cookie one", "described")
    ]
    info = ioctx.list_lockers(oid, "lk")
    assert info == {"tag": "", "exclusive": True, "lockers": [(locker, "cookie one", shown["lockers"][0]["addr"])]}
    assert json.loads(rados_cli("-p", "rbd", "lock", "list", oid))["locks"] == [{"name": "lk"}]
    denied = rados_cli("-p", "rbd", "lock", "get", oid, "lk", "--lock-cookie", "theirs", check=False)
    assert denied == b""
    rados_cli("-p", "rbd", "lock", "break", oid, "lk", locker, "--lock-cookie", "cookie one")
    assert ioctx.list_lockers(oid, "lk")["lockers"] == []
    with pytest.raises(rados.ObjectNotFound):
        ioctx.unlock(oid, "lk", "cookie one")


def test_the_cpp_tools_lock_is_ours_to_respect(ioctx: rados.Ioctx, oid: str, rados_cli: Rados) -> None:
    rados_cli(
        *("-p", "rbd", "lock", "get", oid, "lk", "--lock-type", "shared", "--lock-tag", "t"),
        *("--lock-cookie", "theirs", "--lock-description", "d", "--lock-duration", "1000"),
    )
    info = ioctx.list_lockers(oid, "lk")
    assert info["tag"] == "t" and info["exclusive"] is False
    ((client, cookie, _),) = info["lockers"]
    assert cookie == "theirs"
    with pytest.raises(rados.ObjectBusy):
        ioctx.lock_exclusive(oid, "lk", "ours")
    with pytest.raises(rados.ObjectBusy):
        ioctx.lock_shared(oid, "lk", "ours", "another tag")
    ioctx.lock_shared(oid, "lk", "ours", "t")
    with pytest.raises(rados.ObjectExists):
        ioctx.lock_shared(oid, "lk", "ours", "t")
    ioctx.lock_shared(oid, "lk", "ours", "t", "renewed", 1000, 1)
    ioctx.break_lock(oid, "lk", client, cookie)
    ioctx.unlock(oid, "lk", "ours")
    assert json.loads(rados_cli("-p", "rbd", "lock", "info", oid, "lk"))["lockers"] == []
    with pytest.raises(rados.InvalidArgumentError):
        ioctx.break_lock(oid, "lk", "nonsense", cookie)


def test_a_lock_expires(ioctx: rados.Ioctx, oid: str) -> None:
    ioctx.lock_exclusive(oid, "lk", "one", duration=1)
    with pytest.raises(rados.ObjectExists):
        ioctx.lock_exclusive(oid, "lk", "one")

    def free() -> bool:
        try:
            ioctx.lock_exclusive(oid, "lk", "two")
        except rados.Error:
            return False
        return True

    until(free, "it has expired", 10)


def test_writes_under_the_condition_of_a_lock(ioctx: rados.Ioctx, oid: str) -> None:
    from pyrbd.rados import cls_lock
    from pyrbd.rados.operations import ObjectOperation

    def write_if_locked(cookie: str) -> None:
        op = cls_lock.assert_locked(ObjectOperation(), "lk", cls_lock.LOCK_EXCLUSIVE, cookie)
        ioctx._client.wait(ioctx._io.submit(oid, op.write_full(cookie.encode())))

    ioctx.lock_exclusive(oid, "lk", "mine")
    write_if_locked("mine")
    with pytest.raises(rados.ObjectBusy):
        write_if_locked("not mine")
    assert ioctx.read(oid) == b"mine"
