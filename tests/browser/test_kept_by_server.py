"""Conversations that the server keeps: the same in every browser, and safe from a second window."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from echo import EchoServer
from playwright.sync_api import Page, expect
from talking import CATALOGUE, Open, begin, choose, finish, say, text_of
from waiting import wait_for

pytestmark = pytest.mark.browser

KEEPS = "[server]\nkeep_chats = true\n"


@pytest.fixture
def keeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EchoServer]:
    """A server that keeps conversations."""
    monkeypatch.setenv("LOCALINFRA_DATA", str(tmp_path / "data"))
    server = EchoServer(tmp_path, KEEPS + CATALOGUE)
    yield server
    server.close()


def kept(server: EchoServer) -> list[Any]:
    """The page shows a change before the server has it: wait for what should come of one."""
    heads = server.client.get("/v1/chats").json()["data"]
    found = [server.client.get(f"/v1/chats/{head['id']}") for head in heads]
    return [reply.json() for reply in found if reply.status_code == 200]


def texts(chat: Any) -> list[str]:
    return [turn["content"] for turn in chat["data"]["turns"]]


PUT_IN_BROWSER = """(conversations) => new Promise((resolve) => {
  const asked = indexedDB.open("localinfra", 1);
  asked.onupgradeneeded = () => {
    for (const name of ["conversations", "pictures"])
      asked.result.createObjectStore(name, { keyPath: "id" });
  };
  asked.onsuccess = () => {
    const change = asked.result.transaction("conversations", "readwrite");
    for (const one of conversations) change.objectStore("conversations").put(one);
    change.oncomplete = resolve;
  };
})"""
# Answers that are complete, in the browser's storage.
IN_BROWSER = """() => new Promise((resolve) => {
  indexedDB.open("localinfra").onsuccess = ({ target: { result: db } }) => {
    db.transaction("conversations").objectStore("conversations").getAll().onsuccess = (event) => {
      const turns = event.target.result.flatMap((conversation) => conversation.turns);
      resolve(turns.filter((turn) => turn.finish).map((turn) => turn.content));
    };
  };
})"""


def tell(page: Page, server: EchoServer | None, text: str) -> None:
    """Sends a message and waits until its answer is kept, by the server or else the browser."""
    say(page, text)

    def answers() -> list[str]:
        if server is None:
            found: list[str] = page.evaluate(IN_BROWSER)
            return found
        turns = [turn for chat in kept(server) for turn in chat["data"]["turns"]]
        return [turn["content"] for turn in turns if turn.get("finish")]

    wait_for(lambda: text in answers())


def opened(open_page: Open, server: EchoServer) -> Page:
    """Another browser, at temperature 0. It may be told that another window has saved."""
    page = open_page(server.url, refusals=True)
    page.get_by_label("Temperature").fill("0")
    return page


def test_every_browser_has_the_same_conversations(open_page: Open, keeper: EchoServer) -> None:
    page = opened(open_page, keeper)
    expect(page.locator(".kept")).to_have_text("Kept on this server.")
    tell(page, keeper, "The albatross sleeps in flight.")
    other = opened(open_page, keeper)
    other.locator(".conversation").click()
    expect(text_of(other.locator(".turn.assistant"))).to_have_text(
        "The albatross sleeps in flight."
    )
    wait_for(
        lambda: [texts(chat) for chat in kept(keeper)] == [["The albatross sleeps in flight."] * 2]
    )


def test_without_the_setting_they_stay_in_the_browser(page: Page) -> None:
    expect(page.locator(".kept")).to_have_text("Kept in this browser only.")


def test_they_are_found_renamed_and_deleted(open_page: Open, keeper: EchoServer) -> None:
    page = opened(open_page, keeper)
    tell(page, keeper, "The albatross sleeps in flight.")
    page.get_by_role("button", name="New chat").click()
    tell(page, keeper, "Something else.")
    page.get_by_label("Search conversations").fill("ALBATROSS")
    expect(page.locator(".conversation-title")).to_have_text(["The albatross sleeps in flight."])
    page.get_by_label("More on The albatross").click()
    page.get_by_role("button", name="Rename…").click()
    page.get_by_role("textbox", name="Name of the conversation").fill("Birds")
    page.get_by_role("button", name="Rename", exact=True).click()
    expect(page.locator(".conversation-title").first).to_have_text("Birds")
    wait_for(lambda: {chat["title"] for chat in kept(keeper)} == {"Birds", "Something else."})
    page.get_by_label("More on Birds").click()
    page.get_by_role("button", name="Delete…").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.get_by_label("More on Birds")).to_have_count(0)
    wait_for(lambda: [chat["title"] for chat in kept(keeper)] == ["Something else."])
    page.get_by_label("Import and export").click()
    page.get_by_role("button", name="Delete all…").click()
    page.get_by_role("button", name="Delete all", exact=True).click()
    expect(page.locator(".empty-list")).to_contain_text("No conversation")
    wait_for(lambda: kept(keeper) == [])


@pytest.mark.parametrize("keeps", [True, False], ids=["server", "browser"])
def test_two_windows_lose_nothing_of_each_other(
    open_page: Open, keeper: EchoServer, server: EchoServer, keeps: bool
) -> None:
    one = opened(open_page, keeper if keeps else server)
    place = keeper if keeps else None
    tell(one, place, "Begin.")
    two = one.context.new_page()
    two.goto(one.url)
    two.locator(".conversation").click()
    expect(two.locator(".turn")).to_have_count(2)
    tell(one, place, "From the first window.")
    tell(two, place, "From the second window.")
    two.reload()
    two.locator(".conversation").click()
    branches = two.locator(".turn .branches .number")
    expect(branches.first).to_contain_text("/2")
    expect(two.locator(".turn.user .said").last).to_have_text("From the second window.")
    two.get_by_label("Previous version").first.click()
    expect(two.locator(".turn.user .said").last).to_have_text("From the first window.")
    expect(text_of(two.locator(".turn.assistant").last)).to_have_text("From the first window.")


TAKE_IN = """async ([known, ours, theirs]) => {
  const script = document.querySelector("script[type=module]").src;
  const { Tree } = await import(new URL("./chat/tree.js", script));
  const turn = (name) => ({ id: name[0], parent: name[1] ?? null, role: "user", content: name });
  const tree = new Tree(ours.map(turn));
  tree.takeIn({ turns: theirs.map(turn), picked: {} }, new Set(known));
  return [...tree.turns.values()].map((turn) => turn.content);
}"""


def test_branches_of_two_windows_are_put_together(page: Page) -> None:
    """A turn is its id, its parent's, and more text: "cb" is c, which follows b."""
    for known, ours, theirs, both in (
        ("ab", ["a", "ba", "ca"], ["a", "ba", "db"], ["a", "ba", "db", "ca"]),  # new on both sides
        ("ab", ["a", "ba"], ["a"], ["a"]),  # deleted there
        ("ab", ["a"], ["a", "ba"], ["a"]),  # deleted here
        ("ab", ["a", "ba", "cb"], ["a"], ["a", "ba", "cb"]),  # deleted there, gone on from here
        ("ab", ["a"], ["a", "ba", "cb"], ["a", "ba", "cb"]),  # and the other way round
        ("ab", ["a", "ba"], ["a", "ba grown"], ["a", "ba grown"]),
        ("ab", ["a", "ba grown"], ["a", "ba"], ["a", "ba grown"]),
        ("", ["a"], ["b"], ["b", "a"]),
    ):
        assert page.evaluate(TAKE_IN, [list(known), ours, theirs]) == both


def test_a_window_that_is_seen_again_has_what_another_has_said(
    open_page: Open, keeper: EchoServer
) -> None:
    one, two = opened(open_page, keeper), opened(open_page, keeper)
    tell(one, keeper, "Begin.")
    two.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    two.locator(".conversation").click()
    tell(one, keeper, "And more.")
    two.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(two.locator(".turn.user .said")).to_have_text(["Begin.", "And more."])


def test_what_another_window_deleted_goes_on_where_it_is_in_use(
    open_page: Open, keeper: EchoServer
) -> None:
    page = opened(open_page, keeper)
    tell(page, keeper, "Begin.")
    keeper.client.delete("/v1/chats")
    tell(page, keeper, "Go on.")
    wait_for(
        lambda: [texts(chat) for chat in kept(keeper)] == [["Begin.", "Begin.", "Go on.", "Go on."]]
    )


def test_conversations_of_the_browser_move_to_the_server_by_one_click(
    open_page: Open, keeper: EchoServer
) -> None:
    keeper.runtime.settings = type(keeper.runtime.settings)()  # as if it did not keep them yet
    page = opened(open_page, keeper)
    tell(page, None, "First.")
    page.get_by_role("button", name="New chat").click()
    tell(page, None, "Second.")
    keeper.runtime.settings = type(keeper.runtime.settings)(keep_chats=True)
    page.reload()
    expect(page.locator(".conversation")).to_have_count(0)
    expect(page.locator(".kept")).to_contain_text("2 conversations from before")
    page.get_by_role("button", name="Move to the server").click()
    expect(page.locator(".conversation-title")).to_have_text(["Second.", "First."])
    expect(page.get_by_role("button", name="Move to the server")).to_have_count(0)
    wait_for(lambda: [texts(chat) for chat in kept(keeper)] == [["Second."] * 2, ["First."] * 2])
    page.reload()
    expect(page.locator(".conversation")).to_have_count(2)
    expect(page.locator(".kept")).to_have_text("Kept on this server.")


def test_one_that_can_not_move_stays_and_keeps_no_other(
    open_page: Open, keeper: EchoServer
) -> None:
    page = opened(open_page, keeper)
    page.evaluate(PUT_IN_BROWSER, [{"id": "a", "turns": [1]}, {"id": "b", "turns": []}])
    page.reload()
    page.get_by_role("button", name="Move to the server").click()
    expect(page.get_by_role("alert")).to_contain_text("can't be read")
    expect(page.locator(".kept")).to_contain_text("One conversation from before is")
    wait_for(lambda: [chat["id"] for chat in kept(keeper)] == ["b"])


def test_a_server_that_can_not_keep_them_says_why(
    open_page: Open, keeper: EchoServer, tmp_path: Path
) -> None:
    (tmp_path / "data").write_text("no folder")
    page = opened(open_page, keeper)
    expect(page.get_by_role("alert").first).to_contain_text("LOCALINFRA_DATA")
    begin(page, "Lost?")
    finish(page)
    expect(page.get_by_role("alert").last).to_contain_text("LOCALINFRA_DATA")
    expect(text_of(page.locator(".turn.assistant"))).to_have_text("Lost?")


def test_export_and_import_are_the_same_as_in_the_browser(
    open_page: Open, keeper: EchoServer, tmp_path: Path
) -> None:
    page = opened(open_page, keeper)
    tell(page, keeper, "Keep this.")
    page.get_by_label("Import and export").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Export all").click()
    download.value.save_as(tmp_path / "all.json")
    given = json.loads((tmp_path / "all.json").read_text())
    assert given["format"] == "localinfra-conversations"
    before = kept(keeper)
    page.get_by_label("Import and export").click()
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Import…").click()
    chooser.value.set_files(tmp_path / "all.json")
    expect(page.locator(".notice").last).to_contain_text("One conversation came in")
    (after,) = kept(keeper)  # merged with the one that is there
    assert texts(after) == texts(before[0])


def test_many_conversations_come_in_pages(open_page: Open, keeper: EchoServer) -> None:
    for number in range(101):
        body = {"title": f"Chat {number}", "data": {"turns": []}, "updated_at": number}
        assert keeper.client.put(f"/v1/chats/c{number}", json=body).status_code == 200
    page = opened(open_page, keeper)
    expect(page.locator(".conversation")).to_have_count(100)
    page.get_by_role("button", name="Show more").click()
    expect(page.locator(".conversation")).to_have_count(101)
    expect(page.get_by_role("button", name="Show more")).to_have_count(0)


def test_an_odd_conversation_of_another_client_does_no_harm(
    open_page: Open, keeper: EchoServer
) -> None:
    for id, data in (("odd", {"turns": [1]}), ("empty", {}), ("fine", {"turns": [], "picked": 1})):
        keeper.client.put(f"/v1/chats/{id}", json={"title": f"<b>{id}", "data": data})
    page = opened(open_page, keeper)
    for id in ("odd", "empty"):
        page.locator(".conversation", has_text=id).click()
        expect(page.get_by_role("alert").last).to_contain_text("turn")
    page.locator(".conversation", has_text="fine").click()
    expect(page.locator(".current .conversation-title")).to_have_text("<b>fine")


def test_a_running_answer_of_a_background_conversation_is_kept(
    open_page: Open, keeper: EchoServer
) -> None:
    page = opened(open_page, keeper)
    choose(page, "slow")
    begin(page, "slowly " * 40)
    expect(page.locator(".answer-text")).to_contain_text("slowly")
    page.get_by_role("button", name="New chat").click()
    page.locator(".conversation").click()
    finish(page)
    expect(page.locator(".answer-text")).to_have_text(("slowly " * 40).strip())
    wait_for(lambda: kept(keeper)[0]["data"]["turns"][-1].get("finish") == "stop")
    page.reload()
    page.locator(".conversation").click()
    expect(page.locator(".answer-text")).to_have_text(("slowly " * 40).strip())
