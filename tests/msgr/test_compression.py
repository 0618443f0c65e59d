"""Ceph's containers of the four algorithms, what is not understood, and packages that are not there."""

from __future__ import annotations

import builtins
import random
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrbd.errors import ConfigError, ProtocolError
from pyrbd.msgr import compression
from pyrbd.msgr.compression import ALGORITHMS, LZ4, SNAPPY, ZLIB, ZSTD, available, codec
from pyrbd.msgr.frames import MODE_CRC, MODE_SECURE
from pyrbd.msgr.types import ENTITY_TYPE_MGR, ENTITY_TYPE_MON, ENTITY_TYPE_OSD
from pyrbd.rados.config import Config
from pyrbd.rados.messenger import MessengerOptions

TEXT = b"of which there is more than once, " * 200
LIMIT = 1 << 20
EVERY = list(ALGORITHMS.values())


@pytest.mark.parametrize("number", EVERY)
@given(st.one_of(st.binary(min_size=1), st.builds(lambda b, n: b * n, st.binary(min_size=1), st.integers(1, 5000))))
def test_round_trip(number: int, data: bytes) -> None:
    method = codec(number)
    packed = method.compress(memoryview(data))
    assert method.decompress(memoryview(packed), len(data)) == data
    if len(data) > 1:
        with pytest.raises(ProtocolError, match="are accepted"):
            method.decompress(packed, len(data) - 1)


def test_containers_of_ceph() -> None:
    """src/compressor: what comes before the algorithm's own format."""
    assert codec(ZLIB).compress(TEXT)[0] == 0
    assert zlib.decompress(codec(ZLIB).compress(TEXT)[1:], wbits=-15) == TEXT
    assert codec(ZLIB).decompress(b"\1" + codec(ZLIB).compress(TEXT)[1:], LIMIT) == TEXT  # ISA-L's mark
    packed = codec(ZSTD).compress(TEXT)
    assert packed[:4] == struct.pack("<I", len(TEXT)) and packed[4:8] == b"\x28\xb5\x2f\xfd"
    packed = codec(LZ4).compress(TEXT)
    assert struct.unpack_from("<III", packed) == (1, len(TEXT), len(packed) - 12)
    assert codec(SNAPPY).compress(b"abc") == b"\3\x08abc"


def test_lz4_blocks_that_refer_to_those_before() -> None:
    import lz4.block

    blocks, packed = [TEXT[:3000], TEXT[3000:]], []
    packed.append(lz4.block.compress(blocks[0], store_size=False))
    packed.append(lz4.block.compress(blocks[1], store_size=False, dict=blocks[0]))
    raw = struct.pack("<I", 2) + b"".join(struct.pack("<II", len(b), len(p)) for b, p in zip(blocks, packed))
    assert codec(LZ4).decompress(raw + b"".join(packed), LIMIT) == TEXT
    with pytest.raises(ProtocolError, match="are accepted"):
        codec(LZ4).decompress(raw + b"".join(packed), len(TEXT) - 1)


def test_zstd_frames_without_their_length() -> None:
    import zstandard

    writer = zstandard.ZstdCompressor().compressobj()
    frame = writer.compress(TEXT) + writer.flush()
    assert codec(ZSTD).decompress(struct.pack("<I", len(TEXT)) + frame, LIMIT) == TEXT
    for claimed in (len(TEXT) - 1, len(TEXT) + 1):
        with pytest.raises(ProtocolError, match="announces"):
            codec(ZSTD).decompress(struct.pack("<I", claimed) + frame, LIMIT)


@pytest.mark.parametrize("number", EVERY)
def test_what_is_damaged_or_cut_off_ends_in_one_error(number: int) -> None:
    method = codec(number)
    packed = method.compress(TEXT)
    rng = random.Random(number)
    for n in range(1, min(len(packed), 300)):
        with pytest.raises(ProtocolError):
            method.decompress(packed[:n], LIMIT)
    for _ in range(500):
        damaged = bytearray(packed)
        for _ in range(rng.randrange(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        try:
            assert len(method.decompress(bytes(damaged), LIMIT)) <= LIMIT
        except ProtocolError:
            pass
    for _ in range(500):
        try:
            assert len(method.decompress(rng.randbytes(rng.randrange(1, 60)), LIMIT)) <= LIMIT
        except ProtocolError:
            pass


def test_claims_are_not_believed() -> None:
    for number, raw in (
        (ZSTD, struct.pack("<I", 0xFFFFFFFF) + bytes(8)),
        (LZ4, struct.pack("<III", 1, 0xFFFFFFFF, 1) + b"x"),
        (LZ4, struct.pack("<I", 0xFFFFFFFF)),
        (LZ4, struct.pack("<I", 0x20000000) + bytes(100)),
        (SNAPPY, b"\xff\xff\xff\xff\x0f" + b"x"),
    ):
        with pytest.raises(ProtocolError):
            codec(number).decompress(raw, LIMIT)


# ---------------------------------------------------------------- options


def config(**options: str) -> Config:
    c = Config()
    for name, value in options.items():
        c.set(name, value)
    return c


def without(packages: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def limited(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] in packages:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", limited)
    codec.cache_clear()
    monkeypatch.setattr(compression, "_warned", set(), raising=False)


def test_what_is_not_installed_is_not_offered(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    names = ["zstd", "lz4", "snappy", "zlib", "lz4"]
    assert available(names) == ((ZSTD, LZ4, SNAPPY, ZLIB), [])
    without({"zstandard", "lz4", "cramjam"}, monkeypatch)
    found, problems = available([*names, "brotli"])
    assert found == (ZLIB,)
    assert [p.split(" (")[0] for p in dict.fromkeys(problems)] == [
        "zstd needs the package zstandard",
        "lz4 needs the package lz4",
        "snappy needs the package cramjam",
        "brotli is not known here",
    ]
    options = MessengerOptions.from_config(config(ms_osd_compress_mode="force"))
    assert options.compression is None, "there is nothing to offer, and that is no reason not to connect"
    assert "snappy needs the package cramjam" in caplog.text
    monkeypatch.undo()
    codec.cache_clear()


def test_nothing_is_imported_for_what_is_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    without({"zstandard", "lz4", "cramjam", "zlib"}, monkeypatch)
    assert MessengerOptions.from_config(config()).compression is None
    monkeypatch.undo()
    codec.cache_clear()


def test_options_as_librados_has_them() -> None:
    options = MessengerOptions.from_config(config())
    assert options == MessengerOptions((MODE_CRC, MODE_SECURE), (MODE_SECURE, MODE_CRC), None, True)
    assert [options.modes(kind) for kind in (ENTITY_TYPE_MON, ENTITY_TYPE_MGR, ENTITY_TYPE_OSD)] == [
        (MODE_SECURE, MODE_CRC),
        (MODE_SECURE, MODE_CRC),
        (MODE_CRC, MODE_SECURE),
    ]
    options = MessengerOptions.from_config(
        config(
            ms_client_mode="secure, crc;secure",
            ms_mon_client_mode="crc",
            ms_crc_data="false",
            ms_osd_compress_mode="force",
            ms_osd_compression_algorithm="zlib, zstd",
            ms_osd_compress_min_size="4096",
            ms_compress_secure="true",
        )
    )
    assert (options.client_modes, options.mon_modes, options.crc_data) == ((MODE_SECURE, MODE_CRC), (MODE_CRC,), False)
    assert options.offer(ENTITY_TYPE_OSD) == ((ZLIB, ZSTD), 4096, True)
    assert options.offer(ENTITY_TYPE_MON) is None


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("ms_client_mode", "crc secret", "'secret' is no connection mode"),
        ("ms_mon_client_mode", "SECURE", "'SECURE' is no connection mode"),
        ("ms_client_mode", " , ", "ms_client_mode is empty"),
        ("ms_osd_compress_mode", "passive", "none, force"),
    ],
)
def test_values_that_mean_nothing_are_refused(option: str, value: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text) as caught:
        MessengerOptions.from_config(config(**{option: value}))
    assert caught.value.errno == 22
