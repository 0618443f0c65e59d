"""The exclusive lock: one client writes at a time, ours and librbd's alike, and hands it over when another asks.

Peers are processes of their own; `rbd` is asked who has the lock.
"""

from __future__ import annotations

import errno
import hashlib
import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pyrbd import rados, rbd
from pyrbd.errors import DecodeError
from pyrbd.image import exclusive_lock, notify
from pyrbd.image.exclusive_lock import ExclusiveLock, decode_cookie, encode_cookie
from tests import oracle
from tests.image.peers import Failed, Peer, until

Run = Callable[..., bytes]
MIB = 1 << 20
BOTH = pytest.mark.parametrize("librbd", [True, False], ids=["librbd", "pyrbd"])


@pytest.fixture
def locked(ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> Iterator[str]:
    """An image with the features that `rbd create` gives."""
    rbd_cli("create", "--size", "64M", "--object-size", "1M", name)
    yield name


def lockers(rbd_cli: Run, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(rbd_cli("lock", "ls", "--format", "json", name))
    return found


def check_object_map(rbd_cli: Run, name: str) -> None:
    """librbd finds nothing wrong with the object map."""
    rbd_cli("object-map", "check", "--no-progress", name)
    assert json.loads(rbd_cli("info", "--format", "json", name))["flags"] == []


def lock_of(image: rbd.Image) -> ExclusiveLock:
    assert image._core.lock is not None
    return image._core.lock


# ---------------------------------------------------------------- without a cluster


def test_states_lead_to_states() -> None:
    assert set(exclusive_lock.TRANSITIONS) == {s for to in exclusive_lock.TRANSITIONS.values() for s in to}
    assert all(exclusive_lock.CLOSED in to for s, to in exclusive_lock.TRANSITIONS.items() if s != "closed")


def test_cookies() -> None:
    assert decode_cookie(encode_cookie(94557)) == 94557
    for other in (
        "",
        "auto",
        "auto ",
        "auto x",
        "auto -1",
        "auto 1 2",
        "me",
        "auto ²",
        f"auto {1 << 64}",
        "auto " + "9" * 5000,
    ):
        assert decode_cookie(other) is None, other


REQUEST = notify.AsyncRequestId(notify.ClientId(1, 2), 3)
PAYLOADS: list[notify.Payload] = [
    notify.AcquiredLock(notify.ClientId(1, 2)),
    notify.ReleasedLock(notify.ClientId(1, 2)),
    notify.RequestLock(notify.ClientId(1, 2), True),
    notify.HeaderUpdate(),
    notify.AsyncProgress(REQUEST, 3, 4),
    notify.AsyncComplete(REQUEST, -17),
    notify.Flatten(REQUEST),
    notify.Resize(123, REQUEST, False),
    notify.SnapCreate("foo", flags=1, async_request_id=REQUEST),
    notify.SnapRemove("foo", async_request_id=REQUEST),
    notify.RebuildObjectMap(REQUEST),
    notify.SnapRename(7, "bar", async_request_id=REQUEST),
    notify.SnapProtect("foo", async_request_id=REQUEST),
    notify.SnapUnprotect("foo", async_request_id=REQUEST),
    notify.Rename("foo", REQUEST),
    notify.UpdateFeatures(8, True, REQUEST),
    notify.Migrate(REQUEST),
    notify.Sparsify(REQUEST, 4096),
    notify.Quiesce(REQUEST),
    notify.Unquiesce(REQUEST),
    notify.MetadataUpdate("key", "value", REQUEST),
    notify.MetadataUpdate("key", None, REQUEST),
]


@pytest.mark.parametrize("payload", PAYLOADS, ids=lambda p: type(p).__name__)
def test_messages_survive_the_wire(payload: notify.Payload) -> None:
    data = notify.encode_message(payload)
    assert notify.decode_message(data) == payload
    for n in range(1, len(data)):
        with pytest.raises(DecodeError):
            notify.decode_message(data[:n])
    # what a newer client adds is skipped
    longer = data[:2] + (len(data) - 6 + 3).to_bytes(4, "little") + data[6:] + b"new"
    assert notify.decode_message(longer) == payload


def test_messages_of_older_clients() -> None:
    def older(payload: notify.Payload, version: int, cut: int) -> bytes:
        data = notify.encode_message(payload)
        body = data[6 : len(data) - cut]
        return bytes([version, 1]) + len(body).to_bytes(4, "little") + body

    assert notify.decode_message(b"") == notify.HeaderUpdate()
    assert notify.decode_message(older(notify.AcquiredLock(), 1, 16)) == notify.AcquiredLock()
    assert notify.decode_message(older(notify.RequestLock(notify.ClientId(1, 2)), 2, 1)) == notify.RequestLock(
        notify.ClientId(1, 2)
    )
    assert notify.decode_message(older(notify.Resize(5, REQUEST), 3, 1)) == notify.Resize(5, REQUEST)
    assert notify.decode_message(older(notify.SnapCreate("s"), 6, 32)) == notify.SnapCreate("s")
    assert notify.decode_message(older(notify.SnapRemove("s"), 5, 34)) == notify.SnapRemove("s")
    unknown = bytes.fromhex("09010500000063000000") + b"x"
    assert notify.decode_message(unknown) == notify.Unknown(99)


# ---------------------------------------------------------------- taking and giving


def test_what_librbd_says_is_read_and_written_alike(ioctx: rados.Ioctx, locked: str, rbd_cli: Run) -> None:
    """Each message of `rbd` decodes to a value that encodes to the same bytes."""
    image_id = json.loads(rbd_cli("info", "--format", "json", locked))["id"]
    heard: list[bytes] = []

    def on_notify(notify_id: int, notifier: int, cookie: int, data: bytes) -> None:
        heard.append(data)

    with ioctx.watch(f"rbd_header.{image_id}", on_notify):
        rbd_cli("bench", "--io-type", "write", "--io-size", "4K", "--io-total", "4K", locked)
        rbd_cli("snap", "create", "--no-progress", f"{locked}@s")
        rbd_cli("snap", "rm", "--no-progress", f"{locked}@s")
        rbd_cli("resize", "--no-progress", "--size", "65M", locked)
    seen = set()
    for data in heard:
        payload = notify.decode_message(data)
        seen.add(type(payload))
        assert notify.encode_message(payload) == data
    assert {notify.AcquiredLock, notify.ReleasedLock, notify.HeaderUpdate} <= seen


def test_lock_is_taken_by_the_first_write_and_given_back_by_close(
    ioctx: rados.Ioctx, locked: str, rbd_cli: Run
) -> None:
    with rbd.Image(ioctx, locked) as image:
        image.read(0, 512)
        assert lockers(rbd_cli, locked) == []
        image.write(b"x" * 4096, 0)
        (locker,) = lockers(rbd_cli, locked)
        assert locker["id"] == f"auto {image._core.watcher.cookie}"
        assert locker["locker"] == f"client.{ioctx._client.global_id}"
        assert image._core.object_map is not None
    assert lockers(rbd_cli, locked) == []
    check_object_map(rbd_cli, locked)


def test_read_only_and_snapshot_have_no_lock(ioctx: rados.Ioctx, locked: str, rbd_cli: Run) -> None:
    rbd_cli("snap", "create", "--no-progress", f"{locked}@s")
    with rbd.Image(ioctx, locked, read_only=True) as image:
        assert image._core.lock is None
    with rbd.Image(ioctx, locked) as image:
        image.write(b"x", 0)
        image.set_snap("s")
        assert image._core.lock is None
        assert lockers(rbd_cli, locked) == []
        image.set_snap(None)
        image.write(b"y", 0)
        assert len(lockers(rbd_cli, locked)) == 1
    rbd_cli("snap", "rm", "--no-progress", f"{locked}@s")


@BOTH
def test_lock_goes_to_and_fro(ioctx: rados.Ioctx, conf: str, locked: str, rbd_cli: Run, librbd: bool) -> None:
    with rbd.Image(ioctx, locked) as image, Peer(conf, librbd) as peer:
        peer.do(f"image = rbd.Image(ioctx, {locked!r})")
        for i in range(12):
            image.write(bytes([i]) * 4096, 8192 * i)
            assert peer.do(f"image.write(bytes([{i}]) * 4096, {8192 * i + 4096}) and None") is None
            until(lambda: not lock_of(image).owner, "the lock is given up")
        peer.do("image.close()")
        for i in range(12):
            assert image.read(8192 * i, 8192) == bytes([i]) * 8192
    check_object_map(rbd_cli, locked)


def test_two_images_of_one_client(ioctx: rados.Ioctx, locked: str) -> None:
    with rbd.Image(ioctx, locked) as first, rbd.Image(ioctx, locked) as second:
        for i in range(10):
            first.write(b"a" * 512, 1024 * i)
            second.write(b"b" * 512, 1024 * i + 512)
        assert first.read(0, 10240) == (b"a" * 512 + b"b" * 512) * 10


@BOTH
def test_writers_at_the_same_time_lose_nothing(
    ioctx: rados.Ioctx, conf: str, locked: str, rbd_cli: Run, librbd: bool
) -> None:
    """Four threads of ours and four of a peer's write for three seconds; each piece is there at the end."""
    seconds = 3
    code = f"""
def work(n, counts):
    end = time.monotonic() + {seconds}
    i = 0
    while time.monotonic() < end:
        image.write((b"%08d" % i) * 512, (32 + n * 8) * 2**20 // 2 + (i % 256) * 4096)
        i += 1
    counts[n] = i
def run():
    counts = {{}}
    threads = [threading.Thread(target=work, args=(n, counts)) for n in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    return counts
globals()["run"] = run
globals()["work"] = work
"""
    with rbd.Image(ioctx, locked) as image, Peer(conf, librbd) as peer:
        peer.do(f"image = rbd.Image(ioctx, {locked!r})")
        peer.do(code)
        peer.begin("run()")
        counts: dict[int, int] = {}
        handovers = 0
        stop = threading.Event()

        def work(n: int) -> None:
            end = time.monotonic() + seconds
            i = 0
            while time.monotonic() < end:
                image.write((b"%08d" % i) * 512, n * 2 * MIB + (i % 256) * 4096)
                i += 1
            counts[n] = i

        def watch() -> None:
            nonlocal handovers
            owner = False
            while not stop.wait(0.001):
                now = lock_of(image).owner
                handovers += now and not owner
                owner = now

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        watcher = threading.Thread(target=watch)
        for t in (*threads, watcher):
            t.start()
        for t in threads:
            t.join()
        stop.set()
        watcher.join()
        theirs = peer.end()
        peer.do("image.close()")
    assert min(counts.values()) > 0 and len(theirs) == 4
    assert all(n > 0 for n in theirs.values())
    assert handovers >= 1, f"the lock came to us {handovers} times; writes: {counts}, {theirs}"
    with rbd.Image(ioctx, locked, read_only=True) as image:
        for base, found in ((0, counts), (16 * MIB, {int(n): c for n, c in theirs.items()})):
            step = 2 * MIB if base == 0 else 4 * MIB
            for n, count in found.items():
                for i in range(max(0, count - 256), count):
                    at = base + n * step + (i % 256) * 4096
                    assert image.read(at, 4096) == (b"%08d" % i) * 512, (base, n, i)
    check_object_map(rbd_cli, locked)


def test_handover_with_rbd_bench(ioctx: rados.Ioctx, conf: str, locked: str, rbd_cli: Run) -> None:
    """`rbd bench` and we write to the same image all the time, each at places of its own."""
    with rbd.Image(ioctx, locked) as image:
        image.write(b"first", 0)
        args = ["--io-type", "write", "--io-size", "4K", "--io-threads", "4", "--io-total", "12M"]
        bench = subprocess.Popen(oracle.argv(conf, "rbd", "bench", *args, locked), stdout=subprocess.PIPE)
        written: dict[int, bytes] = {}
        taken = i = 0
        owner = True
        while bench.poll() is None:
            at = 40 * MIB + (i % 1024) * 4096
            data = hashlib.sha256(b"%d" % i).digest() * 128
            image.write(data, at)
            written[at] = data
            i += 1
            taken += lock_of(image).owner and not owner
            owner = lock_of(image).owner
        output = bench.communicate()[0].decode()
        assert bench.returncode == 0
        assert "ops: 3072" in output, output
        assert i > 10, f"{i} writes of ours, the lock came to us {taken} times"
        for at, data in written.items():
            assert image.read(at, 4096) == data
    check_object_map(rbd_cli, locked)


# ---------------------------------------------------------------- the user's word


def test_acquired_lock_is_kept(ioctx: rados.Ioctx, conf: str, locked: str, rbd_cli: Run) -> None:
    with rbd.Image(ioctx, locked) as image, Peer(conf, librbd=True) as peer:
        image.lock_acquire(0)
        assert image.is_exclusive_lock_owner()
        peer.do(f"image = rbd.Image(ioctx, {locked!r})")
        with pytest.raises(Failed) as refused:
            peer.do("image.write(b'x', 0)")
        assert refused.value.errno == errno.EROFS
        with pytest.raises(Failed) as refused:
            peer.do("image.lock_acquire(rbd.RBD_LOCK_MODE_EXCLUSIVE)")
        assert refused.value.errno == errno.EROFS
        image.write(b"ours", 0)
        owners = list(image.lock_get_owners())
        assert owners == peer.do("[dict(o) for o in image.lock_get_owners()]")
        image.lock_release()
        assert not image.is_exclusive_lock_owner()
        with pytest.raises(rbd.InvalidArgument):
            image.lock_release()
        with pytest.raises(rbd.ReadOnlyImage):  # it is taken by the user's word only, now
            image.write(b"x", 0)
        peer.do("image.lock_acquire(rbd.RBD_LOCK_MODE_EXCLUSIVE)")
        assert peer.do("image.is_exclusive_lock_owner()") is True
        peer.do("image.lock_release()")
        assert list(image.lock_get_owners()) == []


def test_lock_that_librbd_keeps(ioctx: rados.Ioctx, conf: str, locked: str) -> None:
    with Peer(conf, librbd=True) as peer, rbd.Image(ioctx, locked) as image:
        peer.do(f"image = rbd.Image(ioctx, {locked!r})")
        peer.do("image.lock_acquire(rbd.RBD_LOCK_MODE_EXCLUSIVE)")
        with pytest.raises(rbd.ReadOnlyImage) as refused:
            image.write(b"x", 0)
        assert refused.value.errno == errno.EROFS
        with pytest.raises(rbd.ReadOnlyImage):
            image.lock_acquire(0)
        peer.do("image.lock_release()")
        image.lock_acquire(0)
        image.write(b"x", 0)


def test_writer_waits_for_a_transient_owner(ioctx: rados.Ioctx, conf: str, locked: str) -> None:
    with rbd.Image(ioctx, locked) as image, Peer(conf, librbd=True) as peer:
        image.lock_acquire(2)
        peer.do(f"image = rbd.Image(ioctx, {locked!r})")
        peer.begin("image.write(b'theirs', 0)")
        time.sleep(1)
        assert lock_of(image).owner
        image.lock_release()
        assert peer.end() == 6
        assert image.read(0, 6) == b"theirs"


@pytest.mark.parametrize("mode", [1, 7])
def test_other_modes_are_refused(ioctx: rados.Ioctx, locked: str, mode: int) -> None:
    with rbd.Image(ioctx, locked) as image, pytest.raises(rbd.OperationNotSupported):
        image.lock_acquire(mode)


def test_image_without_the_feature(ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> None:
    rbd_cli("create", "--size", "1M", "--image-feature", "layering", name)
    with rbd.Image(ioctx, name) as image:
        with pytest.raises(rbd.InvalidArgument):
            image.lock_acquire(0)
        with pytest.raises(rbd.InvalidArgument):
            image.lock_get_owners()
        assert image.is_exclusive_lock_owner() is False


# ---------------------------------------------------------------- adversity


def test_lock_by_other_means_is_said_and_not_waited_for(ioctx: rados.Ioctx, locked: str, rbd_cli: Run) -> None:
    rbd_cli("lock", "add", locked, "me")
    with rbd.Image(ioctx, locked) as image:
        with pytest.raises(rbd.ImageBusy):
            image.write(b"x", 0)
        (locker,) = lockers(rbd_cli, locked)
        rbd_cli("lock", "rm", locked, locker["id"], locker["locker"])
        image.write(b"x", 0)


def test_watch_that_was_lost(ioctx: rados.Ioctx, locked: str, rbd_cli: Run) -> None:
    """The watch is registered again, and the lock gets its cookie; a waiting peer finds us alive."""
    with rbd.Image(ioctx, locked) as image:
        image.write(b"before", 0)
        core = image._core
        old = core.watcher.cookie
        watch = core.watcher._watch
        assert watch is not None
        client = ioctx._client
        client.driver.defer(watch.fail, rados.make_ex(-errno.ENOTCONN, "cut off"))  # type: ignore[attr-defined]
        until(lambda: core.watcher.cookie not in (0, old), "the watch stands again")
        new = encode_cookie(core.watcher.cookie)
        until(lambda: lock_of(image).cookie == new, "the lock has the new cookie")
        assert [x["id"] for x in lockers(rbd_cli, locked)] == [new]
        image.write(b"after!", 0)
        assert len(json.loads(rbd_cli("status", "--format", "json", locked))["watchers"]) == 1
        rbd_cli("bench", "--io-type", "write", "--io-size", "4K", "--io-total", "4K", "--rbd_cache=false", locked)


def test_client_that_was_fenced_writes_no_more(conf: str, ioctx: rados.Ioctx, locked: str, rbd_cli: Run) -> None:
    with rados.Rados(conffile=conf) as other, other.open_ioctx("rbd") as io:
        image = rbd.Image(io, locked)
        image.write(b"mine", 0)
        (locker,) = lockers(rbd_cli, locked)
        rbd_cli("lock", "rm", locked, locker["id"], locker["locker"])
        end = time.monotonic() + 30
        with pytest.raises((rbd.ConnectionShutdown, rados.ConnectionShutdown)) as shut:
            while time.monotonic() < end:
                image.write(b"late", 0)
        assert shut.value.errno == errno.ESHUTDOWN
        until(lambda: not lock_of(image).owner, "it knows that it has no lock")
        with pytest.raises(rbd.ConnectionShutdown):
            image.is_exclusive_lock_owner()
        image.close()
    with rbd.Image(ioctx, locked) as image:
        image.write(b"next", 4)


def test_lock_is_broken_by_its_owners_address(conf: str, ioctx: rados.Ioctx, locked: str) -> None:
    with Peer(conf, librbd=True) as peer, rbd.Image(ioctx, locked) as image:
        with pytest.raises(rbd.ImageNotFound):
            image.lock_break(0, "127.0.0.1:0/1")
        peer.do(f"image = rbd.Image(ioctx, {locked!r})")
        peer.do("image.write(b'theirs', 0)")
        (owner,) = list(image.lock_get_owners())
        with pytest.raises(rbd.ImageBusy):
            image.lock_break(0, "127.0.0.1:0/1")
        image.lock_break(0, owner["owner"])
        assert list(image.lock_get_owners()) == []
        image.write(b"ours", 0)
        with pytest.raises(Failed) as fenced:
            peer.do("image.write(b'theirs', 0)")
        assert fenced.value.errno == errno.ESHUTDOWN
        peer.kill()


@pytest.fixture
def short_watches(ceph_cli: Run) -> Iterator[None]:
    """OSDs forget silent watchers after 12 seconds."""
    ceph_cli("config", "set", "osd", "osd_client_watch_timeout", "12")
    yield
    ceph_cli("config", "rm", "osd", "osd_client_watch_timeout")


@pytest.mark.usefixtures("short_watches")
def test_owner_that_was_killed_is_fenced_by_us(
    ioctx: rados.Ioctx, conf: str, locked: str, rbd_cli: Run, ceph_cli: Run
) -> None:
    """kill -9 of librbd while it writes: what it has acknowledged is there, and we go on."""
    with Peer(conf, librbd=True) as peer, rbd.Image(ioctx, locked) as image:
        peer.do(f"image = rbd.Image(ioctx, {locked!r})")
        for i in range(50):
            peer.do(f"image.write(bytes([{i}]) * 4096, {4096 * i})")
        peer.do("image.flush()")
        (locker,) = lockers(rbd_cli, locked)
        peer.begin("[image.write(b'z' * 4096, 32 * 2**20 + 4096 * (i % 1000)) for i in range(10**6)]")
        time.sleep(0.3)
        peer.kill()
        begin = time.monotonic()
        image.write(b"ours" * 1024, 40 * MIB)
        took = time.monotonic() - begin
        assert took < 40, f"it took {took:.1f} s to get the lock"
        assert locker["address"] in ceph_cli("osd", "blocklist", "ls").decode()
        for i in range(50):
            assert image.read(4096 * i, 4096) == bytes([i]) * 4096
    check_object_map(rbd_cli, locked)


@pytest.mark.usefixtures("short_watches")
def test_owner_of_ours_that_was_killed_is_fenced_by_librbd(
    ioctx: rados.Ioctx, conf: str, locked: str, rbd_cli: Run
) -> None:
    rng = random.Random(5)
    with Peer(conf, librbd=False) as peer:
        peer.do(f"image = rbd.Image(ioctx, {locked!r})")
        for i in range(50):
            peer.do(f"image.write(bytes([{i}]) * 4096, {rng.randrange(16) * MIB + 4096 * i})")
        peer.begin("[image.write(b'z' * 4096, 32 * 2**20 + 4096 * (i % 1000)) for i in range(10**6)]")
        time.sleep(0.3)
        peer.kill()
    begin = time.monotonic()
    rbd_cli("bench", "--io-type", "write", "--io-size", "4K", "--io-total", "4K", locked)
    assert time.monotonic() - begin < 60
    rng = random.Random(5)
    with rbd.Image(ioctx, locked, read_only=True) as image:
        for i in range(50):
            at = rng.randrange(16) * MIB + 4096 * i
            if at >= 4096:  # where `rbd bench` has not written
                assert image.read(at, 4096) == bytes([i]) * 4096
    check_object_map(rbd_cli, locked)


def test_interrupted_waiter_tears_nothing_apart(ioctx: rados.Ioctx, conf: str, locked: str) -> None:
    """Ctrl-C while a write waits for the lock: the client stays usable, and the lock's state is right."""
    with Peer(conf, librbd=False) as peer, rbd.Image(ioctx, locked) as image:
        peer.do(f"image = rbd.Image(ioctx, {locked!r})")
        peer.do("image.lock_acquire(2)")

        def interrupt() -> None:
            import _thread

            time.sleep(0.7)
            _thread.interrupt_main()

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            image.write(b"x", 0)
        thread.join()
        peer.do("image.lock_release()")
        image.write(b"y", 0)
        assert lock_of(image).owner


def test_image_that_nobody_closed(ioctx: rados.Ioctx, locked: str, rbd_cli: Run) -> None:
    image = rbd.Image(ioctx, locked)
    image.write(b"x", 0)
    del image
    until(lambda: not lockers(rbd_cli, locked), "the lock is given back")
    rbd_cli("bench", "--io-type", "write", "--io-size", "4K", "--io-total", "4K", locked)


def test_program_that_closes_nothing(conf: str, locked: str, rbd_cli: Run) -> None:
    """As it ends, it gives the lock up: nobody has to wait for its watch, and fence it."""
    code = f"""
from pyrbd import rados, rbd
cluster = rados.Rados(conffile={conf!r}); cluster.connect()
image = rbd.Image(cluster.open_ioctx("rbd"), {locked!r})
image.write(b"x", 0)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
    assert lockers(rbd_cli, locked) == []
    check_object_map(rbd_cli, locked)


def test_shutdown_while_another_thread_waits(conf: str, locked: str) -> None:
    with Peer(conf, librbd=True) as peer:
        peer.do(f"image = rbd.Image(ioctx, {locked!r})")
        peer.begin("image.lock_acquire(rbd.RBD_LOCK_MODE_EXCLUSIVE) or time.sleep(3)")
        cluster = rados.Rados(conffile=conf)
        cluster.connect()
        image = rbd.Image(cluster.open_ioctx("rbd"), locked)
        until(lambda: list(image.lock_get_owners()), "the peer has the lock")
        peer.process.send_signal(signal.SIGSTOP)  # so that it answers nothing
        errors: list[BaseException] = []

        def write() -> None:
            try:
                image.write(b"x", 0)
            except BaseException as e:
                errors.append(e)

        thread = threading.Thread(target=write)
        thread.start()
        until(lambda: lock_of(image).state == exclusive_lock.WAITING, "it waits")
        cluster.shutdown()
        thread.join(10)
        assert not thread.is_alive()
        assert isinstance(errors[0], rbd.ConnectionShutdown), errors
        peer.process.send_signal(signal.SIGCONT)
        peer.end()


def test_close_while_another_thread_waits(ioctx: rados.Ioctx, conf: str, locked: str) -> None:
    with Peer(conf, librbd=True) as peer:
        peer.do(f"image = rbd.Image(ioctx, {locked!r})")
        peer.do("image.lock_acquire(rbd.RBD_LOCK_MODE_EXCLUSIVE)")
        other = rbd.Image(ioctx, locked)
        with rbd.Image(ioctx, locked) as image:
            image._core.lock.policy = exclusive_lock.AUTOMATIC  # type: ignore[union-attr]
            errors: list[BaseException] = []

            def write() -> None:
                try:
                    other.write(b"x", 0)
                except BaseException as e:
                    errors.append(e)

            thread = threading.Thread(target=write)
            thread.start()
            thread.join(0.05)
            other.close()
            thread.join(20)
            assert not thread.is_alive()
            assert len(errors) == 1
            assert isinstance(errors[0], rbd.OSError), errors


def test_asyncio_hands_over_too(conf: str, locked: str, rbd_cli: Run) -> None:
    import asyncio

    from pyrbd import aio

    async def scenario() -> None:
        async with aio.Rados(conffile=conf) as cluster:
            io = await cluster.open_ioctx("rbd")
            async with aio.Image(io, locked) as image:
                for i in range(5):
                    await image.write(bytes([i]) * 4096, 4096 * i)
                    args = ("bench", "--io-type", "write", "--io-size", "4K", "--io-total", "4K", locked)
                    await asyncio.to_thread(rbd_cli, *args)
                for i in range(1, 5):
                    assert await image.read(4096 * i, 4096) == bytes([i]) * 4096

    asyncio.run(scenario())
    check_object_map(rbd_cli, locked)
