"""Options from the monitors (``ceph config set``): what a client gets, where they rank, and when they take effect.
Each test asks Ceph's binding the same."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyrbd import rados, rbd
from pyrbd.rados.option_table import BOOL, DEBUG, FLOAT, INT, MSECS, OPTIONS, SECS, SIZE, UINT, UUID, VALUES
from pyrbd.testing import Cluster
from pyrbd.testing.programs import SYSTEM_PYTHON, missing_programs
from tests.rados.configplay import play

Ceph = Callable[..., bytes]
HOST = socket.gethostname().partition(".")[0]


def librados(*cases: list[Any]) -> list[Any]:
    """What Ceph's module says to each case."""
    if any("python3" in missing for missing in missing_programs()):
        pytest.skip("python3-rados is not installed: there is no oracle for this test")
    program = str(Path(__file__).with_name("configplay.py"))
    done = subprocess.run(
        [SYSTEM_PYTHON, program], input=json.dumps(cases), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    answers: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return answers


@pytest.fixture
def config(ceph_cli: Ceph) -> Iterator[Callable[..., None]]:
    """``config("client", "rbd_cache", "false")`` sets an option; all are removed in the end."""
    made = []

    def put(who: str, option: str, value: str) -> None:
        ceph_cli("config", "set", who, option, value)
        made.append((who, option))

    yield put
    for who, option in made:
        ceph_cli("config", "rm", who, option)


@pytest.fixture
def local_conf(conf: str, tmp_path: Path) -> str:
    """The cluster's ceph.conf with options for clients."""
    path = tmp_path / "ceph.conf"
    path.write_text(
        Path(conf).read_text() + "\n[client]\nrbd_op_threads = 5\nrbd_readahead_max_bytes = 4K\nlog_max_new = x\n"
    )
    return str(path)


@pytest.fixture
def our_host(ceph_cli: Ceph) -> Iterator[None]:
    """This machine, as a host in the CRUSH map: that is where monitors look for the place of a client."""
    known = HOST in ceph_cli("osd", "tree").decode().split()
    if not known:
        ceph_cli("osd", "crush", "add-bucket", HOST, "host")
        ceph_cli("osd", "crush", "move", HOST, "root=default")
    yield
    if not known:
        ceph_cli("osd", "crush", "rm", HOST)


def test_who_gets_what_and_what_wins(
    local_conf: str, our_host: None, config: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    config("global", "rbd_default_order", "23")
    config("global", "rbd_op_threads", "2")  # the file has another
    config("global", "rbd_concurrent_management_ops", "11")
    config("client", "rbd_concurrent_management_ops", "12")
    config("client.admin", "rbd_concurrent_management_ops", "13")
    config("client.other", "rbd_journal_order", "20")
    config("client", "rados_osd_op_timeout", "1m 3s")
    config("client", "rbd_default_features", "layering,exclusive-lock")
    config("client", "debug_ms", "0/1")
    config("client/root:default", "rbd_cache_size", "8M")  # where our host is
    config("client/host:elsewhere", "rbd_cache_max_dirty", "8M")
    config("osd", "rbd_mtime_update_interval", "7")
    config("client", "ms_type", "async")  # only before connecting
    config("client", "log_max_new", "77")  # what the file has is no number
    config("client", "rbd_cache_policy", "writeback")
    asked = list(OPTIONS)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    env = {"CEPH_ARGS": "--rbd_cache=false"}
    case = [env, {"conffile": local_conf}, [], asked]
    connected = [env, {"conffile": local_conf}, [("connect",)], asked]
    before, after = librados(case, connected)
    differs = {"erasure_code_dir", "plugin_dir", "rbd_default_pool", "rbd_blocklist_expire_seconds", "debug_objecter"}
    differs |= {"rbd_enable_alloc_hint", "ms_bind_port_max", "ms_tcp_prefetch_max_size"}
    differs |= {"osd_pool_default_erasure_code_profile"}

    def comparable(values: list[str | None], theirs: list[str | None]) -> dict[str, str | None]:
        return {o: v for o, v, t in zip(asked, values, theirs) if t is not None and o not in differs}

    for ours, theirs in ((play(rados, case), before), (play(rados, connected), after)):
        assert comparable(ours[-1], theirs[-1]) == comparable(theirs[-1], theirs[-1])
    changed = {o for o, b, a in zip(asked, before[-1], after[-1]) if b != a}
    assert {"rbd_default_order", "rbd_concurrent_management_ops", "rbd_cache_size", "ms_type"} <= changed
    assert not {"rbd_op_threads", "rbd_cache_max_dirty", "rbd_journal_order", "rbd_cache"} & changed


def test_changes_at_run_time(conf: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options come, change and go; what cannot be changed any more, or is ours, stays."""

    def put(option: str, value: str, who: str = "client") -> tuple[str, dict[str, str]]:
        return ("mon_command", {"prefix": "config set", "who": who, "name": option, "value": value})

    def remove(option: str, who: str = "client") -> tuple[str, dict[str, str]]:
        return ("mon_command", {"prefix": "config rm", "who": who, "name": option})

    steps = [
        ("connect",),
        put("rbd_default_order", "23"),
        ("expect", "rbd_default_order", "23"),
        put("rbd_default_order", "24", "client.admin"),
        ("expect", "rbd_default_order", "24"),
        ("conf_set", "rbd_default_order", "20"),
        remove("rbd_default_order", "client.admin"),
        put("ms_type", "async"),
        put("rbd_cache_policy", "writeback"),
        put("rbd_op_threads", "9"),
        ("expect", "rbd_op_threads", "9"),
        ("conf_get", "rbd_default_order"),
        ("conf_get", "ms_type"),
        ("conf_get", "rbd_cache_policy"),
        remove("rbd_op_threads"),
        ("expect", "rbd_op_threads", "1"),
        remove("ms_type"),
        remove("rbd_cache_policy"),
        remove("rbd_default_order"),
        ("conf_get", "rbd_default_order"),
    ]
    case = [{}, {"conffile": conf}, steps, []]
    monkeypatch.setattr(os, "environ", dict(os.environ))
    ours = play(rados, case)
    assert ours == librados(case)[0]
    assert [o for o in ours if isinstance(o, str)] == ["23", "24", "9", "20", "async+posix", "writearound", "1", "20"]


def other_value(option: str) -> str:
    """A value that an option may have, and that is not its default."""
    kind, default = OPTIONS[option]
    if option in VALUES:
        return next(v for v in VALUES[option] if v != default)
    by_kind = {BOOL: "true" if default == "false" else "false", DEBUG: "3/4", FLOAT: "0.75"}
    by_kind |= {SECS: "17", MSECS: "170", UUID: "5e0a6fd0-9d3c-4d9d-9a39-000000000001"}
    by_kind |= dict.fromkeys((INT, UINT, SIZE), "19")
    if option in ("rbd_discard_granularity_bytes", "rbd_persistent_cache_size"):
        return str(2 << 30) if option.endswith("size") else "4096"
    special = {"public_addr": "v2:1.2.3.4:5/6", "rbd_default_features": "5", "rbd_journal_order": "13"}
    special |= {"rbd_mirror_perf_stats_prio": "6", "rbd_mirror_image_perf_stats_prio": "6"}
    return special.get(option) or by_kind.get(kind, "value")


def test_what_a_connected_client_may_set(conf: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each option: set or refused, with the same errno."""
    # their effects are those of librados alone
    left_out = {"log_file", "debug_ms", "log_to_stderr", "err_to_stderr", "lockdep", "auth_supported"}
    options = [o for o in OPTIONS if o not in left_out]
    known, _ = librados([{}, {"conffile": conf}, [], options], [{}, {"conffile": conf}, [], []])
    options = [o for o, v in zip(options, known[-1]) if v is not None]
    case = [{}, {"conffile": conf}, [("connect",), *[("conf_set", o, other_value(o)) for o in options]], options]
    monkeypatch.setattr(os, "environ", dict(os.environ))

    def by_option(outcomes: list[Any]) -> dict[str, Any]:
        refusals = [o for o in outcomes[:-1] if o is not None]
        return {"refused": refusals, **dict(zip(options, outcomes[-1]))}

    ours, theirs = by_option(play(rados, case)), by_option(librados(case)[0])
    differs = {"erasure_code_dir", "plugin_dir", "rbd_default_pool"}
    assert {o: v for o, v in ours.items() if o not in differs} == {o: v for o, v in theirs.items() if o not in differs}


def test_configuration_cannot_be_read_while_connected(conf: str, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [
        ("connect",),
        ("conf_read_file", conf),
        ("conf_parse_argv", ["p", "--rbd_default_order=23"]),
        ("conf_parse_env", "CEPH_ARGS"),
        ("conf_set", "keyring", "/x"),
        ("conf_set", "mon_host", "1.2.3.4"),
        ("conf_set", "no_such_option", "1"),
    ]
    case = [{}, {"conffile": conf}, steps, ["rbd_default_order", "keyring"]]
    monkeypatch.setattr(os, "environ", dict(os.environ))
    assert play(rados, case) == librados(case)[0]


def test_options_of_images_take_effect(conf: str, ioctx: rados.Ioctx, name: str, config: Callable[..., None]) -> None:
    config("client", "rbd_default_order", "21")
    config("client", "rbd_default_features", "layering")
    with rados.Rados(conffile=conf) as cluster, cluster.open_ioctx("rbd") as io:
        rbd.RBD().create(io, name, 8 << 20)
        with rbd.Image(io, name) as image:
            assert image.stat()["order"] == 21 and image.features() == rbd.RBD_FEATURE_LAYERING


def test_an_open_image_hears_of_its_pool_s_options(
    conf: str, ioctx: rados.Ioctx, name: str, rbd_cli: Ceph, ceph_cli: Ceph
) -> None:
    """Which are told by an option that the monitors send to all clients."""
    rbd.RBD().create(ioctx, name, 8 << 20)
    with rbd.Image(ioctx, name) as image:
        rbd_cli("config", "pool", "set", "rbd", "rbd_mtime_update_interval", "71")
        try:
            end = time.monotonic() + 10
            while image._open().config.get("rbd_mtime_update_interval") != "71":
                assert time.monotonic() < end
                image.write(b"x", 0)
        finally:
            rbd_cli("config", "pool", "rm", "rbd", "rbd_mtime_update_interval")
            ceph_cli("config", "rm", "global", "rbd_config_pool_override_update_timestamp")


def test_a_timeout_from_the_monitors_is_that_of_operations(
    daemons: Cluster, conf: str, config: Callable[..., None]
) -> None:
    with rados.Rados(conffile=conf) as cluster, cluster.open_ioctx("rbd") as io:
        config("client", "rados_osd_op_timeout", "1")
        end = time.monotonic() + 10
        while cluster.conf_get("rados_osd_op_timeout") != "1":
            assert time.monotonic() < end
        osds = [d for d in daemons.daemons if d.startswith("osd.")]
        for osd in osds:
            daemons.pause(osd)
        try:
            start = time.monotonic()
            with pytest.raises(rados.TimedOut):
                io.read("x")
            assert 1 <= time.monotonic() - start < 1.5
            cluster.conf_set("rados_osd_op_timeout", "0.5")
            start = time.monotonic()
            with pytest.raises(rados.TimedOut):
                io.read("x")
            assert 0.5 <= time.monotonic() - start < 0.9
        finally:
            for osd in osds:
                daemons.resume(osd)
