"""Access lists: a search finds what the caller may see, all of it, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from app.errors import Conflict, Forbidden, NotFound
from app.gateway.call import Call, Principal
from app.retrieval.access import AccessList, access_list, sees
from app.retrieval.engines.base import AllBut, Files
from app.retrieval.index import StoreIndex
from app.retrieval.search import Searches
from app.retrieval.types import Hit, Ranking
from app.retrieval.visible import StoreAccess
from app.store.db import Database
from app.store.migrate import migrate
from tests.retrieval.stores import TENANT, TEXTS, House, ended, files_of, job_over, running

WORDS_ALONE = Ranking(dense=0, lexical=1)
VECTORS_ALONE = Ranking(dense=1, lexical=0)
EITHER_WAY = [VECTORS_ALONE, WORDS_ALONE, Ranking(), Ranking(fusion="rrf")]
NAMES = st.frozensets(st.sampled_from(["ann", "bob", "cy"]), max_size=2)
LISTS = st.none() | st.builds(AccessList, NAMES, NAMES)


def call_of(
    user: str | None = None, groups: Sequence[str] = (), *scopes: str, tenant: str = TENANT
) -> Call:
    """A call of somebody whom lists bind unless a scope says otherwise."""
    who = Principal(
        tenant, f"key:{user}", "k", frozenset(scopes), user=user, groups=frozenset(groups)
    )
    return Call("call_1", "req_1", "rest", "POST /v1/x", who)


EVERYBODY = [call_of(), call_of("ann"), call_of("bob", ["cy"]), call_of(None, ["ann", "cy"])]
ADMIN = call_of("root", (), "access:all")


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shared_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from app.settings import normal_url
    from tests.conftest import create_database, drop_database

    folder = tmp_path_factory.mktemp("access")
    if request.param == "sqlite":
        yield normal_url(None, folder / "test.db"), folder
        return
    url = create_database(request.getfixturevalue("postgres_server"))
    yield normal_url(url, folder), folder
    drop_database(url)


@pytest.fixture(scope="module")
async def house(shared_url: tuple[str, Path]) -> AsyncIterator[House]:
    url, folder = shared_url
    made = House(url, "", folder)
    await made.create_tables()
    yield made
    await made.close()


async def search(
    house: House, call: Call, store: str, query: str, k: int = 50, ranking: Ranking | None = None
) -> list[Hit]:
    return await house.searches.hits(call, [store], query, k, None, ranking or Ranking())


async def put(house: House, store: str, access: AccessList | None, *texts: str) -> str:
    file_id = await house.put(store, *texts)
    await house.attached.set_access(ADMIN, store, file_id, access)
    return file_id


def through(found: Files, everything: set[str]) -> set[str]:
    """The files that a search looks through."""
    return everything - found.hidden if isinstance(found, AllBut) else set(found)


# -- the rule -----------------------------------------------------------------------------


@given(LISTS, NAMES, st.none() | st.sampled_from(["ann", "bob", "cy"]))
def test_a_list_admits_its_users_and_the_members_of_its_groups(
    access: AccessList | None, groups: frozenset[str], user: str | None
) -> None:
    who = call_of(user, list(groups)).principal
    wanted = access is None or user in access.users or bool(groups & access.groups)
    assert sees(who, access) is wanted
    assert sees(call_of(user, list(groups), "*").principal, access)
    assert access is None or access_list(access.stored()) == access


def test_a_user_and_a_group_of_one_name_are_not_the_same() -> None:
    assert not sees(call_of("staff").principal, AccessList(groups=frozenset({"staff"})))
    assert not sees(call_of(None, ["staff"]).principal, AccessList(users=frozenset({"staff"})))


@given(st.lists(st.tuples(st.sampled_from("abcdef"), LISTS | st.just("drop")), max_size=30))
def test_what_memory_shows_is_what_the_lists_say_after_any_changes(
    changes: list[tuple[str, Any]],
) -> None:
    kept: dict[str, AccessList | None] = {}
    memory = StoreAccess()
    for file_id, change in changes:
        if change == "drop":
            memory.drop(file_id)
            kept.pop(file_id, None)
        else:
            memory.put(file_id, change)
            kept[file_id] = change
        for call in (*EVERYBODY, ADMIN):
            found = memory.visible_to(call.principal)
            shown = found if found is None else through(found, set(kept))
            wanted = {f for f, access in kept.items() if sees(call.principal, access)}
            assert (set(kept) if shown is None else shown) == wanted


# -- searching ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
async def filled(house: House) -> tuple[str, list[str]]:
    """A store of eight files that are all near the same words."""
    store = await house.new_store()
    texts = [f"{text} Note {n} of the holiday book." for n, text in enumerate(TEXTS * 2)][:8]
    return store, [await house.put(store, text, f"More of it: {text}") for text in texts]


@settings(
    max_examples=8,
    deadline=None,
    phases=[Phase.generate],  # an example takes a second
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(LISTS, min_size=8, max_size=8), st.sampled_from(TEXTS), st.integers(1, 16))
async def test_a_search_finds_what_the_unbound_one_finds_without_what_is_invisible(
    house: House,
    filled: tuple[str, list[str]],
    lists: list[AccessList | None],
    query: str,
    k: int,
) -> None:
    store, ids = filled
    for file_id, access in zip(ids, lists, strict=True):
        await house.attached.set_access(ADMIN, store, file_id, access)
    access_of = dict(zip(ids, lists, strict=True))
    for ranking in EITHER_WAY:
        everything = await search(house, ADMIN, store, query, 50, ranking)
        assert everything
        for call in EVERYBODY:
            wanted = [
                h.passage.id
                for h in everything
                if sees(call.principal, access_of[h.passage.file_id])
            ]
            found = [h.passage.id for h in await search(house, call, store, query, k, ranking)]
            if ranking in (VECTORS_ALONE, WORDS_ALONE):  # scores of two sides are scaled together
                assert found == wanted[:k]
            else:
                assert set(found) <= set(wanted) and len(found) == min(k, len(wanted))


async def test_attributes_and_lists_narrow_together(house: House) -> None:
    store = await house.new_store()
    red, blue = [
        await house.put(store, TEXTS[0], attributes={"team": team}) for team in ("red", "blue")
    ]
    for file_id in (red, blue):
        await house.attached.set_access(ADMIN, store, file_id, AccessList(frozenset({"ann"})))
    hidden = await house.put(store, TEXTS[0], attributes={"team": "red"})
    await house.attached.set_access(ADMIN, store, hidden, AccessList(frozenset({"bob"})))
    is_red = {"type": "eq", "key": "team", "value": "red"}
    for user, found in (("ann", [red]), ("bob", [hidden]), (None, [])):
        hits = await house.searches.hits(call_of(user), [store], TEXTS[0], 10, is_red)
        assert files_of(hits) == found


async def test_the_one_visible_file_of_a_hundred_is_found_whatever_is_asked(house: House) -> None:
    store = await house.new_store()
    ids = [await house.upload(f"{n}", f"{n}.md") for n in range(100)]
    nobody = AccessList()
    _, jobs = await house.attached.attach(ADMIN, store, ids, {}, {}, access=nobody)
    for n, file_id in enumerate(ids):
        await house.index(store, file_id, jobs[file_id], [f"{TEXTS[n % 4]} Copy {n}.", TEXTS[4]])
    await house.attached.set_access(ADMIN, store, ids[37], AccessList(groups=frozenset({"cy"})))
    member = call_of("ann", ["cy"])
    for ranking in EITHER_WAY:
        for query in (TEXTS[1], TEXTS[4]):  # its own words, and words of every file
            hits = await search(house, member, store, query, 10, ranking)
            assert files_of(hits) == [ids[37]]
            assert len(hits) == 2 or ranking == WORDS_ALONE
            assert await search(house, call_of("bob"), store, query, 10, ranking) == []


async def test_a_file_is_hidden_from_the_moment_that_its_list_changes(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await house.new_store()
    file_id = await put(house, store, AccessList(frozenset({"ann"})), *TEXTS)
    ann = call_of("ann")
    hits = await search(house, ann, store, TEXTS[0])
    assert hits
    read = Searches._read

    async def late(self: Searches, who: Principal, found: Any) -> list[Hit]:
        """The list changes after the search has found and before it reads."""
        await house.attached.set_access(ADMIN, store, file_id, AccessList(frozenset({"bob"})))
        return await read(self, who, found)

    monkeypatch.setattr(Searches, "_read", late)
    assert await search(house, ann, store, TEXTS[0]) == []
    monkeypatch.undo()
    assert await search(house, ann, store, TEXTS[0]) == []
    assert await search(house, call_of("bob"), store, TEXTS[0])
    # nor does the text around what was found before tell more
    (window,) = await house.searches.widened(ann, store, hits[:1], "neighbours", 2, 500)
    assert window.text == hits[0].passage.text


async def test_who_loses_a_file_while_he_changes_its_list_changes_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await house.new_store()
    file_id = await put(house, store, AccessList(frozenset({"ann"})), TEXTS[0])
    change = StoreIndex.set_access

    async def late(self: StoreIndex, who: Principal, *given: Any) -> bool:
        """Another takes the file away between the first look and the change."""
        await change(self, ADMIN.principal, file_id, AccessList())
        return await change(self, who, *given)

    monkeypatch.setattr(StoreIndex, "set_access", late)
    with pytest.raises(NotFound):
        await house.attached.set_access(call_of("ann"), store, file_id, None)
    monkeypatch.undo()
    assert (await house.attached.file(ADMIN, store, file_id)).access == AccessList().stored()


async def test_searches_and_changes_at_once_never_show_what_was_hidden_before(
    house: House,
) -> None:
    store = await house.new_store()
    ids = [await put(house, store, None, text) for text in TEXTS]
    hidden: set[str] = set()

    async def hide() -> None:
        for file_id in ids[:4]:
            await house.attached.set_access(ADMIN, store, file_id, AccessList())
            hidden.add(file_id)

    hiding = asyncio.create_task(hide())
    while not hiding.done():
        before = set(hidden)
        found = files_of(await search(house, call_of("ann"), store, TEXTS[0]))
        assert not before & set(found) and ids[4] in found
    await hiding
    assert files_of(await search(house, call_of("ann"), store, TEXTS[0])) == [ids[4]]


async def test_text_around_a_hit_is_given_to_those_who_may_see_it(house: House) -> None:
    store = await house.new_store()
    await put(house, store, AccessList(frozenset({"ann"})), *TEXTS)
    ann = call_of("ann")
    hits = await search(house, ann, store, TEXTS[2], 1)
    (window,) = await house.searches.widened(ann, store, hits, "neighbours", 1, 500)
    assert [p.text for p in window.passages] == list(TEXTS[1:4])


async def test_lists_outlive_a_restart_and_hold_in_another_gateway_at_once(house: House) -> None:
    store = await house.new_store()
    file_id = await put(house, store, AccessList(frozenset({"ann"})), TEXTS[0])
    other = House(house.url, "", house.folder / "other")
    other.stores._folder = house.stores._folder
    try:
        assert await search(other, call_of("ann"), store, TEXTS[0])
        await house.attached.set_access(ADMIN, store, file_id, AccessList(frozenset({"bob"})))
        assert await search(other, call_of("ann"), store, TEXTS[0]) == []
        assert await search(other, call_of("bob"), store, TEXTS[0])
    finally:
        await other.close()
    await house.reopen()
    assert await search(house, call_of("ann"), store, TEXTS[0]) == []
    assert await search(house, call_of("bob"), store, TEXTS[0])


async def test_another_build_of_the_index_keeps_the_lists(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'test.db'}"
    async with asyncio.timeout(120), running(url, tmp_path) as house:
        store = await house.new_store()
        file_id = await house.upload(TEXTS[0])
        access = AccessList(frozenset({"ann"}))
        _, fresh = await house.attached.attach(ADMIN, store, [file_id], {}, {}, access=access)
        await house.ingestion.begin(ADMIN, store, fresh)
        assert (await ended(house, store, file_id)).status == "completed"
        build = await house.builds.begin(ADMIN, store, None, None, True)
        assert build.job_id is not None
        assert await job_over(house, build.job_id) == "completed"
        assert (await house.stores.get(TENANT, store)).build == build.id
        for call, found in ((call_of("ann"), [file_id]), (call_of("bob"), [])):
            assert files_of(await search(house, call, store, TEXTS[0])) == found


# -- files --------------------------------------------------------------------------------


async def test_what_one_may_not_see_is_not_there_whatever_is_asked_of_it(house: House) -> None:
    store = await house.new_store()
    file_id = await put(house, store, AccessList(frozenset({"ann"})), TEXTS[0])
    bob, elsewhere = call_of("bob", (), "vector_stores:*", "files:*"), await house.new_store()
    attempts = (
        house.attached.file(bob, store, file_id),
        house.attached.document(bob, store, file_id),
        house.attached.set_attributes(bob, store, file_id, {"a": "b"}),
        house.attached.set_access(bob, store, file_id, None),
        house.attached.detach(bob, store, file_id),
        house.attached.delete_file(bob, file_id),
        house.attached.attach(bob, elsewhere, [file_id], {}, {}),
        house.files.get(bob, file_id),
        house.files.content(bob, file_id),
        house.files.require(bob, [file_id], "file_ids"),
    )
    for attempt in attempts:
        with pytest.raises(NotFound):
            await attempt
    paging: dict[str, Any] = {"limit": 100, "order": "asc", "after": None}
    assert (await house.attached.file_page(bob, store, status=None, **paging)).rows == []
    listed = await house.files.page(bob, purpose=None, **paging)
    assert file_id not in [f.id for f in listed.rows]
    ann = call_of("ann")
    assert (await house.attached.file(ann, store, file_id)).access == {
        "users": ["ann"],
        "groups": [],
    }
    assert (await house.files.get(ann, file_id)).id == file_id
    assert [
        f.file_id for f in (await house.attached.file_page(ann, store, status=None, **paging)).rows
    ]


async def test_a_file_in_two_stores_is_seen_where_either_shows_it(house: House) -> None:
    one, two = await house.new_store(), await house.new_store()
    file_id = await put(house, one, AccessList(frozenset({"ann"})), TEXTS[0])
    await house.attached.attach(
        ADMIN, two, [file_id], {}, {}, access=AccessList(frozenset({"bob"}))
    )
    for user in ("ann", "bob"):
        assert (await house.files.get(call_of(user), file_id)).id == file_id
    with pytest.raises(NotFound):
        await house.files.get(call_of("cy"), file_id)
    with pytest.raises(NotFound):
        await house.attached.document(call_of("bob"), one, file_id)


async def test_a_file_in_no_store_is_its_owners(house: House) -> None:
    import io

    ann, again = call_of("ann"), call_of("ann", ["other"])
    file = await house.files.upload(ann, "a.md", "assistants", io.BytesIO(b"x"))
    assert (await house.files.get(again, file.id)).id == file.id
    assert (await house.files.get(ADMIN, file.id)).id == file.id
    with pytest.raises(NotFound):
        await house.files.get(call_of("bob"), file.id)
    store = await house.new_store()
    mine = AccessList(frozenset({"ann"}))
    await house.attached.attach(ann, store, [file.id], {}, {}, access=mine)
    await house.attached.set_access(ADMIN, store, file.id, AccessList(frozenset({"bob"})))
    with pytest.raises(NotFound):  # having brought it gives no right to what a store shows
        await house.files.get(ann, file.id)


async def test_nobody_shuts_himself_out_and_a_list_is_not_dropped_in_silence(house: House) -> None:
    store = await house.new_store()
    file_id = await put(house, store, None, TEXTS[0])
    ann = call_of("ann")
    for access in (AccessList(), AccessList(frozenset({"bob"}))):
        with pytest.raises(Forbidden):
            await house.attached.set_access(ann, store, file_id, access)
        with pytest.raises(Forbidden):
            await house.attached.attach(ann, store, [file_id], {}, {}, access=access)
    mine = AccessList(frozenset({"ann"}))
    with pytest.raises(Conflict):  # it is there already, open to all
        await house.attached.attach(ann, store, [file_id], {}, {}, access=mine)
    await house.attached.set_access(ann, store, file_id, mine)
    await house.attached.attach(ann, store, [file_id], {}, {}, access=mine)
    await house.attached.attach(ann, store, [file_id], {}, {})
    assert (await house.attached.file(ann, store, file_id)).access == mine.stored()


async def test_pages_hold_so_many_as_were_asked_for_among_many_invisible_ones(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    import app.store.paging as paging

    monkeypatch.setattr(paging, "READ_AT_ONCE", 3)
    store = await house.new_store()
    ids = sorted([await house.upload("x", f"{n}.md") for n in range(23)])
    await house.attached.attach(ADMIN, store, ids, {}, {}, access=AccessList())
    shown = ids[4::5]
    for file_id in shown:
        await house.attached.set_access(ADMIN, store, file_id, AccessList(frozenset({"ann"})))
    for order in ("asc", "desc"):
        found: list[str] = []
        after, more = None, True
        while more:
            page = await house.attached.file_page(
                call_of("ann"), store, status=None, limit=2, order=order, after=after
            )
            found += [f.file_id for f in page.rows]
            after, more = found[-1], page.has_more
        assert found == (shown if order == "asc" else shown[::-1])
    back = await house.attached.file_page(
        call_of("ann"), store, status=None, limit=2, order="asc", before=shown[-1]
    )
    assert [f.file_id for f in back.rows] == shown[-3:-1] and back.has_more
    files = await house.files.page(call_of("ann"), purpose=None, limit=2, order="asc", after=ids[0])
    assert [f.id for f in files.rows] == shown[:2] and files.has_more


async def test_files_of_a_database_from_before_keep_open_to_all(tmp_path: Path) -> None:
    """What was attached before there were lists has none; what was in no store is nobody's."""
    import sqlalchemy as sa

    url = f"sqlite:///{tmp_path / 'test.db'}"
    db = Database(url)
    migrate(db)
    db.sync_engine.dispose()
    await db.close()
    house = House(url, "", tmp_path)
    store = await house.new_store()
    attached, loose = await house.put(store, TEXTS[0]), await house.upload("loose")
    async with house.db.write() as connection:
        await connection.execute(sa.text("UPDATE files SET owner = NULL"))
    bob = call_of("bob")
    assert files_of(await search(house, bob, store, TEXTS[0])) == [attached]
    assert (await house.files.get(bob, attached)).id == attached
    with pytest.raises(NotFound):
        await house.files.get(bob, loose)
    await house.close()
