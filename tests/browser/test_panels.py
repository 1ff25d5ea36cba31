"""Complete, Models and Server, over models that repeat what they are told."""

import re
from urllib.parse import urlsplit

import pytest
from echo import ECHO, EchoServer
from playwright.sync_api import Page, expect
from talking import OTHER, Open, begin, choose, say

pytestmark = pytest.mark.browser


@pytest.fixture
def complete(open_page: Open, server: EchoServer) -> Page:
    page = open_page(server.url + "/#complete")
    page.get_by_label("Temperature").fill("0")
    return page


def test_a_text_goes_on_with_the_probability_of_each_token(complete: Page) -> None:
    complete.get_by_label("Prompt", exact=True).fill("abc\n")
    complete.get_by_label("Max tokens").fill("3")
    complete.get_by_role("button", name="Complete").click()
    expect(complete.locator(".token")).to_have_text(["a", "b", "c"])
    expect(complete.locator(".figures")).to_contain_text("3 tokens")
    complete.locator(".token").nth(1).hover()
    expect(complete.locator(".alternative.taken code")).to_have_text("b")


def test_the_prompts_own_tokens_are_scored_if_asked(complete: Page) -> None:
    complete.get_by_label("Prompt", exact=True).fill("xy")
    complete.get_by_label("Max tokens").fill("1")
    complete.get_by_label("Of the prompt too").check()
    complete.get_by_role("button", name="Complete").click()
    expect(complete.locator(".token")).to_have_text(["x", "y", "x"])
    complete.locator(".token").first.hover()
    expect(complete.locator(".token-details")).to_contain_text("nothing precedes it")


def test_without_probabilities_the_text_goes_on_as_text(complete: Page) -> None:
    complete.get_by_label("Prompt", exact=True).fill("abc\n")
    complete.get_by_label("Max tokens").fill("3")
    complete.get_by_label("Probabilities").uncheck()
    complete.get_by_role("button", name="Complete").click()
    expect(complete.locator(".output")).to_have_text("abc\nabc")


def test_a_refused_completion_says_why(open_page: Open, server: EchoServer) -> None:
    page = open_page(server.url + "/#complete", refusals=True)
    page.get_by_label("Text after the gap").fill("end")
    page.get_by_role("button", name="Complete").click()
    expect(page.locator(".problem")).to_contain_text("suffix")


def test_models_are_loaded_and_unloaded(open_page: Open, server: EchoServer) -> None:
    page = open_page(server.url + "/#models")
    card = page.get_by_role("article", name=OTHER)
    if card.get_by_role("button", name="Unload").is_visible():
        card.get_by_role("button", name="Unload").click()
    card.get_by_role("button", name="Load", exact=True).click()
    expect(card.locator(".badge")).to_have_text("in memory")
    assert OTHER in server.runtime.loaded()
    card.get_by_role("button", name="Unload").click()
    expect(card.locator(".badge")).to_have_text("on disk")
    assert OTHER not in server.runtime.loaded()


def test_an_absent_model_can_be_fetched_and_a_failure_says_why(
    open_page: Open, server: EchoServer
) -> None:
    page = open_page(server.url + "/#models", refusals=True)
    card = page.get_by_role("article", name="absent")
    expect(card.locator(".badge")).to_have_text("not fetched")
    page.get_by_label("Model to fetch").fill("no such thing")
    page.get_by_role("button", name="Fetch", exact=True).first.click()
    line = page.get_by_role("group", name="Fetching no such thing")
    expect(line.locator(".problem")).not_to_be_empty()
    line.get_by_label("Dismiss").click()
    expect(line).to_have_count(0)


def test_deleting_a_model_asks_first(open_page: Open, server: EchoServer) -> None:
    page = open_page(server.url + "/#models", refusals=True)
    page.get_by_label(f"Delete the files of {OTHER}").click()
    expect(page.get_by_role("dialog")).to_contain_text("Fetching them again")
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("article", name=OTHER)).to_be_visible()


def test_a_running_request_is_shown_and_can_be_cancelled(page: Page) -> None:
    choose(page, "slow")
    begin(page, "word " * 2000)
    expect(page.locator(".answer-text")).to_contain_text("word word")
    page.keyboard.press("Alt+6")
    page.get_by_role("row", name="slow").get_by_role("button", name="Cancel").click()
    expect(page.locator("#stage")).to_contain_text("No request is running.")
    page.keyboard.press("Alt+1")
    expect(page.get_by_role("alert")).to_contain_text("cancelled on the server")


def test_without_a_key_other_machines_are_told_why_they_see_no_requests(
    open_page: Open, server: EchoServer
) -> None:
    proxied = {"x-forwarded-for": "192.0.2.1"}
    page = open_page(server.url + "/#server", refusals=True, extra_http_headers=proxied)
    expect(page.locator("#stage")).to_contain_text(
        "Without an API key, models and running requests"
    )
    asked: list[str] = []
    page.on("request", lambda request: asked.append(urlsplit(request.url).path))
    while asked.count("/metrics") < 3:
        page.wait_for_timeout(50)
    assert "/v1/requests" not in asked


def test_the_server_shows_what_it_does(page: Page) -> None:
    page.keyboard.press("Alt+6")
    expect(page.get_by_role("img", name="Running")).to_be_visible()
    page.keyboard.press("Alt+1")
    say(page, "a few words, to be counted")
    page.keyboard.press("Alt+6")
    row = page.get_by_role("row", name=ECHO).last
    expect(row).to_contain_text("$")
    expect(page.get_by_role("row", name="/v1/chat/completions")).to_be_visible()
    expect(page.get_by_role("img", name="Generated: now")).to_be_visible()


def test_charts_show_steps_with_units_and_say_in_words_what_they_draw(page: Page) -> None:
    page.keyboard.press("Alt+6")
    expect(page.get_by_role("img", name="Running: now")).to_be_visible()
    page.keyboard.press("Alt+1")
    choose(page, "slow")
    begin(page, "word " * 2000)
    page.keyboard.press("Alt+6")
    for title, unit in (("Step time", "ms"), ("Batch size", "tokens")):
        told = (
            rf"^{title}: now [\d.,]+ {unit}, lowest [\d.,]+ {unit}, highest [\d.,]+ {unit} in 5 m"
        )
        expect(page.get_by_role("img", name=re.compile(told))).to_be_visible()
        card = page.get_by_role("article").filter(has_text=title)
        expect(card.locator(".chart-value")).to_have_text(re.compile(rf"^[\d.,]+ {unit}$"))
        expect(card.locator(".line")).to_have_attribute("d", re.compile(r"^M.*L"))
    page.get_by_role("row", name="slow").get_by_role("button", name="Cancel").click()
    expect(page.locator("#stage")).to_contain_text("No request is running.")


def test_what_is_open_on_a_models_card_stays_open(open_page: Open, server: EchoServer) -> None:
    page = open_page(server.url + "/#models")
    card = page.get_by_role("article", name="absent")
    card.get_by_text("By hand").click()
    asked: list[str] = []
    page.on("response", lambda reply: asked.append(urlsplit(reply.url).path))
    while asked.count("/v1/models") < 3:
        page.wait_for_timeout(50)
    expect(card.locator("details")).to_have_attribute("open", "")


def test_more_texts_than_a_picture_shows_are_refused(open_page: Open, server: EchoServer) -> None:
    page = open_page(server.url + "/#embed")
    page.get_by_label("Texts, one a line").fill("\n".join(map(str, range(101))))
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_role("alert")).to_contain_text("These are 101 texts")
