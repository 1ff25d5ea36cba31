"""Pictures that a person shows to a model that sees: attached, sent, edited, refused."""

import base64
from pathlib import Path

import pytest
from attaching import (
    SMALL,
    attach,
    decoded,
    hand_over,
    named,
    noise,
    opened,
    sent,
    shown,
    urls,
    waiting,
)
from axe_playwright_python.sync_playwright import Axe
from echo import ECHO, EchoServer
from picture_files import file, plain
from PIL import Image
from playwright.sync_api import FilePayload, Page, expect
from talking import Open, begin, choose, finish, say, text_of

pytestmark = pytest.mark.browser


@pytest.fixture
def page(open_page: Open, seeing: EchoServer) -> Page:
    """The chat with a model that sees."""
    return opened(open_page, seeing)


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


def test_the_request_as_code_leaves_the_picture_to_be_filled_in(page: Page) -> None:
    attach(page, named("a.png", file(noise(40, 40))))
    say(page, "what?").get_by_label("The request as code").click()
    code = page.locator("dialog code")
    for name in ("curl", "Python", "JavaScript"):
        page.get_by_role("button", name=name, exact=True).click()
        for words in ('"image_url"', "data:image/png;base64,<PUT THE BASE64 OF FILE 1 HERE>"):
            expect(code).to_contain_text(words)
        assert len(code.inner_text()) < 2000


def test_a_message_waits_for_its_pictures(page: Page) -> None:
    """They are read when Enter is pressed, and go with it; not if one can't be read."""
    hold = """() => {
      const read = window.createImageBitmap;
      let release;
      const held = new Promise((resolve) => (release = resolve));
      window.release = release;
      window.createImageBitmap = async (file) => (await held, read(file));
    }"""
    page.evaluate(hold)
    attach(page, named("a.png"))
    begin(page, "what?")
    expect(page.locator(".turn")).to_have_count(0)
    with page.expect_request("**/v1/chat/completions") as request:
        page.evaluate("window.release()")
    assert len(urls(request.value.post_data_json)) == 1
    finish(page)
    page.evaluate(hold)
    attach(page, named("broken.png", b"broken"))
    begin(page, "and this?")
    page.evaluate("window.release()")
    expect(page.get_by_role("alert")).to_contain_text("broken.png can't be read")
    expect(page.get_by_label("Message", exact=True)).to_have_value("and this?")
    expect(page.locator(".turn")).to_have_count(2)


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
