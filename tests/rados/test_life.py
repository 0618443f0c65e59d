"""Life in a process: interrupts at any moment, threads by the hundred, fork, exit."""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyrbd import rados, rbd
from tests.interrupts import Interrupter, known_version

ROOT = Path(__file__).resolve().parents[2]


@known_version
@pytest.mark.timeout(120)
# what an interrupt leaves behind before it is anybody's: a coroutine that never ran, a socket
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", ["read", "write", "read into", "execute", "notify", "list"])
def test_an_interrupt_at_any_instruction_leaves_the_client_usable(conf: str, name: str, kind: str) -> None:
    with rados.Rados(conffile=conf, conf={"rados_osd_op_timeout": "20"}) as cluster, cluster.open_ioctx("rbd") as io:
        io.write_full(name, b"0" * 100)
        into = bytearray(100)
        work: dict[str, Callable[[], Any]] = {
            "read": lambda: io.read(name, 100),
            "write": lambda: io.write(name, b"1" * 50, 10),
            "read into": lambda: io.read_into(name, into),
            "execute": lambda: io.execute(name, "hello", "say_hello", b""),
            "notify": lambda: io.notify(name, "x"),
            "list": lambda: next(io.list_objects()),
        }
        work[kind]()
        n, step = 1, 1
        while True:
            tracer = Interrupter(n)
            try:
                with tracer:
                    work[kind]()
            except KeyboardInterrupt:
                pass
            else:
                break  # it came to its end before
            begun = time.monotonic()
            io.write_full(name + ".check", n.to_bytes(4, "little"))
            assert io.read(name + ".check") == n.to_bytes(4, "little"), tracer.where
            assert time.monotonic() - begun < 5, f"an interrupt at {tracer.where} holds up what follows"
            n += step
            if n > 400:
                step = 7
        assert n > 40
        assert cluster.client.objecter.throttle.in_flight == (0, 0), "operations that were given up are still counted"


@pytest.mark.timeout(120)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # as above
def test_real_signals_at_random_moments(conf: str, name: str) -> None:
    """What is interrupted is not half done; what was acknowledged before is there."""
    rng = random.Random(1)

    def ring(*args: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, ring)
    interrupted = 0
    try:
        with rados.Rados(conffile=conf, conf={"rados_osd_op_timeout": "20"}) as cluster:
            io = cluster.open_ioctx("rbd")
            sure = 0
            maybe: set[int] = {0}
            io.write_full(name, (0).to_bytes(8, "little") * 1000)
            for n in range(1, 1500):
                try:
                    signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, 1.2e-3))
                    maybe.add(n)
                    io.write_full(name, n.to_bytes(8, "little") * 1000)
                    signal.setitimer(signal.ITIMER_REAL, 0)
                    sure, maybe = n, {n}
                except KeyboardInterrupt:
                    interrupted += 1
                signal.setitimer(signal.ITIMER_REAL, 0)
                if n % 25 == 0:
                    data = io.read(name)
                    there = int.from_bytes(data[:8], "little")
                    assert data == there.to_bytes(8, "little") * 1000
                    assert there in maybe and there >= sure
                    sure, maybe = there, maybe | {there}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupted > 200


@pytest.mark.timeout(120)
def test_hundreds_of_threads_share_a_client(ioctx: rados.Ioctx, name: str) -> None:
    errors: list[BaseException] = []
    n_threads = 300

    def work(i: int) -> None:
        try:
            for j in range(15):
                block = f"{i}.{j}".encode() * 100
                ioctx.write_full(f"{name}.{i}", block)
                assert ioctx.read(f"{name}.{i}") == block
            ioctx.remove_object(f"{name}.{i}")
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(n_threads)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(100)
    assert not any(t.is_alive() for t in threads)
    assert not errors


@pytest.mark.timeout(120)
def test_threads_that_are_switched_at_every_instruction(conf: str, name: str) -> None:
    """Synchronous and asynchronous, through connections that are cut: everything is answered,
    once, in order, and nothing is left over."""
    from tests.proxy import redirected

    errors: list[BaseException] = []
    n_threads = 200
    interval = sys.getswitchinterval()
    with redirected() as proxy, rados.Rados(conffile=conf) as cluster, cluster.open_ioctx("rbd") as io:
        stop = time.monotonic() + 6

        def work(i: int) -> None:
            oid, n, into = f"{name}.{i}", 0, bytearray(6000)
            try:
                while time.monotonic() < stop:
                    block = n.to_bytes(4, "little") * 1500
                    if i % 2:
                        io.write_full(oid, block)
                    else:
                        first = io.aio_write_full(oid, b"overtaken")
                        last = io.aio_write_full(oid, block)
                        last.wait_for_complete()
                        first.wait_for_complete()
                        assert first.get_return_value() == last.get_return_value() == 0
                    assert io.read_into(oid, into) == len(into)
                    assert into == block
                    into[:] = bytes(6000)  # a late answer would be seen
                    time.sleep(0)
                    assert not any(into)
                    n += 1
                io.remove_object(oid)
            except BaseException as e:
                errors.append(e)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(n_threads)]
        sys.setswitchinterval(1e-6)
        try:
            for t in threads:
                t.start()
            while time.monotonic() < stop:
                time.sleep(0.5)
                proxy.reset_all()
            for t in threads:
                t.join(60)
        finally:
            sys.setswitchinterval(interval)
        assert not any(t.is_alive() for t in threads)
        assert not errors
        objecter = cluster.client.objecter
        assert objecter.throttle.in_flight == (0, 0)
        for session in list(objecter._sessions.values()):
            assert not session.aio, "the background thread would compete for answers for ever"


@pytest.mark.timeout(60)
def test_a_handler_of_signals_may_shut_down(conf: str, name: str) -> None:
    """At any moment of what it interrupts, which then fails or never goes on."""
    code = """
import os, random, signal, time
from pyrbd import rados
conf, name = sys.argv[1:]
class Over(Exception): pass
rng = random.Random(3)
for n in range(12):
    cluster = rados.Rados(conffile=conf); cluster.connect()
    io = cluster.open_ioctx("rbd"); io.write_full(name, b"x" * 5000)
    def over(*args):
        begun = time.monotonic()
        cluster.shutdown()
        assert time.monotonic() - begun < 5, "the background thread is not waited for longer than 2 s"
        if n % 2:
            raise Over
    signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-4, 3e-3))
    try:
        while True:
            io.write_full(name, b"x" * 5000)
            io.read(name)
    except (Over, rados.Error):
        pass
print("fine")
"""
    done = run_python(code, conf, name, timeout=50)
    assert done.stdout == "fine\n", done.stdout + done.stderr


def test_callbacks_may_do_anything_with_the_cluster(ioctx: rados.Ioctx, name: str) -> None:
    """Read, write, begin more, wait for more: no deadlock."""
    done = threading.Event()
    seen: list[Any] = []

    def second(completion: rados.Completion, data: bytes | None) -> None:
        seen.append(data)
        done.set()

    def first(completion: rados.Completion) -> None:
        ioctx.write_full(name, ioctx.read(name) + b"+callback")
        inner = ioctx.aio_append(name, b"+inner")
        inner.wait_for_complete()
        ioctx.aio_read(name, 100, 0, second)

    ioctx.aio_write_full(name, b"begun", first).wait_for_complete_and_cb()
    assert done.wait(10)
    assert seen == [b"begun+callback+inner"]


def test_completions(ioctx: rados.Ioctx, name: str) -> None:
    calls: list[str] = []
    completion = ioctx.aio_write(name, b"abc", 0, lambda c: calls.append("complete"), lambda c: calls.append("safe"))
    completion.wait_for_safe_and_cb()
    assert completion.is_complete() and completion.is_safe() and completion.get_return_value() == 0
    assert calls == ["complete", "safe"]
    results: list[Any] = []
    ioctx.aio_stat(name, lambda *args: results.append(args[1:])).wait_for_complete_and_cb()
    ioctx.aio_stat(name + "-none", lambda *args: results.append(args[1:])).wait_for_complete_and_cb()
    assert results[0][0] == 3 and results[1] == (None, None)
    missing = ioctx.aio_read(name + "-none", 10, 0, lambda c, data: results.append(data))
    missing.wait_for_complete_and_cb()
    assert missing.get_return_value() == -2 and results[2] is None
    differs = ioctx.aio_cmpext(name, b"abX")
    differs.wait_for_complete()
    assert differs.get_return_value() == -rados.MAX_ERRNO - 2
    ioctx.aio_setxattr(name, "k", b"v").wait_for_complete()
    assert ioctx.get_xattr(name, "k") == b"v"
    ioctx.aio_rmxattr(name, "k").wait_for_complete()
    ioctx.aio_writesame(name, b"xy", 6).wait_for_complete()
    assert ioctx.read(name) == b"xyxyxy"
    ran = ioctx.aio_execute(name, "hello", "say_hello", b"", 32, lambda c, out: results.append(out))
    ran.wait_for_complete_and_cb()
    assert ran.get_return_value() == 13 and results[3] == b"Hello, world!"
    for i in range(50):
        ioctx.aio_append(name, bytes([i]))
    ioctx.aio_flush()
    assert ioctx.read(name) == b"xyxyxy" + bytes(range(50)), "in the order in which they were begun"
    ioctx.aio_remove(name).wait_for_complete()
    with pytest.raises(rados.ObjectNotFound):
        ioctx.stat(name)


def test_an_asynchronous_operation_has_its_time_too(conf: str, name: str, ceph_cli: Callable[..., bytes]) -> None:
    """rados_osd_op_timeout, also when nobody waits."""
    with rados.Rados(conffile=conf, conf={"rados_osd_op_timeout": "0.5"}) as cluster, cluster.open_ioctx("rbd") as io:
        ceph_cli("osd", "set", "pause")
        try:
            cluster.wait_for_latest_osdmap()
            called = threading.Event()
            completion = io.aio_write_full(name, b"x", lambda c: called.set())
            assert called.wait(5)
            assert completion.get_return_value() == -110
        finally:
            ceph_cli("osd", "unset", "pause")


def run_python(code: str, *args: str, timeout: float = 40) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}", *args],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def test_a_fork_in_the_middle_of_an_import(conf: str, tmp_path: Path) -> None:
    """Of a module of ours in another thread: the child can import it as well."""
    (tmp_path / "slowly.py").write_text("import time\nbegun.set()\ntime.sleep(0.2)\n")
    code = """
import builtins, os, signal, threading
import pyrbd
from pyrbd import rados
conf, where = sys.argv[1:]
pyrbd.__path__.append(where)
with rados.Rados(conffile=conf):
    builtins.begun = threading.Event()
    thread = threading.Thread(target=lambda: __import__("pyrbd.slowly"))
    thread.start()
    begun.wait()
    pid = os.fork()
    if pid == 0:
        signal.alarm(10)
        import pyrbd.slowly
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0, "the child waits for ever"
    thread.join()
print("fine")
"""
    done = run_python(code, conf, str(tmp_path))
    assert done.stdout == "fine\n", done.stdout + done.stderr


def test_a_fork_with_threads_in_the_middle_of_their_work(conf: str, name: str) -> None:
    """The parent goes on; the child is told, and may connect anew."""
    code = """
import os, threading, time
from pyrbd import rados
conf, name = sys.argv[1:]
cluster = rados.Rados(conffile=conf); cluster.connect()
io = cluster.open_ioctx("rbd")
stop, errors, done = [], [], [0]
def work(i):
    try:
        n = 0
        while not stop:
            io.write_full(f"{name}.{i}", str(n).encode()); assert io.read(f"{name}.{i}") == str(n).encode(); n += 1
            done[0] += 1
    except BaseException as e:
        errors.append(e)
threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
[t.start() for t in threads]
for _ in range(20):
    pid = os.fork()
    if pid == 0:
        try:
            io.read(name + ".0")
        except rados.RadosStateError:
            pass
        else:
            os._exit(1)
        with rados.Rados(conffile=conf) as again, again.open_ioctx("rbd") as mine:
            mine.write_full(name + ".child", b"x")
            ok = mine.read(name + ".child") == b"x"
        os._exit(0 if ok else 2)
    deadline = time.monotonic() + 20
    while True:
        got, status = os.waitpid(pid, os.WNOHANG)
        if got:
            break
        if time.monotonic() > deadline:
            os.kill(pid, 9); print("the child hangs"); os._exit(3)
        time.sleep(0.005)
    assert status == 0, status
before = done[0]
time.sleep(0.3)
assert done[0] > before, "the parent stands still"
stop.append(1)
[t.join(10) for t in threads]
assert not errors, errors
cluster.shutdown()
print("fine")
"""
    done = run_python(code, conf, name, timeout=80)
    assert done.stdout == "fine\n", done.stdout + done.stderr


def test_exit_with_everything_open_does_not_hang(conf: str, ioctx: rados.Ioctx, name: str) -> None:
    rbd.RBD().create(ioctx, name, 4 << 20)
    code = """
from pyrbd import rados, rbd
import threading
conf, name = sys.argv[1:]
cluster = rados.Rados(conffile=conf); cluster.connect()
io = cluster.open_ioctx("rbd")
image = rbd.Image(io, name); image.write(b"x" * 1000, 0)
watch = io.watch(f"rbd_header.{image.id()}", print)
flight = [io.aio_append(name + ".log", b"x", lambda c: None) for i in range(200)]
def work():
    try:
        while True:
            image.read(0, 1000)
    except rbd.Error:
        pass  # shut down
threading.Thread(target=work, daemon=True).start()
print("leaving")
"""
    begun = time.monotonic()
    done = run_python(code, conf, name)
    # the image's lock is given up at the end, and its header's watchers hear of it
    assert done.returncode == 0 and done.stdout.startswith("leaving\n")
    assert time.monotonic() - begun < 10
    assert "Traceback" not in done.stderr


def test_several_threads_shut_down_at_once(conf: str, name: str) -> None:
    """Also a callback; each returns, and no thread is left."""
    before = set(threading.enumerate())
    cluster = rados.Rados(conffile=conf)
    cluster.connect()
    io = cluster.open_ioctx("rbd")
    called = threading.Event()

    def end(completion: rados.Completion) -> None:
        cluster.shutdown()
        called.set()

    io.aio_write_full(name, b"x", end)
    threads = [threading.Thread(target=cluster.shutdown) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(10)
    assert not any(t.is_alive() for t in threads)
    assert called.wait(10)
    end_of_wait = time.monotonic() + 5
    while set(threading.enumerate()) - before and time.monotonic() < end_of_wait:
        time.sleep(0.01)
    assert not set(threading.enumerate()) - before


def test_shutdown_with_operations_in_flight(conf: str, name: str, ceph_cli: Callable[..., bytes]) -> None:
    before = set(threading.enumerate())
    sockets = len(os.listdir("/proc/self/fd"))
    cluster = rados.Rados(conffile=conf)
    cluster.connect()
    io = cluster.open_ioctx("rbd")
    ceph_cli("osd", "set", "pause")
    try:
        cluster.wait_for_latest_osdmap()
        results: list[int] = []
        for i in range(50):
            io.aio_write_full(f"{name}.{i}", b"x", lambda c: results.append(c.get_return_value()))
        cluster.shutdown()
    finally:
        ceph_cli("osd", "unset", "pause")
    assert results == [-108] * 50
    end = time.monotonic() + 5
    while set(threading.enumerate()) - before and time.monotonic() < end:
        time.sleep(0.01)
    assert not set(threading.enumerate()) - before
    assert len(os.listdir("/proc/self/fd")) == sockets


def test_a_client_that_is_dropped_takes_its_threads_and_sockets_along(conf: str, name: str) -> None:
    def use() -> None:
        cluster = rados.Rados(conffile=conf)
        cluster.connect()
        ioctx = cluster.open_ioctx("rbd")
        ioctx.aio_write_full(name, b"x", lambda _: None).wait_for_complete_and_cb()
        assert ioctx.watch(name, lambda *_: b"").get_id()

    def held() -> tuple[int, int]:
        return threading.active_count(), len(os.listdir("/proc/self/fd"))

    before = held()
    for _ in range(4):
        use()
    end = time.monotonic() + 20
    while held() > before:
        assert time.monotonic() < end, (before, held())
        gc.collect()
        time.sleep(0.05)


def test_a_pool_of_forked_processes(conf: str, ioctx: rados.Ioctx, name: str) -> None:
    """Forked while threads hold whatever locks they hold; the children come to their end."""
    stop = threading.Event()

    def busy(n: int) -> None:
        while not stop.is_set():
            ioctx.aio_write_full(f"{name}.{n}", b"x" * 1000, lambda _: None)
            ioctx.write_full(f"{name}.{n}", b"y" * 5000)

    threads = [threading.Thread(target=busy, args=(n,), daemon=True) for n in range(6)]
    for t in threads:
        t.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # that a process with threads forks
            with multiprocessing.get_context("fork").Pool(4, _use_in_child, (ioctx, conf)) as children:
                found = children.map_async(_found_in_child, [f"{name}.c{i}" for i in range(20)], 1).get(60)
    finally:
        stop.set()
        for t in threads:
            t.join(30)
    assert found == [("RadosStateError", b"x")] * 20
    assert not any(t.is_alive() for t in threads)
    assert ioctx.read(f"{name}.0", 1)


_inherited: list[Any] = []


def _use_in_child(*inherited: Any) -> None:
    _inherited[:] = inherited


def _found_in_child(oid: str) -> tuple[str, bytes]:
    parents, conf = _inherited
    try:
        parents.read(oid)
        error = ""
    except rados.Error as e:
        error = type(e).__name__
    with rados.Rados(conffile=conf) as cluster, cluster.open_ioctx("rbd") as ioctx:
        ioctx.write_full(oid, b"x")
        return error, ioctx.read(oid)
