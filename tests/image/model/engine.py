"""Lets two clients do steps on the same images and compares both with the model."""

from __future__ import annotations

import json
import os
import pickle
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyrbd.testing.commander import Commander
from tests import oracle

from .client import BLOCK, digest
from .steps import (
    DATA,
    ERASURE,
    FAST_DIFF,
    OBJECT_MAP,
    OPERATIONS,
    OTHER,
    PLACES,
    POOL,
    SPACE,
    Img,
    Step,
    Where,
    World,
    raises,
)

PROGRAM = str(Path(__file__).with_name("client.py"))
HANG = 180.0
PROFILE = "model-profile"
UNOPENED = ("create", "open", "close", "remove", "rename", "trash_move", "trash_restore", "trash_remove", "clone")
"""Steps that are not done through an image that the client has open."""
FEATURE_NAMES = {
    1: "layering", 4: "exclusive-lock", 8: "object-map", 16: "fast-diff", 32: "deep-flatten",
}  # fmt: skip
LASTING = {"rbd_directory", "rbd_children", "rbd_info", "rbd_namespace", "rbd_trash", "rbd_trash_purge_schedule"}
"""Objects that stay in a pool without images."""
NEEDS = {
    "compare_and_write": "Image.compare_and_write",
    "aio": "Image.aio_write",
    "snap_create": "Image.create_snap",
    "snap_remove": "Image.remove_snap",
    "snap_remove_missing": "Image.remove_snap",
    "snap_rename": "Image.rename_snap",
    "protect": "Image.protect_snap",
    "unprotect": "Image.unprotect_snap",
    "rollback": "Image.rollback_to_snap",
    "snap_limit": "Image.set_snap_limit",
    "clone": "RBD.clone",
    "trash_move": "RBD.trash_move",
    "trash_restore": "RBD.trash_restore",
    "trash_remove": "RBD.trash_remove",
    "lock": "Image.lock_acquire",
    **{
        n: f"Image.{n}"
        for n in ("flatten", "copy", "deep_copy", "sparsify", "metadata_set", "metadata_remove", "update_features",
                  "rebuild_object_map", "lock_release")
    },
}  # fmt: skip
"""What a client's module must have for a step."""


class Mismatch(AssertionError):
    """A client did not do what the model says."""


class Died(Mismatch):
    """A client's process ended or hangs."""


class Raised(Exception):
    """What a client's call raised."""

    def __init__(self, name: str, errno: int | None, text: str, trace: str) -> None:
        super().__init__(f"{name} [errno {errno}] {text}\n{trace}")
        self.name, self.errno, self.text, self.trace = name, errno, text, trace


class Remote:
    """A client in a process of its own, which is told what to do."""

    def __init__(self, role: str, conf: str, **settings: str) -> None:
        self.role, self.conf = role, conf
        # with a cache, a read by librbd is of the past when it does not own the lock, and a write comes with the flush
        self.settings = {"rbd_cache": "false", **settings}
        self.start()

    def start(self) -> None:
        """A new process; nothing is open in it."""
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        argv = [PROGRAM, self.role, self.conf, *(f"{k}={v}" for k, v in self.settings.items())]
        argv = [sys.executable, *argv] if self.role == "pyrbd" else oracle.argv(self.conf, "python3", *argv)
        env = {**os.environ, "RBD_FORCE_ALLOW_V1": "1"}
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, env=env
        )
        self.call("ping")
        self.has = frozenset(self.call("capabilities"))

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self._ended()

    def stop(self, timeout: float = HANG) -> None:
        """Lets it close what is open and end; kills it when it does not."""
        if self.process.poll() is None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                stacks = self.stacks()
                self.kill()
                raise Died(f"{self.role} does not end:\n{stacks}") from None
        self._ended()

    def _ended(self) -> None:
        self.process.wait()
        for file in (self.process.stdin, self.process.stdout, self.errors):
            assert file is not None
            try:
                file.close()
            except BrokenPipeError:
                pass

    def stacks(self) -> str:
        """What its threads are doing, and what it has printed."""
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGUSR1)
            time.sleep(1)
        self.errors.seek(0)
        return self.errors.read()[-8000:]

    def printed(self) -> str:
        """The end of what it has printed, as librbd does of what it does not like."""
        self.errors.seek(0)
        return "".join(self.errors.readlines()[-6:])

    def send(self, method: str, *args: Any, **kwargs: Any) -> None:
        data = pickle.dumps((method, args, kwargs))
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(struct.pack("<I", len(data)) + data)
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Died(f"{self.role} ended with {self.process.wait()}:\n{self.stacks()}") from None

    def receive(self, timeout: float = HANG) -> Any:
        (length,) = struct.unpack("<I", self._read(4, timeout))
        reply = pickle.loads(self._read(length, timeout))
        if reply[0] == "raises":
            name, errno, text, trace = reply[1:]
            raise Raised(name, errno, text, trace + self.printed())
        return reply[1]

    def _read(self, n: int, timeout: float) -> bytes:
        assert self.process.stdout is not None
        deadline, found = time.monotonic() + timeout, b""
        fd = self.process.stdout.fileno()
        while len(found) < n:
            if not select.select([fd], [], [], max(0, deadline - time.monotonic()))[0]:
                raise Died(f"{self.role} hangs:\n{self.stacks()}")
            more = os.read(fd, n - len(found))
            if not more:
                raise Died(f"{self.role} ended with {self.process.wait()}:\n{self.stacks()}")
            found += more
        return found

    def call(self, method: str, *args: Any, timeout: float = HANG, **kwargs: Any) -> Any:
        self.send(method, *args, **kwargs)
        return self.receive(timeout)


def prepare(conf: str) -> None:
    """Makes the pools, if they are not there yet: two for images, a replicated and an
    erasure-coded one for data."""
    commander = Commander(conf)
    try:
        commander.command("config set", who="osd", name="osd_snap_trim_sleep", value="0")
        pools = {p["poolname"] for p in commander.command("osd lspools")}
        commander.command(
            "osd erasure-code-profile set",
            name=PROFILE,
            profile=["k=2", "m=1", "crush-failure-domain=osd"],
            force=True,
            yes_i_really_mean_it=True,
        )
        for pool in {POOL, OTHER, DATA, ERASURE} - pools:
            more = {"pool_type": "erasure", "erasure_code_profile": PROFILE} if pool == ERASURE else {}
            commander.command("osd pool create", pool=pool, pg_num=8, pgp_num=8, **more)
            if pool == ERASURE:
                commander.command("osd pool set", pool=pool, var="allow_ec_overwrites", val="true")
            commander.command("osd pool application enable", pool=pool, app="rbd")
    finally:
        commander.close()
    rbd = lambda *args: subprocess.run(oracle.argv(conf, "rbd", *args), capture_output=True, text=True, check=False)  # noqa: E731
    for pool in (POOL, OTHER):
        rbd("pool", "init", pool)
    if SPACE not in rbd("namespace", "ls", POOL).stdout:
        rbd("namespace", "create", f"{POOL}/{SPACE}")


def spec_of(where: Where, name: str, snap: str | None = None) -> str:
    """As the `rbd` tool takes it."""
    pool, space = where
    return f"{pool}/{space + '/' if space else ''}{name}{'@' + snap if snap else ''}"


class Engine:
    """Two clients and a world. :meth:`do` does a step and compares; :meth:`check_all` compares everything."""

    def __init__(
        self, conf: str, roles: tuple[str, str] = ("pyrbd", "librbd"), say: Callable[[str], None] = lambda text: None
    ) -> None:
        self.conf, self.roles, self.say = conf, roles, say
        self.clients = [Remote(role, conf) for role in roles]
        self.world = World()
        self.where: dict[int, tuple[Where, str]] = {}
        """Where images were before the step."""
        self.sums: dict[int, tuple[bytes, list[int]]] = {}
        self.counts: Counter[str] = Counter()
        self.missing: Counter[str] = Counter()
        self.spent: Counter[str] = Counter()
        self.turn = 0
        self.dirty: set[int] = set()
        """Images that were touched since everything was compared."""

    # ------------------------------------------------------------ talking to clients

    def call(self, c: int, method: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return self.clients[c].call(method, *args, **kwargs)
        except Raised as e:
            what = f"client {c} ({self.roles[c]}): {method}{args!r:.300} {kwargs}"
            raise Mismatch(f"{what} raised {e}") from None

    def handle(self, c: int, uid: int) -> int:
        """The key of the image, opened by the client if need be."""
        if uid not in self.world.open_by[c]:
            image = self.world.images[uid]
            self.call(c, "open", uid, image.where, image.name)
            self.world.open_by[c].add(uid)
        return uid

    def close(self, c: int, uid: int) -> None:
        if uid in self.world.open_by[c]:
            self.world.open_by[c].discard(uid)
            self.call(c, "close", uid)

    def restart(self, c: int) -> None:
        """The client is killed and another one begins."""
        self.clients[c].kill()
        self.world.open_by[c].clear()
        self.clients[c].start()

    def rbd(self, *args: str, check: bool = True) -> str:
        """The `rbd` tool."""
        done = subprocess.run(
            oracle.argv(self.conf, "rbd", *args), capture_output=True, text=True, check=False, timeout=HANG
        )
        if check and done.returncode:
            said = "\n".join((done.stdout + done.stderr).splitlines()[:6])  # a backtrace would hide the steps
            raise Mismatch(f"rbd {' '.join(args)}: {done.returncode}\n{said}")
        return done.stdout + ("" if check or not done.returncode else done.stderr)

    # ------------------------------------------------------------ steps

    def do(self, step: Step) -> None:
        """Does a step by its client and compares what it touched."""
        what, c = step[0], step[1]
        self.where = {uid: (i.where, i.name) for uid, i in self.world.images.items()}
        there = self.world.images.get(step[2])
        if what not in UNOPENED and there is not None and not there.trash:
            self.handle(c, there.uid)
        compare = self.compare_data(step)
        expected = self.world.apply(step)
        self.counts[what] += 1
        send = getattr(self, "send_" + what, None)
        try:
            value = send(c, *step[2:], **compare) if send else self.generic(c, what, *step[2:])
            outcome: tuple[Any, ...] = ("ok", value)
        except Raised as e:
            outcome = ("raises", e)
        except Mismatch:
            raise
        self.compare(step, expected, outcome)
        if what == "deep_copy" and self.roles[c] == "librbd" and step[3] in self.world.images:
            copied = self.world.images[step[3]]
            copied.doubt.add("librbd's object maps of snapshots that it copies")
            if copied.parent is not None:  # it makes a clone, which begins with the parent's metadata
                copied.metadata = {**self.world.images[copied.parent[0]].metadata, **copied.metadata}
        for uid in self.world.touched(step):
            self.dirty.add(uid)
            self.check(uid)

    def compare_data(self, step: Step) -> dict[str, Any]:
        """What a compare-and-write finds, as the model has it before the step."""
        if step[0] != "compare_and_write" or step[2] not in self.world.images:
            return {}
        _, _, uid, offset, length, _, differ = step
        there = bytearray(self.world.images[uid].data[offset : offset + length])
        if differ and there:
            there[length // 2] ^= 1
        return {"compare": bytes(there)}

    def compare(self, step: Step, expected: tuple[Any, ...], outcome: tuple[Any, ...]) -> None:
        kind, got = outcome
        if expected[0] == "either":
            expected = raises(*expected[1]) if kind == "raises" else ("ok",)
        who = f"client {step[1]} ({self.roles[step[1]]})"
        if expected[0] == "raises":
            if kind == "ok":
                raise Mismatch(f"{who} must raise {set(expected[1])}, and gave {got!r}")
            if got.name not in expected[1]:
                raise Mismatch(f"{who} must raise {set(expected[1])}, and raised {got}")
            return
        if expected[0] == "mismatch":
            if kind == "ok" or (got.errno not in (84, 0, None) and got.errno is not None and got.errno < 4095):
                raise Mismatch(f"{who} must find a difference, and gave {got}")
            return
        if kind == "raises":
            raise Mismatch(f"{who} raised {got}")
        if expected[0] == "aio":
            if any(got):
                raise Mismatch(f"{who}: completions gave {got}")
        elif len(expected) > 1 and got != expected[1]:
            raise Mismatch(f"{who} gave {got!r}, not {expected[1]!r}")

    def generic(self, c: int, what: str, uid: int, *args: Any) -> Any:
        return self.clients[c].call("image", uid, what, *args)

    def send_create(self, c: int, uid: int, where: Where, name: str, size: int, spec: dict[str, Any]) -> None:
        kwargs = {"old_format": False, **spec}
        if kwargs["old_format"]:
            del kwargs["features"]
        self.clients[c].call("create", where, name, size, kwargs)

    def send_open(self, c: int, uid: int) -> None:
        self.close(c, uid)
        self.handle(c, uid)

    def send_close(self, c: int, uid: int) -> None:
        self.close(c, uid)

    def send_remove(self, c: int, uid: int, others_closed: bool) -> None:
        where, name = self.where[uid]
        self.close(c, uid)
        other = 1 - c
        if others_closed:
            self.close(other, uid)
        else:
            self.handle(other, uid)
        self.clients[c].call("top", "remove", where, name)
        for opened in self.world.open_by:
            opened.discard(uid)

    def send_rename(self, c: int, uid: int, name: str) -> None:
        where, old = self.where[uid]
        if self.world.images[uid].spec.old_format:  # whose header has the name
            self.close(0, uid)
            self.close(1, uid)
        self.clients[c].call("top", "rename", where, old, name)

    def send_trash_move(self, c: int, uid: int, delay: int) -> None:
        where, name = self.where[uid]
        self.close(0, uid)
        self.close(1, uid)
        self.clients[c].call("top", "trash_move", where, name, delay)

    def send_trash_restore(self, c: int, uid: int, name: str) -> None:
        where, _ = self.where[uid]
        self.clients[c].call("top", "trash_restore", where, self.trash_id(c, uid), name)

    def send_trash_remove(self, c: int, uid: int) -> None:
        where, _ = self.where[uid]
        self.clients[c].call("top", "trash_remove", where, self.trash_id(c, uid))

    def trash_id(self, c: int, uid: int) -> str:
        where, name = self.where[uid]
        for entry in self.clients[c].call("top", "trash_list", where):
            if entry["name"] == name:
                return str(entry["id"])
        raise Mismatch(f"client {c} does not list {name} in the trash of {where}")

    def send_write(self, c: int, uid: int, offset: int, length: int, seed: int) -> int:
        return int(self.clients[c].call("write", uid, offset, length, seed))

    def send_write_beyond(self, c: int, uid: int, past: int, length: int, seed: int) -> None:
        self.clients[c].call("write", uid, len(self.world.images[uid].data) + past, length, seed)

    def send_write_zeroes(self, c: int, uid: int, offset: int, length: int, flags: int) -> None:
        self.clients[c].call("image", uid, "write_zeroes", offset, length, flags)

    def send_compare_and_write(
        self, c: int, uid: int, offset: int, length: int, seed: int, differ: bool, compare: bytes
    ) -> None:
        self.clients[c].call("compare_and_write", uid, offset, compare, seed)

    def send_aio(self, c: int, uid: int, calls: list[tuple[Any, ...]]) -> Any:
        return self.clients[c].call("aio", uid, calls)

    def send_snap_create(self, c: int, uid: int, name: str) -> None:
        self.clients[c].call("image", uid, "create_snap", name)

    def send_snap_remove(self, c: int, uid: int, name: str) -> None:
        self.clients[c].call("image", uid, "remove_snap", name)

    def send_snap_remove_missing(self, c: int, uid: int) -> None:
        self.clients[c].call("image", uid, "remove_snap", "no such")

    def send_snap_rename(self, c: int, uid: int, name: str, new: str) -> None:
        self.clients[c].call("image", uid, "rename_snap", name, new)

    def send_protect(self, c: int, uid: int, name: str) -> None:
        self.clients[c].call("image", uid, "protect_snap", name)

    def send_unprotect(self, c: int, uid: int, name: str) -> None:
        self.clients[c].call("image", uid, "unprotect_snap", name)

    def send_rollback(self, c: int, uid: int, name: str) -> None:
        self.close(1 - c, uid)  # as the owner of the lock is not asked for it: ReadOnlyImage
        self.clients[c].call("image", uid, "rollback_to_snap", name)

    def send_snap_limit(self, c: int, uid: int, limit: int | None) -> None:
        if limit is None:
            self.clients[c].call("image", uid, "remove_snap_limit")
        else:
            self.clients[c].call("image", uid, "set_snap_limit", limit)

    def send_clone(
        self, c: int, uid: int, new: int, snap: str, where: Where, name: str, spec: dict[str, Any], form: int
    ) -> None:
        p_where, p_name = self.where[uid]
        self.clients[c].call("clone", p_where, p_name, snap, where, name, {**spec, "clone_format": form})

    def send_copy(
        self, c: int, uid: int, new: int, snap: str | None, where: Where, name: str, spec: dict[str, Any]
    ) -> None:
        self.clients[c].call("image", uid, "set_snap", snap)
        try:
            self.clients[c].call("copy", uid, "copy", where, name, **spec)
        finally:
            self.clients[c].call("image", uid, "set_snap", None)

    def send_deep_copy(
        self, c: int, uid: int, new: int, where: Where, name: str, spec: dict[str, Any], flatten: bool
    ) -> None:
        if not flatten:
            form = self.world.images[uid].clone_format if uid in self.world.images else 0
            self.clients[c].call("copy", uid, "deep_copy", where, name, clone_format=form or 2, **spec)
        elif self.roles[c] == "pyrbd":
            self.clients[c].call("copy", uid, "deep_copy", where, name, **spec, flatten=True)
        else:  # the binding of 16.2 does not have it
            names = [n for bit, n in FEATURE_NAMES.items() if spec["features"] & bit]
            options = [x for n in names for x in ("--image-feature", n)] + ["--object-size", f"{1 << spec['order']}B"]
            options += ["--stripe-unit", f"{spec['stripe_unit']}B", "--stripe-count", str(spec["stripe_count"])]
            options += ["--data-pool", spec["data_pool"]] if "data_pool" in spec else []
            source = spec_of(*self.where[uid])
            self.rbd("deep", "cp", "--no-progress", "--flatten", *options, source, spec_of(where, name))

    def send_lock(self, c: int, uid: int) -> None:
        """Takes the lock, so that the other client cannot write, and gives it back."""
        mine, other = self.clients[c], self.clients[1 - c]
        self.handle(1 - c, uid)
        mine.call("image", uid, "lock_acquire", 0)
        if not mine.call("image", uid, "is_exclusive_lock_owner") or other.call(
            "image", uid, "is_exclusive_lock_owner"
        ):
            raise Mismatch(f"client {c} ({self.roles[c]}) has the lock, and not alone")
        for who in (mine, other):
            if len(owners := who.call("image", uid, "lock_get_owners")) != 1:
                raise Mismatch(f"owners of the lock of client {c} ({self.roles[c]}) by the {who.role}: {owners}")
        size = len(self.world.images[uid].data)
        try:
            if size:
                other.call("write", uid, 0, 1, 7)
                raise Mismatch(f"the {other.role} writes under the lock of client {c} ({self.roles[c]})")
        except Raised as e:
            if e.name != "ReadOnlyImage":
                raise Mismatch(f"the {other.role} under the lock of client {c} ({self.roles[c]}): {e}") from None
        mine.call("image", uid, "lock_release")
        if mine.call("image", uid, "is_exclusive_lock_owner"):
            raise Mismatch(f"client {c} ({self.roles[c]}) has given the lock back and has it")
        self.close(c, uid)  # an image whose lock was asked for by name does not ask for it by itself any more

    # ------------------------------------------------------------ comparing

    def expected_state(self, image: Img) -> dict[str, Any]:
        return {
            "size": len(image.data),
            "order": image.spec.order,
            "num_objs": -1,
            "features": image.features,
            "overlap": image.overlap,
            "old_format": image.spec.old_format,
            "snaps": [
                (None if s.trashed else s.name, len(s.data), 2 if s.trashed else 0, s.protected) for s in image.snaps
            ],
        }

    def sums_of(self, image: Img) -> tuple[int, list[int]]:
        data = bytes(image.data)
        known = self.sums.get(image.uid)
        if known is None or known[0] != data:
            known = self.sums[image.uid] = (data, digest(data))
        return len(data), known[1]

    def check(self, uid: int) -> None:
        """State and content by both clients; the snapshots' content by one of them."""
        image = self.world.images[uid]
        if image.trash:
            return
        self.turn += 1
        for c in (0, 1):
            self.check_state(c, image)
            self.check_content(f"the head of {image.name}", c, self.call(c, "digest", self.handle(c, uid)), image.data)
        if image.user_snaps:
            c = self.turn % 2
            names = [s.name for s in image.user_snaps]
            for snap, found in zip(image.user_snaps, self.call(c, "digest_at", self.handle(c, uid), names)):
                self.check_content(f"{image.name}@{snap.name}", c, found, snap.data)

    def check_state(self, c: int, image: Img) -> None:
        found = self.call(c, "state", self.handle(c, image.uid))
        want = self.expected_state(image)
        unit = image.spec.stripe_unit or image.spec.object_size
        count = image.spec.stripe_count or 1
        period = image.spec.object_size * count
        stripes = len(image.data) // period * count
        rest = len(image.data) % period
        want["num_objs"] = stripes + (count if rest > unit * count else -(-rest // unit))
        flags = found["flags"]
        found["features"] &= ~OPERATIONS  # whoever has the parent open is not told of its first clone
        found = {k: found[k] for k in want} | {"snaps": [s[1:] for s in found["snaps"]]}
        if found != want:
            wrong = {k: (found[k], want[k]) for k in want if found[k] != want[k]}
            raise Mismatch(f"client {c} ({self.roles[c]}) says of {image.name} (found, wanted): {wrong}")
        if flags and not image.doubt:
            raise Mismatch(f"client {c} ({self.roles[c]}): the object map of {image.name} is invalid: {flags}")

    def check_content(self, what: str, c: int, found: tuple[int, list[int]], data: Any) -> None:
        size, sums = found
        if size != len(data):
            raise Mismatch(f"client {c} ({self.roles[c]}): {what} has {size} bytes, not {len(data)}")
        want = digest(data)
        if sums != want:
            blocks = [i for i, (a, b) in enumerate(zip(sums, want)) if a != b]
            where = (
                f"{len(blocks)} blocks of {BLOCK}, the first at {blocks[0] * BLOCK}, the last at {blocks[-1] * BLOCK}"
            )
            raise Mismatch(f"client {c} ({self.roles[c]}): {what} differs in {where}")

    def check_all(self) -> None:
        """Everything, with images opened anew and by the `rbd` tool."""
        for image in self.world.live():
            if image.uid not in self.dirty:
                continue
            self.check(image.uid)
            self.check_fresh(image)
            self.check_children(image)
            self.check_metadata(image)
            self.check_diffs(image)
            self.check_tool(image)
        self.dirty.clear()
        for where in PLACES:
            names = sorted(i.name for i in self.world.live() if i.where == where)
            trash = sorted(i.name for i in self.world.images.values() if i.where == where and i.trash)
            for c in (0, 1):
                if (found := sorted(self.call(c, "top", "list", where))) != names:
                    raise Mismatch(f"client {c} ({self.roles[c]}) lists {found} in {where}, not {names}")
                if "RBD.trash_list" in self.clients[c].has:
                    found = sorted(e["name"] for e in self.call(c, "top", "trash_list", where))
                    if found != trash:
                        raise Mismatch(f"client {c} ({self.roles[c]}) lists {found} in the trash, not {trash}")

    def check_fresh(self, image: Img) -> None:
        self.turn += 1
        c = self.turn % 2
        for snap in (None, *image.user_snaps):
            key = ("fresh", image.uid)
            self.call(c, "open", key, image.where, image.name, snap and snap.name, True)
            found = self.call(c, "digest", key)
            self.call(c, "close", key)
            self.check_content(
                f"{image.name}@{snap and snap.name} opened anew", c, found, snap.data if snap else image.data
            )

    def check_children(self, image: Img) -> None:
        for snap in image.user_snaps:
            children = self.world.children(image.uid, snap)
            want = sorted((i.where[0], i.where[1], "" if i.trash else i.name, i.trash) for i in children)
            for c in (0, 1):
                if "Image.list_children2" in self.clients[c].has:
                    found = self.call(c, "children", self.handle(c, image.uid), snap.name)
                    found = sorted((p, n, "" if t else i, t) for p, n, i, t in found)
                    if found != want:
                        what = f"children of {image.name}@{snap.name}"
                        raise Mismatch(f"client {c} ({self.roles[c]}): {what} are {found}, not {want}")

    def check_metadata(self, image: Img) -> None:
        if image.spec.old_format:
            return
        for c in (0, 1):
            if "Image.metadata_list" in self.clients[c].has:
                found = self.call(c, "metadata", self.handle(c, image.uid))
                if found != image.metadata:
                    raise Mismatch(
                        f"client {c} ({self.roles[c]}): metadata of {image.name} {found}, not {image.metadata}"
                    )

    def check_diffs(self, image: Img) -> None:
        """Both clients' diffs are equal, and what they say turns one content into the other."""
        able = [c for c in (0, 1) if "Image.diff_iterate" in self.clients[c].has]
        contents: dict[Any, bytes] = {None: bytes(image.data), **{s.name: s.data for s in image.user_snaps}}
        order = [*(s.name for s in image.user_snaps), None]
        pairs = [(None, to) for to in order]
        pairs += [(frm, to) for i, frm in enumerate(order) for to in order[i + 1 :]]
        for number, (frm, to) in enumerate(pairs):
            size = len(contents[to])
            if not size:
                continue
            parent, whole = bool((number + self.turn) % 3), not (number + self.turn) % 4
            what = f"the diff of {image.name} from {frm} to {to} (parent {parent}, whole {whole})"
            for attempt in range(12):
                found = [self.call(c, "diff", self.handle(c, image.uid), 0, size, frm, to, parent, whole) for c in able]
                if len(found) < 2 or found[0] == found[1] or self.as_newer(able, *found):
                    break
                time.sleep(0.25 * attempt)  # it changes while OSDs trim removed snapshots
            else:
                raise Mismatch(f"{what}: {self.roles[able[0]]} {found[0]}\n{self.roles[able[1]]} {found[1]}")
            for c, extents in zip(able, found):
                if parent or image.parent is None or frm is not None:
                    self.check_diff(f"{what} by {self.roles[c]}", extents, contents[frm] if frm else b"", contents[to])

    def as_newer(self, able: list[int], *found: list[tuple[int, int, bool]]) -> bool:
        """Whether the diffs differ only in that librbd of 16.2 reports what was written beyond the end
        that an object was then cut to, with whole objects also one of which nothing is left, and later ones
        do not (`calc_snap_set_diff`, `ObjectListSnapsRequest`; tentacle's gives what ours does)."""
        if {self.roles[c] for c in able} != {"pyrbd", "librbd"}:
            return False
        ours, theirs = found if self.roles[able[0]] == "pyrbd" else found[::-1]
        more = bytearray(max([o + n for o, n, _ in (*ours, *theirs)], default=0))
        for offset, length, _ in theirs:
            more[offset : offset + length] = b"\1" * length
        return all(0 not in more[o : o + n] for o, n, _ in ours)

    def check_diff(self, what: str, extents: list[tuple[int, int, bool]], before: bytes, after: bytes) -> None:
        made = bytearray(before[: len(after)] + bytes(max(0, len(after) - len(before))))
        last = -1
        for offset, length, exists in extents:
            if offset < last or offset + length > len(after) or length <= 0:
                raise Mismatch(f"{what}: {(offset, length)} of {len(after)} after {last}")
            last = offset + length
            made[offset:last] = after[offset:last] if exists else bytes(length)
        if made != after:
            at = next(i for i, (a, b) in enumerate(zip(made, after)) if a != b)
            raise Mismatch(f"{what} does not make the one of the other: byte {at}; {extents[:40]}")

    def check_tool(self, image: Img) -> None:
        """`rbd` info, object-map check, du, lock ls."""
        spec = spec_of(image.where, image.name)
        info = json.loads(self.rbd("info", "--format", "json", spec))
        if info["size"] != len(image.data) or info["snapshot_count"] != len(image.snaps):
            raise Mismatch(f"rbd info {spec}: {info}")
        if (image.parent is not None and image.overlap > 0) != ("parent" in info):
            raise Mismatch(f"rbd info {spec}: {info}, and the parent is {image.parent and image.parent[0]}")
        if image.parent is not None and image.overlap:
            parent = self.world.images[image.parent[0]]
            found = (info["parent"]["pool"], info["parent"].get("pool_namespace", ""), info["parent"]["overlap"])
            if found != (*parent.where, image.overlap):
                raise Mismatch(f"rbd info {spec}: {info['parent']}")
        children = any(i.clone_format == 2 for i in self.world.children(image.uid))
        clone2 = image.clone_format == 2 and bool(image.parents())
        if ("operations" in info.get("features", [])) != (children or clone2):
            raise Mismatch(f"rbd info {spec}: {info}; clones {children}, is a clone {clone2}")
        locks = self.rbd("lock", "ls", spec)
        if len(locks.splitlines()) > 3:
            raise Mismatch(f"rbd lock ls {spec}: {locks}")
        if image.features & FAST_DIFF and image.data and all(s.data for s in image.user_snaps):  # or it aborts
            du = json.loads(self.rbd("du", "--format", "json", spec))
            heads = [i for i in du["images"] if "snapshot" not in i]
            if heads and heads[0]["provisioned_size"] != len(image.data):
                raise Mismatch(f"rbd du {spec}: {du}")
        if image.features & OBJECT_MAP:
            for snap in (None, *image.user_snaps):
                self.check_object_map(image, snap and snap.name)

    def check_object_map(self, image: Img, snap: str | None) -> None:
        spec = spec_of(image.where, image.name, snap)
        said = self.rbd("object-map", "check", "--no-progress", spec, check=False)
        flags = json.loads(self.rbd("info", "--format", "json", spec)).get("flags", [])
        if flags or "error" in said or "mark" in said:
            if not image.doubt:
                raise Mismatch(f"rbd object-map check {spec}: {flags} {said}")
            self.counts["object maps that rightly are invalid"] += 1
            for every in (None, *image.user_snaps):
                self.rbd(
                    "object-map", "rebuild", "--no-progress", spec_of(image.where, image.name, every and every.name)
                )
            image.doubt.clear()
            self.check_object_map(image, snap)

    def times(self) -> str:
        """Where the time went."""
        return ", ".join(f"{k} {v:.1f} s" for k, v in self.spent.most_common(8))

    # ------------------------------------------------------------ the end

    def finish(self) -> None:
        """Removes everything, by turns, and looks for what is left over."""
        for opened in (0, 1):
            for uid in list(self.world.open_by[opened]):
                self.close(opened, uid)
        if left := wipe(self.conf):
            raise Mismatch(f"objects are left of images that were removed: {left[:20]}")
        for client in self.clients:
            client.stop()

    def abandon(self) -> None:
        """After a failure: nothing is left of the clients; the images stay."""
        for client in self.clients:
            try:
                client.stop(10)
            except Died:
                pass


def wipe(conf: str) -> list[str]:
    """Removes all images of the pools by librbd; gives the names of the objects that are left."""
    client = Remote("librbd", conf)
    why = ""
    for attempt in range(60):
        left = 0
        if attempt > 8:
            time.sleep(1)  # clients that were killed watch for half a minute
        for where in PLACES:
            for entry in client.call("top", "trash_list", where):
                client.call("top", "trash_restore", where, entry["id"], f"{entry['name']}-{entry['id']}")
            for name in client.call("top", "list", where):
                left += 1
                try:
                    client.call("open", "wiped", where, name)
                    for _, snap, _, namespace, protected in client.call("state", "wiped")["snaps"]:
                        if namespace == 0:
                            if protected:
                                client.call("image", "wiped", "unprotect_snap", snap)
                            client.call("image", "wiped", "remove_snap", snap)
                except Raised:
                    pass
                finally:
                    client.call("close", "wiped")
                try:
                    client.call("top", "remove", where, name)
                except Raised as e:
                    why = str(e)
        if not left:
            break
    else:
        raise Mismatch(f"images that cannot be removed are left: {why}")
    left_over: list[str] = []
    for _ in range(60):
        left_over = [
            f"{pool}/{space}/{o}"
            for pool, space in (*PLACES, (DATA, ""), (ERASURE, ""), (DATA, SPACE), (ERASURE, SPACE))
            for o in client.call("objects", (pool, space))
            if o not in LASTING
        ]
        if not any("rbd_data." in o or "rb.0." in o for o in left_over):
            break
        time.sleep(1)  # removed snapshots are trimmed
    client.stop()
    return left_over
