"""Commands to monitors, mgr, OSDs and placement groups; Ceph's own `ceph` on our module."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyrbd import rados
from pyrbd.testing import Cluster
from tests.conftest import own_cluster

ROOT = Path(__file__).resolve().parents[2]
CEPH = "/usr/bin/ceph"


@pytest.fixture(scope="module")
def own() -> Iterator[Cluster]:
    """A cluster whose mgr may be killed."""
    with own_cluster(osds=1, store="bluestore") as started:
        yield started


def command(prefix: str, **args: Any) -> str:
    return json.dumps({"prefix": prefix, **args})


@pytest.fixture(scope="session")
def ceph_on_ours(
    conf: str, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The stock `ceph` program, unchanged, with our module as its `rados`."""
    if not os.path.exists(CEPH):
        pytest.skip(f"{CEPH} is not installed")
    there = tmp_path_factory.mktemp("ceph-on-ours")
    (there / "rados.py").write_text("from pyrbd.rados import *\n")
    # what is ours comes first: the distribution's cryptography may be older than we need
    libraries = sysconfig.get_path("platlib")
    path = os.pathsep.join([str(there), str(ROOT), libraries, "/usr/lib/python3/dist-packages"])
    how: dict[str, Any] = {"text": True, "env": {**os.environ, "PYTHONPATH": path}}
    program = [sys.executable, CEPH, "-c", conf]

    def run(*args: str, input: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*program, *args], capture_output=True, check=False, input=input, **how)

    def begun(*args: str) -> subprocess.Popen[str]:
        return subprocess.Popen([*program, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **how)

    run.begun = begun  # type: ignore[attr-defined]
    return run


@pytest.mark.parametrize(
    "line",
    [
        "osd tree",
        "osd df -f json",
        "osd pool ls detail",
        "osd dump",
        "mon dump",
        "mgr services",
        "pg dump pgs_brief",
        "fs ls",
        "df",
        "auth get client.admin",
        "config get osd.0",
        "tell osd.0 version",
        "tell osd.* version",
        "tell mon.a version",
        "tell mon.* version",
        "tell mgr version",
        "tell osd.77 version",
        "tell mon.zz version",
        "daemon osd.0 version",
        "versions",
        "--version",
        "nonsense",
        "osd pool create",
        "osd find 99",
        "pg 1.999999 query",
        "-h",
        "osd pool get rbd all",
        "osd pool set rbd pg_num abc",
        "osd set nonsense",
        "osd ok-to-stop 0",
        "osd crush tree --format=xml",
        "config help osd_max_backfills -f json-pretty",
        "config set osd nonsense 1",
        "config-key get none",
        "tell osd.0 config get osd_max_backfills",
        "tell osd.0 injectargs --nonsense=1",
        "tell osd.0 nonsense",
        "tell nonsense version",
        "ping osd.0",
        "balancer ls",
        "rbd task list",
        "pg ls nonsense",
        "--connect-timeout 5 osd ls",
        "--format nonsense osd ls",
    ],
)
def test_the_stock_ceph_program_runs_on_our_module(
    conf: str, ceph_on_ours: Callable[..., subprocess.CompletedProcess[str]], line: str
) -> None:
    def both() -> list[tuple[int, list[str], list[str]]]:
        ours = ceph_on_ours(*line.split())
        theirs = subprocess.run([CEPH, "-c", conf, *line.split()], capture_output=True, text=True, check=False)
        return [(p.returncode, p.stdout.splitlines(), p.stderr.splitlines()) for p in (ours, theirs)]

    ours, theirs = both()
    for _ in range(5):  # what is in use may change between the two
        if ours == theirs:
            break
        ours, theirs = both()
    assert ours == theirs


def test_the_stock_ceph_program_changes_things_and_watches_the_log(
    ceph_on_ours: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, ceph_cli: Callable[..., bytes]
) -> None:
    assert "created" in ceph_on_ours("osd", "pool", "create", "by-ceph", "4").stderr
    assert b"by-ceph" in ceph_cli("osd", "pool", "ls")
    args = ("osd", "pool", "rm", "by-ceph", "by-ceph", "--yes-i-really-really-mean-it")
    assert "removed" in ceph_on_ours(*args).stderr
    getmap = ceph_on_ours("osd", "getcrushmap", "-o", str(tmp_path / "map"))
    assert getmap.returncode == 0
    assert (tmp_path / "map").read_bytes() == ceph_cli("osd", "getcrushmap", "-o", "-")
    assert ceph_on_ours("osd", "setcrushmap", "-i", str(tmp_path / "map")).returncode == 0
    status = ceph_on_ours("-s", "--format", "json")
    assert json.loads(status.stdout)["monmap"]["num_mons"] == 1
    pinged = ceph_on_ours("ping", "mon.a")
    assert "health" in pinged.stdout and pinged.returncode == 0


def test_the_stock_ceph_program_reads_commands_and_is_interrupted(
    conf: str, ceph_on_ours: Callable[..., subprocess.CompletedProcess[str]], ceph_cli: Callable[..., bytes]
) -> None:
    lines = "osd ls\nmon feature ls\nnonsense\nquit\n"
    ours = ceph_on_ours(input=lines)
    theirs = subprocess.run([CEPH, "-c", conf], capture_output=True, text=True, check=False, input=lines)
    assert (ours.returncode, ours.stdout, ours.stderr) == (theirs.returncode, theirs.stdout, theirs.stderr)
    with ceph_on_ours.begun("-w") as watching:  # type: ignore[attr-defined]
        seen = ""
        while "a line to be seen" not in seen:
            ceph_cli("log", "a line to be seen")
            seen += watching.stdout.readline()
        watching.send_signal(signal.SIGINT)
        _, stderr = watching.communicate(timeout=20)
    assert (watching.returncode, stderr) == (0, "")


def test_monitors_by_name_and_rank(handle: rados.Rados) -> None:
    for target in (None, "a", "mon.a", 0, "0"):
        result, out, _ = handle.mon_command(command("version", format="json"), b"", target=target)
        assert result == 0 and "version" in json.loads(out)
    for wrong in ("z", 7):
        assert handle.mon_command(command("version"), b"", target=wrong)[0] == -2
    assert json.loads(handle.ping_monitor("a"))["health"]
    with pytest.raises(rados.ObjectNotFound):
        handle.ping_monitor("z")


def test_a_monitor_is_pinged_before_connecting(conf: str) -> None:
    assert json.loads(rados.Rados(conffile=conf).ping_monitor("a"))["health"]


def test_osds_and_placement_groups(handle: rados.Rados, ioctx: rados.Ioctx, ceph_cli: Callable[..., bytes]) -> None:
    result, out, _ = handle.osd_command(0, command("version"), b"")
    assert result == 0
    assert json.loads(out)["version"] == json.loads(ceph_cli("tell", "osd.0", "version"))["version"]
    pgid = f"{ioctx.get_pool_id()}.3"
    result, out, _ = handle.pg_command(pgid, command("query", pgid=pgid), b"")
    assert result == 0
    assert json.loads(out)["info"]["pgid"] == pgid


def test_wrong_targets_give_librados_codes(handle: rados.Rados, librados: Callable[[str], Any]) -> None:
    calls = {
        "mon z": "cluster.mon_command(cmd, b'', target='z')[0]",
        "mon rank": "cluster.mon_command(cmd, b'', target=9)[0]",
        "osd": "cluster.osd_command(99, cmd, b'')[0]",
        "pg pool": "cluster.pg_command('99.0', cmd, b'')[0]",
        "mgr": "cluster.mgr_command(json.dumps({'prefix': 'nonsense'}), b'')[0]",
        "mon": "cluster.mon_command(json.dumps({'prefix': 'nonsense'}), b'')[0]",
        "osd command": "cluster.osd_command(0, json.dumps({'prefix': 'nonsense'}), b'')[0]",
    }
    cmd = command("version")
    theirs = librados(f"cmd = {cmd!r}\nresult = dict([" + ",".join(f"({k!r}, {v})" for k, v in calls.items()) + "])")
    ours = {k: eval(v, {"cluster": handle, "cmd": cmd, "json": json}) for k, v in calls.items()}  # noqa: S307
    assert ours == theirs
    # librados' binding gives back memory that it never had for this one
    assert handle.pg_command("nonsense", cmd, b"")[0] == -22


def test_input_and_output(handle: rados.Rados, librados: Callable[[str], Any]) -> None:
    result, crush, _ = handle.mon_command(command("osd getcrushmap"), b"")
    assert result > 0 or result == 0
    assert len(crush) == librados("result = len(cluster.mon_command('{\"prefix\": \"osd getcrushmap\"}', b'')[1])")
    result, _, status = handle.mon_command(command("osd setcrushmap"), crush)
    assert result >= 0, status


@pytest.mark.timeout(120)
def test_the_mgr_may_die_and_come_back(own: Cluster) -> None:
    with rados.Rados(conffile=str(own.conf)) as cluster:
        assert cluster.mgr_command(command("pg stat"), b"", timeout=60)[0] == 0
        for _ in range(2):
            own.kill("mgr.x")
            answers: list[Any] = []

            def ask(answers: list[Any] = answers) -> None:
                answers.append(cluster.mgr_command(command("pg stat"), b"", timeout=100))

            asker = threading.Thread(target=ask)
            asker.start()
            begun = time.monotonic()
            assert cluster.mgr_command(command("pg stat"), b"", timeout=0.7)[0] == -110
            assert 0.6 < time.monotonic() - begun < 1.5
            own.start("mgr.x")
            asker.join(90)
            assert answers and answers[0][0] == 0
        result, out, _ = cluster.mgr_command(command("version"), b"", target="x", timeout=60)
        assert result == 0 and b"version" in out
        assert cluster.mgr_command(command("version"), b"", target="nobody", timeout=5)[0] == -6


@pytest.mark.timeout(120)
def test_an_osd_that_dies_during_a_command(own: Cluster) -> None:
    with rados.Rados(conffile=str(own.conf)) as cluster:
        own.pause("osd.0")
        answers: list[Any] = []
        asker = threading.Thread(
            target=lambda: answers.append(cluster.osd_command(0, command("version"), b"", timeout=60))
        )
        asker.start()
        asker.join(0.5)
        assert asker.is_alive()
        own.resume("osd.0")
        own.kill("osd.0")
        own.start("osd.0")
        asker.join(60)
        assert answers[0][0] in (0, -6)
    own.wait_clean()


def test_the_clusters_log(handle: rados.Rados, ceph_cli: Callable[..., bytes]) -> None:
    lines: list[tuple[Any, ...]] = []
    handle.monitor_log2("info", lambda *args: lines.append(args), "arg")
    assert handle.monitor_callback2 is not None
    end = time.monotonic() + 30
    while not any(b"a line of ours" in x[-1] for x in lines):
        ceph_cli("log", "a line of ours")
        assert time.monotonic() < end
        time.sleep(0.1)
    (found, *_) = [x for x in lines if b"a line of ours" in x[-1]]
    arg, line, channel, name, who, sec, nsec, _seq, level, message = found
    assert arg == "arg" and channel == b"cluster" and level == b"[INF]"
    assert name == b"client.admin" and who.startswith(b"client.") and b"127.0.0.1" in who
    assert abs(sec - time.time()) < 60 and 0 <= nsec < 10**9
    assert line.endswith(b"client.admin [INF] " + message)
    rados.MonitorLog(handle, "info", None, None)
    assert handle.monitor_callback is None
    with pytest.raises(rados.LogicError):
        handle.monitor_log("loud", print)


def test_a_daemon_of_a_service(conf: str, ceph_cli: Callable[..., bytes]) -> None:
    with rados.Rados(conffile=conf) as cluster:
        cluster.service_daemon_register("laundry", "dryer", {"version": "3.14", "memory": "42"})
        end = time.monotonic() + 60
        while True:
            services = json.loads(ceph_cli("service", "dump", "--format", "json"))["services"]
            if "laundry" in services:
                break
            assert time.monotonic() < end, services
            time.sleep(0.2)
        metadata = services["laundry"]["daemons"]["dryer"]["metadata"]
        assert metadata["version"] == "3.14" and metadata["memory"] == "42"
        cluster.service_daemon_update({"result": "unknown", "test": "running"})
        while True:
            status = json.loads(ceph_cli("service", "status", "--format", "json"))
            if status.get("laundry", {}).get("dryer", {}).get("status") == {"result": "unknown", "test": "running"}:
                break
            assert time.monotonic() < end, status
            time.sleep(0.2)
        with pytest.raises(rados.ObjectExists):
            cluster.service_daemon_register("laundry", "washer", {})


def test_every_way_to_make_a_handle(conf: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CEPH_CONF", conf)
    for kwargs in (
        {"conffile": conf},
        {"conffile": ""},
        {"conffile": rados.Rados.DEFAULT_CONF_FILES},
        {"conffile": conf, "name": "client.admin"},
        {"conffile": conf, "rados_id": "admin", "clustername": "ceph"},
        {"conffile": conf, "conf": {"rados_osd_op_timeout": "5"}, "conf_defaults": {"rados_mon_op_timeout": "7"}},
    ):
        with rados.Rados(**kwargs) as cluster:  # type: ignore[arg-type]
            assert cluster.state == "connected"
            assert len(cluster.get_fsid()) == 36
            assert cluster.wait_for_latest_osdmap() == 0
        assert cluster.state == "shutdown"
        with pytest.raises(rados.RadosStateError):
            cluster.get_fsid()
    options = rados.Rados(conffile=conf).conf_get
    bare = rados.Rados(conf={"mon_host": str(options("mon_host")), "keyring": str(options("keyring"))})
    bare.connect()
    assert "rbd" in bare.list_pools()
    bare.shutdown()
    for wrong in ({"name": "invalid"}, {"name": "bad.invalid"}, {"rados_id": "a", "name": "client.a"}):
        with pytest.raises(rados.Error):
            rados.Rados(**wrong)  # type: ignore[arg-type]
    assert rados.Rados().conf_parse_argv(["osd", "--yes-i-really-mean-it", ""]) == ["osd", "--yes-i-really-mean-it", ""]
