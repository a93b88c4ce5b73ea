"""Work that is done again and again while the gateway runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger("ostiary")


async def forever(
    work: Callable[[], Awaitable[None]], every_s: float, *, at_once: bool = False
) -> None:
    """Do ``work`` again and again; a failure is logged and tried again next time."""
    wait = 0.0 if at_once else every_s
    while True:
        await asyncio.sleep(wait)
        wait = every_s
        try:
            await work()
        except Exception:
            log.exception("periodic work failed; next try in %.0f s", every_s)
