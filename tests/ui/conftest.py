"""A gateway with a knowledge base to ask, and a real browser to ask it with."""

from __future__ import annotations

import io
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from playwright.async_api import Browser, ConsoleMessage, Dialog, Page, async_playwright

from tests.api import governed as setting
from tests.api.governed import Governed
from tests.conftest import missing
from tests.ui.paused import PausedModel

CHROMIUM = "/usr/bin/chromium"
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
UNBROKEN = "x" * 3000
HOSTILE_NAME = "<img src=x onerror=alert(1)>.txt"
# What a document could bring along; the marked sentence is what the model repeats of it.
HOSTILE_TRUTH = "The ferry <script>alert(2)</script> crosses <img src=y onerror=alert(3)> at noon."
HOSTILE = f"""Ferries of the harbour.

{HOSTILE_TRUTH}

"><script>alert(4)</script><a href="javascript:alert(5)">tickets</a>

{UNBROKEN}
"""
PRIVATE = """# Contacts

The night porter Jo Berg is reached at jo.berg@example.org or through the lodge by the gate.
"""
PRIVATE_TRUTH = "The night porter Jo Berg is reached at jo.berg@example.org or through the lodge."


@dataclass(frozen=True, slots=True)
class House:
    """The gateway and its model; the ids of two more stores, each with one document."""

    governed: Governed
    model: PausedModel
    hostile: tuple[str, str]
    private: tuple[str, str]

    @property
    def url(self) -> str:
        return self.governed.gateway.url

    @property
    def store_id(self) -> str:
        return self.governed.store_id


@pytest.fixture(scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setting, "ScriptedModel", PausedModel)
        async with setting.governed(tmp_path_factory.mktemp("page")) as made:
            assert isinstance(made.model, PausedModel)
            yield House(
                made,
                made.model,
                await load(made, "harbour", HOSTILE_NAME, HOSTILE),
                await load(made, "lodge", "contacts.md", PRIVATE),
            )


async def load(made: Governed, store_name: str, filename: str, text: str) -> tuple[str, str]:
    """Put one document into a store of its own; return the ids of both."""
    store = await made.client.vector_stores.create(name=store_name)
    file = await made.client.vector_stores.files.upload_and_poll(
        vector_store_id=store.id, file=(filename, io.BytesIO(text.encode()))
    )
    assert file.status == "completed", file.last_error
    return store.id, file.id


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    if not shutil.which(CHROMIUM):
        missing("Chromium", "apt-get install chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        await browser.close()


class Watched:
    """What a page must never do: open a dialog, or break its own content policy."""

    def __init__(self, page: Page) -> None:
        self.dialogs: list[str] = []
        self.console: list[str] = []
        self.watch(page)
        page.context.on("page", self.watch)

    def watch(self, page: Page) -> None:
        page.on("dialog", self._dismiss)
        page.on("console", self._note)
        page.on("pageerror", lambda error: self.console.append(str(error)))

    async def _dismiss(self, dialog: Dialog) -> None:
        self.dialogs.append(dialog.message)
        await dialog.dismiss()

    def _note(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.console.append(message.text)


async def open_page(browser: Browser, house: House, **options: object) -> Page:
    """A page in a context of its own; its timeout is short, since all is on this machine."""
    context = await browser.new_context(base_url=house.url, **options)  # type: ignore[arg-type]
    context.set_default_timeout(20_000)
    return await context.new_page()


async def sign_in(page: Page, key: str) -> None:
    await page.goto("/")
    await page.get_by_label("API key").fill(key)
    await page.get_by_role("button", name="Sign in").click()


@pytest.fixture
async def page(browser: Browser, house: House) -> AsyncIterator[Page]:
    """A signed-in page of its own context."""
    page = await open_page(browser, house)
    await sign_in(page, house.governed.gateway.key)
    await page.get_by_label("Your question").wait_for()
    yield page
    await page.context.close()


@pytest.fixture
async def plain_page(browser: Browser, house: House) -> AsyncIterator[Page]:
    """A signed-in page that runs no script."""
    page = await open_page(browser, house, java_script_enabled=False)
    await sign_in(page, house.governed.gateway.key)
    yield page
    await page.context.close()
