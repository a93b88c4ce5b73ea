"""The audit log from outside: signed for, exported, kept for a time, erased from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import MetaData, create_engine, inspect, text

from app.monitoring.export_check import verify_export
from app.monitoring.signing import public_keys
from app.store.models import connector_items, connectors, files
from tests.api.calls import chat, multipart, new_key, new_store, refused, send
from tests.conftest import ADMIN_KEY, ROOT, Gateway, serving, wait_for

JANE = "jane.roe@example.com"
AS_JANE = {"x-ostiary-user": JANE}


@pytest.fixture(
    scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)]
)
def house(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    fake_model_server: str,
) -> Iterator[Gateway]:
    """A gateway that keeps bodies."""
    env = {
        "OSTIARY_LLM_URL": fake_model_server,
        "OSTIARY_LLM_MODEL": "stub",
        "OSTIARY_AUDIT_BODIES": "true",
    }
    with serving(request, tmp_path_factory.mktemp("audited") / "data", env) as server:
        yield server


def good(reply: Any) -> dict[str, Any]:
    status, body, _ = reply
    assert status in (200, 201, 202), (status, body)
    return dict(body)


def command(house: Gateway, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**house.env, "OSTIARY_API_KEY": ADMIN_KEY, "OSTIARY_URL": house.url}
    return subprocess.run(
        [sys.executable, "-m", "app.cli", "audit", *arguments],
        env={**os.environ, **env},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def download(house: Gateway, query: str) -> bytes:
    asked = urllib.request.Request(
        f"{house.url}/v1/audit/export?{query}", headers={"authorization": f"Bearer {house.key}"}
    )
    with urllib.request.urlopen(asked, timeout=30) as reply:
        return bytes(reply.read())


def test_a_checkpoint_is_signed_on_demand_and_shown(house: Gateway) -> None:
    good(send(house, "POST", "/v1/chat/completions", chat()))
    made = good(send(house, "POST", "/v1/audit/checkpoints", {}))
    listed = good(send(house, "GET", "/v1/audit/checkpoints"))["data"]
    assert listed[0] == made and made["number"] >= 1
    (key,) = good(send(house, "GET", "/v1/audit/keys"))["data"]
    assert key["id"] == made["key_id"] and key["signs"]
    verdict = good(send(house, "GET", "/v1/audit/verify"))
    assert verdict["valid"] and verdict["checkpoints"] == len(listed)
    file = house.data_dir / "audit-checkpoints.jsonl"
    assert orjson.loads(file.read_bytes().splitlines()[-1])["signature"] == made["signature"]
    private = house.data_dir / "audit-signing.pem"
    assert private.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_an_export_is_streamed_audited_and_verified_with_the_public_key_alone(
    house: Gateway, tmp_path: Path, form: str
) -> None:
    good(send(house, "POST", "/v1/chat/completions", chat()))
    good(send(house, "POST", "/v1/audit/checkpoints", {}))
    path, keys = tmp_path / f"audit.{form}", tmp_path / "keys.pem"
    if form == "jsonl":
        done = command(house, "export", str(path))
        assert done.returncode == 0, done.stderr
    else:
        path.write_bytes(download(house, "format=parquet"))
    shown = good(send(house, "GET", "/v1/audit/keys"))["data"]
    keys.write_text("".join(key["public_key"] for key in shown))
    verdict = verify_export(path, trusted=public_keys(keys))
    assert verdict.faults == [] and verdict.records > 2 and verdict.checkpoints >= 1
    page = good(send(house, "GET", "/v1/audit?limit=20"))["data"]
    exports = [r["lineage"]["export"]["format"] for r in page if "export" in r["lineage"]]
    assert form in exports


def test_an_export_takes_the_scope_and_times_in_order(house: Gateway) -> None:
    lacking = {"authorization": f"Bearer {new_key(house)['key']}"}
    refused(send(house, "GET", "/v1/audit/export", headers=lacking), 403)
    times = "since=2030-01-01T00:00:00Z&until=2020-01-01T00:00:00Z"
    assert refused(send(house, "GET", f"/v1/audit/export?{times}"))["param"] == "until"
    lines = download(house, "since=2090-01-01T00:00:00Z").splitlines()
    assert [orjson.loads(line)["type"] for line in lines] == ["header", "end"]


def test_a_tenant_has_a_retention_of_its_own(house: Gateway) -> None:
    path = "/v1/admin/tenants/default/audit_retention"
    assert good(send(house, "GET", path))["own"] is False
    body = {"records_days": None, "bodies_days": 30.0}
    assert good(send(house, "PUT", path, body))["bodies_days"] == 30.0
    assert good(send(house, "GET", path))["own"] is True
    refused(send(house, "PUT", path, {"records_days": 0.1, "bodies_days": None}))
    refused(send(house, "GET", "/v1/admin/tenants/tn_none/audit_retention"), 404)
    assert good(send(house, "DELETE", path))["own"] is False


def test_retention_on_demand_removes_bodies_at_once(house: Gateway) -> None:
    good(send(house, "POST", "/v1/chat/completions", chat("To be kept for no time")))
    path = "/v1/admin/tenants/default/audit_retention"
    good(send(house, "PUT", path, {"records_days": None, "bodies_days": 0.0}))
    ended(house, good(send(house, "POST", "/v1/audit/retention", {}))["id"])
    good(send(house, "DELETE", path))
    page = good(send(house, "GET", "/v1/audit?limit=100"))["data"]
    assert "To be kept" not in json.dumps(page)
    assert any("bodies_sha256" in record for record in page)
    assert good(send(house, "GET", "/v1/audit/verify"))["faults"] == []


def ended(house: Gateway, job_id: str) -> None:
    def over() -> bool:
        job = good(send(house, "GET", f"/v1/jobs/{job_id}"))
        assert job["status"] not in ("failed", "cancelled"), job
        return bool(job["status"] == "completed")

    wait_for(over, what="the job")


def shown(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def everything(house: Gateway) -> dict[str, str]:
    """All rows of each table, as text."""
    engine, found = create_engine(house.database_url), {}
    with engine.connect() as connection:
        metadata = MetaData()
        metadata.reflect(engine)
        for name in inspect(engine).get_table_names():
            rows = connection.execute(text(f'SELECT * FROM "{name}"')).all()
            found[name] = "\n".join(
                " ".join(
                    v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in r
                )
                for r in rows
            )
    engine.dispose()
    return found


def follow(house: Gateway, store: str) -> str:
    """A connector that Jane made, with one document of the tenant's; returns its file."""
    made = {
        **{"id": "conn_jane", "tenant_id": "default", "vector_store_id": store, "source": "gone"},
        **{"path": "", "include": [], "exclude": [], "attributes": {}, "chunking": {}},
        **{"owner": f"user:{JANE}", "freshness_s": 60, "enabled": False, "removed": 0},
        **{"failures": 0, "allow_removal": False, "listing": 1, "listed": 1, "created_at": 1.0},
        "keep_documents": False,
    }
    file = {
        **{"id": "file-followed", "tenant_id": "default", "filename": "rates.md", "bytes": 0},
        **{"purpose": "assistants", "sha256": "", "blob": "file-followed", "created_at": 1.0},
        "owner": f"user:{JANE}",
    }
    item = {
        **{"id": "item_1", "connector_id": "conn_jane", "key": "rates.md", "key_hash": "k"},
        **{"fingerprint": "f", "filename": "rates.md", "attributes": {}, "relabel": False},
        **{"status": "completed", "file_id": "file-followed", "listing": 1},
    }
    engine = create_engine(house.database_url)
    with engine.begin() as connection:
        for table, row in ((files, file), (connectors, made), (connector_items, item)):
            connection.execute(table.insert().values(row))
    engine.dispose()
    return "file-followed"


def test_an_erasure_removes_a_person_from_every_table(house: Gateway) -> None:
    price = {"model": "stub", "cache": {"ttl_s": 600}}
    send(house, "PUT", "/v1/admin/models/stub", price)
    secret = "Jane's marmot is called Aurelius"
    good(send(house, "POST", "/v1/chat/completions", chat(secret), AS_JANE))
    keyed = {**AS_JANE, "idempotency-key": "jane-1"}
    good(send(house, "POST", "/v1/chat/completions", chat(secret), keyed))
    asked = {"model": "stub", "input": secret}
    good(send(house, "POST", "/v1/responses", asked, AS_JANE))
    body, headers = multipart(f"# Marmots\n\n{secret}.\n".encode(), "jane-marmot.md")
    file = good(send(house, "POST", "/v1/files", body, {**headers, **AS_JANE}))["id"]
    store = new_store(house)
    path = f"/v1/vector_stores/{store}/files"
    listed = {"file_id": file, "ostiary": {"access": {"users": [JANE]}}}
    good(send(house, "POST", path, listed, AS_JANE))
    wait_for(
        lambda: good(send(house, "GET", f"{path}/{file}"))["status"] == "completed", what="the file"
    )
    others, headers = multipart(b"# Other\n\nA file of the tenant's.\n", "other.md")
    other = good(send(house, "POST", "/v1/files", others, headers))["id"]
    both = {"file_id": other, "ostiary": {"access": {"users": [JANE, "bob"]}}}
    good(send(house, "POST", path, both))
    line = {
        "custom_id": "a",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": chat(secret),
    }
    batch_file, headers = multipart(
        json.dumps(line).encode(), "jane.jsonl", (("purpose", "batch"),)
    )
    lines = good(send(house, "POST", "/v1/files", batch_file, {**headers, **AS_JANE}))["id"]
    batch = {
        "input_file_id": lines,
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    begun = good(send(house, "POST", "/v1/batches", batch, AS_JANE))["id"]
    wait_for(
        lambda: good(send(house, "GET", f"/v1/batches/{begun}"))["status"] == "completed",
        what="the batch",
    )
    new_key(house, user=JANE)
    followed = follow(house, store)
    before = everything(house)
    named = {name for name, rows in before.items() if JANE in rows or "marmot" in rows}
    assert named >= {
        *("api_keys", "batches", "responses", "idempotency", "files", "passages"),
        *("vector_store_files", "audit_bodies", "audit"),
    }

    made = good(send(house, "POST", "/v1/audit/erasures", {"user": JANE}))
    assert JANE not in json.dumps(made)
    ended(house, made["job_id"])
    done = good(send(house, "GET", f"/v1/audit/erasures/{made['id']}"))
    report = done["report"]
    assert report["complete"] and done["ended_at"]
    places = report["places"]
    for name in (
        *("api_keys", "batches", "responses", "idempotency", "passages", "files"),
        *("access_lists", "audit_bodies"),
    ):
        assert places[name]["found"] >= 1, name
    assert places["connectors"]["found"] == 2
    assert send(house, "GET", f"/v1/files/{followed}")[0] == 200  # the tenant's: it stays
    for name, place in places.items():
        assert place["left"] == 0 and place["removed"] == place["found"], (name, place)
    assert report["kept"]["audit_records"]["count"] >= 6
    assert report["not_found_by_person"]

    after = everything(house)
    assert {name for name, rows in after.items() if "marmot" in rows} == set()
    naming = {name for name, rows in after.items() if JANE in rows}
    # what others' calls were told of the person, such as the key that was made, is not found
    assert naming <= {"audit", "audit_bodies"}, naming
    blobs = b"".join(f.read_bytes() for f in (house.data_dir / "files").iterdir())
    assert b"marmot" not in blobs
    found = {"query": "What is the marmot called?"}
    hits = good(send(house, "POST", f"/v1/vector_stores/{store}/search", found))["data"]
    assert "marmot" not in json.dumps(hits)
    assert good(send(house, "GET", f"{path}/{other}"))["ostiary"]["access"]["users"] == ["bob"]
    verdict = good(send(house, "GET", "/v1/audit/verify"))
    assert verdict["faults"] == []
    assert command(house, "verify").returncode == 0


def test_an_erasure_names_one_person_and_takes_the_scope(house: Gateway) -> None:
    for body in ({}, {"user": "a", "subject": "key:b"}, {"subject": "b"}):
        refused(send(house, "POST", "/v1/audit/erasures", body))
    lacking = {"authorization": f"Bearer {new_key(house, scopes=['audit:read'])['key']}"}
    refused(send(house, "POST", "/v1/audit/erasures", {"user": "a"}, lacking), 403)
    refused(send(house, "GET", "/v1/audit/erasures/era_none"), 404)


def test_an_erasure_by_the_subject_of_a_key(house: Gateway) -> None:
    key = new_key(house, scopes=["chat:write", "files:write"])
    bearer = {"authorization": f"Bearer {key['key']}"}
    good(send(house, "POST", "/v1/chat/completions", chat("Of the key alone"), bearer))
    subject = {"subject": f"key:{key['id']}"}
    made = good(send(house, "POST", "/v1/audit/erasures", subject))
    ended(house, made["job_id"])
    report = good(send(house, "GET", f"/v1/audit/erasures/{made['id']}"))["report"]
    assert report["complete"]
    assert report["places"]["audit_bodies"]["removed"] == 1
    assert "Of the key alone" not in everything(house)["audit_bodies"]
