"""Keys of cephx: the vectors of RFC 8009, what real daemons and tools made, and what is refused."""

from __future__ import annotations

import copy
import os
import pickle
import shutil
import subprocess
from pathlib import Path

import pytest

from pyrbd.errors import AuthError, ConfigError
from pyrbd.msgr.cephx import CephxAuthorize, CephxChallengeBlob
from pyrbd.msgr.crypto import (
    CRYPTO_AES,
    CRYPTO_AES256KRB5,
    CryptoKey,
    KeyUsage,
    Secret,
    SecretText,
    krb5_decrypt,
    krb5_derive,
    krb5_encrypt,
)
from pyrbd.msgr.types import Utime
from pyrbd.rados.config import Config
from pyrbd.rados.keyring import find_key, parse_keyring

from ..dumps import dumped

RFC_KEY = Secret(bytes.fromhex("6D404D37FAF79F9DF0D33568D320669800EB4836472EA8A026D16B7182460C52"))
RFC_8009 = [  # appendix A, aes256-cts-hmac-sha384-192, key usage 2: confounder, plaintext, ciphertext and hash
    (
        "F764E9FA15C276478B2C7D0C4E5F58E4",
        "",
        "41F53FA5BFE7026D91FAF9BE959195A058707273A96A40F0A01960621AC612748B9BBFBE7EB4CE3C",
    ),
    (
        "B80D3251C1F6471494256FFE712D0B9A",
        "000102030405",
        "4ED7B37C2BCAC8F74F23C1CF07E62BC7B75FB3F637B9F559C7F664F69EAB7B6092237526EA0D1F61CB20D69D10F2",
    ),
    (
        "53BF8A0D105265D4E276428624CE5E63",
        "000102030405060708090A0B0C0D0E0F",
        "BC47FFEC7998EB91E8115CF8D19DAC4BBBE2E163E87DD37F49BECA92027764F68CF51F14D798C2273F35DF574D1F932E40C4FF255B36A266",
    ),
    (
        "763E65367E864F02F55153C7E3B58AF1",
        "000102030405060708090A0B0C0D0E0F1011121314",
        "40013E2DF58E8751957D2878BCD2D6FE101CCFD556CB1EAE79DB3C3EE86429F2B2A602AC86FEF6ECB647D6295FAE077A1FEB517508D2C16B4192E01F62",
    ),
]
AES = "AQBSWwVrAAAAABAAAQIDBAUGBwgJCgsMDQ4PEA=="
AES256K = "AgBdUQZrAAAAACAAGIaOhCUpmE82puvBPrYen5cTNEL4jUEtIcELKKsbNuA="
"""Made by ceph-authtool of 16.2 and the monitors of 20.2.4."""


def key(kind: int, length: int | None = None) -> CryptoKey:
    return CryptoKey(kind, Utime(0, 0), Secret(os.urandom(length or {1: 16, 2: 32}[kind])))


def test_keys_are_derived_as_in_rfc_8009() -> None:
    assert krb5_derive(RFC_KEY, 2, 0xAA, 32).hex() == "56ab22bee63d82d7bc5227f6773f8ea7a5eb1c825160c38312980c442e5c7e49"
    assert krb5_derive(RFC_KEY, 2, 0x55, 24).hex() == "69b16514e3cd8e56b82010d5c73012b622c4d00ffc23ed1f"


@pytest.mark.parametrize(("confounder", "plain", "expected"), RFC_8009)
def test_encryption_of_rfc_8009(confounder: str, plain: str, expected: str) -> None:
    made = krb5_encrypt(RFC_KEY, 2, bytes.fromhex(confounder), bytes.fromhex(plain))
    assert made.hex().upper() == expected
    assert bytes(krb5_decrypt(RFC_KEY, 2, made)).hex().upper() == plain


@pytest.mark.parametrize("kind", [CRYPTO_AES, CRYPTO_AES256KRB5])
def test_every_length_comes_back(kind: int) -> None:
    k = key(kind)
    for n in range(100):
        plain = os.urandom(n)
        assert k.decrypt_raw(k.encrypt_raw(plain, KeyUsage.AUTHORIZE), KeyUsage.AUTHORIZE) == plain


@pytest.mark.parametrize("kind", [CRYPTO_AES, CRYPTO_AES256KRB5])
def test_another_key_opens_nothing(kind: int) -> None:
    message = CephxAuthorize(2, 1, True, 2)
    for _ in range(300):  # of 256 wrong keys, one finds a padding that looks right
        with pytest.raises(AuthError, match="cannot decrypt"):
            key(kind).decrypt(key(kind).encrypt(message, KeyUsage.AUTHORIZE), CephxAuthorize, KeyUsage.AUTHORIZE)


def test_a_key_of_the_new_type_is_used_for_one_thing_at_a_time() -> None:
    k, message = key(CRYPTO_AES256KRB5), CephxAuthorize(2, 1, True, 2)
    made = k.encrypt(message, KeyUsage.AUTHORIZE)
    assert made != k.encrypt(message, KeyUsage.AUTHORIZE), "nothing is encrypted twice to the same"
    for usage in KeyUsage:
        if usage is KeyUsage.AUTHORIZE:
            assert k.decrypt(made, CephxAuthorize, usage) == message
        else:
            with pytest.raises(AuthError, match="cannot decrypt"):
                k.decrypt(made, CephxAuthorize, usage)


@pytest.mark.parametrize("kind", [CRYPTO_AES, CRYPTO_AES256KRB5])
def test_damaged_ciphertext_is_refused_or_at_least_bounded(kind: int) -> None:
    k = key(kind)
    made = k.encrypt_raw(b"x" * 50, KeyUsage.TICKET_BLOB)
    for at in range(len(made)):
        damaged = bytearray(made)
        damaged[at] ^= 0x40
        if kind == CRYPTO_AES256KRB5:  # has a hash; aes has none
            with pytest.raises(AuthError):
                k.decrypt_raw(bytes(damaged), KeyUsage.TICKET_BLOB)
    for n in [*range(40), 41]:
        with pytest.raises(AuthError):
            k.decrypt_raw(made[:n] if n % 16 or kind == CRYPTO_AES256KRB5 else b"", KeyUsage.TICKET_BLOB)


def test_the_proof_of_a_new_key_is_a_hash() -> None:
    k, challenges = key(CRYPTO_AES256KRB5), CephxChallengeBlob(1, 2)
    assert k.prove(challenges) == k.prove(challenges) != k.prove(CephxChallengeBlob(1, 3))


@pytest.mark.parametrize(("text", "kind", "length"), [(AES, "aes", 16), (AES256K, "aes256k", 32)])
def test_keys_in_base64(text: str, kind: str, length: int) -> None:
    k = CryptoKey.from_base64(f" {text}\n")
    k.check_usable()
    assert (k.type_name, len(k.secret)) == (kind, length)


@pytest.mark.parametrize(
    ("kind", "length", "errno", "message"),
    [
        (0, 0, 95, "type none"),
        (3, 16, 95, "type 3"),
        (999, 40, 95, "type 999"),
        (1, 15, 22, "aes"),
        (2, 31, 22, "aes256k"),
    ],
)
def test_other_keys_are_refused_by_name(kind: int, length: int, errno: int, message: str) -> None:
    k = CryptoKey(kind, Utime(0, 0), Secret(bytes(length)))
    for use in (k.check_usable, lambda: k.encrypt_raw(b"x", KeyUsage.AUTHORIZE), lambda: k.prove(Utime(0, 0))):
        with pytest.raises(AuthError, match=message) as e:
            use()
        assert e.value.errno == errno


@pytest.mark.parametrize(
    "text", ["", "x", "AAA", AES[:-1], AES[:8], AES + "AAAA", "AQ==", "é" * 40, AES.replace("Q", "!")]
)
def test_what_is_no_key(text: str) -> None:
    with pytest.raises(AuthError, match="not a cephx key") as e:
        CryptoKey.from_base64(text)
    assert e.value.errno == 22


def test_a_keyring_with_keys_of_both_types(tmp_path: Path) -> None:
    path = tmp_path / "keyring"
    path.write_text(
        f'[client.old]\n\tkey = {AES}\n\tcaps mon = "allow r"\n'
        f"[client.new]\n\tkey = {AES256K}\n\tpending key = {AES}\n"
        "[client.newer]\n\tkey = CQAAAAAAAAAAABAAAAAAAAAAAAAAAAAAAAAAAA==\n"
    )
    for name, expected in (("old", AES), ("new", AES256K)):
        config = Config(f"client.{name}", environ={}, defaults={"keyring": str(path)})
        assert find_key(config) == CryptoKey.from_base64(expected)
    newer = find_key(Config("client.newer", environ={}, defaults={"keyring": str(path)}))
    with pytest.raises(AuthError, match="type 9"):
        newer.check_usable()


@pytest.mark.skipif(shutil.which("ceph-authtool") is None, reason="ceph-authtool is not installed")
def test_a_keyring_that_ceph_authtool_wrote(tmp_path: Path) -> None:
    path = str(tmp_path / "keyring")
    subprocess.run(["ceph-authtool", "--create-keyring", path, "--gen-key", "-n", "client.x"], check=True)
    printed = subprocess.run(
        ["ceph-authtool", path, "-n", "client.x", "-p"], check=True, capture_output=True, text=True
    )
    assert find_key(Config("client.x", environ={}, defaults={"keyring": path})) == CryptoKey.from_base64(printed.stdout)


# ---------------------------------------------------------------- what does not show


def test_a_secret_is_not_shown() -> None:
    raw = bytes(range(65, 81))
    for secret in (Secret(raw), Secret(raw)[:8], Secret(raw)[4:], copy.copy(Secret(raw)), copy.deepcopy(Secret(raw))):
        for shown in (repr(secret), str(secret), f"{secret}", f"{secret!r:>40}", "{} {!r}".format(secret, [secret])):  # noqa: UP032
            assert "secret of" in shown and "E" not in shown
    assert Secret(raw) == raw and Secret(raw)[0] == 65 and bytes(Secret(raw)[2:4]) == b"CD"
    assert repr(SecretText("abc")) == "<secret of 3 characters>"
    for thing in (Secret(raw), SecretText("abc"), CryptoKey(1, Utime(0, 0), Secret(raw))):
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(thing)


@pytest.mark.parametrize("text", [AES[:-1], AES[:-4], AES + "=", AES256K[:-8], AES.replace("QB", "~!")])
def test_tracebacks_do_not_show_what_may_be_almost_a_key(tmp_path: Path, text: str) -> None:
    good = tmp_path / "good"
    good.write_text(f"[client.admin]\nkey = {text}\n[client.other]\nkey = {AES}\n")
    broken = tmp_path / "broken"
    broken.write_text(f"[client.admin]\nkey = {AES}\nthis is no option\n")
    keyfile = tmp_path / "keyfile"
    keyfile.write_text(text)
    for option, value in (("keyring", good), ("keyring", broken), ("keyfile", keyfile), ("key", text)):
        with pytest.raises((AuthError, ConfigError)) as e:
            find_key(Config(environ={}, defaults={option: str(value)}))
        shown = dumped(e.value)
        assert "find_key" in shown, "the local variables were looked at"
        assert text[10:30] not in shown and AES[10:30] not in shown


def test_tracebacks_do_not_show_keys_that_do_not_open_something() -> None:
    for kind in (1, 2):
        k = key(kind)
        for data in (b"", bytes(64), bytes(63)):
            with pytest.raises(AuthError) as e:
                k.decrypt(data, CephxAuthorize, KeyUsage.AUTHORIZE)
            shown = dumped(e.value)
            assert "decrypt:" in shown, "the local variables were looked at"
            assert k.secret.hex() not in shown and repr(bytes(k.secret))[2:12] not in shown


def test_a_keyring_that_cannot_be_parsed_says_where() -> None:
    with pytest.raises(ConfigError, match="ring, line 2") as e:
        parse_keyring(f"[client.admin]\nkey {AES[:30]}\n", "ring")
    assert e.value.errno == 5 and AES[:30] not in str(e.value)
