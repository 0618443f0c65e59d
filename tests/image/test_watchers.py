"""Who has an image open: librbd sees us as we see librbd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyrbd import rados
from pyrbd.image import directory
from pyrbd.image.image import Image
from pyrbd.image.watchers import list_watchers


def test_watchers_are_shown_as_librbd_shows_them(ioctx: rados.Ioctx, name: str, librbd: Callable[[str], Any]) -> None:
    io = ioctx._io
    run = io.client.run
    run(directory.create(io, name, 4 << 20, features_wanted=1))
    image = run(Image.open(io, name))
    reader = run(Image.open(io, name, read_only=True))
    try:
        (ours,) = run(list_watchers(image))
        assert [ours] == run(list_watchers(reader)) and ours.id == io.client.global_id
        theirs = librbd(
            f"i = rbd.Image(ioctx, {name!r}); result = [list(i.watchers_list()), cluster.get_instance_id()]; i.close()"
        )
        watchers, their_id = theirs
        assert len(watchers) == 2 and ours._asdict() in watchers
        assert {w["id"] for w in watchers} == {ours.id, their_id}
    finally:
        run(reader.close())
        run(image.close())
