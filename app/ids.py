"""Readable, time-ordered identifiers: a prefix and a UUIDv7 (RFC 9562)."""

from __future__ import annotations

import os
import time


def new_id(prefix: str) -> str:
    """Return ``prefix`` followed by a fresh UUIDv7 as 32 hex digits."""
    millis = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10), "big")
    value = (millis & ((1 << 48) - 1)) << 80
    value |= 0x7 << 76
    value |= ((random >> 62) & 0xFFF) << 64
    value |= 0b10 << 62
    value |= random & ((1 << 62) - 1)
    return f"{prefix}{value:032x}"
