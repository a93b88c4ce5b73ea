"""What is assigned is in force in every gateway on the database, and fails closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import delete, update

from app.errors import BadRequest, Conflict, MissingExtra, NotFound, Unavailable
from app.gateway.call import DEFAULT_TENANT
from app.guardrails.assignments import Assignment
from app.guardrails.in_force import InForce
from app.guardrails.library import Library
from app.guardrails.policy import load_policy
from app.store.db import Database
from app.store.models import metadata, policies, policy_versions

# the rest is said in both dialects by the other tests
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
CHAT = "POST /v1/chat/completions"
BLOCK: dict[str, Any] = {"entities": {"EMAIL_ADDRESS": {"input": "block"}}}
MASK: dict[str, Any] = {"entities": {"EMAIL_ADDRESS": {"input": "mask"}}}


@dataclass
class Gateway:
    """The policies of one gateway."""

    in_force: InForce
    library: Library

    async def put(self, name: str, document: dict[str, Any], tenant: str = "harbour") -> str:
        found, _ = await self.library.put(tenant, name, document, "key:a")
        return found.version

    async def assign(
        self,
        name: str,
        *,
        to: str = "harbour",
        route: str = "*",
        by: str = "harbour",
        version: str | None = None,
    ) -> Assignment:
        found = await self.library.find(by, name, version)
        made, _ = await self.in_force.assign(
            found.usable(),
            found.owner,
            tenant_id=to,
            route=route,
            mode="enforce",
            pinned=version is not None,
            mandatory=False,
            by_platform=False,
            made_by="key:a",
        )
        return made

    def obeyed(self, tenant: str = "harbour", route: str = CHAT) -> str:
        return self.in_force.choose(tenant, route).named


def opened(db: Database, warm: Any = lambda languages, names: None) -> Gateway:
    in_force = InForce(db, load_policy("default"), warm)
    return Gateway(in_force, Library(db, in_force))


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    made = Database(database_url)
    await asyncio.to_thread(metadata.create_all, made.sync_engine)
    yield made
    await made.close()


@pytest.fixture
async def gateway(db: Database) -> Gateway:
    return opened(db)


async def test_a_new_version_is_obeyed_at_once_and_by_other_gateways_after_they_look(
    db: Database, gateway: Gateway
) -> None:
    other, default = opened(db), gateway.obeyed()
    first = await gateway.put("own", MASK)
    assert gateway.obeyed() == default  # stored is not assigned
    await gateway.assign("own")
    assert gateway.obeyed() == f"own@{first}"
    assert other.obeyed() == default
    await other.in_force.sync()
    assert other.obeyed() == f"own@{first}"
    second = await other.put("own", BLOCK)
    assert other.obeyed() == f"own@{second}"
    await gateway.in_force.sync()
    assert gateway.obeyed() == f"own@{second}"
    assert gateway.obeyed("customs") == default


@on_sqlite
async def test_a_pinned_version_stays_and_the_default_returns(gateway: Gateway) -> None:
    default, first = gateway.obeyed(), await gateway.put("own", MASK)
    made = await gateway.assign("own", version="1")
    await gateway.put("own", BLOCK)
    assert gateway.obeyed() == f"own@{first}"
    again = await gateway.assign("own")  # the same place: it is replaced
    assert again.id == made.id and gateway.obeyed() != f"own@{first}"
    await gateway.in_force.unassign(again)
    assert gateway.obeyed() == default


async def test_versions_are_numbered_and_the_same_document_makes_none(gateway: Gateway) -> None:
    first = await gateway.put("own", MASK)
    assert await gateway.put("own", {**MASK, "min_score": 0.4}) == first
    second = await gateway.put("own", BLOCK)
    assert await gateway.put("own", MASK) == first  # what it was before is the newest again
    page = await gateway.library.versions("harbour", "own", limit=2, order="desc")
    assert [(v.number, v.version) for v in page.rows] == [(3, first), (2, second)]
    assert page.has_more
    assert (await gateway.library.find("harbour", "own", first)).number == 3
    assert (await gateway.library.find("harbour", "own", "2")).version == second
    with pytest.raises(NotFound, match="version"):
        await gateway.library.find("harbour", "own", "4")


async def test_documents_stored_at_the_same_time_are_all_there(
    db: Database, gateway: Gateway
) -> None:
    gateways = [gateway, opened(db)]
    scores = [n / 20 for n in range(8)]
    await asyncio.gather(
        *(gateways[n % 2].put("own", {**MASK, "min_score": s}) for n, s in enumerate(scores))
    )
    page = await gateway.library.versions("harbour", "own", limit=100, order="desc")
    assert sorted(v.number or 0 for v in page.rows) == list(range(1, 9))
    assert {v.document.get("min_score") for v in page.rows} == set(scores)


@on_sqlite
async def test_a_tenant_sees_its_own_and_what_is_lent_to_it(gateway: Gateway) -> None:
    await gateway.put("own", MASK)
    await gateway.put("house", BLOCK, DEFAULT_TENANT)
    for tenant in ("customs", DEFAULT_TENANT):
        with pytest.raises(NotFound):
            await gateway.library.find(tenant, "own")
    with pytest.raises(NotFound):
        await gateway.library.find("harbour", "house")
    await gateway.assign("house", to="harbour", by=DEFAULT_TENANT)
    assert (await gateway.library.find("harbour", "house")).owner == DEFAULT_TENANT
    with pytest.raises(NotFound):
        await gateway.library.find("customs", "house")
    seen = {v.name for v in await gateway.library.all("harbour")}
    assert seen == {"default", "guarded", "strict", "own", "house"}
    assert {v.name for v in await gateway.library.all("customs")} == {
        "default",
        "guarded",
        "strict",
    }


async def test_what_is_assigned_or_comes_with_the_gateway_is_not_deleted(
    gateway: Gateway,
) -> None:
    await gateway.put("own", MASK)
    made = await gateway.assign("own", route=CHAT)
    with pytest.raises(Conflict, match="End its assignments"):
        await gateway.library.delete("harbour", "own")
    await gateway.in_force.unassign(made)
    with pytest.raises(NotFound):
        await gateway.library.delete("customs", "own")
    await gateway.library.delete("harbour", "own")
    with pytest.raises(NotFound):
        await gateway.library.find("harbour", "own")
    with pytest.raises(NotFound):
        await gateway.library.delete("harbour", "strict")
    with pytest.raises(Conflict, match="comes with this gateway"):
        await gateway.put("strict", MASK)
    with pytest.raises(BadRequest):
        await gateway.put("own", {"entities": {"EMAIL_ADDRESS": {"input": "hide"}}})


@on_sqlite
@pytest.mark.parametrize("harm", ["edited", "unreadable", "lost"])
async def test_calls_of_a_policy_that_cannot_be_loaded_are_refused(
    db: Database, gateway: Gateway, harm: str
) -> None:
    await gateway.put("own", MASK)
    await gateway.assign("own", route=CHAT)
    async with db.write() as connection:
        if harm == "edited":
            change = {"document": {"name": "own", "entities": {}}}
            await connection.execute(update(policy_versions).values(change))
        elif harm == "unreadable":
            await connection.execute(update(policy_versions).values(document="rubbish"))
        else:
            await connection.execute(delete(policies))
    fresh = opened(db)
    await fresh.in_force.sync()
    with pytest.raises(Unavailable) as refusal:
        fresh.in_force.choose("harbour", CHAT).require()
    assert refusal.value.code == "policy_unavailable"
    assert fresh.in_force.choose("harbour", "POST /v1/embeddings").require().name == "default"
    assert fresh.in_force.choose("customs", CHAT).require().name == "default"
    await fresh.assign("strict", route=CHAT)  # the way out
    assert fresh.in_force.choose("harbour", CHAT).require().name == "strict"


@on_sqlite
async def test_a_policy_with_names_is_not_put_in_force_without_the_model(
    db: Database, gateway: Gateway
) -> None:
    def warm(languages: Any, names: Any) -> None:
        raise MissingExtra("The language model", "guardrails")

    bare = opened(db, warm)
    with pytest.raises(MissingExtra):
        await bare.assign("strict")
    names = {"entities": {"PERSON": {"input": "mask"}}}
    version = await bare.put("own", MASK)
    await bare.assign("own")
    with pytest.raises(MissingExtra):
        await bare.put("own", names)
    assert bare.obeyed() == f"own@{version}"
    await gateway.in_force.sync()
    await gateway.put("own", names)  # a gateway that has the model
    await bare.in_force.sync()
    with pytest.raises(Unavailable, match="pip install"):
        bare.in_force.choose("harbour", CHAT).require()
    assert gateway.in_force.choose("harbour", CHAT).require().needs_ner("input")
