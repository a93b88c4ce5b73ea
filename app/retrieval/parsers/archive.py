"""Proves that a zipped document is safe to unpack before any reader opens it."""

from __future__ import annotations

import zipfile
from pathlib import Path

from app.retrieval.parsers.block import DocumentError, corrupt

MAX_UNPACKED_BYTES = 200 * 1024 * 1024
MAX_RATIO = 100
MAX_ENTRIES = 10_000
# Below this size a high ratio harms nobody: short XML compresses very well.
RATIO_FLOOR_BYTES = 1024 * 1024
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_ENCRYPTED_PACKAGE = "EncryptedPackage".encode("utf-16-le")


def check_archive(path: Path, filename: str, what: str, suffix: str) -> None:
    """Refuse an archive that would unpack to far more than it weighs.

    The sizes the archive declares are checked first, then every entry is unpacked in small
    pieces and counted, because declared sizes can lie. ``what`` names the document, as in
    "Word document"; ``suffix`` is the format to save it in.

    Raises:
        DocumentError: ``zip_bomb``, ``encrypted_file`` or ``corrupt_file``.
    """
    remedy = f"Save it again as {suffix} and upload that copy."
    _check_old_format(path, filename, what, remedy)
    limit = min(MAX_UNPACKED_BYTES, max(RATIO_FLOOR_BYTES, MAX_RATIO * path.stat().st_size))
    bomb = DocumentError(
        "zip_bomb",
        f"'{filename}' unpacks to more than {MAX_UNPACKED_BYTES // 2**20} MB or over {MAX_RATIO} "
        "times its size. Remove embedded media or save a fresh copy, and upload that.",
    )
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            declared = sum(entry.file_size for entry in entries)
            if len(entries) > MAX_ENTRIES or declared > limit:
                raise bomb
            actual = 0
            for entry in entries:
                with archive.open(entry) as stream:
                    while piece := stream.read(1 << 16):
                        actual += len(piece)
                        if actual > limit:
                            raise bomb
    except DocumentError:
        raise
    except Exception as error:  # zipfile and zlib meet malformed input with errors of many types
        raise corrupt(filename, what, remedy) from error


def _check_old_format(path: Path, filename: str, what: str, remedy: str) -> None:
    """A document with a password, or of the formats before 2007, is an OLE file, no archive."""
    with path.open("rb") as file:
        if file.read(8) != _OLE:
            return
        before = b""
        while piece := file.read(1 << 20):
            if _ENCRYPTED_PACKAGE in before + piece:
                raise DocumentError(
                    "encrypted_file",
                    f"'{filename}' is protected by a password. Remove the password and upload it "
                    "again.",
                )
            before = piece[-len(_ENCRYPTED_PACKAGE) :]
    raise corrupt(filename, what, f"It is of an older format. {remedy}")
