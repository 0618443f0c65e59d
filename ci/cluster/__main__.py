"""``python3 ci/cluster up|down|status|conf|tool ...``: `pyrbd.testing` of this tree, with its cluster in `.cluster`."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from pyrbd.testing.__main__ import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(directory=str(ROOT / ".cluster")))
