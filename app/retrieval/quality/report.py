"""The scores of one or two rankers as text for a terminal and as one HTML page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from app.retrieval.quality.judged import JudgedQuery
from app.retrieval.quality.score import MAIN, Measured, Row, compare_measured, percentile
from app.retrieval.quality.significance import Comparison

SURE = 0.05  # p-values below are called significant
SHOWN_RESULTS = 5
SHOWN_CHARS = 240

_STYLE = """
:root{color-scheme:light dark;--line:#8884;--soft:#8882;--good:#1a7f37;--bad:#c0362c;--dim:#6b7280}
@media(prefers-color-scheme:dark){:root{--good:#4ac26b;--bad:#ff7b72;--dim:#9ca3af}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin:0 0 .25rem}h2{font-size:1.1rem;margin:2rem 0 .5rem}
p{margin:.4rem 0}.dim{color:var(--dim)}.good{color:var(--good)}.bad{color:var(--bad)}
table{border-collapse:collapse;width:100%}.wide{overflow-x:auto}
th,td{padding:.35rem .6rem;text-align:left;vertical-align:top;border-bottom:1px solid var(--line)}
th{font-weight:600;position:sticky;top:0;background:Canvas}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
code,pre{font:13px/1.45 ui-monospace,monospace}
pre{background:var(--soft);padding:.6rem;border-radius:6px;overflow-x:auto;margin:.4rem 0}
details summary{cursor:pointer}details ol{margin:.3rem 0 .3rem 1.4rem;padding:0}
li{margin:.25rem 0;overflow-wrap:anywhere}li.hit::marker{color:var(--good);font-weight:700}
.hit b{color:var(--good)}.kind{border:1px solid var(--line);border-radius:9px;padding:0 .45rem;
font-size:12px;color:var(--dim);white-space:nowrap}
"""


def as_text(measured: Sequence[Measured]) -> str:
    """A table of the measures for a terminal, with the comparison where there are two."""
    width = max(12, *(len(m.name) for m in measured))
    head = f"{'measure':<12}" + "".join(f"  {m.name:>{width}}" for m in measured)
    found = compare_measured(*measured) if len(measured) == 2 else {}
    lines = [head + ("  difference  95 % interval        p" if found else "  95 % interval")]
    for name in measured[0].measures:
        line = f"{name:<12}" + "".join(
            f"  {m.mean(name):>{width}.3f}" if name in m.measures else f"  {'–':>{width}}"
            for m in measured
        )
        if name in found:
            c = found[name]
            line += f"  {c.difference:+10.3f}  {c.low:+.3f} to {c.high:+.3f}  {c.p:.4f}"
        elif not found:
            low, high = measured[0].interval(name)
            line += f"  {low:.3f} to {high:.3f}"
        lines.append(line)
    for share, name in ((0.5, "p50 ms"), (0.95, "p95 ms")):
        times = [percentile([r.ms for r in m.rows], share) for m in measured]
        lines.append(f"{name:<12}" + "".join(f"  {t:>{width}.1f}" for t in times))
    if found:
        lines += ["", verdict(measured[0], measured[1], found[MAIN])]
    for m in measured:
        if m.errors:
            lines += ["", f"{m.name}: {len(m.errors)} searches failed: {m.errors[0].error}"]
    return "\n".join(lines)


def verdict(first: Measured, second: Measured, c: Comparison) -> str:
    """What the comparison says, in one sentence."""
    counts = f"{c.wins} questions better, {c.losses} worse, {c.ties} alike"
    if c.p >= SURE:
        return (
            f"No difference is shown between {first.name} and {second.name} "
            f"({c.difference:+.3f} {MAIN}, p = {c.p:.3f}; {counts})."
        )
    side = "better" if c.difference > 0 else "worse"
    return (
        f"{second.name} is {side} than {first.name} by {abs(c.difference):.3f} {MAIN} "
        f"(95 % interval {c.low:+.3f} to {c.high:+.3f}, p = {c.p:.4f}; {counts})."
    )


def as_html(measured: Sequence[Measured], judged: str, searches: Mapping[str, Any]) -> str:
    """One self-contained page: measures, kinds of questions, and every question.

    With two rankers the questions that the second made worse come first; with one, the
    questions that scored least.

    Args:
        judged: the name of the judged set.
        searches: by ranker, what each search asked for, shown as it is.
    """
    names = " against ".join(m.name for m in reversed(measured))
    questions = len(measured[0].rows)
    parts = [
        "<!doctype html><html lang=en><head><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width,initial-scale=1'>",
        f"<title>{escape(names)} on {escape(judged)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>Search quality: {escape(names)}</h1>",
        f"<p class=dim>{questions} judged questions of {escape(judged)}</p>",
    ]
    if len(measured) == 2:
        found = compare_measured(*measured)
        parts.append(f"<p>{escape(verdict(measured[0], measured[1], found[MAIN]))}</p>")
    parts += [
        f"<p class=bad>{escape(m.name)}: {len(m.errors)} searches failed and score 0; "
        f"the first: {escape(m.errors[0].error or '')}</p>"
        for m in measured
        if m.errors
    ]
    parts += ["<h2>Measures</h2>", _measures(measured)]
    if measured[0].kinds:
        parts += [f"<h2>{MAIN} by kind of question</h2>", _kinds(measured)]
    order = "what got worse first" if len(measured) == 2 else "the least found first"
    parts += [f"<h2>Questions, {order}</h2>", _questions(measured)]
    parts.append("<h2>What was asked</h2>")
    for name, body in searches.items():
        shown = escape(json.dumps(body, ensure_ascii=False, indent=1))
        parts.append(f"<p>{escape(name)}</p><pre>{shown}</pre>")
    parts.append(
        "<p class=dim>Gains 2<sup>grade</sup>−1, discount log<sub>2</sub>(1+rank). Intervals: "
        "bootstrap of questions, 95 %. p: paired randomisation test, two-sided, 10,000 draws "
        "(Smucker, Allan and Carterette, 2007).</p></body></html>"
    )
    return "\n".join(parts) + "\n"


def _measures(measured: Sequence[Measured]) -> str:
    two = len(measured) == 2
    found = compare_measured(*measured) if two else {}
    head = ["measure", *(m.name for m in measured)]
    head += ["difference", "95 % interval", "p"] if two else ["95 % interval"]
    rows = []
    for name in measured[0].measures:
        cells = [escape(name)]
        cells += [f"{m.mean(name):.3f}" if name in m.measures else "–" for m in measured]
        if name in found:
            c = found[name]
            tone = _tone(c.difference) if c.p < SURE else ""
            cells += [f"<span class='{tone}'>{c.difference:+.3f}</span>"]
            cells += [f"{c.low:+.3f} to {c.high:+.3f}", f"{c.p:.4f}"]
        elif not two:
            low, high = measured[0].interval(name)
            cells.append(f"{low:.3f} to {high:.3f}")
        rows.append(cells)
    for share, name in ((0.5, "latency p50, ms"), (0.95, "latency p95, ms")):
        rows.append([name, *(f"{percentile([r.ms for r in m.rows], share):.1f}" for m in measured)])
    return _table(head, rows)


def _kinds(measured: Sequence[Measured]) -> str:
    rows = [
        [escape(kind), str(n), *(f"{m.mean(MAIN, kind):.3f}" for m in measured)]
        for kind, n in measured[0].kinds.items()
    ]
    return _table(["kind", "questions", *(m.name for m in measured)], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells of ``rows`` are HTML, those of ``head`` are text."""
    top = "".join(f"<th{' class=n' if i else ''}>{escape(h)}</th>" for i, h in enumerate(head))
    body = []
    for row in rows:
        cells = [*row, *[""] * (len(head) - len(row))]
        tds = "".join(f"<td{' class=n' if i else ''}>{c}</td>" for i, c in enumerate(cells))
        body.append(f"<tr>{tds}</tr>")
    return f"<div class=wide><table><tr>{top}</tr>{''.join(body)}</table></div>"


def _questions(measured: Sequence[Measured]) -> str:
    together = list(zip(*(m.rows for m in measured), strict=True))

    def change(rows: Sequence[Row]) -> float:
        return rows[-1].scores[MAIN] - (rows[0].scores[MAIN] if len(rows) == 2 else 0.0)

    together.sort(key=lambda rows: (change(rows), rows[0].query.id))
    head = ["question", *(m.name for m in measured), *(["change"] if len(measured) == 2 else [])]
    lines = []
    for rows in together:
        cells = [_question(measured, rows)]
        cells += [
            f"{r.scores[MAIN]:.3f}<br><span class=dim>"
            + (f"rank {r.first}" if r.first else "failed" if r.error else "not found")
            + "</span>"
            for r in rows
        ]
        if len(rows) == 2:
            delta = change(rows)
            cells.append(f"<span class='{_tone(delta)}'>{delta:+.3f}</span>" if delta else "0")
        lines.append(cells)
    return _table(head, lines)


def _question(measured: Sequence[Measured], rows: Sequence[Row]) -> str:
    query = rows[0].query
    kind = f" <span class=kind>{escape(query.kind)}</span>" if query.kind else ""
    inside = [f"<p class=dim>{escape(query.id)}; right: {_right(query)}</p>"]
    for m, row in zip(measured, rows, strict=True):
        inside.append(f"<p>{escape(m.name)}, {row.ms:.0f} ms</p>")
        if row.error:
            inside.append(f"<p class=bad>{escape(row.error)}</p>")
        items = []
        for place, result in enumerate(row.results[:SHOWN_RESULTS], start=1):
            hit = " class=hit" if place == row.first else ""
            text = escape(" ".join(result.text.split())[:SHOWN_CHARS])
            items.append(f"<li{hit}><b>{escape(result.filename)}</b> {text}</li>")
        inside.append(f"<ol>{''.join(items)}</ol>" if items else "<p class=dim>nothing</p>")
    summary = f"<summary>{escape(query.text)}{kind}</summary>"
    return f"<details>{summary}{''.join(inside)}</details>"


def _right(query: JudgedQuery) -> str:
    shown = [
        escape(j.file) + (f" “{escape(j.quote[:SHOWN_CHARS])}”" if j.quote else "")
        for j in query.judged
        if j.grade > 0
    ]
    more = f" and {len(shown) - 4} more" if len(shown) > 4 else ""
    return "; ".join(shown[:4]) + more


def _tone(difference: float) -> str:
    return "good" if difference > 0 else "bad"
