"""Configuration is read as librados reads it, which is asked in the same breath."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrbd import rados
from pyrbd.errors import ConfigError
from pyrbd.msgr.types import EntityAddr
from pyrbd.rados.config import Config, early_args, parse_conf
from pyrbd.rados.keyring import find_key, parse_keyring
from pyrbd.rados.monhost import find_monitors, parse_mon_host
from pyrbd.rados.option_table import OPTIONS
from pyrbd.rados.options import parse_seconds, parse_size

FILES = {
    "plain": "[global]\nmon_host = 1.2.3.4\nrados_osd_op_timeout = 30\n",
    "spelling": "[global]\nmon host = 1.2.3.4\nrbd-cache = false\n rbd_cache_size=4194304\nRBD_DEFAULT_ORDER = 20\n",
    "comments": "# one\n; two\n[global] ; three\nmon_host = 1.2.3.4 # four\nkeyring = /a ; five\nlog_file = a\\#b\n",
    "sections": "[global]\nrbd_default_order=20\n[client]\nrbd_default_order=21\n[client.admin]\nrbd_default_order=3\n",
    "client": "[global]\nrbd_default_order=20\n[client]\nrbd_default_order=21\n[client.other]\nrbd_default_order=23\n",
    "twice": "[global]\nkeyring=/a\nkeyring=/b\n[global]\nkeyring=/c\n",
    "variables": "[global]\nkeyring = /x/$cluster.$name.$type.$id.keyring\nlog_file=${cluster}-$name.log\n",
    "other option": "[global]\nhost = h\nlog_file = /var/$host/log\n",
    "quotes": "[global]\nkeyring = \"/a b/c\"\nlog_file = '/x y'\n",
    "continued": "[global]\nkeyring = /a\\\n/b\nlog_file = z\n",
    "booleans": "[global]\nrbd_cache = no\nrbd_validate_pool = 0\nrbd_readahead_disable_after_bytes = 1M\n",
    "daemons": "[osd]\nrbd_default_order = 24\n[mon.a]\nmon addr = 1.2.3.4:6789\n",
    "empty": "",
}

ASKED = [
    "mon_host",
    "keyring",
    "log_file",
    "rbd_cache",
    "rbd_cache_size",
    "rbd_default_order",
    "rbd_default_features",
    "rados_osd_op_timeout",
    "rbd_validate_pool",
    "rbd_readahead_disable_after_bytes",
    "no_such_option",
]

ORACLE = """
import json, rados, sys
r = rados.Rados(conffile=sys.argv[1], rados_id=sys.argv[2] or None)
print(json.dumps([r.conf_get(o) for o in json.loads(sys.argv[3])]))
"""


def librados(
    path: Path, ident: str = "", env: dict[str, str] | None = None, asked: list[str] = ASKED
) -> list[str | None]:
    done = subprocess.run(
        ["/usr/bin/python3", "-c", ORACLE, str(path), ident, json.dumps(asked)],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], **(env or {})},
        check=False,
    )
    if "No module named" in done.stderr:
        pytest.skip("python3-rados is not installed: there is no oracle for this test")
    assert done.returncode == 0, done.stderr
    values: list[str | None] = json.loads(done.stdout)
    return values


@pytest.mark.parametrize("which", list(FILES))
def test_files(tmp_path: Path, which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CEPH_KEYRING", raising=False)
    f = tmp_path / "ceph.conf"
    f.write_text(FILES[which])
    handle = rados.Rados(conffile=str(f))
    assert [handle.conf_get(o) for o in ASKED] == librados(f)


def test_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    f = tmp_path / "ceph.conf"
    f.write_text("[global]\nkeyring = /from/the/file\n")
    monkeypatch.setenv("CEPH_KEYRING", "/from/the/environment")
    handle = rados.Rados(conffile=str(f))
    assert [handle.conf_get(o) for o in ASKED] == librados(f, env={"CEPH_KEYRING": "/from/the/environment"})
    monkeypatch.setenv("CEPH_CONF", str(f))
    assert rados.Rados(conffile="").conf_get("keyring") == "/from/the/environment"
    assert rados.Rados(conffile=None).conf_get("mon_host") == ""


def test_the_defaults_are_those_of_librados(tmp_path: Path) -> None:
    f = tmp_path / "ceph.conf"
    f.write_text("")
    handle = rados.Rados(conffile=str(f), rados_id="me")
    theirs = dict(zip(OPTIONS, librados(f, "me", asked=list(OPTIONS))))
    # changed their default since the release that Debian 12 has, or are of its machine
    newer = {"rbd_default_pool", "rbd_blocklist_expire_seconds", "debug_objecter", "rbd_enable_alloc_hint"}
    newer |= {"ms_bind_port_max", "ms_tcp_prefetch_max_size", "osd_pool_default_erasure_code_profile"}
    newer |= {"erasure_code_dir", "plugin_dir"}
    ours = {option: handle.conf_get(option) for option in OPTIONS}
    assert {o: v for o, v in ours.items() if theirs[o] is not None and o not in newer} == {
        o: v for o, v in theirs.items() if v is not None and o not in newer
    }


VALUES = [
    *[("rbd_cache", v) for v in ("true", "TRUE", "yes", "0", "7", "-1", " 1", "1 ", "", "4294967296")],
    *[("rbd_cache_size", v) for v in ("4096", "4K", "4KB", "4k", "4Bi", "4BB", "4B", "1.5M", "-1", "+1", " 4", "4 K")],
    *[("rbd_cache_size", v) for v in ("", "15E", "16E", "9223372036854775807", "K", "4i", "4Kib")],
    *[
        ("rbd_qos_iops_limit", v)
        for v in ("5", "5K", "5M", "5Ki", "5KB", "5k", "-5", "+5", "1_0", "", "18E", "19E", "5B")
    ],
    *[("rbd_cache_max_dirty_age", v) for v in ("1", "1.5", "1e3", " 2", "2 ", "1_0", "x", "-1", "")],
    *[("rbd_discard_granularity_bytes", v) for v in ("4096", "4095", "12288", "33554432", "67108864", "64K", "0")],
    *[("rbd_journal_order", v) for v in ("11", "12", "26", "27")],
    *[("rbd_mirror_perf_stats_prio", v) for v in ("-1", "0", "11", "12")],
    *[("rbd_cache_policy", v) for v in ("writeback", "writearound", "WriteBack", "")],
    *[("rbd_default_clone_format", v) for v in ("1", "2", "3", "auto")],
    *[("rbd_qos_schedule_tick_min", v) for v in ("0", "1", "1K")],
]


def test_values_are_checked_as_librados_does(tmp_path: Path) -> None:
    """What is a value of an option, and how it is shown then."""
    f = tmp_path / "ceph.conf"
    f.write_text("")
    script = """
import json, rados, sys
r = rados.Rados(conffile=sys.argv[1])
def ask(option, value):
    try:
        r.conf_set(option, value)
    except rados.Error as e:
        return -e.errno
    return r.conf_get(option)
print(json.dumps([ask(o, v) for o, v in json.loads(sys.argv[2])]))
"""
    command = ["/usr/bin/python3", "-c", script, str(f), json.dumps(VALUES)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "No module named" in done.stderr:
        pytest.skip("python3-rados is not installed: there is no oracle for this test")
    handle = rados.Rados(conffile=str(f))

    def ask(option: str, value: str) -> str | int | None:
        try:
            handle.conf_set(option, value)
        except rados.Error as e:
            return -(e.errno or 0)
        return handle.conf_get(option)

    got = [(o, v, ask(o, v)) for o, v in VALUES]
    assert got == [(o, v, r) for (o, v), r in zip(VALUES, json.loads(done.stdout))]


def test_setting() -> None:
    handle = rados.Rados(conf={"rbd_cache": "0", "rados osd op timeout": "5s"})
    assert handle.conf_get("rbd_cache") == "false"
    assert handle.conf_get("rados_osd_op_timeout") == "5"
    with pytest.raises(rados.ObjectNotFound):
        handle.conf_set("no_such_option", "1")
    with pytest.raises(rados.InvalidArgumentError):
        handle.conf_set("rbd_default_order", "many")
    with pytest.raises(TypeError):
        handle.conf_set("rbd_cache", 1)  # type: ignore[arg-type]
    assert handle.conf_parse_argv(["prog", "--rbd_cache=true", "-m", "h", "x", "--no-rbd-cache", "--", "-m"]) == [
        "prog",
        "x",
        "--",
        "-m",
    ]
    assert handle.conf_get("mon_host") == "h" and handle.conf_get("rbd_cache") == "false"


def test_arguments_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CEPH_ARGS", "--id backup -c '/my conf' --mon-host h1 --keyring=/k")
    assert early_args([]) == {"id": "backup", "conf": "/my conf"}
    assert early_args(["--id=me", "-n", "client.x"]) == {"id": "me", "conf": "/my conf", "name": "client.x"}
    handle = rados.Rados()
    handle.conf_parse_env()
    assert handle.conf_get("mon_host") == "h1" and handle.conf_get("keyring") == "/k"


@pytest.mark.parametrize("text", ["[global\n", "[global] x\n", "novalue\n", '[a]\nkeyring = "open\n', "= 5\n"])
def test_broken_files_say_where(text: str) -> None:
    with pytest.raises(ConfigError, match=r"ceph\.conf, line \d"):
        parse_conf(text)


@given(st.text())
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        parse_conf(text)
    except ConfigError:
        pass


V1, V2 = EntityAddr.TYPE_LEGACY, EntityAddr.TYPE_MSGR2


def mons(text: str) -> list[list[tuple[int, str, int]]]:
    names = {"mon1": ["10.0.0.1"], "mons": ["10.0.0.1", "fd00::1"]}

    def resolve(host: str) -> list[str]:
        if host not in names:
            raise ConfigError(f"cannot resolve {host}", errno=2)
        return names[host]

    return [[(a.type, a.host, a.port) for a in v.addrs] for v in parse_mon_host(text, resolve)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("1.2.3.4", [[(V2, "1.2.3.4", 3300), (V1, "1.2.3.4", 6789)]]),
        ("1.2.3.4:6789", [[(V1, "1.2.3.4", 6789)]]),
        ("1.2.3.4:3300", [[(V2, "1.2.3.4", 3300)]]),
        ("1.2.3.4:40001", [[(V2, "1.2.3.4", 40001)]]),
        ("v2:1.2.3.4:3300", [[(V2, "1.2.3.4", 3300)]]),
        ("v1:1.2.3.4", [[(V1, "1.2.3.4", 6789)]]),
        ("[v2:1.2.3.4:3300/0,v1:1.2.3.4:6789/0]", [[(V2, "1.2.3.4", 3300), (V1, "1.2.3.4", 6789)]]),
        ("[v2:1.2.3.4:3300],[v2:1.2.3.5:3300]", [[(V2, "1.2.3.4", 3300)], [(V2, "1.2.3.5", 3300)]]),
        ("[::1]:3300", [[(V2, "::1", 3300)]]),
        ("[::1]", [[(V2, "::1", 3300), (V1, "::1", 6789)]]),
        ("fd00::1", [[(V2, "fd00::1", 3300), (V1, "fd00::1", 6789)]]),
        ("[v2:[fd00::1]:3300,v1:[fd00::1]:6789]", [[(V2, "fd00::1", 3300), (V1, "fd00::1", 6789)]]),
        ("v2:1.1.1.1:1 v2:2.2.2.2:2;v2:3.3.3.3:3", [[(V2, f"{i}.{i}.{i}.{i}", i)] for i in (1, 2, 3)]),
        ("mon1", [[(V2, "10.0.0.1", 3300), (V1, "10.0.0.1", 6789)]]),
        ("mons:3300", [[(V2, "10.0.0.1", 3300)], [(V2, "fd00::1", 3300)]]),
    ],
)
def test_mon_host(text: str, expected: list[list[tuple[int, str, int]]]) -> None:
    assert mons(text) == expected


@pytest.mark.parametrize(
    "text", ["nowhere", "1.2.3.4:99999", "1.2.3.4:x", "[v2:1.2.3.4", "1.2.3.4/x", ":3300", "[::1]x"]
)
def test_bad_mon_host(text: str) -> None:
    with pytest.raises(ConfigError):
        mons(text)


def test_only_messenger_v1_addresses() -> None:
    config = Config()
    config.set("mon_host", "v1:1.2.3.4:6789")
    with pytest.raises(ConfigError, match="only messenger v1"):
        find_monitors(config)


def test_mon_sections(tmp_path: Path) -> None:
    f = tmp_path / "ceph.conf"
    f.write_text(
        "[mon]\nmon weight = 10\n[mon.a]\nmon addr = 1.2.3.4\nmon priority = 2\n"
        "[mon.b]\nmon_addr = v2:1.2.3.5:3300\nmon_weight=3\n[mon.c]\nhost = x\n"
    )
    config = Config()
    config.read_file(str(f))
    assert [(c.name, str(c.addr), c.priority, c.weight) for c in find_monitors(config)] == [
        ("a", "v2:1.2.3.4:3300/0", 2, 10),
        ("b", "v2:1.2.3.5:3300/0", 0, 3),
    ]


KEY = "AQBSWwVrAAAAABAAAQIDBAUGBwgJCgsMDQ4PEA=="


def test_keyrings(tmp_path: Path) -> None:
    assert parse_keyring(f'[client.a]\n\tkey = {KEY}\n\tcaps mon = "allow *"\n[mon.]\nkey=x\n') == {
        "client.a": KEY,
        "mon.": "x",
    }
    config = Config("client.a")
    first, second = tmp_path / "none", tmp_path / "keyring"
    second.write_text(f"[client.a]\nkey = {KEY}\n")
    config.set("keyring", f"{first},{second}")
    key = find_key(config)
    assert key.type == 1 and key.secret == bytes(range(1, 17))
    keyfile = tmp_path / "keyfile"
    keyfile.write_text(KEY + "\n")
    config.set("keyfile", str(keyfile))
    second.unlink()
    assert find_key(config) == key
    keyfile.write_text("nonsense\n")
    with pytest.raises(Exception, match="not a cephx key") as e:
        find_key(config)
    assert "nonsense" not in str(e.value)


def test_sizes_and_spans() -> None:
    assert [parse_size(t) for t in ("0", "4096", "4K", "4KiB", "4kb", "1M", "2G", "1T", "1B")] == [
        0,
        4096,
        4096,
        4096,
        4096,
        1 << 20,
        2 << 30,
        1 << 40,
        1,
    ]
    assert [parse_seconds(t) for t in ("5", "0.5", "5s", "2m", "1h")] == [5, 0.5, 5, 120, 3600]
    for bad in ("", "x", "1.5M", "-1", "4Q"):
        with pytest.raises(ValueError, match="size"):
            parse_size(bad)
