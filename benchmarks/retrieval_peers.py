"""Starts every engine of the retrieval benchmark in a process of its own, and keeps what it tells.

A peer is installed once, in an environment of its own below the cache; one that cannot be
installed or ends in an error is named with the reason.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import retrieval_peer as peer
from benchmarks import rig
from benchmarks.retrieval_sweep import BARE, OURS

PACKAGES = {
    "hnswlib": ("hnswlib", "numpy"),
    "usearch": ("usearch", "numpy"),
    "LanceDB": ("lancedb", "numpy"),
}
PEERS = ("hnswlib", "usearch", "Milvus Lite", "Milvus server", "LanceDB")
OWN = (*(f"ours {recipe}" for recipe in OURS), *(f"FAISS {f}" for f in ("same index", *BARE)))
LIMIT_S = 1800.0  # of one build or search
BUILT = "built.json"
# run with -P: beside it lies a collections.py
_SCRIPT = rig.ROOT / "benchmarks" / "retrieval_peer.py"


class LeftOut(Exception):
    """A peer was not measured; the message says why."""


def environment(name: str) -> Path:
    """The Python with a peer's library, installed once.

    Raises:
        LeftOut: it cannot be installed.
    """
    try:
        return rig.environment(name, PACKAGES[name])
    except rig.NotInstalled as error:
        raise LeftOut(str(error)) from error


def version_of(name: str, python: Path) -> str:
    """The version of a peer's library, in the environment where it is installed."""
    return rig.version_in(python, PACKAGES[name][0])


@contextmanager
def milvus_server(home: Path) -> Iterator[tuple[str, int]]:
    """A private Milvus server over a data folder: its URL and its process.

    Raises:
        LeftOut: it is not installed.
    """
    from tests.retrieval.conftest import INSTALLED, MilvusServer

    if not list(INSTALLED.glob(".installed-*")):
        raise LeftOut("is not installed: run `sh deploy/install_milvus.sh`")
    server = MilvusServer(home)
    try:
        server.start()
        assert server.process is not None
        yield server.url, server.process.pid
    finally:
        server.stop()


def _child(command: Sequence[str], threads: int, limit_s: float = LIMIT_S) -> dict[str, Any]:
    """Run one child; ``threads`` for its OpenMP and BLAS.

    Raises:
        LeftOut: it ended in an error, or took longer than ``limit_s``.
    """
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
    env = {**os.environ, **dict.fromkeys(names, str(threads))}
    env |= {"LANCE_CPU_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
    try:
        told = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            env=env,
            cwd=rig.ROOT,
            timeout=limit_s,
        )
    except subprocess.TimeoutExpired as error:
        raise LeftOut(f"took longer than {limit_s:g} s") from error
    lines = told.stdout.strip().splitlines()
    if told.returncode or not lines:
        last = (told.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise LeftOut(f"ended in an error: {last[:300]}")
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def _command(name: str) -> list[str]:
    if name.startswith(("ours ", "FAISS ")):
        return [sys.executable, "-m", "benchmarks.retrieval_sweep"]
    if name.startswith("Milvus"):
        return [sys.executable, "-P", str(_SCRIPT)]
    return [str(environment(name)), "-P", str(_SCRIPT)]


def build(name: str, data: Path, folder: Path, limit_s: float) -> dict[str, Any]:
    """Build one engine with all cores; what is told of it is kept in the folder too.

    Raises:
        LeftOut: it could not be built.
    """
    command = [*_command(name), "build", name, str(data), str(folder)]
    cores = os.cpu_count() or 1
    result: dict[str, Any] = {"build_load": round(os.getloadavg()[0], 2)}
    if name == "Milvus server":
        with milvus_server(folder) as (url, pid):
            disk, spent = _folder_bytes(folder), peer.processor_s(pid)
            own = peer.resident(pid)["own"]
            result |= _child([*command, url], cores, limit_s)
            result["build_cpu_s"] += round(peer.processor_s(pid) - spent, 2)
            result |= {"empty_bytes": own, "disk_bytes": _folder_bytes(folder) - disk}
    else:
        result |= _child(command, cores, limit_s)
    if name in PACKAGES:
        result["version"] = version_of(name, environment(name))
    (folder / BUILT).write_text(json.dumps(result))
    return result


def search(name: str, data: Path, folder: Path, limit_s: float) -> dict[str, Any]:
    """Measure the searches of an engine that was built, one thread each.

    Raises:
        LeftOut: it could not be measured.
    """
    result: dict[str, Any] = json.loads((folder / BUILT).read_text())
    command = [*_command(name), "search", name, str(data), str(folder)]
    if name != "Milvus server":
        result["load_before"] = round(os.getloadavg()[0], 2)
        return result | _child(command, 1, limit_s)
    with milvus_server(folder) as (url, pid):
        result["load_before"] = round(os.getloadavg()[0], 2)
        result |= _child([*command, url], 1, limit_s)
        gained = peer.resident(pid)["own"] - result.pop("empty_bytes")
    return result | {"own_bytes": gained, "mapped_bytes": 0}


def _folder_bytes(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and not p.is_symlink())


def sweep(
    names: Sequence[str],
    data: Path,
    say: Callable[[str], None],
    built: Path | None = None,
    only_build: bool = False,
    limit_s: float = LIMIT_S,
) -> dict[str, Any]:
    """Measure the named engines; returns ``engines`` and ``left_out``.

    What is in the folder ``built`` is not built again, and what is built stays there; without it
    everything is removed at the end.
    """
    found: dict[str, Any] = {"engines": {}, "left_out": {}}

    def work(scratch: Path) -> None:
        for name in names:
            began = time.perf_counter()
            folder = scratch / name.replace("{lists}", "")
            try:
                if not (folder / BUILT).is_file():
                    shutil.rmtree(folder, ignore_errors=True)
                    folder.mkdir(parents=True)
                    say(f"{name}: {build(name, data, folder, limit_s)}")
                if only_build:
                    continue
                found["engines"][name] = search(name, data, folder, limit_s)
            except LeftOut as why:
                found["left_out"][name] = str(why)
                say(f"{name}: {why}")
                continue
            best = at_recall(found["engines"][name]["points"])
            say(f"{name}: {best} ({time.perf_counter() - began:.0f} s)")

    if built is None:
        rig.in_scratch(work)
    else:
        work(built)
    return found


def at_recall(points: Sequence[dict[str, Any]], least: float = 0.95) -> dict[str, Any] | None:
    """The point of the highest rate whose recall is at least ``least``; None without one."""
    good = [p for p in points if p["recall"] >= least]
    return max(good, key=lambda p: p["qps"]) if good else None
