"""The page in a real browser, against a real gateway process."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from playwright.async_api import Browser, Page, expect

from tests.api.governed import QUESTION, TRUE
from tests.ui.conftest import (
    HOSTILE_NAME,
    HOSTILE_TRUTH,
    PRIVATE_TRUTH,
    House,
    Watched,
    open_page,
    sign_in,
)

UNUSED = "Unused days expire on the last day of March."
DECLINED = "I do not know: the documents do not answer this."


async def ask(page: Page, question: str, store: str = "handbook") -> None:
    await page.get_by_label("Knowledge base").select_option(label=store)
    await page.get_by_label("Your question").fill(question)
    await page.get_by_role("button", name="Ask", exact=True).click()


async def open_source(page: Page, number: int = 1) -> Page:
    """Click a source, which opens its document in a new tab."""
    async with page.context.expect_page() as opened:
        await page.locator(f"#source-{number} a").click()
    document = await opened.value
    await document.wait_for_load_state()
    return document


async def api(house: House, method: str, path: str, body: Any = None) -> Any:
    """A call as the administrator."""
    headers = {"authorization": f"Bearer {house.governed.gateway.key}"}
    async with (
        aiohttp.ClientSession(house.url, headers=headers) as session,
        session.request(method, path, json=body) as reply,
    ):
        assert reply.status < 300, await reply.text()
        return await reply.json()


def audited(house: House, request_id: str) -> list[dict[str, Any]]:
    with sqlite3.connect(house.governed.gateway.data_dir / "ostiary.db") as connection:
        rows = connection.execute("SELECT record FROM audit WHERE request_id = ?", (request_id,))
        return [json.loads(row[0]) for row in rows]


async def request_id_on(page: Page) -> str:
    found = re.search(r"call_\w+", await page.locator("#result .meta").inner_text())
    assert found
    return found[0]


@asynccontextmanager
async def model_down(house: House) -> AsyncIterator[None]:
    port = urlsplit(house.model.url).port
    assert port is not None
    await house.model.stop()
    try:
        yield
    finally:
        await house.model.start(port)
        await model_is_up(house)


async def model_is_up(house: House) -> None:
    """Wait until the gateway has seen the model server."""

    async def up() -> bool:
        return bool((await api(house, "GET", "/v1/models"))["data"]) and await answers()

    async def answers() -> bool:
        body = {"model": "m", "messages": [{"role": "user", "content": "Hi."}]}
        headers = {"authorization": f"Bearer {house.governed.gateway.key}"}
        async with (
            aiohttp.ClientSession(house.url, headers=headers) as session,
            session.post("/v1/chat/completions", json=body) as reply,
        ):
            return reply.status == 200

    async with asyncio.timeout(30):
        while not await up():
            await asyncio.sleep(0.1)


class TestSigningIn:
    async def test_a_wrong_key_is_refused_and_gets_no_session(
        self, browser: Browser, house: House
    ) -> None:
        page = await open_page(browser, house)
        await sign_in(page, "osk-0123456789abcdef-" + "w" * 43)
        await expect(page.get_by_role("alert")).to_contain_text("This credential is not known")
        assert await page.context.cookies() == []
        assert "wwwww" not in await page.content()
        await page.context.close()

    async def test_the_session_cannot_be_read_by_scripts_nor_sent_from_other_sites(
        self, page: Page
    ) -> None:
        (cookie,) = await page.context.cookies()
        assert cookie["httpOnly"] and cookie["sameSite"] == "Strict"
        assert await page.evaluate("document.cookie") == ""

    async def test_attempts_are_audited_and_keys_are_not(
        self, browser: Browser, house: House
    ) -> None:
        wrong = "osk-0123456789abcdef-" + "v" * 43
        page = await open_page(browser, house)
        await sign_in(page, wrong)
        await page.get_by_role("alert").wait_for()
        await sign_in(page, house.governed.gateway.key)
        await page.get_by_label("Your question").wait_for()
        await page.context.close()
        with sqlite3.connect(house.governed.gateway.data_dir / "ostiary.db") as connection:
            rows = connection.execute("SELECT record FROM audit").fetchall()
        records = [json.loads(r[0]) for r in rows if "POST /ui/sign-in" in r[0]]
        found = sorted(records, key=lambda r: r["at"])[-2:]  # each tenant has its own chain
        assert [(f["status"], f["error_code"]) for f in found] == [
            (401, "invalid_api_key"),
            (200, None),
        ]
        assert found[0]["principal"] == "anonymous" and found[1]["principal"].startswith("key:")
        assert wrong not in str(rows)

    async def test_another_site_can_sign_nobody_in_or_out(self, house: House) -> None:
        foreign = ({"sec-fetch-site": "cross-site"}, {"origin": "https://evil.example"})
        async with aiohttp.ClientSession(house.url) as session:
            for headers in foreign:
                for path in ("/ui/sign-in", "/ui/sign-out"):
                    form = {"key": house.governed.gateway.key}
                    async with session.post(path, data=form, headers=headers) as reply:
                        assert reply.status == 403
                        assert "set-cookie" not in reply.headers

    async def test_signing_out_ends_the_session(self, page: Page) -> None:
        await page.get_by_role("button", name="Sign out").click()
        await page.get_by_label("API key").wait_for()
        assert await page.context.cookies() == []
        await page.goto("/ui/ask")
        await expect(page.get_by_label("API key")).to_be_visible()

    async def test_a_document_without_a_session_leads_to_it_through_signing_in(
        self, browser: Browser, house: House
    ) -> None:
        page = await open_page(browser, house)
        store_id, file_id = house.private
        reply = await page.goto(f"/ui/documents/{store_id}/{file_id}?at=0")
        assert reply is not None and reply.status == 401
        await page.get_by_label("API key").fill(house.governed.gateway.key)
        await page.get_by_role("button", name="Sign in").click()
        await expect(page.get_by_role("heading", name="contacts.md")).to_be_visible()
        assert page.url.endswith(f"/ui/documents/{store_id}/{file_id}?at=0#cited")
        await page.context.close()

    async def test_signing_in_leads_to_no_other_site(self, house: House) -> None:
        async with aiohttp.ClientSession(house.url) as session:
            for then in ("https://evil.example/", "//evil.example/ui/ask", "/ui/ask\\@evil", "/"):
                form = {"key": house.governed.gateway.key, "then": then}
                async with session.post("/ui/sign-in", data=form, allow_redirects=False) as reply:
                    assert (reply.status, reply.headers["location"]) == (303, "/ui/ask")

    async def test_a_revoked_session_is_told_and_ends(self, browser: Browser, house: House) -> None:
        made = await api(house, "POST", "/v1/admin/keys", {"name": "gone", "scopes": ["*"]})
        page = await open_page(browser, house)
        await sign_in(page, made["key"])
        await page.get_by_label("Your question").wait_for()
        await api(house, "DELETE", f"/v1/admin/keys/{made['id']}")
        await ask(page, QUESTION)
        problem = page.get_by_role("alert")
        await expect(problem).to_contain_text("revoked")
        await expect(page.get_by_label("Your question")).to_have_value(QUESTION)
        await problem.get_by_role("link", name="Sign in").click()
        await expect(page.get_by_label("API key")).to_be_visible()
        assert await page.context.cookies() == []
        await page.context.close()


class TestAnswers:
    async def test_text_appears_while_the_model_still_speaks(
        self, page: Page, house: House
    ) -> None:
        watched = Watched(page)
        house.model.says(UNUSED, first=TRUE)
        await ask(page, QUESTION)
        answer = page.locator("#answer-text")
        await expect(answer).to_have_text(TRUE.strip())
        assert await page.locator("#result .meta").count() == 0  # not the end yet
        await expect(page.locator("#result")).to_have_attribute("aria-busy", "true")
        house.model.go_on()
        await expect(page.locator("#result .meta")).to_be_visible()
        await expect(answer).to_contain_text("27 days of paid holiday each year.")
        await expect(page.get_by_role("status")).to_contain_text("Sources:")
        assert urlsplit(page.url).query == ""
        (record,) = audited(house, await request_id_on(page))
        assert (record["status"], record["route"]) == (200, "POST /ui/ask")
        assert record["door"] == "page"
        assert watched.console == []

    async def test_a_number_leads_to_its_source_and_that_to_the_marked_words(
        self, page: Page, house: House
    ) -> None:
        watched = Watched(page)
        house.model.says(TRUE)
        await ask(page, QUESTION)
        await page.get_by_role("link", name="Source 1").click()
        source = page.locator("#source-1")
        assert await source.evaluate("e => e.matches(':target')")
        await expect(source).to_contain_text("handbook.md")
        document = await open_source(page)
        mark = document.locator("mark")
        await expect(mark).to_have_text(TRUE.strip())
        await expect(mark).to_be_in_viewport()
        assert "27" not in urlsplit(document.url).query.replace("check=", "")
        assert "holiday" not in document.url
        assert watched.console == [] and watched.dialogs == []

    async def test_the_keyboard_alone_is_enough(self, page: Page, house: House) -> None:
        house.model.says(TRUE)
        await page.get_by_label("Your question").focus()
        await page.keyboard.type(QUESTION)
        await page.keyboard.press("Enter")
        await page.locator(".sources").wait_for()
        await page.get_by_role("link", name="Source 1").focus()
        await page.keyboard.press("Enter")
        await page.keyboard.press("Tab")  # from the source, not from the top of the page
        focused = await page.evaluate("document.activeElement.closest('li')?.id")
        assert focused == "source-1"

    async def test_what_the_documents_do_not_say_is_declined_without_sources(
        self, page: Page, house: House
    ) -> None:
        house.model.says("Tungsten boils at 5930 degrees.")
        await ask(page, "What is the boiling point of tungsten?")
        await expect(page.locator(".declined #answer-text")).to_have_text(DECLINED)
        await expect(page.get_by_role("heading", name="Sources")).to_have_count(0)
        await expect(page.get_by_role("status")).to_have_text(DECLINED)

    async def test_without_the_model_server_the_documents_are_quoted(
        self, page: Page, house: House
    ) -> None:
        async with model_down(house):
            await ask(page, QUESTION)
            notice = page.get_by_text("The language model is not available")
            await expect(notice).to_be_visible()
            await expect(page.locator("#answer-text")).to_contain_text("27 days")
            document = await open_source(page)
            await expect(document.locator("mark")).to_be_in_viewport()

    async def test_a_cut_answer_stays_and_is_marked_as_incomplete(
        self, page: Page, house: House
    ) -> None:
        house.model.says(TRUE + UNUSED)
        house.model.cut_after = 11
        await ask(page, QUESTION)
        await expect(page.get_by_role("alert")).to_contain_text("This answer is incomplete.")
        await expect(page.locator(".incomplete #answer-text")).to_contain_text("27 days")
        await expect(page.locator("#source-1")).to_contain_text("handbook.md")
        (record,) = audited(house, await request_id_on(page))
        assert (record["status"], record["error_code"]) == (503, "upstream_cut")
        house.model.says("Up again.")
        await model_is_up(house)

    async def test_a_lost_connection_leaves_no_half_that_looks_whole(
        self, page: Page, house: House
    ) -> None:
        begun = "event: text\ndata: Employees receive\n\n"
        headers = {"content-type": "text/event-stream"}
        await page.route("**/ui/ask", lambda r: r.fulfill(headers=headers, body=begun))
        await ask(page, QUESTION)
        await expect(page.get_by_role("alert")).to_contain_text("This answer is incomplete.")
        await expect(page.locator(".incomplete #answer-text")).to_have_text("Employees receive")
        await expect(page.get_by_role("button", name="Stop")).to_be_hidden()

    async def test_stopping_keeps_what_was_said(self, page: Page, house: House) -> None:
        house.model.says(UNUSED, first=TRUE)
        await ask(page, QUESTION)
        await expect(page.locator("#answer-text")).to_have_text(TRUE.strip())
        await page.get_by_role("button", name="Stop").click()
        await expect(page.locator(".incomplete")).to_contain_text("You stopped it.")
        house.model.go_on()

    async def test_the_next_question_takes_the_place_of_one_still_answered(
        self, page: Page, house: House
    ) -> None:
        house.model.says(UNUSED, first=TRUE)
        await ask(page, QUESTION)
        await expect(page.locator("#answer-text")).to_have_text(TRUE.strip())
        await ask(page, "What is the boiling point of tungsten?")
        await expect(page.locator("#answer-text")).to_have_text(DECLINED)
        await expect(page.get_by_role("button", name="Stop")).to_be_hidden()
        assert await page.locator(".incomplete").count() == 0
        house.model.go_on()

    async def test_a_refusal_of_the_guardrails_is_told_without_the_value(
        self, page: Page, house: House
    ) -> None:
        house.model.says(TRUE)
        await ask(page, "My SSN is 536-22-8726, how many days of holiday do I get?")
        problem = page.get_by_role("alert")
        await expect(problem).to_contain_text("Refused by the guardrails")
        await expect(problem).to_contain_text("US_SSN")
        assert "536-22" not in await page.locator("#result").inner_text()
        assert house.model.bodies == []

    async def test_a_store_that_is_gone_is_told(self, page: Page, house: House) -> None:
        made = await house.governed.client.vector_stores.create(name="short-lived")
        await page.reload()
        await house.governed.client.vector_stores.delete(made.id)
        await ask(page, QUESTION, "short-lived")
        await expect(page.get_by_role("alert")).to_contain_text("No vector store named")

    async def test_a_spent_budget_is_told(self, browser: Browser, house: House) -> None:
        budget = {"name": "poor", "budget_usd_per_day": 0}
        tenant = await api(house, "POST", "/v1/admin/tenants", budget)
        key = {"name": "poor", "scopes": ["*"], "tenant_id": tenant["id"]}
        made = await api(house, "POST", "/v1/admin/keys", key)
        page = await open_page(browser, house)
        await sign_in(page, made["key"])
        await expect(page.get_by_role("alert")).to_contain_text("The budget is spent")
        await page.context.close()

    async def test_without_a_knowledge_base_the_page_says_how_to_load_one(
        self, browser: Browser, house: House
    ) -> None:
        page = await open_page(browser, house)
        await sign_in(page, (await other_tenant(house, "newcomers"))["key"])
        await expect(page.get_by_text("ostiary ingest")).to_be_visible()
        await expect(page.get_by_role("button", name="Ask", exact=True)).to_be_disabled()
        await page.context.close()


async def other_tenant(house: House, name: str) -> Any:
    tenant = await api(house, "POST", "/v1/admin/tenants", {"name": name})
    key = {"name": name, "scopes": ["*"], "tenant_id": tenant["id"]}
    return await api(house, "POST", "/v1/admin/keys", key)


class TestWithoutScripts:
    async def test_an_answer_is_a_whole_page(self, plain_page: Page, house: House) -> None:
        house.model.says(TRUE)
        await ask(plain_page, QUESTION)
        await expect(plain_page.locator("#answer-text")).to_contain_text("27 days")
        await expect(plain_page.get_by_label("Your question")).to_have_value(QUESTION)
        assert urlsplit(plain_page.url).query == ""
        document = await open_source(plain_page)
        await expect(document.locator("mark")).to_be_in_viewport()

    async def test_a_refusal_keeps_the_question_on_the_page(
        self, plain_page: Page, house: House
    ) -> None:
        question = "My SSN is 536-22-8726, how many days of holiday do I get?"
        await ask(plain_page, question)
        await expect(plain_page.get_by_role("alert")).to_contain_text("Refused by the guardrails")
        await expect(plain_page.get_by_label("Your question")).to_have_value(question)
        (record,) = audited(house, await request_id_on(plain_page))
        assert (record["status"], record["error_code"]) == (400, "guardrail_violation")

    async def test_a_cut_answer_is_not_shown_at_all(self, plain_page: Page, house: House) -> None:
        house.model.says(TRUE + UNUSED)
        house.model.cut_after = 11
        await ask(plain_page, QUESTION)
        await expect(plain_page.get_by_role("alert")).to_contain_text("broke off")
        await expect(plain_page.locator("#answer-text")).to_have_count(0)
        house.model.says("Up again.")
        await model_is_up(house)


class TestDocuments:
    async def test_what_documents_and_answers_bring_along_stays_text(
        self, page: Page, house: House
    ) -> None:
        watched = Watched(page)
        house.model.says(HOSTILE_TRUTH)
        await ask(page, "When does the ferry cross?", "harbour")
        await expect(page.locator("#answer-text")).to_contain_text("<script>alert(2)</script>")
        await page.locator("summary").click()
        document = await open_source(page)
        await expect(document.locator("h1")).to_have_text(HOSTILE_NAME)
        await expect(document.locator("mark")).to_have_text(HOSTILE_TRUTH)
        for shown in (page, document):
            assert (
                await shown.locator("article script, article img, a[href^=javascript]").count() == 0
            )
            wider = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
            assert not await shown.evaluate(wider)
        assert watched.dialogs == [] and watched.console == []

    async def test_a_masked_value_is_masked_in_the_answer_and_the_document(
        self, page: Page, house: House
    ) -> None:
        house.model.says(PRIVATE_TRUTH)
        await ask(page, "How is the night porter reached?", "lodge")
        await expect(page.locator("#answer-text")).to_contain_text("<EMAIL_ADDRESS>")
        document = await open_source(page)
        await expect(document.locator("#cited")).to_be_in_viewport()
        for shown in (page, document):
            assert "jo.berg" not in await shown.content()

    async def test_words_that_are_no_longer_there_mark_the_whole_passage(
        self, page: Page, house: House
    ) -> None:
        store_id, file_id = house.private
        place = "at=0&start=0&end=8&check=00000000"
        await page.goto(f"/ui/documents/{store_id}/{file_id}?{place}#cited")
        await expect(page.locator("mark")).to_have_count(0)
        await expect(page.get_by_role("note", name="Cited passage")).to_be_in_viewport()

    async def test_a_passage_that_is_no_longer_there_is_told(
        self, page: Page, house: House
    ) -> None:
        store_id, file_id = house.private
        await page.goto(f"/ui/documents/{store_id}/{file_id}?at=99#cited")
        await expect(page.get_by_role("alert")).to_contain_text("no longer in this document")

    async def test_another_tenants_document_is_not_found(
        self, browser: Browser, house: House
    ) -> None:
        page = await open_page(browser, house)
        await sign_in(page, (await other_tenant(house, "neighbours"))["key"])
        store_id, file_id = house.private
        reply = await page.goto(f"/ui/documents/{store_id}/{file_id}")
        assert reply is not None and reply.status == 404
        await expect(page.get_by_role("alert")).to_contain_text("Not found")
        assert "porter" not in await page.content()
        await page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_page_fits_a_narrow_phone(browser: Browser, house: House, scheme: Any) -> None:
    size: Any = {"width": 375, "height": 700}
    page = await open_page(browser, house, viewport=size, color_scheme=scheme)
    await sign_in(page, house.governed.gateway.key)
    house.model.says(HOSTILE_TRUTH)
    await ask(page, "When does the ferry cross?", "harbour")
    await page.locator("summary").click()
    document = await open_source(page)
    for shown in (page, document):
        assert await shown.evaluate("document.documentElement.scrollWidth") <= 375
    await page.context.close()
