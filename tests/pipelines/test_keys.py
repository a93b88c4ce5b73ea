"""Content addresses and the files that hold them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import Unavailable
from pipelines.embeddings import keys
from pipelines.embeddings.matching import split
from pipelines.embeddings.storage import Folder


def digests(seeds: list[int]) -> list[bytes]:
    return [hashlib.sha256(str(seed).encode()).digest() for seed in seeds]


@given(seeds=st.lists(st.integers(0, 40), max_size=60), power=st.integers(0, 6))
def test_every_key_is_found_once_in_its_bucket_in_order(
    tmp_path_factory: pytest.TempPathFactory, seeds: list[int], power: int
) -> None:
    root = tmp_path_factory.mktemp("keys")
    made = digests(seeds)
    buckets = 2**power
    keys.write(root / "a.keys", b"".join(made), buckets)
    folder = Folder(str(root))
    assert keys.count(folder, "a.keys") == len(made)
    found = []
    for bucket in range(buckets):
        part, rows = keys.read(folder, "a.keys", bucket, bucket + 1)
        assert (keys.bucket_of(part, buckets) == bucket).all()
        raw = keys.as_bytes(part)
        found += [(raw[32 * i : 32 * i + 32], int(row)) for i, row in enumerate(rows)]
    assert found == sorted((digest, row) for row, digest in enumerate(made))
    whole, rows = keys.read(folder, "a.keys", 0, buckets)
    assert keys.as_bytes(whole) == b"".join(digest for digest, _ in found)
    assert rows.tolist() == [row for _, row in found]


@given(parts=st.lists(st.tuples(st.text(), st.text(), st.text()), unique=True, max_size=20))
def test_another_model_prefix_or_text_has_another_key(parts: list[tuple[str, str, str]]) -> None:
    parts = [p for p in parts if "".join(p).isascii()]
    assert len({keys.key(*part) for part in parts}) == len(parts)


def test_moving_a_letter_between_prefix_and_text_changes_the_key() -> None:
    assert keys.key("m", "ab", "c") != keys.key("m", "a", "bc")


@given(total=st.integers(0, 10**10), power=st.integers(0, 16))
def test_key_ranges_cover_all_buckets_once(total: int, power: int) -> None:
    ranges = split(total, 2**power)
    covered = [bucket for first, last in ranges for bucket in (first, last)]
    assert covered[0] == 0 and covered[-1] == 2**power
    assert all(first < last for first, last in ranges)
    assert covered[1:-1:2] == covered[2::2]


def test_numbers_are_stable_and_fit_an_int64() -> None:
    found = {keys.number(f"doc-{i}", j) for i in range(100) for j in range(5)}
    assert len(found) == 500
    assert min(found) >= 0 and max(found) < 2**63
    assert keys.number("doc-1", 0) == keys.number("doc-1", 0)
    assert np.array(sorted(found), np.int64).dtype == np.int64


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.keys").write_bytes(b"nothing like keys at all....")
    with pytest.raises(Unavailable, match="no keys file"):
        keys.count(Folder(str(tmp_path)), "a.keys")
