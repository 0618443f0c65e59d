"""Where a request goes: an object or a placement group, the place that a map gives it, and the
snapshots that a write must preserve."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..msgr.osdop import encode_head, encode_object

if TYPE_CHECKING:
    from ..osdmap import OSDMap
    from ..osdmap.pool import PgPool


class SnapContext(NamedTuple):
    """What a write must preserve: the newest snapshot id, and all that exist, newest first."""

    seq: int = 0
    snaps: tuple[int, ...] = ()


EMPTY_SNAPC = SnapContext()


class Target:
    """An object, and the place that a map gives it."""

    __slots__ = (
        "_elsewhere",
        "_read_head",
        "acting",
        "key",
        "map",
        "named",
        "nspace",
        "oid",
        "pg_num",
        "pool",
        "primary",
        "raw_hash",
        "role",
        "seed",
        "shard",
    )

    def __init__(self, pool: int, oid: str, nspace: str = "", key: str = "") -> None:
        self.pool = pool
        self.oid = oid
        self.nspace = nspace
        self.key = key
        self.named = encode_object(
            pool,
            oid.encode("utf-8", "surrogateescape"),
            nspace.encode("utf-8", "surrogateescape"),
            key.encode("utf-8", "surrogateescape"),
        )
        self.map: OSDMap | None = None  # for which the rest holds
        self.raw_hash = 0
        self.seed = 0
        self.pg_num = 0
        self.shard = -1
        self.acting: tuple[int, ...] = ()
        self.role = -1  # the primary's place in the acting set
        self.primary = -1
        self._elsewhere: dict[int, Target] = {}
        self._read_head: tuple[int, int, bytes] = (0, 0, b"")

    def __str__(self) -> str:
        where = f"{self.pool}:" + (f"{self.nspace}/" if self.nspace else "")
        return where + self.oid

    def locate(self, osdmap: OSDMap) -> bool:
        """Finds group and primary in `osdmap`; False if the pool is not there."""
        pool = osdmap.pools.get(self.pool)
        if pool is None:
            return False
        self.raw_hash = osdmap.object_to_raw_hash(self.pool, self.oid, self.key, self.nspace)
        self.seed = osdmap.raw_hash_to_pg(self.pool, self.raw_hash).seed
        self._find_primary(osdmap, pool)
        return True

    def _find_primary(self, osdmap: OSDMap, pool: PgPool) -> None:
        self.pg_num = pool.pg_num
        self.primary, acting = osdmap.pg_acting_primary(self.pool, self.seed)
        self.acting = acting
        self.role = acting.index(self.primary) if self.primary in acting else -1
        self.shard = self.role if pool.is_erasure else -1
        self.map = osdmap

    def read_head(self, epoch: int, flags: int) -> bytes:
        """A request with one operation that reads, up to that; of the epoch by which the object was located."""
        known, of, head = self._read_head
        if known != epoch or of != flags:
            head = encode_head(self.pool, self.seed, self.shard, self.raw_hash, epoch, flags) + self.named + b"\1\0"
            self._read_head = epoch, flags, head
        return head

    def in_pool(self, pool: int) -> Target:
        """The object of the same name in another pool, a cache tier."""
        target = self._elsewhere.get(pool)
        if target is None:
            target = self._elsewhere[pool] = Target(pool, self.oid, self.nspace, self.key)
        return target


class PgTarget(Target):
    """A placement group itself, for listing: the one that has objects of a hash. Which that is
    changes when groups split or merge."""

    __slots__ = ()

    def __init__(self, pool: int, raw_hash: int, nspace: str = "") -> None:
        super().__init__(pool, "", nspace)
        self.raw_hash = raw_hash

    def locate(self, osdmap: OSDMap) -> bool:
        pool = osdmap.pools.get(self.pool)
        if pool is None:
            return False
        self.seed = pool.raw_pg_to_pg(self.raw_hash)
        self._find_primary(osdmap, pool)
        return True
