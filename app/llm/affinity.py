"""Remembers which server read which beginning of a prompt: its cache is warm for it.

Servers such as vLLM keep the attention keys and values of prompts in blocks and use them again for
a prompt that begins alike. So a conversation, or questions about one document, go to the server
that read them before, unless it has clearly more to do than another (as in Srivatsa and others,
Preble, ICLR 2025, and SGLang's router).
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

BLOCK = 512  # characters; vLLM's blocks of 16 tokens are shorter, but memory grows with them
MOST_BLOCKS = 64  # of a prompt; what lies behind 32,768 characters tells servers no further apart
KEPT = 50_000  # blocks, 8 bytes and a name each


class Prefixes:
    """The server that last read each block of prompts; the least recently used go first."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._of: OrderedDict[bytes, str] = OrderedDict()

    def warmest(self, blocks: list[bytes]) -> list[str]:
        """Servers that read a beginning of the prompt, the longest beginning first."""
        found: dict[str, None] = {}
        for block in reversed(blocks):
            server = self._of.get(block)
            if server is not None:
                found.setdefault(server)
        return list(found)

    def note(self, blocks: list[bytes], server: str) -> None:
        """The server reads the prompt now."""
        for block in blocks:
            self._of[block] = server
            self._of.move_to_end(block)
        while len(self._of) > self._kept:
            self._of.popitem(last=False)


def blocks_of(body: dict[str, Any]) -> list[bytes]:
    """A hash for each beginning of the prompt that ends with a whole block.

    A prompt shorter than a block has none: there is little to be saved.
    """
    text = "\0".join(texts_of(body))[: BLOCK * MOST_BLOCKS]
    digest, found = hashlib.blake2b(digest_size=8), []
    for start in range(0, len(text) - BLOCK + 1, BLOCK):
        digest.update(text[start : start + BLOCK].encode("utf-8", "surrogatepass"))
        found.append(digest.digest())
    return found


def texts_of(body: dict[str, Any]) -> Iterator[str]:
    """The roles and texts of a prompt, one after the other."""
    prompt = body.get("prompt")
    yield from [prompt] if isinstance(prompt, str) else prompt or ()
    for message in body.get("messages") or ():
        yield str(message.get("role"))
        content = message.get("content")
        if isinstance(content, str):
            yield content
        for part in content if isinstance(content, list) else ():
            if isinstance(part.get("text"), str):
                yield part["text"]
