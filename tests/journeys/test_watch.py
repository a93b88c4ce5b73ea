"""A folder that is watched: what changes in it is found soon, though it is seldom listed."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.retrieval.connectors.schedule import LEAST_S
from app.retrieval.connectors.watch import GATHERED_MS
from app.wiring import LOOK_FOR_SYNCS_S
from tests.api.access_house import Caller
from tests.conftest import Gateway, wait_for

RARELY = 604_800  # seconds of freshness: no listing of its own accord in this test
SOON_S = 40


class Watched:
    """A gateway with a source over a folder, and a store that follows it."""

    def __init__(self, gateway: Gateway, folder: Path) -> None:
        self.gateway, self.folder = gateway, folder
        self.admin = Caller(gateway, gateway.key)
        self.store = self.admin.ok("POST", "/v1/vector_stores", {"name": "w"})["id"]
        body = {"source": "docs", "freshness_s": RARELY}
        made = self.admin.ok("POST", f"/v1/vector_stores/{self.store}/connectors", body)
        self.at = f"/v1/vector_stores/{self.store}/connectors/{made['id']}"

    def texts(self) -> list[str]:
        path = f"/v1/vector_stores/{self.store}/search"
        hits = self.admin.ok("POST", path, {"query": "When is the gate opened?"})["data"]
        return sorted(hit["content"][0]["text"] for hit in hits)

    def soon(self, *wanted: str) -> None:
        """Wait until just these hours are found."""

        def there() -> bool:
            texts = self.texts()
            return len(texts) == len(wanted) and all(
                any(f"at {hour} o'clock" in text for text in texts) for hour in wanted
            )

        wait_for(there, SOON_S, f"{wanted} in the search")

    def write(self, name: str, hour: str) -> None:
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        text = f"# Gate of {name}\n\nThe gate is opened at {hour} o'clock.\n"
        (self.folder / name).write_text(text)

    def last_sync(self) -> Any:
        """The newest sync, once it has ended."""
        found = self.admin.ok("GET", self.at)
        return found["last_sync"] if found["state"] != "syncing" else None

    def settled(self) -> Any:
        """The newest sync, when nothing brings another forward."""
        while True:
            found = wait_for(self.last_sync, SOON_S, "the end of the sync")
            time.sleep(GATHERED_MS / 1e3 + LOOK_FOR_SYNCS_S + LEAST_S)  # by then it had begun
            if self.last_sync() == found:
                return found


@pytest.fixture
def watched(tmp_path: Path, new_gateway: Callable[..., Gateway]) -> Iterator[Watched]:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / ".keep").touch()
    source = {"kind": "folder", "path": str(folder), "tenants": ["*"]}
    gateway = new_gateway(
        OSTIARY_LLM_URL="http://127.0.0.1:9/v1", OSTIARY_SOURCES=json.dumps({"docs": source})
    ).start()
    yield Watched(gateway, folder)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_what_changes_in_a_watched_folder_is_found_soon(watched: Watched) -> None:
    wait_for(lambda: watched.admin.ok("GET", watched.at)["fresh"], SOON_S, "the first sync")
    watched.write("north.md", "six")
    watched.soon("six")
    watched.write("new/below/south.md", "seven")  # in folders that were not there
    watched.soon("six", "seven")
    watched.write("north.md", "eight")
    watched.soon("seven", "eight")
    (watched.folder / "north.md").rename(watched.folder / "east.md")
    (watched.folder / "new/below/south.md").unlink()
    watched.write("new/west.md", "nine")
    watched.soon("eight", "nine")

    watched.gateway.kill()  # -9
    watched.write("new/down.md", "ten")
    watched.gateway.start()
    watched.soon("eight", "nine", "ten")

    # another folder at the same place, as when a disk is mounted
    aside = watched.folder.with_name("aside")
    watched.folder.rename(aside)
    shutil.copytree(aside, watched.folder)
    watched.write("new/down.md", "eleven")
    watched.soon("eight", "nine", "eleven")
    watched.write("new/down.md", "twelve")
    watched.soon("eight", "nine", "twelve")


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_what_is_not_followed_begins_no_sync(watched: Watched) -> None:
    outside = watched.folder.with_name("outside")
    outside.mkdir()
    (watched.folder / "link").symlink_to(outside)  # is told, and does not lead out
    watched.write("north.md", "six")
    watched.soon("six")
    before = watched.settled()
    for name in (".hidden.md", "draft.tmp", "~$north.md", ".git/config.md"):
        watched.write(name, "seven")
    (outside / "beyond.md").write_text("# Beyond\n")
    assert watched.settled() == before
    watched.write("south.md", "eight")
    watched.soon("six", "eight")
    assert watched.settled()["job_id"] != before["job_id"]
