"""A person who shows pictures in the chat of the page."""

import base64
import io
import random
from typing import Any

from echo import EchoServer
from picture_files import file, plain
from PIL import Image
from playwright.sync_api import FilePayload, Locator, Page
from talking import CATALOGUE, Open, begin, choose, finish

SEEING = f"""{CATALOGUE}
[model."seer"]
kind = "text"
source = "seer.gguf"
mmproj = "echo.gguf"
context_length = 16384
sequences = 8
"""
SMALL = file(plain(10, 10))  # one row, which is an asterisk in an echo
SMALL_URL = f"data:image/png;base64,{base64.b64encode(SMALL).decode()}"


def opened(open_page: Open, server: EchoServer, model: str = "seer", **options: Any) -> Page:
    page = open_page(server.url, **options)
    page.get_by_label("Temperature").fill("0")
    choose(page, model)
    return page


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
