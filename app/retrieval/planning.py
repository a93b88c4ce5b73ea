"""What a collection of a given size needs: bytes, machines, hours, latency, cost.

Every figure says where it comes from: ``measured`` at a point of `measured.json`, ``extrapolated``
from a point by a rule, or ``given`` by the caller; what a rule assumes is said with it. The rules:

* Segments. An engine of ours holds at most 1,048,576 vectors a segment and searches segments one
  after the other, so beyond that the work of a search grows linearly. Milvus cuts its data into
  segments too (1 GiB by default) and searches them side by side.
* Within a segment, an index of inverted lists has near 2 √n lists, so that at the same share of
  lists its work grows with √n (Jégou, Douze, Schmid: Product quantization for nearest neighbor
  search, 2011; FAISS, "Guidelines to choose an index": 4 √n to 16 √n lists). A graph's grows with
  log n (Malkov, Yashunin: Efficient and robust approximate nearest neighbor search using
  hierarchical navigable small world graphs, 2018). A scan's grows with n. All grow with the
  length of the vectors, linearly.
* Bytes follow from the codes: see :func:`bytes_a_vector`. Measured totals are told beside them.
* The hours of indexing a vector do not depend on how many segments there are.
* Milvus's index library is built on FAISS: its inverted lists are taken to be no faster than the
  slower of our two kinds, and 8-bit codes to find as much there, unrefined, as ours do refined.
* The recall of a collection is that of its segments, since each is searched.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from app.errors import BadRequest
from app.retrieval.engines.faiss import MOST_VECTORS
from app.retrieval.engines.recipes import AUTO, FLAT_MOST, candidates, lists_for
from app.retrieval.measured import Effort, Measured, Point, shipped

Basis = Literal["measured", "extrapolated", "given"]

GIB = 2**30
USABLE = 0.8  # of a machine's memory; the rest is for queries, merges and the system
GATEWAY_BYTES = 2 * GIB  # process, models, words that are being written
MILVUS_SEGMENT = GIB  # its default largest segment, bytes of raw vectors
READ_MS = 0.1  # one random read of 4 KiB from an NVMe disk at queue depth 1
HOURS_A_MONTH = 730
MOST_VECTORS_PLANNED, MOST_DIM = 10**12, 16_384
BY_MEMORY = (
    "ivf_pq",
    "ivf_rabitq",
    "ivf_pq_fine",
    "ivf_sq8",
    "hnsw",
)  # least first, at any dimension


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of a plan, and where it comes from; a count or a share has no unit."""

    value: float
    unit: str
    basis: Basis
    how: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be planned.

    Attributes:
        vectors, dim: how many, and their length.
        recall: recall@10 to reach, of the exact nearest.
        qps: searches a second.
        machine_gib, cores: memory and processor cores of one machine.
        latency_ms: the most that the median search of the index may take.
        price_per_hour: USD of one machine; None leaves costs out.
        embed_rate: passages a second that one machine embeds; None takes the measured one.
    """

    vectors: int
    dim: int
    recall: float = 0.95
    qps: float = 10.0
    machine_gib: float = 256.0
    cores: int = 16
    latency_ms: float = 100.0
    price_per_hour: float | None = None
    embed_rate: float | None = None

    def __post_init__(self) -> None:
        checks = (
            ("vectors", 1 <= self.vectors <= MOST_VECTORS_PLANNED, "a number from 1 to 1e12"),
            ("dim", 8 <= self.dim <= MOST_DIM, f"a number from 8 to {MOST_DIM}"),
            ("recall", 0 < self.recall <= 1, "a number above 0 and at most 1, as 0.95"),
            ("qps", 0 < self.qps <= 1e7, "searches a second above 0, as 100"),
            ("machine_gib", 4 <= self.machine_gib <= 1e5, "GiB from 4, as 256"),
            ("cores", 1 <= self.cores <= 4096, "a number from 1 to 4096"),
            ("latency_ms", 0 < self.latency_ms <= 1e6, "milliseconds above 0, as 100"),
            ("price_per_hour", (self.price_per_hour or 0) >= 0, "USD, 0 or more"),
            ("embed_rate", self.embed_rate is None or self.embed_rate > 0, "above 0, as 2000"),
        )
        for name, good, need in checks:
            value = getattr(self, name)
            finite = value is None or math.isfinite(value)
            if not good or not finite:
                raise BadRequest(f"'{value}' is no {name}. Give {need}.", param=name)


@dataclass(frozen=True, slots=True)
class Plan:
    """What was chosen, its figures, and why nothing simpler was."""

    wanted: Wanted
    layout: str
    recipe: str
    setting: str
    why: str
    figures: dict[str, Figure]
    notes: list[str] = field(default_factory=list)


def bytes_a_vector(recipe: str, dim: int, count: int) -> float:
    """Bytes in memory that one vector of a segment of ``count`` takes.

    Exact search scans the vector itself. In inverted lists it is 8 for its row, its code (4 bits
    for each 4 numbers, of a fine one for each 2, or 8 bits a number) and its share of the lists'
    centroids. The fast scan of 4-bit codes fills each list up to a multiple of 32, by 16 on
    average, and has one codebook. In a graph over 8-bit codes it is twice 32 links of 4 bytes and
    about 12 more for its levels.
    """
    if recipe == "flat":
        return 4.0 * dim
    if recipe == "hnsw":
        return float(dim + 2 * 32 * 4 + 12)
    lists = lists_for(count)
    if recipe == "ivf_sq8":
        return 8.0 + dim + 4 * dim * lists / count
    code = dim / 4 if recipe == "ivf_pq_fine" else dim / 8
    return 8.0 + code + (lists * (4 * dim + 16 * code) + 64 * dim) / count


def growth(recipe: str, count: int, point: Point, dim: int) -> float:
    """How many times the work of a search at a point a segment of ``count`` × ``dim`` takes."""
    length = dim / point.dim
    if recipe == "flat":
        return length * count / point.vectors
    if recipe == "hnsw":
        return length * max(1.0, math.log(count)) / math.log(point.vectors)
    return length * math.sqrt(count / point.vectors)


def plan(wanted: Wanted, measured: Measured | None = None) -> Plan:
    """Choose the simplest layout that holds the vectors and answers in time, and reckon it.

    In order: exact search, FAISS segments in one gateway (replicas where one is too slow for the
    searches a second), a Milvus cluster.

    Raises:
        BadRequest: nothing that was measured reaches the recall.
    """
    known = measured or shipped()
    if wanted.vectors <= FLAT_MOST:
        return _embedded(wanted, known, "flat", "an exact scan is as fast as any index up to here")
    recipe = next((r for r in BY_MEMORY if known.reaches("faiss", r, wanted.recall)), BY_MEMORY[0])
    one = _embedded(wanted, known, recipe, "least memory at this recall on one machine")
    held = one.figures["memory"].value + GATEWAY_BYTES
    room = USABLE * wanted.machine_gib * GIB
    latency = one.figures["latency"].value
    if held <= room and latency <= wanted.latency_ms:
        return one
    reasons = []
    if held > room:
        reasons.append(f"one machine would need {held / GIB:,.0f} GiB of {room / GIB:,.0f} usable")
    if latency > wanted.latency_ms:
        reasons.append(
            f"{segments_of(wanted.vectors):,} segments one after the other take {latency:,.0f} ms, "
            f"more than {wanted.latency_ms:g}"
        )
    return _cluster(wanted, known, "FAISS in one gateway will not do: " + "; ".join(reasons))


def segments_of(vectors: int) -> int:
    """Segments of a fully merged collection of ours."""
    return max(1, math.ceil(vectors / MOST_VECTORS))


def _work(wanted: Wanted, known: Measured, recipe: str) -> tuple[float, Point, Effort, str]:
    """Milliseconds of one core for a search of all, and how that was found."""
    full = max(1.0, wanted.vectors / MOST_VECTORS)
    count = min(wanted.vectors, MOST_VECTORS)
    point = known.nearest("faiss", recipe, count, wanted.recall)
    effort = point.reaching(wanted.recall)
    assert effort is not None
    one = effort.p50_ms * growth(recipe, count, point, wanted.dim)
    rule = {"flat": "n", "hnsw": "log n"}.get(recipe, "√n")
    how = f"{effort.p50_ms:g} ms at recall {effort.recall:g} ({point.label})"
    if (count, wanted.dim) != (point.vectors, point.dim):
        how += f", times {one / effort.p50_ms:.2f} for {count:,} × {wanted.dim} by {rule} and dim"
    if full > 1:
        how += f", times {full:,.1f} full segments"
    return one * full, point, effort, how


def _embedded(wanted: Wanted, known: Measured, recipe: str, why: str) -> Plan:
    segments = segments_of(wanted.vectors)
    count = min(wanted.vectors, MOST_VECTORS)
    work, point, effort, how = _work(wanted, known, recipe)
    same = (count, wanted.dim, segments) == (point.vectors, point.dim, 1)
    basis: Basis = "measured" if same else "extrapolated"
    each = bytes_a_vector(recipe, wanted.dim, count)
    memory = each * wanted.vectors
    disk = _files(wanted, 0 if recipe == "flat" else each)
    cold = disk > USABLE * wanted.machine_gib * GIB - GATEWAY_BYTES
    latency, latency_how = work, how
    if cold and recipe != "flat":
        reads = segments * candidates(10, recipe, count)
        latency += reads * READ_MS
        latency_how += (
            f"; plus {reads:,} reads of full vectors at {READ_MS:g} ms "
            "(assumed: NVMe, one at a time, since they do not fit memory)"
        )
    capacity = wanted.cores * 1e3 / work
    replicas = max(1, math.ceil(wanted.qps / capacity))
    bytes_how = f"{each:.1f} B a vector from its codes; {_told(point)}"
    figures = {
        "memory": Figure(memory, "bytes", basis, bytes_how),
        "disk": Figure(
            disk, "bytes", basis, f"the index, 8 B and 4 × {wanted.dim} B of the full vector"
        ),
        "machines": Figure(
            replicas,
            "",
            "extrapolated",
            f"each holds all; one gives {capacity:,.0f} searches/s on {wanted.cores} cores, "
            "1 / (work of a search)",
        ),
        "latency": Figure(latency, "ms", "extrapolated" if cold else basis, latency_how),
        "recall@10": Figure(effort.recall, "", basis, f"{point.label}, effort {effort.effort}"),
        **_building(wanted, known, point, replicas),
    }
    setting = f"OSTIARY_VECTOR_ENGINE=faiss, OSTIARY_RECALL_TARGET={wanted.recall:g}"
    if recipe not in ("flat", *AUTO):  # what `auto` would not choose
        setting += f", OSTIARY_VECTOR_RECIPE={recipe}"
    layout = f"FAISS in the gateway, {segments:,} segment{'s' if segments > 1 else ''}"
    notes = ["A store that is still growing has up to seven segments of each smaller size more."]
    return Plan(wanted, layout, recipe, setting, why, figures, notes)


def _cluster(wanted: Wanted, known: Measured, why: str) -> Plan:
    """Milvus query nodes that share the vectors, with 8-bit codes in inverted lists."""
    server = known.nearest("milvus", "hnsw", wanted.vectors, wanted.recall)
    served = server.reaching(wanted.recall)
    assert served is not None
    lists = [r for r in ("ivf_sq8", "ivf_pq") if known.reaches("faiss", r, wanted.recall)]
    found = [_work(wanted, known, recipe) for recipe in lists or ["ivf_sq8"]]
    work, point, effort, how = max(found, key=lambda w: w[0])
    count = max(1, MILVUS_SEGMENT // (4 * wanted.dim))
    segments = math.ceil(wanted.vectors / count)
    each = bytes_a_vector("ivf_sq8", wanted.dim, min(count, wanted.vectors))
    memory = each * wanted.vectors
    nodes = math.ceil(memory / (USABLE * wanted.machine_gib * GIB))
    machines = max(nodes, math.ceil(wanted.qps * (work + served.p50_ms) / (1e3 * wanted.cores)))
    at_once = min(segments, wanted.cores * machines)
    latency = served.p50_ms + work / at_once
    figures = {
        "memory": Figure(
            memory,
            "bytes",
            "extrapolated",
            f"{each:.0f} B a vector from its 8-bit code, as in FAISS, whose lists Milvus uses; "
            f"{_told(point)}",
        ),
        "disk": Figure(
            _files(wanted, each),
            "bytes",
            "extrapolated",
            "the index and the full vectors, once, in object storage",
        ),
        "machines": Figure(
            machines,
            "",
            "extrapolated",
            f"{nodes} query nodes hold all in {USABLE:.0%} of {wanted.machine_gib:g} GiB, "
            f"{machines} do the work of {wanted.qps:g} searches/s; coordinators, etcd and object "
            "storage come on top",
        ),
        "latency": Figure(
            latency,
            "ms",
            "extrapolated",
            f"a whole call of {served.p50_ms:g} ms ({server.label}), plus the scan over "
            f"{at_once:,} cores at once: {how}",
        ),
        "recall@10": Figure(
            effort.recall, "", "extrapolated", f"{point.label}, effort {effort.effort}"
        ),
        **_building(wanted, known, point, machines),
    }
    setting = (
        "OSTIARY_VECTOR_ENGINE=milvus, OSTIARY_MILVUS_URL=…; in Milvus, IVF_SQ8 on the field vector"
    )
    notes = [
        "A Milvus cluster was not measured here, only one server; check a tenth of the vectors "
        "before buying machines."
    ]
    return Plan(
        wanted, f"a Milvus cluster, {machines} query nodes", "ivf_sq8", setting, why, figures, notes
    )


def _files(wanted: Wanted, index: float) -> float:
    """Bytes on disk: an index of so many bytes a vector, numbers and full vectors."""
    return (index + 8 + 4 * wanted.dim) * wanted.vectors


def _told(point: Point) -> str:
    return (
        f"measured {point.memory_a_vector:,.1f} in memory, {point.disk_a_vector:,.0f} on disk "
        f"({point.label})"
    )


def _building(wanted: Wanted, known: Measured, point: Point, machines: int) -> dict[str, Figure]:
    """Hours of embedding and of indexing on the machines of the plan, and what it all costs."""
    cores = wanted.cores * machines
    basis: Basis = "given"
    if wanted.embed_rate is not None:
        rate = wanted.embed_rate * machines
        how = f"{wanted.embed_rate:g} passages/s a machine"
    else:
        rate, basis = known.texts_a_core_s * cores, "extrapolated"
        how = (
            f"{known.texts_a_core_s:.1f} passages/s a core with {known.embedder}, over "
            f"{cores:,} cores; another model or a GPU: give --embed-rate"
        )
    embedding = wanted.vectors / rate / 3600
    each = point.build_s * point.build_cores / point.vectors * wanted.dim / point.dim
    indexing = each * wanted.vectors / cores / 3600
    out = {
        "embedding": Figure(embedding, "hours", basis, how),
        "indexing": Figure(
            indexing,
            "hours",
            "extrapolated",
            f"{each * 1e3:.3g} core-ms a vector ({point.label}), linear in vectors and dim, "
            f"over {cores:,} cores",
        ),
    }
    if wanted.price_per_hour is not None:
        each_hour = wanted.price_per_hour * machines
        out["build cost"] = Figure(
            each_hour * (embedding + indexing), "USD", "extrapolated", "hours of building × price"
        )
        out["monthly cost"] = Figure(
            each_hour * HOURS_A_MONTH,
            "USD",
            "extrapolated",
            f"machines × {HOURS_A_MONTH} h × price",
        )
    return out


def as_text(found: Plan) -> str:
    """The plan for a reader at a terminal."""
    wanted = found.wanted
    lines = [
        f"{wanted.vectors:,} vectors × {wanted.dim}, recall@10 {wanted.recall:g}, "
        f"{wanted.qps:g} searches/s, machines of {wanted.machine_gib:g} GiB and "
        f"{wanted.cores} cores",
        f"  {found.layout}; recipe {found.recipe}",
        f"  why: {found.why}",
        f"  set: {found.setting}",
        "",
    ]
    for name, figure in found.figures.items():
        lines.append(f"  {name:13}{_shown(figure):>14}  {figure.basis}: {figure.how}")
    lines += ["", *(f"  note: {note}" for note in found.notes)]
    return "\n".join(lines)


def _shown(figure: Figure) -> str:
    if figure.unit == "bytes":
        for size, unit in ((2**40, "TiB"), (GIB, "GiB"), (2**20, "MiB")):
            if figure.value >= size:
                return f"{figure.value / size:,.1f} {unit}"
        return f"{figure.value:,.0f} B"
    value = f"{figure.value:,.0f}" if figure.value >= 100 else f"{figure.value:,.3g}"
    return f"{value} {figure.unit}".strip()


def as_json(found: Plan) -> dict[str, Any]:
    """The plan for a program."""
    return asdict(found)
