"""The ``ostiary audit`` commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.console import client_of, run, say
from app.settings import Settings

audit = typer.Typer(no_args_is_help=True, help="The audit log: verify, export, sign.")


def _trusted(settings: Settings, given: list[Path]) -> list[bytes]:
    """The keys of the given files, else of this machine's."""
    from app.monitoring.signing import BadKeyFile, public_keys

    own = [p for p in (settings.audit_key_file, settings.audit_trusted_keys) if p and p.exists()]
    try:
        return [key for path in given or own for key in public_keys(path)]
    except BadKeyFile as error:
        raise typer.BadParameter(str(error)) from None


@audit.command("verify")
def verify_audit(
    checkpoints: Annotated[
        Path | None,
        typer.Option(exists=True, help="File of checkpoints; else the one of the settings."),
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option(exists=True, help="Verify this exported file instead of the database."),
    ] = None,
    public_key: Annotated[
        list[Path] | None,
        typer.Option(exists=True, help="PEM file of trusted keys; repeat. Else this machine's."),
    ] = None,
) -> None:
    """Verify every chain, or an export; tells each fault and exits 1 if there is one."""
    from app.monitoring.export_check import verify_export
    from app.monitoring.verification import verify
    from app.store.db import Database

    settings = Settings()
    trusted = _trusted(settings, public_key or [])
    if export is not None:
        verdict = verify_export(export, trusted=trusted, checkpoints=checkpoints)
    else:
        if checkpoints is None and settings.checkpoint_file.exists():
            checkpoints = settings.checkpoint_file
        verdict = verify(Database(settings.sql_url), trusted=trusted, checkpoints=checkpoints)
    for fault in verdict.faults:
        say(f"FAULT: {fault} [tenant {fault.tenant_id}, seq {fault.seq}, {fault.kind}]")
    if verdict.faults:
        raise typer.Exit(1)
    believed = "" if trusted else " No key was given: what names itself was believed."
    checked = "the checkpoint file" if checkpoints is not None else "no checkpoint file"
    say(
        f"{verdict.records} records of {verdict.tenants} tenants verified, "
        f"{verdict.checkpoints} checkpoints, {checked}.{believed}"
    )


@audit.command("export")
def export_audit(
    out: Annotated[Path, typer.Argument(help="File to write: .jsonl or .parquet.")],
    since: Annotated[str | None, typer.Option(help="RFC 3339; calls that began from then.")] = None,
    until: Annotated[str | None, typer.Option(help="RFC 3339; calls that began before.")] = None,
) -> None:
    """Export the records of the key's tenant with what is needed to verify them elsewhere."""
    form = "parquet" if out.suffix == ".parquet" else "jsonl"
    asked = {"format": form, **{k: v for k, v in (("since", since), ("until", until)) if v}}

    async def work() -> None:
        async with client_of(Settings()) as client:
            size = await client.download("v1/audit/export", out, **asked)
            say(f"{size:,} bytes written.")

    run(work())


@audit.command("checkpoint")
def take_checkpoint() -> None:
    """Sign a checkpoint of the tenant's chain now."""

    async def work() -> None:
        async with client_of(Settings()) as client:
            found = await client.call("POST", "v1/audit/checkpoints", {})
            say(f"Checkpoint {found['number']}: record {found['seq']}, {found['hash']}")

    run(work())


@audit.command("keys")
def show_keys() -> None:
    """Print the public keys of the audit log as the gateway tells them, in PEM."""

    async def work() -> None:
        async with client_of(Settings()) as client:
            for key in (await client.call("GET", "v1/audit/keys"))["data"]:
                state = "signs" if key["signs"] else "signed before"
                say(f"# {key['id']} {state}\n{key['public_key'].strip()}")

    run(work())


@audit.command("rotate-key")
def rotate_key() -> None:
    """Put a new signing key before the old one; a running gateway takes it up in seconds."""
    from app.monitoring.signing import BadKeyFile, rotate

    path = Settings().audit_key_file
    try:
        say(f"Key {rotate(path)} signs from now on; the old one stays in {path.name}.")
    except (BadKeyFile, OSError):
        typer.echo(f"ostiary: there is no usable key in {path.name}; start the gateway.", err=True)
        raise typer.Exit(1) from None
