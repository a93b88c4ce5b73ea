"""The embedded vLLM, for real: it serves, heals from every kill, and never outlives the gateway.

Set OSTIARY_VLLM_PYTHON to the Python of an environment with vLLM.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from app.errors import BadRequest, NotFound
from app.llm import tether, weights
from app.llm.router import Router
from app.llm.server import VllmServer, fastest_dtype, find_python
from app.llm.upstream import Upstream, UpstreamCut, UpstreamUnavailable, delta_text

NAME = "smollm2-135m-instruct"
READY_S = 240.0
BODY = {
    "model": NAME,
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "temperature": 0,
    "max_tokens": 24,
}
LONG = BODY | {"max_tokens": 1500, "ignore_eos": True}

HOLDER = """
import asyncio, pathlib, sys
from app.llm.server import VllmServer

async def hold():
    python, model, run = map(pathlib.Path, sys.argv[1:])
    server = VllmServer(python=python, prepare=lambda: model, served_name="m", run_dir=run)
    await server.start()
    await server.wait_ready(240)
    print("ready", flush=True)
    await asyncio.Event().wait()

asyncio.run(hold())
"""


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [("avx2 avx512f avx512_bf16", "bfloat16"), ("amx_bf16 avx2", "bfloat16"), ("avx2", "float32")],
)
def test_the_number_format_is_one_that_the_processor_can_reckon_in(
    tmp_path: Path, flags: str, dtype: str
) -> None:
    (tmp_path / "cpuinfo").write_text(f"flags\t\t: fpu {flags}\n")
    assert fastest_dtype(tmp_path / "cpuinfo") == dtype
    assert fastest_dtype(tmp_path / "none") == "auto"


async def test_without_vllm_the_server_is_disabled_and_says_so(tmp_path: Path) -> None:
    assert find_python(None, tmp_path / "data", tmp_path) is None
    assert find_python(tmp_path / "none", tmp_path) is None
    assert find_python(Path(sys.executable), tmp_path) == Path(sys.executable)
    server = VllmServer(
        python=None, prepare=lambda: tmp_path, served_name=NAME, run_dir=tmp_path / "run"
    )
    await server.start()
    assert server.state == "disabled"
    with pytest.raises(UpstreamUnavailable) as caught:
        await server.wait_ready(10)
    assert caught.value.code == "llm_disabled"
    await server.stop()


async def test_a_server_that_cannot_start_is_down_with_a_log_and_stops_cleanly(
    tmp_path: Path,
) -> None:
    server = VllmServer(
        python=Path(sys.executable),
        prepare=lambda: tmp_path / "no-model",
        served_name=NAME,
        run_dir=tmp_path / "run",
    )
    await server.start()
    async with asyncio.timeout(30):
        while server.starts < 2:  # it tries again by itself
            await asyncio.sleep(0.02)
    with pytest.raises(UpstreamUnavailable, match=r"vllm\.log"):
        await server.wait_ready(0.1)
    await server.stop()
    assert server.state == "down"
    assert (tmp_path / "run" / "vllm.log").stat().st_mode & 0o077 == 0


@pytest.fixture(scope="session")
def model(converted_model: Path) -> Path:
    return converted_model


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def server(
    vllm_python: Path, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[VllmServer]:
    made = VllmServer(
        python=vllm_python,
        prepare=lambda: model,
        served_name=NAME,
        run_dir=tmp_path_factory.mktemp("vllm"),
    )
    await made.start()
    await made.wait_ready(READY_S)
    yield made
    await made.stop()


@pytest_asyncio.fixture
async def router(server: VllmServer) -> AsyncIterator[Router]:
    await server.wait_ready(READY_S)
    made = Router({NAME: Upstream(server.url, server.api_key)})
    await made.start()
    yield made
    await made.stop()


def family(server: VllmServer) -> list[tether.Process]:
    noted = json.loads((server._run_dir / "vllm.pid").read_text())
    return tether.processes_of_session(int(noted["pid"]))


def member(server: VllmServer, name: str) -> int:
    return next(process.pid for process in family(server) if name in process.command)


def left_in_shm() -> set[str]:
    return {path.name for path in Path("/dev/shm").glob("psm_*")}


async def until_gone(session: int) -> None:
    async with asyncio.timeout(30):
        while tether.processes_of_session(session):
            await asyncio.sleep(0.05)


@pytest.mark.slow
async def test_real_weights_are_converted_once(model: Path, vllm_python: Path) -> None:
    before = (model / "model.safetensors").stat().st_mtime_ns
    assert (model / "chat_template.jinja").exists()
    assert weights.convert(weights.packaged_gguf(), model, vllm_python) == model
    assert (model / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.slow
async def test_real_vllm_answers_streamed_and_not_alike(router: Router) -> None:
    whole = await router.send(dict(BODY))
    answer = whole["choices"][0]["message"]["content"]
    assert "Paris" in answer and whole["usage"]["completion_tokens"] > 0
    options = {"stream_options": {"include_usage": True}}
    async with await router.stream(BODY | options) as stream:
        chunks = [chunk async for chunk in stream]
    assert "".join(map(delta_text, chunks)) == answer
    assert chunks[-1]["usage"]["prompt_tokens"] == whole["usage"]["prompt_tokens"]


@pytest.mark.slow
async def test_real_refusals_have_our_shape(server: VllmServer, router: Router) -> None:
    with pytest.raises(BadRequest) as refused:
        await router.send(BODY | {"temperature": "John Smith"})
    assert "John" not in refused.value.message and refused.value.param == "body.temperature"
    upstream = Upstream(server.url, server.api_key)
    with pytest.raises(NotFound) as unknown:
        await upstream.send(BODY | {"model": "nope"})
    assert unknown.value.code == "model_not_found"
    assert [m["id"] for m in await upstream.models()] == [NAME]
    assert "root" not in (await upstream.models())[0]
    await upstream.close()
    stranger = Upstream(server.url, "wrong")
    with pytest.raises(UpstreamUnavailable, match="refused the gateway's key"):
        await stranger.send(dict(BODY))
    await stranger.close()


@pytest.mark.slow
async def test_the_key_is_not_on_the_command_line(server: VllmServer) -> None:
    assert all(server.api_key not in process.command for process in family(server))


@pytest.mark.slow
async def test_a_client_that_leaves_stops_the_generation(
    server: VllmServer, router: Router
) -> None:
    async with await router.stream(dict(LONG)) as stream:
        await anext(stream)
    import aiohttp

    async with aiohttp.ClientSession() as session, asyncio.timeout(5):
        while True:
            async with session.get(f"http://127.0.0.1:{server.port}/metrics") as reply:
                lines = (await reply.text()).splitlines()
            running = next(line for line in lines if line.startswith("vllm:num_requests_running"))
            if running.endswith(" 0.0"):
                break


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["EngineCore", "api_server"])
async def test_kill_9_in_mid_stream_is_told_and_heals_without_a_restart(
    server: VllmServer, router: Router, victim: str
) -> None:
    starts = server.starts
    stream = await router.stream(dict(LONG))
    await anext(stream)
    os.kill(member(server, victim), signal.SIGKILL)
    with pytest.raises(UpstreamCut):
        async for _ in stream:
            pass
    async with asyncio.timeout(30):  # the next calls fail at once instead of waiting
        while router.available(NAME):
            await asyncio.sleep(0.01)
    with pytest.raises(UpstreamUnavailable):
        await router.send(dict(BODY))
    async with asyncio.timeout(READY_S):
        while not (server.starts > starts and router.available(NAME)):
            await asyncio.sleep(0.05)
    assert "Paris" in (await router.send(dict(BODY)))["choices"][0]["message"]["content"]


@pytest.mark.slow
async def test_stop_leaves_no_process_and_kill_9_of_the_gateway_neither(
    server: VllmServer, vllm_python: Path, model: Path, tmp_path: Path
) -> None:
    before = left_in_shm()
    await server.wait_ready(READY_S)
    session = int(json.loads((server._run_dir / "vllm.pid").read_text())["pid"])
    await server.stop()
    assert server.state == "down"
    await until_gone(session)

    holder = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", HOLDER, str(vllm_python), str(model), str(tmp_path)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert holder.stdout is not None
    async with asyncio.timeout(READY_S):
        assert await holder.stdout.readline() == b"ready\n"
    children = psutil.Process(holder.pid).children(recursive=True)
    assert any("EngineCore" in " ".join(child.cmdline()) for child in children)
    holder.kill()
    await holder.wait()
    _, left = await asyncio.to_thread(psutil.wait_procs, children, 20)
    assert left == []
    assert left_in_shm() <= before
