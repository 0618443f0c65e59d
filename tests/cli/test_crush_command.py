"""`pyrbd crush` prints what crushtool prints about the same map, and refuses what is no map."""

from __future__ import annotations

import gzip
import io
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from pyrbd.cli import main
from pyrbd.cli.crush import MAX_LINES
from pyrbd.osdmap import OSDMap
from pyrbd.osdmap.crush import BUCKET_STRAW2, Bucket, CrushMap
from tests import oracle
from tests.osdmap.test_crush_codec import TEXT

Run = Callable[..., tuple[int, str, str]]
DATA = Path(__file__).resolve().parents[1] / "osdmap" / "data"
SHOW = ("--show-mappings", "--show-bad-mappings", "--show-utilization", "--show-statistics")


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*args: object) -> tuple[int, str, str]:
        code = main(["crush", *map(str, args)])
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


def crushtool(*args: object) -> str:
    if shutil.which("crushtool") is None:
        pytest.skip("crushtool is not installed: there is no oracle for this test")
    return subprocess.run(["crushtool", *map(str, args)], capture_output=True, text=True, check=True).stdout


@pytest.fixture
def everything(tmp_path: Path) -> Path:
    """A map with classes, choose_args, rules and buckets with gaps between them."""
    (tmp_path / "text").write_text(TEXT)
    crushtool("-c", tmp_path / "text", "-o", tmp_path / "crush")
    return tmp_path / "crush"


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    (tmp_path / "osdmap").write_bytes(gzip.decompress((DATA / "map.gz").read_bytes()))
    return tmp_path / "osdmap"


@pytest.mark.parametrize(
    "options",
    [
        [*SHOW, "--num-rep", 3],
        ["--show-mappings", "--num-rep", 2, "--rule", 1, "--min-x", 7, "--max-x", 30],
        ["--show-bad-mappings", "--num-rep", 4, "--x", 5],
        ["--show-statistics", "--num-rep", 3, "--min-x", 7],  # one bound alone counts for nothing
        ["--show-utilization", "--num-rep", 3, "--weight", 0, 0.3, "--weight", 2, 0.00001],
        ["--show-utilization", "--num-rep", 3, "--weight", 0, 40000, "--weight", 1, -2, "--weight", 2, 1.5],
        ["--show-statistics", "--num-rep", 3, "--rule", 2],
        ["--show-mappings", "--num-rep", 3, "--rule", 77],
        [*SHOW, "--num-rep", 3, "--x", 1, "--weight", 0, 0, "--weight", 1, 0, "--weight", 2, 0, "--weight", 3, 0],
        [*SHOW, "--num-rep", 0, "--x", 1],
    ],
)
def test_rules_are_tested_as_crushtool_does(command: Run, everything: Path, options: list[object]) -> None:
    want = crushtool("-i", everything, "--test", *options)
    assert command("test", everything, *options)[:2] == (0, want)


@pytest.mark.parametrize("alg", ["straw2", "straw", "list", "tree", "uniform"])
def test_maps_of_all_algorithms(command: Run, tmp_path: Path, alg: str) -> None:
    f = tmp_path / "crush"
    crushtool("-o", f, "--build", "--num_osds", 10, "host", alg, 3, "root", alg, 0)
    options = [*SHOW, "--num-rep", 3, "--min-x", 0, "--max-x", 50, "--weight", 4, 0.5]
    assert command("test", f, *options)[1] == crushtool("-i", f, "--test", *options) != ""
    assert command("tree", f)[1] == crushtool("-i", f, "--tree")


def test_numbers_of_replicas(command: Run, everything: Path) -> None:
    """One after the other, as with --num-rep each."""
    code, out, _ = command("test", everything, "--min-rep", 1, "--max-rep", 3, "--show-mappings", "--x", 5, "--rule", 4)
    each = [command("test", everything, "--num-rep", n, "--show-mappings", "--x", 5, "--rule", 4)[1] for n in (1, 2, 3)]
    assert (code, out) == (0, "".join(each))
    assert len(set(each)) == 3


def test_the_tree(command: Run, everything: Path) -> None:
    assert command("tree", everything) == (0, crushtool("-i", everything, "--tree"), "")


def test_weight_sets_of_buckets_that_have_none(command: Run, tmp_path: Path) -> None:
    (tmp_path / "text").write_text(TEXT + "choose_args 7 { { bucket_id -7 weight_set [ [ 1 2 ] ] } }\n")
    crushtool("-c", tmp_path / "text", "-o", tmp_path / "crush")
    assert command("tree", tmp_path / "crush")[1] == crushtool("-i", tmp_path / "crush", "--tree")


def test_the_map_of_a_cluster(command: Run, conf: str, tmp_path: Path) -> None:
    argv = oracle.argv(conf, "ceph", "osd", "getcrushmap")
    (tmp_path / "crush").write_bytes(subprocess.run(argv, capture_output=True, check=True).stdout)
    want = crushtool("-i", tmp_path / "crush", "--tree")
    assert command("tree", "--live", "--conf", conf) == (0, want, "")
    options = ["--num-rep", 3, *SHOW]
    assert command("test", "--live", "--conf", conf, *options) == command("test", tmp_path / "crush", *options)


def test_the_map_within_an_osdmap(
    command: Run, recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or on stdin."""
    crush = tmp_path / "crush"
    crush.write_bytes(OSDMap.decode_full(recorded.read_bytes()).crush.encode())
    options = ["--num-rep", 3, "--x", 5, *SHOW]
    want = command("test", crush, *options)
    assert want[0] == 0
    assert "CRUSH rule 0 x 5 [" in want[1]
    assert command("test", recorded, *options) == want
    for f in (crush, recorded):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(f.read_bytes())))
        assert command("test", "-", *options) == want
        assert command("tree", f) == command("tree", crush)


def test_what_is_no_map(command: Run, recorded: Path, tmp_path: Path) -> None:
    """One line on stderr and an exit code, wherever the file ends."""
    crush = OSDMap.decode_full(recorded.read_bytes()).crush.encode()
    f = tmp_path / "f"
    damaged = [b"", b"hello, world", bytes(100), recorded.read_bytes()[:-9], b"\x00\x00\x01\x00" + b"\xff" * 60]
    damaged += [crush[:end] for end in range(4, len(crush) - 60, 97)]
    for data in damaged:
        f.write_bytes(data)
        for args in (["tree", f], ["test", f, "--num-rep", 3, "--show-mappings", "--x", 1]):
            code, out, err = command(*args)
            assert code != 0
            assert out == ""
            assert err.startswith("pyrbd crush: ") and err.count("\n") == 1, err
    code, out, err = command("tree", tmp_path / "none")
    assert (code, out, err) == (2, "", f"pyrbd crush: {tmp_path / 'none'}: No such file or directory\n")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ([], "must specify --num-rep or both --min-rep and --max-rep"),
        (["--min-rep", 1], "must specify --num-rep or both --min-rep and --max-rep"),
        (["--num-rep", "x"], "argument --num-rep: 'x' is no number from 0 to 2147483647"),
        (["--num-rep", 1, "--weight", "a", 1], "--weight a 1: a device's number and a weight are needed"),
    ],
)
def test_wrong_options(command: Run, recorded: Path, options: list[object], problem: str) -> None:
    assert command("test", recorded, *options) == (1, "", f"pyrbd crush: {problem}\n")


def test_nothing_is_asked_for(command: Run, recorded: Path) -> None:
    code, out, err = command("test", recorded, "--num-rep", 2, "--x", 1)
    assert (code, out, err) == (0, "", "pyrbd crush: no output selected; use --show-X\n")


def test_a_tree_that_does_not_end(command: Run, tmp_path: Path) -> None:
    """Each bucket holds the two below it, twice as often each time: 2^20 lines come of 40 buckets."""
    m = CrushMap()
    m.type_names = {0: "osd", 1: "host"}
    for level in range(20):
        for twin in (1, 2):
            below = (-2 * level - 3, -2 * level - 4) if level < 19 else (0, 1)
            bucket_id = -2 * level - twin
            m.buckets[bucket_id] = Bucket(bucket_id, 1, BUCKET_STRAW2, 0, 0x10000, below, (0x8000, 0x8000))
            m.names[bucket_id] = f"b{-bucket_id}"
    m.max_buckets, m.max_devices = 40, 2
    (tmp_path / "crush").write_bytes(m.encode())
    code, out, err = command("tree", tmp_path / "crush")
    assert (code, out) == (27, "")
    assert err == f"pyrbd crush: a CRUSH map whose tree has more than {MAX_LINES} lines\n"


def test_more_devices_than_can_be_tested(command: Run, tmp_path: Path) -> None:
    m = CrushMap()
    m.buckets[-1] = Bucket(-1, 1, BUCKET_STRAW2, 0, 0x10000, (0x7FFFFFF0,), (0x10000,))
    m.max_buckets = 1
    (tmp_path / "crush").write_bytes(m.encode())
    code, out, err = command("test", tmp_path / "crush", "--num-rep", 1, "--show-mappings")
    assert (code, out, err.count("\n")) == (27, "", 1)
