"""Records `data/random.gz`: small random maps of four releases with the answers of their tools
(``python -m tests.osdmap.record_random``)."""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path

from pyrbd.osdmap import OSDMap
from tests.osdmap.maps.oracle import Answer, Oracle, ToolFailed, things

DATA = Path(__file__).parent / "data"
COUNT = {"nautilus": 4, "pacific": 16, "reef": 12, "tentacle": 16}
LARGEST, GROUPS = 7000, 80
TRIES = 60
MOST_TRIES = 12998
"""Of pacific: a map for which Ceph tries a million draws for a group."""


def main() -> None:
    out = []
    with tempfile.TemporaryDirectory() as directory:
        for release, count in COUNT.items():
            oracle = Oracle(Path(directory), release)
            found: list[tuple[int, Answer, set[str]]] = []
            for seed in range(1, TRIES):
                try:
                    answer = oracle.play(seed)
                except ToolFailed:
                    continue
                if len(answer.map) <= LARGEST and len(answer.groups) <= GROUPS:
                    found.append((seed, answer, things(answer)))
            if release == "pacific":
                answer = oracle.play(MOST_TRIES)
                found.append((MOST_TRIES, answer, {*things(answer), "most tries"}))
            seen: set[str] = set()
            for _ in range(count):  # those first that have what others have not
                best = max(found, key=lambda each: (len(each[2] - seen), -each[0]))
                found.remove(best)
                seed, answer, what = best
                seen |= what
                groups = [(*pg, *sets) for pg, sets in answer.groups.items()]
                crush = "" if answer.crush == OSDMap.decode_full(answer.map).crush_data else answer.crush.hex()
                out.append({"name": f"{release} {seed}", "map": answer.map.hex(), "groups": groups, "crush": crush})
    (DATA / "random.gz").write_bytes(gzip.compress(json.dumps(out).encode(), mtime=0))


if __name__ == "__main__":
    main()
