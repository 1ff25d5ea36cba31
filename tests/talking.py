"""A person in the chat of the page, over models that repeat what they are told."""

from collections.abc import Callable

from echo import ECHO, THINKER
from playwright.sync_api import Locator, Page, expect

Open = Callable[..., Page]  # a URL and options of a browser context → the page

ELSEWHERE = "box.test"  # a name of this machine that browsers take for another's
OTHER = "tests/other"
CATALOGUE = f"""
[model."{ECHO}"]
kind = "text"
source = "echo.gguf"
context_length = 16384
sequences = 8
price = {{ input = 1.0, output = 2.0 }}

[model."{OTHER}"]
kind = "text"
source = "echo.gguf"
context_length = 2048
recommended = {{ temperature = 0.25 }}

[model."slow"]
kind = "text"
source = "slow.gguf"
context_length = 16384

[model."thinker"]
kind = "text"
source = "echo.gguf"
context_length = 2048
chat_template = '''{THINKER}'''

[model."absent"]
kind = "text"
source = "hf:owner/repo/file.gguf"
"""


def begin(page: Page, text: str) -> None:
    """Sends a message."""
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")


def finish(page: Page) -> None:
    """Waits until no answer runs."""
    expect(page.get_by_label("Send", exact=True)).to_be_visible()
    expect(page.locator(".answer[aria-busy=true]")).to_have_count(0)


def say(page: Page, text: str) -> Locator:
    """Sends a message and returns the last answer, once it is complete."""
    before = page.locator(".turn.assistant").count()
    begin(page, text)
    expect(page.locator(".turn.assistant")).to_have_count(before + 1)
    finish(page)
    return page.locator(".turn.assistant").last


def text_of(answer: Locator) -> Locator:
    return answer.locator(".answer-text")


def choose(page: Page, model: str, label: str = "Model") -> None:
    page.get_by_label(label, exact=True).select_option(model)
