"""How a collection is laid out in Milvus, and how one is opened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from app.errors import Unavailable

if TYPE_CHECKING:
    from pymilvus import MilvusClient

# The kinds of index we make, and how they are built. HNSW reaches a recall of 0.95 with the
# fewest comparisons; IVF_SQ8 takes a quarter of its memory.
BUILD: dict[str, dict[str, int]] = {
    "HNSW": {"M": 16, "efConstruction": 200},
    "IVF_FLAT": {"nlist": 1024},
    "IVF_SQ8": {"nlist": 1024},
    "FLAT": {},
}
FILE_ID_BYTES = 512
_TYPES = {"number": "INT64", "file_id": "VARCHAR", "vector": "FLOAT_VECTOR"}


@dataclass(frozen=True, slots=True)
class Opened:
    """A collection that can be searched."""

    index: str  # its kind; another than asked for when somebody else built it
    properties: dict[str, str]


def open_collection(
    client: MilvusClient, where: str, name: str, dim: int, index: str, timeout_s: float
) -> Opened:
    """Make what is missing of a collection, check the rest and load it.

    Step by step, since another process may be doing the same or have died between two.

    Args:
        where: the server's name for messages.

    Raises:
        Unavailable: a collection of that name exists and is not ours, or not of this ``dim``.
        MilvusException, grpc.RpcError: Milvus failed.
    """
    if not client.has_collection(name, timeout=timeout_s):
        _create(client, name, dim, timeout_s)
    about = client.describe_collection(name, timeout=timeout_s)
    wrong = _unlike(about, dim)
    if not wrong:
        if not client.list_indexes(name, "vector", timeout=timeout_s):
            _index(client, name, index, timeout_s)
        built = client.describe_index(name, "vector", timeout=timeout_s)
        if built.get("metric_type") != "IP":
            wrong = "compares vectors by another measure than the inner product"
    if wrong:
        raise Unavailable(
            f"The collection {name!r} in {where} {wrong}. Operator: drop or rename it there, or "
            "use another database of Milvus.",
            code="milvus_collection_unfit",
        )
    state = client.get_load_state(name, timeout=timeout_s)
    if getattr(state["state"], "name", "") != "Loaded":
        client.load_collection(name, timeout=12 * timeout_s)
    return Opened(str(built["index_type"]), dict(about.get("properties") or {}))


def _create(client: MilvusClient, name: str, dim: int, timeout_s: float) -> None:
    from pymilvus import DataType
    from pymilvus.exceptions import MilvusException

    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("number", DataType.INT64, is_primary=True)
    schema.add_field("file_id", DataType.VARCHAR, max_length=FILE_ID_BYTES)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
    try:
        client.create_collection(name, schema=schema, timeout=6 * timeout_s)
    except MilvusException:  # another process may have been first
        if not client.has_collection(name, timeout=timeout_s):
            raise


def _index(client: MilvusClient, name: str, kind: str, timeout_s: float) -> None:
    from pymilvus.exceptions import MilvusException

    params = client.prepare_index_params()
    params.add_index("vector", index_type=kind, metric_type="IP", params=BUILD[kind])
    try:
        client.create_index(name, params, timeout=6 * timeout_s)
    except MilvusException:
        if not client.list_indexes(name, "vector", timeout=timeout_s):
            raise


def _unlike(about: dict[str, Any], dim: int) -> str:
    """What about a collection is not as we make it; empty when all is."""
    fields = {field["name"]: field for field in about["fields"]}
    if {n: getattr(f["type"], "name", "") for n, f in fields.items()} != _TYPES:
        return "was not made by Ostiary"
    if not fields["number"].get("is_primary"):
        return "has another primary key"
    stored = int(fields["vector"]["params"]["dim"])
    return "" if stored == dim else f"holds vectors of length {stored}, not {dim}"
