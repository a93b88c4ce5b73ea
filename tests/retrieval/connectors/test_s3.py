"""A bucket on a real HTTP server that speaks S3 (moto) is followed to its last page."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from app.errors import MissingExtra
from app.retrieval.access import AccessList
from app.retrieval.connectors.base import Item, ItemUnavailable, Part, SourceError
from app.retrieval.connectors.choice import open_source
from app.retrieval.connectors.s3 import S3Source
from app.retrieval.connectors.settings import S3Settings
from tests.conftest import free_port, package
from tests.retrieval.connectors.common import content, listed

BUCKET = "documents"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """The URL of a store with one bucket."""
    package("s3fs")
    server = package("moto.server").ThreadedMotoServer(
        ip_address="127.0.0.1", port=0, verbose=False
    )
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint: str) -> Iterator[Any]:
    """A client of the store, whose bucket is empty at first."""
    client = package("boto3").client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id="test",
        aws_secret_access_key="test",
        region_name="us-east-1",
    )
    client.create_bucket(Bucket=BUCKET)
    yield client
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    for page in pages:
        keys = [{"Key": found["Key"]} for found in page.get("Contents", ())]
        if keys:
            client.delete_objects(Bucket=BUCKET, Delete={"Objects": keys})
    client.delete_bucket(Bucket=BUCKET)


def source_of(endpoint: str, url: str = f"s3://{BUCKET}", **more: Any) -> S3Source:
    given = {"key": "test", "secret": "test", "region": "us-east-1", **more}
    declared = S3Settings(kind="s3", tenants=["acme"], url=url, endpoint_url=endpoint, **given)
    source = open_source(declared)
    assert isinstance(source, S3Source)
    return source


def put(bucket: Any, key: str, body: str = "text", **metadata: str) -> None:
    named = {name.replace("_", "-"): value for name, value in metadata.items()}
    bucket.put_object(Bucket=BUCKET, Key=key, Body=body.encode(), Metadata=named)


async def test_objects_below_the_prefix_are_listed_and_read(endpoint: str, bucket: Any) -> None:
    for key in ("hr/a.md", "hr/sub/ü+ &.md", "hr/sub/", "hr2/c.md", "d.md"):
        put(bucket, key, f"bytes of {key}")
    source = source_of(endpoint, f"s3://{BUCKET}/hr")
    found = await listed(source)
    assert {key: item.filename for key, item in found.items()} == {
        "a.md": "a.md",
        "sub/ü+ &.md": "ü+ &.md",
    }
    assert await content(source, found["sub/ü+ &.md"]) == "bytes of hr/sub/ü+ &.md".encode()
    assert set(await listed(source, Part(path="sub/"))) == {"sub/ü+ &.md"}
    assert set(await listed(source, Part(exclude=["sub/*"]))) == {"a.md"}
    await source.aclose()


async def test_a_list_of_several_pages_is_read_to_its_end(
    endpoint: str, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.retrieval.connectors.s3.PAGE", 10)
    keys = {f"{number:04}.md" for number in range(35)}
    await asyncio.gather(*(asyncio.to_thread(put, bucket, key) for key in keys))
    source = source_of(endpoint)
    assert set(await listed(source)) == keys
    await source.aclose()


async def test_the_fingerprint_changes_with_the_bytes(endpoint: str, bucket: Any) -> None:
    put(bucket, "a.md", "text")
    source = source_of(endpoint)
    before = (await listed(source))["a.md"].fingerprint
    put(bucket, "a.md", "text")
    assert (await listed(source))["a.md"].fingerprint == before
    put(bucket, "a.md", "othe")
    assert (await listed(source))["a.md"].fingerprint != before
    await source.aclose()


async def test_metadata_says_who_may_see_an_object(endpoint: str, bucket: Any) -> None:
    put(bucket, "both.md", ostiary_users="jane@example.org, max", ostiary_groups="board")
    put(bucket, "encoded.md", ostiary_groups=quote("Büro, Süd"))
    put(bucket, "none.md")
    put(bucket, "broken.md", ostiary_users="jane", ostiary_groups="%ff")
    source = source_of(endpoint, permissions="metadata")
    found = {key: item.access for key, item in (await listed(source)).items()}
    assert found == {
        "both.md": AccessList(frozenset({"jane@example.org", "max"}), frozenset({"board"})),
        "encoded.md": AccessList(groups=frozenset({"Büro, Süd"})),
        "none.md": AccessList(),
        "broken.md": AccessList(),
    }
    await source.aclose()


async def test_an_object_closed_after_it_was_listed_is_not_read(endpoint: str, bucket: Any) -> None:
    put(bucket, "a.md", ostiary_groups="board")
    source = source_of(endpoint, permissions="metadata")
    item = (await listed(source))["a.md"]
    assert await content(source, item) == b"text"
    put(bucket, "a.md", ostiary_groups="audit")
    with pytest.raises(ItemUnavailable, match="other permissions"):
        await content(source, item)
    await source.aclose()


async def test_an_object_that_is_gone_or_too_large_fails_alone(endpoint: str, bucket: Any) -> None:
    put(bucket, "a.md", "12345")
    source = source_of(endpoint)
    item = (await listed(source))["a.md"]
    assert await content(source, item, max_bytes=5) == b"12345"
    with pytest.raises(ItemUnavailable, match="more than 4 bytes"):
        await content(source, item, max_bytes=4)
    bucket.delete_object(Bucket=BUCKET, Key="a.md")
    with pytest.raises(ItemUnavailable, match="is gone"):
        await content(source, item)
    await source.aclose()


async def test_a_missing_bucket_is_no_empty_one(endpoint: str) -> None:
    source = source_of(endpoint, "s3://nowhere")
    with pytest.raises(SourceError, match="does not exist"):
        await listed(source)
    with pytest.raises(SourceError, match="does not exist"):
        await content(source, Item("a.md", "", "a.md"))
    await source.aclose()


async def test_a_store_that_does_not_answer_is_said_without_its_address() -> None:
    source = source_of(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(SourceError, match="cannot be read now") as refused:
        await listed(source)
    assert "127.0.0.1" not in refused.value.message
    await source.aclose()


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MissingExtra, match=r"pip install 'ostiary\[s3\]'"):
        source_of("http://127.0.0.1:1")
