"""The second stage: equal passages are found among all keys, and each gets one owner."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pipelines.embeddings import keys
from pipelines.embeddings.layout import writer
from pipelines.embeddings.storage import Folder

KEYS_AT_ONCE = 1_000_000
_REF_GROUP = 65_536


@dataclass(frozen=True, slots=True)
class Roll:
    """The units whose keys are matched: all with a shard, and all that this run makes."""

    ids: dict[int, str]  # by seq
    new: frozenset[int]  # seqs that have no shard yet
    keys: int  # of all of them

    def dump(self) -> bytes:
        units = [[s, i, s in self.new] for s, i in sorted(self.ids.items())]
        return json.dumps({"keys": self.keys, "units": units}).encode()


@lru_cache(maxsize=2)
def roll(output: str, run: int) -> Roll:
    """Read the roll of a run, once in a process."""
    told = json.loads(Folder(output).read(roll_name(run)))
    ids = {seq: unit for seq, unit, _ in told["units"]}
    return Roll(ids, frozenset(seq for seq, _, new in told["units"] if new), told["keys"])


def roll_name(run: int) -> str:
    return f"runs/{run:06d}.roll.json"


def refs_folder(run: int) -> str:
    return f"refs/{run:06d}"


@dataclass(frozen=True, slots=True)
class Matched:
    """Of each unit: how many of its passages another row owns, and in which new units."""

    refs: str
    copied: dict[int, int] = field(default_factory=dict)
    owners: dict[int, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MatchTask:
    """Matches the keys of the buckets ``first`` to ``last`` - 1 over all units."""

    output: str
    run_number: int
    first: int
    last: int

    @property
    def label(self) -> str:
        return f"match buckets {self.first} to {self.last - 1}"

    def run(self) -> Matched:
        """Write which row owns each repeated key: columns seq, row, owner, in that order."""
        folder = Folder(self.output)
        known = roll(self.output, self.run_number)
        name = f"{refs_folder(self.run_number)}/{self.first:05d}.parquet"
        if folder.exists(name):
            seq, owner = _read_refs(folder, name)
        else:
            seq, row, owner = self._match(folder, known)
            _write_refs(folder, name, seq, row, owner)
        copied = {int(s): int(n) for s, n in zip(*np.unique(seq, return_counts=True), strict=True)}
        owners: dict[int, list[int]] = {}
        for one, its in np.unique(np.stack([seq, owner], 1), axis=0).tolist():
            if its != one and its in known.new:
                owners.setdefault(one, []).append(its)
        return Matched(name, copied, {s: tuple(o) for s, o in owners.items()})

    def _match(
        self, folder: Folder, known: Roll
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        parts, seqs, rows = [], [], []
        for number, unit in known.ids.items():
            digests, at = keys.read(folder, f"keys/{unit}.keys", self.first, self.last)
            parts.append(digests)
            rows.append(at)
            seqs.append(np.full(len(at), number, np.int64))
        if not parts:
            none = np.empty(0, np.int64)
            return none, none, none
        digests, seq, row = np.concatenate(parts), np.concatenate(seqs), np.concatenate(rows)
        del parts, seqs, rows
        new = np.isin(seq, np.fromiter(known.new, np.int64, len(known.new)))
        # a shard that is there owns before one that is to be made, then the first one read
        sort = keys.order(digests, new.astype(np.int64), seq, row)
        digests, new, seq, row = digests[sort], new[sort], seq[sort], row[sort]
        begins = np.ones(len(digests), bool)
        begins[1:] = (digests[1:] != digests[:-1]).any(axis=1)
        owner = seq[begins][np.cumsum(begins) - 1]
        wanted = ~begins & new
        seq, row, owner = seq[wanted], row[wanted], owner[wanted]
        sort = np.lexsort((row, seq))
        return seq[sort], row[sort], owner[sort]


def _write_refs(
    folder: Folder,
    name: str,
    seq: NDArray[np.int64],
    row: NDArray[np.int64],
    owner: NDArray[np.int64],
) -> None:
    import pyarrow as pa

    table = pa.table({"seq": seq, "row": row, "owner": owner})
    with folder.writing(name) as path, writer(path, table.schema) as out:
        out.write_table(table, row_group_size=_REF_GROUP)


def _read_refs(folder: Folder, name: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    import pyarrow.parquet as pq

    with folder.open(name) as stream:
        table = pq.read_table(stream, columns=["seq", "owner"])
    return table["seq"].to_numpy(), table["owner"].to_numpy()


def refs_of(
    folder: Folder, names: tuple[str, ...], seq: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows of a unit that others own, ascending, and the owners' seqs."""
    import pyarrow.parquet as pq

    rows, owners = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for name in names:
        with folder.open(name) as stream:
            table = pq.read_table(stream, columns=["row", "owner"], filters=[("seq", "=", seq)])
        rows.append(table["row"].to_numpy())
        owners.append(table["owner"].to_numpy())
    row, owner = np.concatenate(rows), np.concatenate(owners)
    sort = np.argsort(row)
    return row[sort], owner[sort]


def split(total_keys: int, buckets: int) -> list[tuple[int, int]]:
    """Cut the buckets into runs of about ``KEYS_AT_ONCE`` keys each."""
    tasks = min(buckets, max(1, -(-total_keys // KEYS_AT_ONCE)))
    bounds = [buckets * i // tasks for i in range(tasks + 1)]
    return list(itertools.pairwise(bounds))
