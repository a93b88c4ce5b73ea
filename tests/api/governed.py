"""A gateway of its own in front of a scripted model server, with a small handbook in it."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from openai import AsyncOpenAI

from tests.conftest import Gateway
from tests.llm.scripted import ScriptedModel

HANDBOOK = b"""# Handbook

## Holidays

Employees receive 27 days of paid holiday each year. Unused days expire on the last day of March.

## Travel

Trains are booked through the travel desk in Lyon. Flights need the approval of a director.
"""
QUESTION = "How many days of paid holiday do employees receive?"
TRUE = "Employees receive 27 days of paid holiday each year. "


@dataclass(frozen=True, slots=True)
class Governed:
    """What a test of the answering doors needs."""

    gateway: Gateway
    model: ScriptedModel
    client: AsyncOpenAI
    store_id: str


@asynccontextmanager
async def governed(folder: Path, **env: str) -> AsyncIterator[Governed]:
    """Start both servers, load the handbook, and stop them at the end."""
    model = ScriptedModel()
    await model.start()
    env |= {"OSTIARY_LLM_URL": model.url, "OSTIARY_LLM_MODEL": "m"}
    gateway = Gateway(folder / "data", env)
    await asyncio.to_thread(gateway.start)
    try:
        async with AsyncOpenAI(
            base_url=gateway.url + "/v1", api_key=gateway.key, max_retries=0
        ) as client:
            store = await client.vector_stores.create(name="handbook")
            file = await client.vector_stores.files.upload_and_poll(
                vector_store_id=store.id, file=("handbook.md", io.BytesIO(HANDBOOK))
            )
            assert file.status == "completed", file.last_error
            yield Governed(gateway, model, client, store.id)
    finally:
        await asyncio.to_thread(gateway.stop)
        await model.stop()
