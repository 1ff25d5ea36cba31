"""What all panels share: keys, colours, sizes of screens, accessibility."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from echo import EchoServer
from playwright.sync_api import Page, expect
from talking import CATALOGUE, ELSEWHERE, Open, begin, choose, say

pytestmark = pytest.mark.browser

PANELS = ["chat", "complete", "embed", "image", "models", "server"]
SIZES = {"phone": (360, 740), "tablet": (820, 1100), "desktop": (1440, 900)}


def go_to(page: Page, panel: str) -> None:
    page.get_by_role("navigation").get_by_role("link", name=panel.capitalize()).click()
    page.locator(f"#stage > [aria-label={panel.capitalize()}]").wait_for()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    settings = '[server]\napi_keys = ["open-sesame"]\n'
    server = EchoServer(tmp_path_factory.mktemp("guarded"), settings + CATALOGUE)
    yield server
    server.close()


def stored(page: Page, kind: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(page.evaluate(f"JSON.stringify({kind})"))
    return found


def test_a_server_with_keys_is_asked_with_one(open_page: Open, guarded: EchoServer) -> None:
    page = open_page(guarded.url + "/#models", refusals=True, is_shown=False)
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("API key").fill("wrong")
    page.keyboard.press("Enter")
    expect(dialog).to_contain_text("missing or unknown")
    dialog.get_by_label("API key").fill("open-sesame")
    dialog.get_by_role("button", name="Use this key").click()
    expect(page.locator("#stage")).to_contain_text("tests/echo")
    assert "localinfra.key" in stored(page, "sessionStorage")
    assert "localinfra.key" not in stored(page, "localStorage")
    go_to(page, "chat")
    expect(say(page, "hello").locator(".figures")).to_contain_text("tokens")


def test_a_key_is_kept_if_the_user_says_so(open_page: Open, guarded: EchoServer) -> None:
    page = open_page(guarded.url, refusals=True, is_shown=False)
    page.get_by_label("Remember it in this browser").check()
    page.get_by_label("API key").fill("open-sesame")
    page.get_by_role("button", name="Use this key").click()
    page.locator("#stage > section").wait_for()
    other_tab = page.context.new_page()
    other_tab.goto(guarded.url)
    expect(other_tab.get_by_label("Model", exact=True)).to_have_value("tests/echo")


def test_a_key_that_no_header_can_hold_is_refused_at_once(
    open_page: Open, guarded: EchoServer
) -> None:
    """Kept, it would lock the user out: the browser sends no request with it."""
    page = open_page(guarded.url, refusals=True, is_shown=False)
    key = page.get_by_label("API key")
    key.fill("сезам")
    page.keyboard.press("Enter")
    expect(key).to_be_visible()
    assert key.evaluate("input => !input.validity.valid")
    key.fill("open-sesame")
    page.keyboard.press("Enter")
    page.locator("#stage > section").wait_for()


def test_who_sends_the_question_for_a_key_away_is_not_asked_again_by_the_page_itself(
    open_page: Open, guarded: EchoServer
) -> None:
    page = open_page(guarded.url, refusals=True, is_shown=False)
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_label("API key")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("alert")).to_have_text("This server needs an API key.")
    for panel in ("server", "models"):  # which ask the server every two seconds
        go_to(page, panel)
    page.wait_for_timeout(2500)
    expect(dialog).to_have_count(0)
    go_to(page, "chat")
    page.get_by_role("button", name="Ask it again").click()
    dialog.get_by_label("API key").fill("open-sesame")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Model", exact=True)).to_have_value("tests/echo")


def test_the_page_works_over_plain_http_from_another_machine(
    open_page: Open, tmp_path: Path
) -> None:
    """Browsers keep some functions from such pages. Chromium is told where the name leads."""
    server = EchoServer(tmp_path, f'[server]\nallowed_hosts = ["{ELSEWHERE}"]\n' + CATALOGUE)
    page = open_page(server.url.replace("127.0.0.1", ELSEWHERE))
    assert page.evaluate("window.isSecureContext") is False
    page.get_by_label("Temperature").fill("0")
    answer = say(page, "over the net")
    answer.get_by_label("Copy", exact=True).click()
    expect(page.get_by_role("status").filter(has_text="Copied")).to_be_visible()
    page.reload()
    expect(page.locator(".conversation")).to_have_count(1)
    server.close()


@pytest.mark.parametrize("size", SIZES)
def test_no_panel_is_wider_than_its_screen(
    open_page: Open, server: EchoServer, size: str, screenshots: Path | None
) -> None:
    width, height = SIZES[size]
    page = open_page(server.url, viewport={"width": width, "height": height})
    for panel in PANELS:
        go_to(page, panel)
        for element in ("document.documentElement", "document.querySelector('#stage > *')"):
            room = page.evaluate(f"[{element}.scrollWidth, {element}.clientWidth]")
            assert room[0] <= room[1], (panel, element, room)
        if screenshots:
            page.screenshot(path=screenshots / f"{panel}-{size}.png")


def test_on_a_phone_what_lies_over_the_chat_goes_when_one_taps_beside_it(
    open_page: Open, server: EchoServer
) -> None:
    width, height = SIZES["phone"]
    page = open_page(server.url, viewport={"width": width, "height": height}, has_touch=True)
    button = page.get_by_role("button", name="Parameters")
    button.tap()
    expect(button).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_label("Temperature")).to_be_visible()
    page.touchscreen.tap(20, height / 2)
    expect(button).to_have_attribute("aria-pressed", "false")
    expect(page.get_by_label("Temperature")).not_to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("panel", PANELS)
def test_axe_finds_no_serious_fault(
    open_page: Open, server: EchoServer, panel: str, scheme: str
) -> None:
    page = open_page(server.url, color_scheme=scheme)
    if panel == "chat":
        page.get_by_label("Temperature").fill("0")
        page.get_by_label("Token probabilities").check()
        say(page, "hello")
        page.get_by_label("Token probabilities").uncheck()
        say(page, "# Title\n\n```js\n// x\nlet a = f(1)\n```\n\n|a|b|\n|-|-|\n|$x^2$|~~c~~|")
    go_to(page, panel)
    expect(page.locator("#stage > section")).to_be_visible()
    found = Axe().run(page).response["violations"]
    faults = [
        f"{fault['impact']} {fault['id']}: {node['html'][:150]} {node['failureSummary']}"
        for fault in found
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]
    assert faults == []


def test_colours_follow_the_system_or_the_user(page: Page) -> None:
    page.emulate_media(color_scheme="dark")
    ground = "getComputedStyle(document.body.parentElement).backgroundColor"
    dark = page.evaluate(ground)
    page.locator("#theme").click()
    light = page.evaluate(ground)
    assert dark != light
    page.reload()
    assert page.evaluate(ground) == light
    page.locator("#theme").click()
    page.emulate_media(color_scheme="light")
    assert page.evaluate(ground) == dark


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_button_can_be_read_while_one_points_at_it(
    open_page: Open, server: EchoServer, scheme: str
) -> None:
    page = open_page(server.url + "/#complete", color_scheme=scheme, reduced_motion="reduce")
    page.get_by_role("button", name="Complete", exact=True).hover()
    found = Axe().run(page, options={"runOnly": ["color-contrast"]}).response["violations"]
    assert [node["html"] for fault in found for node in fault["nodes"]] == []


def test_keys_lead_everywhere(page: Page) -> None:
    page.keyboard.press("Alt+5")
    expect(page.get_by_role("heading", name="Models", exact=True)).to_be_visible()
    page.keyboard.press("Alt+1")
    message = page.get_by_label("Message", exact=True)
    expect(message).to_be_focused()
    sign = {"key": "£", "code": "Digit3", "altKey": True, "bubbles": True}  # as a Mac has it
    message.dispatch_event("keydown", sign)
    expect(message).to_be_visible()
    page.locator("#stage").dispatch_event("keydown", sign)
    expect(page.get_by_role("heading", name="Embed", exact=True)).to_be_visible()
    page.keyboard.press("Alt+1")
    expect(message).to_be_focused()
    page.keyboard.press("Control+k")
    expect(page.get_by_label("Search conversations")).to_be_focused()
    page.keyboard.press("Control+Shift+O")
    expect(page.get_by_label("Message", exact=True)).to_be_focused()
    page.locator("#keys").click()
    expect(page.get_by_role("dialog")).to_contain_text("new chat")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_a_server_without_a_chat_model_says_where_to_get_one(
    open_page: Open, tmp_path: Path
) -> None:
    catalogue = '[model."absent"]\nkind = "text"\nsource = "hf:owner/repo/file.gguf"\n'
    server = EchoServer(tmp_path, catalogue)
    page = open_page(server.url)
    expect(page.locator(".welcome")).to_contain_text("No chat model is on this machine yet.")
    begin(page, "hello?")
    expect(page.get_by_role("alert")).to_contain_text("fetch one under Models")
    page.locator(".welcome").get_by_role("link", name="Fetch one").click()
    expect(page.get_by_role("article", name="absent")).to_be_visible()
    page.close()  # it asks on
    server.close()


def test_the_page_says_that_the_server_is_gone(open_page: Open, tmp_path: Path) -> None:
    server = EchoServer(tmp_path, CATALOGUE)
    page = open_page(server.url, refusals=True)
    server.close()
    answer = say(page, "anyone?")
    expect(answer.get_by_role("alert")).to_contain_text("can't be reached")


def test_escape_ends_an_edit_or_a_menu_and_no_answer(page: Page) -> None:
    say(page, "first")
    choose(page, "slow")
    begin(page, "word " * 500)
    expect(page.locator(".answer.running")).to_contain_text("word")
    page.get_by_label("Edit and ask again").first.click()
    page.get_by_label("Edit the message").press("Escape")
    expect(page.get_by_label("Edit the message")).to_have_count(0)
    page.get_by_label("Import and export").press("Enter")
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Export all")).to_be_hidden()
    expect(page.get_by_label("Import and export")).to_be_focused()
    expect(page.locator(".answer.running")).to_have_count(1)
    page.keyboard.press("Escape")
    expect(page.locator(".answer.running")).to_have_count(0)


def test_a_dialog_says_what_happens_in_it_and_outlives_a_selection(page: Page) -> None:
    say(page, "first")
    page.get_by_label("The request as code").click()
    dialog = page.get_by_role("dialog")
    box = dialog.bounding_box()
    assert box
    page.mouse.move(box["x"] + 40, box["y"] + 150)
    page.mouse.down()
    page.mouse.move(5, 5)
    page.mouse.up()
    expect(dialog).to_be_visible()
    dialog.get_by_label("Copy").click()
    expect(dialog.locator(".notice")).to_be_visible()
    page.mouse.click(5, 5)
    expect(dialog).to_have_count(0)


def test_a_tab_that_may_store_nothing_works(open_page: Open, server: EchoServer) -> None:
    page = open_page(server.url)
    page.add_init_script(
        "for (const name of ['localStorage', 'sessionStorage']) Object.defineProperty(window, name,"
        "{ get() { throw new DOMException('refused', 'SecurityError'); } });"
        "IDBFactory.prototype.open = () => { throw new DOMException('refused', 'SecurityError'); };"
    )
    page.reload()
    expect(page.get_by_role("alert").first).to_contain_text("storage can't be used")
    page.get_by_label("Temperature").fill("0")
    expect(say(page, "hello").locator(".answer-text")).to_have_text("hello")
    for panel in ("complete", "image"):
        go_to(page, panel)
    go_to(page, "complete")
    page.get_by_label("Prompt", exact=True).fill("abc\n")
    page.get_by_role("button", name="Complete").click()
    expect(page.locator(".figures")).to_contain_text("tokens")
    page.goto(server.url + "/docs")
    expect(page.get_by_role("heading", name="API", exact=True)).to_be_visible()


def test_what_was_kept_and_can_not_be_read_counts_as_nothing(page: Page) -> None:
    damaged = {"params": "5", "system": "[]", "model": "{}", "theme": "no JSON"}
    page.evaluate(
        "kept => Object.entries(kept).forEach(([n, v]) => localStorage[`localinfra.${n}`] = v)",
        damaged,
    )
    page.reload()
    page.get_by_label("Temperature").fill("0")
    expect(say(page, "hello").locator(".prose")).to_have_text("hello")


def test_an_answer_that_breaks_off_says_so(page: Page) -> None:
    page.evaluate(
        """window.fetch = async () => new Response(new ReadableStream({
          pull: (stream) => stream.error(new TypeError("network error")) }))"""
    )
    expect(say(page, "hello").get_by_role("alert")).to_contain_text(
        "connection to the server broke"
    )
