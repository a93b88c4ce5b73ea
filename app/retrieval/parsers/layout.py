"""Puts the words of a page into the order in which a person reads them.

Ruled tables are found first; the rest is parted at its widest empty gutters, as in the recursive
X-Y cut of Nagy and Seth (1984), but a line that crosses a gutter, like a title above two
columns, parts the page into bands instead of hiding the gutter.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

MAX_SPANS = 20_000  # of one page; above that they are taken in the order of the file
_DEEPEST = 6  # columns within columns
_SNAP = 3.0  # points; lines nearer than that are one
_GUTTER = 0.8  # of the text's size; a narrower gap is no gutter
_PROSE_LETTERS = 12  # a line of a text column has more, the cell of a table fewer
_PROSE_LINES = 3
_PROSE_FILL = 0.55  # of a column's width is filled by the median line of prose
_TABLE_ROWS = 3  # rows that stand in columns without any ruled line
_CELL_GAP = 1.0  # of the text's size
_LEADER = re.compile(r"(?:\s?[.·…]){4,}\s*")


@dataclass(frozen=True, slots=True)
class Span:
    """Words of one font on one line; lengths in points from the top left of the page."""

    text: str
    x0: float
    top: float
    x1: float
    bottom: float
    size: float
    bold: bool = False
    mono: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """A level or upright line."""

    x0: float
    top: float
    x1: float
    bottom: float

    @property
    def level(self) -> bool:
        return self.x1 - self.x0 >= self.bottom - self.top


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a column; ``left`` and ``right`` are the column's edges."""

    text: str
    x0: float
    top: float
    x1: float
    bottom: float
    size: float
    bold: bool
    mono: bool
    left: float
    right: float


@dataclass(frozen=True, slots=True)
class Grid:
    """A table: rows of cells and the place it takes."""

    rows: list[list[str]]
    x0: float
    top: float
    x1: float
    bottom: float


def read_order(spans: list[Span], rules: Sequence[Rule] = ()) -> list[Line | Grid]:
    """Return the lines and tables of a page in reading order."""
    if len(spans) > MAX_SPANS:
        return [line for span in spans for line in _lines([span])]
    grids, rest = _ruled_tables(spans, rules)
    return _read([*rest, *grids], 0)


def _read(items: list[Span | Grid], depth: int) -> list[Line | Grid]:
    gutter = _gutter(items) if depth < _DEEPEST else None
    if gutter is None:
        return _rows(items)
    crossing = sorted((i for i in items if i.x0 < gutter < i.x1), key=lambda i: i.top)
    made: list[Line | Grid] = []
    rest = [i for i in items if not i.x0 < gutter < i.x1]
    while rest or crossing:
        # What crosses the gutter is read with the lines that touch it, then the band below.
        until = crossing[0].top if crossing else float("inf")
        band = [i for i in rest if _middle(i) < until]
        if band:
            rest = [i for i in rest if _middle(i) >= until]
            made += _read([i for i in band if i.x1 <= gutter], depth + 1)
            made += _read([i for i in band if i.x0 >= gutter], depth + 1)
        if not crossing:
            break
        block = [crossing.pop(0)]
        bottom = block[0].bottom
        while crossing and not any(bottom <= _middle(i) < crossing[0].top for i in rest):
            block.append(crossing.pop(0))
            bottom = max(bottom, block[-1].bottom)
        beside = [i for i in rest if _middle(i) < bottom]
        rest = [i for i in rest if _middle(i) >= bottom]
        made += _rows([*block, *beside])
    return made


def _middle(item: Span | Grid) -> float:
    return (item.top + item.bottom) / 2


def _gutter(items: list[Span | Grid]) -> float | None:
    """Return where an empty stripe parts two columns of prose, or None."""
    spans = [i for i in items if isinstance(i, Span)]
    if len(spans) < 2 * _PROSE_LINES:
        return None
    least = _GUTTER * median(span.size for span in spans)
    allowed = len(items) // 4  # titles, figures and tables may cross
    events = sorted([(i.x0, 1) for i in items] + [(i.x1, -1) for i in items])
    gaps: list[tuple[int, float, float]] = []
    over = 0
    for (x, step), (following, _) in pairwise(events):
        over += step
        if over <= allowed and following > x:
            gaps.append((over, x, following))
    best: tuple[int, float, float] | None = None
    for over, x, following in _joined(gaps, least):
        middle = (x + following) / 2
        left = [i for i in spans if i.x1 <= middle]
        right = [i for i in spans if i.x0 >= middle]
        if _is_prose(left) and _is_prose(right) and _overlap(left, right):
            rank = (over, -(following - x), middle)
            best = rank if best is None else min(best, rank)
    return best[2] if best else None


def _joined(
    gaps: list[tuple[int, float, float]], least: float
) -> Iterable[tuple[int, float, float]]:
    """Join neighbouring stripes until they are wide enough; keep the few emptiest."""
    wide = [gap for gap in gaps if gap[2] - gap[1] >= least]
    for i, (over, x, following) in enumerate(gaps):
        most = over
        for other, _, end in gaps[i + 1 : i + 6]:
            if following - x >= least:
                break
            if gaps[i + 1][1] > following:
                break
            most, following = max(most, other), end
        if following - x >= least and (most, x, following) not in wide:
            wide.append((most, x, following))
    return sorted(wide, key=lambda gap: (gap[0], gap[1] - gap[2]))[:12]


def _is_prose(spans: list[Span]) -> bool:
    lines = _lines(spans)
    if len(lines) < _PROSE_LINES:
        return False
    width = max(line.x1 for line in lines) - min(line.x0 for line in lines)
    filled = median(line.x1 - line.x0 for line in lines) / max(width, 1.0)
    return filled >= _PROSE_FILL and median(len(line.text) for line in lines) >= _PROSE_LETTERS


def _overlap(left: list[Span], right: list[Span]) -> bool:
    """Tell whether two columns stand beside each other, not one below the other."""
    top = max(min(s.top for s in left), min(s.top for s in right))
    bottom = min(max(s.bottom for s in left), max(s.bottom for s in right))
    return bottom - top > 2 * median(s.bottom - s.top for s in [*left, *right])


def _grouped(spans: list[Span]) -> list[list[Span]]:
    """Return spans by line from the top; raised and lowered marks belong to their line."""
    groups: list[list[Span]] = []
    bottom = top = 0.0
    for span in sorted(spans, key=lambda s: (s.top + s.bottom, s.x0)):
        shared = min(bottom, span.bottom) - max(top, span.top)
        smaller = min(bottom - top, span.bottom - span.top)
        if groups and shared > 0.5 * smaller:
            groups[-1].append(span)
            if span.bottom - span.top > bottom - top:
                top, bottom = span.top, span.bottom
        else:
            groups.append([span])
            top, bottom = span.top, span.bottom
    return [sorted(group, key=lambda s: s.x0) for group in groups]


def _lines(spans: list[Span]) -> list[Line]:
    groups = _grouped(spans)
    left = min((s.x0 for s in spans), default=0.0)
    right = max((s.x1 for s in spans), default=0.0)
    return [_line(group, left, right) for group in groups]


def _line(group: list[Span], left: float, right: float) -> Line:
    main = max(group, key=lambda s: len(s.text))
    text = group[0].text
    for before, span in pairwise(group):
        text += span.text if span.x0 - before.x1 < 0.12 * main.size else f" {span.text}"
    letters = sum(len(s.text) for s in group)
    return Line(
        _LEADER.sub(" ", text).strip(),
        group[0].x0,
        min(s.top for s in group),
        max(s.x1 for s in group),
        max(s.bottom for s in group),
        main.size,
        2 * sum(len(s.text) for s in group if s.bold) > letters,
        2 * sum(len(s.text) for s in group if s.mono) > letters,
        left,
        right,
    )


def _rows(items: list[Span | Grid]) -> list[Line | Grid]:
    """Return one column from the top, with rows that stand in columns as tables."""
    spans = [i for i in items if isinstance(i, Span)]
    groups = _grouped(spans)
    left = min((s.x0 for s in spans), default=0.0)
    right = max((s.x1 for s in spans), default=0.0)
    made: list[Line | Grid] = [i for i in items if isinstance(i, Grid)]
    run: list[list[Span]] = []
    for group in [*groups, []]:
        cells = _cells(group)
        near = bool(run) and bool(group) and group[0].top - run[-1][0].bottom < 2 * group[0].size
        if len(cells) > 1 and (near or not run) and not group[0].mono:
            run.append(group)
            continue
        made += _aligned(run, left, right)
        run = [group] if len(cells) > 1 and not group[0].mono else []
        if group and not run:
            made.append(_line(group, left, right))
    return sorted(made, key=lambda i: i.top + i.bottom if isinstance(i, Line) else 2 * i.top)


def _cells(group: list[Span]) -> list[list[Span]]:
    cells: list[list[Span]] = []
    for span in group:
        if cells and span.x0 - cells[-1][-1].x1 < _CELL_GAP * span.size:
            cells[-1].append(span)
        else:
            cells.append([span])
    return cells


def _aligned(run: list[list[Span]], left: float, right: float) -> list[Line | Grid]:
    """Return a run of lines with gaps as a table where their cells stand in columns."""
    rows = [_cells(group) for group in run]
    lines: list[Line | Grid] = [_line(group, left, right) for group in run]
    if len(rows) < _TABLE_ROWS:
        return lines
    stripes: list[list[float]] = []
    for x0, x1 in sorted((c[0].x0, c[-1].x1) for row in rows for c in row):
        if stripes and x0 <= stripes[-1][1] + 1:
            stripes[-1][1] = max(stripes[-1][1], x1)
        else:
            stripes.append([x0, x1])
    starts = [stripe[0] for stripe in stripes]
    if len(starts) < 2 or sum(len(row) == len(starts) for row in rows) * 2 < len(rows):
        return lines
    cells = []
    for row in rows:
        texts = [""] * len(starts)
        for cell in row:
            column = bisect_right(starts, cell[0].x0 + 1) - 1
            texts[column] = f"{texts[column]} {_line(cell, left, right).text}".strip()
        cells.append(texts)
    first, last = run[0], run[-1]
    return [Grid(cells, left, first[0].top, right, max(s.bottom for s in last))]


def _ruled_tables(spans: list[Span], rules: Sequence[Rule]) -> tuple[list[Grid], list[Span]]:
    """Return the tables that ruled lines mark, and the spans outside them."""
    level = _merged([r for r in rules if r.level and r.x1 - r.x0 > _SNAP])
    upright = [Rule(r.top, r.x0, r.bottom, r.x1) for r in rules if not r.level]
    upright = [Rule(r.top, r.x0, r.bottom, r.x1) for r in _merged(upright)]
    grids: list[Grid] = []
    rest = spans
    for lines in _touching(level, upright):
        ys = _distinct(r.top for r in lines if r.level)
        xs = _distinct(r.x0 for r in lines if not r.level)
        if len(ys) < 2 or len(xs) < 3 or len(ys) + len(xs) < 6:
            continue  # a frame around a text is no table
        inside = [
            s
            for s in rest
            if xs[0] - _SNAP <= s.x0 and s.x1 <= xs[-1] + _SNAP and ys[0] <= _mid(s) <= ys[-1]
        ]
        rows = _fill(inside, xs, ys)
        if len(rows) < 2 or max(sum(map(bool, row)) for row in rows) < 2:
            continue
        taken = set(map(id, inside))
        rest = [s for s in rest if id(s) not in taken]
        grids.append(Grid(rows, xs[0], ys[0], xs[-1], ys[-1]))
    return grids, rest


def _mid(span: Span) -> float:
    return (span.top + span.bottom) / 2


def _fill(spans: list[Span], xs: list[float], ys: list[float]) -> list[list[str]]:
    cells: dict[tuple[int, int], list[Span]] = {}
    for span in spans:
        row = min(max(bisect_right(ys, _mid(span)) - 1, 0), len(ys) - 2)
        column = min(max(bisect_right(xs, span.x0 + _SNAP) - 1, 0), len(xs) - 2)
        cells.setdefault((row, column), []).append(span)
    rows = []
    for y in range(len(ys) - 1):
        row_texts = [
            " ".join(line.text for line in _lines(cells.get((y, x), [])))
            for x in range(len(xs) - 1)
        ]
        if any(row_texts):
            rows.append(row_texts)
    return rows


def _merged(rules: list[Rule]) -> list[Rule]:
    """Join level lines at one height that touch or overlap."""
    made: list[Rule] = []
    rows: list[list[Rule]] = []
    for rule in sorted(rules, key=lambda r: r.top):
        if rows and rule.top - rows[-1][0].top <= _SNAP:
            rows[-1].append(rule)
        else:
            rows.append([rule])
    for row in rows:
        top = row[0].top
        x0 = x1 = None
        for rule in sorted(row, key=lambda r: r.x0):
            if x1 is None or x0 is None or rule.x0 > x1 + _SNAP:
                if x0 is not None and x1 is not None:
                    made.append(Rule(x0, top, x1, top))
                x0, x1 = rule.x0, rule.x1
            else:
                x1 = max(x1, rule.x1)
        if x0 is not None and x1 is not None:
            made.append(Rule(x0, top, x1, top))
    return made


def _touching(level: list[Rule], upright: list[Rule]) -> list[list[Rule]]:
    """Return groups of lines that hang together, from the top."""
    if len(level) * len(upright) > 1_000_000:
        return []  # a drawing
    group_of = {id(rule): [rule] for rule in [*level, *upright]}
    for h in level:
        for v in upright:
            near = h.x0 - _SNAP <= v.x0 <= h.x1 + _SNAP and v.top - _SNAP <= h.top
            if near and h.top <= v.bottom + _SNAP and group_of[id(h)] is not group_of[id(v)]:
                one, two = sorted((group_of[id(h)], group_of[id(v)]), key=len)
                two.extend(one)
                for rule in one:
                    group_of[id(rule)] = two
    groups = {id(group): group for group in group_of.values()}
    return sorted(groups.values(), key=lambda g: min(r.top for r in g))


def _distinct(values: Iterable[float]) -> list[float]:
    made: list[float] = []
    for value in sorted(values):
        if not made or value - made[-1] > _SNAP:
            made.append(value)
    return made
