"""One client: does what it is told on standard input, with pyrbd's modules or Ceph's.

    python client.py pyrbd|librbd CONF

Requests and replies are pickles: ``(method of Client, args)`` gives ``("ok", value)`` or
``("raises", the class's name, errno, text, traceback)``. The same text serves the tests' Python
and the system's. SIGUSR1 makes it print the stacks of its threads.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import random
import signal
import struct
import sys
import traceback
import zlib
from pathlib import Path
from typing import Any

BLOCK = 4096
DIGEST_READ = 4 << 20
Where = "tuple[str, str]"


def payload(seed: int, length: int) -> bytes:
    """What the write number `seed` writes: no two alike, some with pages of zeroes, some nothing else."""
    rng = random.Random(seed)
    kind = seed % 8
    if kind == 7:
        return bytes(length)
    data = rng.randbytes(min(length, 65536))
    data = (data * (length // max(1, len(data)) + 1))[:length]
    if kind == 6 and length > BLOCK:
        mixed = bytearray(data)
        for at in range(0, length, BLOCK):
            if rng.random() < 0.5:
                mixed[at : at + BLOCK] = bytes(len(mixed[at : at + BLOCK]))
        data = bytes(mixed)
    return data


def digest(data: Any) -> list[int]:
    """A checksum of each block."""
    view = memoryview(data)
    return [zlib.crc32(view[at : at + BLOCK]) for at in range(0, len(view), BLOCK)]


class Client:
    """Pools by name and namespace, open images by a key of the caller's choice."""

    def __init__(self, rados: Any, rbd: Any, conf: str, settings: dict[str, str]) -> None:
        self.rados, self.rbd = rados, rbd
        self.cluster = rados.Rados(conffile=conf, conf=settings)
        self.cluster.connect()
        self.ioctxs: dict[Any, Any] = {}
        self.images: dict[Any, Any] = {}

    def io(self, where: tuple[str, str]) -> Any:
        if where not in self.ioctxs:
            io = self.ioctxs[where] = self.cluster.open_ioctx(where[0])
            io.set_namespace(where[1])
        return self.ioctxs[where]

    def ping(self) -> int:
        return os.getpid()

    def capabilities(self) -> list[str]:
        """What the module has."""
        names = [f"RBD.{n}" for n in dir(self.rbd.RBD)] + [f"Image.{n}" for n in dir(self.rbd.Image)]
        return [n for n in names if "._" not in n]

    def conf_set(self, key: str, value: str) -> None:
        self.cluster.conf_set(key, value)

    def settled(self) -> None:
        self.cluster.wait_for_latest_osdmap()

    def objects(self, where: tuple[str, str]) -> list[str]:
        """Those that are listed, but for what OSDs still list of objects whose snapshots are trimmed."""
        io = self.io(where)
        return sorted({o.key for o in io.list_objects() if self.exists(io, o.key)})

    def exists(self, io: Any, name: str) -> bool:
        try:
            io.stat(name)
        except self.rados.ObjectNotFound:
            return False
        return True

    # ------------------------------------------------------------ RBD

    def top(self, method: str, where: tuple[str, str], *args: Any, **kwargs: Any) -> Any:
        """A method of RBD that takes an ioctx first."""
        value = getattr(self.rbd.RBD(), method)(self.io(where), *args, **kwargs)
        return value if value is None or isinstance(value, (str, int, list, dict, bool)) else list(value)

    def create(self, where: tuple[str, str], name: str, size: int, kwargs: dict[str, Any]) -> None:
        # librbd's rbd_create asks the configuration for the format
        self.cluster.conf_set("rbd_default_format", "1" if kwargs.get("old_format") else "2")
        self.rbd.RBD().create(self.io(where), name, size, **kwargs)

    def clone(
        self,
        p_where: tuple[str, str],
        p_name: str,
        snap: str,
        where: tuple[str, str],
        name: str,
        kwargs: dict[str, Any],
    ) -> None:
        self.set_clone_format(kwargs)
        self.rbd.RBD().clone(self.io(p_where), p_name, snap, self.io(where), name, **kwargs)

    def set_clone_format(self, kwargs: dict[str, Any]) -> None:
        """Ceph's binding of 16.2 has no argument for it."""
        if "clone_format" in kwargs:
            self.cluster.conf_set("rbd_default_clone_format", str(kwargs.pop("clone_format")))

    # ------------------------------------------------------------ images

    def open(self, key: Any, where: tuple[str, str], name: str, snapshot: Any = None, read_only: bool = False) -> None:
        self.close(key)
        self.images[key] = self.rbd.Image(self.io(where), name, snapshot, read_only)

    def close(self, key: Any) -> None:
        image = self.images.pop(key, None)
        if image is not None:
            image.close()

    def close_all(self) -> None:
        for key in list(self.images):
            self.close(key)

    def image(self, key: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        value = getattr(self.images[key], method)(*args, **kwargs)
        plain = value is None or isinstance(value, (bytes, str, int, list, dict, tuple, bool))
        return value if plain else list(value)

    def copy(self, key: Any, method: str, where: tuple[str, str], *args: Any, **kwargs: Any) -> None:
        """`copy` or `deep_copy`, whose first argument is an ioctx."""
        self.set_clone_format(kwargs)
        getattr(self.images[key], method)(self.io(where), *args, **kwargs)

    def write(self, key: Any, offset: int, length: int, seed: int) -> int:
        return self.images[key].write(payload(seed, length), offset)

    def compare_and_write(self, key: Any, offset: int, compare: bytes, seed: int) -> Any:
        return self.images[key].compare_and_write(compare, payload(seed, len(compare)), offset)

    def aio(self, key: Any, calls: list[tuple[Any, ...]]) -> list[int]:
        """Many at once: ('write', offset, length, seed), ('discard', ...), ('write_zeroes', ...), ('read', ...)."""
        image = self.images[key]
        flight = []
        for kind, offset, length, seed in calls:
            if kind == "write":
                flight.append(image.aio_write(payload(seed, length), offset, lambda c: None))
            elif kind == "read":
                flight.append(image.aio_read(offset, length, lambda c, data: None))
            elif kind == "flush":
                flight.append(image.aio_flush(lambda c: None))
            else:
                flight.append(getattr(image, f"aio_{kind}")(offset, length, lambda c: None))
        for completion in flight:
            completion.wait_for_complete_and_cb()
        return [min(0, c.get_return_value()) for c in flight]

    def digest(self, key: Any) -> tuple[int, list[int]]:
        """Size and checksums of the whole content."""
        image = self.images[key]
        size = image.size()
        sums: list[int] = []
        for at in range(0, size, DIGEST_READ):
            data = image.read(at, min(DIGEST_READ, size - at))
            assert len(data) == min(DIGEST_READ, size - at), "a short read"
            sums += digest(data)
        return size, sums

    def digest_at(self, key: Any, snaps: list[Any]) -> list[Any]:
        """The same of snapshots, by set_snap on the open image; it is at the head afterwards."""
        image = self.images[key]
        found = []
        try:
            for snap in snaps:
                image.set_snap(snap)
                found.append(self.digest(key))
        finally:
            image.set_snap(None)
        return found

    def state(self, key: Any) -> dict[str, Any]:
        """What an open image says of itself."""
        image, rbd = self.images[key], self.rbd
        facts: dict[str, Any] = {
            what: getattr(image, what)()
            for what in ("size", "features", "op_features", "flags", "stripe_unit", "stripe_count", "old_format")
        }
        stat = image.stat()
        facts["order"], facts["num_objs"], facts["obj_size"] = stat["order"], stat["num_objs"], stat["obj_size"]
        try:
            facts["overlap"] = image.overlap()
        except rbd.ImageNotFound:
            facts["overlap"] = 0
        try:
            facts["parent"] = tuple(image.parent_info())
        except rbd.ImageNotFound:
            facts["parent"] = None
        snaps = []
        for s in image.list_snaps():
            user = s["namespace"] == 0
            protected = image.is_protected_snap(s["name"]) if user else False
            snaps.append((s["id"], s["name"] if user else None, s["size"], s["namespace"], protected))
        facts["snaps"] = snaps
        return facts

    def children(self, key: Any, snap: str) -> list[tuple[str, str, str, bool]]:
        """The children of a snapshot, by set_snap; of all of them with ''."""
        image = self.images[key]
        try:
            image.set_snap(snap or None)
            found = image.list_children2() if hasattr(image, "list_children2") else []
            return sorted((c["pool"], c["pool_namespace"], c["image"], c["trash"]) for c in found)
        finally:
            image.set_snap(None)

    def metadata(self, key: Any) -> dict[str, str]:
        return {str(k): str(v) for k, v in self.images[key].metadata_list()}

    def diff(self, key: Any, offset: int, length: int, frm: Any, to: Any, parent: bool, whole: bool) -> list[Any]:
        image = self.images[key]
        extents: list[Any] = []
        try:
            image.set_snap(to)
            image.diff_iterate(
                offset, length, frm, lambda o, n, exists: extents.append((o, n, bool(exists))), parent, whole
            )
        finally:
            image.set_snap(None)
        return extents


def modules(which: str) -> tuple[Any, Any]:
    if which == "librbd":
        sys.path[:] = [p for p in sys.path if p and Path(p).resolve() != Path(__file__).parent.resolve()]
        import rados
        import rbd

        return rados, rbd
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
    from pyrbd import rados as our_rados
    from pyrbd import rbd as our_rbd

    return our_rados, our_rbd


def main() -> None:
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what anything prints must not get between the replies
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    which, conf = sys.argv[1:3]
    settings = dict(pair.split("=", 1) for pair in sys.argv[3:])
    client = Client(*modules(which), conf, settings)
    stdin = sys.stdin.buffer
    while True:
        head = stdin.read(4)
        if len(head) < 4:
            break
        method, args, kwargs = pickle.loads(stdin.read(*struct.unpack("<I", head)))
        reply: tuple[Any, ...]
        try:
            reply = ("ok", getattr(client, method)(*args, **kwargs))
        except Exception as e:
            text = traceback.format_exc()
            reply = ("raises", type(e).__name__, getattr(e, "errno", None), str(e), text)
        data = pickle.dumps(reply)
        out.write(struct.pack("<I", len(data)) + data)
        out.flush()
    client.close_all()
    client.cluster.shutdown()


if __name__ == "__main__":
    main()
