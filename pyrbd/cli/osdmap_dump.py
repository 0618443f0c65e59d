"""``pyrbd osdmap dump``: a map as Ceph's own tools show it."""

from __future__ import annotations

from ..osdmap import OSDMap
from ..osdmap.dump import dump_json, dump_plain

FORMATS = ("plain", "json", "json-pretty")


def dump(osdmap: OSDMap, format: str = "plain") -> str:
    """The text that `osdmaptool --print` (plain) or `osdmaptool --dump FORMAT` of the release that wrote the map
    gives, to be written as it is: one line of JSON has no end of line.

    Raises:
        ValueError: there is no such format.
        DecodeError: a part of the map is damaged.
    """
    if format == "plain":
        return dump_plain(osdmap)
    if format not in FORMATS:
        raise ValueError(f"no format {format!r}: there are {', '.join(FORMATS)}")
    return dump_json(osdmap, pretty=format == "json-pretty")
