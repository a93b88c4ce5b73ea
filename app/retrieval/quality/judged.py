"""Questions whose right documents or passages are known, read from the formats in use.

- our own: a JSONL file, or a folder of them; one object a line with ``question`` and either
  ``judged`` (``[{"file", "quote", "grade"}]``, quote and grade may be left out) or ``file`` or
  ``files`` with an optional ``quote``. ``"unit": "document"`` says that any passage of a judged
  file answers, and its quotes only show why. A line with ``"answerable": false`` is left out.
- BEIR: a folder with ``queries.jsonl`` and ``qrels/<split>.tsv``.
- TREC: a folder with one file whose name has ``topics`` and one whose name has ``qrels``.
- Cranfield: a folder with ``cran.qry`` and ``cranqrel``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from app.errors import BadRequest

SPLITS = ("test", "dev", "train")
_TOPIC = re.compile(r"<top>(.*?)(?:</top>|(?=<top>)|\Z)", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(r"<(num|title)>\s*(?:Number:|Topic:)?\s*(.*?)\s*(?=<|\Z)", re.DOTALL | re.I)


@dataclass(frozen=True, slots=True)
class Judgement:
    """A document that answers, or the passage of it that holds ``quote``; grade 0 does not."""

    file: str
    quote: str | None = None
    grade: int = 1


@dataclass(frozen=True, slots=True)
class JudgedQuery:
    """One question with all that was judged for it; ``kind`` groups questions in reports."""

    id: str
    text: str
    judged: tuple[Judgement, ...]
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a test collection that comes with its documents."""

    id: str
    title: str
    text: str


def load(path: Path) -> list[JudgedQuery]:
    """Read judged questions; the format is told by the files that are there.

    Questions without a relevant judgement are left out, since no ranking could be right.

    Raises:
        BadRequest: nothing is there, the format is not known, or a line is malformed.
    """
    if not path.exists():
        raise BadRequest(f"There is no judged set at '{path.name}'. Check the path.")
    try:
        found = list(_read(path))
    except UnicodeDecodeError as error:
        raise BadRequest(f"'{path.name}' is not UTF-8 text. Convert it and try again.") from error
    except OSError as error:
        raise BadRequest(
            f"'{path.name}' cannot be read ({error.strerror}). Check its permissions."
        ) from error
    kept = [q for q in found if q.text.strip() and any(j.grade > 0 for j in q.judged)]
    if not kept:
        raise BadRequest(f"'{path.name}' holds no question with a relevant document.")
    ids = [q.id for q in kept]
    if len(set(ids)) != len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise BadRequest(f"'{path.name}' has the question id '{twice}' twice; make ids unique.")
    return kept


def load_documents(path: Path) -> Iterator[Document]:
    """The documents that come with judged questions in BEIR or Cranfield format.

    Raises:
        BadRequest: the folder holds no documents.
    """
    if (path / "corpus.jsonl").is_file():
        for place, item in read_objects(path / "corpus.jsonl"):
            id_ = str(_field(item, "_id", place))
            yield Document(id_, str(item.get("title") or ""), str(item.get("text") or ""))
    elif (path / "cran.all.1400").is_file():
        for id_, parts in _cranfield_records(path / "cran.all.1400"):
            yield Document(id_, parts.get("T", ""), parts.get("W", ""))
    else:
        raise BadRequest(
            f"'{path.name}' holds no documents: neither corpus.jsonl nor cran.all.1400 is there."
        )


def _read(path: Path) -> Iterator[JudgedQuery]:
    if path.is_file():
        yield from _own(path)
    elif (path / "queries.jsonl").is_file():
        yield from _beir(path)
    elif (path / "cran.qry").is_file():
        yield from _cranfield(path)
    elif topics := _named(path, "topics"):
        yield from _trec(topics, path)
    elif files := sorted(path.glob("*.jsonl")):
        for file in files:
            yield from _own(file)
    else:
        raise BadRequest(
            f"'{path.name}' is no judged set. Give a JSONL file, or a folder in BEIR "
            "(queries.jsonl, qrels/), TREC (topics…, qrels…) or Cranfield (cran.qry) format."
        )


def read_objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line's object of a JSONL file, with its place for messages.

    Raises:
        BadRequest: a line is no JSON object.
    """
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            place = f"line {number} of '{path.name}'"
            try:
                item = json.loads(line)
            except ValueError as error:
                raise BadRequest(f"{place} is not JSON. Write one object a line.") from error
            if not isinstance(item, dict):
                raise BadRequest(f"{place} is not a JSON object. Write one object a line.")
            yield place, item


def _field(item: dict[str, Any], name: str, place: str) -> Any:
    value = item.get(name)
    if value is None or value == "":
        raise BadRequest(f"{place} has no '{name}'.")
    return value


def _grade(value: Any, place: str) -> int:
    try:
        grade = int(value)
    except (TypeError, ValueError):
        grade = -1
    # the gain grows as 2**grade; judgements of pools go to 4
    if not 0 <= grade <= 30 or isinstance(value, bool):
        raise BadRequest(f"{place} has the grade {value!r}; give a whole number of 0 to 30.")
    return grade


def _own(path: Path) -> Iterator[JudgedQuery]:
    for place, item in read_objects(path):
        if item.get("answerable") is False:
            continue
        text = str(_field(item, "question", place))
        given = item.get("judged")
        if given is None:
            files = item.get("files") or [_field(item, "file", place)]
            # a quote stands in the first file; the others answer as a whole
            whole = [Judgement(str(f)) for f in files]
            quote = item.get("quote")
            judged = [Judgement(str(files[0]), str(quote))] if quote and len(files) == 1 else whole
        elif isinstance(given, list) and all(isinstance(j, dict) for j in given):
            judged = [
                Judgement(
                    str(_field(j, "file", place)),
                    None if j.get("quote") is None else str(_field(j, "quote", place)),
                    _grade(j.get("grade", 1), place),
                )
                for j in given
            ]
        else:
            raise BadRequest(f"{place} has a 'judged' that is not a list of objects.")
        unit = item.get("unit", "passage")
        if unit not in ("passage", "document"):
            raise BadRequest(f"{place} has the unit {unit!r}; it is 'passage' or 'document'.")
        if unit == "document":
            judged = [replace(j, quote=None) for j in judged]
        id_ = str(item.get("id") or place)
        yield JudgedQuery(id_, text, tuple(judged), str(item.get("kind") or ""))


def _beir(path: Path) -> Iterator[JudgedQuery]:
    tables = [path / "qrels" / f"{split}.tsv" for split in SPLITS]
    table = next((t for t in tables if t.is_file()), None)
    if table is None:
        raise BadRequest(f"'{path.name}' has no qrels/test.tsv (nor dev, nor train).")
    rows = []
    for place, parts in _rows(table):
        if len(parts) != 3:
            raise BadRequest(f"{place} needs query id, document id and grade.")
        if parts[2].lower() != "score":  # the head of the table
            rows.append((parts[0], parts[1], _grade(parts[2], place)))
    judged = _by_query(rows)
    for place, item in read_objects(path / "queries.jsonl"):
        id_ = str(_field(item, "_id", place))
        if id_ in judged:
            yield JudgedQuery(id_, str(_field(item, "text", place)), judged[id_])


def _trec(topics: Path, path: Path) -> Iterator[JudgedQuery]:
    qrels = _named(path, "qrels")
    if qrels is None:
        raise BadRequest(f"'{path.name}' has topics and no file whose name has 'qrels'.")
    rows = []
    for place, parts in _rows(qrels):
        if len(parts) != 4:
            raise BadRequest(f"{place} needs topic, iteration, document and grade.")
        # some collections mark spam by a grade below 0: not relevant
        below = re.fullmatch(r"-\d+", parts[3]) is not None
        rows.append((parts[0], parts[2], 0 if below else _grade(parts[3], place)))
    judged = _by_query(rows)
    for block in _TOPIC.findall(topics.read_text(encoding="utf-8", errors="replace")):
        parts_ = {tag.lower(): " ".join(text.split()) for tag, text in _TAG.findall(block)}
        id_ = parts_.get("num", "")
        # topics 051 are judged as 51
        known = id_ if id_ in judged else id_.lstrip("0")
        if known in judged:
            yield JudgedQuery(id_, parts_.get("title", ""), judged[known])


def _cranfield(path: Path) -> Iterator[JudgedQuery]:
    rows = []
    for place, parts in _rows(path / "cranqrel"):
        if len(parts) != 3:
            raise BadRequest(f"{place} needs query, document and grade.")
        # 1 is the best grade, 4 the least; 5 and -1 stand for no interest
        code = parts[2]
        rows.append((parts[0], parts[1], 5 - int(code) if code in ("1", "2", "3", "4") else 0))
    judged = _by_query(rows)
    # judgements count queries in order, not by their .I numbers
    for number, (_, fields) in enumerate(_cranfield_records(path / "cran.qry"), start=1):
        if str(number) in judged:
            yield JudgedQuery(str(number), fields.get("W", ""), judged[str(number)])


def _cranfield_records(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    text = path.read_text(encoding="utf-8", errors="replace")
    starts = [m.start() for m in re.finditer(r"^\.I ", text, re.MULTILINE)]
    for start, end in pairwise([*starts, len(text)]):
        head, _, body = text[start:end].partition("\n")
        fields: dict[str, str] = {}
        for part in re.split(r"^\.(?=[A-Z]\s*$)", body, flags=re.MULTILINE)[1:]:
            name, _, value = part.partition("\n")
            fields.setdefault(name.strip(), " ".join(value.split()))
        yield head.removeprefix(".I").strip(), fields


def _rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield f"line {number} of '{path.name}'", line.split()


def _by_query(rows: Iterable[tuple[str, str, int]]) -> dict[str, tuple[Judgement, ...]]:
    judged: dict[str, dict[str, Judgement]] = {}
    for query, document, grade in rows:
        # a document judged twice keeps its better grade
        known = judged.setdefault(query, {}).get(document)
        if known is None or known.grade < grade:
            judged[query][document] = Judgement(document, None, grade)
    return {query: tuple(found.values()) for query, found in judged.items()}


def _named(path: Path, part: str) -> Path | None:
    if not path.is_dir():
        return None
    return next((f for f in sorted(path.iterdir()) if part in f.name.lower() and f.is_file()), None)
