"""Pictures in conversations that are kept, carried elsewhere, or come from there."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attaching import (
    SEEING,
    SMALL,
    SMALL_URL,
    attach,
    named,
    noise,
    opened,
    sent,
    shown,
    urls,
    waiting,
)
from echo import EchoServer
from picture_files import file
from playwright.sync_api import Page, expect
from talking import Open, begin, finish, say, text_of
from waiting import wait_for

pytestmark = pytest.mark.browser

KEEPS = "[server]\nkeep_chats = true\n"
HOSTILE = '"><img src=x onerror=hacked=1>\u202egnp.png'


@pytest.fixture
def page(open_page: Open, seeing: EchoServer) -> Page:
    """The chat with a model that sees."""
    return opened(open_page, seeing)


# Sizes of what the browser keeps: of conversations as texts, and of pictures' data URLs.
IN_BROWSER = """async () => {
  const all = (name, store) => new Promise((resolve) => {
    indexedDB.open(name).onsuccess = ({ target: { result: db } }) => {
      db.transaction(store).objectStore(store).getAll().onsuccess = (event) => {
        db.close();
        resolve(event.target.result);
      };
    };
  });
  const conversations = await all("localinfra", "conversations");
  const pictures = await all("localinfra-attached", "attached");
  return [JSON.stringify(conversations), pictures.map((picture) => picture.url)];
}"""


def test_the_browser_keeps_each_picture_once_and_apart(page: Page) -> None:
    attach(page, named("a.png"))
    say(page, "An albatross.")
    page.get_by_label("Edit and ask again").click()
    page.get_by_label("Edit the message").fill("A gull.")
    page.locator(".editor").get_by_role("button", name="Ask again").click()
    expect(text_of(page.locator(".answer"))).to_have_text("[*]A gull.")
    finish(page)
    wait_for(lambda: "[*]A gull." in page.evaluate(IN_BROWSER)[0])
    conversations, pictures = page.evaluate(IN_BROWSER)
    assert "base64" not in conversations and len(pictures) == 1
    page.reload()
    page.get_by_label("Search conversations").fill("gull")
    page.locator(".conversation").click()
    expect(shown(page)).to_have_count(1)
    assert shown(page).evaluate("image => image.decode().then(() => image.naturalWidth)") == 10
    page.get_by_label("Temperature").fill("0")
    body = sent(page, "and now?")
    assert urls(body) == pictures
    page.get_by_label("More on").click()
    page.get_by_role("button", name="Delete…").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.locator(".conversation")).to_have_count(0)
    wait_for(lambda: page.evaluate(IN_BROWSER) == ["[]", []])


def carry(page: Page, other: Page, folder: Path, button: str) -> str:
    """Exports here, and imports there."""
    page.get_by_label("Import and export").click()
    with page.expect_download() as download:
        page.get_by_role("button", name=button).click()
    download.value.save_as(folder / "carried.json")
    bring_in(other, folder / "carried.json")
    return (folder / "carried.json").read_text()


def bring_in(page: Page, path: Path) -> None:
    page.get_by_label("Import and export").click()
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Import…").click()
    chooser.value.set_files(path)


@pytest.mark.parametrize("button", ["Export all", "This one as messages"])
def test_pictures_are_carried_to_another_browser(
    page: Page, open_page: Open, seeing: EchoServer, tmp_path: Path, button: str
) -> None:
    attach(page, named("a.png"))
    say(page, "what?")
    other = opened(open_page, seeing)
    text = carry(page, other, tmp_path, button)
    assert base64.b64encode(SMALL).decode() in text
    other.locator(".conversation").click()
    expect(shown(other)).to_have_count(1)
    assert urls(sent(other, "more")) == [SMALL_URL]


def test_a_hostile_name_or_picture_of_a_file_stays_text(page: Page, tmp_path: Path) -> None:
    attach(page, named(HOSTILE))
    expect(waiting(page).locator(".file-name")).to_contain_text("⟨U+202E⟩gnp.png")
    say(page, "what?")
    shown(page).click()
    expect(page.get_by_role("dialog").locator("h2")).to_contain_text('"><img src=x')
    page.keyboard.press("Escape")
    wrong = {
        "a": "data:image/svg+xml;base64,PHN2Zy8+",
        "b": "https://example.org/track.png",
        "c": "data:image/png;base64,x onerror=hacked=1",
        "__proto__": "data:image/png;base64,eA==",
        "d": 7,
        "broken": "data:image/png;base64,eA==",
    }
    pictures = [{"id": key, "name": HOSTILE} for key in [*wrong, "absent", "constructor"]]
    turn = {"id": "a", "parent": None, "role": "user", "content": "Who?", "pictures": pictures}
    given = {"id": "1", "title": "hostile", "turns": [turn], "pictures": wrong}
    text = json.dumps({"format": "localinfra-conversations", "conversations": [given]})
    (tmp_path / "hostile.json").write_text(text)
    bring_in(page, tmp_path / "hostile.json")
    page.locator(".conversation", has_text="hostile").click()
    expect(page.locator(".turn.user .said")).to_have_text("Who?")
    for image in shown(page).all():
        assert image.get_attribute("src") == "data:image/png;base64,eA=="
        assert image.get_attribute("alt") == f"Picture {HOSTILE}".replace("\u202e", "⟨U+202E⟩")
    assert page.evaluate("window.hacked === undefined")
    assert page.locator("[onerror]").count() == 0


@pytest.fixture
def keeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EchoServer]:
    """A server that keeps conversations."""
    monkeypatch.setenv("LOCALINFRA_DATA", str(tmp_path / "data"))
    server = EchoServer(tmp_path, KEEPS + SEEING)
    yield server
    server.close()


def kept(server: EchoServer) -> list[Any]:
    heads = server.client.get("/v1/chats").json()["data"]
    return [server.client.get(f"/v1/chats/{head['id']}").json()["data"] for head in heads]


def test_the_server_keeps_pictures_for_every_browser_and_says_how_many(
    open_page: Open, keeper: EchoServer
) -> None:
    page = opened(open_page, keeper)
    attach(page, named("a.png"))
    say(page, "what?")
    wait_for(lambda: "[*]what?" in json.dumps(kept(keeper)))
    (data,) = kept(keeper)
    (turn, _) = data["turns"]
    (picture,) = turn["pictures"]
    assert picture["name"] == "a.png" and set(data["pictures"]) == {picture["id"]}
    other = opened(open_page, keeper)
    other.locator(".conversation").click()
    expect(shown(other)).to_have_count(1)
    # A page's own limit is met before the server's: what would not be kept is not sent.
    big = file(noise(360, 360), "JPEG", quality=100)
    assert 200_000 < len(big) < 400_000
    number = 6 * 2**20 * 3 // 4 // len(big) + 1
    attach(other, *[named(f"{at}.jpg", big, "image/jpeg") for at in range(number)])
    expect(waiting(other)).to_have_count(number)
    begin(other, "too many")
    expect(other.get_by_role("alert")).to_contain_text("can be kept in one: remove some")
    expect(waiting(other)).to_have_count(number)
    expect(other.locator(".turn")).to_have_count(2)


def test_pictures_move_from_the_browser_to_the_server(
    open_page: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCALINFRA_DATA", str(tmp_path / "data"))
    keeps = EchoServer(tmp_path, KEEPS + SEEING)
    page = opened(open_page, keeps)
    page.route("**/v1/chats?*", lambda route: route.fulfill(json={"kept": False, "data": []}))
    page.reload()
    page.get_by_label("Temperature").fill("0")
    attach(page, named("a.png"))
    say(page, "what?")
    wait_for(lambda: "[*]what?" in page.evaluate(IN_BROWSER)[0])
    page.unroute_all()
    page.reload()
    page.get_by_role("button", name="Move to the server").click()
    expect(page.get_by_text("One conversation moved to the server.")).to_be_visible()
    (data,) = kept(keeps)
    assert list(data["pictures"].values()) == [SMALL_URL]
    assert page.evaluate(IN_BROWSER) == ["[]", []]
    page.close()
    keeps.close()


def test_what_the_browser_refuses_to_keep_is_said(page: Page) -> None:
    page.evaluate(
        """() => {
          const put = IDBObjectStore.prototype.put;
          IDBObjectStore.prototype.put = function (value) {
            if (this.name === "attached") throw new DOMException("full", "QuotaExceededError");
            return put.call(this, value);
          };
        }"""
    )
    attach(page, named("a.png"))
    expect(text_of(say(page, "what?"))).to_have_text("[*]what?")
    expect(page.get_by_role("alert")).to_contain_text("browser's storage is full")
