"""Whole images from and to files. Runs of zeroes are neither written to images nor to
files that can have holes."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from .. import rados, rbd
from .output import CommandError, Progress

CHUNK = 32 << 20
"""Bytes of one read or write; its objects are in flight together."""
HOLE = 64 << 10
"""Files get holes of multiples of this."""
MIB = 1 << 20


class Source:
    """A file to import; `size` is None when it cannot be known before its end."""

    def __init__(self, file: IO[bytes], size: int | None) -> None:
        self.file = file
        self.size = size


@contextmanager
def open_source(path: str) -> Iterator[Source]:
    """The file at `path`, or stdin for ``-``."""
    if path == "-":
        mode = os.fstat(sys.stdin.fileno())
        size = mode.st_size if stat.S_ISREG(mode.st_mode) else None
        yield Source(sys.stdin.buffer, size)
        return
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError as e:
        print(f"rbd: error opening {path}", file=sys.stderr)
        raise CommandError(f"import failed: ({e.errno}) {e.strerror}", e.errno or errno.EIO) from None
    with os.fdopen(fd, "rb", buffering=0) as file:
        info = os.fstat(file.fileno())
        if stat.S_ISDIR(info.st_mode):
            raise CommandError(f"cannot import a directory: {path}", errno.EISDIR)
        size = file.seek(0, os.SEEK_END) if stat.S_ISBLK(info.st_mode) else info.st_size
        file.seek(0)
        yield Source(file, size)


def data_runs(data: memoryview, grain: int) -> Iterator[tuple[int, int]]:
    """(start, end) of the runs of blocks of `grain` bytes that are not all zero."""
    zero = bytes(grain)
    start = -1
    for at in range(0, len(data), grain):
        block = data[at : at + grain]
        if block == zero[: len(block)]:
            if start >= 0:
                yield start, at
                start = -1
        elif start < 0:
            start = at
    if start >= 0:
        yield start, len(data)


def _fill(file: IO[bytes], buffer: memoryview) -> int:
    """Reads until the buffer is full or the file ends."""
    got = 0
    while got < len(buffer):
        n = file.readinto(buffer[got:])  # type: ignore[attr-defined]
        if not n:
            break
        got += n
    return got


def import_image(
    ioctx: rados.Ioctx, name: str, source: Source, layout: dict[str, Any], sparse_size: int, progress: Progress
) -> None:
    """Makes an image of a file's bytes. If that fails, no image is left."""
    if sparse_size < 512 or sparse_size & (sparse_size - 1):
        raise CommandError("the sparse size must be a power of two of at least 512", errno.EINVAL)
    size = source.size if source.size is not None else CHUNK
    images = rbd.RBD()
    images.create(ioctx, name, size, **layout)
    try:
        with rbd.Image(ioctx, name) as image:
            buffer = memoryview(bytearray(CHUNK))
            at = 0
            while n := _fill(source.file, buffer):
                if at + n > size:
                    size = max(at + n, 2 * size)  # a stream: grow ahead of it
                    image.resize(size)
                for start, end in data_runs(buffer[:n], sparse_size):
                    image.write(buffer[start:end], at + start)
                at += n
                progress.update(at, source.size or at)
            if at != image.size():
                image.resize(at)
            image.flush()
    except BaseException:
        images.remove(ioctx, name)
        raise


def export_image(image: rbd.Image, path: str, progress: Progress) -> None:
    """Writes an image's bytes to a new file, or to stdout for ``-``."""
    size = image.size()
    if path == "-":
        for at in range(0, size, CHUNK):
            sys.stdout.buffer.write(image.read(at, min(CHUNK, size - at)))
            progress.update(min(size, at + CHUNK))
        sys.stdout.buffer.flush()
        return
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except OSError as e:
        raise CommandError(f"error opening {path}: ({e.errno}) {e.strerror}", e.errno or errno.EIO) from None
    with os.fdopen(fd, "wb", buffering=0) as file:
        for at in range(0, size, CHUNK):
            data = memoryview(image.read(at, min(CHUNK, size - at)))
            for start, end in data_runs(data, HOLE):
                file.seek(at + start)
                piece = data[start:end]
                while len(piece):
                    piece = piece[file.write(piece) or 0 :]
            progress.update(min(size, at + CHUNK))
        file.truncate(size)
