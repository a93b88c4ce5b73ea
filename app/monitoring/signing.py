"""The keys that sign what the audit log states about itself, and which of them are trusted."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from sqlalchemy import Connection, select

from app.store.db import Database
from app.store.durable import make_secret, secret_draft, settle
from app.store.models_audit import audit_endorsements, audit_keys

_DOMAIN = b"ostiary-audit-1\n"  # a signature for the audit log is one for nothing else
_PEM = re.compile(rb"-----BEGIN [A-Z ]+-----.+?-----END [A-Z ]+-----\s*", re.DOTALL)


class BadKeyFile(ValueError):
    """A key file that cannot be used; the message tells its operator what to do."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """One Ed25519 key; its id is the beginning of the SHA-256 of the public half."""

    id: str
    public: bytes
    private: Ed25519PrivateKey

    def sign(self, kind: str, statement: Mapping[str, Any]) -> str:
        """The signature of a statement, base64; its ``key_id`` must be this key's."""
        return base64.b64encode(self.private.sign(_message(kind, statement))).decode()


def canonical(value: Mapping[str, Any]) -> str:
    """JSON with sorted keys and no spaces: the same bytes for the same value."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def key_id_of(public: bytes) -> str:
    """The id of a public key."""
    return hashlib.sha256(public).hexdigest()[:16]


def pem_of(public: bytes) -> str:
    """A public key as text that other tools read."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    key = Ed25519PublicKey.from_public_bytes(public)
    return key.public_bytes(serialization.Encoding.PEM, form).decode()


def public_keys(path: Path) -> list[bytes]:
    """The public keys of a PEM file, which may hold private keys too.

    Raises:
        BadKeyFile: the file cannot be read, or holds something else.
    """
    return [_public(block) for block in _blocks(path)]


def signing_keys(path: Path) -> list[SigningKey]:
    """The private keys of a PEM file; the first one signs.

    Raises:
        BadKeyFile: the file cannot be read, or holds something else.
    """
    found = []
    for block in _blocks(path):
        try:
            private = serialization.load_pem_private_key(block, None)
        except (ValueError, TypeError):
            raise _unusable(path) from None
        if not isinstance(private, Ed25519PrivateKey):
            raise _unusable(path)
        public = private.public_key().public_bytes_raw()
        found.append(SigningKey(key_id_of(public), public, private))
    return found


def _blocks(path: Path) -> list[bytes]:
    try:
        blocks = _PEM.findall(path.read_bytes())
    except OSError:
        raise _unusable(path) from None
    if not blocks:
        raise _unusable(path)
    return list(blocks)


def _public(block: bytes) -> bytes:
    with contextlib.suppress(ValueError, TypeError):
        if b"PRIVATE" in block:
            private = serialization.load_pem_private_key(block, None)
            if isinstance(private, Ed25519PrivateKey):
                return private.public_key().public_bytes_raw()
        else:
            public = serialization.load_pem_public_key(block)
            if isinstance(public, Ed25519PublicKey):
                return public.public_bytes_raw()
    raise BadKeyFile("The file of keys holds something else than Ed25519 keys in PEM.")


def _unusable(path: Path) -> BadKeyFile:
    return BadKeyFile(
        f"The audit log's key file '{path.name}' cannot be read, or holds no Ed25519 private key "
        "in PEM. Mend it, or take the setting away so that a key is made."
    )


def _new_block() -> bytes:
    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def make_key_file(path: Path) -> None:
    """Make a key file unless there is one, also when two gateways start at once."""
    if path.exists():
        return
    make_secret(path, _new_block())


def rotate(path: Path) -> str:
    """Put a new key before the others of a file, which then are only trusted; returns its id."""
    old = path.read_bytes()
    signing_keys(path)  # what cannot be read is left as it is
    settle(secret_draft(path, _new_block() + old), path)
    return signing_keys(path)[0].id


class KeyRing:
    """The public keys that are trusted: those given, and those that a trusted one endorsed."""

    def __init__(
        self, trusted: Iterable[bytes], endorsements: Iterable[Mapping[str, Any]] = ()
    ) -> None:
        self._keys = {key_id_of(p): Ed25519PublicKey.from_public_bytes(p) for p in trusted}
        waiting, before = list(endorsements), -1
        while len(self._keys) > before:  # an endorsed one may endorse others
            before = len(self._keys)
            for each in waiting:
                if isinstance(each, Mapping) and self.holds("endorsement", each):
                    public = base64.b64decode(each["public_key"])
                    self._keys.setdefault(
                        key_id_of(public), Ed25519PublicKey.from_public_bytes(public)
                    )

    @property
    def ids(self) -> list[str]:
        """The ids of the trusted keys."""
        return sorted(self._keys)

    def holds(self, kind: str, signed: Mapping[str, Any]) -> bool:
        """Whether a statement with its ``key_id`` and ``signature`` is signed by a trusted key."""
        key = self._keys.get(str(signed.get("key_id")))
        if key is None:
            return False
        # names of columns are a kind of str that JSON does not take
        statement = {str(name): value for name, value in signed.items() if name != "signature"}
        try:
            signature = base64.b64decode(str(signed["signature"]), validate=True)
            if base64.b64encode(signature).decode() != signed["signature"]:
                return False  # two texts for one signature
            key.verify(signature, _message(kind, statement))
        except (InvalidSignature, ValueError, KeyError, TypeError):
            return False
        return True


def _message(kind: str, statement: Mapping[str, Any]) -> bytes:
    return _DOMAIN + kind.encode() + b"\n" + canonical(statement).encode()


class AuditKeys:
    """The keys of one gateway, read from its key file, again when that has changed.

    Args:
        further: a file of keys that are trusted too, as those of other gateways.

    Raises:
        BadKeyFile: the file of further keys cannot be used.
    """

    def __init__(self, db: Database, path: Path, further: Path | None = None) -> None:
        self._db, self._path = db, path
        self._further = public_keys(further) if further is not None else []
        self._keys: list[SigningKey] = []
        self._read_at: tuple[int, int] | None = None

    def refresh(self) -> None:
        """Read the file if it is new, and publish what is in it; blocking.

        Raises:
            BadKeyFile: the file cannot be used.
        """
        try:
            found = self._path.stat()
        except OSError:
            raise _unusable(self._path) from None
        if (found.st_mtime_ns, found.st_ino) == self._read_at:
            return
        keys = signing_keys(self._path)
        with self._db.sync_engine.connect() as connection:
            connection = connection.execution_options(ostiary_write=True)
            with connection.begin():
                self._publish(connection, keys)
        self._keys, self._read_at = keys, (found.st_mtime_ns, found.st_ino)

    def _publish(self, connection: Connection, keys: list[SigningKey]) -> None:
        """Keep the public keys; each of the file signs each other of it."""
        now = time.time()
        for key in keys:
            shown = base64.b64encode(key.public).decode()
            new = self._db.insert(audit_keys).values(id=key.id, public_key=shown, at=now)
            connection.execute(new.on_conflict_do_nothing())
            for other in keys:
                if other.id == key.id:
                    continue
                stated: dict[str, Any] = {
                    "key_id": other.id,
                    "endorsed": key.id,
                    "public_key": shown,
                    "at": now,
                }
                stated["signature"] = other.sign("endorsement", stated)
                connection.execute(
                    self._db.insert(audit_endorsements).values(stated).on_conflict_do_nothing()
                )

    @property
    def current(self) -> SigningKey:
        """The key that signs."""
        return self._keys[0]

    @property
    def trusted(self) -> list[bytes]:
        """The public keys of the file, and the further ones."""
        return [*(key.public for key in self._keys), *self._further]

    def known(self) -> list[dict[str, Any]]:
        """The public keys that have signed in the database; blocking."""
        with self._db.sync_engine.connect() as connection:
            return known_keys(connection)

    def signed(self, kind: str, statement: Mapping[str, Any]) -> dict[str, Any]:
        """A statement with the id of the key that signs it, and the signature."""
        key = self.current
        stated = {**statement, "key_id": key.id}
        return {**stated, "signature": key.sign(kind, stated)}


def endorsements_of(connection: Connection) -> list[dict[str, Any]]:
    """Who trusts which key, as the database has it; worth what the signatures are."""
    rows = connection.execute(select(audit_endorsements)).mappings()
    return [dict(row) for row in rows]


def known_keys(connection: Connection) -> list[dict[str, Any]]:
    """The public keys that have signed here, as the database has it, oldest first."""
    rows = connection.execute(select(audit_keys).order_by(audit_keys.c.at, audit_keys.c.id))
    return [dict(row) for row in rows.mappings()]
