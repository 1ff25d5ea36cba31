"""The page over real models: SmolLM2, MiniLM, and a FLUX pipeline that paints noise."""

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from live import CATALOGUE, SMOLLM2, LiveServer
from playwright.sync_api import expect
from talking import Open, choose, say, text_of

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

FLUX = """
[model."tiny-flux"]
kind = "image"
source = "flux"
default_size = 128
steps = 3
"""


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, tiny_flux: Path) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("models")
    (folder / "flux").symlink_to(tiny_flux)
    (folder / "damaged.gguf").write_bytes(b"GGUF" + bytes(100))
    (folder / "models.toml").write_text(CATALOGUE + FLUX)
    server = LiveServer(folder / "models.toml")
    yield server
    server.close()


def test_a_first_visitor_gets_an_answer(
    open_page: Open, live: LiveServer, screenshots: Path | None
) -> None:
    page = open_page(live.url)
    choose(page, SMOLLM2)
    page.get_by_label("Temperature").fill("0")
    page.get_by_label("Max tokens").fill("24")
    question = "What is the capital of France?"
    answer = say(page, question)
    recommended = httpx2.get(f"{live.url}/v1/models/{SMOLLM2}").json().get("recommended", {})
    body = {
        "model": SMOLLM2,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": 24,
        **recommended,
        "temperature": 0,
    }
    told = httpx2.post(f"{live.url}/v1/chat/completions", json=body, timeout=300).json()
    expect(text_of(answer)).to_have_text(told["choices"][0]["message"]["content"].strip())
    expect(answer.locator(".figures")).to_contain_text("tok/s")
    if screenshots:
        page.screenshot(path=screenshots / "answer.png")


def test_similar_texts_are_drawn_as_similar(
    open_page: Open, live: LiveServer, screenshots: Path | None
) -> None:
    page = open_page(live.url + "/#embed")
    choose(page, "sentence-transformers/all-MiniLM-L6-v2")
    texts = ["A cat sleeps.", "A kitten naps.", "Stocks fell."]
    page.get_by_label("Texts, one a line").fill("\n".join(texts))
    page.get_by_role("button", name="Compare").click()
    cells = page.locator(".matrix td:not(:first-child), .matrix tbody td")
    expect(page.locator(".map circle")).to_have_count(3)
    rows = page.locator(".matrix tbody tr").all()
    similar, other = (float(rows[0].locator("td").nth(at).inner_text()) for at in (1, 2))
    assert similar > other and cells.count() == 9
    choose(page, "sentence-transformers/all-MiniLM-L6-v2", "Model for ranking")
    page.get_by_label("Query").fill("Which animal is asleep?")
    page.get_by_role("button", name="Rank").click()
    expect(page.locator(".ranked li").last).to_contain_text("Stocks fell.")
    if screenshots:
        page.screenshot(path=screenshots / "embed.png", full_page=True)


def test_a_picture_appears_and_a_part_of_it_is_repainted(
    open_page: Open, live: LiveServer, screenshots: Path | None
) -> None:
    page = open_page(live.url + "/#image")
    page.get_by_label("Prompt", exact=True).fill("A quiet harbour")
    page.get_by_label("Seed").fill("7")
    page.get_by_role("button", name="Make the picture").click()
    expect(page.locator(".figures")).to_contain_text("seed 7")
    page.get_by_role("button", name="Repaint a part").click()
    canvas = page.get_by_label("Paint over what may change")
    box = canvas.bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] / 3, box["y"] + box["height"] / 3)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.up()
    page.get_by_label("Prompt", exact=True).fill("A boat")
    page.get_by_role("button", name="Repaint", exact=True).click()
    expect(page.locator(".picture")).to_have_count(2)
    if screenshots:
        page.screenshot(path=screenshots / "image.png")
    page.reload()  # the gallery is kept
    expect(page.locator(".picture")).to_have_count(2)
    page.locator(".picture").last.click()
    page.get_by_role("button", name="Use its prompt and seed").click()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("A quiet harbour")
