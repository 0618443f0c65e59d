"""Both types of keys, in every combination of client's key and services' secrets, with tentacle's daemons."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from pyrbd import rados
from pyrbd.testing.base import Cluster
from tests.auth import checks
from tests.auth.checks import KeyTypes
from tests.conftest import own_cluster

pytestmark = pytest.mark.timeout(400)  # when the release is to be downloaded first


@pytest.fixture(scope="module")
def tentacle() -> Iterator[Cluster]:
    """Allows keys of both types; the services' secrets are of type aes256k at first."""
    settings = ["auth_service_ticket_ttl=4"]
    with own_cluster(release="tentacle", cipher="both", osds=2, settings=settings) as cluster:
        yield cluster


def set_mon(cluster: Cluster, name: str, value: str) -> None:
    """`auth_service_cipher` and others, which are in the map of the monitors; all at rest after it."""
    cluster.command("mon set", name=name, value=value)


def throw_secrets_away(cluster: Cluster) -> None:
    cluster.command("auth wipe-rotating-service-keys")


def key_of(cluster: Cluster, entity: str, kind: str) -> str:
    """A new client with a key of that type."""
    caps = ["mon", "allow *", "osd", "allow *", "mgr", "allow *"]
    made: list[dict[str, Any]] = cluster.command("auth get-or-create", entity=entity, caps=caps, key_type=kind)
    key: str = made[0]["key"]
    return key


@pytest.fixture(params=["aes256k", "aes"])
def services(request: pytest.FixtureRequest, tentacle: Cluster) -> Iterator[int]:
    """The type of the services' secrets, changed as an administrator would."""
    dump = tentacle.command("mon dump")
    if dump["auth_service_cipher"] != request.param:
        set_mon(tentacle, "auth_service_cipher", request.param)
        throw_secrets_away(tentacle)
    yield {"aes": 1, "aes256k": 2}[request.param]


@pytest.mark.parametrize(("name", "kind"), [("client.admin", 2), ("client.aes", 1)])
def test_every_combination(tentacle: Cluster, services: int, name: str, kind: int) -> None:
    """The session with the monitor goes by the client's key, that with a daemon by the lower of the two."""
    with checks.login(str(tentacle.conf), name) as cluster:
        checks.io(cluster)
        assert checks.key_types(cluster) == KeyTypes(kind, min(kind, services))
        checks.rotation(cluster, checks.renewed(cluster, 1))
        assert checks.key_types(cluster) == KeyTypes(kind, min(kind, services))


@pytest.mark.parametrize("name", ["client.admin", "client.aes"])
def test_secrets_are_thrown_away_and_of_another_type_under_load(tentacle: Cluster, name: str) -> None:
    """What the monitors' map tells has all tickets renewed at once, on the session that is there."""
    before = tentacle.command("mon dump")["auth_service_cipher"]
    after = "aes" if before == "aes256k" else "aes256k"
    with checks.login(str(tentacle.conf), name) as cluster:
        tickets = checks.tickets_of(cluster)
        held = tickets.held
        old = checks.key_types(cluster)
        started = time.monotonic()
        set_mon(tentacle, "auth_service_cipher", after)
        throw_secrets_away(tentacle)
        checks.rotation(cluster, lambda: all(tickets.held[s].ticket_blob != held[s].ticket_blob for s in held))
        assert time.monotonic() - started < 20
        assert tickets.logins == 1
        kind = old.monitor
        assert checks.key_types(cluster) == KeyTypes(kind, min(kind, {"aes": 1, "aes256k": 2}[after]))


def test_a_key_is_replaced_by_one_of_the_other_type(tentacle: Cluster) -> None:
    """Who is there stays; who comes needs the new key."""
    conf, name = str(tentacle.conf), "client.rotated"
    old = key_of(tentacle, name, "aes")
    with checks.login(conf, name, {"key": old}) as cluster:
        new = tentacle.command("auth rotate", entity=name, key_type="aes256k")[0]["key"]
        checks.rotation(cluster, checks.renewed(cluster, 1))
        with (
            pytest.raises(rados.PermissionDeniedError, match="did not accept our name and key"),
            checks.login(conf, name, {"key": old}),
        ):
            pass
        with checks.login(conf, name, {"key": new}) as another:
            checks.io(another)
            assert checks.key_types(another).monitor == 2


def test_a_type_that_the_cluster_does_not_allow(tentacle: Cluster) -> None:
    """The error names the type and the command that makes another key."""
    conf = str(tentacle.conf)
    old = key_of(tentacle, "client.forbidden", "aes")
    set_mon(tentacle, "auth_allowed_ciphers", "aes256k")
    try:
        with (
            pytest.raises(rados.PermissionDeniedError, match="may not allow keys of type aes") as e,
            checks.login(conf, "client.forbidden", {"key": old}),
        ):
            pass
        assert e.value.errno == 13
        assert "ceph auth rotate client.forbidden --key-type=aes256k" in str(e.value)
        with checks.login(conf) as cluster:
            checks.io(cluster)
    finally:
        set_mon(tentacle, "auth_allowed_ciphers", "aes,aes256k")
    with checks.login(conf, "client.forbidden", {"key": old}) as cluster:
        checks.io(cluster)
