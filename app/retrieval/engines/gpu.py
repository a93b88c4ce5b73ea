"""Graphics cards for the building of inverted lists, where FAISS was built for them.

What takes the time is finding each vector's nearest centroid, in k-means and again when the vector
is added: cards do both. Codes and lists stay in the memory of the host, so the index is the same
kind of file, whoever built it. Searches stay on the processor: they come one at a time, with
filters, which FAISS's lists on a card do not take.
"""

from __future__ import annotations

from typing import Any


def cards() -> int:
    """How many cards FAISS can use: 0 with ``faiss-cpu``, or where no card is seen."""
    import faiss

    count = getattr(faiss, "get_num_gpus", None)
    return 0 if count is None else int(count())


def on_cards(flat: Any) -> Any:
    """A flat index copied to all cards; itself where there is none."""
    import faiss

    return faiss.index_cpu_to_all_gpus(flat) if cards() else flat
