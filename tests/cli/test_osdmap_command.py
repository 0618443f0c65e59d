"""`pyrbd osdmap` prints what Ceph's tools print about the same map, and refuses what is no map."""

from __future__ import annotations

import doctest
import gzip
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from pyrbd import rados
from pyrbd.cli import main
from pyrbd.crc32c import MASK, standard_crc32c
from pyrbd.osdmap import OSDMap
from tests import oracle

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "osdmap" / "data"
PAGE = ROOT / "docs" / "placement.md"
RECORDED = ("map", "page-healthy", "page-moved", "page-down", "page-out")


@pytest.fixture
def maps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory that we are in, with the recorded maps."""
    for name in RECORDED:
        (tmp_path / name.removeprefix("page-")).write_bytes(gzip.decompress((DATA / f"{name}.gz").read_bytes()))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*args: object) -> tuple[int, str, str]:
        code = main(["osdmap", *map(str, args)])
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


def osdmaptool(*args: object) -> str:
    if shutil.which("osdmaptool") is None:
        pytest.skip("osdmaptool is not installed: there is no oracle for this test")
    done = subprocess.run(["osdmaptool", *map(str, args)], capture_output=True, text=True, check=True)
    return done.stdout


# ---------------------------------------------------------------- the page


def examples() -> list[tuple[str, str]]:
    blocks = re.findall(r"```console\n\$ pyrbd osdmap (.*)\n((?:.*\n)*?)```", PAGE.read_text())
    assert len(blocks) >= 9
    return blocks


@pytest.mark.parametrize(("args", "want"), examples())
def test_page_shows_what_the_command_prints(
    maps: Path, command: Callable[..., tuple[int, str, str]], args: str, want: str
) -> None:
    code, out, err = command(*args.split())
    assert (code, err) == (0, "")
    assert doctest.OutputChecker().check_output(want, out, doctest.ELLIPSIS), out


# ---------------------------------------------------------------- files, beside osdmaptool


def simple(path: Path, osds: int, *options: object) -> Path:
    osdmaptool("--createsimple", osds, path, "--with-default-pool", *options)
    return path


@pytest.fixture
def shapes(maps: Path) -> list[Path]:
    """Maps of several shapes: as recorded; with nobody in; without pools; with one OSD; unbalanced, with exceptions."""
    empty = maps / "empty"
    osdmaptool("--createsimple", 3, empty)
    out = simple(maps / "nobody-in", 8, "--pg-bits", 3)
    one = simple(maps / "one", 1)
    osdmaptool(one, "--mark-up-in", "--adjust-crush-weight", "0:1.5", "--save")
    many = simple(maps / "many", 60, "--pg-bits", 2)
    osdmaptool(many, "--mark-up-in", "--mark-out", 3, "--adjust-crush-weight", "1:0.3,2:7.123456,7:0", "--save")
    osdmaptool(many, "--upmap", maps / "upmaps", "--upmap-max", 30, "--upmap-deviation", 1, "--save")
    return [*(maps / name.removeprefix("page-") for name in RECORDED), empty, out, one, many]


def test_dump_pgs_prints_what_osdmaptool_prints(
    shapes: list[Path], command: Callable[..., tuple[int, str, str]]
) -> None:
    for path in shapes:
        for ours, theirs in ((), "--test-map-pgs-dump"), (("--all",), "--test-map-pgs-dump-all"):
            assert command("dump-pgs", path, *ours) == (0, osdmaptool(path, theirs), "")
    for path in shapes[:2]:
        for number, name in OSDMap.decode_full(path.read_bytes()).pool_names.items():
            want = osdmaptool(path, "--test-map-pgs-dump", "--pool", number)
            assert command("dump-pgs", "--pool", number, path) == (0, want, "")
            assert command("dump-pgs", path, "-p", name) == (0, want, "")


def test_locate_prints_what_osdmaptool_prints(shapes: list[Path], command: Callable[..., tuple[int, str, str]]) -> None:
    rng = random.Random(5)
    names = ["rbd_data.1234.0000000000000000", "ä ü%", "x" * 255, "a\tb", "-"]
    names += ["".join(rng.choice("abc._-0189 ") for _ in range(length)).strip("- ") or "z" for length in range(1, 20)]
    for path in shapes[:2] + shapes[-1:]:
        pool = min(OSDMap.decode_full(path.read_bytes()).pools)
        for name in names:
            want = osdmaptool(path, "--test-map-object", name, "--pool", pool)
            assert command("locate", path, pool, "--", name) == (0, want, "")


def test_locate_with_namespace_and_key(maps: Path, command: Callable[..., tuple[int, str, str]]) -> None:
    m = OSDMap.decode_full((maps / "healthy").read_bytes())
    raw = m.object_to_raw_hash(3, "x", "k", "n")
    code, out, _ = command("locate", "healthy", "fruit", "x", "--namespace", "n", "--key", "k", "--format", "json")
    found = json.loads(out)
    assert code == 0
    assert (found["raw_pgid"], found["objname"], found["pool"], found["pool_id"]) == (f"3.{raw:x}", "n/x", "fruit", 3)
    assert found["pgid"] == str(m.raw_hash_to_pg(3, raw))
    assert m.object_to_raw_hash(3, "x", "", "n") != raw != m.object_to_raw_hash(3, "x", "k")
    pretty = command("locate", "healthy", "fruit", "x", "--namespace", "n", "--key", "k", "--format", "json-pretty")[1]
    assert json.loads(pretty) == found and pretty.startswith('{\n    "epoch": ')


def test_names_of_any_bytes(maps: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pyrbd", "osdmap", "locate", "healthy", "fruit", b"\xff\xfe"],
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        capture_output=True,
        check=True,
    )
    assert done.stdout.startswith(b" object '\xff\xfe' -> 3.")


# ---------------------------------------------------------------- explain


def test_explanation_as_json(maps: Path, command: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = command("explain", "healthy", "3", "strawberry", "--format", "json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["hash"], found["pgid"], found["pps"]) == (0x564C0B39, "3.9", 3735024744)
    assert found["pg"] == {"value": 0x564C0B39, "n": 24, "mask": 31, "half": True, "result": 9}
    draw = found["steps"][1]["events"][0]
    assert (draw["event"], draw["name"], draw["alg"], draw["item_name"]) == ("draw", "default", "straw2", "bee")
    bee = next(c for c in draw["candidates"] if c["won"])
    assert (bee["name"], bee["hash"], bee["weight"]) == ("bee", 0xCD7C, 0x20000)
    assert bee["draw"] == -(-bee["ln"] // bee["weight"]) == max(c["draw"] for c in draw["candidates"])
    verdicts = [e["verdict"] for e in found["steps"][1]["events"] if e["event"] == "verdict"]
    assert verdicts.count("collision") == 2 and "out" in verdicts
    assert found["up"] == found["acting"] == [4, 7, 2]


def test_long_buckets_are_abridged(tmp_path: Path, command: Callable[..., tuple[int, str, str]]) -> None:
    path = simple(tmp_path / "m", 30)
    osdmaptool(path, "--mark-up-in", "--save", "--adjust-crush-weight", "0:1")
    short = command("explain", path, 1, "x")[1]
    whole = command("explain", path, 1, "x", "--all-draws")[1]
    assert "(26 shorter ones)" in short and "shorter" not in whole
    assert set(re.findall(r"osd\.\d+", whole)) >= {f"osd.{i}" for i in range(30)}
    assert whole == command("explain", path, 1, "x", "--all-draws")[1]


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("dump-pgs",), 22, "which FILE"),
        (("dump-pgs", "no-such-file"), 2, "no-such-file: No such file or directory"),
        (("dump-pgs", "."), 21, "Is a directory"),
        (("dump-pgs", "/dev/null"), 22, "not an osdmap"),
        (("dump-pgs", "/dev/zero"), 22, "not an osdmap"),
        (("dump-pgs", "truncated"), 74, "truncated: "),
        (("dump-pgs", "damaged"), 74, "crc"),
        (("dump-pgs", "bad-crush"), 74, "bad-crush: crush map: "),
        (("dump-pgs", "incremental"), 22, "an incremental osdmap, of what is new in epoch"),
        (("dump-pgs", "crush"), 22, "a CRUSH map, not an osdmap"),
        (("dump-pgs", "huge"), 27, "not an osdmap, or one of 4294967295 bytes"),
        (("dump-pgs", "healthy", "--pool", "9"), 2, "there is no pool 9"),
        (("dump-pgs", "healthy", "--live"), 22, "not both"),
        (("dump-pgs", "healthy", "--epoch", "3"), 22, "--epoch goes with --live"),
        (("locate", "healthy", "fruit"), 22, "which FILE"),
        (("locate", "healthy", "nuts", "x"), 2, "there is no pool nuts"),
        (("explain", "healthy", "nuts", "x"), 2, "there is no pool nuts"),
        (("explain", "crush", "nuts", "x"), 22, "a CRUSH map, not an osdmap"),
        (("locate", "healthy", "fruit", "x", "y"), 1, "unrecognized arguments: y"),
        (("locate", "healthy", "fruit", "x", "--format", "xml"), 1, "invalid choice"),
        (("getmap", "--epoch", "-1"), 1, "is no epoch"),
        (("fetch",), 1, "invalid choice"),
        ((), 1, "which command"),
    ],
)
def test_refused(
    maps: Path, capsys: pytest.CaptureFixture[str], args: tuple[str, ...], code: int, message: str
) -> None:
    whole = (maps / "healthy").read_bytes()
    m = OSDMap.decode_full(whole)
    (maps / "truncated").write_bytes(whole[:-100])
    (maps / "damaged").write_bytes(whole[:200] + bytes([whole[200] ^ 1]) + whole[201:])
    epochs = json.loads(gzip.decompress((DATA / "epochs.gz").read_bytes()))
    (maps / "incremental").write_bytes(bytes.fromhex(epochs["incrementals"][0]))
    (maps / "crush").write_bytes(m._crush_raw)
    bad = whole[:-4].replace(m._crush_raw, bytes(len(m._crush_raw)))
    (maps / "bad-crush").write_bytes(bad + (standard_crc32c(bad, 0) ^ MASK).to_bytes(4, "little"))
    (maps / "huge").write_bytes(b"\x08\x07\xff\xff\xff\xff")
    assert main(["osdmap", *args]) == code
    out, err = capsys.readouterr()
    assert out == ""
    last = err.splitlines()[-1]
    assert last.startswith("pyrbd osdmap: ") and message in last
    assert not args or len(err.splitlines()) == 1


def test_map_from_stdin(
    maps: Path, command: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = (maps / "healthy").read_bytes()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data + b"what follows is not read")))
    assert command("locate", "-", "fruit", "date") == command("locate", "healthy", "fruit", "date")


def test_reader_that_goes_away(maps: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "pyrbd", "osdmap", "dump-pgs", "healthy"],
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(30) == 32


@pytest.mark.parametrize(
    ("args", "want"),
    [
        (("FILE", "POOL", "OBJECT"), ("FILE", "POOL", "OBJECT")),
        (("FILE", "--format", "json", "POOL", "OBJECT"), ("FILE", "POOL", "OBJECT")),
        (("--live", "POOL", "--epoch", "3", "OBJECT"), (None, "POOL", "OBJECT")),
        (("FILE", "POOL", "--key", "K", "--", "-OBJECT"), ("FILE", "POOL", "-OBJECT")),
    ],
)
def test_options_between_operands(args: tuple[str, ...], want: tuple[str | None, str, str]) -> None:
    from pyrbd.cli import build_parser

    found = build_parser().parse_args(["--conf", "c", "osdmap", "locate", *args])
    assert (found.file, found.pool, found.object) == want
    assert found.conf == "c"


# ---------------------------------------------------------------- the cluster's map


def run_live(conf: str, *args: str) -> tuple[int, bytes, str]:
    env = dict(os.environ, CEPH_CONF=conf, PYTHONPATH=str(ROOT))
    env.pop("CEPH_ARGS", None)
    done = subprocess.run([sys.executable, "-m", "pyrbd", "osdmap", *args], capture_output=True, env=env, check=False)
    return done.returncode, done.stdout, done.stderr.decode()


def ceph(conf: str, *args: str) -> bytes:
    return subprocess.run(oracle.argv(conf, "ceph", *args), capture_output=True, check=True).stdout


def same(conf: str, ours: list[str], theirs: list[str]) -> None:
    """Compares with what `ceph` prints, while the map stays as it is."""
    while True:
        before = ceph(conf, *theirs)
        found = run_live(conf, *ours)
        if before == ceph(conf, *theirs):
            break
    # `ceph` begins with an empty line where the output is JSON
    assert found == (0, before.strip() + b"\n", "")


def test_live_map(conf: str, ioctx: rados.Ioctx, tmp_path: Path) -> None:
    pool = ioctx.name
    for name, space in (("foo", ""), ("ä b/c", "space"), ('"\\\t\x7f', "")):
        theirs = ["osd", "map", pool, name, *([space] if space else [])]
        ours = ["locate", "--live", pool, name, *(["--namespace", space] if space else [])]
        same(conf, ours, theirs)
    for form in "json", "json-pretty":
        same(conf, [*ours, "--format", form], [*theirs, "-f", form])
    path = tmp_path / "map"
    code, out, err = run_live(conf, "getmap", "-o", str(path))
    m = OSDMap.decode_full(path.read_bytes())
    assert (code, out, err) == (0, b"", f"got osdmap epoch {m.epoch}\n")
    assert run_live(conf, "getmap", "--epoch", str(m.epoch)) == (0, path.read_bytes(), "")
    assert path.read_bytes() == ceph(conf, "osd", "getmap", str(m.epoch))
    theirs = run_live(conf, "dump-pgs", str(path))
    assert run_live(conf, "dump-pgs", "--live", "--epoch", str(m.epoch)) == theirs
    assert run_live(conf, "locate", "--live", "no-such-pool", "x")[::2] == (
        2,
        "pyrbd osdmap: there is no pool no-such-pool\n",
    )
    code, out, err = run_live(conf, "dump-pgs", "--live", "--epoch", "4000000000")
    assert (code, out) == (2, b"") and err.startswith("pyrbd osdmap: no map: ")
