"""Reads CSV and JSON into lines of the form ``name: value``."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

from app.retrieval.parsers.block import Block, DocumentError, decode


def parse_csv(data: bytes, filename: str) -> list[Block]:
    """Return one block a row; the first row names the columns.

    Raises:
        DocumentError: ``corrupt_file``.
    """
    text = decode(data, filename)
    try:
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text, filename))
        header = [name.strip() for name in next(rows, [])]
        blocks = [
            Block("\n".join(_pairs(header, row)), None, None, "table")
            for row in rows
            if any(value.strip() for value in row)
        ]
    except csv.Error as error:
        raise DocumentError(
            "corrupt_file", f"'{filename}' is not a readable CSV: {error}. Save it again as CSV."
        ) from error
    if not blocks and any(header):
        return [Block(", ".join(header), None, None, "table")]
    return blocks


def _delimiter(text: str, filename: str) -> str:
    if filename.lower().endswith(".tsv"):
        return "\t"
    first = text.split("\n", 1)[0]
    return max(",;\t|", key=first.count)


def _pairs(header: list[str], row: list[str]) -> Iterator[str]:
    for index, value in enumerate(row):
        if value.strip():
            name = header[index] if index < len(header) and header[index] else f"column {index + 1}"
            yield f"{name}: {' '.join(value.split())}"


def parse_json(data: bytes, filename: str) -> list[Block]:
    """Return one block a record: a JSON line, an array item, or a top-level key.

    Raises:
        DocumentError: ``corrupt_file``, naming the line.
    """
    text = decode(data, filename)
    if filename.lower().endswith((".jsonl", ".ndjson")):
        records = [
            _load(line, filename, number)
            for number, line in enumerate(text.split("\n"), start=1)
            if line.strip()
        ]
        return [_record(record, "") for record in records]
    if not text.strip():
        return []
    value = _load(text, filename, None)
    if isinstance(value, list):
        return [_record(item, "") for item in value]
    if isinstance(value, dict):
        return [_record(item, key) for key, item in value.items()]
    return [_record(value, "")]


def _load(text: str, filename: str, line: int | None) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        where = getattr(error, "lineno", 1) if line is None else line
        raise DocumentError(
            "corrupt_file",
            f"'{filename}' is not valid JSON at line {where}. Correct it and upload it again.",
        ) from error


def _record(value: Any, path: str) -> Block:
    return Block("\n".join(_flatten(value, path)), None, None, "table")


def _flatten(value: Any, path: str) -> Iterator[str]:
    stack: list[tuple[str, Any]] = [(path, value)]
    while stack:
        where, item = stack.pop()
        if isinstance(item, dict):
            pairs = [
                (f"{where}.{key}" if where else str(key), child) for key, child in item.items()
            ]
            stack.extend(reversed(pairs))
        elif isinstance(item, list):
            stack.extend(reversed([(f"{where}[{i}]", child) for i, child in enumerate(item)]))
        elif item is not None and item != "":
            shown = item if isinstance(item, str) else json.dumps(item)
            yield f"{where}: {shown}" if where else shown
