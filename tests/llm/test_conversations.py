"""The maps of kept responses are forgotten when their time is over, and no sooner."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import insert, select

from app.errors import Conflict
from app.gateway.call import Call, Principal
from app.guardrails.findings import Finding
from app.guardrails.pii import PiiDetector
from app.guardrails.policy import Policy, Rule
from app.guardrails.pseudonyms import Pseudonyms
from app.guardrails.service import Guardrails
from app.llm.conversations import Conversations
from app.pools import Pool
from app.store.db import Database
from app.store.migrate import migrate
from app.store.models import responses
from tests.guardrails.texts import KEY


@pytest_asyncio.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    db = Database(database_url)
    migrate(db)
    yield db
    await db.close()


@pytest.fixture(scope="module")
def guardrails() -> Iterator[Guardrails]:
    pool = Pool("ner", 1)
    policy = Policy(name="p", entities={"EMAIL_ADDRESS": Rule(input="pseudonymize")})
    yield Guardrails(policy, PiiDetector(), pool, keep=False, key=KEY)
    pool.close()


async def test_old_maps_are_forgotten_and_their_responses_not_read_any_more(
    db: Database, guardrails: Guardrails
) -> None:
    principal = Principal("t", "key:1", "1", frozenset())
    call = Call("call_1", "call_1", "rest", "POST /v1/responses", principal)
    call.pseudonyms = Pseudonyms(guardrails.tokens(call), "s")
    call.pseudonyms.hide(["ada@corp.io"], [[Finding("EMAIL_ADDRESS", 0, 11, 1.0)]])
    for name, days in (("resp_old", -1.0), ("resp_new", 1.0)):
        body = {"id": name, "output": [{"text": "To ada@corp.io."}], "instructions": None}
        values = {"id": name, "tenant_id": "t", "created_at": time.time(), "owner": "key:1"}
        said = {"role": "assistant", "content": "To ada@corp.io."}
        kept = Conversations(db, guardrails, days).to_keep(
            call, {**values, "input": [said], "body": body}
        )
        assert "ada@corp.io" not in str({**kept, "pseudonyms": b""})
        async with db.write() as connection:
            await connection.execute(insert(responses).values(kept))
    conversations = Conversations(db, guardrails, 1.0)
    await conversations.forget_old()
    rows: dict[str, Any] = {row["id"]: row for row in await db.rows(select(responses))}
    assert rows["resp_old"]["pseudonyms"] is None and rows["resp_new"]["pseudonyms"]
    again = Call("call_2", "call_2", "rest", "GET /v1/responses/{id}", principal)
    shown = conversations.body_of(again, rows["resp_new"])
    assert shown["output"] == [{"text": "To ada@corp.io."}]
    with pytest.raises(Conflict, match="forgotten"):
        conversations.body_of(again, rows["resp_old"])
