"""A web site on a real server is followed by its sitemap, and nothing but listed hosts is asked."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from app.retrieval.connectors.base import Item, ItemUnavailable, Part, SourceError
from app.retrieval.connectors.choice import open_source
from app.retrieval.connectors.settings import SitemapSettings
from app.retrieval.connectors.sitemap import UNKNOWN, SitemapSource
from app.retrieval.connectors.web import AT_ONCE, MOST_REDIRECTS
from tests.conftest import free_port
from tests.retrieval.connectors.common import content, listed

HTML = {"Content-Type": "text/html; charset=utf-8"}


@dataclass
class Site:
    """A server on this machine: what it gives by path, and what it was asked."""

    port: int = 0
    replies: dict[str, int | tuple[bytes, dict[str, str]]] = field(default_factory=dict)
    asked: list[web.Request] = field(default_factory=list)
    most_at_once: int = 0
    now: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def page(self, path: str, body: str = "<p>text</p>", **headers: str) -> str:
        """Give a page from now on; its address."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.replies[path] = (body.encode(), HTML | named)
        return self.url + path

    def leads(self, path: str, where: str, status: int = 302) -> str:
        """Lead on from a path; its address."""
        self.replies[path] = (b"", {"Location": where, "status": str(status)})
        return self.url + path

    def sitemap(self, *pages: str | tuple[str, str], path: str = "/sitemap.xml") -> str:
        """List pages, with their date where one is given."""
        entries = [(page, "") if isinstance(page, str) else page for page in pages]
        body = "".join(
            f"<url><loc>{page.replace('&', '&amp;')}</loc>"
            + (f"<lastmod>{date}</lastmod>" if date else "")
            + "</url>"
            for page, date in entries
        )
        return self.page(path, f"<urlset>{body}</urlset>")

    def index(self, *sitemaps: str, path: str = "/sitemap.xml") -> str:
        """List sitemaps."""
        body = "".join(f"<sitemap><loc>{one}</loc></sitemap>" for one in sitemaps)
        return self.page(path, f"<sitemapindex>{body}</sitemapindex>")

    async def answer(self, request: web.Request) -> web.Response:
        """The reply to any request."""
        self.asked.append(request)
        self.now += 1
        self.most_at_once = max(self.most_at_once, self.now)
        await asyncio.sleep(0)
        self.now -= 1
        reply = self.replies.get(request.path_qs, 404)
        if isinstance(reply, int):
            return web.Response(status=reply)
        body, headers = reply
        headers = dict(headers)
        status = int(headers.pop("status", "200"))
        return web.Response(body=body, headers=headers, status=status)

    def requests(self, method: str) -> list[str]:
        return [request.path_qs for request in self.asked if request.method == method]


async def started() -> tuple[Site, web.AppRunner]:
    site, app = Site(), web.Application()
    app.router.add_route("*", "/{path:.*}", site.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    site.port = runner.addresses[0][1]
    return site, runner


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    made, runner = await started()
    yield made
    await runner.cleanup()


@pytest.fixture
async def other() -> AsyncIterator[Site]:
    """Another server, of which no source may know."""
    made, runner = await started()
    yield made
    await runner.cleanup()


def source_of(site: Site, **more: Any) -> SitemapSource:
    given = {"url": f"{site.url}/sitemap.xml", "private": True, **more}
    source = open_source(SitemapSettings(kind="sitemap", tenants=["acme"], **given))
    assert isinstance(source, SitemapSource)
    return source


async def test_pages_are_listed_with_their_address_and_read(site: Site) -> None:
    first = site.page("/guide/", "<p>first</p>")
    second = site.page("/a?b=1&c=2", "<p>second</p>")
    site.sitemap((first, "2026-01-02"), second, first)
    source = source_of(site)
    found = await listed(source)
    assert found[first] == Item(first, "changed 2026-01-02", "guide.html", {"url": first})
    assert found[second].filename == "a.html"
    assert await content(source, found[second]) == b"<p>second</p>"
    assert set(await listed(source, Part(path=f"{site.url}/guide"))) == {first}
    await source.aclose()


async def test_an_index_with_packed_sitemaps_is_followed(site: Site) -> None:
    pages = [site.page(f"/{n}") for n in range(3)]
    site.sitemap((pages[0], "1"), path="/one.xml")
    body = f"<urlset><url><loc>{pages[1]}</loc><lastmod>1</lastmod></url></urlset>"
    site.replies["/two.xml.gz"] = (gzip.compress(body.encode()), {})
    site.sitemap((pages[2], "1"), path="/three.xml")
    site.index(f"{site.url}/three.xml", path="/inner.xml")
    site.index(*(f"{site.url}/{name}" for name in ("one.xml", "two.xml.gz", "inner.xml")))
    source = source_of(site)
    assert set(await listed(source)) == set(pages)
    await source.aclose()


async def test_indexes_that_never_end_are_refused(site: Site) -> None:
    for n in range(4):
        site.index(f"{site.url}/{n + 1}.xml", path=f"/{n}.xml")
    site.index(f"{site.url}/sitemap.xml", f"{site.url}/0.xml")
    source = source_of(site)
    with pytest.raises(SourceError, match="indexes above each other"):
        await listed(source)
    await source.aclose()


async def test_more_pages_than_allowed_are_not_cut_off_but_refused(site: Site) -> None:
    site.sitemap(*((f"{site.url}/{n}", "1") for n in range(4)))
    source = source_of(site, max_pages=3)
    with pytest.raises(SourceError, match="`max_pages`"):
        await listed(source)
    assert len(await listed(source, Part(exclude=["*/3"]))) == 3
    await source.aclose()


@pytest.mark.parametrize(
    ("header", "mark"),
    [
        ({"ETag": '"1"'}, 'tag "1"'),
        (
            {"Last_Modified": "Mon, 05 Jan 2026 10:00:00 GMT"},
            "changed Mon, 05 Jan 2026 10:00:00 GMT",
        ),
    ],
)
async def test_without_a_date_the_server_is_asked_what_a_page_is_known_by(
    site: Site, header: dict[str, str], mark: str
) -> None:
    page = site.page("/a", **header)
    site.sitemap(page)
    source = source_of(site)
    assert (await listed(source))[page].fingerprint == mark
    assert "/a" not in site.requests("GET")
    await source.aclose()


async def test_without_any_mark_the_bytes_are_the_fingerprint(site: Site) -> None:
    page = site.page("/a", "one")
    site.sitemap(page)
    source = source_of(site)
    before = (await listed(source))[page].fingerprint
    assert (await listed(source))[page].fingerprint == before
    site.page("/a", "two")
    assert (await listed(source))[page].fingerprint != before
    await source.aclose()


async def test_a_page_that_is_gone_is_not_listed_and_one_that_fails_is(site: Site) -> None:
    site.replies |= {"/failing": 503}
    site.sitemap(f"{site.url}/gone", f"{site.url}/failing", (f"{site.url}/dated", "1"))
    source = source_of(site)
    found = await listed(source)
    failing, dated = f"{site.url}/failing", f"{site.url}/dated"
    assert set(found) == {failing, dated}
    assert found[failing].fingerprint == UNKNOWN
    with pytest.raises(ItemUnavailable, match="status 503"):
        await content(source, found[failing])
    with pytest.raises(ItemUnavailable, match="is gone"):
        await content(source, found[dated])
    await source.aclose()


async def test_a_page_too_large_or_of_another_kind_is_not_read(site: Site) -> None:
    page = site.page("/a", "12345")
    report = site.page("/report.pdf", "<p>Sign in</p>")
    site.sitemap((page, "1"), (report, "1"))
    source = source_of(site)
    found = await listed(source)
    assert await content(source, found[page], max_bytes=5) == b"12345"
    with pytest.raises(ItemUnavailable, match="more than 4 bytes"):
        await content(source, found[page], max_bytes=4)
    with pytest.raises(ItemUnavailable, match="sign in"):
        await content(source, found[report])
    await source.aclose()


async def test_a_packed_page_is_counted_unpacked(site: Site) -> None:
    packed = gzip.compress(bytes(1_000_000))
    site.replies["/a"] = (packed, HTML | {"Content-Encoding": "gzip"})
    source = source_of(site)
    with pytest.raises(ItemUnavailable, match="more than"):
        await content(source, Item(f"{site.url}/a", "", "a.html"), max_bytes=len(packed) * 2)
    await source.aclose()


async def test_robots_txt_is_obeyed(site: Site) -> None:
    site.page("/robots.txt", "User-agent: ostiary\nDisallow: /private\n")
    pages = [(site.page(path), "1") for path in ("/a", "/private/b")]
    site.sitemap(*pages)
    source = source_of(site)
    assert set(await listed(source)) == {f"{site.url}/a"}
    site.replies["/robots.txt"] = 503
    with pytest.raises(SourceError, match=r"robots\.txt"):
        await listed(source)
    await source.aclose()


async def test_pages_elsewhere_are_left_out(site: Site, other: Site) -> None:
    own = site.page("/a")
    places = [
        *("https://example.org/a", f"http://localhost:{site.port}/a", other.page("/a")),
        *("ftp://127.0.0.1/a", "file:///etc/hostname", "/a", "http://[", "javascript:alert(1)"),
        f"http://jane:secret@127.0.0.1:{site.port}/a",
    ]
    site.sitemap((own, "1"), *((place, "1") for place in places))
    source = source_of(site)
    assert set(await listed(source)) == {own}
    assert other.asked == []
    await source.aclose()


async def test_listed_hosts_may_be_asked(site: Site) -> None:
    page = f"http://localhost:{site.port}/a"
    site.page("/a")
    site.sitemap((page, "1"))
    source = source_of(site, hosts=["127.0.0.1", "LOCALHOST."])
    found = await listed(source)
    assert await content(source, found[page]) == b"<p>text</p>"
    await source.aclose()


async def test_a_sitemap_elsewhere_in_an_index_fails_the_listing(site: Site, other: Site) -> None:
    site.index(other.sitemap((other.page("/a"), "1")))
    source = source_of(site)
    with pytest.raises(SourceError, match="port"):
        await listed(source)
    assert other.asked == []
    await source.aclose()


async def test_redirects_are_followed_on_listed_hosts_alone(site: Site, other: Site) -> None:
    target = site.page("/target", "<p>target</p>")
    other.page("/secret")
    site.leads("/good", "/target")
    for n, where in enumerate(
        [
            f"{other.url}/secret",
            f"http://localhost:{other.port}/secret",
            "http://169.254.169.254/latest/meta-data/",
            "file:///etc/hostname",
            "gopher://127.0.0.1/",
            "http://[",
            f"http://2130706433:{site.port}/target",
        ]
    ):
        site.leads(f"/bad{n}", where)
    source = source_of(site)
    good = await content(source, Item(f"{site.url}/good", "", "good.html"))
    assert good == await content(source, Item(target, "", "target.html"))
    for n in range(7):
        with pytest.raises(ItemUnavailable, match="may not be read"):
            await content(source, Item(f"{site.url}/bad{n}", "", "bad.html"))
    assert other.asked == []
    await source.aclose()


async def test_redirects_end(site: Site) -> None:
    for n in range(MOST_REDIRECTS + 2):
        site.leads(f"/{n}", f"/{n + 1}")
    site.page(f"/{MOST_REDIRECTS + 2}", "end")
    source = source_of(site)
    assert await content(source, Item(f"{site.url}/2", "", "a.html")) == b"end"
    with pytest.raises(ItemUnavailable, match="more than 5 times"):
        await content(source, Item(f"{site.url}/1", "", "a.html"))
    await source.aclose()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_site_on_this_machine_is_refused_unless_private(site: Site, host: str) -> None:
    """By name and by address; the server is not asked."""
    page = site.page("/a")
    site.sitemap((page, "1"))
    source = source_of(site, url=f"http://{host}:{site.port}/sitemap.xml", private=False)
    with pytest.raises(SourceError, match="private = true"):
        await listed(source)
    key = f"http://{host}:{site.port}/a"
    with pytest.raises(ItemUnavailable, match="private = true"):
        await content(source, Item(key, "", "a.html"))
    assert site.asked == []
    await source.aclose()


async def test_no_proxy_of_the_environment_is_used(
    site: Site, other: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, other.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    page = site.page("/a")
    site.sitemap((page, "1"))
    source = source_of(site)
    assert set(await listed(source)) == {page}
    assert other.asked == []
    await source.aclose()


async def test_headers_of_the_settings_are_sent_with_ours(site: Site) -> None:
    page = site.page("/a")
    site.sitemap(page)
    source = source_of(site, headers={"Authorization": "Bearer secret"})
    await content(source, (await listed(source))[page])
    assert {request.headers["Authorization"] for request in site.asked} == {"Bearer secret"}
    assert all(request.headers["User-Agent"].startswith("ostiary/") for request in site.asked)
    await source.aclose()


async def test_few_requests_run_at_once(site: Site) -> None:
    site.sitemap(*(site.page(f"/{n}") for n in range(5 * AT_ONCE)))
    source = source_of(site)
    assert len(await listed(source)) == 5 * AT_ONCE
    assert site.most_at_once <= AT_ONCE
    await source.aclose()


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("<html>Sign in</html>", "no sitemap"),
        ("<urlset>", "no XML"),
        ("<urlset></urlset>", "no page at all"),
    ],
)
async def test_what_is_no_sitemap_is_no_empty_site(site: Site, body: str, why: str) -> None:
    site.page("/sitemap.xml", body)
    source = source_of(site)
    with pytest.raises(SourceError, match=why):
        await listed(source)
    await source.aclose()


async def test_a_site_that_does_not_answer_fails_as_a_whole(site: Site) -> None:
    source = source_of(site)
    with pytest.raises(SourceError, match="status 404"):
        await listed(source)
    await source.aclose()
    source = source_of(site, url=f"http://127.0.0.1:{free_port()}/sitemap.xml")
    with pytest.raises(SourceError, match="cannot be reached"):
        await listed(source)
    await source.aclose()
