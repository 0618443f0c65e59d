"""Images in memory, random steps, and what must come of each.

A step is a tuple of literals: the operation, which client does it, and what with. Images have
a number that stays theirs, snapshots a name that is used once, so that steps can be left out of
a sequence and the rest still means something.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from .client import payload

Step = tuple[Any, ...]
Where = tuple[str, str]

POOL, OTHER, DATA, ERASURE = "model", "model-other", "model-data", "model-ec"
SPACE = "space"
PLACES: tuple[Where, ...] = ((POOL, ""), (POOL, SPACE), (OTHER, ""))

LAYERING, STRIPING, EXCLUSIVE, OBJECT_MAP, FAST_DIFF, DEEP_FLATTEN = 1, 2, 4, 8, 16, 32
DATA_POOL, OPERATIONS = 128, 256
FEATURES = (LAYERING, LAYERING | EXCLUSIVE, LAYERING | EXCLUSIVE | OBJECT_MAP, 29, 61, 61, 61, LAYERING | DEEP_FLATTEN)
KIB = 1024
GRANULARITY = 64 * KIB
"""`rbd_discard_granularity_bytes`."""

OK = ("ok",)


class Inapplicable(Exception):
    """A step whose image or snapshot is not there (any more): it is left out."""


@dataclass
class Spec:
    """How an image is laid out."""

    order: int = 22
    stripe_unit: int = 0
    stripe_count: int = 0
    features: int = 61
    data_pool: str | None = None
    old_format: bool = False

    @property
    def object_size(self) -> int:
        return 1 << self.order

    def pieces(self, offset: int, length: int) -> Iterator[tuple[int, int, int, int]]:
        """(object, offset in it, length, offset in the image), in pieces within a stripe unit."""
        unit, count = self.stripe_unit or self.object_size, self.stripe_count or 1
        per_object = self.object_size // unit
        end = offset + length
        while offset < end:
            block, within = divmod(offset, unit)
            stripe, position = divmod(block, count)
            group, level = divmod(stripe, per_object)
            n = min(unit - within, end - offset)
            yield group * count + position, level * unit + within, n, offset
            offset += n


@dataclass
class Snap:
    name: str
    data: bytes
    parent: tuple[int, Snap] | None
    overlap: int
    protected: bool = False
    trashed: bool = False


@dataclass
class Img:
    uid: int
    where: Where
    name: str
    spec: Spec
    data: bytearray
    features: int
    snaps: list[Snap] = field(default_factory=list)
    parent: tuple[int, Snap] | None = None
    overlap: int = 0
    clone_format: int = 0
    trash: bool = False
    metadata: dict[str, str] = field(default_factory=dict)
    doubt: set[str] = field(default_factory=set)
    """Why the object map may rightly be said to be invalid."""
    limit: int | None = None

    def snap(self, name: str) -> Snap:
        for s in self.snaps:
            if s.name == name and not s.trashed:
                return s
        raise Inapplicable

    @property
    def user_snaps(self) -> list[Snap]:
        return [s for s in self.snaps if not s.trashed]

    def parents(self) -> list[tuple[int, Snap]]:
        return [p for p in (self.parent, *(s.parent for s in self.snaps)) if p is not None]


def raises(*names: str) -> tuple[Any, ...]:
    return ("raises", frozenset(names))


class World:
    """All images. :meth:`apply` does a step and says what must come of it."""

    def __init__(self) -> None:
        self.images: dict[int, Img] = {}
        self.open_by: list[set[int]] = [set(), set()]
        """Which images each client has open (the engine keeps this true)."""

    def get(self, uid: int) -> Img:
        image = self.images.get(uid)
        if image is None or image.trash:
            raise Inapplicable
        return image

    def live(self) -> list[Img]:
        return [i for i in self.images.values() if not i.trash]

    def children(self, uid: int, snap: Snap | None = None) -> list[Img]:
        """Images with a head or a snapshot that is a clone of a snapshot of this one."""
        return [
            i for i in self.images.values()
            if any(p == uid and (snap is None or s is snap) for p, s in i.parents())
        ]  # fmt: skip

    def touched(self, step: Step) -> list[int]:
        """Images to look at after a step."""
        uids = [x for x in step[2:4] if isinstance(x, int)]
        more = {p for uid in uids if uid in self.images for p, _ in self.images[uid].parents()}
        return [uid for uid in dict.fromkeys([*uids, *sorted(more)]) if uid in self.images]

    def apply(self, step: Step) -> tuple[Any, ...]:
        outcome: tuple[Any, ...] = getattr(self, "do_" + step[0])(*step[2:])
        self.sweep()
        return outcome

    def sweep(self) -> None:
        """Snapshots in the trash go with their last child."""
        again = True
        while again:
            again = False
            for image in self.images.values():
                for s in list(image.snaps):
                    if s.trashed and not self.children(image.uid, s):
                        image.snaps.remove(s)
                        again = True

    def taken(self, where: Where, name: str) -> bool:
        return any(i.where == where and i.name == name for i in self.live())

    # ------------------------------------------------------------ images

    def do_create(self, uid: int, where: Where, name: str, size: int, spec: dict[str, Any]) -> Any:
        made = Spec(**spec)
        if uid in self.images:
            raise Inapplicable
        if self.taken(where, name):
            return raises("ImageExists")
        self._new(uid, where, name, made, bytearray(size))
        return OK

    def _new(self, uid: int, where: Where, name: str, spec: Spec, data: bytearray) -> Img:
        features = 0 if spec.old_format else spec.features
        if spec.stripe_count and (spec.stripe_count > 1 or spec.stripe_unit != spec.object_size):
            features |= STRIPING
        if features & OBJECT_MAP:
            features |= FAST_DIFF
        if spec.data_pool:
            features |= DATA_POOL
        image = self.images[uid] = Img(uid, where, name, spec, data, features)
        return image

    def do_open(self, uid: int) -> Any:
        self.get(uid)
        return OK

    def do_close(self, uid: int) -> Any:
        self.get(uid)
        return OK

    def do_remove(self, uid: int, others_closed: bool) -> Any:
        image = self.get(uid)
        if not others_closed:
            return raises("ImageHasSnapshots", "ImageBusy") if image.snaps else raises("ImageBusy")
        if image.snaps:
            return raises("ImageHasSnapshots")
        del self.images[uid]
        return OK

    def do_rename(self, uid: int, name: str) -> Any:
        image = self.get(uid)
        if self.taken(image.where, name):
            return raises("ImageExists")
        image.name = name
        return OK

    def do_trash_move(self, uid: int, delay: int) -> Any:
        image = self.get(uid)
        if image.spec.old_format:
            return raises("OperationNotSupported")
        image.trash = True
        return OK

    def do_trash_restore(self, uid: int, name: str) -> Any:
        image = self.images.get(uid)
        if image is None or not image.trash:
            raise Inapplicable
        if self.taken(image.where, name):
            return raises("ImageExists")
        image.trash = False
        image.name = name
        return OK

    def do_trash_remove(self, uid: int) -> Any:
        image = self.images.get(uid)
        if image is None or not image.trash:
            raise Inapplicable
        if image.snaps:
            return raises("ImageHasSnapshots")
        del self.images[uid]
        return OK

    # ------------------------------------------------------------ data

    def _extent(self, uid: int, offset: int, length: int) -> Img:
        image = self.get(uid)
        if offset + length > len(image.data) or length <= 0:
            raise Inapplicable
        return image

    def do_write(self, uid: int, offset: int, length: int, seed: int) -> Any:
        image = self._extent(uid, offset, length)
        image.data[offset : offset + length] = payload(seed, length)
        return ("ok", length)

    def do_write_beyond(self, uid: int, past: int, length: int, seed: int) -> Any:
        self.get(uid)
        return raises("InvalidArgument")

    def do_discard(self, uid: int, offset: int, length: int) -> Any:
        image = self._extent(uid, offset, length)
        for at, n in discarded(image.spec, offset, length):
            image.data[at : at + n] = bytes(n)
        return OK

    def do_write_zeroes(self, uid: int, offset: int, length: int, flags: int) -> Any:
        image = self._extent(uid, offset, length)
        image.data[offset : offset + length] = bytes(length)
        return OK

    def do_compare_and_write(self, uid: int, offset: int, length: int, seed: int, differ: bool) -> Any:
        image = self._extent(uid, offset, length)
        if differ:
            return ("mismatch",)
        image.data[offset : offset + length] = payload(seed, length)
        return OK

    def do_aio(self, uid: int, calls: list[tuple[Any, ...]]) -> Any:
        image = self.get(uid)
        if any(offset + length > len(image.data) for _, offset, length, _ in calls):
            raise Inapplicable
        for kind, offset, length, seed in calls:
            if kind == "write":
                self.do_write(uid, offset, length, seed)
            elif kind == "discard":
                self.do_discard(uid, offset, length)
            elif kind == "write_zeroes":
                self.do_write_zeroes(uid, offset, length, 0)
        return ("aio",)

    def do_flush(self, uid: int) -> Any:
        self.get(uid)
        return OK

    def do_resize(self, uid: int, size: int, allow_shrink: bool) -> Any:
        image = self.get(uid)
        old = len(image.data)
        if size < old and not allow_shrink:
            return raises("InvalidArgument")
        del image.data[size:]
        image.data.extend(bytes(size - len(image.data)))
        if image.parent is not None:
            image.overlap = min(image.overlap, size)
        return OK

    # ------------------------------------------------------------ snapshots

    def do_snap_create(self, uid: int, name: str) -> Any:
        image = self.get(uid)
        if any(s.name == name for s in image.user_snaps):
            return raises("ImageExists")
        least = 0 if image.spec.old_format else 1  # the class looks at the limit when there is a snapshot already
        if image.limit is not None and len(image.snaps) >= max(image.limit, least):
            return raises("DiskQuotaExceeded")
        image.snaps.append(Snap(name, bytes(image.data), image.parent, image.overlap))
        return OK

    def do_snap_remove(self, uid: int, name: str) -> Any:
        image = self.get(uid)
        snap = image.snap(name)
        if snap.protected:
            return raises("ImageBusy")
        if self.children(uid, snap):
            snap.trashed = True
        else:
            image.snaps.remove(snap)
        return OK

    def do_snap_remove_missing(self, uid: int) -> Any:
        self.get(uid)
        return raises("ImageNotFound")

    def do_snap_rename(self, uid: int, name: str, new: str) -> Any:
        image = self.get(uid)
        snap = image.snap(name)
        if any(s.name == new for s in image.user_snaps):
            return raises("ImageExists")
        snap.name = new
        return OK

    def do_protect(self, uid: int, name: str) -> Any:
        image = self.get(uid)
        snap = image.snap(name)
        if not image.features & LAYERING:
            return raises("FunctionNotSupported", "OSError")
        if snap.protected:
            return raises("ImageBusy")
        snap.protected = True
        return OK

    def do_unprotect(self, uid: int, name: str) -> Any:
        image = self.get(uid)
        snap = image.snap(name)
        if not snap.protected:
            return raises("InvalidArgument")
        if any(c.clone_format == 1 for c in self.children(uid, snap)):
            return raises("ImageBusy")
        snap.protected = False
        return OK

    def do_rollback(self, uid: int, name: str) -> Any:
        image = self.get(uid)
        snap = image.snap(name)
        image.data = bytearray(snap.data)
        if image.parent is not None:
            image.overlap = min(image.overlap, len(snap.data))
        image.doubt.add("rollback")
        return OK

    def do_snap_limit(self, uid: int, limit: int | None) -> Any:
        image = self.get(uid)
        if image.spec.old_format or (limit is not None and limit < len(image.snaps)):
            raise Inapplicable
        image.limit = limit
        return OK

    # ------------------------------------------------------------ clones and copies

    def do_clone(self, uid: int, new: int, snap: str, where: Where, name: str, spec: dict[str, Any], form: int) -> Any:
        image = self.get(uid)
        source = image.snap(snap)
        if new in self.images:
            raise Inapplicable
        made = Spec(**spec)
        if form == 1 and where[1] != image.where[1]:
            raise Inapplicable
        if (form == 1 and not source.protected) or not source.data:
            return raises("InvalidArgument")
        if self.taken(where, name):
            return raises("ImageExists")
        child = self._new(new, where, name, made, bytearray(source.data))
        child.parent = (uid, source)
        child.overlap = len(source.data)
        child.clone_format = form
        child.metadata = dict(image.metadata)
        return OK

    def do_flatten(self, uid: int) -> Any:
        image = self.get(uid)
        if image.parent is None:
            return raises("InvalidArgument")
        image.parent, image.overlap = None, 0
        if image.features & DEEP_FLATTEN:
            for s in image.snaps:
                s.parent, s.overlap = None, 0
        return OK

    def do_copy(self, uid: int, new: int, snap: str | None, where: Where, name: str, spec: dict[str, Any]) -> Any:
        image = self.get(uid)
        data = image.data if snap is None else image.snap(snap).data
        if new in self.images:
            raise Inapplicable
        if self.taken(where, name):
            return raises("ImageExists")
        made = self._new(new, where, name, Spec(**spec), bytearray(data))
        made.metadata = dict(image.metadata)
        return OK

    def do_deep_copy(self, uid: int, new: int, where: Where, name: str, spec: dict[str, Any], flatten: bool) -> Any:
        image = self.get(uid)
        if new in self.images:
            raise Inapplicable
        if self.taken(where, name):
            return raises("ImageExists")
        if not flatten and any(s.trashed for _, s in image.parents()):
            return raises("ImageNotFound")  # a snapshot in the trash gets no more children
        made = self._new(new, where, name, Spec(**spec), bytearray(image.data))
        made.metadata = dict(image.metadata)
        made.snaps = [
            Snap(s.name, s.data, None if flatten else s.parent, 0 if flatten else s.overlap, s.protected)
            for s in image.user_snaps
        ]
        if not flatten:
            made.parent, made.overlap = image.parent, image.overlap
            made.clone_format = image.clone_format
        return OK

    # ------------------------------------------------------------ the rest

    def do_sparsify(self, uid: int, size: int) -> Any:
        self.get(uid)
        return OK

    def do_metadata_set(self, uid: int, key: str, value: str) -> Any:
        image = self.get(uid)
        image.metadata[key] = value
        return OK

    def do_metadata_remove(self, uid: int, key: str) -> Any:
        image = self.get(uid)
        if key not in image.metadata:
            return raises("KeyError")
        del image.metadata[key]
        return OK

    def do_update_features(self, uid: int, features: int, enabled: bool) -> Any:
        image = self.get(uid)
        if image.spec.old_format:
            raise Inapplicable
        now = image.features
        after = now | features if enabled else now & ~features
        if after & OBJECT_MAP and not after & EXCLUSIVE:
            return raises("InvalidArgument")
        if bool(after & FAST_DIFF) != bool(after & OBJECT_MAP) and not enabled:
            after &= ~(FAST_DIFF | OBJECT_MAP)  # each takes the other along
        if after & FAST_DIFF and not after & OBJECT_MAP:
            after |= OBJECT_MAP
        if enabled and after & OBJECT_MAP and not after & FAST_DIFF and features & OBJECT_MAP:
            after |= FAST_DIFF
        if enabled and after & ~now & (OBJECT_MAP | FAST_DIFF):
            image.doubt.add("enabled")
        image.features = after
        return OK

    def do_rebuild_object_map(self, uid: int) -> Any:
        image = self.get(uid)
        if not image.features & OBJECT_MAP:
            return raises("InvalidArgument")
        if not image.snaps:
            image.doubt.clear()  # those of snapshots are rebuilt at the snapshots
        return OK

    def do_lock(self, uid: int) -> Any:
        image = self.get(uid)
        return OK if image.features & EXCLUSIVE else raises("InvalidArgument")

    def do_lock_release(self, uid: int) -> Any:
        image = self.get(uid)
        if not image.features & EXCLUSIVE:
            return raises("InvalidArgument")
        return ("either", ("InvalidArgument",))  # when it is not the owner


def discarded(spec: Spec, offset: int, length: int) -> Iterator[tuple[int, int]]:
    """What a discard makes zero: per object, rounded inwards to the granularity; to the end of
    objects that are not larger than that."""
    runs: dict[int, list[list[int]]] = {}
    pieces = list(spec.pieces(offset, length))
    for number, at, n, _ in pieces:
        mine = runs.setdefault(number, [])
        if mine and mine[-1][1] == at:
            mine[-1][1] = at + n
        else:
            mine.append([at, at + n])
    size = spec.object_size
    grain = min(GRANULARITY, size)
    for mine in runs.values():
        for run in mine:
            if grain < size or run[1] < size:
                run[0], run[1] = -(-run[0] // grain) * grain, run[1] // grain * grain
    for number, at, n, where in pieces:
        for low, high in runs[number]:
            a, b = max(at, low), min(at + n, high)
            if a < b:
                yield where + a - at, b - a


class Generator:
    """Random steps that mean something in a world."""

    WEIGHTS: ClassVar[dict[str, int]] = {
        "create": 5,
        "write": 26,
        "write_beyond": 1,
        "discard": 9,
        "write_zeroes": 7,
        "compare_and_write": 4,
        "aio": 8,
        "flush": 1,
        "resize": 8,
        "snap_create": 10,
        "snap_remove": 5,
        "snap_remove_missing": 1,
        "snap_rename": 2,
        "protect": 3,
        "unprotect": 3,
        "rollback": 5,
        "snap_limit": 1,
        "clone": 9,
        "flatten": 4,
        "copy": 3,
        "deep_copy": 3,
        "sparsify": 3,
        "metadata_set": 2,
        "metadata_remove": 1,
        "rename": 2,
        "update_features": 4,
        "rebuild_object_map": 3,
        "lock": 3,
        "lock_release": 2,
        "open": 2,
        "close": 3,
        "remove": 3,
        "trash_move": 2,
        "trash_restore": 2,
        "trash_remove": 1,
    }
    MAX_IMAGES = 7
    MAX_SNAPS = 5
    BIG = 0.04
    """How many images have objects of 4 MiB and more and the size for it."""

    def __init__(self, rng: random.Random, world: World, clients: int = 2) -> None:
        self.rng, self.world, self.clients = rng, world, clients
        self.numbers = 0
        self.weights = dict(self.WEIGHTS)

    def next(self) -> Step:
        """A step that applies."""
        names = list(self.weights)
        while True:
            what = self.rng.choices(names, [self.weights[n] for n in names])[0] if self.world.live() else "create"
            step = self.make(what)
            if step is not None:
                return step

    def make(self, what: str) -> Step | None:
        """A step of this kind, if there is one."""
        made = getattr(self, what)() if hasattr(self, what) else self.simple(what)
        return None if made is None else (what, self.rng.randrange(self.clients), *made)

    # ------------------------------------------------------------ choices

    def number(self) -> int:
        self.numbers += 1
        return self.numbers

    def any(self) -> Img:
        return self.rng.choice(self.world.live())

    def size(self, order: int) -> int:
        r = self.rng
        unit = 1 << order
        most = min(max(6 * unit, 512 * KIB), 3 << 20)
        if unit > most:
            most = unit + unit // 4 if unit <= 8 << 20 and r.random() < 0.3 else 3 << 20
        if order >= 24 and r.random() < 0.15:
            most = unit + 100 * KIB
        size = r.choice((most, r.randrange(1, most), r.randrange(1, most), most // 2, 0))
        if r.random() < 0.4:
            size = size // 4096 * 4096
        return min(size, 34 << 20)

    def spec(self, clone: bool = False) -> dict[str, Any]:
        r = self.rng
        order = r.choice((12, 13, 14, 16, 16, 17, 18, 18, 19, 20, 20, 22, 22, 23, 25))
        spec: dict[str, Any] = {"order": order, "features": r.choice(FEATURES)}
        if r.random() < 0.35:
            unit = 1 << r.randrange(max(9, order - 6), order + 1)
            spec |= {"stripe_unit": unit, "stripe_count": r.choice((1, 2, 3, 5))}
            if spec["stripe_count"] == 1:
                del spec["stripe_unit"], spec["stripe_count"]
        if r.random() < 0.3:
            spec["data_pool"] = r.choice((DATA, ERASURE, ERASURE))
        if clone and not spec.get("stripe_unit"):
            spec |= {"stripe_unit": 1 << order, "stripe_count": 1}  # or the parent's would be taken
        if not clone and r.random() < 0.06:
            spec = {"order": order, "features": 0, "old_format": True}
        return spec

    def extent(self, image: Img) -> tuple[int, int] | None:
        r, size = self.rng, len(image.data)
        if not size:
            return None
        kind = r.random()
        unit = image.spec.stripe_unit or image.spec.object_size
        if kind < 0.25:
            length = r.randrange(1, min(size, 4096) + 1)
        elif kind < 0.4:
            length = min(size, r.choice((512, 4096, 65536)))
        elif kind < 0.85:
            length = r.randrange(1, min(size, 4 * unit, 1 << 20) + 1)
        elif kind < 0.97:
            length = min(size, unit)  # one whole object, perhaps
            offset = r.randrange(size) // unit * unit
            return offset, min(length, size - offset)
        else:
            return 0, size
        offset = r.randrange(size - length + 1)
        if r.random() < 0.4:
            offset = offset // 4096 * 4096
        return offset, length

    def seed(self) -> int:
        return self.rng.randrange(1 << 30)

    # ------------------------------------------------------------ steps

    def simple(self, what: str) -> tuple[Any, ...]:
        return (self.any().uid,)

    def create(self) -> tuple[Any, ...] | None:
        if len(self.world.images) >= self.MAX_IMAGES:
            return None
        r = self.rng
        spec = self.spec()
        live = self.world.live()
        where = (POOL, "") if "old_format" in spec else r.choice(PLACES)
        uid = self.number()
        name = f"image{uid}"
        if live and r.random() < 0.03:
            other = r.choice(live)
            where, name = other.where, other.name
            spec.pop("old_format", None)
        return uid, where, name, self.size(spec["order"]), spec

    def write(self) -> tuple[Any, ...] | None:
        image = self.any()
        extent = self.extent(image)
        return None if extent is None else (image.uid, *extent, self.seed())

    def write_beyond(self) -> tuple[Any, ...]:
        return self.any().uid, self.rng.choice((0, 1, 4096)), 100, self.seed()

    def discard(self) -> tuple[Any, ...] | None:
        image = self.any()
        extent = self.extent(image)
        return None if extent is None else (image.uid, *extent)

    def write_zeroes(self) -> tuple[Any, ...] | None:
        made = self.discard()
        return None if made is None else (*made, self.rng.choice((0, 0, 1)))

    def compare_and_write(self) -> tuple[Any, ...] | None:
        image = self.any()
        extent = self.extent(image)
        if extent is None:
            return None
        offset, length = extent
        first = next(iter(image.spec.pieces(offset, length)))
        unit = first[2]  # within a stripe unit
        return image.uid, offset, min(length, unit, 512 * KIB), self.seed(), self.rng.random() < 0.3

    def aio(self) -> tuple[Any, ...] | None:
        """Disjoint extents, so that the result does not depend on their order."""
        r, image = self.rng, self.any()
        size = len(image.data)
        n = r.choice((2, 5, 12, 30))
        if size < 2 * n:
            return None
        marks = sorted(r.sample(range(size + 1), 2 * n))
        calls = []
        for low, high in zip(marks[::2], marks[1::2]):
            kind = r.choice(("write", "write", "write", "discard", "write_zeroes", "read"))
            calls.append((kind, low, min(high - low, 256 * KIB), self.seed()))
        r.shuffle(calls)
        return image.uid, calls

    def resize(self) -> tuple[Any, ...]:
        image, r = self.any(), self.rng
        size = len(image.data)
        new = r.choice((size // 2, max(0, size - r.randrange(1, 9000)), self.size(image.spec.order), 0, size + 1,
                        min(size + image.spec.object_size, 4 << 20)))  # fmt: skip
        return image.uid, new, r.random() > 0.1

    def snap_create(self) -> tuple[Any, ...] | None:
        image = self.any()
        if len(image.snaps) >= self.MAX_SNAPS:
            return None
        if image.user_snaps and self.rng.random() < 0.04:
            return image.uid, image.user_snaps[0].name
        return image.uid, f"snap{self.number()}"

    def _snapshot(self, prefer_protected: bool = False) -> tuple[Img, Snap] | None:
        found = [(i, s) for i in self.world.live() for s in i.user_snaps]
        if prefer_protected and self.rng.random() < 0.7:
            found = [(i, s) for i, s in found if s.protected] or found
        return self.rng.choice(found) if found else None

    def snap_remove(self) -> tuple[Any, ...] | None:
        found = self._snapshot()
        return None if found is None else (found[0].uid, found[1].name)

    def snap_rename(self) -> tuple[Any, ...] | None:
        found = self._snapshot()
        return None if found is None else (found[0].uid, found[1].name, f"renamed{self.number()}")

    def protect(self) -> tuple[Any, ...] | None:
        found = self._snapshot()
        return None if found is None or found[0].spec.old_format else (found[0].uid, found[1].name)

    def unprotect(self) -> tuple[Any, ...] | None:
        found = self._snapshot(True)
        return None if found is None or found[0].spec.old_format else (found[0].uid, found[1].name)

    def rollback(self) -> tuple[Any, ...] | None:
        return self.snap_remove()

    def snap_limit(self) -> tuple[Any, ...] | None:
        image = self.any()
        if image.spec.old_format:
            return None
        return image.uid, self.rng.choice((None, len(image.snaps) + self.rng.randrange(3)))

    def clone(self) -> tuple[Any, ...] | None:
        r = self.rng
        found = self._snapshot(r.random() < 0.5)
        if found is None or len(self.world.images) >= self.MAX_IMAGES:
            return None
        image, snap = found
        if image.spec.old_format:
            return None
        form = r.choice((1, 2, 2))
        where = r.choice(PLACES)
        if form == 1 and where[1] != image.where[1]:
            form = 2
        uid = self.number()
        return image.uid, uid, snap.name, where, f"clone{uid}", self.spec(clone=True), form

    def flatten(self) -> tuple[Any, ...]:
        clones = [i for i in self.world.live() if i.parent is not None]
        if clones and self.rng.random() < 0.95:
            return (self.rng.choice(clones).uid,)
        return (self.any().uid,)

    def copy(self) -> tuple[Any, ...] | None:
        if len(self.world.images) >= self.MAX_IMAGES:
            return None
        image, r, uid = self.any(), self.rng, self.number()
        snap = r.choice((None, *(s.name for s in image.user_snaps)))
        return image.uid, uid, snap, r.choice(PLACES), f"copy{uid}", self.spec(clone=True)

    def deep_copy(self) -> tuple[Any, ...] | None:
        image, r = self.any(), self.rng
        if len(self.world.images) >= self.MAX_IMAGES or image.spec.old_format:
            return None
        uid = self.number()
        where = r.choice(PLACES)
        if image.clone_format == 1:
            where = (where[0], image.where[1])
        return image.uid, uid, where, f"deep{uid}", self.spec(clone=True), r.random() < 0.3

    def sparsify(self) -> tuple[Any, ...]:
        image = self.any()
        return image.uid, 1 << self.rng.randrange(12, min(image.spec.order, 22) + 1)

    def metadata_set(self) -> tuple[Any, ...] | None:
        image = self.any()
        key = self.rng.choice(("k", "key ü", "long" * 20))
        return None if image.spec.old_format else (image.uid, key, f"value {self.number()}")

    def metadata_remove(self) -> tuple[Any, ...] | None:
        image = self.any()
        return None if image.spec.old_format else (image.uid, self.rng.choice((*image.metadata, "none")))

    def rename(self) -> tuple[Any, ...]:
        image = self.any()
        return image.uid, f"name{self.number()}"

    def update_features(self) -> tuple[Any, ...] | None:
        image, r = self.any(), self.rng
        if image.spec.old_format:
            return None
        has = image.features
        options: list[tuple[int, bool]] = []
        if not has & EXCLUSIVE:
            options += [(EXCLUSIVE, True), (EXCLUSIVE | OBJECT_MAP | FAST_DIFF, True)]
        elif not has & OBJECT_MAP:
            options += [(OBJECT_MAP, True), (OBJECT_MAP | FAST_DIFF, True), (EXCLUSIVE, False)]
        else:
            options += [(OBJECT_MAP | FAST_DIFF, False), (EXCLUSIVE | OBJECT_MAP | FAST_DIFF, False)]
        if has & DEEP_FLATTEN:
            options.append((DEEP_FLATTEN, False))
        return (image.uid, *r.choice(options))

    def remove(self) -> tuple[Any, ...]:
        without = [i for i in self.world.live() if not i.snaps]
        image = self.rng.choice(without) if without and self.rng.random() < 0.9 else self.any()
        return image.uid, self.rng.random() < 0.85

    def trash_move(self) -> tuple[Any, ...] | None:
        image = self.any()
        return None if image.spec.old_format else (image.uid, 0)

    def _trashed(self) -> Img | None:
        found = [i for i in self.world.images.values() if i.trash]
        return self.rng.choice(found) if found else None

    def trash_restore(self) -> tuple[Any, ...] | None:
        image = self._trashed()
        return None if image is None else (image.uid, f"restored{self.number()}")

    def trash_remove(self) -> tuple[Any, ...] | None:
        image = self._trashed()
        return None if image is None else (image.uid,)
