"""The embedded vLLM process: starts it, watches it, starts it again when it dies, stops it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import secrets
import shutil
import socket
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Literal

from app.errors import OstiaryError
from app.llm.stale import reap
from app.llm.upstream import Upstream
from app.llm.upstream_errors import UpstreamUnavailable

log = logging.getLogger(__name__)

State = Literal["starting", "ready", "down", "disabled"]

_CHECKOUT = Path(__file__).parents[2]
_TETHER = Path(__file__).with_name("tether.py")
_START_S = 600.0
_STOP_S = 15.0
_LOOK_STARTING_S, _LOOK_READY_S = 0.5, 2.0
_MISSES_TO_RESTART = 5
_BACKOFF_FIRST_S, _BACKOFF_MOST_S = 0.5, 30.0
_STEADY_S = 60.0
_LOG_MOST_BYTES = 20 * 2**20


def find_python(setting: Path | None, data_dir: Path, checkout: Path = _CHECKOUT) -> Path | None:
    """Return the Python of vLLM's environment.

    It is the one set, else that of a folder `.vllm` beside the checkout or beside `data_dir`.
    """
    places = (checkout, data_dir.absolute().parent)
    for found in [setting] if setting else [p / ".vllm/bin/python" for p in places]:
        if found.is_file():
            return found.absolute()  # not resolved: the link is what names the environment
    return None


def free_port() -> int:
    """Return a free TCP port of this machine."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def fastest_dtype(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the number format in which this machine's processor serves the model fastest.

    Without instructions for bfloat16 a prompt of 930 tokens took 23.8 s, in float32 4.3 s (two
    cores with AVX2).
    """
    try:
        flags = cpuinfo.read_text()
    except OSError:
        return "auto"
    return "bfloat16" if re.search(r"\b(avx512_bf16|amx_bf16)\b", flags) else "float32"


class VllmServer:
    """Real vLLM in its own environment and process, on this machine only.

    `prepare` returns the model's folder; it may take long (it runs in a thread) and is asked
    again before each start (a folder that is whole must return at once). Without `python` the
    server is disabled. `on_ready` is called each time the server has come up.
    """

    def __init__(
        self,
        *,
        python: Path | None,
        prepare: Callable[[], Path],
        served_name: str,
        run_dir: Path,
        max_model_len: int = 2048,
        kv_cache_gib: int = 1,
        on_ready: Callable[[], None] | None = None,
    ) -> None:
        self._python, self._prepare = python, prepare
        self._served_name, self._run_dir = served_name, run_dir.absolute()
        self._max_model_len, self._kv_cache_gib = max_model_len, kv_cache_gib
        # vLLM's sockets; a UNIX socket's path has at most 107 bytes, 37 of them for vLLM's names.
        short = len(str(run_dir.absolute())) < 64
        self._sockets = (
            run_dir.absolute() / "ipc" if short else Path(tempfile.mkdtemp(prefix="vllm-"))
        )
        self._on_ready = on_ready
        self.port = free_port()
        self.api_key = secrets.token_urlsafe(32)
        self._state: State = "disabled" if python is None else "down"
        self._changed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._supervisor: asyncio.Task[None] | None = None
        self._process: Process | None = None
        self.starts = 0

    @property
    def url(self) -> str:
        """Base URL of the server's OpenAI API; the same over restarts."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def state(self) -> State:
        """`starting`, `ready`, `down` (a restart follows) or `disabled` (no vLLM here)."""
        return self._state

    @property
    def _pidfile(self) -> Path:
        return self._run_dir / "vllm.pid"

    def _enter(self, state: State) -> None:
        if state != self._state:
            log.info("embedded vLLM is %s", state)
        self._state = state
        self._changed.set()
        self._changed = asyncio.Event()

    async def start(self) -> None:
        """Begin to run and watch the server; returns at once."""
        if self._python is None or self._supervisor is not None:
            return
        self._run_dir.mkdir(parents=True, exist_ok=True)
        self._enter("starting")
        self._supervisor = asyncio.create_task(self._supervise())

    async def stop(self) -> None:
        """Stop the server and everything it started."""
        self._stopping.set()
        if self._supervisor is not None:
            await self._supervisor
            self._supervisor = None
        if self._state != "disabled":
            self._enter("down")

    async def wait_ready(self, timeout: float) -> None:  # noqa: ASYNC109 (part of the message)
        """Return once the server answers.

        Raises UpstreamUnavailable after `timeout` seconds, or at once when disabled.
        """
        if self._state == "disabled":
            raise UpstreamUnavailable(
                "No vLLM environment was found on this machine.", code="llm_disabled"
            )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self._state != "ready":
                    await self._changed.wait()
        if self._state != "ready":
            raise UpstreamUnavailable(
                f"The embedded model server was not ready in {timeout:.0f} s "
                "(operator: its vllm.log lies in the data directory)."
            )

    async def _supervise(self) -> None:
        backoff = _BACKOFF_FIRST_S
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set():
            self._enter("starting")
            began = loop.time()
            try:
                await self._run_once()
            except OstiaryError as error:
                log.error("embedded vLLM cannot start: %s", error.message)
            except Exception:  # whatever it was, the next start may heal it
                log.exception("embedded vLLM cannot start")
            finally:
                await self._end_process()
            if self._stopping.is_set():
                return
            self._enter("down")
            if loop.time() - began > _STEADY_S:
                backoff = _BACKOFF_FIRST_S
            await self._pause(backoff)
            backoff = min(2 * backoff, _BACKOFF_MOST_S)

    async def _run_once(self) -> None:
        """Run the server until it dies, stops answering, or is to be stopped."""
        model = await asyncio.to_thread(self._prepare)
        if await asyncio.to_thread(reap, self._pidfile):
            log.warning("ended a model server that an earlier run had left behind")
        if self._stopping.is_set():
            return
        self._process = await self._launch(model)
        self.starts += 1
        probe = Upstream(self.url, self.api_key)
        try:
            await self._watch(self._process, probe)
        finally:
            await probe.close()

    async def _watch(self, process: Process, probe: Upstream) -> None:
        loop = asyncio.get_running_loop()
        began, misses = loop.time(), 0
        while not self._stopping.is_set() and process.returncode is None:
            healthy = await probe.health(timeout_s=5.0)
            if healthy and self._state != "ready":
                self._enter("ready")
                if self._on_ready is not None:
                    self._on_ready()
                log.info("embedded vLLM took %.0f s to start", loop.time() - began)
            misses = 0 if healthy else misses + 1
            if self._state == "ready" and misses >= _MISSES_TO_RESTART:
                log.error("embedded vLLM no longer answers; starting it again")
                return
            if self._state == "starting" and loop.time() - began > _START_S:
                log.error("embedded vLLM was not ready in %.0f s; starting it again", _START_S)
                return
            ready = self._state == "ready" and healthy
            await self._pause(_LOOK_READY_S if ready else _LOOK_STARTING_S, process)
        if not self._stopping.is_set():
            log.error("embedded vLLM ended with status %s", process.returncode)

    async def _pause(self, seconds: float, process: Process | None = None) -> None:
        """Wait, but no longer than until a stop is asked for or `process` ends."""
        waits: list[asyncio.Task[Any]] = [asyncio.create_task(self._stopping.wait())]
        if process is not None:
            waits.append(asyncio.create_task(process.wait()))
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _launch(self, model: Path) -> Process:
        shutil.rmtree(self._sockets, ignore_errors=True)
        self._sockets.mkdir(parents=True)
        command = [
            *(sys.executable, "-I", str(_TETHER), str(self._pidfile), str(self._python)),
            *("-m", "vllm.entrypoints.openai.api_server", "--model", str(model.absolute())),
            *("--served-model-name", self._served_name, "--host", "127.0.0.1"),
            *("--port", str(self.port), "--max-model-len", str(self._max_model_len)),
            *("--dtype", fastest_dtype(), "--enforce-eager", "--disable-uvicorn-access-log"),
        ]
        with _open_log(self._run_dir / "vllm.log") as output:
            return await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=self._environment(),
                cwd=self._run_dir,
                start_new_session=True,
            )

    def _environment(self) -> dict[str, str]:
        """Return the server's variables: ours and Python's stay out, nothing is fetched."""
        ours = ("OSTIARY_", "PYTHON", "VIRTUAL_ENV")
        environment = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
        environment |= {
            "VLLM_API_KEY": self.api_key,  # not an argument: those are open to every user
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "HF_HOME": str(self._run_dir / "cache"),
            "VLLM_CACHE_ROOT": str(self._run_dir / "cache"),
            "VLLM_CONFIG_ROOT": str(self._run_dir / "cache"),
            "VLLM_CPU_KVCACHE_SPACE": str(self._kv_cache_gib),
            # Measured on 2 cores: bound to one core 58 tokens/s, two unbound threads 10-20; the
            # other core stays free for the gateway.
            "VLLM_CPU_OMP_THREADS_BIND": "auto",
            "VLLM_RPC_BASE_PATH": str(self._sockets),
        }
        return environment

    async def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            if process.stdin is not None:
                process.stdin.close()  # the tether lets go and ends the whole group
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_STOP_S):
                    await process.wait()
            if process.returncode is None:
                process.kill()
                await process.wait()
        await asyncio.to_thread(reap, self._pidfile)
        shutil.rmtree(self._sockets, ignore_errors=True)


def _open_log(path: Path) -> IO[bytes]:
    if path.exists() and path.stat().st_size > _LOG_MOST_BYTES:
        path.replace(path.with_suffix(".log.1"))
    path.touch(mode=0o600)
    return path.open("ab")
