"""ceph::BitVector<2> (`src/common/bit_vector.hpp`): two bits for each object of an image, four objects
in a byte, the first in its highest bits.

Encoded it is a header with the number of elements, the bytes, and a footer with the checksums of the
header and of each 4 KiB of the bytes; the footer is empty on the way between clients and OSDs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ..crc32c import crc32c
from ..denc import Decoder, Encoder
from ..errors import DecodeError

if TYPE_CHECKING:
    from ..denc import Buffer

BLOCK_SIZE = 4096
_ZERO_BLOCK = bytes(BLOCK_SIZE)
_PAGE = 64 * BLOCK_SIZE


class PairTable(dict[int, int]):
    """What becomes of four pairs of elements: `fn` for each pair, computed once for each two bytes.

    `fn(0, 0)` has to be 0.
    """

    __slots__ = ("_fn",)

    def __init__(self, fn: Callable[[int, int], int]) -> None:
        self._fn = fn

    def __missing__(self, key: int) -> int:
        a, b = key >> 8, key & 0xFF
        value = 0
        for shift in (6, 4, 2, 0):
            value = value << 2 | self._fn(a >> shift & 3, b >> shift & 3)
        self[key] = value
        return value


class BitVector:
    """A vector of numbers from 0 to 3. The bits behind its end are 0.

    Who changes it from several threads has to see to it that they take turns: neighbours share a byte.
    """

    __slots__ = ("data", "size")

    def __init__(self, size: int = 0, value: int = 0) -> None:
        self.size = 0
        self.data = bytearray()
        self.resize(size, value)

    def __len__(self) -> int:
        return self.size

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BitVector) and self.size == other.size and self.data == other.data

    __hash__ = None  # type: ignore[assignment]

    def __getitem__(self, n: int) -> int:
        if not 0 <= n < self.size:
            raise IndexError(n)
        return self.data[n >> 2] >> 2 * (3 - (n & 3)) & 3

    def __setitem__(self, n: int, value: int) -> None:
        if not 0 <= n < self.size:
            raise IndexError(n)
        shift = 2 * (3 - (n & 3))
        self.data[n >> 2] = self.data[n >> 2] & ~(3 << shift) | value << shift

    def part(self, first: int, last: int) -> BitVector:
        """A copy of the elements from `first`, a multiple of 4, up to `last` or the end."""
        other = BitVector()
        other.size = max(0, min(last, self.size) - first)
        other.data = self.data[first >> 2 : (first + other.size + 3) >> 2]
        other._clear_tail()
        return other

    def copy(self) -> BitVector:
        other = BitVector()
        other.size, other.data = self.size, self.data[:]
        return other

    def resize(self, size: int, value: int = 0) -> None:
        """Cuts it, or lets it grow by elements of this value."""
        old, self.size = self.size, size
        length = (size + 3) >> 2
        if length < len(self.data):
            del self.data[length:]
        else:
            self.data += bytes([value * 0x55]) * (length - len(self.data))
        if size > old:
            for n in range(old, min(size, old + 3 & ~3)):
                self[n] = value
        self._clear_tail()

    def _clear_tail(self) -> None:
        if self.size & 3:
            self.data[-1] &= 0xFF00 >> 2 * (self.size & 3) & 0xFF

    # ------------------------------------------------------------ all elements of a range

    def _bytes_of(self, first: int, last: int) -> tuple[int, int]:
        """The whole bytes within a range; an empty range when there are none."""
        begin, end = (first + 3) >> 2, last >> 2
        return (begin, end) if begin < end else (begin, begin)

    def _edges(self, first: int, last: int) -> Iterator[int]:
        """The elements of a range that are not in its whole bytes."""
        begin, end = self._bytes_of(first, last)
        if begin == end:
            yield from range(first, last)
        else:
            yield from range(first, begin << 2)
            yield from range(end << 2, last)

    def apply(self, first: int, last: int, values: tuple[int, int, int, int]) -> None:
        """Replaces each element `v` of the range by `values[v]`."""
        for n in self._edges(first, last):
            self[n] = values[self[n]]
        begin, end = self._bytes_of(first, last)
        table = _byte_table(values)
        for at in range(begin, end, _PAGE):
            stop = min(end, at + _PAGE)
            self.data[at:stop] = self.data[at:stop].translate(table)

    def contains(self, first: int, last: int, wanted: tuple[bool, bool, bool, bool]) -> bool:
        """Whether the range has an element `v` for which `wanted[v]` holds."""
        if any(wanted[self[n]] for n in self._edges(first, last)):
            return True
        begin, end = self._bytes_of(first, last)
        others = bytes(b for b in range(256) if not any(wanted[b >> s & 3] for s in (6, 4, 2, 0)))
        return any(self.data[at : min(end, at + _PAGE)].translate(None, others) for at in range(begin, end, _PAGE))

    def fold(self, other: BitVector, table: PairTable) -> None:
        """Makes each element what `table` says of it and of the other's; where the other has ended, of it and 0."""
        mine, theirs = self.data, other.data
        length = len(mine)
        for at in range(0, length, BLOCK_SIZE):
            a, b = mine[at : at + BLOCK_SIZE], theirs[at : at + BLOCK_SIZE]
            if _ZERO_BLOCK.startswith(a) and _ZERO_BLOCK.startswith(b):
                continue
            b += bytes(max(0, len(a) - len(b)))
            mine[at : at + BLOCK_SIZE] = bytes([table[p << 8 | c] for p, c in zip(a, b)])
        self._clear_tail()

    def nonzero(self, first: int = 0, last: int | None = None) -> Iterator[int]:
        """The numbers of the elements that are not 0, ascending; what is 0 costs next to nothing."""
        last = self.size if last is None else min(last, self.size)
        data, at, end = self.data, first >> 2, (last + 3) >> 2
        while at < end:
            stop = min(end, at + BLOCK_SIZE)
            block = data[at:stop]
            if not _ZERO_BLOCK.startswith(block):
                for i, b in enumerate(block, at):
                    if b:
                        for k in (0, 1, 2, 3):
                            n = (i << 2) + k
                            if b >> 2 * (3 - k) & 3 and first <= n < last:
                                yield n
            at = stop

    # ------------------------------------------------------------ encoding

    def encode(self, checksums: bool = True) -> bytearray:
        """The bytes of it, with checksums as it is stored, or without as it travels."""
        header = Encoder()
        mark = header.start(1, 1)
        header.u64(self.size)
        header.finish(mark)
        footer = Encoder()
        if checksums:
            footer.u32(crc32c(header.buf, 0))
            footer.u32((len(self.data) + BLOCK_SIZE - 1) // BLOCK_SIZE)
            for at in range(0, len(self.data), BLOCK_SIZE):
                footer.u32(crc32c(self.data[at : at + BLOCK_SIZE], 0))
        e = Encoder()
        e.blob(header.buf)
        e.raw(self.data)
        e.blob(footer.buf)
        return e.buf

    @classmethod
    def decode(cls, encoded: Buffer) -> BitVector:
        """The reverse of :meth:`encode`.

        Raises:
            DecodeError: it is cut short, or a checksum is wrong.
        """
        d = Decoder(encoded)
        header = d.blob()
        _, body = Decoder(header).envelope(1, "BitVector")
        vector = cls()
        vector.size = body.u64()
        vector.data = bytearray(d.raw((vector.size + 3) >> 2))
        footer = d.blob_decoder()
        if footer.remaining:
            if footer.u32() != crc32c(header, 0):
                raise DecodeError("BitVector: the header's checksum is wrong")
            blocks = (len(vector.data) + BLOCK_SIZE - 1) // BLOCK_SIZE
            if footer.count(4) != blocks:
                raise DecodeError(f"BitVector: {blocks} blocks do not have as many checksums")
            for i in range(blocks):
                if footer.u32() != crc32c(vector.data[i * BLOCK_SIZE : (i + 1) * BLOCK_SIZE], 0):
                    raise DecodeError(f"BitVector: the checksum of block {i} is wrong")
        vector._clear_tail()
        return vector


_tables: dict[tuple[int, int, int, int], bytes] = {}


def _byte_table(values: tuple[int, int, int, int]) -> bytes:
    table = _tables.get(values)
    if table is None:
        table = bytes(
            values[b >> 6] << 6 | values[b >> 4 & 3] << 4 | values[b >> 2 & 3] << 2 | values[b & 3] for b in range(256)
        )
        _tables[values] = table
    return table
