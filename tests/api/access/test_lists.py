"""Access lists from outside: how they are given, changed and audited, and who may name somebody."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.api.access_house import (
    ASKED,
    Caller,
    House,
    upload,
)
from tests.api.calls import multipart, refused, send
from tests.conftest import wait_for


def test_a_replay_is_for_the_caller_alone(house: House) -> None:
    path = f"/v1/vector_stores/{house.ids['store']}/search"
    key = {"idempotency-key": "festival"}
    first = house.admitted["the user"].ok("POST", path, {"query": ASKED}, **key)
    assert house.admitted["the user"].ok("POST", path, {"query": ASKED}, **key) == first
    for caller in (*house.others.values(), house.admitted["a member"]):
        status, text = caller.send("POST", path, {"query": ASKED}, **key)
        assert status == 409 and not house.tells(text)


def test_an_upload_sent_again_with_anothers_key_is_not_the_others_file(house: House) -> None:
    body, headers = multipart(b"the same", "same.md")
    made = [
        caller.send("POST", "/v1/files", body, **headers, **{"idempotency-key": "same"})
        for caller in (house.admitted["the user"], house.others["another user"])
    ]
    assert made[0][0] == 200 and made[1][0] == 409
    assert json.loads(made[0][1])["id"] not in made[1][1]


def test_naming_somebody_takes_the_scope_and_is_never_ignored(house: House) -> None:
    caller = house.others["another user"]
    for name in ("x-ostiary-user", "x-ostiary-groups"):
        reply = send(
            house.gateway,
            "GET",
            "/v1/files",
            None,
            {"authorization": f"Bearer {caller.credential}", name: "ann"},
        )
        assert "access:impersonate" in refused(reply, 403)["message"]
    acting = house.admitted["an application for the user"]
    assert acting.send("GET", "/v1/files", **{"x-ostiary-user": "%00"})[0] == 400


def test_a_call_for_somebody_is_audited_with_both(house: House) -> None:
    acting = house.admitted["an application for a group"]
    acting.ok("GET", "/v1/files", **{"x-ostiary-user": "j%C3%A4ne", "x-request-id": "for-two"})
    (record,) = house.admin.ok("GET", "/v1/audit?request_id=for-two")["data"]
    assert record["principal"].startswith("key:")
    assert record["acting_for"] == {"user": "jäne", "groups": ["board", "staff"]}
    assert house.admin.ok("GET", "/v1/audit/verify")["valid"]


def test_a_list_is_shown_changed_and_taken_away(house: House) -> None:
    admin, path = house.admin, f"/v1/vector_stores/{house.ids['store']}"
    file_id = upload(admin, "tide.md", "# Tides\n\nThe tide table hangs at the pier.\n")
    attached = admin.ok(
        "POST",
        f"{path}/files",
        {
            "file_id": file_id,
            "attributes": {"a": "b"},
            "ostiary": {"access": {"users": ["bob", "ann", "bob"]}},
        },
    )
    assert attached["ostiary"]["access"] == {"users": ["ann", "bob"], "groups": []}
    wait_for(lambda: admin.ok("GET", f"{path}/files/{file_id}")["status"] == "completed")
    ann, bob = house.admitted["the user"], house.others["another user"]
    query = {"query": "Where does the tide table hang?"}

    def found(caller: Caller) -> bool:
        return file_id in json.dumps(caller.ok("POST", f"{path}/search", query))

    assert found(ann) and found(bob)
    one = {"ostiary": {"access": {"users": ["ann"]}}}
    changed = ann.ok("POST", f"{path}/files/{file_id}", one)
    assert changed["attributes"] == {"a": "b"}
    assert found(ann) and not found(bob)
    nobody = {"ostiary": {"access": {}}}
    status, text = ann.send("POST", f"{path}/files/{file_id}", nobody)
    assert status == 403 and "access_locks_out" in text
    assert admin.ok("POST", f"{path}/files/{file_id}", nobody)["ostiary"]["access"] == {
        "users": [],
        "groups": [],
    }
    assert not found(ann) and not found(bob) and found(admin)
    labelled = admin.ok("POST", f"{path}/files/{file_id}", {"attributes": {"c": 1}})
    assert labelled["ostiary"]["access"] is not None and labelled["attributes"] == {"c": 1}
    admin.ok("POST", f"{path}/files/{file_id}", {"ostiary": {"access": None}})
    assert found(ann) and found(bob)
    again = {"file_id": file_id, "ostiary": {"access": {"users": ["ann"]}}}
    status, text = admin.send("POST", f"{path}/files", again)
    assert status == 409 and "access_differs" in text
    admin.ok("DELETE", f"{path}/files/{file_id}")


def test_a_new_store_takes_a_list_for_its_first_files(house: House) -> None:
    body = {"file_ids": [house.ids["open"]], "ostiary": {"access": {"groups": ["board"]}}}
    store = house.admin.ok("POST", "/v1/vector_stores", body)["id"]
    path = f"/v1/vector_stores/{store}/files"
    assert len(house.admitted["a token of a member"].ok("GET", path)["data"]) == 1
    assert house.others["a token of another"].ok("GET", path)["data"] == []
    status, _ = house.others["another user"].send("POST", "/v1/vector_stores", body)
    assert status == 403
    house.admin.ok("DELETE", f"/v1/vector_stores/{store}")


BAD = (
    {"access": {"users": "ann"}},
    {"access": {"users": [""]}},
    {"access": {"users": [" ann"]}},
    {"access": {"users": ["a\u0000b"]}},
    {"access": {"users": ["x" * 257]}},
    {"access": {"groups": ["g"] * 501}},
    {"access": {"teams": ["g"]}},
    {"access": ["ann"]},
    {"acess": {"users": ["ann"]}},
)


@pytest.mark.parametrize("extras", BAD, ids=str)
def test_a_list_that_is_none_is_refused(house: House, extras: Any) -> None:
    path = f"/v1/vector_stores/{house.ids['store']}"
    file_id = house.ids["open"]
    for address, body in (
        (f"{path}/files", {"file_id": file_id}),
        (f"{path}/files/{file_id}", {"attributes": {}}),
        (f"{path}/file_batches", {"file_ids": [file_id]}),
        ("/v1/vector_stores", {"file_ids": [file_id]}),
    ):
        refused(send(house.gateway, "POST", address, {**body, "ostiary": extras}))
    refused(send(house.gateway, "POST", f"{path}/files/{file_id}", {}))
