"""The straight path of small reads, and all that drives a read off it: late answers, connections that are cut or
damaged, other threads, maps that change, interrupts."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from pyrbd import rados, rbd
from tests.interrupts import Interrupter, known_version
from tests.proxy import Fault, Proxy, redirected
from tests.test_proxy import Plan

BLOCK = 4096
BLOCKS = 256


def content(k: int) -> bytes:
    return k.to_bytes(4, "little") * (BLOCK // 4)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with redirected() as p:
        yield p


@pytest.fixture
def filled(ioctx: rados.Ioctx, name: str) -> str:
    """Small objects; block k has k everywhere."""
    rbd.RBD().create(ioctx, name, BLOCK * BLOCKS, 16, features=1)
    with rbd.Image(ioctx, name) as image:
        image.write(b"".join(map(content, range(BLOCKS))), 0)
    return name


class Counted:
    """How many requests are made the long way."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cluster: rados.Rados) -> None:
        self.submitted = self.adopted = 0
        objecter = cluster.client.objecter
        submit, adopt = objecter.submit, objecter.adopt

        def count(*args: object, **kwargs: object) -> object:
            self.submitted += 1
            return submit(*args, **kwargs)  # type: ignore[arg-type]

        def adopted(*args: object) -> None:
            self.adopted += 1
            adopt(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(objecter, "submit", count)
        monkeypatch.setattr(objecter, "adopt", adopted)


def read_all(image: rbd.Image, rng: random.Random, number: int) -> None:
    for _ in range(number):
        k = rng.randrange(BLOCKS)
        assert image.read(k * BLOCK, BLOCK) == content(k)


def test_reads_take_it(conf: str, filled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        rados.Rados(conffile=conf) as cluster,
        cluster.open_ioctx("rbd") as io,
        rbd.Image(io, filled, read_only=True) as image,
    ):
        image.read(0, BLOCK * BLOCKS)  # all OSDs are connected
        counted = Counted(monkeypatch, cluster)
        read_all(image, random.Random(1), 200)
        assert counted.submitted + counted.adopted < 20
        assert cluster.client.objecter.throttle.in_flight == (0, 0)


def test_late_answers(conf: str, proxy: Proxy, filled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They come after the reader has stopped waiting for them on the straight path."""
    proxy.plan = lambda target: Fault(delay=0.08)
    with (
        rados.Rados(conffile=conf) as cluster,
        cluster.open_ioctx("rbd") as io,
        rbd.Image(io, filled, read_only=True) as image,
    ):
        image.read(0, BLOCK * BLOCKS)
        counted = Counted(monkeypatch, cluster)
        read_all(image, random.Random(2), 12)
        assert counted.adopted == 12 and counted.submitted == 0


@pytest.mark.timeout(180)
@pytest.mark.parametrize("what", ["cut_up", "cut_down", "damaged"])
def test_connections_that_break(conf: str, proxy: Proxy, filled: str, what: str) -> None:
    rng = random.Random(what)
    where = 0

    def alter(up: bool, at: int, data: bytes) -> bytes:
        if not up and at < where <= at + len(data):
            changed = bytearray(data)
            changed[where - at - 1] ^= 0x10
            return bytes(changed)
        return data

    with (
        rados.Rados(conffile=conf, conf={"rados_osd_op_timeout": "60"}) as cluster,
        cluster.open_ioctx("rbd") as io,
        rbd.Image(io, filled, read_only=True) as image,
    ):
        plan = Plan(proxy, osds=True)
        plan.of_monitors(cluster)
        before = cluster.client.objecter.resends
        for _ in range(150):
            where = rng.randrange(700, 12000)
            plan.fault = Fault(alter=alter) if what == "damaged" else Fault(**{what: where})
            proxy.reset_all()
            read_all(image, rng, 6)
        assert plan.struck >= 150
        assert cluster.client.objecter.resends > before + 50


def test_threads_and_asynchronous_reads_beside_it(conf: str, filled: str) -> None:
    errors: list[BaseException] = []
    with (
        rados.Rados(conffile=conf) as cluster,
        cluster.open_ioctx("rbd") as io,
        rbd.Image(io, filled, read_only=True) as image,
    ):

        def work(seed: int) -> None:
            rng = random.Random(seed)
            try:
                for _ in range(150):
                    read_all(image, rng, 5)
                    k = rng.randrange(BLOCKS)
                    got: list[bytes | None] = []
                    image.aio_read(
                        k * BLOCK, BLOCK, lambda c, data, got=got: got.append(data)
                    ).wait_for_complete_and_cb()
                    assert got == [content(k)]
            except BaseException as e:
                errors.append(e)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
        for t in threads:
            t.start()
        for t in threads:
            t.join(60)
            assert not t.is_alive()
    assert not errors, errors[0]


def test_maps_that_change_and_a_pause(conf: str, filled: str, ceph_cli: Callable[..., bytes]) -> None:
    stop = threading.Event()
    errors: list[BaseException] = []
    done = [0]
    with (
        rados.Rados(conffile=conf, conf={"rados_osd_op_timeout": "60"}) as cluster,
        cluster.open_ioctx("rbd") as io,
        rbd.Image(io, filled, read_only=True) as image,
    ):

        def work() -> None:
            rng = random.Random(9)
            try:
                while not stop.is_set():
                    read_all(image, rng, 1)
                    done[0] += 1
            except BaseException as e:
                errors.append(e)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            for osd in ("0", "1", "2"):
                ceph_cli("osd", "primary-affinity", f"osd.{osd}", "0")
                ceph_cli("osd", "primary-affinity", f"osd.{osd}", "1")
            ceph_cli("osd", "set", "pause")
            cluster.wait_for_latest_osdmap()
            time.sleep(0.1)  # what was in flight
            before = done[0]
            time.sleep(0.3)
            assert done[0] - before <= 1, "a paused cluster is not read"
            ceph_cli("osd", "unset", "pause")
            end = time.monotonic() + 20
            while done[0] < before + 50:
                assert time.monotonic() < end, "reading goes on after the pause"
                time.sleep(0.01)
        finally:
            ceph_cli("osd", "unset", "pause")
            stop.set()
            thread.join(60)
        assert not thread.is_alive()
        assert not errors, errors[0]


@known_version
@pytest.mark.timeout(120)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_at_any_instruction(conf: str, filled: str) -> None:
    with (
        rados.Rados(conffile=conf, conf={"rados_osd_op_timeout": "20"}) as cluster,
        cluster.open_ioctx("rbd") as io,
        rbd.Image(io, filled, read_only=True) as image,
    ):
        image.read(0, BLOCK * BLOCKS)
        n = 1
        while True:
            tracer = Interrupter(n)
            try:
                with tracer:
                    image.read(0, BLOCK)
            except KeyboardInterrupt:
                pass
            begun = time.monotonic()
            for k in (0, n % BLOCKS):
                assert image.read(k * BLOCK, BLOCK) == content(k), tracer.where
            assert time.monotonic() - begun < 5, f"an interrupt at {tracer.where} holds up what follows"
            if tracer.left > 0:
                break
            n += 1
        assert n > 40
        assert cluster.client.objecter.throttle.in_flight == (0, 0)
