"""Which data objects of an image the pool has, where there may be far more than there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..msgr.types import HObject

if TYPE_CHECKING:
    from .image import Image

LIST_INSTEAD = 1 << 15
"""From so many possible objects on, the pool is listed before anything is done with each of them."""


async def existing_objects(image: Image, wanted: range) -> list[int]:
    """The numbers of the data objects within a range, ascending. Those that only snapshots still have are among
    them: an OSD keeps the head of such an object as a whiteout, and lists it."""
    prefix = image.header.raw.object_prefix + "."
    cursor = HObject()
    found = []
    while not cursor.max:
        page = await image.data_io.list_page(cursor)
        cursor = page.handle
        for e in page.entries:
            if e.oid.startswith(prefix):
                try:
                    n = int(e.oid[len(prefix) :], 16)
                except ValueError:  # not one of ours
                    continue
                if n in wanted:
                    found.append(n)
    return sorted(found)
