"""Evidently's drift report, made in a process of its own that cannot reach any network."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import orjson

from app.errors import MissingExtra, Unavailable
from app.monitoring.drift_verdicts import Pair, counts_of, numbers_of

DRAWN = 500  # values of each side that stand for a sketch
LIMIT_S = 120.0
# of iterative_telemetry, which Evidently loads, and of Evidently
NO_TELEMETRY = {"DO_NOT_TRACK": "1", "ITERATIVE_DO_NOT_TRACK": "1"}
REFUSED = frozenset(
    {
        *("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"),
        *("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork"),
    }
)
Columns = dict[str, tuple[list[Any], list[Any]]]


def drawn(pairs: Sequence[Pair]) -> Columns:
    """Values of reference and window that have the quantiles and shares of the sketches.

    Pairs without a reference and embeddings are left out. Blocking.
    """
    found: Columns = {}
    ranks = [(i + 0.5) / DRAWN for i in range(DRAWN)]
    for pair in pairs:
        if pair.kind == "number":
            current, reference = numbers_of(pair)
            if reference is not None and reference.count and current.count:
                found[pair.feature] = (
                    reference.steps().quantiles(ranks).tolist(),
                    current.steps().quantiles(ranks).tolist(),
                )
        elif pair.kind == "category":
            now, before = counts_of(pair)
            if before is not None and before.count and now.count:
                found[pair.feature] = (_spread(before.labels), _spread(now.labels))
    return found


def _spread(labels: dict[str, int]) -> list[str]:
    """Labels in their shares."""
    whole, so_far, found = sum(labels.values()), 0, list[str]()
    for label, count in labels.items():
        so_far += count
        found += [label] * (round(so_far / whole * DRAWN) - len(found))
    return found


async def report(columns: Columns) -> bytes:
    """The page as HTML.

    Raises:
        MissingExtra: Evidently is not installed.
        Unavailable: it made none.
    """
    if find_spec("evidently") is None:
        raise MissingExtra("Evidently, which draws this report,", "reports")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "app.monitoring.evidently_report"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, **NO_TELEMETRY},
    )
    try:
        async with asyncio.timeout(LIMIT_S):
            page, _ = await process.communicate(orjson.dumps(columns))
    except TimeoutError:
        page = b""
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if not page:
        raise Unavailable(
            "Evidently could not draw the report. GET /v1/drift has the same figures; ask the "
            "operator to look at the installed release of evidently.",
            code="report_failed",
        )
    return page


def _refuse(event: str, _: Any) -> None:
    if event in REFUSED:
        raise PermissionError(f"{event} is not for a report")


def _draw(columns: Columns) -> str:
    import pandas
    import pandas.core.dtypes.common as of_pandas

    if not hasattr(of_pandas, "infer_dtype_from_object"):  # gone from pandas 3; Evidently 0.7
        of_pandas.infer_dtype_from_object = lambda dtype: dtype.type  # looks for it
    from evidently import Report
    from evidently.presets import DataDriftPreset

    before, now = (
        pandas.DataFrame({name: values[side] for name, values in columns.items()})
        for side in (0, 1)
    )
    page: str = Report([DataDriftPreset()]).run(now, before).get_html_str(as_iframe=False)
    return page


def main() -> None:
    """Read columns from the standard input and write the page to the output."""
    out = os.dup(1)
    os.dup2(2, 1)  # what libraries print is no part of the page
    os.environ |= NO_TELEMETRY
    sys.addaudithook(_refuse)
    page = _draw(orjson.loads(sys.stdin.buffer.read()))
    with os.fdopen(out, "wb") as file:
        file.write(page.encode())


if __name__ == "__main__":
    main()
