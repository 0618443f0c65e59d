"""What OSDs answer to the image layer and to `Ioctx`: outputs of class methods, listings, sparse reads.

The code that asks runs for once on its own: a stand-in answers each request with the next pieces of the input.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Coroutine, Iterator
from types import SimpleNamespace
from typing import Any

from pyrbd.denc import Decoder, Encoder
from pyrbd.image import (
    children,
    cls_rbd,
    directory,
    groups,
    header,
    metadata,
    mirroring,
    namespaces,
    object_map,
    snapshots,
    trash,
)
from pyrbd.image.bit_vector import BitVector
from pyrbd.image.clone import ChildSpec
from pyrbd.image.errors import Error as ImageError
from pyrbd.msgr.types import HObject, ListSnaps, PgListResponse, Utime
from pyrbd.rados import cls_lock, requests
from pyrbd.rados.config import Config
from pyrbd.rados.exceptions import Error, ObjectNotFound, make_ex
from pyrbd.rados.opctx import OmapIterator
from pyrbd.rados.operations import ObjectOperation, OpOutput, OpReply
from tests.fuzz.material import Chunks

MAX_REQUESTS = 200


class Answers:
    """Stands in for an IoContext: what is asked gets the next blobs of the input."""

    pool_id = 1
    namespace = ""

    def __init__(self, c: Chunks) -> None:
        self.c = c
        self.asked = 0
        self.client = SimpleNamespace(config=Config(environ={}), osdmap=SimpleNamespace(pools={1: 0}, pool_names={}))

    def with_pool(self, pool_id: int) -> Answers:
        return self

    with_namespace = with_pool

    def _next(self) -> OpOutput:
        way = self.c.byte()
        if way >= 0xF0:
            return OpOutput(-(errno.ENOENT, errno.EOPNOTSUPP, errno.EIO, errno.EINVAL)[way & 3], b"")
        return OpOutput(0, self.c.blob())

    async def operate(self, oid: str, op: ObjectOperation, **kwargs: Any) -> OpReply:
        self.asked += 1
        if self.asked > MAX_REQUESTS:
            raise AssertionError("asks for ever")
        if not self.c:
            raise ObjectNotFound("the input has ended", errno.ENOENT)
        if self.c.data[self.c.at] == 0xFF:  # all of the request failed
            self.c.byte()
            raise make_ex(-(errno.ENOENT, errno.EOPNOTSUPP, errno.EIO, errno.EINVAL)[self.c.byte() & 3], "failed")
        return OpReply(0, tuple([self._next() for _ in op.ops]), 1)

    async def call(self, oid: str, cls: str, method: str, data: Any = b"", **kwargs: Any) -> bytes:
        return (await self.operate(oid, ObjectOperation().call(cls, method, data))).ops[0].data


def _run(coro: Coroutine[Any, Any, Any]) -> Any:
    try:
        coro.send(None)
    except StopIteration as e:
        return e.value
    raise AssertionError("waits for something that is not there")


def _image(io: Any, snap: cls_rbd.SnapshotInfo | None = None, group: bytes = b"") -> Any:
    async def current() -> None:
        return None

    return SimpleNamespace(
        io=io,
        name="x",
        header_oid="rbd_header.x",
        current=current,
        header=SimpleNamespace(raw=SimpleNamespace(group=group)),
        find_snapshot=lambda snap_id: SimpleNamespace(info=snap),
    )


def _header(c: Chunks) -> None:
    found = _run(header.load(Answers(c), "rbd_header.x", bool(c.byte() & 1), "x"))  # type: ignore[arg-type]
    assert 9 <= found.raw.order <= 62 and found.raw.stripe_unit and found.raw.stripe_count
    found.in_group  # noqa: B018
    found.parent  # noqa: B018


def _details(c: Chunks) -> None:
    kind = c.byte() % 4
    info = cls_rbd.SnapshotInfo(4, cls_rbd.SnapNamespace(kind, c.blob()), "s", 0, Utime(), 0)
    image = _image(Answers(c), info)
    if kind == 1:
        _run(snapshots.group_namespace(image, 4))
    elif kind == 2:
        snapshots.trash_namespace(image, 4)
    else:
        snapshots.mirror_namespace(image, 4)


def _bits(c: Chunks) -> None:
    vector = BitVector.decode(c.rest())
    assert len(vector.data) == (vector.size + 3) >> 2
    if vector.size < 1 << 16:
        assert BitVector.decode(vector.encode()) == vector
        list(vector.nonzero())
        vector.resize(vector.size // 2, 1)


def _reply(c: Chunks) -> OpReply:
    return OpReply(0, (OpOutput(0, c.rest()),), 1)


def _finish(make: Callable[[], Any]) -> Callable[[Chunks], object]:
    return lambda c: make().finish(_reply(c))


def _listing(c: Chunks) -> None:
    response = PgListResponse.decode(Decoder(c.rest()))
    HObject.from_bytes(response.handle.to_bytes())


def _omap(c: Chunks) -> None:
    it = OmapIterator(None, bytes)
    it.fill(OpOutput(0, c.rest()), values=True)
    list(it)


def _lock_info(c: Chunks) -> None:
    for who, how in cls_lock.decode_info(c.rest()).lockers.items():
        str(who.locker), str(how.addr)


NO_IOCTX: Any = SimpleNamespace(lookup_snap=None)

WAYS: tuple[Callable[[Chunks], object], ...] = (
    _header,
    _details,
    _bits,
    _listing,
    _omap,
    _lock_info,
    lambda c: _run(directory.list_images(Answers(c))),  # type: ignore[arg-type]
    lambda c: _run(trash.entries(Answers(c))),  # type: ignore[arg-type]
    lambda c: _run(trash.get(Answers(c), "1")),  # type: ignore[arg-type]
    lambda c: _run(namespaces.list_(Answers(c))),  # type: ignore[arg-type]
    lambda c: _run(metadata._list(Answers(c), "rbd_header.1")),  # type: ignore[arg-type]
    lambda c: _run(metadata.load_pool_config(Answers(c))),  # type: ignore[arg-type]
    lambda c: _run(mirroring.mirror_image_get(Answers(c), "1")),  # type: ignore[arg-type]
    lambda c: _run(mirroring.mirror_mode_get(Answers(c))),  # type: ignore[arg-type]
    lambda c: _run(mirroring.has_mirror_peers(Answers(c))),  # type: ignore[arg-type]
    lambda c: _run(groups.image_get_group(_image(Answers(c), group=c.blob()))),
    lambda c: _run(object_map.load(Answers(c), "1")),  # type: ignore[arg-type]
    lambda c: ListSnaps.decode(Decoder(c.rest())),
    lambda c: cls_rbd.ListWatchResponse.decode(Decoder(c.rest())),
    lambda c: ChildSpec.decode(Decoder(c.rest())),
    _finish(lambda: requests.sparse_read(NO_IOCTX, "o", 100)),
    _finish(lambda: requests.checksum(NO_IOCTX, "o", "crc32c", 0)),
    _finish(lambda: requests.stat(NO_IOCTX, "o")),
    _finish(lambda: requests.get_xattrs(NO_IOCTX, "o")),
    _finish(lambda: requests.list_object_snaps(NO_IOCTX, "o")),
    lambda c: children._Found(1, "", Decoder(c.rest()).string()),
)


def one(data: bytes) -> None:
    c = Chunks(data)
    try:
        WAYS[c.byte() % len(WAYS)](c)
    except (Error, ImageError):
        pass


def _u64(n: int) -> bytes:
    return n.to_bytes(8, "little")


def _s(text: str) -> bytes:
    return len(text).to_bytes(4, "little") + text.encode()


def _enveloped(*parts: bytes, version: int = 1) -> bytes:
    body = b"".join(parts)
    return bytes([version, 1]) + len(body).to_bytes(4, "little") + body


def seeds() -> Iterator[bytes]:
    parent = cls_rbd.ParentSpec(1, "", "abc", 4).to_bytes()
    head = (
        bytes([22]) + _u64(1 << 30),
        _u64(61) + _u64(1),
        _u64(4) + (1).to_bytes(4, "little") + _u64(4),
        _s("rbd_data.x"),
        _u64(0),
        _u64(1 << 20) + _u64(4),
        _u64(2**64 - 1),
        _u64(0),
        bytes(8),
        bytes(8),
        bytes(8),
        parent,
        b"\1" + _u64(1 << 20),
        _enveloped((2**64 - 1).to_bytes(8, "little"), _s("")),
    )
    snap = cls_rbd.SnapshotInfo(4, cls_rbd.SnapNamespace(0), "s", 1 << 20, Utime(1, 2), 1).to_bytes()
    parts: list[int | bytes] = [0, 0]
    for output in (*head, snap, b"\0", _u64(0), b"\2"):
        parts += [0, output]
    yield Chunks.of(*parts)
    v1 = header.V1_HEADER.pack(
        header.V1_TEXT.ljust(40, b"\0"),
        b"rb.0.1",
        header.V1_SIGNATURE,
        header.V1_VERSION,
        22,
        0,
        0,
        0,
        1 << 22,
        4,
        1,
        0,
        2,
    )
    yield Chunks.of(0, 1, 0, v1, 0, _u64(4) + (1).to_bytes(4, "little") + _u64(4) + _u64(1 << 22) + _s("a"))
    yield Chunks.of(1, 1, _u64(1) + _s("g") + _s("gs"), 0, _s("group"), 0, _enveloped(_s("gs"), _s("snap")))
    yield Chunks.of(1, 2, _s("name") + bytes(4))
    yield Chunks.of(1, 3, b"\0\1" + (1).to_bytes(4, "little") + _s("peer") + _s("uuid") + _u64(4) + _u64(9))
    vector = BitVector(9, 1)
    yield bytes([2]) + vector.encode()
    yield bytes([2]) + vector.encode(checksums=False)
    handle = HObject("", "o", 0, 7, False, "ns", 1)
    yield bytes([3]) + _enveloped(handle.to_bytes(), (1).to_bytes(4, "little"), _s("ns"), _s("o"), _s(""))
    yield bytes([4]) + (2).to_bytes(4, "little") + _s("a") + _s("1") + _s("b") + _s("2") + b"\1"
    e = Encoder()
    lockers = (
        (1).to_bytes(4, "little")
        + cls_lock.LockerId(cls_rbd.EntityName(8, 4), "auto 1").to_bytes()
        + cls_lock.LockerInfo(Utime(), cls_rbd.EntityAddr(2, 1, "::1", 3), "d").to_bytes()
    )
    yield bytes([5]) + _enveloped(lockers, b"\1", _s("tag"))
    cls_rbd.WatchItem(cls_rbd.EntityName(8, 4), 1, 30, cls_rbd.EntityAddr(2, 1, "10.0.0.1", 3)).encode(e)
    names = (2).to_bytes(4, "little") + _s("a") + _s("1") + _s("b") + _s("2")
    for way in (6, 7, 8, 9, 10, 11, 12, 13, 14):
        yield Chunks.of(way, 0, names, 0, names, 0, names)
    spec = trash.TrashImageSpec(0, "name", Utime(1, 0), Utime(2, 0)).to_bytes()
    yield Chunks.of(7, 0, (1).to_bytes(4, "little") + _s("id") + spec)
    yield Chunks.of(8, 0, spec)
    yield Chunks.of(12, 0, mirroring.MirrorImage("uuid", 1, 1).to_bytes())
    yield Chunks.of(15, _enveloped(_u64(1), _s("g")), 0, _s("group"))
    yield Chunks.of(16, 0, bytes(vector.encode()))
    clone = _enveloped(_u64(4), (1).to_bytes(4, "little") + _u64(4), (1).to_bytes(4, "little") + bytes(16), _u64(9))
    for way in (17, 24):
        yield bytes([way]) + _enveloped((1).to_bytes(4, "little"), clone, _u64(4), version=2)
    yield bytes([18]) + _enveloped((1).to_bytes(4, "little"), bytes(e.buf))
    yield bytes([19]) + ChildSpec(1, "id").to_bytes()
    yield bytes([20]) + (1).to_bytes(4, "little") + _u64(0) + _u64(3) + _s("abc")
    yield bytes([21]) + (1).to_bytes(4, "little") + bytes(4)
    yield bytes([22]) + _u64(5) + bytes(8)
    yield bytes([23]) + names
