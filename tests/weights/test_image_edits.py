"""/v1/images/edits over a real FLUX pipeline with small random weights."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import openai
import pytest
from live import LiveServer
from numpy.typing import NDArray
from PIL import Image

pytestmark = pytest.mark.timeout(300)

PATH = "/v1/images/edits"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_flux: Path) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("edits")
    (folder / "flux").symlink_to(tiny_flux)
    (folder / "models.toml").write_text(
        '[model."flux"]\nkind = "image"\nsource = "flux"\ndefault_size = 128\n'
    )
    server = LiveServer(folder / "models.toml")
    yield server
    server.close()


def png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def stripes(width: int = 128, height: int = 128) -> Image.Image:
    """Colours that neither pipeline would paint."""
    picture = Image.new("RGB", (width, height), (250, 10, 10))
    picture.paste((10, 10, 250), (0, 0, width // 2, height))
    return picture


def half_open(width: int = 128, height: int = 128) -> Image.Image:
    """A mask whose left half is transparent."""
    mask = Image.new("RGBA", (width, height), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 0, width // 2, height))
    return mask


def pixels(data: str | None) -> NDArray[np.int64]:
    assert data
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    return np.asarray(picture.convert("RGB")).astype(np.int64)


def data_url(picture: Image.Image) -> str:
    return f"data:image/png;base64,{base64.b64encode(png(picture)).decode()}"


def edited(client: openai.OpenAI, **fields: Any) -> list[NDArray[np.int64]]:
    reply = client.images.edit(image=("a.png", png(stripes())), prompt="a lighthouse", **fields)
    assert reply.data
    return [pixels(item.b64_json) for item in reply.data]


def test_the_picture_and_the_prompt_both_count(client: openai.OpenAI) -> None:
    fields: Any = {"extra_body": {"seed": 3, "strength": 0.5}}
    [first] = edited(client, **fields)
    assert first.shape == (128, 128, 3)
    [again] = edited(client, **fields)
    assert np.array_equal(first, again)
    grey = Image.new("RGB", (128, 128), (90, 90, 90))
    other = client.images.edit(image=("a.png", png(grey)), prompt="a lighthouse", **fields)
    assert other.data and not np.array_equal(pixels(other.data[0].b64_json), first)
    [little] = edited(client, extra_body={"seed": 3, "strength": 0.25})
    assert not np.array_equal(little, first)


def test_only_what_the_mask_opens_is_painted_anew(client: openai.OpenAI) -> None:
    mask = ("mask.png", png(half_open()))
    original = np.asarray(stripes()).astype(np.int64)
    for image in edited(client, mask=mask, n=2, extra_body={"seed": 5}):
        assert np.array_equal(image[:, 66:], original[:, 66:])
        assert np.abs(image[:, :62] - original[:, :62]).mean() > 20


def test_json_with_data_urls_says_the_same_as_a_form(
    client: openai.OpenAI, server: LiveServer
) -> None:
    [form] = edited(client, mask=("m.png", png(half_open())), extra_body={"seed": 9})
    body = {"prompt": "a lighthouse", "image": data_url(stripes()), "seed": 9}
    answer = server.post(PATH, {**body, "mask": data_url(half_open())})
    assert answer.status_code == 200, answer.text
    assert np.array_equal(pixels(answer.json()["data"][0]["b64_json"]), form)
    listed = server.post(PATH, {**body, "mask": data_url(half_open()), "image": [body["image"]]})
    assert listed.json()["data"] == answer.json()["data"]


def test_images_are_the_same_after_edits(server: LiveServer, client: openai.OpenAI) -> None:
    """They share weights and scheduler."""
    body = {"prompt": "x", "size": "64x64", "seed": 1}
    before = server.post("/v1/images/generations", body).json()["data"]
    edited(client, extra_body={"strength": 0.3})
    edited(client, mask=("m.png", png(half_open())))
    assert server.post("/v1/images/generations", body).json()["data"] == before


def test_a_size_of_ones_own_and_what_made_it(client: openai.OpenAI) -> None:
    reply = client.images.edit(
        image=("a.png", png(stripes(300, 200))), prompt="x", size="64x96",
        extra_body={"seed": 4, "strength": 0.6},
    )  # fmt: skip
    assert reply.data and reply.data[0].b64_json
    picture = Image.open(io.BytesIO(base64.b64decode(reply.data[0].b64_json)))
    assert picture.size == (64, 96)
    assert (picture.info["seed"], picture.info["strength"]) == ("4", "0.6")


def test_a_stream_of_an_edit(client: openai.OpenAI) -> None:
    stream: Any = client.images.edit(
        image=("a.png", png(stripes())), prompt="x", stream=True, partial_images=1,
        extra_body={"progress": True},
    )  # fmt: skip
    events = list(stream)
    assert [event.type for event in events] == [
        "image_edit.progress",  # at the strength of 0.75 three of four steps are taken
        "image_edit.progress",
        "image_edit.partial_image",
        "image_edit.progress",
        "image_edit.completed",
    ]
    assert (events[0].step, events[0].steps) == (1, 3)
    assert pixels(events[-1].b64_json).shape == (128, 128, 3)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"image": None}, "image"),
        ({"image": "https://example.org/a.png"}, "image"),
        ({"image": "data:image/png;base64,@@@"}, "image"),
        ({"image": "data:image/png;base64,AAAA"}, "image"),
        ({"image": [data_url(stripes()), data_url(stripes())]}, "image"),
        ({"mask": data_url(half_open(64, 64))}, "mask"),
        ({"mask": data_url(stripes())}, "mask"),
        ({"image": "data:image/png;base64,é"}, "image"),
        ({"strength": 0}, "strength"),
        ({"strength": 1e-17}, "strength"),
        ({"strength": 1.1}, "strength"),
        ({"prompt": ""}, "prompt"),
        ({"size": "65x64"}, "size"),
        ({"n": 10, "size": "2048x2048", "num_inference_steps": 50}, "num_inference_steps"),
    ],
)
def test_bad_input_is_a_clear_400(server: LiveServer, fields: dict[str, Any], param: str) -> None:
    answer = server.post(PATH, {"prompt": "x", "image": data_url(stripes()), **fields})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param, answer.text


def test_a_damaged_file_in_a_form_is_a_clear_400(server: LiveServer) -> None:
    answer = httpx2.post(
        server.url + PATH, data={"prompt": "x"}, files={"image": ("a.png", b"\x89PNG broken")}
    )
    assert answer.status_code == 400 and "can't be read" in answer.json()["error"]["message"]
