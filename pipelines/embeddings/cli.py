"""The commands of ``ostiary pipeline``."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pipelines.embeddings.job import ModelSpec

pipeline = typer.Typer(no_args_is_help=True, help="Bulk work on files of many passages.")


def _say(line: str) -> None:
    typer.echo(line, err=True)


@pipeline.command()
def embed(
    inputs: Annotated[
        list[str],
        typer.Argument(help="Files, folders, globs or Delta tables; paths or fsspec URLs."),
    ],
    output: Annotated[str, typer.Option(help="Folder of the shards; a path or fsspec URL.")],
    text: Annotated[str, typer.Option(help="Column with the text.")] = "text",
    id_column: Annotated[
        str | None, typer.Option("--id", help="Column with the id; else file name and row.")
    ] = None,
    section: Annotated[str | None, typer.Option(help="Column with the heading path.")] = None,
    attribute: Annotated[
        list[str] | None, typer.Option(help="Column to keep as an attribute; repeat for several.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="Of a passage; 0 takes rows whole.")] = 256,
    overlap_tokens: Annotated[int, typer.Option(help="Repeated by the next passage.")] = 32,
    shard_mib: Annotated[int, typer.Option(help="Uncompressed input of one shard.")] = 8,
    shard_rows: Annotated[int, typer.Option(help="At most so many rows a shard.")] = 1_000_000,
    buckets: Annotated[
        int, typer.Option(help="Parts in which keys are matched; 4096 from 1e9 passages on.")
    ] = 256,
    workers: Annotated[int, typer.Option(help="Processes; 0 for one a processor.")] = 0,
    threads: Annotated[int, typer.Option(help="Of each process's model.")] = 1,
    runner: Annotated[str, typer.Option(help="'local' or 'ray'.")] = "local",
    address: Annotated[str, typer.Option(help="Of the Ray cluster.")] = "auto",
    gpus: Annotated[float, typer.Option(help="GPUs a Ray task takes.")] = 0,
    metrics: Annotated[
        Path | None, typer.Option(help="File to keep rewriting: JSON, or .prom for Prometheus.")
    ] = None,
    lineage: Annotated[
        str | None,
        typer.Option(envvar="OPENLINEAGE_URL", help="OpenLineage collector's URL, or a file."),
    ] = None,
    grace_s: Annotated[
        float, typer.Option(help="Seconds that running shards have to end after SIGTERM.")
    ] = 20.0,
    every_s: Annotated[float, typer.Option(help="Seconds between two lines of progress.")] = 5.0,
) -> None:
    """Embed rows in bulk into Parquet shards; run it again to resume or to bring them up to date.

    The model is the gateway's, set by OSTIARY_EMBEDDING_DIR or OSTIARY_EMBEDDING_URL.

    Exits 0 when all is there, 1 when a file or shard failed, 130 or 143 when told to stop.
    """
    from app.errors import OstiaryError
    from pipelines.embeddings.job import MIB, Columns, EmbedJob
    from pipelines.embeddings.progress import Progress, shown
    from pipelines.embeddings.run import embed as run

    try:
        model = _model(threads)
    except OstiaryError as error:
        _say(f"ostiary: {error.message}")
        raise typer.Exit(1) from error
    job = EmbedJob(
        inputs=tuple(inputs),
        output=output,
        columns=Columns(text, id_column, section, tuple(attribute or ())),
        max_tokens=max_tokens,
        overlap_tokens=overlap_tokens,
        shard_bytes=shard_mib * MIB,
        shard_rows=shard_rows,
        buckets=buckets,
        model=model,
    )
    told: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda got, _: told.append(got))
    try:
        job.check()
        crew = _runner(runner, workers, threads, address, gpus)
        try:
            report = run(
                job,
                crew,
                Progress(_say, every_s, metrics),
                lineage=lineage,
                stop=lambda: bool(told),
                grace_s=grace_s,
            )
        finally:
            crew.close()
    except OstiaryError as error:
        _say(f"ostiary: {error.message}")
        raise typer.Exit(1) from error
    for line in report.failed:
        _say(f"failed: {line}")
    typer.echo(
        f"{report.state}: {report.shards:,} shards, {report.passages:,} passages; "
        f"{report.embedded:,} embedded, {report.copied:,} copied, {report.errors:,} errors "
        f"in {shown(report.seconds)}"
    )
    if report.state == "stopped":
        raise typer.Exit(128 + told[0])
    if report.state == "incomplete":
        raise typer.Exit(1)


def _model(threads: int) -> ModelSpec:
    """The gateway's own model, so that the shards fit its collections."""
    from app.settings import Settings
    from pipelines.embeddings.job import ModelSpec

    own = Settings()
    folder = own.embedding_dir
    if folder is not None and not own.embedding_url:
        from app.retrieval.conversion import with_onnx

        folder = with_onnx(folder, own.data_dir / "models").absolute()
    return ModelSpec(
        folder=str(folder) if folder else None,
        file=own.embedding_file,
        threads=threads,
        passage_prefix=own.embedding_passage_prefix,
        dimensions=own.embedding_dimensions,
        url=own.embedding_url,
        name=own.embedding_model,
        max_tokens=own.embedding_max_tokens,
    )


def _runner(name: str, workers: int, threads: int, address: str, gpus: float) -> Any:
    if name == "ray":
        from pipelines.embeddings.ray_runner import RayRunner

        return RayRunner(address, threads, gpus)
    if name != "local":
        raise typer.BadParameter(f"The runner is {name!r}; give 'local' or 'ray'.")
    from pipelines.embeddings.runners import LocalRunner

    return LocalRunner(workers or max(1, (os.cpu_count() or 1) // threads))


@pipeline.command()
def prune(output: Annotated[str, typer.Argument(help="Folder of the shards.")]) -> None:
    """Delete the shards of inputs that are gone or changed."""
    from app.errors import OstiaryError
    from pipelines.embeddings.run import prune as run

    try:
        typer.echo(f"{run(output):,} old shards deleted.")
    except OstiaryError as error:
        _say(f"ostiary: {error.message}")
        raise typer.Exit(1) from error
