"""Real servers for the tests: PostgreSQL, Redis, the gateway and Chromium, started once."""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from app.settings import normal_url
from tests.serving import started

# as the Makefile sets it; here, so that all processes of the tests begin with the same
os.environ.setdefault("HF_HUB_OFFLINE", "1")
ADMIN_KEY = "osk-00000000000000aa-" + "t" * 43
ROOT = Path(__file__).parent.parent


def missing(what: str, remedy: str) -> None:
    """Skip where a person runs the tests without a tool; fail in CI."""
    message = f"{what} is not installed; {remedy}"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def package(name: str) -> Any:
    """An optional package, imported; see :func:`missing`."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return missing(name, "`make test` installs it")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait_for(condition: Callable[[], Any], timeout_s: float = 60, what: str = "") -> Any:
    """Poll until ``condition`` gives something true, and return that."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s} s for {what or condition}")
        time.sleep(0.05)


def answers(url: str) -> int:
    """HTTP status of a GET, 0 when nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """A private PostgreSQL cluster; yields its URL without a database name."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    initdb = str(found[-1]) if found else shutil.which("initdb")
    if initdb is None:
        missing("PostgreSQL", "apt-get install postgresql")
    bin_dir = Path(str(initdb)).parent
    home = Path(tempfile.mkdtemp(prefix="ostiary-pg-"))
    user = None
    if os.geteuid() == 0:  # the server refuses to run as root
        shutil.chown(home, "postgres")
        user = "postgres"
    port, data = free_port(), home / "data"
    subprocess.run(
        [str(bin_dir / "initdb"), "-D", str(data), "-A", "trust", "-U", "postgres"],
        check=True,
        capture_output=True,
        cwd=home,
        user=user,
    )
    server = subprocess.Popen(
        [
            str(bin_dir / "postgres"),
            *("-D", str(data), "-p", str(port), "-k", str(home)),
            *("-c", "listen_addresses=127.0.0.1", "-c", "max_connections=200"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=home,
        user=user,
    )
    ready = [str(bin_dir / "pg_isready"), "-h", "127.0.0.1", "-p", str(port)]
    try:
        wait_for(
            lambda: subprocess.run(ready, capture_output=True, check=False).returncode == 0,
            what="PostgreSQL",
        )
        yield f"postgresql://postgres@127.0.0.1:{port}"
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def new_postgres_url(postgres_server: str) -> Iterator[Callable[[], str]]:
    """Makes a fresh database each time it is called; returns its URL."""
    made: list[str] = []

    def make() -> str:
        made.append(create_database(postgres_server))
        return made[-1]

    yield make
    for url in made:
        drop_database(url)


def create_database(server: str) -> str:
    """Make a fresh database on a PostgreSQL server; returns its URL."""
    import psycopg

    name = f"t{os.getpid()}_{time.monotonic_ns()}"
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"{server}/{name}"


def drop_database(url: str) -> None:
    """Drop a database with whoever is connected to it."""
    import psycopg

    server, _, name = url.rpartition("/")
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A private Redis server."""
    binary = shutil.which("redis-server")
    if binary is None:
        missing("Redis", "apt-get install redis-server")
    port = free_port()
    server = subprocess.Popen(
        [str(binary), "--port", str(port), "--save", "", "--bind", "127.0.0.1"],
        stdout=subprocess.DEVNULL,
    )

    def listening() -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_for(listening, what="Redis")
        yield f"redis://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(10)


@pytest.fixture(scope="session")
def vllm_python() -> Path:
    """The Python of vLLM's environment: OSTIARY_VLLM_PYTHON's, else the checkout's own."""
    from app.llm.server import find_python
    from app.llm.weights import packaged_gguf

    given = os.environ.get("OSTIARY_VLLM_PYTHON")
    found = find_python(Path(given) if given else None, ROOT / "ostiary-data")
    if found is None:
        missing("vLLM", "run `make install`, or set OSTIARY_VLLM_PYTHON")
    packaged_gguf()  # a clear error when the weights are not installed
    return Path(str(found))


@pytest.fixture(scope="session")
def converted_model(vllm_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the packaged weights as vLLM serves them, made once for all test processes."""
    from app.llm import weights

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # of all workers
    out = folder / "models" / "smollm2-135m-instruct"
    out.parent.mkdir(exist_ok=True)
    with (out.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return weights.convert(weights.packaged_gguf(), out, vllm_python)


@pytest.fixture(scope="session")
def django_manual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder with the pages of Django's manual, downloaded once with the real pip."""
    from app.samples import django_docs

    folder = tmp_path_factory.mktemp("manual")
    django_docs.fetch(folder)
    return folder


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a fresh database; each test runs on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        return normal_url(None, tmp_path / "test.db")
    make: Callable[[], str] = request.getfixturevalue("new_postgres_url")
    return normal_url(make(), tmp_path)


class Gateway:
    """A real ``ostiary serve`` process; ``module`` is what is run."""

    module = "app.cli"

    def __init__(self, data_dir: Path, env: dict[str, str]) -> None:
        self.data_dir = data_dir
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.key = ADMIN_KEY
        self.database_url = normal_url(env.get("OSTIARY_DATABASE_URL"), data_dir / "ostiary.db")
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith("OSTIARY_")},
            "OSTIARY_DATA_DIR": str(data_dir),
            "OSTIARY_PORT": str(self.port),
            "OSTIARY_BOOTSTRAP_ADMIN_KEY": ADMIN_KEY,
            "OSTIARY_LLM_EMBEDDED": "false",
            "HF_HUB_OFFLINE": "1",
            **env,
        }
        self.process: BaseProcess | None = None

    @property
    def log(self) -> Path:
        return self.data_dir / "serve.log"

    def start(self, timeout_s: float = 60) -> Gateway:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self.process = started(self.env, self.log, self.module)

        def ready() -> bool:
            assert self.process is not None
            if not self.process.is_alive():
                raise RuntimeError("gateway ended: " + self.log.read_text()[-4000:])
            return answers(self.url + "/readyz") == 200

        wait_for(ready, timeout_s, "the gateway")
        return self

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.join()

    def stop(self) -> None:
        assert self.process is not None
        self.process.terminate()
        self.process.join(40)
        if self.process.is_alive():
            self.kill()
            raise TimeoutError("the gateway did not end within 40 s")


@pytest.fixture(scope="session")
def fake_model_server() -> Iterator[str]:
    """The stub model server (it answers at once; for the gateway's own behaviour)."""
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.stub_model_server", "--port", str(port)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/health") == 200, what="stub")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(10)


@contextmanager
def serving(
    request: pytest.FixtureRequest, data_dir: Path, env: dict[str, str]
) -> Iterator[Gateway]:
    """A gateway on the database that the fixture's parameter names."""
    if request.param == "postgresql":
        env = env | {
            "OSTIARY_DATABASE_URL": create_database(request.getfixturevalue("postgres_server"))
        }
    server = Gateway(data_dir, env).start()
    yield server
    server.stop()
    if request.param == "postgresql":
        drop_database(env["OSTIARY_DATABASE_URL"])


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def gateway(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    fake_model_server: str,
) -> Iterator[Gateway]:
    """One gateway on each database, shared by the tests that do not harm it."""
    folder = tmp_path_factory.mktemp("gateway")
    (folder / "followed").mkdir()
    (folder / "followed" / "rates.md").write_text("# Rates\n\nThe toll is 3 crowns.\n")
    source = {"kind": "folder", "path": str(folder / "followed"), "tenants": ["*"], "watch": False}
    env = {
        "OSTIARY_LLM_URL": fake_model_server,
        "OSTIARY_LLM_MODEL": "stub",
        "OSTIARY_SOURCES": json.dumps({"followed": source}),
    }
    with serving(request, folder / "data", env) as server:
        yield server


@pytest.fixture
def new_gateway(tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    """Makes gateways with settings of the test's own; all are stopped at the end."""
    made: list[Gateway] = []

    def make(**env: str) -> Gateway:
        server = Gateway(tmp_path / f"data{len(made)}", env)
        made.append(server)
        return server

    yield make
    for server in made:
        if server.process is not None and server.process.is_alive():
            server.kill()
