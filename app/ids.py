"""Readable, time-ordered identifiers: a prefix and a UUIDv7 (RFC 9562)."""

from __future__ import annotations

import os
import time
from collections import deque

_AT_ONCE = 64  # a system call for each identifier is dear where the machine is virtual
_random: deque[int] = deque()
os.register_at_fork(after_in_child=_random.clear)


def _bits() -> int:
    """80 random bits; never the same ones twice, whatever the threads and processes."""
    while True:
        try:
            return _random.pop()
        except IndexError:
            drawn = os.urandom(10 * _AT_ONCE)
            _random.extend(
                int.from_bytes(drawn[i : i + 10], "big") for i in range(0, len(drawn), 10)
            )


def new_id(prefix: str) -> str:
    """Return ``prefix`` followed by a fresh UUIDv7 as 32 hex digits."""
    millis = time.time_ns() // 1_000_000
    random = _bits()
    value = (millis & ((1 << 48) - 1)) << 80
    value |= 0x7 << 76
    value |= ((random >> 62) & 0xFFF) << 64
    value |= 0b10 << 62
    value |= random & ((1 << 62) - 1)
    return f"{prefix}{value:032x}"
