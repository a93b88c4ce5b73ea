"""Sitemaps, robots.txt and the names of pages are read as the standards say."""

from __future__ import annotations

import gzip

import pytest
from yarl import URL

from app.retrieval.connectors.page_names import fits, page_name
from app.retrieval.connectors.robots import Robots
from app.retrieval.connectors.sitemap_xml import Entry, parse_sitemap, unpacked

SPACE = "http://www.sitemaps.org/schemas/sitemap/0.9"


def test_pages_are_read_with_their_dates_and_without_other_vocabularies() -> None:
    body = f"""<?xml version="1.0" encoding="UTF-8"?>
    <urlset xmlns="{SPACE}" xmlns:image="http://www.google.com/schemas/sitemap-image/1.1">
      <url><loc> https://example.org/a?b=1&amp;c=2 </loc><lastmod>2026-01-02</lastmod>
        <image:image><image:loc>https://example.org/a.png</image:loc></image:image>
        <image:loc>https://example.org/b.png</image:loc></url>
      <url><loc><![CDATA[https://example.org/ü]]></loc></url>
      <url><lastmod>2026-01-02</lastmod></url>
    </urlset>"""
    sitemap = parse_sitemap(body.encode())
    assert not sitemap.is_index
    assert sitemap.entries == [
        Entry("https://example.org/a?b=1&c=2", "2026-01-02"),
        Entry("https://example.org/ü", ""),
    ]


def test_an_index_and_a_sitemap_without_its_vocabulary_are_read() -> None:
    body = b"<sitemapindex><sitemap><loc>https://example.org/1.xml</loc></sitemap></sitemapindex>"
    sitemap = parse_sitemap(body)
    assert sitemap.is_index
    assert sitemap.entries == [Entry("https://example.org/1.xml", "")]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "no XML"),
        (b"<urlset><url></urlset>", "no XML"),
        (b"<html><body>Sign in</body></html>", "no sitemap"),
        (b'<!DOCTYPE u [<!ENTITY a "b">]><urlset>&a;</urlset>', "document type"),
        (b'<!DOCTYPE u SYSTEM "http://127.0.0.1/"><urlset/>', "document type"),
        (b"<urlset>" + b"<a>" * 100_000, "too deep"),
    ],
)
def test_what_is_no_sitemap_is_refused(body: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_sitemap(body)


def test_an_address_too_long_is_passed_over() -> None:
    body = "<urlset><url><loc>https://example.org/" + "a" * 5_000_000 + "</loc></url></urlset>"
    assert parse_sitemap(body.encode()).entries == []


def test_packed_sitemaps_are_unpacked_up_to_their_limit() -> None:
    assert unpacked(gzip.compress(b"a" * 1000), 1000) == b"a" * 1000
    assert unpacked(b"plain", 5) == b"plain"
    for body, why in (
        (gzip.compress(b"a" * 1001), "more than 1000 bytes"),
        (gzip.compress(bytes(10_000_000)), "more than 1000 bytes"),
        (b"a" * 1001, "more than 1000 bytes"),
        (gzip.compress(b"a" * 900)[:-12], "cut off"),
        (b"\x1f\x8b" + b"\xff" * 50, "damaged"),
        (gzip.compress(b"a") + gzip.compress(b"b"), "several pieces"),
    ):
        with pytest.raises(ValueError, match=why):
            unpacked(body, 1000)


ROBOTS = """
User-agent: *
Disallow: /

User-agent: other
User-agent: Ostiary/1.0   # a version says nothing
Crawl-delay: 5
Disallow: /private
Allow: /private/open
Disallow: /*.pdf$
Disallow: /search?*q=
Disallow: /caf%C3%A9

Sitemap: https://example.org/sitemap.xml
User-agent: ostiary
Disallow: /old/
"""


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/", True),
        ("/private", False),
        ("/privately", False),
        ("/private/a", False),
        ("/private/open/a", True),
        ("/a/b.pdf", False),
        ("/a/b.pdf?page=2", True),
        ("/search?page=1&q=a", False),
        ("/search?page=1", True),
        ("/caf%C3%A9/menu", False),
        ("/old/a", False),
        ("/older", True),
    ],
)
def test_robots_txt_is_read_for_us(path: str, allowed: bool) -> None:
    assert Robots(ROBOTS, "ostiary").allow(path) is allowed


def test_rules_for_all_robots_hold_where_none_are_for_us() -> None:
    robots = Robots("User-agent: *\nDisallow: /a\nUser-agent: b\nDisallow:", "ostiary")
    assert not robots.allow("/a")
    assert robots.allow("/b")
    assert Robots("", "ostiary").allow("/a")
    assert Robots("Disallow: /", "ostiary").allow("/a")  # of no robot


def test_many_stars_cost_no_time() -> None:
    robots = Robots("User-agent: *\nDisallow: /" + "*a" * 1000 + "b$", "ostiary")
    assert robots.allow("/" + "a" * 2000)


@pytest.mark.parametrize(
    ("url", "kind", "name"),
    [
        ("https://example.org/guide/travel.html", None, "travel.html"),
        ("https://example.org/guide/", "text/html", "guide.html"),
        ("https://example.org/", None, "example.org.html"),
        ("https://example.org/index.php?id=3", None, "index.php.html"),
        ("https://example.org/v1.2", "text/html", "v1.2.html"),
        ("https://example.org/report", "application/pdf", "report.pdf"),
        ("https://example.org/report.pdf", "application/pdf", "report.pdf"),
        ("https://example.org/report.pdf", "text/html", "report.pdf.html"),
        ("https://example.org/notes.md", "text/plain", "notes.md"),
        ("https://example.org/b%C3%BCro%2F..", None, "büro.html"),
        ("https://example.org/data", "application/octet-stream", "data.html"),
    ],
)
def test_a_page_is_named_by_its_path_and_kind(url: str, kind: str | None, name: str) -> None:
    assert page_name(URL(url), kind) == name


def test_a_page_in_the_place_of_a_document_is_noticed() -> None:
    assert not fits("report.pdf", "text/html")
    assert not fits("report.html", "application/pdf")
    assert fits("report.xhtml", "text/html")
    assert fits("notes.md", "text/plain")
    assert fits("report.pdf", "application/octet-stream")
