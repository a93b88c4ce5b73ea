"""Verifies an exported part of an audit chain from its file alone."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from app.monitoring.checkpoints import BadCheckpointFile, read_file
from app.monitoring.export import COLUMNS, FORMAT, PAGE, RECORD, parquet_modules
from app.monitoring.signing import KeyRing, canonical
from app.monitoring.verification import Verdict
from app.monitoring.verifying import CHECKPOINT, TOMBSTONE, Broken, ChainCheck, Fault

_FIELDS = {
    "header": (
        *("type", "format", "tenant_id", "from_seq", "to_seq", "since", "until", "at"),
        *("hash_before", "keys", "endorsements"),
    ),
    "record": ("type", *RECORD),
    "checkpoint": ("type", *CHECKPOINT),
    "tombstone": ("type", *TOMBSTONE),
    "end": (
        *("type", "tenant_id", "records", "seq", "hash", "sha256", "at"),
        "key_id",
        "signature",
    ),
}


def verify_export(
    path: Path, *, trusted: Sequence[bytes] = (), checkpoints: Path | None = None
) -> Verdict:
    """Verify an export, JSONL or Parquet, in constant memory.

    Args:
        trusted: public keys; without any, those that the file itself names are believed.
        checkpoints: a file of checkpoints that the records must agree with, as far as it
            speaks of them.
    """
    verdict = Verdict(tenants=1)
    try:
        _verify(path, trusted, checkpoints, verdict)
    except Broken as broken:
        verdict.faults.append(broken.fault)
    except _BadExport as bad:
        verdict.faults.append(Fault("-", 0, "export_damaged", str(bad)))
    except BadCheckpointFile as bad:
        verdict.faults.append(Fault("-", 0, "checkpoint_forged", str(bad)))
    return verdict


class _BadExport(Exception):
    """The file is no export, or no whole one."""


def _verify(
    path: Path, trusted: Sequence[bytes], checkpoints: Path | None, verdict: Verdict
) -> None:
    with path.open("rb") as stream:
        parquet = stream.read(4) == b"PAR1"
    lines = _parquet_lines(path) if parquet else _jsonl_lines(path)
    header = next(lines, None)
    if header is None or header["type"] != "header" or header["format"] != FORMAT:
        raise _BadExport("the file is no export of an audit log")
    ring = _ring(header, trusted)
    tenant_id, first = header["tenant_id"], header["from_seq"]
    check = ChainCheck(
        tenant_id,
        ring,
        first_seq=first,
        hash_before=header["hash_before"],
        all_checkpoints=first == 1,
        moving=True,
    )
    missing = _anchored(check, header, checkpoints)
    hashed, line = hashlib.sha256(), header
    while line["type"] != "end":
        hashed.update(canonical(line).encode() + b"\n")
        if line["type"] == "checkpoint":
            check.checkpoint(_signed(line))
            verdict.checkpoints += 1
            missing.pop(line["signature"], None)
        elif line["type"] == "tombstone":
            check.tombstone(_signed(line))
        elif line["type"] == "record":
            check.record(line)
        verdict.records = check.records
        following = next(lines, None)
        if following is None:
            raise _BadExport(f"{tenant_id}: the file ends after record {check.seq}, cut off")
        line = following
    check.end(line["seq"], line["hash"])
    for seq in missing.values():
        told = f"a checkpoint of record {seq} is not in the export"
        raise check.broken(seq, "checkpoint_missing", told)
    if not ring.holds("export", _signed(line)) or line["tenant_id"] != tenant_id:
        raise check.broken(line["seq"], "statement_forged", "the end of the file is not signed for")
    if (line["sha256"], line["records"]) != (hashed.hexdigest(), check.records):
        raise _BadExport(f"{tenant_id}: the file is not the one that was signed for")
    if next(lines, None) is not None:
        raise _BadExport(f"{tenant_id}: there is more after the end of the export")


def _ring(header: dict[str, Any], trusted: Sequence[bytes]) -> KeyRing:
    try:
        keys = trusted or [base64.b64decode(key) for key in header["keys"]]
        return KeyRing(keys, header["endorsements"])
    except (ValueError, TypeError):
        raise _BadExport("the export names keys that are none") from None


def _anchored(
    check: ChainCheck, header: dict[str, Any], checkpoints: Path | None
) -> dict[str, int]:
    """Give the check a file's checkpoints of the exported records; their seqs by signature."""
    found: dict[str, int] = {}
    if checkpoints is None:
        return found
    first, last, whole = header["from_seq"], header["to_seq"], header["until"] is None
    for each in read_file(checkpoints).get(check.tenant_id, []):
        # later ones speak of what the export could not have
        if first <= each["seq"] and (each["seq"] <= last or whole) and each["at"] <= header["at"]:
            check.anchor(each)
            found[each["signature"]] = each["seq"]
    return found


def _signed(line: dict[str, Any]) -> dict[str, Any]:
    """What was signed: the line without its type."""
    return {name: value for name, value in line.items() if name != "type"}


def _jsonl_lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as stream:
        for number, raw in enumerate(stream, 1):
            yield _line(raw, number)


def _line(raw: bytes | str, number: int) -> dict[str, Any]:
    try:
        line = orjson.loads(raw)
    except ValueError:
        raise _BadExport(f"line {number} of the export is no JSON") from None
    fields = _FIELDS.get(str(line.get("type"))) if isinstance(line, dict) else None
    if fields is None or set(line) != set(fields) or not _typed(line):
        raise _BadExport(f"line {number} of the export is not one of an audit log")
    found: dict[str, Any] = line
    return found


_WHOLE = ("seq", "from_seq", "to_seq", "number", "records")
_MAYBE = ("bodies", "record_sha256")
_OTHER = ("at", "keys", "endorsements")


def _typed(line: dict[str, Any]) -> bool:
    """Whether every value is of its type, so that a damaged one is told and breaks nothing."""
    for name, value in line.items():
        if name in _WHOLE:
            good = type(value) is int
        elif name in ("at", "since", "until"):
            good = isinstance(value, int | float) or (name != "at" and value is None)
        elif name in _OTHER:
            good = isinstance(value, list)
        else:
            good = isinstance(value, str) or (name in _MAYBE and value is None)
        if not good:
            return False
    return True


def _parquet_lines(path: Path) -> Iterator[dict[str, Any]]:
    pyarrow, parquet = parquet_modules()
    number = 0
    try:
        file = parquet.ParquetFile(path)
        for batch in file.iter_batches(batch_size=PAGE):
            for row in batch.to_pylist():
                number += 1
                yield _of_row(row, number)
    except (pyarrow.ArrowException, OSError):
        raise _BadExport(f"the Parquet file cannot be read after row {number}") from None


def _of_row(row: dict[str, Any], number: int) -> dict[str, Any]:
    if row.get("type") != "record":
        line = _line(row.get("line") or "", number)
        if line["type"] == "record" or any(row.get(n) is not None for n in (*COLUMNS, *RECORD)):
            raise _BadExport(f"row {number} of the export holds more than its line")
        return line
    line = {name: row.get(name) for name in ("type", *RECORD)}
    if not _typed(line) or row.get("line") is not None:
        raise _BadExport(f"row {number} of the export is no record")
    try:
        record = orjson.loads(line["record"])
    except ValueError:
        record = {}
    if any(record.get(name) != row.get(name) for name in COLUMNS):
        raise _BadExport(f"the columns of record {line['seq']} were changed")
    return line
