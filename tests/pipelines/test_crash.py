"""Runs that are killed and told to stop, and what the next run makes of them."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pipelines.embeddings.run import Report
from tests.conftest import ROOT, wait_for
from tests.pipelines.corpus import contents, document, job, read_all, write_lines

Run = Callable[..., Report]


def corpus(folder: Path, rows: int) -> Path:
    """Files with repetitions inside, across shards and across files."""
    some = [document(i % (rows // 2)) | {"id": f"a{i}"} for i in range(rows)]
    write_lines(folder / "a.jsonl", some)
    write_lines(folder / "b.jsonl", [document(i) | {"id": f"b{i}"} for i in range(rows)])
    write_lines(folder / "c.jsonl", ["{", *some[::3], document(-1)])
    return folder


def start(source: Path, output: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "app.cli", "pipeline", "embed", str(source)]
    command += ["--output", str(output), "--id", "id", "--section", "section"]
    command += ["--attribute", "year", "--shard-rows", "8", "--buckets", "4", "--workers", "2"]
    return subprocess.Popen(
        [*command, *more],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def shards(output: Path) -> int:
    return len(list((output / "shards").glob("*.parquet")))


def begun(output: Path) -> bool:
    return (output / "passages").is_dir()


def over(process: subprocess.Popen[str]) -> bool:
    return process.poll() is not None


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.ZombieProcess, psutil.NoSuchProcess):
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
    return found


def await_shards(process: subprocess.Popen[str], output: Path, count: int) -> None:
    wait_for(lambda: shards(output) >= count or over(process), 60, f"{count} shards")


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory, run: Run) -> tuple[Path, Path, Report]:
    """Inputs, and what an undisturbed run makes of them."""
    root = tmp_path_factory.mktemp("calm")
    source = corpus(root / "in", 60)
    return source, root / "out", run(job(source, root / "out"))


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL the driver alone; its workers must notice."""
    workers = workers_of(process)
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive, "a worker outlived its driver"


@pytest.mark.slow
def test_a_run_killed_at_any_moment_resumes_to_the_same_bytes(tmp_path: Path, run: Run) -> None:
    """Twelve SIGKILLs of the driver and workers at random moments of one run."""
    source = corpus(tmp_path / "in", 160)
    expected = run(job(source, tmp_path / "calm"))
    rng = random.Random(7)
    output = tmp_path / "out"
    kills = workers_killed = 0
    while kills < 12:
        process = start(source, output)
        if kills % 3 == 0:  # anywhere in the reading, otherwise after some new shards
            wait_for(lambda p=process: begun(output) or over(p), 60, "the first passages")
            time.sleep(rng.uniform(0, 2.5))
        else:
            await_shards(process, output, shards(output) + rng.randint(1, 3))
            time.sleep(rng.uniform(0, 0.3))
        if over(process):
            break
        if kills % 2 and (children := workers_of(process)):
            # a worker dies first: its task goes to another one
            rng.choice(children).send_signal(signal.SIGKILL)
            workers_killed += 1
            time.sleep(rng.uniform(0, 0.5))
        kill(process)
        kills += 1
    assert kills >= 10 and workers_killed >= 4
    process = start(source, output)
    told, _ = process.communicate(timeout=300)
    assert process.returncode == 0, told
    assert contents(output) == contents(tmp_path / "calm")
    assert read_all(output).num_rows == expected.passages
    assert not list(output.rglob(".tmp-*"))


def test_a_killed_run_resumes_at_the_shard_and_embeds_none_twice(
    tmp_path: Path, run: Run, calm: tuple[Path, Path, Report]
) -> None:
    source, undisturbed, whole = calm
    process = start(source, tmp_path)
    await_shards(process, tmp_path, 2)
    kill(process)
    made = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "shards").glob("*.parquet")}
    report = run(job(source, tmp_path))
    assert report.state == "complete" and report.passages == whole.passages
    for name, changed in made.items():
        assert (tmp_path / "shards" / name).stat().st_mtime_ns == changed
    assert contents(tmp_path) == contents(undisturbed)


def test_a_worker_that_is_killed_costs_one_attempt(
    tmp_path: Path, calm: tuple[Path, Path, Report]
) -> None:
    source, undisturbed, _ = calm
    process = start(source, tmp_path)
    await_shards(process, tmp_path, 1)
    for worker in workers_of(process):
        worker.send_signal(signal.SIGKILL)
    told, _ = process.communicate(timeout=120)
    assert process.returncode == 0, told
    assert contents(tmp_path) == contents(undisturbed)


@pytest.mark.parametrize("grace", ["30", "0"])
def test_sigterm_stops_in_time_and_leaves_a_state_to_resume(
    tmp_path: Path, run: Run, grace: str, calm: tuple[Path, Path, Report]
) -> None:
    source, undisturbed, _ = calm
    output, lineage = tmp_path / "out", tmp_path / "events.jsonl"
    process = start(source, output, "--grace-s", grace, "--lineage", str(lineage))
    await_shards(process, output, 1)
    process.send_signal(signal.SIGTERM)
    told, _ = process.communicate(timeout=30)
    assert process.returncode == 143, told
    assert "stopped" in told
    assert '"ABORT"' in lineage.read_text()
    resumed = run(job(source, output), lineage=str(lineage))
    assert resumed.state == "complete"
    assert '"RUNNING"' in lineage.read_text()
    assert contents(output) == contents(undisturbed)


def test_the_command_says_what_to_do(tmp_path: Path) -> None:
    process = start(tmp_path / "nothing", tmp_path / "out")
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and "Files are found by suffix" in told
