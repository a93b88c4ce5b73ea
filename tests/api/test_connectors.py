"""Connectors through the API: a folder is followed, with its permissions, and truly."""

from __future__ import annotations

import json
import os
import pwd
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, update

from app.store.models import connectors
from tests.api.access_house import Caller
from tests.api.calls import refused, send
from tests.conftest import Gateway, serving, wait_for

ME = pwd.getpwuid(os.getuid()).pw_name  # to whom the files of the folder belong
RARELY = 604_800  # seconds; the tests begin the syncs themselves
GATE = "# Gate\n\nThe harbour gate is opened at {hour} o'clock.\n"
ASKED = "When is the harbour gate opened?"


def declared(folder: Path) -> str:
    kinds = {
        "docs": {"path": str(folder / "docs"), "tenants": ["*"]},
        "shared": {
            "path": str(folder / "docs"),
            "tenants": ["default"],
            "permissions": "posix",
        },
        "market": {"path": str(folder / "docs"), "tenants": ["market"]},
    }
    still = {"kind": "folder", "watch": False}  # the tests begin the syncs
    return json.dumps({name: {**still, **given} for name, given in kinds.items()})


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def own(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A gateway with three sources over one folder."""
    folder = tmp_path_factory.mktemp("connectors")
    (folder / "docs").mkdir()
    (folder / "docs" / ".keep").touch()
    env = {"OSTIARY_LLM_URL": "http://127.0.0.1:9/v1", "OSTIARY_SOURCES": declared(folder)}
    with serving(request, folder / "data", env) as server:
        yield server


class Place:
    """A part of the folder, and a vector store that follows it."""

    def __init__(self, gateway: Gateway, name: str, **given: Any) -> None:
        self.gateway, self.name = gateway, name
        self.admin = Caller(gateway, gateway.key)
        self.folder = gateway.data_dir.parent / "docs" / name
        self.folder.mkdir()
        self.store = self.admin.ok("POST", "/v1/vector_stores", {"name": name})["id"]
        self.given = {"source": "docs", "path": f"{name}/", "freshness_s": RARELY, **given}

    @property
    def path(self) -> str:
        return f"/v1/vector_stores/{self.store}/connectors"

    def write(self, name: str, text: str | bytes, mode: int = 0o644) -> None:
        path = self.folder / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        path.chmod(mode)

    def follow(self) -> dict[str, Any]:
        """Make the connector; returns it after its first sync."""
        made = self.admin.ok("POST", self.path, self.given)
        assert made["job_id"] and made["last_sync"]["began_at"]
        self.at = f"{self.path}/{made['id']}"
        return self.ended()

    def ended(self) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            found = self.admin.ok("GET", self.at)
            return found if found["state"] != "syncing" else None

        return wait_for(look, 60, "the sync")

    def synced(self, **body: Any) -> dict[str, Any]:
        """Sync now; returns the connector afterwards."""
        self.ended()
        job = self.admin.ok("POST", f"{self.at}/sync", body)
        assert (job["kind"], job["object"]) == ("sync_connector", "job")
        found = self.ended()
        assert found["job_id"] == found["last_sync"]["job_id"] == job["id"]
        return found

    def counts(self, found: dict[str, Any]) -> dict[str, int]:
        assert found["error"] is None, found["error"]
        return {name: n for name, n in found["last_sync"]["counts"].items() if n}

    def hits(self, query: str = ASKED, caller: Caller | None = None) -> list[dict[str, Any]]:
        body = {"query": query, "max_num_results": 50}
        path = f"/v1/vector_stores/{self.store}/search"
        found: list[dict[str, Any]] = (caller or self.admin).ok("POST", path, body)["data"]
        return found

    def names(self, caller: Caller | None = None) -> list[str]:
        return sorted(h["filename"] for h in self.hits(caller=caller))

    def items(self, caller: Caller | None = None, **query: str) -> list[dict[str, Any]]:
        options = "&".join(f"{k}={v}" for k, v in query.items())
        found: list[dict[str, Any]] = (caller or self.admin).ok(
            "GET", f"{self.at}/items?{options}"
        )["data"]
        return found

    def set(self, **values: Any) -> None:
        """Change the connector's row, as time does."""
        engine = create_engine(self.gateway.database_url)
        with engine.begin() as connection:
            mine = connectors.c.id == self.at.rpartition("/")[2]
            connection.execute(update(connectors).where(mine).values(**values))
        engine.dispose()

    def key(self, *scopes: str, **given: Any) -> Caller:
        body = {"name": "k", "scopes": list(scopes), **given}
        return Caller(self.gateway, self.admin.ok("POST", "/v1/admin/keys", body)["key"])


def over(place: Place, job_id: str) -> dict[str, Any] | None:
    """A job, when nothing more will happen to it."""
    job = place.admin.ok("GET", f"/v1/jobs/{job_id}")
    return job if job["status"] not in ("queued", "running") else None


SEEING = ("vector_stores:*", "files:*", "connectors:read")


@pytest.fixture
def place(own: Gateway, request: pytest.FixtureRequest) -> Place:
    return Place(own, request.node.originalname[-60:])


@pytest.fixture
def shared(own: Gateway, request: pytest.FixtureRequest) -> Place:
    return Place(own, request.node.originalname[-60:], source="shared")


def test_what_is_added_changed_removed_and_renamed_there_is_so_here(place: Place) -> None:
    place.write("gate.md", GATE.format(hour=6))
    place.write("lamp.md", "# Lamps\n\nThe lamps are lit at dusk.\n")
    found = place.follow()
    assert place.counts(found) == {"found": 2, "added": 2}
    assert found["fresh"] and found["state"] == "idle" and found["next_sync_at"] is not None
    assert place.names() == ["gate.md", "lamp.md"]
    (hit,) = [h for h in place.hits() if h["filename"] == "gate.md"]
    assert hit["attributes"] == {"source": "docs", "source_key": f"{place.name}/gate.md"}

    assert place.counts(place.synced()) == {"found": 2, "unchanged": 2}
    place.write("gate.md", GATE.format(hour=7))
    place.write("pier.md", "# Pier\n\nThe pier is 90 metres long.\n")
    assert place.counts(place.synced()) == {"found": 3, "added": 1, "changed": 1, "unchanged": 1}
    texts = " ".join(h["content"][0]["text"] for h in place.hits())
    assert "7 o'clock" in texts and "6 o'clock" not in texts

    (place.folder / "pier.md").rename(place.folder / "quay.md")
    (place.folder / "lamp.md").unlink()
    assert place.counts(place.synced()) == {"found": 2, "added": 1, "removed": 2, "unchanged": 1}
    assert place.names() == ["gate.md", "quay.md"]
    files = [f["filename"] for f in place.admin.ok("GET", "/v1/files")["data"]]
    assert "lamp.md" not in files and "pier.md" not in files and files.count("gate.md") == 1
    assert {i["status"] for i in place.items()} == {"completed"}


def test_patterns_choose_what_is_followed(own: Gateway) -> None:
    given = {"include": ["*.md"], "exclude": ["*/draft-*"], "attributes": {"team": "port", "n": 1}}
    place = Place(own, "patterns", **given)
    for name in ("a.md", "draft-b.md", "c.txt"):
        place.write(name, GATE.format(hour=6))
    found = place.follow()
    assert found["include"] == ["*.md"] and place.names() == ["a.md"]
    assert place.hits()[0]["attributes"]["team"] == "port"


def test_a_change_of_permissions_holds_for_two_people_after_the_next_sync(shared: Place) -> None:
    me, other = shared.key(*SEEING, user=ME), shared.key(*SEEING, user="bob")
    shared.write("gate.md", GATE.format(hour=6), 0o600)
    shared.write("open.md", "# Open\n\nThe harbour gate is painted green.\n")
    shared.follow()
    assert shared.names(me) == ["gate.md", "open.md"] and shared.names(other) == ["open.md"]
    assert [i["filename"] for i in shared.items(other)] == ["open.md"]
    assert len(shared.items(me)) == 2
    (shared.folder / "gate.md").chmod(0o644)
    (shared.folder / "open.md").chmod(0o600)
    shared.synced()
    assert shared.names(me) == ["gate.md", "open.md"] and shared.names(other) == ["gate.md"]
    assert [i["filename"] for i in shared.items(other)] == ["gate.md"]


def test_an_access_list_of_the_connector_wins_over_the_sources(own: Gateway) -> None:
    place = Place(own, "listed", source="shared", access={"groups": ["board"]})
    place.write("gate.md", GATE.format(hour=6))
    assert place.follow()["access"] == {"users": [], "groups": ["board"]}
    assert place.names(place.key(*SEEING, groups=["board"])) == ["gate.md"]
    assert place.names(place.key(*SEEING, user=ME)) == []
    everyone = Place(own, "everyone", source="shared", access=None)
    everyone.write("gate.md", GATE.format(hour=6), 0o600)
    assert everyone.follow()["access"] is None
    assert everyone.names(everyone.key(*SEEING, user="bob")) == ["gate.md"]


def test_a_search_finds_one_version_of_a_changed_document_at_any_moment(place: Place) -> None:
    place.write("gate.md", GATE.format(hour=6))
    place.follow()
    over, seen, wrong = threading.Event(), set(), []

    def searching() -> None:
        while not over.is_set():
            found = [h["content"][0]["text"] for h in place.hits()]
            seen.update(found)
            if len(found) != 1:
                wrong.append(found)
            time.sleep(0.05)  # the sync needs the processors too

    threads = [threading.Thread(target=searching) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for hour in range(7, 10):
            place.write("gate.md", GATE.format(hour=hour))
            assert place.counts(place.synced()) == {"found": 1, "changed": 1}
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert wrong == [] and len(seen) > 1


def test_most_documents_are_not_removed_unless_that_is_allowed(place: Place) -> None:
    for number in range(12):
        place.write(f"{number}.md", GATE.format(hour=number))
    place.follow()
    for number in range(7):
        (place.folder / f"{number}.md").unlink()
    found = place.synced()
    assert found["state"] == "failed" and found["error"]["code"] == "removal_refused"
    assert "7 of 12" in found["error"]["message"] and "allow_removal" in found["error"]["message"]
    job = wait_for(lambda: over(place, found["job_id"]), 30, "the end of the job")
    assert (job["status"], job["error"]["code"]) == ("failed", "removal_refused")
    assert len(place.names()) == 12
    found = place.synced(allow_removal=True)
    assert place.counts(found) == {"found": 5, "removed": 7, "unchanged": 5}
    assert len(place.names()) == 5


def test_a_broken_document_fails_alone_and_is_read_again_when_it_has_changed(place: Place) -> None:
    place.write("gate.md", GATE.format(hour=6))
    place.write("broken.pdf", b"%PDF-1.7 this is none")
    place.write("program.exe", b"MZ")
    assert place.counts(place.follow()) == {"found": 3, "added": 1, "failed": 2}
    failed = {i["filename"]: i for i in place.items(status="failed")}
    assert {n: i["last_error"]["code"] for n, i in failed.items()} == {
        "broken.pdf": "invalid_file",
        "program.exe": "unsupported_file",
    }
    assert {i["file_id"] for i in failed.values()} == {None}
    assert place.names() == ["gate.md"]
    assert [
        f["id"] for f in place.admin.ok("GET", f"/v1/vector_stores/{place.store}/files")["data"]
    ] == [i["file_id"] for i in place.items(status="completed")]
    found = place.synced()
    assert place.counts(found) == {"found": 3, "failed": 2, "unchanged": 1}
    records = place.admin.ok("GET", "/v1/audit?limit=50")["data"]
    mine = [r for r in records if r["lineage"].get("job") == found["job_id"]]
    assert {r["route"].partition("/")[2]: r["lineage"] for r in mine}["fetch"]["fetched"] == 0
    (place.folder / "broken.pdf").rename(place.folder / "mended.md")
    place.write("mended.md", "# Mended\n\nThe harbour gate has a new lock.\n")
    assert place.counts(place.synced()) == {"found": 3, "added": 1, "failed": 1, "unchanged": 1}


def test_a_changed_document_that_breaks_stays_as_it_was(place: Place) -> None:
    place.write("gate.txt", GATE.format(hour=6))
    place.follow()
    place.write("gate.txt", b"")
    found = place.synced()
    assert place.counts(found) == {"found": 1, "failed": 1}
    (item,) = place.items(status="failed")
    assert item["file_id"] and item["last_error"]["message"]
    assert len(place.hits()) == 1
    place.write("gate.txt", GATE.format(hour=8))
    assert place.counts(place.synced()) == {"found": 1, "changed": 1}


def test_documents_without_a_file_are_told_to_who_made_the_connector_alone(place: Place) -> None:
    writer = (*SEEING, "connectors:write")
    maker, other = place.key(*writer, user="ann"), place.key(*writer, user="bob")
    place.write("secret-plan.exe", b"MZ")
    place.admin, admin = maker, place.admin
    place.follow()
    assert len(place.items(maker)) == len(place.items(admin)) == 1
    assert place.items(other) == []
    place.set(error={"code": "source_unavailable", "message": "The folder 'plan/' is closed."})
    assert "plan/" in place.admin.ok("GET", place.at)["error"]["message"]
    shown = json.dumps([other.ok("GET", place.at), other.ok("GET", place.path)])
    assert "plan/" not in shown and "source_unavailable" in shown


def test_a_source_of_another_tenant_is_not_there(own: Gateway, place: Place) -> None:
    listed = place.admin.ok("GET", "/v1/sources")
    assert [(s["name"], s["kind"]) for s in listed["data"]] == [
        ("docs", "folder"),
        ("shared", "folder"),
    ]
    assert str(own.data_dir.parent) not in json.dumps(listed)
    told = []
    for name in ("market", "nowhere"):
        status, text = place.admin.send("POST", place.path, {"source": name})
        error = json.loads(text)["error"]
        assert (status, error["code"], error["param"]) == (404, "source_not_found", "source")
        told.append(error["message"].replace(name, "NAME"))
    assert told[0] == told[1]
    body = {"name": f"market-{place.store}"}
    tenant = place.admin.ok("POST", "/v1/admin/tenants", body)["id"]
    stranger = place.key("*", tenant_id=tenant)
    assert [s["name"] for s in stranger.ok("GET", "/v1/sources")["data"]] == ["docs"]


def test_a_paused_connector_waits_and_a_resumed_one_catches_up(own: Gateway, place: Place) -> None:
    witness = Place(own, f"{place.name[:40]}-witness")
    for each in (place, witness):
        each.write("gate.md", GATE.format(hour=6))
        each.follow()
    paused = place.admin.ok("POST", place.at, {"enabled": False})
    assert (paused["state"], paused["enabled"]) == ("paused", False)
    for each in (place, witness):
        each.write("gate.md", GATE.format(hour=9))
        each.set(next_sync_at=1.0)
    wait_for(lambda: "9 o'clock" in json.dumps(witness.hits()), 60, "the scheduled sync")
    assert "6 o'clock" in json.dumps(place.hits())
    assert place.admin.ok("GET", place.at)["job_id"] == paused["job_id"]
    assert place.admin.ok("POST", place.at, {"enabled": True})["enabled"] is True
    wait_for(lambda: "9 o'clock" in json.dumps(place.hits()), 60, "the sync after the pause")
    changed = place.admin.ok("POST", place.at, {"freshness_s": 3600})
    assert changed["freshness_s"] == 3600


def test_a_deleted_connector_takes_its_documents_with_it_or_leaves_them(own: Gateway) -> None:
    for choice, left in (("delete", []), ("keep", ["gate.md"])):
        place = Place(own, f"deleted-{choice}")
        place.write("gate.md", GATE.format(hour=6))
        place.follow()
        gone = place.admin.ok("DELETE", f"{place.at}?documents={choice}")
        assert gone["deleted"] is True
        assert place.admin.send("GET", place.at)[0] == 404
        assert place.admin.send("DELETE", place.at)[0] == 404
        assert place.admin.ok("GET", place.path)["data"] == []

        wait_for(partial(over, place, gone["job_id"]), 60, "the deletion")
        assert place.names() == left
        files = place.admin.ok("GET", f"/v1/vector_stores/{place.store}/files")["data"]
        assert len(files) == len(left)


def test_a_sync_that_runs_is_not_begun_twice(place: Place) -> None:
    for number in range(20):
        place.write(f"{number}.md", GATE.format(hour=number))
    place.at = f"{place.path}/{place.admin.ok('POST', place.path, place.given)['id']}"
    status, text = place.admin.send("POST", f"{place.at}/sync")
    assert (status, json.loads(text)["error"]["code"]) == (409, "sync_under_way")
    assert place.counts(place.ended()) == {"found": 20, "added": 20}


def test_every_step_is_audited_with_what_it_did(place: Place) -> None:
    place.write("gate.md", GATE.format(hour=6))
    found = place.follow()
    records = place.admin.ok("GET", "/v1/audit?limit=50")["data"]
    mine = {r["route"]: r for r in records if r["lineage"].get("connector") == found["id"]}
    steps = ("list", "permissions", "remove", "fetch", "settle")
    assert set(mine) == {f"job:sync_connector/{step}" for step in steps}
    assert {r["principal"] for r in mine.values()} == {f"connector:{found['id']}"}
    counts = mine["job:sync_connector/settle"]["lineage"]["documents"]
    assert counts == found["last_sync"]["counts"] and counts["added"] == 1


def test_a_source_that_was_taken_away_fails_the_sync_and_leaves_the_documents(
    new_gateway: Any, tmp_path: Path
) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / ".keep").touch()
    gateway = new_gateway(
        OSTIARY_LLM_URL="http://127.0.0.1:9/v1", OSTIARY_SOURCES=declared(tmp_path)
    )
    gateway.start()
    place = Place(gateway, "revoked")
    place.write("gate.md", GATE.format(hour=6))
    place.follow()
    gateway.stop()
    gateway.env["OSTIARY_SOURCES"] = "{}"
    gateway.start()
    found = place.synced()
    assert (found["state"], found["error"]["code"]) == ("failed", "source_revoked")
    assert "'docs'" in found["error"]["message"] and place.names() == ["gate.md"]
    job = place.admin.ok("DELETE", place.at)["job_id"]
    wait_for(lambda: over(place, job), 60, "the deletion")
    assert place.names() == []


BAD = (
    {},
    {"source": "docs", "freshness_s": 59},
    {"source": "docs", "freshness_s": 604_801},
    {"source": "docs", "freshness_s": "900"},
    {"source": "docs", "access": "everyone"},
    {"source": "docs", "access": {"users": "ann"}},
    {"source": "docs", "path": "a\u0000b"},
    {"source": "docs", "include": [""]},
    {"source": "docs", "include": "*.md"},
    {"source": "docs", "attributes": {f"a{n}": n for n in range(15)}},
    {"source": "docs", "url": "http://169.254.169.254/"},
    {"source": 7},
)


@pytest.mark.parametrize("body", BAD, ids=lambda b: str(b)[:60])
def test_a_connector_that_is_none_is_refused(own: Gateway, body: Any) -> None:
    store = send(own, "POST", "/v1/vector_stores", {"name": "bad"})[1]["id"]
    path = f"/v1/vector_stores/{store}/connectors"
    refused(send(own, "POST", path, body))
    assert send(own, "GET", path)[1]["data"] == []
