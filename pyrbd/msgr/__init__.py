"""Messenger v2 without I/O: bytes <-> frames <-> messages (`doc/dev/msgr2.rst`).

Nothing here opens a socket, reads a clock or starts a thread. The blocking driver, the
asyncio driver, the tests and the wire inspector use the same objects.
"""
