"""Records `data/*.json.gz` from real daemons: ``python -m tests.msgr.record``.

Two connections, byte for byte: one to a monitor, with renewals of tickets, one to an
OSD. What is random on our side is fixed, and the keys of that cluster, which is gone, are kept
with them, so that the tests can play our part again.
``sessions`` and, in secure mode, ``secure`` are of a cluster that is started for it. The others
are of tentacle with keys of both types, by ``python -m tests.msgr.record NAME CONF [KEYRING]``:
``aes256k`` is what the name says;
``mixed`` has secrets of services of type aes.
"""

from __future__ import annotations

import gzip
import json
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from pyrbd.msgr import crypto  # noqa: E402
from pyrbd.msgr.cephx import CephxAuthorizer, CephxMonAuthenticator  # noqa: E402
from pyrbd.msgr.connection import Connection, Message, Ready  # noqa: E402
from pyrbd.msgr.frames import MODE_CRC, MODE_SECURE  # noqa: E402
from pyrbd.msgr.messages import MAuth, MAuthReply, MMonSubscribe, MOSDMap, SubscribeItem  # noqa: E402
from pyrbd.msgr.osdop import FLAG_READ, FLAG_WRITE, NOSNAP, encode_object, encode_request  # noqa: E402
from pyrbd.msgr.types import ENTITY_TYPE_AUTH, ENTITY_TYPE_MON, ENTITY_TYPE_OSD, EntityAddr  # noqa: E402
from pyrbd.osdmap import OSDMap  # noqa: E402
from pyrbd.rados.config import Config  # noqa: E402
from pyrbd.rados.keyring import find_key  # noqa: E402
from pyrbd.rados.monhost import find_monitors  # noqa: E402
from pyrbd.rados.operations import ObjectOperation  # noqa: E402
from pyrbd.testing.native import NativeCluster  # noqa: E402

DATA = Path(__file__).parent / "data"
FIXED = 0x0123456789ABCDEF


def fixed_bytes(n: int) -> bytes:
    """Our challenges, nonces and confounders."""
    return (FIXED.to_bytes(8, "little") * (n // 8 + 1))[:n]


class Tape:
    """A connection that writes down what passes."""

    def __init__(self, conn: Connection, addr: EntityAddr) -> None:
        self.conn = conn
        self.log: list[tuple[str, str]] = []
        self.sock = socket.create_connection((addr.host, addr.port), timeout=5)

    def send(self, buffers: list[Any]) -> None:
        for b in buffers:
            self.sock.sendall(b)
            self.log.append(("tx", bytes(b).hex()))

    def until(self, kind: type, n: int = 1) -> list[Any]:
        found: list[Any] = []
        while len(found) < n:
            self.send(self.conn.data_to_send())
            data = self.sock.recv(65536)
            self.log.append(("rx", data.hex()))
            for event in self.conn.receive_data(data):
                if isinstance(event, Message):
                    event = event._replace(front=bytes(event.front), middle=bytes(event.middle))  # type: ignore[arg-type]
                if isinstance(event, kind):
                    found.append(event)
        return found


def main() -> None:
    DATA.mkdir(exist_ok=True)
    crypto.random_bytes = fixed_bytes
    if len(sys.argv) > 2:
        name, conf, *keyring = sys.argv[1:]
        save(name, record(conf, *keyring))
        return
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        cluster = NativeCluster(Path(directory) / "c")
        cluster.up()
        try:
            save("sessions", record(str(cluster.conf)))
            save("secure", record(str(cluster.conf), mode=MODE_SECURE))
        finally:
            cluster.down()


def save(name: str, sessions: dict[str, Any]) -> None:
    (DATA / f"{name}.json.gz").write_bytes(gzip.compress(json.dumps(sessions).encode(), mtime=0))


def record(conf: str, keyring: str = "", mode: int = MODE_CRC) -> dict[str, Any]:
    config = Config()
    config.read_file(conf)
    if keyring:
        config.set("keyring", keyring)
    key = find_key(config)
    mon_addr = find_monitors(config)[0]
    login = CephxMonAuthenticator("admin", key)
    mon = Tape(Connection(ENTITY_TYPE_MON, mon_addr, login, own_nonce=77, modes=(mode,)), mon_addr)
    ready: Ready = mon.until(Ready)[0]
    subscribe = MMonSubscribe({"monmap": SubscribeItem(0), "osdmap": SubscribeItem(0)})
    mon.send(mon.conn.encode_message(0, subscribe.TYPE, subscribe.VERSION, subscribe.COMPAT, 127, subscribe.to_bytes()))
    messages = mon.until(Message, 2)
    log = list(mon.log)
    renewals = []
    for prove in (False, True):
        auth = mon.conn.auth
        assert isinstance(auth, CephxMonAuthenticator)
        payload = auth.renewal_request(ready.auth.tickets[ENTITY_TYPE_AUTH], ready.global_id, prove=prove)
        ask = MAuth(protocol=auth.method, auth_payload=payload)
        mon.send(mon.conn.encode_message(0, ask.TYPE, ask.VERSION, ask.COMPAT, 127, ask.to_bytes()))
        reply = next(m for m in iter(lambda: mon.until(Message)[0], None) if m.header.type == MAuthReply.TYPE)
        renewals.append([prove, payload.hex(), MAuthReply.decode_front(reply.front, 1).result_bl.hex()])
    maps = next(m for m in messages if m.header.type == MOSDMap.TYPE)
    osdmap = OSDMap.decode_full(max(MOSDMap.decode_front(maps.front, 4).maps.items())[1])

    pool = osdmap.pool_ids["rbd"]
    raw_hash = osdmap.object_to_raw_hash(pool, "recorded")
    seed = osdmap.raw_hash_to_pg(pool, raw_hash).seed
    primary, _ = osdmap.pg_acting_primary(pool, seed)
    addr = osdmap.osd_addrs(primary).msgr2
    assert addr is not None
    ticket = ready.auth.tickets[ENTITY_TYPE_OSD]
    osd = Tape(
        Connection(
            ENTITY_TYPE_OSD,
            addr,
            CephxAuthorizer(ticket, ready.global_id),
            own_nonce=77,
            global_id=ready.global_id,
            modes=(mode,),
        ),
        addr,
    )
    osd.until(Ready)
    operations = [
        (FLAG_WRITE, ObjectOperation().write(3, b"recorded by a test" * 300)),
        (FLAG_READ, ObjectOperation().read(0, 8192)),
        (FLAG_READ, ObjectOperation().read(5, 4).stat().read(0, 10)),
        (FLAG_WRITE, ObjectOperation().create(True)),  # fails: it exists
        (FLAG_WRITE, ObjectOperation().setxattr("name", b"value").omap_set({b"k": b"v"})),
        (FLAG_READ, ObjectOperation().getxattr("name").omap_get_vals()),
        (FLAG_WRITE, ObjectOperation().write(0, b"in bulk").truncate(70_000)),
        (FLAG_READ, ObjectOperation().read(1, 69_990)),
        (FLAG_WRITE, ObjectOperation().remove()),
    ]
    fronts = []
    for tid, (flags, op) in enumerate(operations, 1):
        front = encode_request(
            pool,
            seed,
            -1,
            raw_hash,
            osdmap.epoch,
            flags,
            (1_700_000_000, 5) if flags == FLAG_WRITE else (0, 0),
            encode_object(pool, b"recorded"),
            b"".join(op.ops),
            len(op),
            NOSNAP,
            0,
            (),
            0,
        )
        fronts.append(front.hex())
        osd.send(osd.conn.encode_message(tid, 42, 8, 3, 127, front, b"".join(map(bytes, op.indata))))
        osd.until(Message)
    return {
        "key": key.to_bytes().hex(),
        "random": FIXED,
        "mode": mode,
        "mon": {"addr": mon_addr.to_bytes().hex(), "global_id": ready.global_id, "log": log, "renewals": renewals},
        "osd": {
            "addr": addr.to_bytes().hex(),
            "ticket": [ticket.service_id, ticket.session_key.to_bytes().hex(), ticket.ticket_blob.hex()],
            "fronts": fronts,
            "log": osd.log,
        },
    }


if __name__ == "__main__":
    main()
