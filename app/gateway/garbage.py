"""Python's full garbage collections, kept out of the way of calls."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

EVERY_S = 10.0
FEW = 100  # calls under way: their objects are looked through in some 15 ms
LONGEST_S = 600.0  # without one, however many calls there are
DUE = 100  # collections of younger objects since the last full one; without calls there are none
NEVER = 1_000_000_000


async def collect_when_quiet(calls: Callable[[], int]) -> None:
    """Look through all objects when few calls are under way; runs until it is cancelled.

    A full collection stops every stream: 140 ms where 1,000 are open, and by itself Python
    begins one at each quarter of growth, so several while they are opened. They find next to
    nothing: what a call leaves in cycles, the collections of young objects have taken before.

    Args:
        calls: how many are under way.
    """
    usual = gc.get_threshold()
    gc.set_threshold(*usual[:2], NEVER)
    waited = 0.0
    try:
        while True:
            await asyncio.sleep(EVERY_S)
            waited += EVERY_S
            if gc.get_count()[2] >= DUE and (calls() <= FEW or waited >= LONGEST_S):
                gc.collect()
                waited = 0.0
    finally:
        gc.set_threshold(*usual)
