"""Pictures that a person shows to a model that sees: attached, sent, kept, carried elsewhere."""

import base64
import io
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from echo import ECHO, EchoServer
from picture_files import file, plain
from PIL import Image
from playwright.sync_api import FilePayload, Locator, Page, expect
from talking import CATALOGUE, Open, begin, choose, finish, say, text_of
from waiting import wait_for

pytestmark = pytest.mark.browser

SEEING = f"""{CATALOGUE}
[model."seer"]
kind = "text"
source = "seer.gguf"
mmproj = "echo.gguf"
context_length = 16384
sequences = 8
"""
KEEPS = "[server]\nkeep_chats = true\n"
SMALL = file(plain(10, 10))  # one row, which is an asterisk in an echo
HOSTILE = '"><img src=x onerror=hacked=1>\u202egnp.png'


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    server = EchoServer(tmp_path_factory.mktemp("seeing"), SEEING)
    yield server
    server.close()


def opened(open_page: Open, server: EchoServer, model: str = "seer", **options: Any) -> Page:
    page = open_page(server.url, **options)
    page.get_by_label("Temperature").fill("0")
    choose(page, model)
    return page


@pytest.fixture
def page(open_page: Open, seeing: EchoServer) -> Page:
    """The chat with a model that sees."""
    return opened(open_page, seeing)


def named(name: str, data: bytes = SMALL, kind: str = "image/png") -> FilePayload:
    return {"name": name, "mimeType": kind, "buffer": data}


def attach(page: Page, *files: FilePayload) -> None:
    with page.expect_file_chooser() as chooser:
        page.get_by_label("Add ").click()
    chooser.value.set_files(files)


HAND_OVER = """(element, [kind, files, texts]) => {
  const data = new DataTransfer();
  for (const [name, type, base64] of files) {
    const bytes = Uint8Array.from(atob(base64), (sign) => sign.charCodeAt(0));
    data.items.add(new File([bytes], name, { type }));
  }
  for (const type of texts) data.setData(type, "the text");
  const rest = { bubbles: true, cancelable: true };
  const event = kind === "paste"
    ? new ClipboardEvent(kind, { clipboardData: data, ...rest })
    : new DragEvent(kind, { dataTransfer: data, ...rest });
  return element.dispatchEvent(event);
}"""


def hand_over(
    element: Locator, kind: str, *files: FilePayload, texts: tuple[str, ...] = ()
) -> bool:
    """Pastes or drops. Returns whether the browser would do what it does without the page."""
    given = [
        (each["name"], each["mimeType"], base64.b64encode(each["buffer"]).decode())
        for each in files
    ]
    return bool(element.evaluate(HAND_OVER, [kind, given, texts]))


def waiting(page: Page) -> Locator:
    """Pictures that will be sent."""
    return page.locator(".composer .tray li")


def shown(page: Page) -> Locator:
    return page.locator(".turn.user .thumbnail img")


def sent(page: Page, text: str) -> dict[str, Any]:
    """The request for an answer to a message."""
    with page.expect_request("**/v1/chat/completions") as request:
        begin(page, text)
    finish(page)
    body: dict[str, Any] = request.value.post_data_json
    return body


def decoded(url: str) -> tuple[Image.Image, bytes]:
    data = base64.b64decode(url.partition(",")[2])
    return Image.open(io.BytesIO(data)), data


def urls(body: dict[str, Any], turn: int = 0) -> list[str]:
    parts = body["messages"][turn]["content"]
    return [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]


def noise(width: int, height: int) -> Image.Image:
    """What PNG can't make small."""
    return Image.frombytes("RGB", (width, height), random.Random(1).randbytes(width * height * 3))


def test_pictures_go_before_the_text_as_they_are(page: Page) -> None:
    expect(page.get_by_label("Add pictures or text files")).to_be_visible()
    photo = file(plain(20, 20), "JPEG")
    attach(page, named("a.png"), named("b.jpg", photo, "image/jpeg"))
    expect(waiting(page)).to_have_text(["a.png", "b.jpg"])
    body = sent(page, "what?")
    first, second = (f"data:image/{kind};base64," for kind in ("png", "jpeg"))
    assert body["messages"] == [
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": url}}
                for url in (
                    first + base64.b64encode(SMALL).decode(),
                    second + base64.b64encode(photo).decode(),
                )
            ]
            + [{"type": "text", "text": "what?"}],
        }
    ]
    expect(text_of(page.locator(".answer"))).to_contain_text("what?")
    expect(waiting(page)).to_have_count(0)
    expect(shown(page)).to_have_count(2)
    assert [image.get_attribute("alt") for image in shown(page).all()] == [
        "Picture a.png",
        "Picture b.jpg",
    ]
    page.get_by_role("button", name="Picture a.png").click()
    dialog = page.get_by_role("dialog", name="a.png")
    expect(dialog.get_by_alt_text("Picture a.png")).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)


def test_pictures_are_pasted_and_dropped_beside_texts(page: Page) -> None:
    area = page.get_by_label("Message", exact=True)
    assert not hand_over(area, "paste", named("pasted.png"))
    expect(waiting(page)).to_have_text(["pasted.png"])
    note = named("notes.txt", b"some text", "text/plain")
    assert not hand_over(page.locator(".welcome"), "drop", named("dropped.png"), note)
    expect(waiting(page)).to_have_text(["pasted.png", "dropped.png"])
    expect(area).to_have_value("\n\nnotes.txt:\n```txt\nsome text\n```\n")
    office = named("cells.png")  # spreadsheets offer a picture of what is copied
    assert hand_over(area, "paste", office, texts=("text/plain", "text/html"))
    assert hand_over(area, "paste", texts=("text/plain",))
    expect(waiting(page)).to_have_count(2)


def test_a_picture_alone_is_a_message_and_one_that_was_removed_is_not_sent(page: Page) -> None:
    attach(page, named("a.png"), named("b.png"), named("c.png"))
    page.get_by_label("Remove b.png").press("Enter")
    expect(waiting(page)).to_have_text(["a.png", "c.png"])
    expect(page.get_by_label("Remove c.png")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Remove a.png")).to_be_focused()
    expect(page.locator("#announcer")).to_have_text("c.png was removed.")
    assert len(urls(sent(page, ""))) == 1
    expect(text_of(page.locator(".answer"))).to_have_text("[*]")
    expect(page.locator(".turn.user .said")).to_be_hidden()
    expect(page.locator(".conversation-title")).to_have_text("a.png")
    attach(page, named("d.png"))
    page.get_by_label("Remove d.png").click()
    expect(page.get_by_label("Message", exact=True)).to_be_focused()
    expect(page.get_by_label("Send", exact=True)).to_be_disabled()


def test_a_large_picture_is_made_smaller_before_it_is_sent(page: Page) -> None:
    drawing = Image.new("RGBA", (2000, 40), (0, 0, 0, 0))
    attach(
        page,
        named("photo.png", file(noise(3136, 300))),
        named("drawing.png", file(drawing)),
        named("scan.bmp", file(plain(30, 20), "BMP"), "image/bmp"),
    )
    expect(waiting(page)).to_have_count(3)
    found = [decoded(url) for url in urls(sent(page, "?"))]
    assert [(image.format, image.size) for image, _ in found] == [
        ("JPEG", (1568, 150)),
        ("PNG", (1568, 31)),
        ("JPEG", (30, 20)),
    ]
    assert len(found[0][1]) < 1_000_000
    assert found[1][0].convert("RGBA").getpixel((5, 5)) == (255, 255, 255, 255)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (named("broken.png", b"\x89PNG\0\0"), "broken.png can't be read as a picture"),
        (named("scan.tiff", b"II*\0", "image/tiff"), "PNG, JPEG, WebP or GIF"),
        (named("line.png", file(plain(1005, 5))), "line.png is too narrow"),
        (named("huge.png", bytes((32 << 20) + 1)), "huge.png has 33.6 MB"),
    ],
)
def test_what_can_not_be_shown_is_named(page: Page, given: FilePayload, words: str) -> None:
    attach(page, given, named("good.png"))
    expect(page.get_by_role("alert")).to_contain_text(words)
    expect(waiting(page)).to_have_text(["good.png"])


def test_a_model_that_does_not_see_gets_no_pictures_and_nothing_is_lost(
    open_page: Open, seeing: EchoServer
) -> None:
    page = opened(open_page, seeing, ECHO)
    expect(page.get_by_label("Add text files")).to_be_visible()
    attach(page, named("a.png"))
    hint = page.locator(".composer .hint")
    expect(hint).to_have_text(f"{ECHO} takes text only: choose a model that sees: seer.")
    begin(page, "what?")
    expect(page.get_by_role("alert")).to_contain_text("choose a model that sees: seer")
    expect(page.locator(".turn")).to_have_count(0)
    expect(page.get_by_label("Message", exact=True)).to_have_value("what?")
    choose(page, "seer")
    expect(hint).to_be_hidden()
    assert len(urls(sent(page, "what?"))) == 1


def test_without_any_model_that_sees_a_picture_is_refused(
    open_page: Open, server: EchoServer
) -> None:
    page = open_page(server.url)
    attach(page, named("a.png"))
    expect(page.get_by_role("alert")).to_contain_text("no model here sees pictures")
    expect(waiting(page)).to_have_count(0)


def test_of_two_models_one_may_see(open_page: Open, seeing: EchoServer) -> None:
    page = opened(open_page, seeing, ECHO, refusals=True)
    page.get_by_label("Compare with a second model").click()
    choose(page, "seer", "Second model")
    expect(page.get_by_label("Add pictures or text files")).to_be_visible()
    attach(page, named("a.png"))
    expect(page.locator(".composer .hint")).to_have_text(
        f"{ECHO} takes text only, and will not see this."
    )
    begin(page, "both")
    finish(page)
    answers = page.locator(".answer")
    expect(answers.nth(0).get_by_role("alert")).to_contain_text("can't see the picture")
    expect(text_of(answers.nth(1))).to_have_text("[*]both")


def test_pictures_stay_through_edits_and_versions_until_they_are_removed(page: Page) -> None:
    attach(page, named("a.png"), named("b.png"))
    say(page, "first")
    with page.expect_request("**/v1/chat/completions") as request:
        page.locator(".answer").get_by_label("Ask again").click()
    finish(page)
    assert len(urls(request.value.post_data_json)) == 2
    page.get_by_label("Edit and ask again").click()
    editor = page.locator(".editor")
    editor.get_by_label("Remove b.png").click()
    editor.get_by_role("button", name="Cancel").click()
    expect(shown(page)).to_have_count(2)
    page.get_by_label("Edit and ask again").click()
    editor.get_by_label("Remove b.png").click()
    editor.get_by_role("button", name="Ask again").click()
    finish(page)
    expect(text_of(page.locator(".answer"))).to_have_text("[*]first")
    expect(shown(page)).to_have_count(1)
    page.get_by_label("Previous version").first.click()
    expect(shown(page)).to_have_count(2)
    page.get_by_label("Answers").fill("2")
    begin(page, "more")
    finish(page)
    expect(page.locator(".turn").last.locator(".answer-text")).to_have_text(["more", "more"])


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
    assert urls(sent(other, "more")) == [
        f"data:image/png;base64,{base64.b64encode(SMALL).decode()}"
    ]


def test_the_request_as_code_leaves_the_picture_to_be_filled_in(page: Page) -> None:
    attach(page, named("a.png", file(noise(40, 40))))
    say(page, "what?").get_by_label("The request as code").click()
    code = page.locator("dialog code")
    for name in ("curl", "Python", "JavaScript"):
        page.get_by_role("button", name=name, exact=True).click()
        for words in ('"image_url"', "data:image/png;base64,<PUT THE BASE64 OF FILE 1 HERE>"):
            expect(code).to_contain_text(words)
        assert len(code.inner_text()) < 2000


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
    assert list(data["pictures"].values()) == [
        f"data:image/png;base64,{base64.b64encode(SMALL).decode()}"
    ]
    assert page.evaluate(IN_BROWSER) == ["[]", []]
    page.close()
    keeps.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_axe_finds_nothing_and_no_picture_is_wider_than_its_screen(
    open_page: Open, seeing: EchoServer, scheme: str, width: int, screenshots: Path | None
) -> None:
    page = opened_small(open_page, seeing, scheme, width)
    wide = Image.linear_gradient("L").resize((300, 100)).convert("RGB")
    files = [named("a long name of a photograph of a lighthouse.png", file(wide)), named("b.png")]
    attach(page, *files)
    expect(waiting(page)).to_have_count(2)
    say(page, "What do you see?")
    if screenshots:
        page.screenshot(path=screenshots / f"pictures-said-{scheme}-{width}.png")
    attach(page, *files, named("c.png"))
    expect(waiting(page)).to_have_count(3)
    page.get_by_label("Message", exact=True).fill("And here?")
    page.get_by_label("Edit and ask again").click()
    expect(page.locator(".editor .thumbnail")).to_have_count(2)
    for picture in (None, page.locator(".composer .thumbnail").first):
        if picture:
            picture.click()
        found = Axe().run(page).response["violations"]
        assert [
            f"{fault['id']}: {node['html'][:150]}" for fault in found for node in fault["nodes"]
            if fault["impact"] in ("serious", "critical")
        ] == []  # fmt: skip
        room = page.evaluate(
            "['html', '.chat', '.composer', '.thread-scroll'].map((each) => {"
            "  const { scrollWidth, clientWidth } = document.querySelector(each);"
            "  return scrollWidth - clientWidth; })"
        )
        assert max(room) <= 0, room
        if screenshots:
            state = "enlarged" if picture else "thread"
            page.screenshot(path=screenshots / f"pictures-{state}-{scheme}-{width}.png")


def opened_small(open_page: Open, server: EchoServer, scheme: str, width: int) -> Page:
    size = {"width": width, "height": 740}
    page = open_page(server.url, color_scheme=scheme, viewport=size)
    choose(page, "seer")
    page.evaluate("localStorage['localinfra.params'] = JSON.stringify({ temperature: 0 })")
    page.reload()
    page.locator("#stage > section").wait_for()
    return page
