"""A real Milvus server, started once, and vector engines of each kind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from app.errors import OstiaryError
from app.ids import new_id
from app.retrieval.engines.base import VectorEngine
from app.retrieval.engines.faiss import FaissEngine
from app.retrieval.engines.milvus import MilvusEngine
from app.retrieval.engines.milvus_link import MilvusLink
from tests.conftest import ROOT, free_port, missing, wait_for

INSTALLED = ROOT / ".milvus"
# A query node takes over what was sealed and indexed at its coordinator's next look: 10 s by
# default, of which a test would spend all in waiting.
SOON = {
    "QUERYCOORD_UPDATENEXTTARGETINTERVAL": "1",  # seconds
    "QUERYCOORD_CHECKSEGMENTINTERVAL": "100",  # milliseconds
    "QUERYCOORD_CHECKCHANNELINTERVAL": "100",
    "QUERYCOORD_DISTPULLINTERVAL": "100",
    "QUERYCOORD_CHECKINDEXINTERVAL": "500",
}


@dataclass
class MilvusServer:
    """A Milvus server that asks for a password."""

    home: Path
    port: int = field(default_factory=free_port)
    token: str = "root:Milvus"
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> MilvusServer:
        self.home.mkdir(parents=True, exist_ok=True)
        shared = self.home / "bin"  # unpacked once, see deploy/install_milvus.sh
        if not shared.exists():
            shared.symlink_to(INSTALLED / "server" / "bin")
        # the embedded etcd takes 2379 and 2380 unless its own file says otherwise
        client, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        etcd = self.home / "etcd.yaml"
        etcd.write_text(
            f"listen-client-urls: {client}\nadvertise-client-urls: {client}\n"
            f"listen-peer-urls: {peer}\ninitial-advertise-peer-urls: {peer}\n"
            f"initial-cluster: default={peer}\n"
        )
        parts = ("proxy-internal", "root-coord", "query-coord", "query-node", "index-coord")
        parts += ("index-node", "data-coord", "data-node", "etcd")
        ports = [arg for part in parts for arg in (f"--{part}-port", str(free_port()))]
        self.process = subprocess.Popen(
            [
                *(str(INSTALLED / "bin" / "python"), "-c", "import milvus; milvus.main()"),
                *("--data", str(self.home), "--proxy-port", str(self.port), *ports),
                *("--authorization-enabled", "true"),
                # a strong read waits for the next tick, 200 ms by default
                *("--extra-config", "proxy.timeTickInterval=20"),
            ],
            env={**os.environ, **SOON, "ETCD_CONFIG_PATH": str(etcd)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        link = MilvusLink(self.url, self.token, timeout_s=2)

        def ready() -> bool:
            assert self.process is not None and self.process.poll() is None, "Milvus ended"
            try:
                link.ask("list collections", lambda client: client.list_collections(timeout=2))
            except OstiaryError:
                return False
            return True

        wait_for(ready, 120, "Milvus")
        return self

    def stop(self) -> None:
        """Kill it: the launcher leaves the server behind when it is asked to end."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture
def new_milvus_server() -> Iterator[Callable[[], MilvusServer]]:
    """Makes servers of the test's own, not yet started; all are stopped at the end."""
    if not list(INSTALLED.glob(".installed-*")):
        missing("A Milvus server", "run `sh deploy/install_milvus.sh`")
    made: list[MilvusServer] = []

    def make() -> MilvusServer:
        made.append(MilvusServer(Path(tempfile.mkdtemp(prefix="ostiary-milvus-"))))
        return made[-1]

    yield make
    for server in made:
        server.stop()
        shutil.rmtree(server.home, ignore_errors=True)


@pytest.fixture(scope="session")
def milvus_server() -> Iterator[MilvusServer]:
    """A private Milvus server."""
    if not list(INSTALLED.glob(".installed-*")):
        missing("A Milvus server", "run `sh deploy/install_milvus.sh`")
    home = Path(tempfile.mkdtemp(prefix="ostiary-milvus-"))
    server = MilvusServer(home)
    try:
        yield server.start()
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)


@dataclass
class Engines:
    """Makes engines of one kind: ``faiss``, ``milvus-lite`` or ``milvus-server``."""

    kind: str
    folder: Path
    server: MilvusServer | None = None
    made: list[VectorEngine] = field(default_factory=list)

    def __call__(self, dim: int, recall_target: float = 0.95) -> VectorEngine:
        """A fresh, empty engine."""
        name = new_id("t")
        engine: VectorEngine
        if self.kind == "faiss":
            engine = FaissEngine(str(self.folder / name), dim, recall_target)
        else:
            engine = self.milvus(name, dim, recall_target=recall_target)
        self.made.append(engine)
        return engine

    def milvus(self, name: str, dim: int, **options: object) -> MilvusEngine:
        """The Milvus engine of a collection, which may exist."""
        uri, token = str(self.folder / "lite.db"), None
        if self.server is not None:
            uri, token = self.server.url, self.server.token
        return MilvusEngine(uri, name, dim, **{"token": token, **options})  # type: ignore[arg-type]


def _engines(request: pytest.FixtureRequest, folder: Path) -> Iterator[Engines]:
    server = None
    if request.param == "milvus-server":
        server = request.getfixturevalue("milvus_server")
    engines = Engines(request.param, folder, server)
    yield engines
    for engine in engines.made:
        engine.destroy()


@pytest.fixture(scope="module", params=["faiss", "milvus-lite", "milvus-server"])
def new_engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engines]:
    """Makes fresh engines; each test runs on every kind."""
    yield from _engines(request, tmp_path_factory.mktemp("engines"))


@pytest.fixture(scope="module", params=["milvus-lite", "milvus-server"])
def new_milvus(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engines]:
    """Makes fresh Milvus engines, in a Lite file and on a server."""
    yield from _engines(request, tmp_path_factory.mktemp("milvus"))
