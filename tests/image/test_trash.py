"""The trash, shared with `rbd` and librbd: what one puts there the other finds, and errors are the same."""

from __future__ import annotations

import datetime
import errno
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pyrbd import rados, rbd
from pyrbd.denc import Decoder, Encoder
from pyrbd.image import cls_rbd, errors, trash
from pyrbd.rados.io import IoContext
from pyrbd.rados.operations import ObjectOperation
from tests import oracle

Run = Callable[..., bytes]
MIB = 1 << 20


@pytest.fixture
def io(handle: rados.Rados) -> Iterator[IoContext]:
    """A namespace of its own, so that the trash holds what a test put there."""
    client = handle.client
    with handle.open_ioctx("rbd") as ioctx:
        from pyrbd.image import namespaces

        space = f"trash-{os.getpid()}-{time.monotonic_ns()}"
        client.run(namespaces.create(ioctx._io, space))
        yield ioctx._io.with_namespace(space)


def spec(io: IoContext, name: str = "") -> str:
    return f"rbd/{io.namespace}/{name}" if name else f"rbd/{io.namespace}"


def make(io: IoContext, name: str, data: bytes = b"", features: int = 1, size: int = 4 * MIB) -> str:
    """An image, and its id."""
    from pyrbd.image import directory
    from pyrbd.image.image import Image

    async def create() -> str:
        image_id = await directory.create(io, name, size, 20, features)
        if data:
            image = await Image.open(io, image_id=image_id)
            await image.write(0, memoryview(data))
            await image.close()
        return image_id

    return io.client.run(create())


def read(io: IoContext, name: str, length: int) -> bytes:
    from pyrbd.image.image import Image

    async def read_it() -> bytes:
        image = await Image.open(io, name, read_only=True)
        try:
            return await image.read(0, length)
        finally:
            await image.close()

    return io.client.run(read_it())


def names(io: IoContext) -> list[str]:
    from pyrbd.image import directory

    return sorted(io.client.run(directory.list_images(io)))


def states(io: IoContext) -> dict[str, tuple[str, int]]:
    """{id: (name, state)} of the trash."""
    return {e.id: (e.name, e.spec.state) for e in io.client.run(trash.entries(io))}


def code_of(call: Callable[[], Any]) -> int:
    try:
        call()
    except (errors.OSError, rados.Error) as e:
        return e.errno or -1
    return 0


def test_what_is_moved_there_is_found_and_restored_by_rbd(io: IoContext, rbd_cli: Run) -> None:
    client = io.client
    image_id = make(io, "a", b"data of a")
    client.run(trash.move(io, "a"))
    assert names(io) == [] and rbd_cli("ls", spec(io)) == b""
    assert rbd_cli("trash", "ls", spec(io)).split() == [image_id.encode(), b"a"]
    info = client.run(trash.get(io, image_id)).info()
    assert (info["id"], info["name"], info["source"]) == (image_id, "a", "USER")
    now = datetime.datetime.now(datetime.timezone.utc)
    assert now - datetime.timedelta(seconds=60) < info["deletion_time"] == info["deferment_end_time"] <= now
    rbd_cli("trash", "restore", spec(io, image_id))
    assert client.run(trash.list_(io)) == []
    assert names(io) == ["a"] and read(io, "a", 9) == b"data of a"


def test_what_rbd_moves_there_is_restored_under_another_name(io: IoContext, rbd_cli: Run) -> None:
    client = io.client
    image_id = make(io, "a", b"data of a")
    rbd_cli("trash", "mv", "--expires-at", "now + 1 hour", spec(io, "a"))
    (entry,) = client.run(trash.list_(io))
    assert (entry.id, entry.name, entry.source, entry.spec.state) == (image_id, "a", 0, trash.TRASH_IMAGE_STATE_NORMAL)
    assert 3500 < float(entry.spec.deferment_end_time) - float(entry.spec.deletion_time) < 3700
    client.run(trash.restore(io, image_id, "b"))
    assert rbd_cli("ls", spec(io)) == b"b\n" and rbd_cli("trash", "ls", spec(io)) == b""
    assert rbd_cli("export", "--no-progress", spec(io, "b"), "-")[:9] == b"data of a"
    client.run(trash.move(io, "b"))
    client.run(trash.restore(io, image_id))
    assert names(io) == ["b"]


def test_the_time_of_an_entry_is_kept_as_librbd_keeps_it(io: IoContext, librbd: Callable[[str], Any]) -> None:
    client = io.client
    delays = (0, 100, 10**10)
    for delay in delays:
        make(io, f"ours-{delay}")
        make(io, f"theirs-{delay}")
        client.run(trash.move(io, f"ours-{delay}", delay))
    seen = librbd(
        f"ioctx.set_namespace({io.namespace!r}); r = rbd.RBD()\n"
        f"for d in {delays}: r.trash_move(ioctx, f'theirs-{{d}}', d)\n"
        "def ts(t): return t.replace(tzinfo=__import__('datetime').timezone.utc).timestamp()\n"
        "result = [[t['id'], t['name'], t['source'], ts(t['deletion_time']), ts(t['deferment_end_time'])]\n"
        "          for t in r.trash_list(ioctx)]"
    )
    infos = [e.info() for e in client.run(trash.list_(io))]
    ours = [
        [i["id"], i["name"], i["source"], i["deletion_time"].timestamp(), i["deferment_end_time"].timestamp()]
        for i in infos
    ]
    assert ours == seen and len(seen) == 6
    ends = {e.name: e.spec.deferment_end_time.sec for e in client.run(trash.list_(io))}
    assert ends[f"ours-{10**10}"] == ends[f"theirs-{10**10}"] == 0xFFFFFFFF


def test_nothing_is_removed_before_its_time_but_by_force(io: IoContext, rbd_cli: Run) -> None:
    client = io.client
    image_id = make(io, "a", b"x")
    client.run(trash.move(io, "a", 3600))
    with pytest.raises(rbd.PermissionError) as e:
        client.run(trash.remove(io, image_id))
    assert e.value.errno == errno.EPERM
    assert states(io) == {image_id: ("a", trash.TRASH_IMAGE_STATE_NORMAL)}
    seen: list[tuple[int, int]] = []
    client.run(trash.remove(io, image_id, True, lambda done, total: seen.append((done, total))))
    assert states(io) == {} and rbd_cli("trash", "ls", spec(io)) == b""
    assert seen and seen[-1][0] == seen[-1][1]
    with pytest.raises(rados.ObjectNotFound):
        client.run(io.operate(cls_rbd.header_object(image_id), ObjectOperation().stat()))


def test_a_removal_that_fails_leaves_the_entry_as_it_was(io: IoContext, rbd_cli: Run) -> None:
    client = io.client
    image_id = make(io, "a", b"x")
    rbd_cli("snap", "create", "--no-progress", spec(io, "a@s"))
    client.run(trash.move(io, "a"))
    with pytest.raises(rbd.ImageHasSnapshots):
        client.run(trash.remove(io, image_id))
    assert states(io) == {image_id: ("a", trash.TRASH_IMAGE_STATE_NORMAL)}
    client.run(trash.restore(io, image_id))
    assert rbd_cli("snap", "ls", "--format", "json", spec(io, "a")).count(b'"name":"s"') == 1
    other = make(io, "b", bytes(range(256)) * 4096 * 4)
    client.run(trash.move(io, "b"))
    with pytest.raises(rbd.OperationCanceled):
        client.run(trash.remove(io, other, False, lambda done, total: -1))
    assert states(io) == {other: ("b", trash.TRASH_IMAGE_STATE_NORMAL)}
    rbd_cli("trash", "rm", "--no-progress", spec(io, other))


def set_state(io: IoContext, image_id: str, state: int) -> None:
    """Whatever it is now."""
    for expected in range(4):
        e = Encoder()
        e.string(image_id)
        e.u8(state)
        e.u8(expected)
        try:
            op = ObjectOperation().call_write("rbd", "trash_state_set", e.buf)
            io.client.run(io.operate("rbd_trash", op))
        except rados.Error:
            continue
        return
    raise AssertionError(f"no state was changed to {state}")


@pytest.mark.parametrize("state", range(4))
def test_each_state_allows_what_it_allows_with_librbd(io: IoContext, librbd: Callable[[str], Any], state: int) -> None:
    """Restoring, and removing, from each state of an entry: the same errors, and states after them."""
    client = io.client
    ids = [make(io, name) for name in ("a", "b", "c", "d")]
    for name in ("a", "b", "c", "d"):
        client.run(trash.move(io, name))
    for image_id in ids:
        set_state(io, image_id, state)
    theirs = librbd(
        f"ioctx.set_namespace({io.namespace!r}); r = rbd.RBD()\n"
        "def code(f, *a):\n"
        "    try: f(*a)\n"
        "    except rbd.OSError as e: return e.errno\n"
        "    return 0\n"
        f"result = [code(r.trash_restore, ioctx, {ids[0]!r}, ''), code(r.trash_remove, ioctx, {ids[1]!r})]"
    )
    ours = [
        code_of(lambda: client.run(trash.restore(io, ids[2]))),
        code_of(lambda: client.run(trash.remove(io, ids[3]))),
    ]
    assert ours == theirs
    left = states(io)
    assert [left.get(i, ("", -1))[1] for i in ids[:2]] == [left.get(i, ("", -1))[1] for i in ids[2:]]


def test_missing_images_and_bad_arguments(io: IoContext, librbd: Callable[[str], Any]) -> None:
    client = io.client
    theirs = librbd(
        f"ioctx.set_namespace({io.namespace!r}); r = rbd.RBD()\n"
        "def code(f, *a):\n"
        "    try: f(*a)\n"
        "    except rbd.OSError as e: return e.errno\n"
        "    return 0\n"
        "result = [code(r.trash_move, ioctx, 'none'), code(r.trash_get, ioctx, 'none'),\n"
        "  code(r.trash_restore, ioctx, 'none', 'x'), code(r.trash_remove, ioctx, 'none'),\n"
        "  code(r.trash_purge, ioctx, None, 1.5), code(r.trash_purge, ioctx, None, -0.5), code(r.trash_purge, ioctx)]"
    )
    assert theirs == [
        code_of(lambda: client.run(trash.move(io, "none"))),
        code_of(lambda: client.run(trash.get(io, "none"))),
        code_of(lambda: client.run(trash.restore(io, "none", "x"))),
        code_of(lambda: client.run(trash.remove(io, "none"))),
        code_of(lambda: client.run(trash.purge(io, 0, 1.5))),
        code_of(lambda: client.run(trash.purge(io, 0, -0.5))),
        code_of(lambda: client.run(trash.purge(io))),
    ]
    with pytest.raises(OverflowError):
        client.run(trash.move(io, "none", -1))


def test_restoring_to_a_name_that_is_taken(io: IoContext, rbd_cli: Run) -> None:
    client = io.client
    image_id = make(io, "a", b"old")
    client.run(trash.move(io, "a"))
    make(io, "a", b"new")
    for name in ("", "a"):
        with pytest.raises(rbd.ImageExists):
            client.run(trash.restore(io, image_id, name))
        assert states(io) == {image_id: ("a", trash.TRASH_IMAGE_STATE_NORMAL)}
    with pytest.raises(rbd.InvalidArgument):
        client.run(trash.restore(io, image_id, "a/b"))
    assert read(io, "a", 3) == b"new"
    rbd_cli("trash", "restore", "--image", "b", spec(io, image_id))
    assert names(io) == ["a", "b"]


def fail_at(io: IoContext, monkeypatch: pytest.MonkeyPatch, oid: str, method: bytes, error: rados.Error) -> None:
    """Operations on an object that call a method fail, as if the OSD had refused them."""
    operate = IoContext.operate

    async def refuse(self: IoContext, name: str, operation: ObjectOperation, **kwargs: Any) -> Any:
        if name == oid and (not method or any(method in bytes(d) for d in operation.indata)):
            raise error
        return await operate(self, name, operation, **kwargs)

    monkeypatch.setattr(IoContext, "operate", refuse)


STEPS = [("rbd_trash", b"trash_add"), ("rbd_id.a", b""), ("rbd_directory", b"dir_remove_image")]


@pytest.mark.parametrize(("oid", "method"), STEPS)
def test_a_move_that_the_cluster_refuses_leaves_the_image_where_it_was(
    io: IoContext, rbd_cli: Run, monkeypatch: pytest.MonkeyPatch, oid: str, method: bytes
) -> None:
    client = io.client
    make(io, "a", b"data")
    with monkeypatch.context() as patch:
        fail_at(io, patch, oid, method, rados.PermissionError("refused", errno.EPERM))
        with pytest.raises(rados.PermissionError):
            client.run(trash.move(io, "a"))
    assert rbd_cli("ls", spec(io)) == b"a\n" and rbd_cli("trash", "ls", "-a", spec(io)) == b""
    assert rbd_cli("export", "--no-progress", spec(io, "a"), "-")[:4] == b"data"


@pytest.mark.parametrize("by", ["pyrbd", "rbd"])
@pytest.mark.parametrize(("oid", "method"), STEPS[1:])
def test_a_move_whose_end_is_not_known_is_completed_by_another(
    io: IoContext, rbd_cli: Run, monkeypatch: pytest.MonkeyPatch, oid: str, method: bytes, by: str
) -> None:
    client = io.client
    image_id = make(io, "a", b"data")
    with monkeypatch.context() as patch:
        fail_at(io, patch, oid, method, rados.TimedOut("no answer", errno.ETIMEDOUT))
        with pytest.raises(rados.TimedOut):
            client.run(trash.move(io, "a"))
    assert states(io) == {image_id: ("a", trash.TRASH_IMAGE_STATE_MOVING)}
    assert code_of(lambda: client.run(trash.remove(io, image_id))) == errno.EUCLEAN
    if by == "rbd":
        rbd_cli("trash", "mv", spec(io, "a"))
    else:
        client.run(trash.move(io, "a"))
    assert states(io) == {image_id: ("a", trash.TRASH_IMAGE_STATE_NORMAL)} and names(io) == []
    rbd_cli("trash", "restore", spec(io, image_id))
    assert read(io, "a", 4) == b"data"


def test_a_move_that_lost_only_its_last_step_is_found_by_name(io: IoContext) -> None:
    client = io.client
    image_id = make(io, "a")
    client.run(trash.move(io, "a"))
    set_state(io, image_id, trash.TRASH_IMAGE_STATE_MOVING)
    client.run(trash.move(io, "a"))
    assert states(io) == {image_id: ("a", trash.TRASH_IMAGE_STATE_NORMAL)}


@pytest.mark.parametrize(("oid", "method"), [("rbd_id.a", b"set_id"), ("rbd_directory", b"dir_add_image")])
@pytest.mark.parametrize("error", [rados.PermissionError, rados.TimedOut])
def test_a_restore_that_fails_is_undone_or_completed_by_another(
    io: IoContext, rbd_cli: Run, monkeypatch: pytest.MonkeyPatch, oid: str, method: bytes, error: type[rados.OSError]
) -> None:
    client = io.client
    image_id = make(io, "a", b"data")
    client.run(trash.move(io, "a"))
    with monkeypatch.context() as patch:
        fail_at(io, patch, oid, method, error("no", errno.EPERM if error is rados.PermissionError else errno.ETIMEDOUT))
        with pytest.raises(error):
            client.run(trash.restore(io, image_id))
    undone = error is rados.PermissionError
    state = trash.TRASH_IMAGE_STATE_NORMAL if undone else trash.TRASH_IMAGE_STATE_RESTORING
    assert states(io) == {image_id: ("a", state)} and names(io) == []
    if undone:
        make(io, "a")  # the name is free
        client.run(trash.restore(io, image_id, "b"))
        assert read(io, "b", 4) == b"data"
    else:
        rbd_cli("trash", "restore", spec(io, image_id))
        assert read(io, "a", 4) == b"data"


def test_who_watches_the_trash_hears_of_it_as_from_librbd(io: IoContext, librbd: Callable[[str], Any]) -> None:
    client = io.client
    heard: list[bytes] = []

    def on_notify(notify_id: int, cookie: int, gid: int, payload: bytes) -> bytes | None:
        heard.append(payload)
        return None

    watch = client.run(io.watch("rbd_trash", on_notify))
    try:
        image_id = make(io, "a")
        client.run(trash.move(io, "a"))
        client.run(trash.restore(io, image_id))
        librbd(
            f"ioctx.set_namespace({io.namespace!r}); r = rbd.RBD()\n"
            f"r.trash_move(ioctx, 'a'); r.trash_restore(ioctx, {image_id!r}, ''); result = 0"
        )
        client.run(trash.move(io, "a"))
        client.run(trash.remove(io, image_id))
    finally:
        client.run(watch.close())
    assert len(heard) == 6
    assert heard[1] == heard[3] == heard[5]  # removed

    def added(payload: bytes) -> tuple[Any, ...]:
        d = Decoder(payload)
        version, body = d.envelope(1, "NotifyMessage")
        op, of = body.u32(), body.string()
        entry = trash.TrashImageSpec.decode(body)
        body.done("NotifyMessage")
        return version, op, of, len(payload), entry.source, entry.name, entry.state

    assert added(heard[0]) == added(heard[2]) == added(heard[4])


def test_purging_removes_what_has_expired(io: IoContext, rbd_cli: Run) -> None:
    client = io.client
    ids = {name: make(io, name, b"x") for name in ("now", "soon", "later")}
    for name, delay in (("now", 0), ("soon", 100), ("later", 10_000)):
        client.run(trash.move(io, name, delay))
    client.run(trash.purge(io, time.time() - 1000))
    assert set(states(io)) == set(ids.values())
    client.run(trash.purge(io))
    assert set(states(io)) == {ids["soon"], ids["later"]}
    done: list[tuple[int, int]] = []
    client.run(trash.purge(io, time.time() + 1000, on_progress=lambda *a: done.append(a)))
    assert set(states(io)) == {ids["later"]} and done == [(1, 1)]
    rbd_cli("trash", "purge", "--no-progress", "--expired-before", "now + 1 day", spec(io))
    assert states(io) == {}


def test_a_purge_goes_on_and_tells_what_it_could_not_remove(io: IoContext, rbd_cli: Run) -> None:
    client = io.client
    kept = make(io, "kept")
    rbd_cli("snap", "create", "--no-progress", spec(io, "kept@s"))
    for name in ("a", "b"):
        make(io, name)
    for name in ("a", "b", "kept"):
        client.run(trash.move(io, name))
    with pytest.raises(rbd.ImageHasSnapshots):
        client.run(trash.purge(io))
    assert states(io) == {kept: ("kept", trash.TRASH_IMAGE_STATE_NORMAL)}


def test_members_of_groups_stay(io: IoContext, rbd_cli: Run) -> None:
    client = io.client
    make(io, "a")
    rbd_cli("group", "create", spec(io, "g"))
    rbd_cli("group", "image", "add", spec(io, "g"), spec(io, "a"))
    assert code_of(lambda: client.run(trash.move(io, "a"))) == errno.EMLINK
    rbd_cli("group", "rm", spec(io, "g"))
    client.run(trash.move(io, "a"))


def test_images_of_format_1_have_no_trash(ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> None:
    io = ioctx._io
    rbd_cli("create", "--image-format", "1", "--size", "4M", name, env={"RBD_FORCE_ALLOW_V1": "1"})
    try:
        with pytest.raises(rbd.OperationNotSupported):
            io.client.run(trash.move(io, name))
        image_id = make(io, f"{name}-new")
        io.client.run(trash.move(io, f"{name}-new"))
        with pytest.raises(rbd.ImageExists):
            io.client.run(trash.restore(io, image_id, name))
        io.client.run(trash.remove(io, image_id))
    finally:
        rbd_cli("rm", "--no-progress", name)


DEFAULT_FEATURES = 61


@contextmanager
def opened_by_librbd(conf: str, io: IoContext, name: str, do: str) -> Iterator[None]:
    """Another process has the image open, and has done something with it."""
    script = (
        "import rados, rbd, sys\n"
        f"cluster = rados.Rados(conffile={conf!r}); cluster.connect()\n"
        f"ioctx = cluster.open_ioctx2({io.pool_id}); ioctx.set_namespace({io.namespace!r})\n"
        f"image = rbd.Image(ioctx, {name!r})\n{do}\n"
        "print('ready', flush=True); sys.stdin.read(); image.close()\n"
    )
    with subprocess.Popen(
        oracle.argv(conf, "python3", "-c", script), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield
        finally:
            process.stdin.close()
            process.wait(30)


def test_an_idle_owner_of_the_exclusive_lock_gives_it_up(io: IoContext, conf: str) -> None:
    client = io.client
    image_id = make(io, "a", features=DEFAULT_FEATURES)
    with opened_by_librbd(conf, io, "a", "image.write(b'data', 0)"):
        client.run(trash.move(io, "a"))
        assert states(io) == {image_id: ("a", trash.TRASH_IMAGE_STATE_NORMAL)}
        with pytest.raises(rbd.ImageBusy):  # it is open
            client.run(trash.remove(io, image_id, True))
        assert states(io) == {image_id: ("a", trash.TRASH_IMAGE_STATE_NORMAL)}
    client.run(trash.restore(io, image_id))
    assert read(io, "a", 4) == b"data"
    client.run(trash.move(io, "a"))
    client.run(trash.remove(io, image_id))


def test_an_owner_that_keeps_the_exclusive_lock_keeps_the_image(io: IoContext, conf: str, rbd_cli: Run) -> None:
    client = io.client
    image_id = make(io, "a", features=DEFAULT_FEATURES)
    with opened_by_librbd(conf, io, "a", "image.lock_acquire(rbd.RBD_LOCK_MODE_EXCLUSIVE)"):
        with pytest.raises(rbd.ImageBusy):
            client.run(trash.move(io, "a"))
        assert states(io) == {} and names(io) == ["a"]
    client.run(trash.move(io, "a"))
    assert rbd_cli("trash", "ls", spec(io)).split() == [image_id.encode(), b"a"]


def test_images_with_a_journal_are_restored_and_no_more(io: IoContext, rbd_cli: Run) -> None:
    client = io.client
    rbd_cli("create", "--size", "4M", "--image-feature", "exclusive-lock,journaling", spec(io, "a"))
    with pytest.raises(rbd.FunctionNotSupported, match="journaling"):
        client.run(trash.move(io, "a"))
    assert states(io) == {} and names(io) == ["a"]
    rbd_cli("trash", "mv", spec(io, "a"))
    (entry,) = client.run(trash.list_(io))
    with pytest.raises(rbd.FunctionNotSupported, match="journaling"):
        client.run(trash.remove(io, entry.id))
    assert states(io) == {entry.id: ("a", trash.TRASH_IMAGE_STATE_NORMAL)}
    client.run(trash.restore(io, entry.id))
    rbd_cli("rm", "--no-progress", spec(io, "a"))


def test_mirrored_images_are_refused(handle: rados.Rados, rbd_cli: Run, ceph_cli: Run) -> None:
    pool = f"mirror-{os.getpid()}"
    handle.create_pool(pool)
    try:
        rbd_cli("pool", "init", pool)
        rbd_cli("mirror", "pool", "enable", pool, "image")
        rbd_cli("create", "--size", "4M", "--image-feature", "layering", f"{pool}/a")
        rbd_cli("mirror", "image", "enable", f"{pool}/a", "snapshot")
        with handle.open_ioctx(pool) as ioctx:
            with pytest.raises(rbd.FunctionNotSupported, match="mirrored"):
                handle.client.run(trash.move(ioctx._io, "a"))
            assert states(ioctx._io) == {}
        assert rbd_cli("ls", pool) == b"a\n"
    finally:
        handle.delete_pool(pool)


def usage(ceph_cli: Run, pools: list[str]) -> list[tuple[float, int]]:
    """(percent_used, bytes_used) of pools, as soon as the cluster has counted them."""
    deadline = time.monotonic() + 60
    last: list[tuple[float, int]] = []
    while time.monotonic() < deadline:
        seen = {p["name"]: p["stats"] for p in json.loads(ceph_cli("df", "--format", "json"))["pools"]}
        now = [(seen[p]["percent_used"], seen[p]["bytes_used"]) for p in pools]
        if now == last and len({u for _, u in now}) == 1 and now[0][1] > 0:
            return now
        last = now
        time.sleep(1.5)
    raise AssertionError(f"the usage does not settle: {last}")


def test_purging_to_a_threshold_frees_what_librbd_frees(
    handle: rados.Rados, rbd_cli: Run, ceph_cli: Run, librbd: Callable[[str], Any]
) -> None:
    """The same images in two pools: one is purged by us, the other by librbd."""
    client = handle.client
    pools = [f"purge-{os.getpid()}-{i}" for i in range(2)]
    for pool in pools:
        handle.create_pool(pool)
    try:
        ios = []
        for pool in pools:
            with handle.open_ioctx(pool) as ioctx:
                ioctx.application_enable("rbd")
                ios.append(ioctx._io)
            for i in range(6):
                make(ios[-1], f"i{i}", os.urandom(4 * MIB))
                client.run(trash.move(ios[-1], f"i{i}", 1000 * (6 - i)))
        percent, _ = usage(ceph_cli, pools)[0]
        client.run(trash.purge(ios[0], 0, 1.0))
        client.run(trash.purge(ios[0], 0, percent * 1.01))
        assert len(states(ios[0])) == 6
        for threshold in (percent * 0.75, percent * 0.4):
            usage(ceph_cli, pools)
            client.run(trash.purge(ios[0], 0, threshold))
            librbd(f"rbd.RBD().trash_purge(cluster.open_ioctx({pools[1]!r}), None, {threshold!r}); result = 0")
            ours, theirs = ({name for name, _ in states(io).values()} for io in ios)
            assert ours == theirs
        assert len(ours) < 6
    finally:
        for pool in pools:
            handle.delete_pool(pool)
