"""Fixtures: a headless Chromium that watches what pages do, and a server for it."""

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from attaching import SEEING
from echo import EchoServer
from playwright.sync_api import Browser, Page, expect, sync_playwright
from talking import CATALOGUE, ELSEWHERE, Open

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-sync",
    f"--host-resolver-rules=MAP {ELSEWHERE} 127.0.0.1",
]
PATIENCE_MS = 60_000  # with a busy machine
expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def chromium(chromium_path: str) -> Iterator[Browser]:
    """For one module: as long as it runs, this thread has an event loop, and other tests of asyncio
    could not start theirs."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    server = EchoServer(tmp_path_factory.mktemp("models"), CATALOGUE)
    yield server
    server.close()


@pytest.fixture(scope="session")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    """The same with a model that sees."""
    server = EchoServer(tmp_path_factory.mktemp("seeing"), SEEING)
    yield server
    server.close()


@pytest.fixture
def open_page(chromium: Browser) -> Iterator[Open]:
    """Opens a URL in a fresh profile. At the end, no page has met an error, or asked another host
    for anything."""
    troubles: list[str] = []
    contexts = []

    def open_at(
        url: str, *, refusals: bool = False, is_shown: bool = True, **options: object
    ) -> Page:
        """`refusals`: the server may refuse requests of this page; `is_shown`: a panel is, at
        once."""
        context = chromium.new_context(**options)
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        page = context.new_page()
        host = urlsplit(url).netloc

        def watch_request(address: str) -> None:
            if urlsplit(address).scheme in ("http", "https") and urlsplit(address).netloc != host:
                troubles.append(f"asked for {address}")

        def watch_console(kind: str, text: str) -> None:
            is_refusal = refusals and text.startswith("Failed to load resource")
            if kind in ("error", "warning") and not is_refusal:
                troubles.append(f"{kind}: {text}")

        page.on("request", lambda request: watch_request(request.url))
        page.on("console", lambda message: watch_console(message.type, message.text))
        page.on("pageerror", lambda error: troubles.append(f"exception: {error}"))
        page.goto(url)
        if is_shown:
            page.locator("#stage > section").wait_for()
        return page

    yield open_at
    for context in contexts:
        context.close()
    assert troubles == []


@pytest.fixture
def page(open_page: Open, server: EchoServer) -> Page:
    """The chat, at temperature 0: the model says what it is told."""
    page = open_page(server.url)
    page.get_by_label("Temperature").fill("0")
    return page


@pytest.fixture
def screenshots() -> Path | None:
    """Where to leave pictures for people, if $SCREENSHOTS says so."""
    folder = os.environ.get("SCREENSHOTS")
    return Path(folder) if folder else None
