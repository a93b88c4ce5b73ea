"""kill -9 of the gateway at random moments of a sync: no document is lost or doubled.

Set OSTIARY_KILL_SEED to repeat a run.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from tests.api.access_house import Caller
from tests.conftest import Gateway, wait_for

pytestmark = pytest.mark.slow
DOCUMENTS, KILLS = 60, 4


class Folder:
    """Documents, each with a word of its own and a version."""

    def __init__(self, root: Path, dice: random.Random) -> None:
        self.root, self.dice, self.made = root, dice, 0
        self.versions: dict[str, int] = {}
        root.mkdir()
        (root / ".keep").touch()

    def add(self) -> None:
        self.made += 1
        self.put(f"doc{self.made}", 1)

    def put(self, name: str, version: int) -> None:
        sections = "".join(
            f"## Part {n}\n\nThe ledger of {name} is of version {version}, says part {n}.\n\n"
            for n in range(4)
        )
        (self.root / f"{name}.md").write_text(f"# About {name}\n\n{sections}")
        self.versions[name] = version

    def stir(self) -> None:
        """Add, change and remove some."""
        names = sorted(self.versions)
        self.dice.shuffle(names)
        for name in names[:6]:
            self.put(name, self.versions[name] + 1)
        for name in names[6:9]:
            (self.root / f"{name}.md").unlink()
            del self.versions[name]
        for _ in range(3):
            self.add()


@pytest.mark.timeout(540)
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_kill_9_in_a_sync_loses_and_doubles_no_document(
    database: str, tmp_path: Path, new_postgres_url: Callable[[], str]
) -> None:
    seed = int(os.environ.get("OSTIARY_KILL_SEED") or random.SystemRandom().randrange(10**6))
    print(f"OSTIARY_KILL_SEED={seed}")
    dice = random.Random(seed)
    folder = Folder(tmp_path / "docs", dice)
    for _ in range(DOCUMENTS):
        folder.add()
    source = {"kind": "folder", "path": str(folder.root), "tenants": ["*"], "watch": False}
    env = {
        "OSTIARY_LLM_URL": "http://127.0.0.1:9/v1",
        "OSTIARY_SOURCES": json.dumps({"docs": source}),
    }
    if database == "postgresql":
        env["OSTIARY_DATABASE_URL"] = new_postgres_url()
    gateway = Gateway(tmp_path / "data", env).start()
    try:
        admin = Caller(gateway, gateway.key)
        store = admin.ok("POST", "/v1/vector_stores", {"name": "k"})["id"]
        path = f"/v1/vector_stores/{store}"
        body = {"source": "docs", "freshness_s": 604_800}
        at = f"{path}/connectors/{admin.ok('POST', f'{path}/connectors', body)['id']}"
        for _ in range(KILLS):
            time.sleep(dice.uniform(0.1, 2.0))
            gateway.kill()
            folder.stir()
            gateway.start()
            status, reply = admin.send("POST", f"{at}/sync")
            assert status in (202, 409), reply
        ended(admin, at)
        folder.stir()
        admin.ok("POST", f"{at}/sync")
        found = ended(admin, at)
        assert found["error"] is None and found["fresh"]
        assert found["last_sync"]["counts"]["found"] == len(folder.versions)
        assert found["last_sync"]["counts"]["failed"] == 0
        prove(gateway, admin, path, folder)
    finally:
        gateway.stop()


def ended(admin: Caller, at: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        found = admin.ok("GET", at)
        return found if found["state"] != "syncing" else None

    return wait_for(look, 200, "the sync")


def prove(gateway: Gateway, admin: Caller, path: str, folder: Folder) -> None:
    """Each document is there once, in its last version; nothing else is left anywhere."""
    wanted = Counter(f"{name}.md" for name in folder.versions)
    assert Counter(f["filename"] for f in admin.ok("GET", "/v1/files")["data"]) == wanted
    assert admin.ok("GET", path)["file_counts"]["completed"] == len(wanted)
    assert admin.ok("GET", path)["file_counts"]["total"] == len(wanted)
    for name, version in folder.versions.items():
        body = {"query": f'"ledger of {name} is"', "max_num_results": 50}
        hits = admin.ok("POST", f"{path}/search", body)["data"]
        assert {h["filename"] for h in hits} == {f"{name}.md"}, name
        for hit in hits:
            assert f"of version {version}," in hit["content"][0]["text"]
    blobs = [p.name for p in (gateway.data_dir / "files").iterdir() if "partial" not in p.name]
    assert [name for name in blobs if not name.startswith("file-")] == []
    assert len(blobs) == len(wanted)
    engine = create_engine(gateway.database_url)
    with engine.connect() as connection:
        query = "SELECT count(*), count(DISTINCT file_id) FROM passages"
        passages, files = connection.execute(text(query)).one()
        query = "SELECT count(*) FROM connector_items WHERE next_file_id IS NOT NULL"
        assert connection.scalar(text(query)) == 0
    engine.dispose()
    assert files == len(wanted) and passages >= files
    assert admin.ok("GET", "/v1/audit/verify")["valid"]
