"""Takes the words and ruled lines of one PDF page from PDFium, with their places."""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass, field
from typing import Any

from app.retrieval.parsers.layout import Rule, Span

MAX_CHARACTERS = 200_000  # of one page; a full page of small print has some 10,000
MAX_PATHS = 20_000  # a page with more is a drawing: none of its lines is read as a table's
MAX_POINTS = 200  # of one path; tables are drawn with few
_THIN = 2.0  # points; a box no thicker is a line
_GAP = 1.2  # of the font's size; a wider gap parts two columns or cells
_FIXED_PITCH = 1  # bit of the font descriptor's flags, ISO 32000-1 table 123
_BOLD_WEIGHT = 600
_MONO_FACES = ("courier", "mono", "consol", "menlo", "cmtt", "sftt", "typewriter")
_LIGATURES = str.maketrans(
    {"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "st", "ﬆ": "st"}
    | {"\u00ad": "", "\u00a0": " ", "\x02": "-", "\ufffe": "-", "\ufeff": ""}
)


@dataclass(slots=True)
class PageContent:
    """What one direction of reading shows; lengths in points, ``top`` grows downwards.

    ``width`` and ``height`` are those of the page as it is read; ``image`` is the share of the
    page, 0 to 1, that its largest picture covers.
    """

    width: float
    height: float
    spans: list[Span] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)
    image: float = 0.0


def extract(page: Any) -> list[PageContent]:
    """Return the content of ``page``, the direction that most of its words run in first."""
    left, bottom, right, top = page.get_bbox()
    box = (left, bottom, right, top)
    turned = _spans(page, box)
    rules, image = _graphics(page, box)
    made = []
    for quarter, spans in sorted(turned.items(), key=lambda item: -_letters(item[1])):
        width, height = right - left, top - bottom
        size = (width, height) if quarter % 2 == 0 else (height, width)
        own = [_turn(rule, quarter, box) for rule in rules]
        made.append(PageContent(*size, spans, [Rule(*edge) for edge in own], image))
    return made or [PageContent(right - left, top - bottom, image=image)]


def _letters(spans: list[Span]) -> int:
    return sum(len(span.text) for span in spans)


def _turn(
    edge: tuple[float, float, float, float], quarter: int, box: tuple[float, float, float, float]
) -> tuple[float, float, float, float]:
    """Turn (left, bottom, right, top) of the page into (x0, top, x1, bottom) as it is read."""
    left, bottom, right, top = edge
    x0, y0, x1, y1 = box
    if quarter == 1:  # text runs upwards
        return bottom - y0, left - x0, top - y0, right - x0
    if quarter == 2:
        return x1 - right, bottom - y0, x1 - left, top - y0
    if quarter == 3:  # text runs downwards
        return y1 - top, x1 - right, y1 - bottom, x1 - left
    return left - x0, y1 - top, right - x0, y1 - bottom


def _spans(page: Any, box: tuple[float, float, float, float]) -> dict[int, list[Span]]:
    """Return quarter turn → spans: runs of characters of one size on one line."""
    import pypdfium2.raw as pdfium

    text_page = page.get_textpage()
    raw = text_page.raw
    found: dict[int, list[Span]] = {}
    letters: list[str] = []
    edge = [0.0, 0.0, 0.0, 0.0]
    start = quarter = 0
    size = 1.0
    rect = pdfium.FS_RECTF()

    def end() -> None:
        text = "".join(letters).translate(_LIGATURES).strip()
        letters.clear()
        if text:
            bold, mono = _font(raw, start)
            x0, y0, x1, y1 = edge
            found.setdefault(quarter, []).append(Span(text, x0, y0, x1, y1, size, bold, mono))

    for i in range(min(text_page.count_chars(), MAX_CHARACTERS)):
        code = pdfium.FPDFText_GetUnicode(raw, i)
        if code in (10, 13):
            end()
            continue
        if code in (9, 32, 160):
            if letters:
                letters.append(" ")
            continue
        if code == 0 or 0xD800 <= code < 0xE000:
            continue
        if not pdfium.FPDFText_GetLooseCharBox(raw, i, rect):
            continue
        native = (rect.left, rect.bottom, rect.right, rect.top)
        x0, top, x1, bottom = _turn(native, quarter, box)
        if not letters or not _continues(edge, size, x0, top, x1, bottom):
            end()
            start = i
            angle = pdfium.FPDFText_GetCharAngle(raw, i)
            # PDFium counts clockwise, and says -1 where it does not know.
            quarter = -round(angle / (math.pi / 2)) % 4 if angle >= 0 else 0
            size = _size(raw, i, rect, quarter)
            x0, top, x1, bottom = _turn(native, quarter, box)
            edge[:] = (x0, top, x1, bottom)
        else:
            edge[0], edge[1] = min(edge[0], x0), min(edge[1], top)
            edge[2], edge[3] = max(edge[2], x1), max(edge[3], bottom)
        letters.append(chr(code))
    end()
    text_page.close()
    return found


def _continues(
    edge: list[float], size: float, x0: float, top: float, x1: float, bottom: float
) -> bool:
    """Tell whether a character stands right behind a run, on its line and of its size."""
    height, own = edge[3] - edge[1], bottom - top
    return (
        -size < x0 - edge[2] < _GAP * size
        and abs(bottom - edge[3]) <= 0.15 * height
        and abs(own - height) <= 0.15 * height
    )


def _size(raw: Any, i: int, rect: Any, quarter: int) -> float:
    """Return the size that the eye sees: many files scale a font of size 1."""
    import pypdfium2.raw as pdfium

    seen = rect.top - rect.bottom if quarter % 2 == 0 else rect.right - rect.left
    named = pdfium.FPDFText_GetFontSize(raw, i)
    # The loose box is the font's ascent and descent, some 1.0 to 1.4 of its size.
    return float(named) if 0.8 * named <= seen <= 1.7 * named else max(float(seen) / 1.2, 1.0)


def _font(raw: Any, i: int) -> tuple[bool, bool]:
    """Return whether the font of character ``i`` is bold and whether it is monospaced."""
    import pypdfium2.raw as pdfium

    name = ctypes.create_string_buffer(128)
    flags = ctypes.c_int(0)
    taken = pdfium.FPDFText_GetFontInfo(raw, i, name, len(name), flags)
    face = name.value.decode("utf-8", "replace").lower() if 0 < taken <= len(name) else ""
    bold = (
        "bold" in face or "black" in face or pdfium.FPDFText_GetFontWeight(raw, i) >= _BOLD_WEIGHT
    )
    mono = bool(flags.value & _FIXED_PITCH) or any(known in face for known in _MONO_FACES)
    return bold, mono


def _graphics(
    page: Any, box: tuple[float, float, float, float]
) -> tuple[list[tuple[float, float, float, float]], float]:
    """Return the level and upright lines of a page and the share its largest image covers."""
    import pypdfium2.raw as pdfium

    rules: list[tuple[float, float, float, float]] = []
    image = 0.0
    area = max((box[2] - box[0]) * (box[3] - box[1]), 1.0)
    kinds = [pdfium.FPDF_PAGEOBJ_PATH, pdfium.FPDF_PAGEOBJ_IMAGE]
    for seen, item in enumerate(page.get_objects(filter=kinds, max_depth=3)):
        if seen > MAX_PATHS:
            return [], image
        if item.type == pdfium.FPDF_PAGEOBJ_IMAGE:
            left, bottom, right, top = item.get_bounds()
            image = max(image, (right - left) * (top - bottom) / area)
        else:
            rules += _edges(item)
    return rules, min(image, 1.0)


def _edges(item: Any) -> list[tuple[float, float, float, float]]:
    """Return the straight lines of a path; a thin box is one line, a stroked one has four."""
    import pypdfium2.raw as pdfium

    left, bottom, right, top = item.get_bounds()
    if right - left <= _THIN or top - bottom <= _THIN:
        return [(left, bottom, right, top)]
    fill, stroke = ctypes.c_int(), ctypes.c_int()
    pdfium.FPDFPath_GetDrawMode(item.raw, fill, stroke)
    count = pdfium.FPDFPath_CountSegments(item.raw)
    if not stroke.value or count > MAX_POINTS:
        return []
    matrix = item.get_matrix()
    edges = []
    first = last = (0.0, 0.0)
    x, y = ctypes.c_float(), ctypes.c_float()
    for i in range(count):
        segment = pdfium.FPDFPath_GetPathSegment(item.raw, i)
        pdfium.FPDFPathSegment_GetPoint(segment, x, y)
        point = matrix.on_point(x.value, y.value)
        kind = pdfium.FPDFPathSegment_GetType(segment)
        if kind == pdfium.FPDF_SEGMENT_MOVETO:
            first = point
        elif kind == pdfium.FPDF_SEGMENT_LINETO:
            edges.append((last, point))
            if pdfium.FPDFPathSegment_GetClose(segment):
                edges.append((point, first))
        last = point
    return [
        (min(a[0], b[0]), min(a[1], b[1]), max(a[0], b[0]), max(a[1], b[1]))
        for a, b in edges
        if abs(a[0] - b[0]) <= _THIN or abs(a[1] - b[1]) <= _THIN
    ]
