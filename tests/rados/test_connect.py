"""Connecting: what goes wrong is said clearly, in time, and nothing hangs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyrbd import rados, rbd

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def server(talk: Callable[[socket.socket], None] | None) -> Iterator[int]:
    """A port on which `talk` answers each connection; None: nobody accepts."""
    listener = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()
    held: list[socket.socket] = []

    def run() -> None:
        listener.settimeout(0.1)
        while not stop.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            held.append(connection)
            if talk is not None:
                try:
                    talk(connection)
                except OSError:
                    pass

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        stop.set()
        thread.join()
        for s in (*held, listener):
            s.close()


def key_of(conf: str) -> str:
    """The admin key of the cluster."""
    handle = rados.Rados(conffile=conf)
    import base64

    from pyrbd.rados.keyring import find_key

    key = find_key(handle._config)
    return base64.b64encode(key.to_bytes()).decode()


def client(port: int, conf: str, **options: str) -> rados.Rados:
    return rados.Rados(conf={"mon_host": f"127.0.0.1:{port}", "key": key_of(conf), **options})


@pytest.mark.parametrize("how", ["argument", "option"])
@pytest.mark.parametrize("timeout", [0.5, 1.3])
def test_a_silent_monitor_is_given_up_in_time(conf: str, how: str, timeout: float) -> None:
    """The time is kept to a tenth of a second."""
    with server(lambda s: None) as port:
        options = {"client_mount_timeout": str(timeout)} if how == "option" else {}
        cluster = client(port, conf, **options)
        start = time.monotonic()
        with pytest.raises(rados.TimedOut, match="no monitor let us in") as e:
            cluster.connect(timeout=timeout if how == "argument" else 0)
        took = time.monotonic() - start
    assert e.value.errno == 110
    assert f"127.0.0.1:{port}" in str(e.value), "the message says which monitor"
    assert timeout <= took < timeout + 0.1


def test_an_unreachable_monitor(conf: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as s:
        port = s.getsockname()[1]
    with pytest.raises(rados.TimedOut, match="ECONNREFUSED"):
        client(port, conf).connect(timeout=0.7)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"ceph v027" + bytes(272), "messenger v1"),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", "not a Ceph daemon"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "not a Ceph daemon"),
        (b"ceph v2\n\x10\0" + bytes(16), "v2.0"),
        (b"ceph v2\n\x10\0\x01" + bytes(7) + b"\xff" * 8, "requires messenger features"),
        (b"ceph v2\n\xff\xff" + bytes(300), "another size"),
        (b"ceph v2\n\x10\0\x01" + bytes(15) + b"\xff" * 64, "crc"),
    ],
)
def test_a_port_that_speaks_something_else(conf: str, answer: bytes, message: str) -> None:
    """Said at once, and by name: no time-out is waited for."""
    with server(lambda s: s.sendall(answer)) as port:
        start = time.monotonic()
        with pytest.raises(rados.OSError, match=message):
            client(port, conf).connect(timeout=20)
        assert time.monotonic() - start < 5


def test_a_port_that_closes_at_once(conf: str) -> None:
    with (
        server(lambda s: s.close()) as port,
        pytest.raises(rados.TimedOut, match=r"closed the connection|reset by peer"),
    ):
        client(port, conf).connect(timeout=0.8)


def test_another_monitor_is_tried(conf: str) -> None:
    """One that is silent and one that refuses do not keep us from the third."""
    real = rados.Rados(conffile=conf).conf_get("mon_host")
    with socket.create_server(("127.0.0.1", 0)) as s:
        refused = s.getsockname()[1]
    with server(lambda s: None) as silent:
        for _ in range(3):  # the order is random
            hosts = f"127.0.0.1:{refused},v2:127.0.0.1:{silent},{real}"
            with rados.Rados(conffile=conf, conf={"mon_host": hosts}) as cluster:
                assert cluster.list_pools()


def test_a_wrong_key(conf: str) -> None:
    import base64

    wrong = base64.b64encode(b"\1\0" + bytes(8) + b"\x10\0" + bytes(range(16))).decode()
    with pytest.raises(rados.PermissionDeniedError, match="did not accept our name and key") as e:
        rados.Rados(conffile=conf, conf={"key": wrong}).connect(timeout=10)
    assert e.value.errno == 13
    assert wrong not in str(e.value)


def test_an_unknown_user(conf: str) -> None:
    with pytest.raises(rados.PermissionDeniedError):
        rados.Rados(conffile=conf, rados_id="nobody", conf={"key": key_of(conf)}).connect(timeout=10)


def test_a_key_that_is_no_key(conf: str) -> None:
    with pytest.raises(rados.InvalidArgumentError) as e:
        rados.Rados(conffile=conf, conf={"key": "c2VjcmV0LXNlY3JldA=="}).connect(timeout=5)
    assert "c2VjcmV0" not in str(e.value)


def test_a_key_of_a_type_that_is_not_known_is_refused_by_name(conf: str) -> None:
    import base64

    new = base64.b64encode(b"\7\0" + bytes(8) + b"\x20\0" + bytes(range(32))).decode()
    with pytest.raises(rados.OSError, match="type 7"):
        rados.Rados(conffile=conf, conf={"key": new}).connect(timeout=5)


def test_missing_and_unusable_files(conf: str, tmp_path: Path) -> None:
    with pytest.raises(rados.ObjectNotFound, match="no configuration file"):
        rados.Rados(conffile=str(tmp_path / "nothing"))
    with pytest.raises(rados.ObjectNotFound, match=r"no keyring for client\.admin: looked for"):
        rados.Rados(conffile=conf, conf={"keyring": str(tmp_path / "nothing")}).connect(timeout=5)
    empty = tmp_path / "keyring"
    empty.write_text("[client.other]\n\tkey = AQ==\n")
    with pytest.raises(rados.PermissionDeniedError, match=r"has no key for client\.admin"):
        rados.Rados(conffile=conf, conf={"keyring": str(empty)}).connect(timeout=5)
    directory = tmp_path / "directory"
    directory.mkdir()
    with pytest.raises(rados.OSError, match="cannot read the keyring"):
        rados.Rados(conffile=conf, conf={"keyring": str(directory)}).connect(timeout=5)
    broken = tmp_path / "broken"
    broken.write_text("[global\nfsid=1\n")
    with pytest.raises(rados.InvalidArgumentError, match="line 1"):
        rados.Rados(conffile=str(broken))
    none = tmp_path / "none"
    none.write_text("[global]\n")
    with pytest.raises(rados.ObjectNotFound, match="mon_host"):
        rados.Rados(conffile=str(none)).connect(timeout=5)


def test_a_connection_that_failed_can_be_made_again(conf: str) -> None:
    cluster = rados.Rados(conffile=conf, conf={"mon_host": "127.0.0.1:1"})
    with pytest.raises(rados.TimedOut):
        cluster.connect(timeout=0.3)
    assert cluster.state == "configuring"
    real = rados.Rados(conffile=conf).conf_get("mon_host")
    assert real
    cluster.conf_set("mon_host", real)
    cluster.connect(timeout=10)
    assert cluster.state == "connected"
    cluster.shutdown()
    assert cluster.state == "shutdown"


def run_python(code: str, *args: str, **kwargs: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        **kwargs,  # type: ignore[call-overload]
    )


def test_ctrl_c_during_connect() -> None:
    code = """
import sys, time
import pyrbd.rados as rados
cluster = rados.Rados(conf={"mon_host": "127.0.0.1:" + sys.argv[1], "key": "AQBSWwVrAAAAABAAAQIDBAUGBwgJCgsMDQ4PEA=="})
print("connecting", flush=True)
start = time.monotonic()
try:
    cluster.connect(timeout=60)
except KeyboardInterrupt:
    print("interrupted after", time.monotonic() - start)
    print(cluster.state)
    cluster.shutdown()
"""
    with server(lambda s: None) as port:
        p = run_python(code, str(port))
        assert p.stdout is not None
        assert p.stdout.readline() == "connecting\n"
        time.sleep(0.3)  # so that it is inside connect
        p.send_signal(signal.SIGINT)
        out, _ = p.communicate(timeout=10)
    assert out.startswith("interrupted after") and float(out.split()[2]) < 2
    assert out.splitlines()[1] == "configuring"
    assert p.returncode == 0


def test_ctrl_c_in_the_middle_of_io_leaves_the_client_usable(conf: str, name: str, ioctx: rados.Ioctx) -> None:
    rbd.RBD().create(ioctx, name, 64 << 20)
    code = """
import os, signal, sys, threading, time
import pyrbd.rados as rados, pyrbd.rbd as rbd
cluster = rados.Rados(conffile=sys.argv[1])
cluster.connect()
with cluster.open_ioctx("rbd") as ioctx, rbd.Image(ioctx, sys.argv[2]) as image:
    stop = threading.Event()
    def interrupt():
        while not stop.wait(0.013):
            os.kill(os.getpid(), signal.SIGINT)
    armed = False
    def handler(*args):  # so that none comes where there is no try
        global armed
        if armed:
            armed = False
            signal.default_int_handler(*args)
    signal.signal(signal.SIGINT, handler)
    data = os.urandom(5 << 20)
    image.write(data, 1 << 20)
    threading.Thread(target=interrupt, daemon=True).start()
    interrupted = 0
    end = time.monotonic() + 3
    while time.monotonic() < end:
        try:
            armed = True
            for i in range(50):
                assert image.read((1 << 20) + i * 4096, 4096) == data[i * 4096:(i + 1) * 4096]
            assert image.read(1 << 20, len(data)) == data
            armed = False
        except KeyboardInterrupt:
            interrupted += 1
    stop.set()
    assert interrupted > 3, interrupted
    assert image.read(1 << 20, len(data)) == data
    image.write(b"still alive", 0)
    assert image.read(0, 11) == b"still alive"
print("ok")
"""
    out, _ = run_python(code, conf, name).communicate(timeout=60)
    assert out.splitlines()[-1] == "ok", out


def test_a_fork_is_noticed(conf: str) -> None:
    code = """
import os, sys, warnings
warnings.simplefilter("ignore")
import pyrbd.rados as rados
with rados.Rados(conffile=sys.argv[1]) as cluster:
    io = cluster.open_ioctx("rbd")
    io.write_full("forked", b"x")
    pid = os.fork()
    if pid == 0:
        try:
            io.read("forked")
            os._exit(1)
        except rados.RadosStateError as e:
            assert "fork" in str(e)
        with rados.Rados(conffile=sys.argv[1]) as again:
            assert again.open_ioctx("rbd").read("forked") == b"x"
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert io.read("forked") == b"x"
    io.remove_object("forked")
print("ok")
"""
    out, _ = run_python(code, conf).communicate(timeout=60)
    assert out.splitlines()[-1] == "ok", out


def test_exit_without_shutdown_does_not_hang(conf: str) -> None:
    code = """
import sys, threading
import pyrbd.rados as rados
cluster = rados.Rados(conffile=sys.argv[1]); cluster.connect()
io = cluster.open_ioctx("rbd")
io.write_full("exit", b"x"); io.remove_object("exit")
print("ok")
"""
    start = time.monotonic()
    p = run_python(code, conf)
    out, _ = p.communicate(timeout=20)
    assert out == "ok\n" and p.returncode == 0
    assert time.monotonic() - start < 10


def test_no_thread_or_socket_is_left_after_shutdown(conf: str) -> None:
    before = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with rados.Rados(conffile=conf) as cluster, cluster.open_ioctx("rbd") as io:
            io.write_full("leak", b"x")
            io.remove_object("leak")
    assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == before


def test_sixteen_threads_share_a_client(ioctx: rados.Ioctx, name: str) -> None:
    rbd.RBD().create(ioctx, name, 16 << 20, 20)
    errors: list[BaseException] = []
    with rbd.Image(ioctx, name) as image:

        def work(k: int) -> None:
            try:
                for i in range(40):
                    block = bytes([k, i]) * 2048
                    image.write(block, (k << 20) + i * 4096)
                    assert image.read((k << 20) + i * 4096, 4096) == block
            except BaseException as e:
                errors.append(e)

        threads = [threading.Thread(target=work, args=(k,)) for k in range(16)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert not errors
        for k in range(16):
            assert image.read(k << 20, 40 * 4096) == b"".join(bytes([k, i]) * 2048 for i in range(40))


def test_mon_commands(handle: rados.Rados) -> None:
    result, out, _ = handle.mon_command('{"prefix": "osd pool ls", "format": "json"}', b"")
    assert result == 0 and b'"rbd"' in out
    result, _, status = handle.mon_command('{"prefix": "no such command"}', b"")
    assert result == -22 and status
    stats = handle.get_cluster_stats()
    assert set(stats) == {"kb", "kb_used", "kb_avail", "num_objects"} and stats["kb"] > stats["kb_used"] > 0


def test_pools(handle: rados.Rados, ceph_cli: Callable[..., bytes]) -> None:
    pool = f"pool-{os.getpid()}"
    handle.create_pool(pool)
    assert pool in ceph_cli("osd", "pool", "ls").decode().split()
    assert handle.pool_exists(pool) and pool in handle.list_pools()
    pool_id = handle.pool_lookup(pool)
    assert pool_id is not None and handle.pool_reverse_lookup(pool_id) == pool
    with pytest.raises(rados.ObjectExists):
        handle.create_pool(pool)
    with handle.open_ioctx2(pool_id) as io:
        assert io.get_pool_name() == pool
        io.application_enable("rbd")
        assert io.application_list() == ["rbd"]
        io.write("x", b"data")
        handle.delete_pool(pool)
        assert pool not in ceph_cli("osd", "pool", "ls").decode().split()
        with pytest.raises(rados.ObjectNotFound, match="pool"):
            io.read("x")  # fails, and does not wait for ever
    assert handle.pool_lookup(pool) is None
    with pytest.raises(rados.ObjectNotFound):
        handle.delete_pool(pool)


def test_an_interrupted_write_is_not_sent_again(conf: str, ioctx: rados.Ioctx) -> None:
    """It must not undo, after a reconnect, what its owner wrote since."""
    from pyrbd.rados.operations import ObjectOperation

    ioctx.write_full("interrupted", b"first")
    objecter = ioctx._client.objecter
    op = objecter.operation(ioctx._io._target("interrupted"), ObjectOperation().write_full(b"interrupted"))
    with objecter.lock:  # as if the interrupt came after it was placed, before it was sent
        op.tid = next(objecter._tids)
        session = objecter._place(op)
        assert session is not None
        session.queue.remove(op)
    op.abandon()
    ioctx.write_full("interrupted", b"second")
    session.abort(rados.OSError("cut by the test"))
    assert ioctx.read("interrupted") == b"second"
    assert op.done and not session.ops
    ioctx.remove_object("interrupted")


def test_an_image_that_is_not_closed_stops_watching(ioctx: rados.Ioctx, name: str) -> None:
    rbd.RBD().create(ioctx, name, 1 << 20)
    rbd.Image(ioctx, name)  # dropped at once
    end = time.monotonic() + 10
    while True:
        try:
            rbd.RBD().remove(ioctx, name)
            return
        except rbd.ImageBusy:
            assert time.monotonic() < end
