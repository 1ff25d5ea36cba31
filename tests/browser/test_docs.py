"""The page at /docs: its requests are sent, and streams are shown as they come."""

import pytest
from echo import EchoServer
from playwright.sync_api import Locator, expect
from talking import Open

pytestmark = pytest.mark.browser


def panel(open_page: Open, server: EchoServer, operation: str) -> Locator:
    page = open_page(f"{server.url}/docs#{operation}", is_shown=False)
    found = page.locator(f"#{operation}")
    expect(found.locator("code").last).to_contain_text("curl")
    return found


@pytest.mark.parametrize(
    ("operation", "ending"),
    [("create_chat_completion", "[DONE]"), ("create_ollama_chat", '"done":true')],
)
def test_a_stream_is_shown_event_by_event(
    open_page: Open, server: EchoServer, operation: str, ending: str
) -> None:
    found = panel(open_page, server, operation)
    found.get_by_label("Example").select_option("A stream")
    expect(found.get_by_label("As curl")).to_contain_text("curl -N")
    found.get_by_role("button", name="Try it").click()
    expect(found.locator(".answer .good")).to_contain_text(" ms")
    events = (found.get_by_label("Events").text_content() or "").strip().split("\n\n")
    assert len(events) > 1 and ending in events[-1]


def test_an_answer_that_is_no_stream_is_shown_whole(open_page: Open, server: EchoServer) -> None:
    found = panel(open_page, server, "create_ollama_chat")
    found.get_by_label("Example").select_option("An answer")
    expect(found.get_by_label("As curl")).not_to_contain_text("-N")
    found.get_by_role("button", name="Try it").click()
    expect(found.get_by_label("Answer", exact=True)).to_contain_text('"done": true')


def test_an_answer_without_a_body_is_said_to_be_empty(open_page: Open, server: EchoServer) -> None:
    found = panel(open_page, server, "delete_ollama_model")
    expect(found.locator("summary", has_text="200")).to_have_text("200 empty")


def test_it_fits_a_phone(open_page: Open, server: EchoServer) -> None:
    page = open_page(server.url + "/docs", is_shown=False, viewport={"width": 360, "height": 640})
    expect(page.locator("#create_chat_completion code").last).to_contain_text("curl")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
