"""Which placement groups an OSD cannot serve now, by its own word
(`doc/dev/osd_internals/backoff.rst`).

A backoff is for some objects of a group; we hold back the whole group until all of its backoffs
have ended, so requests that could have gone wait with those that could not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from ..msgr.messages import BACKOFF_OP_ACK_BLOCK, PRIO_DEFAULT, MOSDBackoff

if TYPE_CHECKING:
    from ..denc import Buffer
    from ..osdmap import OSDMap
    from .session import Session


class Backoffs:
    """Those of all sessions. Used under the objecter's lock.

    Attributes:
        count: how often an OSD has told us to hold back.
    """

    def __init__(self) -> None:
        self.count = 0
        self._of: dict[int, dict[tuple[int, int], set[int]]] = {}

    def begin(self, session: Session, message: MOSDBackoff) -> None:
        self.count += 1
        self._of.setdefault(id(session), {}).setdefault(group_of(message), set()).add(message.id)

    def end(self, session: Session, message: MOSDBackoff) -> None:
        """The end of one that we never heard of is nothing."""
        held_back = self._of.get(id(session), {})
        ids = held_back.get(group_of(message), set())
        ids.discard(message.id)
        if not ids:
            held_back.pop(group_of(message), None)

    def hold(self, session: Session | None, pool: int, seed: int) -> bool:
        """Whether requests to a group must not go to this session."""
        return session is not None and (pool, seed) in self._of.get(id(session), {})

    def __bool__(self) -> bool:
        return bool(self._of)

    def forget(self, session: Session) -> bool:
        """A backoff ends with its connection. Returns whether there were any."""
        return bool(self._of.pop(id(session), None))

    def drop_stale(self, osdmap: OSDMap, osd_of: Mapping[int, int]) -> None:
        """Forgets those of groups that their OSD does not serve any more. It says when a backoff
        ends, but not for a group that it drops, as one that was merged into another; which may be
        made again."""
        for ident, held_back in self._of.items():
            for pool, seed in list(held_back):
                info = osdmap.pools.get(pool)
                if info is None or seed >= info.pg_num or osdmap.pg_acting_primary(pool, seed)[0] != osd_of.get(ident):
                    del held_back[pool, seed]


def group_of(message: MOSDBackoff) -> tuple[int, int]:
    return message.pgid.pgid.pool, message.pgid.pgid.seed


class Acknowledgement(NamedTuple):
    """What we say to a backoff: in the OSD's own epoch."""

    message: MOSDBackoff

    def encode(self, session: Session) -> list[Buffer]:
        ack = self.message.replace(op=BACKOFF_OP_ACK_BLOCK)
        return session.conn.encode_message(0, ack.TYPE, ack.VERSION, ack.COMPAT, PRIO_DEFAULT, ack.to_bytes())
