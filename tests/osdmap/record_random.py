"""Records `data/random.gz`: small random maps of four releases with the answers of their tools
(``python -m tests.osdmap.record_random``)."""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path

from tests.osdmap.maps.oracle import Oracle, ToolFailed

DATA = Path(__file__).parent / "data"
COUNT = {"nautilus": 6, "pacific": 16, "reef": 12, "tentacle": 12}
LARGEST, GROUPS = 7000, 60


def main() -> None:
    out = []
    with tempfile.TemporaryDirectory() as directory:
        for release, count in COUNT.items():
            oracle = Oracle(Path(directory), release)
            seed = 1
            while count:
                try:
                    answer = oracle.play(seed)
                except ToolFailed:
                    answer = None
                if answer and len(answer.map) <= LARGEST and 0 < len(answer.groups) <= GROUPS:
                    groups = [(*pg, *sets) for pg, sets in answer.groups.items()]
                    out.append({"name": f"{release} {seed}", "map": answer.map.hex(), "groups": groups})
                    count -= 1
                seed += 1
    (DATA / "random.gz").write_bytes(gzip.compress(json.dumps(out).encode(), mtime=0))


if __name__ == "__main__":
    main()
