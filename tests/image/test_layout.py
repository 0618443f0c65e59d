"""Striping arithmetic: every byte of an image is in exactly one place, and comes back from it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pyrbd.image.layout import Layout, object_name


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    order = draw(st.integers(12, 25))
    unit = 1 << draw(st.integers(max(9, order - 6), order))
    return Layout(order, unit, draw(st.integers(1, 7)))


@st.composite
def extents(draw: st.DrawFn) -> tuple[Layout, int, int]:
    layout = draw(layouts())
    offset = draw(st.integers(0, 3 * layout.period))
    return layout, offset, draw(st.integers(1, 3 * layout.period))


def slow_place(layout: Layout, byte: int) -> tuple[int, int]:
    """doc/dev/file-striping.rst, one byte at a time."""
    block = byte // layout.stripe_unit
    stripe, position = divmod(block, layout.stripe_count)
    stripes_per_object = layout.object_size // layout.stripe_unit
    object_set = stripe // stripes_per_object
    in_object = stripe % stripes_per_object * layout.stripe_unit + byte % layout.stripe_unit
    return object_set * layout.stripe_count + position, in_object


@given(extents())
def test_map_covers_the_buffer_once_and_in_order(case: tuple[Layout, int, int]) -> None:
    layout, offset, length = case
    at = 0
    for e in layout.map(offset, length):
        assert e.buffer_offset == at and e.length > 0
        assert e.offset >= 0 and e.offset + e.length <= layout.object_size
        at += e.length
    assert at == length


@given(extents())
def test_map_agrees_with_the_definition(case: tuple[Layout, int, int]) -> None:
    layout, offset, length = case
    for e in layout.map(offset, length):
        for inside in {0, e.length // 2, e.length - 1}:
            assert slow_place(layout, offset + e.buffer_offset + inside) == (e.object_no, e.offset + inside)


@given(extents())
def test_unmap_is_the_inverse(case: tuple[Layout, int, int]) -> None:
    layout, offset, length = case
    for e in layout.map(offset, length):
        back = list(layout.unmap(e.object_no, e.offset, e.length))
        at = offset + e.buffer_offset
        for start, n in back:
            assert start == at
            at += n
        assert sum(n for _, n in back) == e.length


@given(layouts(), st.integers(0, 1 << 40))
def test_num_objects_is_one_more_than_the_last(layout: Layout, size: int) -> None:
    n = layout.num_objects(size)
    if size == 0:
        assert n == 0
        return
    last_period = max(0, size - 1 - layout.period)
    highest = max(slow_place(layout, size - 1)[0], max(e.object_no for e in _sample(layout, last_period, size)))
    assert n == highest + 1


def _sample(layout: Layout, start: int, end: int) -> list[object]:
    return list(layout.map(start, end - start))


def test_names_of_objects() -> None:
    assert object_name("rbd_data.1234", 0) == "rbd_data.1234.0000000000000000"
    assert object_name("rbd_data.1234", (1 << 28) - 1) == "rbd_data.1234.000000000fffffff"
