"""Conversations of the chat: kept by the browser, found, carried elsewhere, deleted."""

import json
from pathlib import Path

import pytest
from echo import EchoServer
from playwright.sync_api import Page, expect
from talking import Open, begin, choose, finish, say, text_of
from waiting import wait_for

pytestmark = pytest.mark.browser

# How many characters of answers the browser's storage has.
KEPT = """() => new Promise((resolve) => {
  indexedDB.open("localinfra").onsuccess = ({ target: { result: db } }) => {
    db.transaction("conversations").objectStore("conversations").getAll().onsuccess = (event) => {
      const turns = event.target.result.flatMap((conversation) => conversation.turns);
      const answers = turns.filter((turn) => turn.role === "assistant");
      resolve(answers.reduce((sum, turn) => sum + turn.content.length, 0));
    };
  };
})"""

GONE = {"model": "gone", "messages": [{"role": "user", "content": "hello"}], "stream": True}


def test_conversations_survive_a_reload_and_are_found_by_their_words(page: Page) -> None:
    say(page, "The albatross sleeps in flight.")
    page.get_by_role("button", name="New chat").click()
    say(page, "Something else.")
    page.reload()
    titles = page.locator(".conversation-title")
    expect(titles).to_have_text(["Something else.", "The albatross sleeps in flight."])
    page.get_by_label("Search conversations").fill("albatross")
    expect(titles).to_have_count(1)
    titles.click()
    expect(text_of(page.locator(".turn.assistant"))).to_have_text("The albatross sleeps in flight.")


def test_an_answer_goes_on_while_another_conversation_is_open(page: Page) -> None:
    choose(page, "slow")
    begin(page, "slowly " * 60)
    expect(page.locator(".answer-text")).to_contain_text("slowly")
    page.get_by_role("button", name="New chat").click()
    expect(page.locator(".turn")).to_have_count(0)
    page.locator(".conversation").click()
    finish(page)
    expect(page.locator(".answer-text")).to_have_text(("slowly " * 60).strip())


def test_a_reloaded_page_reads_on_where_an_answer_runs(page: Page) -> None:
    choose(page, "slow")
    whole = " ".join(map(str, range(300)))  # nothing in it repeats, so no draft makes it quick
    begin(page, whole)
    while not page.evaluate(KEPT):
        page.wait_for_timeout(50)
    page.reload()
    page.locator(".conversation").click()
    answer = page.locator(".turn.assistant")
    expect(text_of(answer)).to_have_text(whole)
    finish(page)
    expect(answer.locator(".figures")).not_to_contain_text("stopped")
    page.reload()  # and it ended once
    page.locator(".conversation").click()
    expect(text_of(answer)).to_have_text(whole)
    finish(page)


def test_an_answer_that_was_read_on_can_be_stopped_and_go_on(
    page: Page, server: EchoServer
) -> None:
    choose(page, "slow")
    whole = " ".join(map(str, range(500)))
    begin(page, whole)
    while not page.evaluate(KEPT):
        page.wait_for_timeout(50)
    page.reload()
    page.locator(".conversation").click()
    answer = page.locator(".turn.assistant")
    expect(answer.locator(".prose")).to_contain_text("0 1 2 3")
    page.keyboard.press("Escape")
    finish(page)
    expect(answer.locator(".figures")).to_contain_text("stopped")
    model = server.runtime.loaded_text_models()["slow"]
    wait_for(lambda: not model.is_busy)
    answer.get_by_label("Go on from here").click()
    finish(page)
    expect(text_of(answer)).to_have_text(whole)


def test_an_answer_whose_connection_broke_is_read_on(open_page: Open, server: EchoServer) -> None:
    page = open_page(server.url, refusals=True)
    page.get_by_label("Temperature").fill("0")
    choose(page, "slow")
    whole = " ".join(map(str, range(300)))
    begin(page, whole)
    answer = page.locator(".turn.assistant")
    expect(answer.locator(".prose")).to_contain_text("0 1 2 3")
    page.context.set_offline(True)  # which breaks no connection
    server.run(break_connections(server))
    expect(answer).to_contain_text("broke off. If the answer goes on")
    page.locator(".conversation").click()
    expect(answer).to_contain_text("can't be reached")
    page.context.set_offline(False)
    page.locator(".conversation").click()
    expect(text_of(answer)).to_have_text(whole)
    finish(page)
    expect(answer).not_to_contain_text("If the answer goes on")


async def break_connections(server: EchoServer) -> None:
    for connection in list(server.server.open._all):
        connection.drop()


def test_a_model_that_went_away_is_named(open_page: Open, server: EchoServer) -> None:
    page = open_page(server.url, refusals=True)
    page.route("**/v1/chat/completions", lambda route: route.continue_(post_data=GONE))
    begin(page, "hello")
    finish(page)
    expect(page.locator(".turn.assistant")).to_contain_text("'gone'")


def test_two_windows_read_one_answer(page: Page) -> None:
    choose(page, "slow")
    whole = " ".join(map(str, range(200)))
    begin(page, whole)
    while not page.evaluate(KEPT):
        page.wait_for_timeout(50)
    other = page.context.new_page()
    other.goto(page.url)
    other.locator(".conversation").click()
    for window in (other, page):
        finish(window)
        expect(text_of(window.locator(".turn.assistant"))).to_have_text(whole)


def test_exported_conversations_come_back_in_another_browser(
    page: Page, open_page: Open, server: EchoServer, tmp_path: Path
) -> None:
    say(page, "Keep this.")
    page.get_by_label("Import and export").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Export all").click()
    download.value.save_as(tmp_path / "all.json")
    other = open_page(server.url)
    other.get_by_label("Import and export").click()
    with other.expect_file_chooser() as chooser:
        other.get_by_role("button", name="Import…").click()
    chooser.value.set_files(tmp_path / "all.json")
    other.locator(".conversation").click()
    expect(other.locator(".turn.user .said")).to_have_text("Keep this.")


def bring_in(page: Page, file: Path, text: str) -> None:
    """Imports a file with this text."""
    file.write_text(text)
    page.get_by_label("Import and export").click()
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Import…").click()
    chooser.value.set_files(file)


ASKED = {"id": "a", "parent": None, "role": "user", "content": "Who?"}
SAID = {"id": "b", "parent": "a", "role": "assistant", "content": "I."}


def conversation(*turns: object, **others: object) -> str:
    given = {"id": "1", "turns": turns, **others}
    return json.dumps({"format": "localinfra-conversations", "conversations": [given]})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "no JSON"),
        ("null", "neither conversations"),
        ('[{"role": "user", "content": "x"}, null]', "neither conversations"),
        ('{"format": "localinfra-conversations"}', "no list of conversations"),
        ('{"format": "localinfra-conversations", "conversations": [null]}', "no id or no turns"),
        (conversation({}), "can't be read"),
        (conversation({**ASKED, "content": 1}), "can't be read"),
        (conversation({**ASKED, "parent": "a"}), "can't be read"),  # follows itself
        (conversation({**ASKED, "parent": "b"}, SAID), "can't be read"),  # in a circle
        (conversation(ASKED, {**SAID, "id": "a"}), "can't be read"),
    ],
)
def test_a_wrong_file_is_refused_in_words(
    page: Page, tmp_path: Path, text: str, words: str
) -> None:
    bring_in(page, tmp_path / "wrong.json", text)
    expect(page.get_by_role("alert")).to_contain_text(words)
    expect(page.locator(".conversation")).to_have_count(0)


def test_what_is_odd_in_a_file_does_no_harm(page: Page, tmp_path: Path) -> None:
    odd = {"model": {}, "error": [], "stats": {"speed": "fast"}, "calls": [{}], "scores": [1]}
    picked = {"": "b", "a": "a", "b": "b"}
    bring_in(page, tmp_path / "odd.json", conversation(ASKED, {**SAID, **odd}, picked=picked))
    page.locator(".conversation").click()
    expect(page.locator(".turn.user .said")).to_have_text("Who?")
    expect(text_of(page.locator(".turn.assistant"))).to_have_text("I.")
    answer = say(page, "And now?")
    expect(text_of(answer)).to_have_text("And now?")


def test_messages_in_openais_form_become_a_conversation(page: Page, tmp_path: Path) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Who?"}, 7, {"type": "image_url"}]},
        {"role": "assistant", "content": "I."},
    ]
    bring_in(page, tmp_path / "messages.json", json.dumps({"messages": messages}))
    page.locator(".conversation", has_text="Who?").click()
    expect(page.get_by_label("System prompt")).to_have_value("Be brief.")
    expect(page.locator(".turn.user .said")).to_have_text("Who?")
    expect(text_of(page.locator(".turn.assistant"))).to_have_text("I.")


def test_deleting_a_conversation_asks_first(page: Page) -> None:
    say(page, "Not for long.")
    page.locator(".conversations li").hover()
    page.get_by_label("More on Not for long.").click()
    page.get_by_role("button", name="Delete…").click()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".conversation")).to_have_count(1)
    page.get_by_label("More on Not for long.").click()
    page.get_by_role("button", name="Delete…").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.locator(".conversation")).to_have_count(0)
    expect(page.locator(".turn")).to_have_count(0)


def test_a_conversation_that_is_deleted_while_it_runs_stays_deleted(page: Page) -> None:
    choose(page, "slow")
    begin(page, "unwanted " * 500)
    expect(page.locator(".answer-text")).to_contain_text("unwanted")
    page.get_by_label("More on unwanted").click()
    page.get_by_role("button", name="Delete…").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.locator(".conversation")).to_have_count(0)
    expect(page.locator(".turn")).to_have_count(0)
    say(page, "later")
    page.reload()
    expect(page.locator(".conversation-title")).to_have_text(["later"])
