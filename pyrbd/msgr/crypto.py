"""Keys of cephx and what they encrypt (`src/auth/Crypto.cc`, `src/auth/cephx/CephxProtocol.h`).

Two types of keys are in use. ``aes`` is AES-128-CBC with a fixed IV. ``aes256k`` (squid 19.2.6,
tentacle 20.2.4) is the encryption type aes256-cts-hmac-sha384-192 of Kerberos (RFC 8009): each
kind of message has its *key usage*, from which an encryption and an integrity key are derived;
a random block goes before the plaintext, and a hash over the ciphertext comes after it.

What is encrypted is {u8 1, u64 magic, value}.

Secrets are :class:`Secret`, whose `repr` shows its length only: tools that print the local
variables of a traceback (faulthandlers, pytest) print no key.
"""

import binascii
import hashlib
import hmac
import os
import struct as _struct
from enum import IntEnum
from typing import Annotated, Any, NoReturn, SupportsIndex, TypeVar, overload

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from ..denc import Decoder, Encoder, Struct, WireType, u16
from ..errors import AuthError, DecodeError
from .types import Utime

CRYPTO_NONE = 0
CRYPTO_AES = 1
CRYPTO_AES256KRB5 = 2

KEY_TYPE_NAMES = {CRYPTO_NONE: "none", CRYPTO_AES: "aes", CRYPTO_AES256KRB5: "aes256k"}

_KEY_LENGTHS = {CRYPTO_AES: 16, CRYPTO_AES256KRB5: 32}
_MAGIC = 0xFF009CAD8826AA55
_IV = b"cephsageyudagreg"
_BLOCK = 16
_HASH = 24
_ZERO = bytes(_BLOCK)
PREFIX = _struct.pack("<BQ", 1, _MAGIC)
WRONG_KEY = "the key is not the one that the cluster knows"


class KeyUsage(IntEnum):
    """CEPHX_KEY_USAGE_*: what a key of type aes256k is used for; ``aes`` makes no difference."""

    AUTH_CONNECTION_SECRET = 0x03
    TICKET_SESSION_KEY = 0x04
    TICKET_BLOB = 0x05
    AUTHORIZE = 0x10
    AUTHORIZE_CHALLENGE = 0x11
    AUTHORIZE_REPLY = 0x12


class Secret(bytes):
    """Bytes that are not shown, and not pickled."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<secret of {len(self)} bytes>"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    @overload
    def __getitem__(self, key: SupportsIndex, /) -> int: ...
    @overload
    def __getitem__(self, key: "slice[Any, Any, Any]", /) -> "Secret": ...
    def __getitem__(self, key: "SupportsIndex | slice[Any, Any, Any]", /) -> "int | Secret":
        part = super().__getitem__(key)
        return Secret(part) if isinstance(part, bytes) else part

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a secret is not pickled")

    def __copy__(self) -> "Secret":
        return self

    def __deepcopy__(self, memo: object) -> "Secret":
        return self


class SecretText(str):
    """As :class:`Secret`, for a key in base64."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<secret of {len(self)} characters>"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a secret is not pickled")


class _SecretBlob(WireType):
    min_size = 4

    def decode(self, d: Decoder) -> Secret:
        return Secret(d.blob())

    def encode(self, e: Encoder, v: Secret) -> None:
        e.blob(v)


secret_blob = Annotated[Secret, _SecretBlob()]

S = TypeVar("S", bound=Struct)
_StructType = type[S]  # CryptoKey has a field `type`


class CryptoKey(Struct, secret=("secret",)):
    """CryptoKey: a secret and how it is used."""

    type: u16
    created: Utime
    secret: Secret

    @classmethod
    def wire_min_size(cls) -> int:
        return 12

    @classmethod
    def decode(cls, d: Decoder) -> "CryptoKey":
        kind = d.u16()
        created = Utime.decode(d)
        return cls(kind, created, Secret(d.raw(d.u16())))

    def encode(self, e: Encoder) -> None:
        e.u16(self.type)
        self.created.encode(e)
        e.u16(len(self.secret))
        e.raw(self.secret)

    @classmethod
    def from_base64(cls, text: str) -> "CryptoKey":
        """The key as a keyring writes it.

        Raises:
            AuthError: EINVAL; the text itself is not part of the message, nor of the traceback.
        """
        text = SecretText(text.strip())
        try:
            raw = Secret(binascii.a2b_base64(text))
            # a2b_base64 skips what is not base64
            key = cls.from_bytes(raw) if binascii.b2a_base64(raw, newline=False) == text.encode() else None
        except (ValueError, DecodeError):
            key = None
        if key is None:
            raise AuthError("the key is not a cephx key in base64", errno=22)
        return key

    @property
    def type_name(self) -> str:
        """``aes`` or ``aes256k``; the number of a type that is not known."""
        return KEY_TYPE_NAMES.get(self.type, str(self.type))

    def check_usable(self) -> None:
        """Refuses, by name, a key whose cipher is not spoken here.

        Raises:
            AuthError: EOPNOTSUPP, or EINVAL for one that is too short.
        """
        length = _KEY_LENGTHS.get(self.type)
        if length is None:
            raise AuthError(
                f"the key is of type {self.type_name}, which is not spoken here",
                errno=95,
                hint=f"keys of the types {' and '.join(KEY_TYPE_NAMES[t] for t in _KEY_LENGTHS)} can be used",
            )
        if len(self.secret) < length:
            raise AuthError(
                f"the key is of type {self.type_name}, and has {len(self.secret)} bytes of {length}", errno=22
            )

    def encrypt_raw(self, plain: bytes, usage: KeyUsage) -> bytes:
        self.check_usable()
        if self.type == CRYPTO_AES:
            return _aes_encrypt(self.secret, plain)
        return krb5_encrypt(self.secret, usage, random_bytes(_BLOCK), plain)

    def decrypt_raw(self, data: bytes, usage: KeyUsage) -> Secret:
        """Raises AuthError when it was not encrypted with this key, for this usage."""
        self.check_usable()
        if self.type == CRYPTO_AES:
            return _aes_decrypt(self.secret, data)
        return krb5_decrypt(self.secret, usage, data)

    def encrypt(self, value: Struct, usage: KeyUsage) -> bytes:
        """The ciphertext of `value` with cephx's magic before it."""
        e = Encoder()
        e.raw(PREFIX)
        value.encode(e)
        return self.encrypt_raw(Secret(e.buf), usage)

    def decrypt(self, data: bytes, cls: "_StructType[S]", usage: KeyUsage) -> S:
        plain = self.decrypt_raw(data, usage)
        if not plain.startswith(PREFIX):
            raise AuthError("cephx: cannot decrypt", hint=WRONG_KEY)
        return cls.decode(Decoder(plain, len(PREFIX)))

    def prove(self, challenges: Struct) -> int:
        """cephx_calc_client_server_challenge: what only who has the key can make of the two
        challenges, folded to 64 bits by XOR.

        Of an ``aes`` key, it is the ciphertext with its length before it, without the bytes that
        are no whole word at its end. An ``aes256k`` key never encrypts twice to the same.
        """
        self.check_usable()
        if self.type == CRYPTO_AES:
            data = _aes_encrypt(self.secret, PREFIX + challenges.to_bytes())
            data = _struct.pack("<I", len(data)) + data
        else:
            data = hmac.new(self.secret, challenges.to_bytes(), hashlib.sha256).digest()
        result = 0
        for i in range(0, len(data) - 7, 8):
            result ^= int.from_bytes(data[i : i + 8], "little")
        return result


def random_bytes(n: int) -> bytes:
    """What must not be guessed; recorded sessions put the recorded bytes here."""
    return os.urandom(n)


def random_u64() -> int:
    return int.from_bytes(random_bytes(8), "little")


# ---------------------------------------------------------------- aes


def _aes_encrypt(secret: Secret, plain: bytes) -> bytes:
    pad = _BLOCK - len(plain) % _BLOCK
    return _cbc_encrypt(secret[:16], _IV, Secret(plain + bytes([pad]) * pad))


def _aes_decrypt(secret: Secret, data: bytes) -> Secret:
    if not data or len(data) % _BLOCK:
        raise AuthError(f"cephx: {len(data)} encrypted bytes are not whole blocks")
    plain = _cbc_decrypt(secret[:16], _IV, data)
    pad = plain[-1]
    if not 1 <= pad <= _BLOCK:
        raise AuthError("cephx: cannot decrypt", hint=WRONG_KEY)
    return plain[:-pad]


def _cbc_encrypt(key: Secret, iv: bytes, plain: bytes) -> bytes:
    enc = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
    return enc.update(plain) + enc.finalize()


def _cbc_decrypt(key: Secret, iv: bytes, data: bytes) -> Secret:
    dec = Cipher(algorithms.AES(key), modes.CBC(iv)).decryptor()
    return Secret(dec.update(data) + dec.finalize())


# ---------------------------------------------------------------- aes256k


def krb5_derive(secret: Secret, usage: int, kind: int, length: int) -> Secret:
    """KDF-HMAC-SHA2 of RFC 8009, section 3, of aes256-cts-hmac-sha384-192: `kind` 0xAA is the
    encryption key, 0x55 the integrity key; `length` in bytes."""
    label = _struct.pack(">IIBBI", 1, usage, kind, 0, length * 8)
    return Secret(hmac.new(secret, label, hashlib.sha384).digest()[:length])


def krb5_encrypt(secret: Secret, usage: int, confounder: bytes, plain: bytes) -> bytes:
    """RFC 8009, section 5: E(confounder | plain) | HMAC(IV | E(...)), the IV being zero."""
    data = _cts_encrypt(krb5_derive(secret, usage, 0xAA, 32), Secret(confounder + plain))
    return data + _krb5_hash(secret, usage, data)


def krb5_decrypt(secret: Secret, usage: int, data: bytes) -> Secret:
    """The plaintext. Raises AuthError for what was not encrypted with this key for this usage."""
    if len(data) < _BLOCK + _HASH:
        raise AuthError(f"cephx: {len(data)} encrypted bytes are too few")
    body = data[:-_HASH]
    if not hmac.compare_digest(data[-_HASH:], _krb5_hash(secret, usage, body)):
        raise AuthError("cephx: cannot decrypt", hint=WRONG_KEY)
    return _cts_decrypt(krb5_derive(secret, usage, 0xAA, 32), body)[_BLOCK:]


def _krb5_hash(secret: Secret, usage: int, data: bytes) -> bytes:
    key = krb5_derive(secret, usage, 0x55, _HASH)
    return hmac.new(key, _ZERO + data, hashlib.sha384).digest()[:_HASH]


def _cts_encrypt(key: Secret, plain: Secret) -> bytes:
    """CBC with ciphertext stealing (CS3): the last two blocks change places, and what would be
    padding is cut off; one block alone is CBC."""
    n = len(plain)
    tail = n % _BLOCK or _BLOCK
    whole = _cbc_encrypt(key, _ZERO, plain + bytes(-n % _BLOCK))
    if n <= _BLOCK:
        return whole
    return whole[: -2 * _BLOCK] + whole[-_BLOCK:] + whole[-2 * _BLOCK : -_BLOCK][:tail]


def _cts_decrypt(key: Secret, data: bytes) -> Secret:
    n = len(data)
    if n <= _BLOCK:
        return _cbc_decrypt(key, _ZERO, data)
    tail = n % _BLOCK or _BLOCK
    head, last, stolen = data[: n - _BLOCK - tail], data[n - _BLOCK - tail : n - tail], data[n - tail :]
    # the last block decrypts to the padded plaintext XOR its predecessor, so its end is what was cut off
    rest = _cbc_decrypt(key, _ZERO, last)[tail:]
    return _cbc_decrypt(key, _ZERO, head + stolen + rest + last)[:n]
