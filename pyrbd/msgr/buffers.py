"""Memory that is filled by `recv_into` and then handed out as `bytes` without a copy."""

from __future__ import annotations

import sys


class BytesBuffer:
    """`size` uninitialised bytes: write through :attr:`view`, then :meth:`take` the object.

    On CPython the view writes into a `bytes` object that nobody else has seen yet, as C
    code does between `PyBytes_FromStringAndSize(NULL, n)` and the return. Elsewhere a
    bytearray is filled and copied once. `take` must not be called before all of the view
    has been written, and ends the right to write.
    """

    __slots__ = ("_obj", "view")

    def __init__(self, size: int) -> None:
        if sys.implementation.name == "cpython" and size > 0:
            import ctypes

            new = ctypes.pythonapi.PyBytes_FromStringAndSize
            new.restype = ctypes.py_object
            new.argtypes = (ctypes.c_void_p, ctypes.c_ssize_t)
            obj: bytes = new(None, size)
            start = id(obj) + bytes.__basicsize__ - 1
            array = (ctypes.c_char * size).from_address(start)
            array.owner = obj  # type: ignore[attr-defined] # a view that is left over keeps the memory
            self.view = memoryview(array).cast("B")
            self._obj: bytes | bytearray = obj
        else:
            self._obj = bytearray(size)
            self.view = memoryview(self._obj)

    def take(self) -> bytes:
        self.view.release()
        return self._obj if isinstance(self._obj, bytes) else bytes(self._obj)
