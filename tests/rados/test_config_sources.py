"""Where options come from, which of them wins, and how they are shown: the same calls by our module and by Ceph's."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pyrbd import rados
from pyrbd.testing.programs import SYSTEM_PYTHON, missing_programs
from tests.rados.configplay import play

ARGS = "conf_parse_argv"
FILE = """
[global]
rbd_default_order = 24
mon_host = filehost
rados_osd_op_timeout = 7
rados_mon_op_timeout = 90 min
debug_ms = 3
[client]
rbd_cache = false
rbd_default_features = layering, exclusive-lock
[client.me]
rbd_op_threads = many
keyring = /k/$cluster/$name/$type.$id.$num
"""
TRICKY = """
[global]
rbd_op_threads = 7
log_file = /a/${nosuch}/b/$Foo/${rbd_op_threads}/$rbd_op_threads-$$x/$
run_dir = $tmp_file_template/${host
admin_socket = x$home/$cluster
crush_location_hook = $keyring
keyring = /$crush_location_hook/y
monmap = ${name}.${type}${id}
mon_dns_srv_name = $name$nosuch
rbd_default_order = $rbd_op_threads
"""
ORDER = ["rbd_default_order", "mon_host"]


def case(
    *steps: Any, asked: str = "rbd_default_order mon_host", env: dict[str, str] | None = None, **arguments: Any
) -> list[Any]:
    """`steps` are names of methods with their arguments; text there is one argument of words."""
    return [env or {}, {"rados_id": "me", **arguments}, list(steps), asked.split()]


def argv(words: str) -> tuple[str, list[str]]:
    return ("conf_parse_argv", ["prog", *words.split()])


CASES: dict[str, list[Any]] = {
    "a file": case(
        conffile="FILE",
        asked="rbd_default_order mon_host rados_osd_op_timeout rados_mon_op_timeout debug_ms rbd_cache "
        "rbd_default_features rbd_op_threads keyring",
    ),
    "a file of another name": case(conffile="OTHER", asked="keyring admin_socket"),
    "a cluster's name": case(conffile="FILE", clustername="prod", asked="keyring"),
    "variables": case(
        conffile="TRICKY",
        env={"HOME": "/home/me"},
        asked="log_file run_dir admin_socket crush_location_hook keyring monmap mon_dns_srv_name rbd_default_order",
    ),
    "a file that is not there": case(("conf_read_file", "/nonexistent/ceph.conf")),
    "conf= over a file": case(conffile="FILE", conf={"rbd_default_order": "23"}),
    "arguments over a file": case(argv("--rbd_default_order=23 x"), conffile="FILE"),
    "set, then arguments": case(("conf_set", "rbd_default_order", "21"), argv("--rbd-default-order 23")),
    "arguments, then a file": case(argv("--rbd_default_order=23 -m h"), ("conf_read_file", "FILE")),
    "environment over a file": case(conffile="FILE", env={"CEPH_ARGS": "--rbd_default_order=21 -m envhost --id foo"}),
    "environment without a file": case(env={"CEPH_ARGS": "--rbd_default_order 21 --mon-host envhost --unknown x"}),
    "environment, then arguments": case(
        argv("--rbd_default_order=23 -m x"), env={"CEPH_ARGS": "--rbd_default_order 21 -m e"}
    ),
    "a broken environment": case(env={"CEPH_ARGS": "--rbd_default_order many --mon-host envhost"}),
    "environment asked for": case(("conf_set", "rbd_default_order", "25"), ("conf_parse_env", "CEPH_ARGS")),
    "another variable": case(("conf_parse_env", "MORE"), env={"MORE": "--rbd_default_order=26 -m more"}),
    "no variable": case(("conf_parse_env", "NOT_THERE"), ("conf_parse_env",), ("conf_parse_env", "")),
    "the file of the environment": case(conffile="", env={"CEPH_CONF": "FILE"}),
    "a keyring of the environment": case(conffile="FILE", env={"CEPH_KEYRING": "/env/$id"}, asked="keyring"),
    "libraries of the environment": case(env={"CEPH_LIB": "/lib/x"}, asked="plugin_dir erasure_code_dir"),
    "early arguments": case(argv("-c /x -n client.z -i 5 --id me --name=client.q --cluster c y")),
    "short arguments": case(
        argv("-m h -k /kk -K KEYFILE --keyfile /nonexistent -M /mm"), asked="mon_host keyring key keyfile monmap"
    ),
    "attached": case(argv("-m=h -mh --mon-host=a,b")),
    "flags": case(
        argv("--rbd-cache false --rbd_validate_pool=0 x --rbd-non-blocking-aio x"),
        asked="rbd_cache rbd_validate_pool rbd_non_blocking_aio",
    ),
    "negated flags": case(
        argv("--no-rbd-cache=true --no_rbd_cache --no-rbd_validate_pool y"), asked="rbd_cache rbd_validate_pool"
    ),
    "a flag's bad value": case(argv("--rbd_cache=maybe"), asked="rbd_cache"),
    "no value": case(argv("--rbd_default_order")),
    "a bad value": case(argv("--rbd_default_order many")),
    "defaults by argument": case(
        argv("--default-rbd_default_order 23 --default_mon_host=d -f --foreground"), conffile="FILE"
    ),
    "the end of options": case(argv("--foo=3 --rbd_default_order=21 -- --rbd_default_order=22")),
    "monitors' configuration": case(argv("--no-mon-config --mon-config --setuser x y")),
    "debug levels": case(argv("--debug-ms 5 --debug_rbd=20/3 --debug-monc=100"), asked="debug_ms debug_rbd debug_monc"),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The files that cases name."""
    directory = tmp_path_factory.mktemp("conf")
    texts = {"FILE": ("ceph.conf", FILE), "OTHER": ("backup.conf", "[global]\nadmin_socket = /run/$cluster-$name\n")}
    texts |= {"TRICKY": ("tricky.conf", TRICKY), "KEYFILE": ("key", "c2VjcmV0\n")}
    for name, text in texts.values():
        (directory / name).write_text(text)
    return {key: str(directory / name) for key, (name, _) in texts.items()}


def placed(value: Any, files: dict[str, str]) -> Any:
    """`value` with the names of files in place of the words that stand for them."""
    if isinstance(value, str):
        return files.get(value, value)
    if isinstance(value, dict):
        return {k: placed(v, files) for k, v in value.items()}
    return [placed(v, files) for v in value] if isinstance(value, list | tuple) else value


def librados(cases: list[Any]) -> list[Any]:
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


@pytest.fixture(scope="module")
def theirs(files: dict[str, str]) -> dict[str, Any]:
    return dict(zip(CASES, librados([placed(c, files) for c in CASES.values()])))


@pytest.mark.parametrize("name", list(CASES))
def test_sources_and_their_order(
    name: str, files: dict[str, str], theirs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    ours = play(rados, placed(CASES[name], files))
    assert json.loads(json.dumps(ours)) == theirs[name]


SPANS = ["5", "5s", "5 s", "1h30m", "1h 30m", "2 days", "", "x", "5x", "-1", "1 mo", "5S", "9" * 20, "  5", "5 6", "m"]
VALUES = [
    *[("rados_mon_op_timeout", v) for v in SPANS],
    *[("rbd_default_features", v) for v in ("layering,exclusive-lock", " journaling ", "nope", "", "4096", "1" * 13)],
    *[("debug_ms", v) for v in ("5", "5/6", "x", "100", "5/100", "5/x", " 7", "-1", "")],
    *[("debug_nosuch", "5"), ("rbd_default_pool", "a/b"), ("rbd_default_pool", "c"), ("rbd_default_data_pool", "a@b")],
    *[("fsid", v) for v in ("x", "5E0A6FD0-9d3c-4d9d-9a39-000000000001", "5e0a6fd09d3c4d9d9a39000000000001")],
    *[("librados_thread_count", v) for v in ("0", "1")],
    *[("ms_async_op_threads", v) for v in ("24", "25")],
    *[("osd_pool_default_type", v) for v in ("erasure", "Erasure")],
    *[("log_stop_at_utilization", v) for v in ("0.5", "1.5")],
]


def test_values_of_other_types() -> None:
    cases = [case(("conf_set", *value), asked=value[0]) for value in VALUES]
    ours = [[*value, *play(rados, c)] for value, c in zip(VALUES, cases)]
    assert ours == [[*value, *answer] for value, answer in zip(VALUES, librados(cases))]


def test_half_a_second_is_a_time_span() -> None:
    """Which it is not for librados."""
    handle = rados.Rados(conf={"rados_osd_op_timeout": "0.5", "client_mount_timeout": "1.5s"})
    assert handle.conf_get("rados_osd_op_timeout") == "0.5" and handle.conf_get("client_mount_timeout") == "1.5"
