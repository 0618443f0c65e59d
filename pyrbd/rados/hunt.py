"""Which monitors to try, in which order, and for how long
(`src/mon/MonClient.cc` _add_conns, _start_hunting, _un_backoff).

Monitors of the lowest priority come first, a few at a time, by chance or by their weights; then the
others, and then all over again. The one that we come from is tried last, and so is every one that
let us in and did nothing for us: a monitor that is out of the quorum does that.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..msgr.types import EntityAddr

if TYPE_CHECKING:
    from .config import Config

FIRST_PAUSE = 0.25
"""Seconds before monitors that all refused are tried again; grows with each round."""
PAUSE_GROWTH = 1.5


class Candidate(NamedTuple):
    """A monitor that may be there."""

    name: str
    addr: EntityAddr
    priority: int = 0
    weight: int = 0


class Hunt:
    """The order of candidates, and patience. No socket and no clock."""

    def __init__(self, config: Config, rng: random.Random | None = None) -> None:
        self.rounds = 0
        """How often all of them have been tried since one was of use."""
        self._config = config
        self._rng = rng or random.Random()
        self._tried: set[EntityAddr] = set()
        self._useless: set[EntityAddr] = set()
        self._multiple = config.get_float("mon_client_hunt_interval_min_multiple")
        self._had_one = False

    # ------------------------------------------------------------ who

    def batch(self, candidates: Sequence[Candidate], running: int) -> list[Candidate]:
        """Those to begin with now, while `running` are being tried; none when it is these that have
        to be waited for."""
        parallel = self._config.get_int("mon_client_hunt_parallel") or len(candidates)
        if running >= parallel:
            return []
        untried = [c for c in candidates if c.addr not in self._tried]
        if not untried:
            if running:
                return []
            self.rounds += 1
            self._tried.clear()
            self._useless.clear()
            untried = list(candidates)
        best = min((c.priority for c in untried), default=0)
        chosen = self._shuffled([c for c in untried if c.priority == best])[: parallel - running]
        self._tried.update(c.addr for c in chosen)
        return chosen

    def exhausted(self, candidates: Sequence[Candidate]) -> bool:
        """Whether each has been tried in this round."""
        return all(c.addr in self._tried for c in candidates)

    def _shuffled(self, candidates: list[Candidate]) -> list[Candidate]:
        """By chance; where there are weights, by them."""
        self._rng.shuffle(candidates)
        out: list[Candidate] = []
        while sum(c.weight for c in candidates):
            out += self._rng.choices(candidates, [c.weight for c in candidates])
            candidates.remove(out[-1])
        return out + candidates

    # ------------------------------------------------------------ what became of it

    def found(self) -> None:
        """One has let us in."""
        self._had_one = True
        self._shrink()

    def lost(self, addr: EntityAddr) -> None:
        """It is there no more, or has sent us away."""
        self._useless.add(addr)
        self._tried = set(self._useless)
        if self._had_one:
            self._grow()

    def useful(self) -> None:
        """It has answered something."""
        if self._useless or self.rounds:
            self._useless.clear()
            self.rounds = 0

    def forget(self) -> None:
        """The monitors have changed."""
        self._tried.clear()
        self._useless.clear()

    # ------------------------------------------------------------ how long

    @property
    def interval(self) -> float:
        """Seconds that monitors have to let us in before others are tried."""
        return self._config.get_float("mon_client_hunt_interval") * self._multiple

    @property
    def pause(self) -> float:
        """Seconds before monitors that have all refused are tried again."""
        grown: float = FIRST_PAUSE * PAUSE_GROWTH ** min(self.rounds, 16)
        return min(grown, self.interval)

    def silent(self) -> None:
        """None let us in for so long."""
        if self._had_one:
            self._grow()

    def _grow(self) -> None:
        greatest = self._config.get_float("mon_client_hunt_interval_max_multiple")
        self._multiple = min(self._multiple * self._config.get_float("mon_client_hunt_interval_backoff"), greatest)

    def calm(self) -> None:
        """We are connected, for a while already."""
        self.rounds = 0
        self._shrink()

    def _shrink(self) -> None:
        least = self._config.get_float("mon_client_hunt_interval_min_multiple")
        factor = self._config.get_float("mon_client_hunt_interval_backoff") or 1.0
        self._multiple = max(least, self._multiple / factor)
