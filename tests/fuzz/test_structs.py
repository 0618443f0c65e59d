"""All declared structs: a value survives encoding and decoding, and whatever a hostile peer makes of its bytes is a
value or a DecodeError, within a memory that what really came allows."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyrbd.denc import Decoder, Struct
from pyrbd.errors import DecodeError
from pyrbd.msgr.messages import Message
from pyrbd.osdmap import PgPool
from tests.fuzz.structs import again, all_structs, encodes
from tests.fuzz.values import known, of

SENT = [c for c in all_structs() if known(c)]

few = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
names = {"ids": lambda c: c.__name__ if isinstance(c, type) else None}


def decode(cls: type[Struct], raw: bytes, version: int = 255) -> Struct:
    return cls.decode_front(raw, version) if issubclass(cls, Message) else cls.decode(Decoder(raw))


@pytest.mark.parametrize("cls", SENT, **names)  # type: ignore[arg-type]
def test_a_value_survives(cls: type[Struct]) -> None:
    @few
    @given(of(cls))
    def check(value: Struct) -> None:
        assert encodes(value)
        again(value)

    check()


@st.composite
def damage(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """A few changes to bytes, such as somebody makes who knows the format: counts and lengths above all."""
    ways = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["flip", "count", "cut", "insert", "repeat"]),
                st.integers(0, 10000),
                st.sampled_from([0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]),
            ),
            min_size=1,
            max_size=3,
        )
    )

    def apply(raw: bytes) -> bytes:
        for way, where, what in ways:
            at = where % (len(raw) + 1)
            if way == "flip" and at < len(raw):
                raw = raw[:at] + bytes([raw[at] ^ (what & 0xFF or 1)]) + raw[at + 1 :]
            elif way == "count":
                raw = raw[:at] + what.to_bytes(4, "little") + raw[at + 4 :]
            elif way == "cut":
                raw = raw[:at]
            elif way == "insert":
                raw = raw[:at] + what.to_bytes(4, "little") + raw[at:]
            else:
                raw = raw[:at] + raw
        return raw

    return apply


@pytest.mark.parametrize("cls", SENT, **names)  # type: ignore[arg-type]
def test_damaged_bytes_are_a_value_or_a_decode_error(cls: type[Struct]) -> None:
    @few
    @given(of(cls), damage(), st.integers(0, 255))
    def check(value: Struct, change: Callable[[bytes], bytes], version: int) -> None:
        raw = change(value.to_bytes())
        try:
            other = decode(cls, raw, version)
        except DecodeError:
            return
        again(other)

    check()


def test_what_is_not_tried_is_not_encoded() -> None:
    """What a client only reads has no encoder; who writes one has to add values for it. The fields of a pool depend
    on the release: tests/osdmap/test_codec.py writes them."""
    for cls in set(all_structs()) - {*SENT, PgPool}:
        with pytest.raises(NotImplementedError):
            object.__new__(cls).to_bytes()


HOSTILE = [
    b"\xff" * 4096,
    b"\xff\xff\xff\x7f" * 1024,
    b"\x01\x01" + b"\xff" * 4094,
    b"\x01\x01\xfa\x0f\x00\x00" + b"\xff" * 4090,
    b"\x01\x01\xfa\x0f\x00\x00" + b"\x00\x04\x00\x00" * 1024,
    b"\x02\x01\xfa\x0f\x00\x00" + b"\xe8\x03\x00\x00" + bytes(4086),
    b"\xe8\x03\x00\x00" + bytes(4092),
    bytes(4096),
    b"\x01\x00\x00\x00" * 1024,
    b"\x00" * 16 + b"\xff\xff\xff\xff" + b"\x01\x00\x00\x00" * 1000,
]


def peak_of(fn: Callable[[], object]) -> int:
    """The most memory that a call takes beyond what there was, in bytes."""
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        fn()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("cls", all_structs(), **names)  # type: ignore[arg-type]
def test_memory_is_bounded_by_what_came(cls: type[Struct]) -> None:
    """Announced lengths of 4 GiB and counts of 2**32 - 1 at each place of a struct, and as many items as fit."""
    inputs = list(HOSTILE)
    sample = bytes(64)
    for at in range(48):
        inputs.append(sample[:at] + b"\xff\xff\xff\xff" + bytes(4096))
        inputs.append(b"\x01\x01\x00\x10\x00\x00" + sample[:at] + b"\xff\xff\xff\xff" + bytes(4096))

    def run() -> None:
        for raw in inputs:
            try:
                decode(cls, raw)
            except DecodeError:
                pass

    assert peak_of(run) < 80 * 4096, "a multiple of the bytes that came: a small integer takes 36, an object 100"


def test_each_field_that_came_later_has_a_default() -> None:
    """Or a message of an old sender could not be made a value."""
    from pyrbd.image.notify import Payload

    for cls in all_structs():
        missing = [f.name for f in cls.wire_fields if f.since and f.name not in cls._defaults]
        assert not missing or issubclass(cls, Payload), f"{cls.__name__}: {missing}"
