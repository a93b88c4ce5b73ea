"""What the gateway's benchmarks stand on: real server processes, and a word on the machine."""

from __future__ import annotations

import json
import os
import platform
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
KEY = "osk-00000000000000aa-" + "b" * 43
OPEN_FILES = 16_384
PEERS = (
    Path(os.environ.get("OSTIARY_BENCH_CACHE", tempfile.gettempdir())) / "ostiary-peers"
)  # environments of other products
# Limits count every call and refuse none: what is measured is their cost.
LIMITS = {
    "OSTIARY_RATE_RPM": "1000000000",
    "OSTIARY_RATE_TPM": "1000000000000",
    "OSTIARY_TENANT_RATE_RPM": "1000000000",
    "OSTIARY_BUDGET_USD_PER_DAY": "1000000000",
}


@dataclass(frozen=True, slots=True)
class Server:
    """A running process that answers at ``url``."""

    name: str
    url: str
    pid: int
    ready_after_s: float
    key: str = KEY


class NotInstalled(Exception):
    """A peer cannot be measured here; the message says why."""


def environment(name: str, packages: Sequence[str]) -> Path:
    """The Python of an environment of its own with these packages, installed once.

    Raises:
        NotInstalled: they cannot be installed.
    """
    folder = PEERS / name
    python, done = folder / "bin" / "python", folder / "installed"
    if done.is_file() and python.is_file():
        return python
    folder.parent.mkdir(parents=True, exist_ok=True)
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [str(python), "-m", "pip", "install", "--quiet", *packages],
    ):
        told = subprocess.run(command, capture_output=True, text=True, check=False)
        if told.returncode:
            last = (told.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise NotInstalled(f"cannot be installed: {last[:300]}")
    done.touch()
    return python


def version_in(python: Path, package: str) -> str:
    """The version of a package in the environment where it is installed."""
    asked = f"import importlib.metadata as m; print(m.version('{package}'))"
    told = subprocess.run([str(python), "-c", asked], capture_output=True, text=True, check=True)
    return told.stdout.strip()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def status_of(url: str) -> int:
    """HTTP status of a GET, 0 when nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def plain_environment() -> dict[str, str]:
    """What a process of this checkout is started with: none of this shell's own settings.

    Compiled files are kept, as pip leaves them where a package is installed; a machine that is
    told not to write them would compile ``app/`` at each start.
    """
    own = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("OSTIARY_") and name != "PYTHONDONTWRITEBYTECODE"
    }
    return {**own, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}


@contextmanager
def running(
    name: str,
    command: Sequence[str],
    *,
    port: int,
    ready: str,
    env: dict[str, str],
    folder: Path,
    timeout_s: float = 120,
    key: str = KEY,
) -> Iterator[Server]:
    """Start ``python -m <command>`` in ``folder``, wait for ``ready``, stop it at the end.

    A command that begins with a path is started as it is.

    Raises:
        RuntimeError: it ended, or was not ready in time; the message holds its last words.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{name.replace(' ', '-')}.log"
    url = f"http://127.0.0.1:{port}"
    own_python = [] if Path(command[0]).is_absolute() else [sys.executable, "-m"]
    began = time.perf_counter()
    with log.open("ab") as out:
        process = subprocess.Popen(
            [*own_python, *command],
            env={**plain_environment(), **env},
            stdout=out,
            stderr=out,
            cwd=folder,  # so that no ostiary.toml of the checkout is read
        )
    try:
        while status_of(url + ready) != 200:
            if process.poll() is not None or time.perf_counter() - began > timeout_s:
                raise RuntimeError(f"{name} did not get ready: {log.read_text()[-3000:]}")
            time.sleep(0.01)
        yield Server(name, url, process.pid, time.perf_counter() - began, key)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def stub(folder: Path) -> Any:
    """The stub model server, with another word in every sentence of each reply."""
    port = free_port()
    command = ["benchmarks.stub_model_server", "--port", str(port), "--vary"]
    return running("direct", command, port=port, ready="/health", env={}, folder=folder)


def bare(folder: Path, upstream: str) -> Any:
    """The bare FastAPI + aiohttp proxy."""
    port = free_port()
    command = ["benchmarks.bare_proxy", "--port", str(port), "--upstream", upstream]
    return running("bare proxy", command, port=port, ready="/health", env={}, folder=folder)


def gateway(
    name: str, folder: Path, env: dict[str, str], command: Sequence[str] = ("app.cli", "serve")
) -> Any:
    """A real ``ostiary serve`` on SQLite in ``folder``, without the embedded model server."""
    port = free_port()
    settings = {
        "OSTIARY_DATA_DIR": str(folder / "data"),
        "OSTIARY_PORT": str(port),
        "OSTIARY_BOOTSTRAP_ADMIN_KEY": KEY,
        "OSTIARY_LLM_EMBEDDED": "false",
        **env,
    }
    return running(name, command, port=port, ready="/readyz", env=settings, folder=folder)


def _measured(upstream: str, policy: str) -> dict[str, str]:
    return {
        **LIMITS,
        "OSTIARY_LLM_URL": f"{upstream}/v1",
        "OSTIARY_LLM_MODEL": "stub",
        "OSTIARY_EMBEDDED_RETRIEVAL": "false",
        "OSTIARY_GUARDRAIL_POLICY": policy,
        "OSTIARY_LOG_LEVEL": "warning",
    }


def ours(name: str, folder: Path, upstream: str, policy: str) -> Any:
    """The gateway as measured: the whole corridor, no retrieval in the process."""
    return gateway(name, folder, _measured(upstream, policy))


def timed(name: str, folder: Path, upstream: str, policy: str, told: Path) -> Any:
    """The same with a clock around each part, written to ``told`` when it is stopped."""
    command = ("benchmarks.timed_gateway", str(told))
    return gateway(name, folder, _measured(upstream, policy), command)


@contextmanager
def all_servers(
    folder: Path, *, with_ner: bool, peer: Callable[[Path, str], Any] | None = None
) -> Iterator[dict[str, Server]]:
    """The stub (``direct``), the bare proxy, the gateway without and with names, and a peer."""
    allow_open_files()
    with ExitStack() as stack:
        direct: Server = stack.enter_context(stub(folder / "stub"))
        found = [
            direct,
            stack.enter_context(bare(folder / "bare", direct.url)),
            stack.enter_context(ours("ours", folder / "ours", direct.url, "default")),
        ]
        if with_ner:
            found.append(
                stack.enter_context(ours("ours with NER", folder / "ner", direct.url, "strict"))
            )
        if peer is not None:
            found.append(stack.enter_context(peer(folder / "peer", direct.url)))
        yield {s.name: s for s in found}


def put_load(server: Server, *options: str, number: int) -> dict[str, Any]:
    """Run the load generator in its own process against ``server``; every reply is a 200.

    Raises:
        RuntimeError: a reply was no 200, or a connection broke: such a run says nothing.
    """
    command = [sys.executable, "-m", "benchmarks.load", "--url", server.url, "--key", server.key]
    command += ["--first-number", str(number), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the load generator failed: {done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    if set(result["statuses"]) != {"200"} or result["broken"]:
        raise RuntimeError(f"{server.name} did not answer every call with 200: {result}")
    if not result["requests"]:
        raise RuntimeError(f"{server.name} answered no call in time: {result}")
    return result


def allow_open_files(most: int = OPEN_FILES) -> None:
    """Raise the limit of open files, as far as allowed, for the servers started after."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most if hard == resource.RLIM_INFINITY else min(most, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def median(values: Sequence[float], digits: int = 4) -> float:
    """The median, rounded."""
    return round(statistics.median(values), digits)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    cpu = platform.processor() or "unknown"
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = models[0].split(":", 1)[1].strip() if models else cpu
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "load_before": [round(v, 2) for v in os.getloadavg()],
    }


def sync_ms(folder: Path, times: int = 100) -> dict[str, float]:
    """Milliseconds of one 4 KiB append with fdatasync: the floor under a durable record."""
    folder.mkdir(parents=True, exist_ok=True)
    path, took = folder / "sync", []
    with path.open("wb", buffering=0) as out:
        for _ in range(times):
            began = time.perf_counter()
            out.write(b"\0" * 4096)
            os.fdatasync(out.fileno())
            took.append((time.perf_counter() - began) * 1e3)
    path.unlink()
    took.sort()
    return {"p50": round(took[times // 2], 3), "p99": round(took[times * 99 // 100], 3)}


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python, of the gateway and of the packages in the path."""
    found = {"python": platform.python_version()}
    for name in ("ostiary", "fastapi", "uvicorn", "uvloop", "httptools", "aiohttp", *packages):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def write_json(name: str, value: Any) -> None:
    """Keep a result in ``benchmarks/results``."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(value, indent=2) + "\n")


def write_result(name: str, value: Any, markdown: str) -> None:
    """Keep a result and its tables in ``benchmarks/results``."""
    write_json(name, value)
    (RESULTS / f"{name}.md").write_text(markdown)


def in_scratch(work: Callable[[Path], Any]) -> Any:
    """Do ``work`` in a folder of its own that is removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="ostiary-bench-"))
    try:
        return work(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
