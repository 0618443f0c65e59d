"""Clusters in containers: what becomes of it when the engine does not do what is wanted, shown by a feigned one;
and, where an engine is asked for (see tests/containers), real clusters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pyrbd import rados, rbd
from pyrbd.testing import ClusterError
from pyrbd.testing.base import NotOffered
from pyrbd.testing.containers import DockerProvider
from pyrbd.testing.engine import LABEL, Engine, find_engine, labels, pack, unpack
from tests.conftest import own_cluster

errors = pytest.importorskip("docker.errors")

CLEAN = {
    "osdmap": {"num_up_osds": 3},
    "pgmap": {"pgs_by_state": [{"state_name": "active+clean", "count": 16}], "num_pgs": 16},
}


class Fake:
    """A container engine that notes what it is asked, and fails where it is told to."""

    def __init__(self) -> None:
        self.made: list[Any] = []
        """Containers and networks that have not been removed."""
        self.image: Any = SimpleNamespace(id="sha256:1", tags=["some/image"], attrs={"Config": {"Entrypoint": None}})
        self.pulled: list[str] = []
        self.fail: dict[str, BaseException] = {}
        self.overlaps = 0
        self.status = "running"
        self.commands: list[list[str]] = []
        self.files: dict[str, bytes] = {}
        self.answers: dict[str, tuple[int, bytes, bytes]] = {}
        """What programs in the container end with: exit status, stdout, stderr."""
        self.said = b""
        self.images = SimpleNamespace(get=self._get, pull=self._pull)
        self.networks = SimpleNamespace(create=self._network, list=lambda filters: self._list("network"))
        self.containers = SimpleNamespace(create=self._container, list=lambda all, filters: self._list("container"))
        self.api = SimpleNamespace(create_endpoint_config=lambda ipv4_address: {"address": ipv4_address})

    def _do(self, what: str) -> None:
        if what in self.fail:
            raise self.fail[what]

    def _get(self, name: str) -> Any:
        self._do("get")
        return self.image

    def _pull(self, name: str) -> Any:
        self.pulled.append(name)
        self._do("pull")
        return self.image

    def _list(self, kind: str) -> list[Any]:
        return [thing for thing in self.made if thing.kind == kind]

    def _remove(self, thing: Any, **how: Any) -> None:
        self._do(f"remove {thing.kind}")
        thing.removed = how
        self.made.remove(thing)

    def _network(self, name: str, **options: Any) -> Any:
        if self.overlaps:
            self.overlaps -= 1
            raise errors.APIError("Pool overlaps with other one on this address space")
        self._do("network")
        network = SimpleNamespace(kind="network", name=name, attrs={"Labels": options["labels"]}, options=options)
        network.remove = lambda: self._remove(network)
        self.made.append(network)
        return network

    def _container(self, image: str, **options: Any) -> Any:
        self._do("create")
        container = SimpleNamespace(kind="container", options=options, labels=options["labels"], status="created")
        container.remove = lambda **how: self._remove(container, **how)
        container.start = lambda: self._do("start")
        container.reload = lambda: setattr(container, "status", self.status)
        container.logs = lambda tail: self.said
        container.put_archive = self._put
        container.get_archive = lambda path: ([pack({"file": self.files[path]})], {})
        container.exec_run = self._exec
        self.made.append(container)
        return container

    def _put(self, path: str, data: bytes) -> None:
        import io
        import tarfile

        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive:
                content = archive.extractfile(member)
                assert content is not None
                self.files[f"{path}/{member.name}"] = content.read()

    def _exec(self, command: list[str], **options: Any) -> tuple[int, tuple[bytes, bytes]]:
        self.commands.append(command)
        line = " ".join(command)
        for word, (status, out, err) in self.answers.items():
            if word in line:
                return status, (out, err)
        if "mon_command" in line:
            asked = json.loads(command[-1])
            pools: Any = {"pools": [{"pg_num": 16}]}
            answer = {"status": CLEAN, "osd dump": pools}.get(asked["prefix"], {})
            return 0, (json.dumps([0, json.dumps(answer), ""]).encode(), b"")
        if command == ["ceph-mon", "--version"]:
            return 0, (b"ceph version 18.2.7 (abc) reef (stable)\n", b"")
        if "cat /pyrbd/run" in line:
            return 0, (b"77\n", b"")
        return 0, (b"", b"")


@pytest.fixture
def fake() -> Fake:
    return Fake()


def provider(fake: Fake, **options: Any) -> DockerProvider:
    return DockerProvider(find=lambda: Engine(fake, errors), **options)


def test_a_cluster_comes_and_goes(fake: Fake) -> None:
    ours = provider(fake)
    assert ours.unavailable() is None and not fake.pulled
    with ours.cluster(modes="secure", mons=2) as cluster:
        network, container = fake.made
        (address,) = (c["address"] for c in container.options["networking_config"].values())
        assert container.options["network"] == network.name
        assert not {"ports", "privileged", "volumes"} & set(container.options)
        text = cluster.conf.read_text()
        assert f"[v2:{address}:3300],[v2:{address}:3302]" in text and "ms_client_mode = secure" in text
        assert f"keyring = {cluster.conf.parent}/keyring" in text
        assert f"keyring = {cluster.conf.parent}" not in fake.files["/pyrbd/ceph.conf"].decode()
        assert (cluster.conf.parent / "keyring").stat().st_mode & 0o777 == 0o600
        assert (cluster.conf.parent / "keyring").read_bytes() == fake.files["/pyrbd/keyring"]
        assert cluster.daemons == ["mon.a", "mon.b", "mgr.x", "osd.0", "osd.1", "osd.2"]
        assert not cluster.can.lacking(["exec_tools", "kill_daemon", "second_cluster"])
        assert cluster.can.lacking(["cut_link", "local_tools"]) == ["cut_link", "local_tools"]
    assert not fake.made and not cluster.conf.exists()
    assert container.removed == {"force": True, "v": True}, "or its volumes stay"


def test_there_is_no_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nowhere.sock")
    with pytest.raises(ClusterError, match=r"no container engine \(DOCKER_HOST=unix:.*nowhere\.sock\)"):
        find_engine()
    assert "no container engine" in str(DockerProvider().unavailable())
    monkeypatch.setenv("DOCKER_HOST", "tcp://elsewhere:2375")
    with pytest.raises(ClusterError, match="on another machine"):
        find_engine()
    monkeypatch.setitem(sys.modules, "docker", None)
    with pytest.raises(ClusterError, match="Python package docker is missing"):
        find_engine()
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(ClusterError, match="from Linux only"):
        find_engine()


@pytest.mark.parametrize(
    "get, pull, policy, why",
    [
        (errors.ImageNotFound("x"), None, "never", "is absent, and none is to be pulled"),
        (errors.ImageNotFound("x"), errors.ImageNotFound("x"), "missing", "does not exist"),
        (errors.ImageNotFound("x"), errors.APIError("dial tcp: no such host"), "missing", "registry unreachable"),
        (errors.APIError("out of order"), None, "missing", "out of order"),
        (None, None, "always", "pull is one of missing, never"),
    ],
)
def test_there_is_no_image(fake: Fake, get: Exception, pull: Exception, policy: str, why: str) -> None:
    fake.fail = {what: e for what, e in (("get", get), ("pull", pull)) if e}
    reason = provider(fake, image="an/image:v1", pull=policy).unavailable()
    assert reason is not None and why in reason
    assert "an/image:v1" in reason or policy == "always"
    assert fake.pulled == (["an/image:v1"] if pull else [])


def test_an_absent_image_is_pulled(fake: Fake) -> None:
    fake.fail = {"get": errors.ImageNotFound("x")}
    assert provider(fake).unavailable() is None
    assert fake.pulled == ["quay.io/ceph/ceph:v19"]


def start(fake: Fake, **options: Any) -> str:
    """What a cluster that does not start says; nothing of it may be left."""
    with pytest.raises(ClusterError) as caught, provider(fake).cluster(**options):
        pass
    assert not fake.made
    return str(caught.value)


def test_the_container_ends_early(fake: Fake) -> None:
    fake.status, fake.said = "exited", b"exec format error\n"
    assert start(fake) == "the container has ended\nthe container said:\nexec format error"


@pytest.mark.parametrize("what", ["network", "create", "start"])
def test_the_engine_refuses(fake: Fake, what: str) -> None:
    fake.fail = {what: errors.APIError("it is full")}
    assert "it is full" in start(fake)


def test_daemons_that_do_not_start(fake: Fake) -> None:
    fake.answers = {"start.sh": (1, b"", b"unable to bind")}
    assert "start.sh: exit status 1\nunable to bind" in start(fake)


def test_it_does_not_become_clean_in_time(fake: Fake) -> None:
    fake.answers = {'"osd dump"': (0, json.dumps([0, '{"pools": [{"pg_num": 99}]}', ""]).encode(), b"")}
    assert "not clean after" in start(fake, timeout=0.3)


def test_a_command_fails(fake: Fake) -> None:
    fake.answers = {"pool create": (0, json.dumps([-22, "", "no such thing"]).encode(), b"")}
    assert "-22 no such thing" in start(fake)


def test_a_range_of_addresses_that_is_taken(fake: Fake) -> None:
    fake.overlaps = 3
    with provider(fake).cluster():
        assert len(fake.made) == 2
    fake.overlaps = 1000
    assert "no range of addresses was free" in start(fake)


def test_what_is_left_behind_is_told(fake: Fake) -> None:
    with pytest.raises(ClusterError, match="something is left of the container: it is busy"), provider(fake).cluster():
        fake.fail = {"remove container": errors.APIError("it is busy")}
    assert [thing.kind for thing in fake.made] == ["container"], "the network goes all the same"


def test_an_interrupt_leaves_nothing(fake: Fake) -> None:
    fake.fail = {"start": KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt), provider(fake).cluster():
        pass
    assert not fake.made


def test_leftovers_of_ended_processes_are_swept(fake: Fake) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    running = labels()
    marks = [running, {**running, f"{LABEL}.pid": str(ended.pid)}]
    marks.append({**marks[1], f"{LABEL}.host": "another machine"})
    for mark in marks:
        fake.containers.create("image", labels=mark)
        fake.networks.create("name", labels=mark)
    fake.fail = {"remove network": errors.APIError("it has active endpoints")}
    Engine(fake, errors).sweep()
    assert [c.labels for c in fake._list("container")] == [marks[0], marks[2]]
    assert len(fake._list("network")) == 3, "nobody minds that it is not possible"


def test_daemons_that_died_are_told(fake: Fake) -> None:
    with (
        pytest.raises(ClusterError, match=r"did not survive the tests:\nosd\.1 does not run"),
        provider(fake).cluster(),
    ):
        fake.answers = {"run/osd.1.pid": (1, b"", b"")}
    assert not fake.made


def test_what_containers_do_not_offer(fake: Fake) -> None:
    for option in ({"netns": True}, {"release": "reef"}, {"address": "10.0.0.1"}):
        with pytest.raises(NotOffered, match=f"{next(iter(option))} is not for"), provider(fake).cluster(**option):
            pass
    fake.image.attrs["Config"]["Entrypoint"] = ["/opt/ceph-container/bin/demo"]
    with (
        pytest.raises(NotOffered, match="does not let one choose modes, mons"),
        provider(fake).cluster(mons=3, modes="crc"),
    ):
        pass


def test_a_demo_image(fake: Fake) -> None:
    fake.image.attrs["Config"]["Entrypoint"] = ["/opt/ceph-container/bin/demo"]
    fake.said = b"... /opt/ceph-container/bin/demo: SUCCESS\n"
    fake.files["/etc/ceph/ceph.conf"] = b"[global]\nmon host = v2:10.0.0.2:3300/0\n"
    fake.files["/etc/ceph/ceph.client.admin.keyring"] = b"[client.admin]\n\tkey = AQ==\n"
    with provider(fake).cluster() as cluster:
        (container,) = fake._list("container")
        asked = container.options["environment"]
        assert asked["DEMO_DAEMONS"] == "osd" and asked["OSD_COUNT"] == "3"
        assert asked["CEPH_PUBLIC_NETWORK"] == asked["MON_IP"].rpartition(".")[0] + ".0/24"
        assert "entrypoint" not in container.options
        keyring = Path(str(cluster.conf.parent), "keyring")
        assert cluster.conf.read_text().endswith(f"[client]\nkeyring = {keyring}\n")
        assert keyring.read_bytes() == fake.files["/etc/ceph/ceph.client.admin.keyring"]
        assert cluster.can.lacking(["kill_daemon"]) and not cluster.can.lacking(["exec_tools"])
    assert not fake.made
    fake.said = b"nothing yet"
    fake.status = "exited"
    assert "the container has ended\nthe container said:\nnothing yet" in start(fake)
    fake.status = "running"
    assert "has not said SUCCESS in time" in start(fake, timeout=0.3)


def test_tools_in_a_container(fake: Fake) -> None:
    with provider(fake).cluster() as cluster:
        fake.answers = {
            "rbd -c /pyrbd/ceph.conf ls": (0, b"a\n", b""),
            " sleep": (124, b"", b""),
            " bad": (2, b"", b"no"),
        }
        assert cluster.tool("rbd", "ls") == b"a\n"
        with pytest.raises(ClusterError, match="rados bad: exit status 2\nno"):
            cluster.tool("rados", "bad")
        assert cluster.tool("rados", "bad", check=False) == b""
        with pytest.raises(ClusterError, match="rados sleep: not done after 5 s"):
            cluster.tool("rados", "sleep", timeout=5)
        cluster.tool("rbd", "import", "-", "x", stdin=b"data")
        assert fake.files["/tmp/stdin"] == b"data"
        with pytest.raises(ClusterError, match="cannot be run"):
            cluster.argv("rbd", "ls")


def test_archives() -> None:
    assert unpack([pack({"a": b"1" * 1000})[:700], pack({"a": b"1" * 1000})[700:]]) == b"1" * 1000
    with pytest.raises(ClusterError, match="empty archive"):
        unpack([pack({})])


# ---------------------------------------------------------------- with an engine


@pytest.fixture
def engine(pytestconfig: pytest.Config) -> Iterator[Callable[[str], DockerProvider]]:
    """Makes providers of an engine's local images."""
    if os.environ.get("PYRBD_TEST_CLUSTER") != "docker" and pytestconfig.getoption("pyrbd_cluster") != "docker":
        pytest.skip("no container engine was asked for (tests/containers/engine test)")
    before = _left()
    yield lambda image: DockerProvider(image=image, pull="never")
    assert _left() == before, "nothing is left"


def _left() -> set[str]:
    client, found = find_engine().client, {"label": LABEL}
    try:
        containers = client.containers.list(all=True, filters=found)
        return {thing.id for thing in containers + client.networks.list(filters=found)}
    finally:
        client.close()


def test_a_real_container(engine: object) -> None:
    """Its daemons are killed and come back, while an image is used from here and from within."""
    with own_cluster(store="bluestore", ec=True, modes="secure") as cluster:
        with rados.Rados(conffile=str(cluster.conf)) as client, client.open_ioctx("rbd") as ioctx:
            rbd.RBD().create(ioctx, "image", 16 << 20, features=1, data_pool="ecdata")
            with rbd.Image(ioctx, "image") as image:
                image.write(b"before", 0)
                cluster.kill("osd.0")
                assert cluster.pid("osd.0") is None
                image.write(b"during", 4 << 20)
                cluster.start("osd.0")
                cluster.pause("osd.1")
                cluster.resume("osd.1")
                cluster.stop("osd.2")
                cluster.start("osd.2")
                cluster.wait_clean()
                data = image.read(0, 16 << 20)
            assert data[:6] == b"before" and cluster.tool("rbd", "export", "--no-progress", "image", "-") == data
        assert cluster.check_daemons() == []
        with pytest.raises(ClusterError, match="No such file"):
            cluster.tool("rbd", "info", "nowhere")


def test_a_real_demo_image(engine: Callable[[str], DockerProvider]) -> None:
    image = os.environ.get("PYRBD_TEST_DEMO_IMAGE")
    if not image:
        pytest.skip("PYRBD_TEST_DEMO_IMAGE names no image")
    with (
        engine(image).cluster() as cluster,
        rados.Rados(conffile=str(cluster.conf)) as client,
        client.open_ioctx(cluster.pool) as ioctx,
    ):
        rbd.RBD().create(ioctx, "image", 16 << 20)
        assert cluster.tool("rbd", "ls") == b"image\n"
