"""The command prints what `rbd` prints, and ends with the same code."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pyrbd import rados, rbd
from tests import oracle

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20
Run = Callable[..., bytes]


def run(program: list[str], conf: str, args: tuple[str, ...], stdin: bytes = b"") -> tuple[int, bytes, str]:
    env = dict(os.environ, CEPH_CONF=conf, PYTHONPATH=str(ROOT))
    env.pop("CEPH_ARGS", None)
    done = subprocess.run([*program, *args], capture_output=True, env=env, input=stdin, check=False)
    return done.returncode, done.stdout, done.stderr.decode()


@pytest.fixture
def pyrbd(conf: str) -> Callable[..., tuple[int, bytes, str]]:
    return lambda *args, stdin=b"": run([sys.executable, "-m", "pyrbd"], conf, args, stdin)


@pytest.fixture
def both(conf: str, rbd_cli: Run) -> Callable[..., tuple[int, bytes, str]]:
    """Runs both, demands equal output and exit code."""

    def compare(*args: str) -> tuple[int, bytes, str]:
        ours = run([sys.executable, "-m", "pyrbd"], conf, args)
        theirs = run(oracle.argv(conf, "rbd"), conf, args)
        assert ours[:2] == theirs[:2], (args, ours, theirs)
        return ours

    return compare


def test_info_and_ls(ioctx: rados.Ioctx, name: str, both: Callable[..., object], rbd_cli: Run) -> None:
    rbd_cli("import", "--no-progress", "--image-feature", "layering", "-", name, stdin=b"x" * (3 * MIB + 5))
    rbd_cli("snap", "create", "--no-progress", f"{name}@s")
    rbd_cli("snap", "protect", f"{name}@s")
    rbd_cli("clone", f"{name}@s", f"{name}-c")
    rbd_cli("snap", "create", "--no-progress", f"{name}-c@t")
    rbd_cli("create", "--size", "5G", "--stripe-unit", "64K", "--stripe-count", "3", "--object-size", "1M", f"{name}-s")
    try:
        for image in (name, f"{name}-c", f"{name}-s", f"{name}@s", f"rbd/{name}"):
            for form in ((), ("--format", "json"), ("--format", "json", "--pretty-format")):
                both("info", image, *form)
        for form in ((), ("--format", "json"), ("--format", "xml"), ("--format", "json", "--pretty-format")):
            both("ls", *form)
            both("ls", "rbd", *form)
        with rbd.Image(ioctx, f"{name}-s") as locked, rbd.Image(ioctx, f"{name}-c") as shared:
            shared.lock_shared("a cookie", "a tag")
            rbd.RBD().create(ioctx, f"{name}-1", MIB, old_format=True)
            locked.write(b"x", 0)
            both("ls", "-l")
            both("ls", "-l", "--format", "json")
            shared.unlock("a cookie")
            rbd.RBD().remove(ioctx, f"{name}-1")
        both("-p", "rbd", "info", name)
        both("info", "--pool", "rbd", "--image", name, "--id", "admin")
    finally:
        rbd_cli("snap", "purge", "--no-progress", f"{name}-c")
        rbd_cli("rm", "--no-progress", f"{name}-c")
        rbd_cli("rm", "--no-progress", f"{name}-s")
        rbd_cli("snap", "unprotect", f"{name}@s")
        rbd_cli("snap", "rm", "--no-progress", f"{name}@s")


@pytest.mark.parametrize(
    "args",
    [
        ("info", "no-such-image"),
        ("rm", "no-such-image"),
        ("mv", "no-such-image", "x"),
        ("export", "no-such-image", "-"),
        ("import", "/no/such/file", "x"),
        ("create", "x"),
        ("create", "-p", "no-such-pool", "x", "-s", "1"),
        ("ls", "-p", "no-such-pool"),
        ("create", "x@y", "--size", "1"),
        ("info",),
    ],
)
def test_failures_end_with_the_code_of_rbd(both: Callable[..., tuple[int, bytes, str]], args: tuple[str, ...]) -> None:
    code, out, err = both(*args)
    assert code and not out and err.startswith("rbd: ") and "Traceback" not in err


def test_create_resize_move_remove(
    name: str, pyrbd: Callable[..., tuple[int, bytes, str]], both: Callable[..., object], rbd_cli: Run
) -> None:
    assert pyrbd("create", name, "--size", "10M", "--object-size", "64K")[0] == 0
    both("info", name)
    assert pyrbd("create", name, "--size", "10M")[0] == 17
    assert pyrbd("create", name + "x", "-s", "1", "--image-feature", "exclusive-lock,journaling")[0] == 38
    assert pyrbd("resize", name, "-s", "20M")[0] == 0
    both("info", name)
    assert pyrbd("resize", name, "-s", "1M")[0] == 22
    assert pyrbd("resize", name, "-s", "1M", "--allow-shrink")[0] == 0
    both("info", name)
    assert pyrbd("mv", name, name + "-moved")[0] == 0
    assert pyrbd("mv", name + "-moved", name)[0] == 0
    assert pyrbd("rm", name)[:2] == (0, b"")
    assert name not in rbd_cli("ls").decode().split()


def test_import_and_export(
    name: str, tmp_path: Path, pyrbd: Callable[..., tuple[int, bytes, str]], rbd_cli: Run, ioctx: rados.Ioctx
) -> None:
    data = os.urandom(5 * MIB) + bytes(40 * MIB) + os.urandom(123)
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_bytes(data)
    code, _, err = pyrbd("import", str(source), name)
    assert (code, err) == (0, "")
    assert rbd_cli("export", "--no-progress", name, "-") == data
    assert pyrbd("export", name, str(target))[0] == 0
    assert target.read_bytes() == data
    assert target.stat().st_blocks * 512 < 20 * MIB, "the zeroes are a hole"
    assert pyrbd("export", name, str(target))[0] == 17, "an existing file is not overwritten"
    assert pyrbd("export", name, "-")[1] == data
    with rbd.Image(ioctx, name) as image:
        prefix = image.block_name_prefix()
    assert len(rados_objects(ioctx, prefix)) == 3, "the zeroes were not written"
    assert pyrbd("rm", name)[0] == 0
    assert pyrbd("import", "-", name, stdin=data)[0] == 0
    assert rbd_cli("export", "--no-progress", name, "-") == data


def rados_objects(ioctx: rados.Ioctx, prefix: str) -> list[str]:
    from pyrbd.msgr.types import HObject

    async def names() -> list[str]:
        cursor, found = HObject(), []
        while not cursor.max:
            page = await ioctx._io.list_page(cursor)
            found += [e.oid for e in page.entries if e.oid.startswith(prefix + ".")]
            cursor = page.handle
        return found

    return ioctx.rados.client.run(names())


def test_a_failed_import_leaves_no_image(name: str, pyrbd: Callable[..., tuple[int, bytes, str]], rbd_cli: Run) -> None:
    assert pyrbd("import", "/etc", name)[0] == 21
    assert pyrbd("import", "/dev/null", name, "--image-feature", "exclusive-lock,journaling")[0] == 38
    assert name not in rbd_cli("ls").decode().split()


def test_where_the_cluster_comes_from(conf: str, tmp_path: Path) -> None:
    program = [sys.executable, "-m", "pyrbd"]
    host = rados.Rados(conffile=conf).conf_get("mon_host")
    keyring = rados.Rados(conffile=conf).conf_get("keyring")
    assert host and keyring
    nowhere = str(tmp_path / "none.conf")
    assert run(program, conf, ("ls", "-c", conf))[0] == 0
    assert run(program, nowhere, ("-c", conf, "ls"))[0] == 0
    code, _, err = run(program, nowhere, ("ls",))
    assert code == 2 and "none.conf" in err
    assert run(program, "", ("ls", "-m", host, "--keyring", keyring, "-n", "client.admin"))[0] == 0
    env = dict(os.environ, PYTHONPATH=str(ROOT), CEPH_ARGS=f"-c {conf}")
    env.pop("CEPH_CONF", None)
    assert subprocess.run([*program, "ls"], env=env, capture_output=True, check=False).returncode == 0


def test_help_and_version(pyrbd: Callable[..., tuple[int, bytes, str]]) -> None:
    assert pyrbd("--version")[0] == 0
    code, out, _ = pyrbd("--help")
    assert code == 0 and b"import" in out
    assert pyrbd("no-such-command")[0] == 1
    assert pyrbd()[0] == 1


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (14680841, "14 MiB"),
        (1536, "1.5 KiB"),
        (1 << 50, "1 PiB"),
    ],
)
def test_sizes_as_ceph_prints_them(n: int, text: str) -> None:
    from pyrbd.cli.output import format_size

    assert format_size(n) == text


def test_progress_is_for_terminals(conf: str, name: str, tmp_path: Path) -> None:
    """On a terminal a bar or a line is drawn; elsewhere nothing."""
    import pty

    source = tmp_path / "in"
    source.write_bytes(os.urandom(MIB))
    master, slave = pty.openpty()
    env = dict(os.environ, CEPH_CONF=conf, PYTHONPATH=str(ROOT), TERM="xterm")
    p = subprocess.Popen([sys.executable, "-m", "pyrbd", "import", str(source), name], stderr=slave, env=env)
    os.close(slave)
    drawn = b""
    while True:
        try:
            piece = os.read(master, 4096)
        except OSError:
            break
        if not piece:
            break
        drawn += piece
    os.close(master)
    assert p.wait() == 0
    assert b"Importing image" in drawn and b"100%" in drawn
