"""What is Milvus's own: connections, credentials, collections of others, tuning."""

from __future__ import annotations

import fcntl
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from app.errors import BadRequest, Unavailable
from app.retrieval.engines import milvus as engine_module
from app.retrieval.engines.milvus import MilvusEngine
from tests.conftest import free_port, wait_for
from tests.retrieval.conftest import Engines, MilvusServer
from tests.retrieval.test_engine_contract import DIM, put, unit

SECRET = "s3cret-t0ken"


def shown(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    "uri",
    ["", "ftp://host", "host:19530", "./file.txt", "http://", "http://h:port", "http://[x"],
)
def test_a_url_that_is_none_is_refused(uri: str) -> None:
    with pytest.raises(BadRequest, match="OSTIARY_MILVUS_URL"):
        MilvusEngine(uri, "c", DIM)


@pytest.mark.parametrize("name", ["", "1a", "a-b", "a b", "ü", "a" * 256])
def test_a_collection_name_milvus_would_refuse_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        MilvusEngine("http://localhost", name, DIM)


def test_an_unknown_index_is_refused() -> None:
    with pytest.raises(ValueError, match="HNSW, IVF_FLAT, IVF_SQ8, FLAT"):
        MilvusEngine("http://localhost", "c", DIM, index="BEST")


@pytest.mark.parametrize("userinfo", ["", f"root:{SECRET}@"])
def test_a_server_that_is_not_there_is_named_without_its_credentials(userinfo: str) -> None:
    port = free_port()
    engine = MilvusEngine(
        f"http://{userinfo}127.0.0.1:{port}", "c", DIM, token=SECRET, timeout_s=0.5
    )
    with pytest.raises(Unavailable, match=f"127.0.0.1:{port} cannot be reached") as caught:
        engine.search(unit(1)[0], 3)
    assert "OSTIARY_MILVUS_URL" in str(caught.value)
    assert SECRET not in shown(caught.value)
    with pytest.raises(Unavailable):
        engine.write("f", np.arange(3), unit(3))


@pytest.mark.parametrize("token", [f"root:{SECRET}", SECRET, None])
def test_wrong_credentials_are_told_and_not_shown(
    milvus_server: MilvusServer, token: str | None
) -> None:
    engine = MilvusEngine(milvus_server.url, "c", DIM, token=token)
    with pytest.raises(Unavailable, match="OSTIARY_MILVUS_TOKEN") as caught:
        engine.search(unit(1)[0], 3)
    assert SECRET not in shown(caught.value)


def test_credentials_may_stand_in_the_url(milvus_server: MilvusServer) -> None:
    user, _, password = milvus_server.token.partition(":")
    url = milvus_server.url.replace("://", f"://{user}:%{ord(password[0]):x}{password[1:]}@")
    assert MilvusEngine(url, "in_url", DIM).count == 0


def test_vectors_of_another_length_are_not_mixed(new_milvus: Engines) -> None:
    engine = new_milvus(DIM)
    put(engine, "f", np.arange(3), unit(3))
    other = new_milvus.milvus(engine._name, DIM + 1)  # type: ignore[attr-defined]
    with pytest.raises(Unavailable, match=f"length {DIM}, not {DIM + 1}.*drop or rename"):
        other.search(unit(1, dim=DIM + 1)[0], 3)


@pytest.mark.parametrize("fault", ["fields", "measure"])
def test_a_collection_of_somebody_else_is_left_alone(new_milvus: Engines, fault: str) -> None:
    from pymilvus import DataType

    engine = new_milvus.milvus(f"other_{fault}", DIM)

    def make(client) -> None:
        schema = client.create_schema()
        name = "number" if fault == "measure" else "id"
        schema.add_field(name, DataType.INT64, is_primary=True)
        schema.add_field("file_id", DataType.VARCHAR, max_length=64)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=DIM)
        params = client.prepare_index_params()
        params.add_index("vector", index_type="FLAT", metric_type="L2")
        client.create_collection(f"other_{fault}", schema=schema, index_params=params)

    engine._link.ask("make", make)
    try:
        why = "not made by Ostiary" if fault == "fields" else "another measure"
        with pytest.raises(Unavailable, match=why):
            engine.write("f", np.arange(3), unit(3))
    finally:
        engine.destroy()


def test_a_second_engine_finds_what_the_first_published(new_milvus: Engines) -> None:
    engine = new_milvus(DIM)
    put(engine, "f", np.arange(30), unit(30))
    again = new_milvus.milvus(engine._name, DIM)  # type: ignore[attr-defined]
    numbers, scores = again.search(unit(30)[4], 1)
    assert numbers.tolist() == [4] and scores == pytest.approx([1], abs=1e-3)
    again.remove("f")
    assert engine.count == 0 and not len(engine.search(unit(30)[4], 1)[0])


def test_many_may_open_a_new_collection_at_once(new_milvus: Engines) -> None:
    first = new_milvus(DIM)
    name = first._name  # type: ignore[attr-defined]
    found: list[int | BaseException] = []

    def open_it(place: int) -> None:
        try:
            engine = new_milvus.milvus(name, DIM)
            found.append(len(engine.search(unit(1)[0], 3)[0]))
        except BaseException as error:
            found.append(error)

    threads = [threading.Thread(target=open_it, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [0] * 4


def test_a_collection_that_vanished_is_told(new_milvus: Engines) -> None:
    engine = new_milvus(DIM)
    put(engine, "f", np.arange(3), unit(3))
    new_milvus.milvus(engine._name, DIM).destroy()  # type: ignore[attr-defined]
    with pytest.raises(Unavailable) as caught:
        engine.search(unit(1)[0], 3)
    assert caught.value.code == "milvus_collection_missing"


@pytest.mark.parametrize("bad", ["", "a\x00b", "line\nbreak", "x" * 513, "é" * 257, "\ud800"])
def test_a_file_id_milvus_cannot_keep_is_refused(new_milvus: Engines, bad: str) -> None:
    engine = new_milvus.milvus("never_made", DIM)
    with pytest.raises(ValueError, match="file id"):
        engine.write(bad, np.arange(1), unit(1))
    engine.remove(bad)


@pytest.mark.parametrize(
    "odd", ['a"b', "a'b", "a\\", '\\"', "é😀", "{ids}", '"] or number >= 0 or file_id in ["', "%d"]
)
def test_an_odd_file_id_means_itself_only(new_milvus: Engines, odd: str) -> None:
    engine = new_milvus.made[0] if new_milvus.made else new_milvus(DIM)
    put(engine, "plain", np.arange(3), unit(3))
    put(engine, odd, np.arange(10, 13), unit(3, 1))
    numbers, _ = engine.search(unit(1)[0], 10, [odd])
    assert sorted(numbers.tolist()) == [10, 11, 12]
    engine.remove(odd)
    assert engine.count == 3
    engine.remove("plain")


def test_more_files_than_one_expression_holds_are_searched_in_turns(
    new_milvus: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = new_milvus(DIM)
    for place in range(5):
        engine.write(f"f{place}", np.arange(4) + 10 * place, unit(4, place))
    engine.publish(None)
    files = [f"f{place}" for place in range(4)]
    whole = engine.search(unit(1)[0], 7, files)
    monkeypatch.setattr(engine_module, "_FILES_AT_ONCE", 2)
    split = engine.search(unit(1)[0], 7, files)
    assert split[0].tolist() == whole[0].tolist() and len(whole[0]) == 7
    assert split[1] == pytest.approx(whole[1], abs=1e-5)


@pytest.mark.parametrize("index", ["HNSW", pytest.param("IVF_SQ8", marks=pytest.mark.slow)])
def test_the_tuned_effort_is_kept_with_the_collection(
    milvus_server: MilvusServer, monkeypatch: pytest.MonkeyPatch, index: str
) -> None:
    monkeypatch.setattr(engine_module, "_SEAL_ROWS", 2000)
    made = {"token": milvus_server.token, "index": index}
    engine = MilvusEngine(milvus_server.url, f"kept_{index}", DIM, **made)  # type: ignore[arg-type]
    try:
        put(engine, "f", np.arange(3000), unit(3000))
        state = engine.state()
        parameter = {"HNSW": "hnsw ef=", "IVF_SQ8": "ivf_sq8 nprobe="}[index]
        assert state.recipes[0].startswith(parameter)
        assert state.recall is not None and state.recall >= 0.9
        # above the bound of exact search the greatest effort stands for the truth
        monkeypatch.setattr(engine_module, "_EXACT_ROWS", 100)
        engine._measured_at = 0
        engine.measure()
        again = MilvusEngine(milvus_server.url, f"kept_{index}", DIM, **made)  # type: ignore[arg-type]
        assert again.state() == engine.state()
    finally:
        engine.destroy()


def test_a_lite_file_in_use_elsewhere_is_told(tmp_path: Path) -> None:
    (tmp_path / "taken.db").mkdir()
    with (tmp_path / "taken.db" / "LOCK").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        engine = MilvusEngine(str(tmp_path / "taken.db"), "c", DIM)
        with pytest.raises(Unavailable, match="only one process") as caught:
            engine.search(unit(1)[0], 3)
        assert str(tmp_path) not in str(caught.value)
    assert engine.count == 0  # and it opens once it is free


def test_a_lite_file_is_sealed_as_it_grows_and_its_size_is_told(tmp_path: Path) -> None:
    engine = MilvusEngine(str(tmp_path / "new" / "x.db"), "c", DIM)
    put(engine, "f", np.arange(2500), unit(2500))
    state = engine.state()
    assert state.recipes == ("flat",) and state.recall == 1
    assert state.disk_bytes > 2500 * DIM * 4
    engine.destroy()


@pytest.mark.slow
def test_the_engine_comes_back_with_its_server_and_vectors(
    new_milvus_server: Callable[[], MilvusServer],
) -> None:
    server = new_milvus_server().start()
    engine = MilvusEngine(server.url, "c", DIM, token=server.token, timeout_s=2)
    put(engine, "f", np.arange(3000), unit(3000))
    server.stop()
    with pytest.raises(Unavailable, match=r"cannot be reached|in time"):
        engine.search(unit(1)[0], 3)
    server.start()

    def found() -> bool:
        try:
            return engine.search(unit(3000)[7], 1)[0].tolist() == [7]
        except Unavailable:
            return False

    wait_for(found, 120, "the vectors")
    assert engine.count == 3000
