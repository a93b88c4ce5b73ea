"""The rows of a query are followed, on SQLite and on PostgreSQL."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy import create_engine, text

from app.retrieval.access import AccessList
from app.retrieval.connectors.base import Item, ItemUnavailable, Part, SourceError
from app.retrieval.connectors.batches import AT_A_STEP
from app.retrieval.connectors.settings import SqlSettings
from app.retrieval.connectors.sql import SqlSource
from app.retrieval.types import LONGEST_ATTRIBUTE
from tests.conftest import free_port
from tests.retrieval.connectors.common import content, listed

TABLE = (
    "CREATE TABLE articles (id INTEGER, slug VARCHAR(80), title TEXT, body TEXT,"
    " updated TIMESTAMP, readers TEXT, teams TEXT, price NUMERIC, live BOOLEAN)"
)
ROW = {
    **{"id": 1, "slug": "a", "title": "Travel", "body": "Book early.", "updated": None},
    **{"readers": None, "teams": None, "price": None, "live": None},
}


def write(url: str, *statements: str, **values: Any) -> None:
    """Run statements with values, and commit."""
    engine = create_engine(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement), values)
    engine.dispose()


def insert(url: str, *given: dict[str, Any]) -> None:
    """Add rows; what is not given is as in ROW."""
    engine = create_engine(url)
    names = ", ".join(ROW)
    places = ", ".join(f":{name}" for name in ROW)
    with engine.begin() as connection:
        connection.execute(
            text(f"INSERT INTO articles ({names}) VALUES ({places})"),
            [ROW | row for row in given],
        )
    engine.dispose()


@pytest.fixture
def articles(database_url: str) -> str:
    """The URL of a database with an empty table of articles."""
    write(database_url, TABLE)
    return database_url


def source_of(url: str, query: str = "SELECT * FROM articles", **more: Any) -> SqlSource:
    names = {"key_column": "slug", "text_column": "body", **more}
    return SqlSource(SqlSettings(kind="sql", tenants=["acme"], url=url, query=query, **names))


async def test_rows_become_markdown_under_their_key(articles: str) -> None:
    insert(articles, {"slug": "a"}, {"slug": "b/1", "title": None, "body": "No title: 100 % ü"})
    source = source_of(articles, title_column="title")
    found = await listed(source)
    assert {key: item.filename for key, item in found.items()} == {
        "a": "Travel.md",
        "b/1": "b 1.md",
    }
    assert await content(source, found["a"]) == b"# Travel\n\nBook early."
    assert await content(source, found["b/1"]) == "No title: 100 % ü".encode()
    assert {item.access for item in found.values()} == {None}
    assert set(await listed(source, Part(path="b/"))) == {"b/1"}
    await source.aclose()


async def test_a_query_may_hold_signs_that_mean_something_elsewhere(articles: str) -> None:
    insert(articles, {"slug": "a", "body": "12:30 :id 50%"}, {"slug": "b", "body": "other"})
    query = "SELECT slug, body FROM articles WHERE body LIKE '12:30 :id 5%' -- the :last % line"
    source = source_of(articles, query)
    found = await listed(source)
    assert set(found) == {"a"}
    assert await content(source, found["a"]) == b"12:30 :id 50%"
    await source.aclose()


async def test_more_rows_than_one_step_reads_are_all_listed(articles: str) -> None:
    insert(articles, *({"id": n, "slug": f"s{n}"} for n in range(2 * AT_A_STEP)))
    source = source_of(articles, key_column="id")
    found = await listed(source)
    assert set(found) == {str(n) for n in range(2 * AT_A_STEP)}
    await source.aclose()


@pytest.mark.parametrize("key_column", ["id", "slug"])
async def test_a_row_is_read_by_a_source_that_has_listed_nothing(
    articles: str, key_column: str
) -> None:
    insert(articles, {"id": 7, "slug": "7"}, {"id": 8, "slug": "8", "body": "Eight."})
    source = source_of(articles, key_column=key_column)
    assert await content(source, Item("8", "", "8.md")) == b"Eight."
    for key in ("9", "nine"):
        with pytest.raises(ItemUnavailable, match="is gone"):
            await content(source, Item(key, "", "9.md"))
    await source.aclose()


async def test_a_uuid_is_a_key(articles: str) -> None:
    if articles.startswith("sqlite"):
        return  # it has no such type
    key = uuid.uuid4()
    write(articles, "ALTER TABLE articles ADD COLUMN number UUID")
    insert(articles, {"slug": "a"})
    write(articles, "UPDATE articles SET number = :key", key=key)
    source = source_of(articles, key_column="number")
    assert await content(source, (await listed(source))[str(key)]) == b"Book early."
    await source.aclose()


async def test_the_fingerprint_follows_the_time_of_change(articles: str) -> None:
    insert(
        articles,
        {"slug": "timed", "updated": "2026-01-02 03:04:05"},
        {"slug": "untimed"},
    )
    source = source_of(articles, title_column="title", updated_column="updated")
    before = {key: item.fingerprint for key, item in (await listed(source)).items()}
    assert {key: item.fingerprint for key, item in (await listed(source)).items()} == before
    write(articles, "UPDATE articles SET body = 'Book late.'")
    after = {key: item.fingerprint for key, item in (await listed(source)).items()}
    assert after["timed"] == before["timed"]
    assert after["untimed"] != before["untimed"]  # told by its text where no time is given
    write(articles, "UPDATE articles SET updated = '2026-01-02 03:04:06'")
    assert (await listed(source))["timed"].fingerprint != before["timed"]
    await source.aclose()


async def test_without_a_time_the_text_and_title_are_the_fingerprint(articles: str) -> None:
    insert(articles, {})
    source = source_of(articles, title_column="title")
    before = (await listed(source))["a"].fingerprint
    for change in ("title = 'Trips'", "body = 'Book late.'"):
        write(articles, f"UPDATE articles SET {change}")
        after = (await listed(source))["a"].fingerprint
        assert after != before
        before = after
    await source.aclose()


async def test_columns_say_who_may_see_a_row(articles: str) -> None:
    insert(
        articles,
        {"slug": "text", "readers": "jane@example.org, max", "teams": "board"},
        {"slug": "json", "teams": '["board", "Büro, Süd"]'},
        {"slug": "none"},
        {"slug": "broken", "readers": "jane", "teams": '["board"'},
        {"slug": "number", "readers": "[1]"},
    )
    source = source_of(articles, users_column="readers", groups_column="teams")
    found = await listed(source)
    assert {key: item.access for key, item in found.items()} == {
        "text": AccessList(frozenset({"jane@example.org", "max"}), frozenset({"board"})),
        "json": AccessList(groups=frozenset({"board", "Büro, Süd"})),
        "none": AccessList(),
        "broken": AccessList(),
        "number": AccessList(),
    }
    assert await content(source, found["text"]) == b"Book early."
    write(articles, "UPDATE articles SET teams = 'audit' WHERE slug = 'text'")
    with pytest.raises(ItemUnavailable, match="other permissions"):
        await content(source, found["text"])
    await source.aclose()


async def test_arrays_and_json_columns_are_lists(articles: str) -> None:
    if articles.startswith("sqlite"):
        return  # it has neither
    insert(articles, {})
    query = "SELECT slug, body, ARRAY['jane'] AS who, '[\"board\"]'::jsonb AS teams FROM articles"
    source = source_of(articles, query, users_column="who", groups_column="teams")
    access = (await listed(source))["a"].access
    assert access == AccessList(frozenset({"jane"}), frozenset({"board"}))
    await source.aclose()


async def test_attribute_columns_become_attributes(articles: str) -> None:
    insert(articles, {"price": 2.5, "live": True, "title": "t" * (LONGEST_ATTRIBUTE + 1)})
    source = source_of(articles, attribute_columns=["id", "title", "price", "updated", "live"])
    found = (await listed(source))["a"].attributes
    assert found == {"id": 1, "title": "t" * LONGEST_ATTRIBUTE, "price": 2.5, "live": True}
    await source.aclose()


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ([{"slug": "a"}, {"slug": "a"}], "gives a key twice"),
        ([{"slug": None}], "is empty or neither"),
        ([{"slug": ""}], "is empty or neither"),
    ],
)
async def test_keys_that_name_no_row_fail_the_listing(
    articles: str, given: list[dict[str, Any]], why: str
) -> None:
    insert(articles, *given)
    source = source_of(articles)
    with pytest.raises(SourceError, match=f"The column 'slug' .*{why}"):
        await listed(source)
    await source.aclose()


async def test_a_key_of_another_kind_is_refused(articles: str) -> None:
    insert(articles, {"price": 2.5})
    source = source_of(articles, key_column="price")
    with pytest.raises(SourceError, match="The column 'price'"):
        await listed(source)
    await source.aclose()


async def test_a_row_without_text_or_with_too_much_fails_alone(articles: str) -> None:
    insert(articles, {"slug": "empty", "body": None}, {"slug": "long", "body": "12345"})
    source = source_of(articles)
    found = await listed(source)
    with pytest.raises(ItemUnavailable, match="no text"):
        await content(source, found["empty"])
    with pytest.raises(ItemUnavailable, match="more than 4 bytes"):
        await content(source, found["long"], max_bytes=4)
    assert await content(source, found["long"], max_bytes=5) == b"12345"
    await source.aclose()


async def test_nothing_can_be_written(articles: str) -> None:
    insert(articles, {})
    source = source_of(articles)
    with source._reading() as connection:
        postgres = connection.dialect.name == "postgresql"
    why = "25006" if postgres else "OperationalError"
    with pytest.raises(SourceError, match=why), source._reading() as connection:
        connection.execute(text("DELETE FROM articles"))
    assert set(await listed(source)) == {"a"}
    await source.aclose()


@pytest.mark.parametrize("query", ["SELECT slug FROM articles", "SELECT FROM", "DELETE FROM x"])
async def test_a_query_that_fails_says_which_columns_it_must_give(
    articles: str, query: str
) -> None:
    source = source_of(articles, query)
    with pytest.raises(SourceError, match="must give: slug, body"):
        await listed(source)
    await source.aclose()


async def test_a_missing_sqlite_file_is_not_made(tmp_path: Path) -> None:
    path = tmp_path / "missing.db"
    source = source_of(f"sqlite:///{path}")
    with pytest.raises(SourceError, match="missing") as refused:
        await listed(source)
    assert not path.exists()
    assert str(tmp_path) not in refused.value.message


async def test_a_server_that_does_not_answer_is_said_without_its_secrets() -> None:
    source = source_of(f"postgresql://jane:hunter2@127.0.0.1:{free_port()}/docs")
    with pytest.raises(SourceError, match="cannot be read now") as refused:
        await listed(source)
    assert not any(word in refused.value.message for word in ("jane", "hunter2", "127.0.0.1"))


@pytest.mark.parametrize("url", ["no url", "nosuch://host/db", "sqlite+aiosqlite:///a.db"])
def test_a_url_that_leads_nowhere_is_refused_at_once(url: str) -> None:
    with pytest.raises(SourceError, match="`url`"):
        source_of(url)


def test_the_text_needs_a_column_of_its_own() -> None:
    with pytest.raises(ValidationError, match="column of its own"):
        source_of("sqlite:///a.db", key_column="body")
