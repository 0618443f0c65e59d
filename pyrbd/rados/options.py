"""What values options may have, and how `conf_get` shows them (`src/common/options.cc`, `src/common/strtol.cc`)."""

from __future__ import annotations

import errno
from collections.abc import Callable

from ..errors import ConfigError
from .option_table import (
    BOOL,
    DEBUG,
    FLOAT,
    INT,
    LIMITS,
    MSECS,
    OPTIONS,
    SECS,
    SIZE,
    STR,
    UINT,
    UUID,
    VALUES,
)

RBD_FEATURES = {
    "layering": 1 << 0,
    "striping": 1 << 1,
    "exclusive-lock": 1 << 2,
    "object-map": 1 << 3,
    "fast-diff": 1 << 4,
    "deep-flatten": 1 << 5,
    "journaling": 1 << 6,
    "data-pool": 1 << 7,
    "operations": 1 << 8,
    "migrating": 1 << 9,
    "non-primary": 1 << 10,
    "dirty-cache": 1 << 11,
}
_INTERNAL_FEATURES = 0xF00
"""The features among them that librbd sets by itself."""
_IO_OPERATIONS = {"read": 1, "write": 2, "discard": 4, "write_same": 8, "compare_and_write": 16}

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50, "e": 1 << 60}
_DAY = 86400
_SPANS = {
    **dict.fromkeys(("", "s", "sec", "second", "seconds"), 1),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60),
    **dict.fromkeys(("h", "hr", "hour", "hours"), 3600),
    **dict.fromkeys(("d", "day", "days"), _DAY),
    **dict.fromkeys(("w", "wk", "week", "weeks"), 7 * _DAY),
    **dict.fromkeys(("mo", "month", "months"), 30 * _DAY),
    **dict.fromkeys(("y", "yr", "year", "years"), 365 * _DAY),
}


def normalize(name: str) -> str:
    """The canonical spelling of an option's name: blanks between words are underscores."""
    return "_".join(name.split())


def parse_size(text: str) -> int:
    """A number of bytes with Ceph's (and rbd's) binary units: ``4096``, ``4K``, ``4KiB``.

    Raises:
        ValueError: not of that form.
    """
    t = text.strip().lower()
    digits = t.rstrip("abcdefghijklmnopqrstuvwxyz ")
    unit = t[len(digits) :].strip()
    unit = unit[:-2] if unit.endswith("ib") else unit[:-1] if len(unit) == 2 and unit.endswith("b") else unit
    if unit not in _UNITS or not digits.isdigit():
        raise ValueError(f"{text!r} is not a size")
    return int(digits) * _UNITS[unit]


def parse_seconds(text: str) -> float:
    """A time span (`parse_timespan`): ``5``, ``5s``, ``1h 30m``; and ``0.5``, which Ceph does not take.

    Raises:
        ValueError: not of that form.
    """
    total, rest = 0.0, text.strip()
    while rest:
        digits = rest.lstrip("0123456789.")
        number, unit = rest[: len(rest) - len(digits)], digits.lstrip()
        rest = unit.lstrip("abcdefghijklmnopqrstuvwxyz")
        span = _SPANS.get(unit[: len(unit) - len(rest)])
        if span is None or not number or (rest and rest == unit):
            raise ValueError(f"{text!r} is not a time span")
        total += float(number) * span
        rest = rest.lstrip()
    if not total < 1 << 62:
        raise ValueError(f"{text!r} is not a time span")
    return total


def canonical(name: str, value: str) -> str:
    """The value as `conf_get` shows it.

    Raises:
        ConfigError: EINVAL, not a value of the option's type, or not one that it may have; ERANGE for a
            debug level out of range.
    """
    kind = OPTIONS[name][0] if name in OPTIONS else STR
    try:
        if name in _SPECIAL:
            return _SPECIAL[name](value)
        if kind == BOOL:
            low = value.lower()
            if low in ("true", "false"):
                return low
            return "true" if _decimal(value, -(1 << 31), (1 << 31) - 1) else "false"
        if kind in (INT, UINT, SIZE, MSECS):
            number = _iec(value) if kind == SIZE else _si(value, kind != INT)
            _check_limits(name, number)
            return str(number)
        if kind == FLOAT:
            if "_" in value or value != value.rstrip():
                raise ValueError(f"{value!r} is not a number")
            _check_limits(name, float(value))
            return f"{float(value):f}"
        if kind == SECS:
            seconds = parse_seconds(value)
            return str(int(seconds)) if seconds == int(seconds) else repr(seconds)
        if kind == UUID:
            return _uuid(value)
        if kind == DEBUG:
            return _levels(value)
    except ValueError as e:
        raise ConfigError(f"option {name}: {e}", errno=errno.EINVAL) from None
    if name in VALUES and value not in VALUES[name]:
        raise ConfigError(f"option {name}: {value!r} is not one of {', '.join(VALUES[name])}", errno=errno.EINVAL)
    return value


def _levels(value: str) -> str:
    """The level of what is logged, and of what is kept for a crash: ``N/M``, or ``N`` for both."""
    first, slash, second = value.lstrip().partition("/")
    n = int(first)
    try:
        m = int(second) if slash else None
    except ValueError:
        m = None
    if not 0 <= n <= 99 or not 0 <= (m or 0) <= 99:
        raise ConfigError(f"{value!r} is not between 0 and 99", errno=errno.ERANGE)
    return value if m is not None else f"{n}/{n}"


def _uuid(value: str) -> str:
    parts = value.split("-")
    digits = "".join(parts).lower()
    if len(digits) != 32 or [len(p) for p in parts] not in ([8, 4, 4, 4, 12], [32]):
        raise ValueError(f"{value!r} is not a UUID")
    int(digits, 16)
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _bits(value: str, names: dict[str, int]) -> int:
    """The bits of names joined by commas, or of a number."""
    text = value.strip()
    if text.isascii() and text.isdigit():
        bits = int(text)
        unknown = bits & ~sum(names.values())
        if unknown:
            raise ValueError(f"bits {unknown:#x} are not known")
        return bits
    bits = 0
    for word in text.split(",") if text else ():
        if word.strip() not in names:
            raise ValueError(f"{word.strip()!r} is not one of {', '.join(names)}")
        bits |= names[word.strip()]
    return bits


def _default_features(value: str) -> str:
    bits = _bits(value, RBD_FEATURES) if value.strip() else int(OPTIONS["rbd_default_features"][1])
    if value.strip().isdigit() and bits & _INTERNAL_FEATURES:
        raise ValueError(f"{value!r} has features that are set by librbd")
    return str(bits)


def _pool_name(value: str, instead: str) -> str:
    return instead if "@" in value or "/" in value else value


_SPECIAL: dict[str, Callable[[str], str]] = {
    "rbd_default_data_pool": lambda value: _pool_name(value, ""),
    "rbd_default_features": _default_features,
    "rbd_default_pool": lambda value: _pool_name(value, "rbd") or "rbd",
    "rbd_qos_exclude_ops": lambda value: str(_bits(value, _IO_OPERATIONS)),
}
"""Options with rules of their own (``validator``)."""


def _check_limits(name: str, number: float) -> None:
    least, greatest = LIMITS.get(name, (None, None))
    if least is not None and number < least:
        raise ValueError(f"{number} is less than {least}")
    if greatest is not None and number > greatest:
        raise ValueError(f"{number} is more than {greatest}")
    if name == "rbd_discard_granularity_bytes" and int(number) & (int(number) - 1):
        raise ValueError(f"{number} is not a power of two")


_SI = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18}
_IEC = {"B": 0, "K": 10, "M": 20, "G": 30, "T": 40, "P": 50, "E": 60}


def _decimal(text: str, least: int, greatest: int) -> int:
    """strict_strtoll: blanks, a sign, digits."""
    number = text.lstrip(" \t\n\v\f\r")
    digits = number[1:] if number[:1] in ("+", "-") else number
    if not (digits.isascii() and digits.isdigit()) or not least <= int(number) <= greatest:
        raise ValueError(f"{text!r} is not a number, or not in the range")
    return int(number)


def _si(text: str, unsigned: bool) -> int:
    """strict_si_cast: a number whose unit counts in thousands."""
    factor = _SI.get(text[-1:], 1)
    number = _decimal(text[:-1] if factor > 1 else text, -(1 << 63), (1 << 64) - 1) * factor
    if not (0 if unsigned else -(1 << 63)) <= number < (1 << 64 if unsigned else 1 << 63):
        raise ValueError(f"{text!r} is not in the range")
    return number


def _iec(text: str) -> int:
    """strict_iec_cast: a number of bytes whose unit counts in 1024s."""
    digits = text.lstrip("+-0123456789")
    number, unit = text[: len(text) - len(digits)], digits
    if len(unit) > 1 and unit.endswith("B"):
        unit = unit[:-1]
    if len(unit) == 2 and unit[1] == "i" and unit[0] != "B":
        unit = unit[0]
    if unit and unit not in _IEC:
        raise ValueError(f"{text!r} is not a size")
    value = _decimal(number, 0, (1 << 64) - 1) << _IEC.get(unit, 0)
    if value >= 1 << 64:
        raise ValueError(f"{text!r} is not in the range")
    return value
