"""Where the bytes of an image are: striping (`src/osdc/Striper.cc`, `doc/dev/file-striping.rst`).

An image is cut into stripe units, which go round over `stripe_count` objects until these
are full; those objects are one object set. Without striping the unit is the object.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

MIN_ORDER = 12
MAX_ORDER = 25


class ObjectExtent(NamedTuple):
    """A piece of one object, and where it lies in the caller's buffer. All in bytes."""

    object_no: int
    offset: int
    length: int
    buffer_offset: int


class Layout(NamedTuple):
    """The layout of an image: sizes in bytes."""

    order: int
    stripe_unit: int
    stripe_count: int

    @property
    def object_size(self) -> int:
        return 1 << self.order

    @property
    def simple(self) -> bool:
        """One object after the other."""
        return self.stripe_count == 1

    @property
    def period(self) -> int:
        """Bytes of one object set."""
        return self.object_size * self.stripe_count

    def num_objects(self, size: int) -> int:
        """How many objects an image of `size` bytes can have (Striper::get_num_objects)."""
        if self.stripe_count == 1:
            return (size + self.object_size - 1) >> self.order
        full, rest = divmod(size, self.period)
        n = full * self.stripe_count
        if rest:
            units = (rest + self.stripe_unit - 1) // self.stripe_unit
            n += min(units, self.stripe_count)
        return n

    def map(self, offset: int, length: int) -> Iterator[ObjectExtent]:
        """The object extents of an image extent, in the order of the image; pieces that
        follow each other in one object are one extent."""
        size = self.object_size
        if self.stripe_count == 1:
            at = 0
            while at < length:
                object_no, inside = divmod(offset + at, size)
                n = min(size - inside, length - at)
                yield ObjectExtent(object_no, inside, n, at)
                at += n
            return
        unit, count = self.stripe_unit, self.stripe_count
        per_object = size // unit
        at = 0
        while at < length:
            block, inside = divmod(offset + at, unit)
            stripe, position = divmod(block, count)
            object_set, row = divmod(stripe, per_object)
            n = min(unit - inside, length - at)
            yield ObjectExtent(object_set * count + position, row * unit + inside, n, at)
            at += n

    def unmap(self, object_no: int, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """The image extents (offset, length) of an object extent (Striper::extent_to_file)."""
        if self.stripe_count == 1:
            yield (object_no << self.order) + offset, length
            return
        unit, count = self.stripe_unit, self.stripe_count
        per_object = self.object_size // unit
        object_set, position = divmod(object_no, count)
        while length > 0:
            row, inside = divmod(offset, unit)
            n = min(unit - inside, length)
            block = (object_set * per_object + row) * count + position
            yield block * unit + inside, n
            offset += n
            length -= n


def object_name(prefix: str, object_no: int) -> str:
    """The name of a data object of a format 2 image."""
    return f"{prefix}.{object_no:016x}"


def v1_object_name(prefix: str, object_no: int) -> str:
    """The name of a data object of a format 1 image."""
    return f"{prefix}.{object_no:012x}"
