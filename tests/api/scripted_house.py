"""A gateway before a scripted model, as a test of the gateway's own behaviour calls it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from tests.api.calls import Reply, send
from tests.conftest import Gateway
from tests.llm.scripted import ScriptedModel


class ScriptedHouse:
    """The gateway, and the model that says what the test wrote."""

    def __init__(self, gateway: Gateway, model: ScriptedModel) -> None:
        self.gateway, self.model = gateway, model

    async def send(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        """One request; headers by their names with underscores."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return await asyncio.to_thread(send, self.gateway, method, path, body, sent)

    async def good(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """The body of a reply that is none of an error."""
        status, reply, _ = await self.send(method, path, body, **headers)
        assert status < 300, reply
        return reply

    async def record(self, request_id: str) -> dict[str, Any]:
        """The audit record of a request."""
        (found,) = (await self.good("GET", f"/v1/audit?request_id={request_id}"))["data"]
        return dict(found)

    async def asked(self) -> None:
        """Wait until the model was asked."""
        async with asyncio.timeout(5):
            while not self.model.bodies:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def scripted_gateway(
    data: Path, **settings: str
) -> AsyncIterator[tuple[Gateway, ScriptedModel]]:
    """A gateway whose model ``m`` is scripted; ``settings`` without their prefix."""
    async with AsyncExitStack() as stack:
        model = ScriptedModel()
        await model.start()
        stack.push_async_callback(model.stop)
        env = {f"OSTIARY_{name.upper()}": value for name, value in settings.items()}
        env |= {"OSTIARY_LLM_URL": model.url, "OSTIARY_LLM_MODEL": "m"}
        gateway = Gateway(data, env)
        await asyncio.to_thread(gateway.start)
        stack.push_async_callback(asyncio.to_thread, gateway.stop)
        yield gateway, model
