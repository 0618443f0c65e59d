"""Where a client looks for monitors: all forms of `mon_host`, beside librados, and the DNS."""

from __future__ import annotations

import json
import re
import select
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pyrbd import rados
from pyrbd.errors import ConfigError
from pyrbd.rados.config import Config
from pyrbd.rados.monhost import find_monitors
from tests import oracle

# A and B are addresses of the case on loopback, P is a port that it alone has
VALUES = [
    "A",
    "A:6789",
    "A:3300",
    "A:P",
    "A:P,B:P",
    "A;B",
    "A B:P",
    "A, B",
    "A ; B",
    "A,A",
    "v2:A",
    "v2:A:P",
    "v1:A",
    "v1:A:P",
    "v2:A:3300/0",
    "v2:A:P/12",
    "A/5",
    "any:A",
    "any:A:3300",
    "any:A:P",
    "[v2:A:3300/0,v1:A:6789/0]",
    "[v2:A:P],[v2:B:P]",
    "[v2:A:P/0,v1:A:6789/0] [v2:B:P/0,v1:B:6789/0]",
    "[v2:A:P,v1:A:6789][v2:B:P]",
    "v2:A:P,v1:A:6789",
    "v2:A:P v2:B:P",
    "[A]",
    "[A]:P",
    "A:",
    "A:0",
    "[::1]:P",
    "v2:[::1]:P",
    "[v2:[::1]:P]",
    "[v2:[::1]:P,v1:[::1]:6789]",
    "localhost:P",
    "nowhere.invalid",
    "A:x",
    "A/x",
    ":P",
    "[::1]x",
    "[v2:A",
    "[]",
    ",",
    "v3:A",
    "Ax",
    "[v2:A:P,v1:A:6789]:99",
    "256.1.1.1",
    "A:3300/-1",
    "fe80::1%lo",
]
LENIENT = {
    "A:99999": "taken for a name with a service, and the number is cut",
    "[v2:A:P, v1:A:6789]": "a blank in brackets",
    "A\tB": "other white space",
    "[v1:A:6789,v2:A:3300]": "the first address of a vector is taken",
    "v2:localhost:P": "a kind before a name",
    "nowhere.invalid,A": "one name that cannot be resolved among others",
}
"""What librados sees in another way; here it is as in `test_what_only_we_take`."""

THEIRS = """
import json, rados, sys, threading
values = json.load(sys.stdin)
out = [None] * len(values)
def ask(i):
    conf = {"mon_host": values[i], "auth_client_required": "none", "client_mount_timeout": "1"}
    try:
        rados.Rados(rados_id="x", conf={**conf, "mon_client_hunt_parallel": "0"}).connect()
    except rados.Error as e:
        out[i] = e.errno
threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(values))]
for n in range(0, len(threads), 10):
    for t in threads[n:n + 10]:
        t.start()
    for t in threads[n:n + 10]:
        t.join()
print(json.dumps(out))
"""


def placed(value: str, number: int, port: int) -> str:
    """The value of a case with addresses and ports in place of the letters."""
    for letter, last in (("A", 1), ("B", 2)):
        value = re.sub(rf"(?<![a-z]){letter}(?![a-z])", f"127.66.{number}.{last}", value)
    return re.sub(r"\bP\b", str(port), value.replace("Ax", f"127.66.{number}.1x"))


class Ears:
    """Listeners on loopback that note who was spoken to by messenger v2."""

    def __init__(self) -> None:
        self.heard: set[tuple[str, int]] = set()
        self._listeners: list[socket.socket] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def listen(self, host: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listeners.append(socket.create_server((host, port), family=family))

    def _run(self) -> None:
        accepted: list[socket.socket] = []
        while not self._stop.is_set():
            for s in select.select([*self._listeners, *accepted], [], [], 0.05)[0]:
                if s in accepted:
                    accepted.remove(s)
                    try:
                        if s.recv(8) == b"ceph v2\n":
                            self.heard.add(s.getsockname()[:2])
                    except OSError:
                        pass
                    s.close()
                else:
                    accepted.append(s.accept()[0])
        for s in (*self._listeners, *accepted):
            s.close()

    @contextmanager
    def listening(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join()


def free_ports(n: int) -> list[int]:
    held = [socket.create_server(("::1", 0), family=socket.AF_INET6) for _ in range(n)]
    ports = [s.getsockname()[1] for s in held]
    for s in held:
        s.close()
    return ports


def ours(value: str) -> set[tuple[str, int]] | int:
    """The addresses at which we would look, or the errno with which we refuse."""
    config = Config(environ={})
    config.set("mon_host", value)
    try:
        return {(c.addr.host, c.addr.port) for c in find_monitors(config)}
    except ConfigError as e:
        return set() if "only messenger v1" in str(e) else e.errno


def test_librados_looks_at_the_same_places() -> None:
    ports = free_ports(len(VALUES))
    values = [placed(v, i, p) for i, (v, p) in enumerate(zip(VALUES, ports))]
    ears = Ears()
    for i, (value, port) in enumerate(zip(values, ports)):
        for last in (1, 2):
            for p in (3300, 6789, port):
                ears.listen(f"127.66.{i}.{last}", p)
        if "::1" in value or "localhost" in value:
            ears.listen("::1", port)
        if "localhost" in value:
            ears.listen("127.0.0.1", port)
    command = oracle.argv("", "python3", "-c", THEIRS)
    with ears.listening():
        done = subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, check=False)
    if "No module named" in done.stderr:
        pytest.skip("python3-rados is not installed: there is no oracle for this test")
    assert done.returncode == 0, done.stderr
    theirs = []
    for i, (code, port) in enumerate(zip(json.loads(done.stdout.splitlines()[-1]), ports)):
        heard = {(h, p) for h, p in ears.heard if h.startswith(f"127.66.{i}.") or p == port}
        theirs.append(heard if code == 110 else code)
    expected = [(v, t) for v, t in zip(values, theirs)]
    differ = [(v, ours(v), t) for v, t in expected if ours(v) != t]
    assert not differ


def test_what_only_we_take() -> None:
    found = {v: ours(placed(v, 0, 4000)) for v in LENIENT}
    a, b = "127.66.0.1", "127.66.0.2"
    assert found.pop("A:99999") == 22
    assert found.pop("v2:localhost:P") in ({("127.0.0.1", 4000)}, {("127.0.0.1", 4000), ("::1", 4000)})
    assert found == {
        "[v2:A:P, v1:A:6789]": {(a, 4000)},
        "A\tB": {(a, 3300), (b, 3300)},
        "[v1:A:6789,v2:A:3300]": {(a, 3300)},
        "nowhere.invalid,A": {(a, 3300)},
    }


def test_a_map_in_a_file(conf: str, tmp_path: Path, ceph_cli: Any) -> None:
    """The option `monmap`, with what ``ceph mon getmap`` wrote."""
    path = tmp_path / "monmap"
    path.write_bytes(ceph_cli("mon", "getmap", "-o", "-"))
    options = {"mon_host": "v2:127.0.0.1:1", "monmap": str(path)}
    with rados.Rados(conffile=conf, conf=options) as cluster:
        assert cluster.list_pools()
    path.write_bytes(b"\0" * 40)
    with pytest.raises(rados.InvalidArgumentError, match="no monmap"):
        rados.Rados(conffile=conf, conf=options).connect(timeout=5)


# ---------------------------------------------------------------- the DNS


class Zone:
    """A DNS server for a few records, on a port of loopback."""

    def __init__(self, text: str) -> None:
        dns = pytest.importorskip("dns.zone", reason="dnspython is not installed")
        self.zone = dns.from_text(text, origin="example.test.", relativize=False)
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.port: int = self.sock.getsockname()[1]
        self.asked: list[str] = []
        self.silent = False

    def _run(self) -> None:
        import dns.message
        import dns.rcode

        while True:
            packet, peer = self.sock.recvfrom(4096)
            if not packet:
                return
            query = dns.message.from_wire(packet)
            question = query.question[0]
            self.asked.append(question.name.to_text())
            if self.silent:
                continue
            reply = dns.message.make_response(query)
            found = self.zone.get_rrset(question.name, question.rdtype)
            if found is not None:
                reply.answer.append(found)
            elif self.zone.get_node(question.name) is None:
                reply.set_rcode(dns.rcode.NXDOMAIN)
            self.sock.sendto(reply.to_wire(), peer)

    @contextmanager
    def served(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """With the resolver of this process asking here."""
        import dns.name
        import dns.resolver

        resolver = dns.resolver.Resolver(configure=False)
        resolver.nameservers = ["127.0.0.1"]
        resolver.port = self.port
        resolver.search = [dns.name.from_text("example.test.")]
        monkeypatch.setattr(dns.resolver, "default_resolver", resolver)
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield
        finally:
            self.sock.sendto(b"", ("127.0.0.1", self.port))
            thread.join()
            self.sock.close()


HEAD = "@ 60 IN SOA ns hostmaster 1 60 60 60 60\n@ 60 IN NS ns\nns 60 IN A 127.0.0.1\n"


def test_srv_records_of_a_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    """With priorities and weights, and hosts that have several addresses."""
    zone = Zone(
        HEAD + "_ceph-mon._tcp 60 IN SRV 10 20 3300 mon1\n_ceph-mon._tcp 60 IN SRV 20 30 7000 mon2\n"
        "_ceph-mon._tcp 60 IN SRV 30 0 6789 mon1\n_ceph-mon._tcp 60 IN SRV 30 0 3300 nowhere\n"
        "mon1 60 IN A 10.0.0.1\nmon1 60 IN AAAA fd00::1\nmon2 60 IN A 10.0.0.2\n"
        "_other._tcp.sub 60 IN SRV 0 0 3300 mon2\n"
    )
    with zone.served(monkeypatch):
        config = Config(environ={})
        found = [(c.name, c.addr.host, c.addr.port, c.priority, c.weight) for c in find_monitors(config)]
        assert sorted(found) == [
            ("mon1", "10.0.0.1", 3300, 10, 20),
            ("mon1", "fd00::1", 3300, 10, 20),
            ("mon2", "10.0.0.2", 7000, 20, 30),
        ]
        assert "_ceph-mon._tcp.example.test." in zone.asked
        config.set("mon_dns_srv_name", "other_sub.example.test")
        assert [str(c.addr) for c in find_monitors(config)] == ["v2:10.0.0.2:3300/0"]
        config.set("mon_dns_srv_name", "unknown")
        with pytest.raises(ConfigError, match=r"no monitor address is known; no DNS record _unknown\._tcp") as e:
            find_monitors(config)
        assert e.value.errno == 2
        config.set("mon_host", "1.2.3.4")
        zone.asked.clear()
        assert [c.addr.host for c in find_monitors(config)] == ["1.2.3.4"] and not zone.asked


def test_a_client_finds_its_cluster_by_the_dns(conf: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And is not held up by a server that does not answer."""
    text = Path(conf).read_text()
    line = next(line for line in text.splitlines() if line.startswith("mon_host"))
    address = re.search(r"v2:([\d.]+):(\d+)", line)
    assert address is not None
    zone = Zone(HEAD + f"_ceph-mon._tcp 60 IN SRV 0 0 {address[2]} mon\nmon 60 IN A {address[1]}\n")
    path = tmp_path / "ceph.conf"
    path.write_text(re.sub(r"(?m)^mon_host.*$", "", text))
    with zone.served(monkeypatch):
        with rados.Rados(conffile=str(path)) as cluster:
            assert cluster.list_pools()
        zone.silent = True
        with pytest.raises(rados.TimedOut, match=r"the DNS did not say within 0\.5 s"):
            rados.Rados(conffile=str(path)).connect(timeout=0.5)
        zone.silent = False


def test_names_are_resolved_beside_an_event_loop(conf: str, tmp_path: Path) -> None:
    import asyncio

    from pyrbd import aio

    text = Path(conf).read_text()
    address = re.search(r"v2:127\.0\.0\.1:(\d+)", text)
    if address is None:
        pytest.skip("the cluster is not on localhost")
    path = tmp_path / "ceph.conf"
    path.write_text(re.sub(r"(?m)^mon_host.*$", f"mon_host = localhost:{address[1]}", text))

    async def connect() -> None:
        async with aio.Rados(conffile=str(path)) as cluster:
            assert (await cluster.mon_command('{"prefix": "osd pool ls"}', b""))[0] == 0

    asyncio.run(connect())
