"""Tokens that stand for a value: the same for the same value, and some can be turned back.

A token is ``<TYPE:letters>``. Its letters are ``a`` to ``p``, four bits each, so that no token
looks like a number, an address or a key to the recognizers that see it again.
"""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from app.guardrails.findings import Finding, exchanged

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV

HASHED = 16  # letters of a hash: 64 bits
TOKEN = re.compile(r"<[A-Z][A-Z0-9_]{0,63}:(?:[a-p]{16}|[a-p]{34,})>")
_SEALED = re.compile(r"<([A-Z][A-Z0-9_]{0,63}):([a-p]{34,})>")
_TO_LETTERS = str.maketrans("0123456789abcdef", "abcdefghijklmnop")
_TO_HEX = str.maketrans("abcdefghijklmnop", "0123456789abcdef")


@dataclass(frozen=True, slots=True)
class Opened:
    """A text with its sealed tokens turned back, and where the values are in it."""

    text: str
    values: list[Finding]
    foreign: int  # tokens of another tenant or key, left as they are


class Tokens:
    """Makes the tokens of one tenant and turns the sealed ones back."""

    def __init__(self, key: bytes, tenant_id: str) -> None:
        self._key, self._tenant_id = key, tenant_id

    @property
    def _hashing(self) -> bytes:
        return _derived(self._key, "hash", self._tenant_id)

    @property
    def _sealing(self) -> bytes:
        return _derived(self._key, "seal", self._tenant_id)

    def hashed(self, entity: str, value: str) -> str:
        """A token that says which values are the same, and nothing else of them."""
        digest = hmac.digest(self._hashing, f"{entity}\0{value}".encode(), "sha256")
        return f"<{entity}:{_letters(digest)[:HASHED]}>"

    def sealed(self, entity: str, value: str) -> str:
        """A token that holds the value, encrypted (AES-SIV, RFC 5297: the same for the same)."""
        closed = _cipher(self._sealing).encrypt(value.encode(), [entity.encode()])
        return f"<{entity}:{_letters(closed)}>"

    @property
    def naming(self) -> bytes:
        """The secret from which surrogates are drawn."""
        return _derived(self._key, "name", self._tenant_id)

    def enclosed(self, data: bytes, of: str) -> bytes:
        """Data that only this tenant's key opens again, and only for what it belongs to."""
        return _cipher(_derived(self._key, "keep", self._tenant_id)).encrypt(data, [of.encode()])

    def disclosed(self, data: bytes, of: str) -> bytes:
        """What :meth:`enclosed` closed; raises InvalidTag for what is not its own."""
        return _cipher(_derived(self._key, "keep", self._tenant_id)).decrypt(data, [of.encode()])

    def open(self, text: str) -> Opened:
        """Turn back the sealed tokens that this tenant's key made."""
        from cryptography.exceptions import InvalidTag

        found, values, foreign = [], [], 0
        for match in _SEALED.finditer(text):
            entity, letters = match.groups()
            try:
                closed = bytes.fromhex(letters.translate(_TO_HEX))
                value = _cipher(self._sealing).decrypt(closed, [entity.encode()]).decode()
            except (InvalidTag, ValueError):
                foreign += 1
                continue
            found.append(Finding(entity, *match.span(), 1.0))
            values.append(value)
        return Opened(*exchanged(text, found, values), foreign)


@lru_cache(1024)
def _derived(key: bytes, purpose: str, tenant_id: str) -> bytes:
    """64 bytes for one purpose and tenant (HKDF's expansion step, RFC 5869)."""
    info = f"ostiary guardrails {purpose}\0{tenant_id}".encode()
    first = hmac.digest(key, info + b"\x01", "sha256")
    return first + hmac.digest(key, first + info + b"\x02", "sha256")


@lru_cache(1024)
def _cipher(key: bytes) -> AESSIV:
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV

    return AESSIV(key)


def _letters(data: bytes) -> str:
    return data.hex().translate(_TO_LETTERS)
