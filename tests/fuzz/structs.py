"""All declared structs of the package."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from functools import cache

import pyrbd
from pyrbd.denc import Decoder, Struct
from pyrbd.errors import DecodeError
from pyrbd.msgr.messages import Message


def _below(cls: type[Struct]) -> Iterator[type[Struct]]:
    for sub in cls.__subclasses__():
        yield sub
        yield from _below(sub)


@cache
def all_structs() -> tuple[type[Struct], ...]:
    """Those that can be decoded, in the order of their names."""
    for info in pkgutil.walk_packages(pyrbd.__path__, "pyrbd."):
        if not info.name.endswith("__main__"):
            importlib.import_module(info.name)
    found = {c for c in _below(Struct) if c.__module__.startswith("pyrbd.") and c._names}
    return tuple(sorted((c for c in found if _decodes(c)), key=lambda c: (c.__module__, c.__qualname__)))


def _decodes(cls: type[Struct]) -> bool:
    try:
        cls.decode(Decoder(bytes(512)))
    except NotImplementedError:
        return False
    except Exception:
        pass
    return True


def encodes(value: Struct) -> bool:
    """Whether it can be encoded: a client does not send everything."""
    try:
        value.to_bytes()
    except NotImplementedError:
        return False
    return True


def again(value: Struct) -> None:
    """A value is the same when it has been encoded and decoded, as far as it is one that is sent."""
    if not encodes(value):
        return
    raw = value.to_bytes()
    try:
        if isinstance(value, Message):
            other: Struct = type(value).decode_front(raw, type(value).VERSION)
        else:
            other = type(value).from_bytes(raw)
    except DecodeError as e:
        raise AssertionError(f"{value!r} cannot be decoded again: {e}") from e
    assert other == value, f"{value!r} became {other!r}"
    assert other.to_bytes() == raw
