"""Finds what was changed in an audit chain: record by record, checkpoint by checkpoint."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from app.monitoring.signing import KeyRing, canonical

GENESIS = "0" * 64
Row = Mapping[Any, Any]
CHECKPOINT = ("tenant_id", "number", "seq", "hash", "previous", "at", "key_id", "signature")
TOMBSTONE = (
    *("id", "tenant_id", "data_class", "from_seq", "to_seq", "hash_before", "hash_after"),
    *("record_sha256", "reason", "at", "key_id", "signature"),
)
COPIED = (  # columns beside the record that repeat what is in it
    *("call_id", "request_id", "at", "key_id", "route", "model", "status"),
    *("prompt_tokens", "completion_tokens", "embedding_tokens", "cost_nano_usd"),
)
COPIED_AS_JSON = ("costs", "tags")


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong, where, and in words.

    ``kind`` is one of: edited, columns_edited, deleted, reordered, truncated, rewritten,
    checkpoint_forged, checkpoint_missing, statement_forged, statement_untrue, bodies_edited,
    bodies_deleted, head_missing.
    """

    tenant_id: str
    seq: int
    kind: str
    told: str

    def __str__(self) -> str:
        return f"{self.tenant_id}: {self.told}"


class Broken(Exception):
    """A chain that is not whole."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault


def chain_hash(prev_hash: str, record: str) -> str:
    """SHA-256 over the previous hash and the canonical JSON of the record."""
    return hashlib.sha256(prev_hash.encode() + record.encode()).hexdigest()


def digest(text: str) -> str:
    """SHA-256 of a text, hex."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def checkpoint_digest(checkpoint: Row) -> str:
    """What the following checkpoint calls ``previous``."""
    return digest(canonical({name: checkpoint[name] for name in CHECKPOINT}))


class ChainCheck:
    """Walks one tenant's chain from its beginning, or from a record with a known hash before it.

    Checkpoints and statements of removal are given before the records that they speak of, each
    kind in its own order; then records by seq; then :meth:`end`. Every method raises Broken at
    the first fault.

    Args:
        all_checkpoints: they come without gaps, from the first one on.
        moving: the records were read while others were removed, so a statement may cover some
            that were read before.
    """

    def __init__(
        self,
        tenant_id: str,
        ring: KeyRing,
        *,
        first_seq: int = 1,
        hash_before: str = GENESIS,
        all_checkpoints: bool = True,
        moving: bool = False,
    ) -> None:
        self.tenant_id, self._ring = tenant_id, ring
        self.seq, self.hash = first_seq - 1, hash_before
        self.records = 0
        self._anchors: list[tuple[int, str]] = []  # a heap: at this seq the hash must be this
        self._moving = moving
        self._number = 0 if all_checkpoints else None
        self._previous = GENESIS
        self._gaps: dict[int, Row] = {}  # by the first seq that was removed
        self._bodies: list[tuple[int, int]] = []  # a heap of ranges whose bodies were removed
        self._bodies_until = 0
        self._rewritten: dict[int, Row] = {}  # records that were written anew without bodies

    def broken(self, seq: int, kind: str, told: str) -> Broken:
        """The fault of this chain, to raise."""
        return Broken(Fault(self.tenant_id, seq, kind, told))

    # -- what is signed -----------------------------------------------------------------

    def checkpoint(self, row: Row) -> None:
        """A checkpoint of the chain, in the order of their numbers without gaps."""
        number = self.anchor(row)
        if self._number is not None and number != self._number + 1:
            told = f"checkpoint {self._number + 1} is missing, before that of record {row['seq']}"
            raise self.broken(row["seq"], "checkpoint_missing", told)
        if self._number is not None and row["previous"] != self._previous:
            told = f"checkpoint {number} does not follow the one before it"
            raise self.broken(row["seq"], "checkpoint_missing", told)
        self._number, self._previous = number, checkpoint_digest(row)

    def anchor(self, row: Row) -> int:
        """A checkpoint out of any order, as from a file of its own; returns its number."""
        if row["tenant_id"] != self.tenant_id or not self._ring.holds("checkpoint", row):
            told = f"checkpoint {row['number']} of record {row['seq']} has no valid signature"
            raise self.broken(row["seq"], "checkpoint_forged", told)
        if row["seq"] > self.seq:
            heapq.heappush(self._anchors, (row["seq"], row["hash"]))
        elif row["seq"] == self.seq and row["hash"] != self.hash:
            raise self._not_signed_for(self.seq)
        return int(row["number"])

    def tombstone(self, row: Row) -> None:
        """A statement that records or bodies were removed."""
        first, last = row["from_seq"], row["to_seq"]
        if row["tenant_id"] != self.tenant_id or not self._ring.holds("tombstone", row):
            told = f"the statement that removes {first} to {last} has no valid signature"
            raise self.broken(first, "statement_forged", told)
        if row["data_class"] == "records":
            if self._moving and first <= self.seq < last:
                self._gaps[self.seq + 1] = {**row, "hash_before": self.hash}
            elif last > self.seq:
                self._gaps[first] = row
        else:
            heapq.heappush(self._bodies, (first, last))
            if row["record_sha256"] is not None:
                self._rewritten[first] = row

    # -- the records --------------------------------------------------------------------

    def record(self, row: Row) -> None:
        """The next record: its seq, record, hashes, bodies, and columns beside it if any."""
        self._pass_gaps()
        seq = self.seq + 1
        try:
            record = orjson.loads(row["record"])
        except ValueError:
            record = None
        if row["seq"] < seq:
            told = f"record {row['seq']} stands where a signed statement says it was removed"
            raise self.broken(row["seq"], "statement_untrue", told)
        if row["seq"] != seq:
            raise self.broken(seq, "deleted", f"record {seq} is missing")
        self._check_hash(row, record)
        if any(name in row and record.get(name) != row[name] for name in COPIED) or any(
            name in row and _as_json(record.get(name)) != row[name] for name in COPIED_AS_JSON
        ):
            told = f"the indexed columns of record {seq} were changed"
            raise self.broken(seq, "columns_edited", told)
        self._check_bodies(seq, record, row["bodies"])
        self.records += 1
        self._move(seq, row["hash"])

    def _check_hash(self, row: Row, record: Any) -> None:
        seq = row["seq"]
        anew = self._rewritten.pop(seq, None)
        if anew is not None:
            known = (anew["hash_before"], anew["hash_after"], anew["record_sha256"])
            good = known == (self.hash, row["hash"], digest(row["record"]))
        else:
            good = row["hash"] == chain_hash(self.hash, row["record"])
        own = isinstance(record, dict) and (record.get("tenant_id"), record.get("seq"))
        if good and row["prev_hash"] == self.hash and own == (self.tenant_id, seq):
            return
        if row["hash"] == chain_hash(row["prev_hash"], row["record"]):
            told = f"record {seq} was changed: here stands one of another place, whole in itself"
            raise self.broken(seq, "reordered", told)
        raise self.broken(seq, "edited", f"record {seq} was changed")

    def _check_bodies(self, seq: int, record: Any, bodies: str | None) -> None:
        while self._bodies and self._bodies[0][0] <= seq:
            self._bodies_until = max(self._bodies_until, heapq.heappop(self._bodies)[1])
        hashed = record.get("bodies_sha256")
        if bodies is None:
            if hashed is not None and seq > self._bodies_until:
                raise self.broken(seq, "bodies_deleted", f"the bodies of record {seq} are missing")
        elif hashed != digest(bodies):
            raise self.broken(seq, "bodies_edited", f"the bodies of record {seq} were changed")

    def _pass_gaps(self) -> None:
        """Step over what signed statements say was removed."""
        while (gap := self._gaps.pop(self.seq + 1, None)) is not None:
            if gap["hash_before"] != self.hash:
                told = f"the records before {gap['from_seq']}, which were removed, were changed"
                raise self.broken(gap["from_seq"], "edited", told)
            while self._anchors and self._anchors[0][0] < gap["to_seq"]:
                heapq.heappop(self._anchors)  # the removal was checked against it
            self._move(gap["to_seq"], gap["hash_after"])

    def _move(self, seq: int, hashed: str) -> None:
        self.seq, self.hash = seq, hashed
        while self._anchors and self._anchors[0][0] == seq:
            if heapq.heappop(self._anchors)[1] != hashed:
                raise self._not_signed_for(seq)

    def _not_signed_for(self, seq: int) -> Broken:
        told = f"the chain was rewritten: record {seq} is not the one that was signed for"
        return self.broken(seq, "rewritten", told)

    def end(self, seq: int, hashed: str) -> None:
        """The chain ends; ``seq`` and ``hashed`` are what its head, or its file, says."""
        self._pass_gaps()
        if self._anchors:
            told = f"the chain ends at {self.seq}, a checkpoint says {max(self._anchors)[0]}"
            raise self.broken(self.seq + 1, "truncated", told)
        if (self.seq, self.hash) != (seq, hashed):
            told = f"the chain ends at {self.seq}, its head says {seq}"
            raise self.broken(self.seq + 1, "truncated", told)
        if self._gaps:
            first = min(self._gaps)
            told = f"a signed statement removes records from {first}, but they are here"
            raise self.broken(first, "statement_untrue", told)


def _as_json(value: Any) -> str | None:
    return None if value is None else canonical(value)
