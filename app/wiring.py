"""Opens state, engines and services, top to bottom, and closes them in the reverse order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

from app.gateway.corridor import Corridor
from app.services import Services
from app.settings import Settings

log = logging.getLogger("ostiary")
FLUSH_DRIFT_S = 15.0


async def open_services(settings: Settings, stack: AsyncExitStack) -> tuple[Services, Corridor]:
    """Return everything a route needs; ``stack`` closes it."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    raise NotImplementedError


async def _forever(work: Callable[[], Awaitable[None]], every_s: float) -> None:
    """Do ``work`` again and again; a failure is logged and tried again next time."""
    while True:
        await asyncio.sleep(every_s)
        try:
            await work()
        except Exception:
            log.exception("periodic work failed; next try in %.0f s", every_s)


def vllm_python(settings: Settings) -> Path | None:
    """The Python of vLLM's own environment: as set, or ``.vllm`` beside the checkout."""
    chosen = settings.vllm_python or Path(__file__).parent.parent / ".vllm" / "bin" / "python"
    return chosen if chosen.exists() else None
