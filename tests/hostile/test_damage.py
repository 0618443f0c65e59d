"""Somebody between us and real daemons changes bytes, at random: connections break, and nothing else does."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator

import pytest

from pyrbd import rados
from pyrbd.msgr.types import EntityAddr
from tests.proxy import Fault, Proxy, redirected
from tests.test_proxy import RECORD, Log

BLOCK = 1 << 16


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with redirected() as p:
        yield p


class Vandal:
    """Changes, drops, doubles and swaps bytes of some pieces of the streams while it is `active`."""

    def __init__(self, seed: str, proxy: Proxy) -> None:
        self.active = False
        self.struck = {"up": 0, "down": 0}
        self._rng = random.Random(seed)
        proxy.plan = self._plan

    def _plan(self, addr: EntityAddr) -> Fault:
        return Fault(alter=self._alter)

    def _alter(self, up: bool, at: int, data: bytes) -> bytes:
        rng = self._rng
        if not self.active or rng.random() > 0.01:
            return data
        self.struck["up" if up else "down"] += 1
        where = rng.randrange(len(data))
        way = rng.randrange(5)
        if way == 0:
            return data[:where] + data[where + 1 :]
        if way == 1:
            return data[:where] + rng.randbytes(rng.choice((1, 4, 32))) + data[where:]
        if way == 2:
            return data[:where] + bytes(4) + data[where + 4 :]
        if way == 3:
            return data + data[where:]
        return data[:where] + bytes([data[where] ^ 1 << rng.randrange(8)]) + data[where + 1 :]


class Load(threading.Thread):
    """Appends numbered records, and writes and reads blocks that it remembers, until it is told to stop."""

    def __init__(self, ioctx: rados.Ioctx, name: str, seed: int) -> None:
        super().__init__(name=f"load-{seed}", daemon=True)
        self.log = Log(f"{name}.log.{seed}")
        self.error: BaseException | None = None
        self.done = 0
        self.stopping = False
        self._ioctx = ioctx
        self._oid = f"{name}.data.{seed}"
        self._rng = random.Random(seed)

    def run(self) -> None:
        try:
            model = bytearray(4 * BLOCK)
            into = bytearray(BLOCK)
            self._ioctx.write_full(self._oid, bytes(model))
            while not self.stopping:
                self._step(model, into)
                self.done += 1
        except BaseException as e:
            self.error = e

    def _step(self, model: bytearray, into: bytearray) -> None:
        rng = self._rng
        n = self.log.next()
        flight = [self._ioctx.aio_append(self.log.oid, RECORD.pack(n))]
        self.log.sure.append(n)
        offset, length = rng.randrange(3 * BLOCK), rng.choice((1, 500, 4096, BLOCK))
        data = rng.randbytes(length)
        self._ioctx.write(self._oid, data, offset)
        model[offset : offset + length] = data
        at = rng.randrange(3 * BLOCK)
        assert self._ioctx.read(self._oid, BLOCK, at) == model[at : at + BLOCK], "wrong data"
        if rng.random() < 0.5:
            assert self._ioctx.read_into(self._oid, into, at) == BLOCK
            assert into == model[at : at + BLOCK], "wrong data in the caller's buffer"
        for completion in flight:
            completion.wait_for_complete()
            assert completion.get_return_value() == 0


@pytest.mark.timeout(180)
@pytest.mark.parametrize("mode", ["crc", "secure"])
def test_random_damage_does_no_harm(proxy: Proxy, conf: str, name: str, mode: str) -> None:
    vandal = Vandal(mode, proxy)
    settings = {"ms_client_mode": mode, "ms_mon_client_mode": mode}
    with rados.Rados(conffile=conf, conf=settings) as cluster, cluster.open_ioctx("rbd") as ioctx:
        loads = [Load(ioctx, name, i) for i in range(3)]
        for load in loads:
            load.start()
        vandal.active = True
        end = time.monotonic() + 12
        while time.monotonic() < end and all(load.is_alive() for load in loads):
            time.sleep(0.1)
        vandal.active = False
        for load in loads:
            load.stopping = True
        for load in loads:
            load.join(60)
            assert not load.is_alive()
            assert load.error is None, load.error
            load.log.check(ioctx)
        assert cluster.mon_command('{"prefix": "osd pool ls"}', b"", timeout=30)[0] == 0
        resends = cluster.client.objecter.resends
    assert vandal.struck["up"] > 10 and vandal.struck["down"] > 10
    assert resends > 10
    assert sum(load.done for load in loads) > 50
    assert len(proxy.pipes) < 12 * 40, "connections are made in a busy loop"
