"""Which method of authentication is used: as configured, in that order, as far as the cluster allows it."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyrbd import aio, rados, rbd
from pyrbd.msgr.auth import AUTH_METHOD_CEPHX, AUTH_METHOD_NONE
from pyrbd.testing.base import Cluster
from tests.conftest import own_cluster

OPTIONS = ("auth_cluster_required", "auth_service_required", "auth_client_required")


@pytest.fixture(scope="module")
def open_cluster() -> Iterator[Cluster]:
    """A cluster without authentication."""
    with own_cluster(osds=1, settings=[f"{option}=none" for option in OPTIONS]) as cluster:
        yield cluster


def method_of(cluster: rados.Rados) -> int:
    mon = cluster.client.mon
    assert mon is not None and mon._session is not None
    return mon._session.conn.auth.method


def use(cluster: rados.Rados, name: str) -> None:
    """Talks to a monitor, the mgr and an OSD."""
    with cluster.open_ioctx("rbd") as io:
        io.write_full(name, b"data")
        assert io.read(name) == b"data"
        io.remove_object(name)
    assert cluster.osd_command(0, json.dumps({"prefix": "version"}), b"")[0] == 0
    assert cluster.mgr_command(json.dumps({"prefix": "osd df"}), b"")[0] == 0
    assert json.loads(cluster.ping_monitor("a"))


@pytest.mark.parametrize(
    "methods", ["none", "none, cephx", "cephx none", "cephx;none", "gss,none", "cephx, none", "kerberos none"]
)
@pytest.mark.parametrize("keyring", [True, False])
def test_a_cluster_without_authentication(open_cluster: Cluster, tmp_path: Path, methods: str, keyring: bool) -> None:
    options = {"auth_client_required": methods}
    if not keyring:
        options["keyring"] = str(tmp_path / "none")
    with rados.Rados(conffile=str(open_cluster.conf), conf=options) as cluster:
        assert method_of(cluster) == AUTH_METHOD_NONE
        use(cluster, "methods")


def test_auth_supported_comes_before_auth_client_required(open_cluster: Cluster) -> None:
    options = {"auth_client_required": "cephx", "auth_supported": "none"}
    with rados.Rados(conffile=str(open_cluster.conf), conf=options) as cluster:
        use(cluster, "supported")


def test_a_client_that_wants_cephx_is_refused_there(open_cluster: Cluster) -> None:
    with pytest.raises(rados.PermissionDeniedError, match="it allows none") as e:
        rados.Rados(conffile=str(open_cluster.conf), conf={"auth_client_required": "cephx"}).connect(timeout=10)
    assert e.value.errno == 13


def test_images_and_another_connection_without_authentication(open_cluster: Cluster) -> None:
    with rados.Rados(conffile=str(open_cluster.conf)) as cluster, cluster.open_ioctx("rbd") as io:
        rbd.RBD().create(io, "open", 8 << 20)
        with rbd.Image(io, "open") as image:
            image.write(b"data", 0)
            identity, mon = cluster.get_instance_id(), cluster.client.mon
            assert mon is not None and mon._session is not None and mon.tickets.renew_at is None
            mon._session.abort(rados.OSError("cut by the test"))
            for session in list(cluster.client.objecter._sessions.values()):
                session.abort(rados.OSError("cut by the test"))
            assert image.read(0, 4) == b"data"
            assert cluster.mon_command(json.dumps({"prefix": "fsid"}), b"")[0] == 0
            assert cluster.get_instance_id() == identity
    assert open_cluster.tool("rbd", "info", "open")


def test_the_asyncio_door_without_authentication(open_cluster: Cluster) -> None:
    async def run() -> None:
        async with aio.Rados(conffile=str(open_cluster.conf)) as cluster:
            io = await cluster.open_ioctx("rbd")
            await io.write_full("loop", b"data")
            assert await io.read("loop") == b"data"

    asyncio.run(run())


# ---------------------------------------------------------------- a cluster with cephx


@pytest.mark.parametrize("methods", ["cephx", "cephx, none", "none, cephx", "none cephx", "gss cephx"])
def test_a_cluster_with_cephx(conf: str, methods: str) -> None:
    """``none`` is refused, and the next is tried on the same connection."""
    with rados.Rados(conffile=conf, conf={"auth_client_required": methods}) as cluster:
        assert method_of(cluster) == AUTH_METHOD_CEPHX
        use(cluster, "cephx")


@pytest.mark.parametrize(
    ("options", "error", "errno", "message"),
    [
        ({"auth_client_required": "none"}, rados.PermissionDeniedError, 13, "it allows cephx"),
        ({"auth_supported": "none"}, rados.PermissionDeniedError, 13, "it allows cephx"),
        (
            {"auth_client_required": "cephx, none", "keyring": "/nonexistent"},
            rados.PermissionDeniedError,
            13,
            r"no keyring for client\.admin: looked for /nonexistent",
        ),
        ({"auth_client_required": "cephx", "keyring": "/nonexistent"}, rados.ObjectNotFound, 2, "no keyring"),
        ({"auth_client_required": "gss"}, rados.ObjectNotFound, 2, "gss: no method that is spoken here"),
        ({"auth_client_required": "kerberos"}, rados.ObjectNotFound, 2, "no method"),
        ({"key": "AQ=="}, rados.InvalidArgumentError, 22, "not a cephx key"),
        ({"keyfile": "/nonexistent"}, rados.ObjectNotFound, 2, "cannot read the keyfile"),
    ],
)
def test_what_cannot_work_is_said_as_librados_says_it(
    conf: str, options: dict[str, str], error: type[rados.Error], errno: int, message: str
) -> None:
    """The errno is that of librados 16.2, the message says what to do."""
    with pytest.raises(error, match=message) as e:
        rados.Rados(conffile=conf, conf=options).connect(timeout=10)
    assert e.value.errno == errno


def test_keys_that_the_cluster_does_not_know(conf: str) -> None:
    def key(kind: int, length: int) -> str:
        return base64.b64encode(bytes([kind]) + bytes(9) + bytes([length, 0]) + bytes(range(length))).decode()

    for name, secret, hint in (
        ("client.admin", key(1, 16), "may not allow keys of type aes"),
        ("client.admin", key(2, 32), "keys of type aes256k"),
        ("client.nobody", key(1, 16), "is client.nobody known"),
    ):
        with pytest.raises(rados.PermissionDeniedError, match="did not accept our name and key") as e:
            rados.Rados(conffile=conf, name=name, conf={"key": secret}).connect(timeout=10)
        assert e.value.errno == 13 and hint in str(e.value) and secret not in str(e.value)


def test_what_a_client_is_not_allowed_to(conf: str, handle: rados.Rados) -> None:
    """Without caps for OSDs there is a ticket all the same, and each operation is refused."""
    keys = {}
    for name, caps in {"noosd": ["mon", "allow r"], "nomon": ["osd", "allow *"]}.items():
        command = {"prefix": "auth get-or-create", "entity": f"client.{name}", "caps": caps, "format": "json"}
        result, out, status = handle.mon_command(json.dumps(command), b"")
        assert result == 0, status
        keys[name] = json.loads(out)[0]["key"]
    with rados.Rados(conffile=conf, name="client.noosd", conf={"key": keys["noosd"]}) as cluster:
        with cluster.open_ioctx("rbd") as io, pytest.raises(rados.PermissionError) as e:
            io.write_full("refused", b"data")
        assert e.value.errno == 1
    with pytest.raises(rados.PermissionDeniedError) as denied:
        rados.Rados(conffile=conf, name="client.nomon", conf={"key": keys["nomon"]}).connect(timeout=10)
    assert denied.value.errno == 13


def test_the_key_of_another_cluster(conf: str, open_cluster: Cluster) -> None:
    """A client with the right name and the key that it has elsewhere."""
    keyring = rados.Rados(conffile=str(open_cluster.conf)).conf_get("keyring")
    assert keyring and keyring != rados.Rados(conffile=conf).conf_get("keyring")
    with pytest.raises(rados.PermissionDeniedError, match="did not accept our name and key"):
        rados.Rados(conffile=conf, conf={"keyring": keyring}).connect(timeout=10)
