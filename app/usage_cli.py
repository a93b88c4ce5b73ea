"""The ``ostiary usage`` command."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from app.console import client_of, run, say
from app.settings import Settings


def usage(
    group_by: Annotated[
        list[str] | None,
        typer.Option(help="key_id, model, route, day, component, tag:NAME; repeat."),
    ] = None,
    days: Annotated[int, typer.Option(help="Of the last so many days.")] = 30,
    check: Annotated[
        bool,
        typer.Option("--check", help="Reckon all costs anew from the audit records and compare."),
    ] = False,
) -> None:
    """Print what calls cost; with --check, exits 1 if the ledger differs from the records."""
    if check:
        _check()
        return

    async def work() -> None:
        groups = group_by or ["model"]
        async with client_of(Settings()) as client:
            asked = [("days", str(days)), *(("group_by", name) for name in groups)]
            found = await client.call("GET", "v1/usage?" + _query(asked))
            say("".join(f"{name:<28}" for name in groups) + f"{'calls':>10}{'USD':>18}")
            for row in found["data"]:
                values = "".join(f"{row['groups'][name] or '–':<28}" for name in groups)
                say(f"{values}{row['calls']:>10}{row['cost_usd']:>18.9f}")

    run(work())


def _query(asked: list[tuple[str, str]]) -> str:
    from urllib.parse import urlencode

    return urlencode(asked)


def _check() -> None:
    from app.monitoring.usage_check import as_table, check_usage
    from app.store.db import Database

    found: list[Any] = check_usage(Database(Settings().sql_url))
    for line in as_table(found):
        say(line)
    faults = [f"{each.tenant_id}: {fault}" for each in found for fault in each.faults]
    for fault in faults[:100]:
        say(f"FAULT: {fault}")
    if faults:
        raise typer.Exit(1)
