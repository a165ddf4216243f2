"""Sealing: values encrypted and authenticated before they reach a store or a file. It knows bytes, not keys or sessions.

AES-256-GCM (NIST SP 800-38D). A sealed value is 0x01, 4 bytes that name the key, a nonce of 12 random bytes, and the ciphertext with
its tag of 16. The session's locator and the key's name are authenticated with it, so that no value can be moved to another place.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from hashlib import sha256
from typing import final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from typing_extensions import Self, override

from .codecs import DecodeRefused
from .declared import unfinished_too
from .errors import PolicyError

KEY_BYTES = 32
_FORMAT = b"\x01"
_ID_BYTES = 4
_NONCE_BYTES = 12
_HEAD_BYTES = len(_FORMAT) + _ID_BYTES + _NONCE_BYTES


@final
class SealingKeys:
    """Keys of 32 random bytes: the first one seals, all of them open.

    To rotate while several processes run, put the new key *behind* the old one, `[old, new]`, and restart every process; then in front,
    `[new, old]`, and restart every process again. In one step, a process that is not restarted yet cannot read what the restarted ones
    write, and overwrites it. Keep the old key for as long as values sealed with it may live, or until `typed-sessions reseal` is done.
    Rotate before one key has sealed 2**32 values (NIST SP 800-38D 8.3): each write counts, so at 100 a second once a year.
    `read_plain=True` also accepts values that are not sealed, for the time in which a store is changed over; otherwise such a value counts
    as absent. A manager without `seal=` reads nothing that is sealed, so processes that begin to seal are restarted all at once.
    Raises `PolicyError` for anything but keys of 32 bytes.
    """

    __slots__ = ("_by_id", "_first", "_keys", "read_plain")

    def __init__(self, keys: Sequence[bytes], *, read_plain: bool = False) -> None:
        if isinstance(keys, (bytes, bytearray, str)) or not keys:
            del keys  # a report may show the locals of this frame, and it may be a key, in another form
            raise PolicyError("SealingKeys: expected a sequence of one or more keys, [os.urandom(32)], the one that seals first")
        for number, key in enumerate(keys):
            if not isinstance(key, bytes) or len(key) != KEY_BYTES:
                what = f"{len(key)} bytes" if isinstance(key, bytes) else type(key).__name__
                del keys, key  # as above
                raise PolicyError(
                    f"SealingKeys: key {number} is {what}; expected {KEY_BYTES} random bytes, as os.urandom({KEY_BYTES}) gives"
                )
        if len(set(keys)) != len(keys):
            keys, key = (), b""
            raise PolicyError("SealingKeys: the same key stands there twice")
        self._keys = tuple(keys)
        self._by_id = {_id(key): AESGCM(key) for key in reversed(self._keys)}
        self._first = _id(self._keys[0])
        self.read_plain: bool = read_plain

    @classmethod
    def generate(cls) -> Self:
        """One new key, for this process. Values sealed with it cannot be read after a restart unless `keys` is kept somewhere safe."""
        return cls([os.urandom(KEY_BYTES)])

    @property
    def keys(self) -> Sequence[bytes]:
        """The keys themselves, to be kept somewhere safe."""
        return self._keys

    def seal(self, locator: bytes, name: str, value: bytes) -> bytes:
        """The sealed form of one value of one session."""
        nonce = os.urandom(_NONCE_BYTES)
        return _FORMAT + self._first + nonce + self._by_id[self._first].encrypt(nonce, value, _context(locator, name))

    def is_current(self, sealed: bytes) -> bool:
        """Whether it says that it was sealed with the first key; only `open` proves it."""
        return sealed[: len(_FORMAT) + _ID_BYTES] == _FORMAT + self._first

    def open(self, locator: bytes, name: str, sealed: bytes) -> bytes:
        """The value. Raises `DecodeRefused` if it is of another session or name, of an unknown key, or changed."""
        cipher = self._by_id.get(sealed[1 : 1 + _ID_BYTES])
        if sealed[:1] != _FORMAT or len(sealed) < _HEAD_BYTES or cipher is None:
            raise DecodeRefused("it is sealed with a key that is not among SealingKeys")
        try:
            return cipher.decrypt(sealed[1 + _ID_BYTES : _HEAD_BYTES], sealed[_HEAD_BYTES:], _context(locator, name))
        except InvalidTag:
            raise DecodeRefused("its seal is broken: the bytes, the session or the key's name are not those it was sealed with") from None

    @override
    @unfinished_too
    def __repr__(self) -> str:
        return f"<SealingKeys, {len(self._keys)} keys>"


def unsealed(seal: SealingKeys | None, locator: bytes, name: str, value: bytes, is_sealed: bool) -> bytes:
    """A stored value as its key's codec made it. Raises `DecodeRefused` if `seal`, or having none, does not open it."""
    if is_sealed:
        if seal is None:
            raise DecodeRefused("it is sealed, and this manager has no seal=")
        return seal.open(locator, name, value)
    if seal is not None and not seal.read_plain:
        # Otherwise whoever can write to the store could plant a plain value (X6).
        raise DecodeRefused("it is not sealed; SealingKeys(..., read_plain=True) reads such values while a store is being sealed")
    return value


def _id(key: bytes) -> bytes:
    return sha256(b"typed_sessions sealing key" + key).digest()[:_ID_BYTES]


def _context(locator: bytes, name: str) -> bytes:
    return locator + name.encode("utf-8", "surrogatepass")
