"""JSON and numbers as Ceph's tools print them (`src/common/Formatter.cc` JSONFormatter), and the order in which they
go through hash tables: what `diff` would show otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

_PRIMES = (13, 29, 59, 127, 257, 541, 1109, 2357, 5087, 10273, 20753, 42043, 85229, 172933, 351061, 712697, 1447153)
"""Sizes that a growing table of libstdc++ has."""

_ESCAPES = {i: f"\\u{i:04x}" for i in (*range(0x20), 0x7F)} | {ord("\t"): "\\t", ord("\n"): "\\n"}
_ESCAPES |= {ord('"'): '\\"', ord("\\"): "\\\\"}

_U32 = 0xFFFFFFFF


def real(value: float, digits: int = 6) -> str:
    """A number as a C++ stream of this precision prints it (%g)."""
    return format(value, f".{digits}g")


def to_json(value: Any, pretty: bool = False) -> str:
    """Objects are dicts, arrays are lists."""
    text = "".join(_parts(value, 1 if pretty else 0))
    return text + "\n" if pretty else text


def _parts(value: Any, depth: int) -> Iterator[str]:
    """Depth 0: all in one line."""
    if isinstance(value, Mapping):
        items: Iterable[tuple[str, Any]] = value.items()
        start, end = "{}"
    elif isinstance(value, list):
        items = (("", item) for item in value)
        start, end = "[]"
    else:
        yield _scalar(value)
        return
    inner = depth + 1 if depth else 0
    yield start
    separator = ""
    for name, item in items:
        yield separator
        if depth:
            yield "\n" + "    " * depth
        if start == "{":
            yield f'"{name}": ' if depth else f'"{name}":'
        yield from _parts(item, inner)
        separator = ","
    if depth and separator:
        yield "\n" + "    " * (depth - 1)
    yield end


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if value - value != 0:
            return "null"
        return real(value, 17)
    return f'"{str(value).translate(_ESCAPES)}"'


def blob_hash(data: bytes) -> int:
    """`src/include/blobhash.h`, of a struct whose size is a multiple of four."""
    a = 0
    for i in range(0, len(data), 4):
        a ^= int.from_bytes(data[i : i + 4], "little")
    a = a + 0x7ED55D16 + (a << 12) & _U32
    a = a ^ 0xC761C23C ^ a >> 19
    a = a + 0x165667B1 + (a << 5) & _U32
    a = (a + 0xD3A2646C ^ a << 9) & _U32
    a = a + 0xFD7046C5 + (a << 3) & _U32
    return a ^ 0xB55A4F09 ^ a >> 16


def unordered(hashes: list[int]) -> list[int]:
    """The order in which a std::unordered_map of libstdc++ is gone through, as indices of what was inserted in this
    order: entries are a linked list, in which those of a bucket are neighbours."""
    following: dict[int, int] = {-1: -2}  # -1 is before the first, -2 behind the last
    before: dict[int, int] = {}  # what precedes a bucket's first entry
    sizes = iter(_PRIMES)
    size = 0

    def insert(i: int) -> None:
        bucket = hashes[i] % size
        if bucket in before:
            following[i] = following[before[bucket]]
            following[before[bucket]] = i
            return
        following[i], following[-1] = following[-1], i
        if following[i] != -2:
            before[hashes[following[i]] % size] = i
        before[bucket] = -1

    for n in range(len(hashes)):
        if n == size:
            size = next(sizes)
            order = _walk(following)
            following, before = {-1: -2}, {}
            for i in order:
                insert(i)
        insert(n)
    return _walk(following)


def _walk(following: Mapping[int, int]) -> list[int]:
    order = []
    i = following[-1]
    while i != -2:
        order.append(i)
        i = following[i]
    return order
