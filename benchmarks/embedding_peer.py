"""The peer of the embedding benchmark: sentence-transformers as it comes, in its own Python.

Reads one JSON object a line and answers each with one: ``{"do": "load", "folder"}``,
``{"do": "rate", "texts", "seconds"}``, ``{"do": "query", "texts"}`` and
``{"do": "vectors", "texts", "queries", "file"}``. Imports nothing of ours.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np


def rate(encode: Any, texts: list[str], seconds: float) -> dict[str, float]:
    """Embed all texts again and again for some seconds; texts a second, processor ms a text."""
    done = 0
    began, spent = time.perf_counter(), time.process_time()
    while time.perf_counter() - began < seconds:
        encode(texts)
        done += len(texts)
    took = time.perf_counter() - began
    return {
        "texts_s": done / took,
        "cpu_ms": (time.process_time() - spent) * 1e3 / done,
    }


def query_ms(encode: Any, texts: list[str]) -> list[float]:
    """Milliseconds of each query, one after the other."""
    took = []
    for text in texts:
        began = time.perf_counter()
        encode(text)
        took.append((time.perf_counter() - began) * 1e3)
    return took


def main() -> None:
    """Serve the pipe until it is closed."""
    out = sys.stdout
    sys.stdout = sys.stderr  # libraries print where the answers go
    from sentence_transformers import SentenceTransformer

    model: Any = None

    def encode(texts: Any) -> Any:
        return model.encode(texts, show_progress_bar=False)

    for line in sys.stdin:
        asked = json.loads(line)
        answer: Any = None
        if asked["do"] == "load":
            model = SentenceTransformer(asked["folder"], device="cpu", local_files_only=True)
            encode(["warm"] * 4)
        elif asked["do"] == "rate":
            answer = rate(encode, asked["texts"], asked["seconds"])
        elif asked["do"] == "query":
            answer = query_ms(encode, asked["texts"])
        else:
            passages = encode(asked["texts"])
            np.savez(asked["file"], passages=passages, queries=encode(asked["queries"]))
        out.write(json.dumps(answer) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
