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
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks import rig
from benchmarks.retrieval_data import CACHE
from benchmarks.retrieval_sweep import BARE, OURS

PACKAGES = {
    "hnswlib": ("hnswlib", "numpy"),
    "usearch": ("usearch", "numpy"),
    "LanceDB": ("lancedb", "numpy"),
}
PEERS = ("hnswlib", "usearch", "Milvus Lite", "Milvus server", "LanceDB")
OWN = (*(f"ours {recipe}" for recipe in OURS), *(f"FAISS {f}" for f in ("same index", *BARE)))
TIMEOUT_S = 900.0
# run with -P: beside it lies a collections.py
_SCRIPT = rig.ROOT / "benchmarks" / "retrieval_peer.py"


class LeftOut(Exception):
    """A peer was not measured; the message says why."""


def environment(name: str) -> Path:
    """The Python with a peer's library, installed once.

    Raises:
        LeftOut: it cannot be installed.
    """
    folder = CACHE / "venvs" / name
    python, done = folder / "bin" / "python", folder / "installed"
    if done.is_file() and python.is_file():
        return python
    folder.parent.mkdir(parents=True, exist_ok=True)
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [str(python), "-m", "pip", "install", "--quiet", *PACKAGES[name]],
    ):
        told = subprocess.run(command, capture_output=True, text=True, check=False)
        if told.returncode:
            last = (told.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise LeftOut(f"cannot be installed: {last[:300]}")
    done.touch()
    return python


def version_of(name: str, python: Path) -> str:
    """The version of a peer's library, in the environment where it is installed."""
    package = PACKAGES[name][0]
    asked = f"import importlib.metadata as m; print(m.version('{package}'))"
    told = subprocess.run([str(python), "-c", asked], capture_output=True, text=True, check=True)
    return told.stdout.strip()


@contextmanager
def milvus_server() -> Iterator[tuple[str, int, Path]]:
    """A private Milvus server: its URL, its process and its data folder.

    Raises:
        LeftOut: it is not installed.
    """
    from tests.retrieval.conftest import INSTALLED, MilvusServer

    if not list(INSTALLED.glob(".installed-*")):
        raise LeftOut("is not installed: run `sh deploy/install_milvus.sh`")
    home = Path(tempfile.mkdtemp(prefix="ostiary-milvus-"))
    server = MilvusServer(home)
    try:
        server.start()
        assert server.process is not None
        yield server.url, server.process.pid, home
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)


def _resident(pid: int) -> int:
    own = psutil.Process(pid)
    total: int = sum(p.memory_info().rss for p in [own, *own.children(recursive=True)])
    return total


def _child(command: Sequence[str], threads: int) -> dict[str, Any]:
    """Run one child; ``threads`` for its OpenMP and BLAS.

    Raises:
        LeftOut: it ended in an error, or took longer than ``TIMEOUT_S``.
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
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise LeftOut(f"took longer than {TIMEOUT_S:g} s") from error
    lines = told.stdout.strip().splitlines()
    if told.returncode or not lines:
        last = (told.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise LeftOut(f"ended in an error: {last[:300]}")
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def one(name: str, data: Path, scratch: Path) -> dict[str, Any]:
    """Build and measure one engine; the building uses all cores, a search one thread.

    Raises:
        LeftOut: it could not be measured.
    """
    folder = scratch / name.replace("{lists}", "")
    if name.startswith(("ours ", "FAISS ")):
        command = [sys.executable, "-m", "benchmarks.retrieval_sweep"]
    elif name.startswith("Milvus"):
        command = [sys.executable, "-P", str(_SCRIPT)]
    else:
        command = [str(environment(name)), "-P", str(_SCRIPT)]
    rest = [name, str(data), str(folder)]
    result: dict[str, Any] = {"load_before": round(os.getloadavg()[0], 2)}
    if name == "Milvus server":
        with milvus_server() as (url, pid, home):
            before, disk = _resident(pid), _folder_bytes(home)
            result |= _child([*command, "build", *rest, url], os.cpu_count() or 1)
            result |= _child([*command, "search", *rest, url], 1)
            result |= {"own_bytes": _resident(pid) - before, "mapped_bytes": 0}
            result["disk_bytes"] = _folder_bytes(home) - disk
    else:
        result |= _child([*command, "build", *rest], os.cpu_count() or 1)
        result |= _child([*command, "search", *rest], 1)
    if name in PACKAGES:
        result["version"] = version_of(name, environment(name))
    return result


def _folder_bytes(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and not p.is_symlink())


def sweep(names: Sequence[str], data: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure the named engines; returns ``engines`` and ``left_out``."""
    found: dict[str, Any] = {"engines": {}, "left_out": {}}

    def work(scratch: Path) -> None:
        for name in names:
            began = time.perf_counter()
            try:
                found["engines"][name] = one(name, data, scratch)
            except LeftOut as why:
                found["left_out"][name] = str(why)
                say(f"{name}: {why}")
                continue
            best = at_recall(found["engines"][name]["points"])
            say(f"{name}: {best} ({time.perf_counter() - began:.0f} s)")

    rig.in_scratch(work)
    return found


def at_recall(points: Sequence[dict[str, Any]], least: float = 0.95) -> dict[str, Any] | None:
    """The point of the highest rate whose recall is at least ``least``; None without one."""
    good = [p for p in points if p["recall"] >= least]
    return max(good, key=lambda p: p["qps"]) if good else None
