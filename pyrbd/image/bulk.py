"""Doing something with many objects of an image, a window of them at a time
(`src/librbd/AsyncObjectThrottle.cc`)."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from ..rados import exceptions as rados
from .errors import make_ex

if TYPE_CHECKING:
    from ..rados.completion import Completion
    from ..rados.operations import ObjectOperation, OpReply
    from .image import Image

Report = Callable[[int, int], "int | None"]
_BYTES = 64 << 20
"""What the requests of a window may have in memory."""


def window(image: Image, bytes_each: int = 0) -> int:
    """How many objects to work on at a time: `rbd_concurrent_management_ops`, fewer when each takes much memory."""
    wanted = max(1, image.config.get_int("rbd_concurrent_management_ops"))
    return min(wanted, max(2, _BYTES // bytes_each)) if bytes_each else wanted


async def each(
    image: Image,
    numbers: Collection[int],
    start: Callable[[int], Completion[Any] | None],
    progress: Report | None = None,
    size: int = 0,
) -> None:
    """Begins something for each number, and waits for all; an object that is not there is no error.

    After an error nothing new is begun, and what has begun is waited for: who goes on after this may change the
    same objects.

    Args:
        start: begins with one; None when there is nothing to be done for it.
        progress: called with (done, total) after each; what it raises ends this.
        size: how many to work on at a time; 0 for what is configured.
    """
    size = size or window(image)
    pending: deque[Completion[Any]] = deque()
    done, total = 0, len(numbers)

    async def one() -> None:
        nonlocal done
        try:
            await pending[0]
        except rados.ObjectNotFound:
            pass
        pending.popleft()
        done += 1
        if progress is not None:
            progress(done, total)

    try:
        for n in numbers:
            if len(pending) >= size:
                await one()
            completion = start(n)
            if completion is None:
                done += 1
            else:
                pending.append(completion)
        while pending:
            await one()
        if progress is not None and total:
            progress(total, total)
    except Exception:
        await settle(pending)
        raise
    except BaseException:
        from .io import keep

        keep(image, numbers, pending)
        raise


async def settle(pending: Collection[Completion[Any]]) -> None:
    """Waits for what is in flight, whatever becomes of it."""
    for completion in pending:
        try:
            await completion
        except Exception:
            pass


async def change_header(image: Image, op: ObjectOperation, what: str) -> OpReply:
    """Sends a request to an image's header; errors come as the image layer's, `what` is in their message."""
    try:
        return await image.io.operate(image.header_oid, op)
    except rados.Error as e:
        raise make_ex(-(e.errno or errno.EIO), f"{what}: {e}") from e
