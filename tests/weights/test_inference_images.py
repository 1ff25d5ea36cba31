"""/v1/inference/{model} for image models, over a real FLUX pipeline with small random weights."""

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from live import LiveServer
from numpy.typing import NDArray
from PIL import Image

pytestmark = pytest.mark.timeout(300)

PATH = "/v1/inference/black-forest-labs/FLUX.1-schnell"
SMALL = {"prompt": "a lighthouse", "width": 64, "height": 128}
LARGE = {"width": 2048, "height": 2048, "num_inference_steps": 50}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_flux: Path) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("images")
    (folder / "flux").symlink_to(tiny_flux)
    (folder / "models.toml").write_text(
        '[model."black-forest-labs/FLUX.1-schnell"]\nkind = "image"\nsource = "flux"\n'
        "price = { image = 0.002 }\ndefault_size = 128\n"
    )
    server = LiveServer(folder / "models.toml")
    yield server
    server.close()


def infer(server: LiveServer, **fields: Any) -> dict[str, Any]:
    answer = server.post(PATH, {**SMALL, **fields})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def opened(url: str) -> Image.Image:
    head, _, data = url.partition(",")
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def pixels(url: str) -> NDArray[np.int64]:
    return np.asarray(opened(url).convert("RGB")).astype(np.int64)


def test_an_image(server: LiveServer) -> None:
    body = infer(server)
    [url] = body["images"]
    assert opened(url).size == (64, 128) and pixels(url).std() > 5
    assert opened(url).info["seed"] == str(body["seed"])
    assert body["nsfw_content_detected"] == [False] and body["request_id"]
    status = body["inference_status"]
    assert status["status"] == "succeeded" and status["cost"] == 0.002
    assert status["tokens_input"] > 0 and status["tokens_generated"] == 0


def test_the_size_may_be_the_models_own_or_come_as_text(server: LiveServer) -> None:
    [url] = infer(server, width=None, height=None)["images"]
    assert opened(url).size == (128, 128)
    [url] = infer(server, width="96", height="64")["images"]  # as Vercel's AI SDK sends it
    assert opened(url).size == (96, 64)


def test_images_are_those_of_the_openai_route(server: LiveServer) -> None:
    fields = {"seed": 40, "num_inference_steps": 2, "guidance_scale": 1.5}
    urls = infer(server, num_images=2, **fields)["images"]
    plain = server.post(
        "/v1/images/generations",
        {"prompt": SMALL["prompt"], "size": "64x128", "n": 2, **fields},
    ).json()
    for url, item in zip(urls, plain["data"], strict=True):
        assert np.array_equal(pixels(url), pixels("data:image/png;base64," + item["b64_json"]))


def test_the_form_of_cog_models(server: LiveServer) -> None:
    wanted = {**SMALL, "seed": 40, "num_outputs": 2, "scheduler": "K_EULER"}
    answer = server.post(PATH, {"input": wanted})
    assert answer.headers["x-localinfra-ignored"] == "scheduler"
    body = answer.json()
    assert body["status"] == "succeeded" and body["inference_status"]["cost"] == 0.004
    expected = infer(server, seed=40, num_images=2)["images"]
    for url, other in zip(body["output"], expected, strict=True):
        assert np.array_equal(pixels(url), pixels(other))


def test_a_form_is_answered_like_json(server: LiveServer) -> None:
    fields = {**SMALL, "seed": 3}
    parts = {name: (None, json.dumps(value)) for name, value in fields.items()}
    answer = httpx2.post(server.url + PATH, files=parts, timeout=600)
    [url], [expected] = answer.json()["images"], infer(server, seed=3)["images"]
    assert np.array_equal(pixels(url), pixels(expected))


def test_what_has_no_effect_is_accepted_where_it_changes_nothing(server: LiveServer) -> None:
    assert infer(server, use_compel=True, negative_prompt="", webhook="", image=None)["images"]


def test_what_of_a_prompt_was_not_read_is_named(server: LiveServer) -> None:
    answer = server.post(PATH, {**SMALL, "prompt": "w" * 400})
    assert answer.headers["x-localinfra-truncated"].startswith("clip=77/402, t5=256/")


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"prompt": None}, "prompt", "invalid_value"),
        ({"prompt": "w" * 40_000}, "prompt", "invalid_value"),
        ({"num_images": 0}, "num_images", "invalid_value"),
        ({"num_images": 11}, "num_images", "invalid_value"),
        ({"width": 100}, "width", "invalid_value"),
        ({"height": 4096}, "height", "invalid_value"),
        ({"height": "tall"}, "height", "invalid_value"),
        ({"num_inference_steps": 51}, "num_inference_steps", "invalid_value"),
        ({"seed": -2}, "seed", "invalid_value"),
        ({"negative_prompt": "rain"}, "negative_prompt", "unsupported_parameter"),
        ({"image": "data:image/png;base64,AA=="}, "image", "invalid_value"),
        ({"image": "https://a.example/a.png"}, "image", "invalid_value"),
        ({"strength": 0.5}, "image", "invalid_value"),
        ({"webhook": "http://a.example"}, "webhook", "unsupported_parameter"),
        ({"input": "a lighthouse"}, None, "invalid_value"),
        ({"input": {}}, "prompt", "invalid_value"),
        ({"input": {"prompt": "x", "width": 100}}, "width", "invalid_value"),
        ({"input": {"prompt": "x", "mask": "y"}}, "mask", "invalid_value"),
        ({**LARGE, "num_images": 10}, "num_inference_steps", "invalid_value"),
        (
            {"input": {"prompt": "x", **LARGE, "num_outputs": 10}},
            "num_inference_steps",
            "invalid_value",
        ),
    ],
)
def test_bad_input_is_a_clear_400(
    server: LiveServer, fields: dict[str, Any], param: str | None, code: str
) -> None:
    answer = server.post(PATH, {**SMALL, **fields})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, param, code), answer.text


def test_an_image_to_begin_with_comes_as_a_data_url_or_as_a_file(server: LiveServer) -> None:
    """npm deepinfra sends its files without a name."""
    [start] = infer(server, seed=1)["images"]
    fields = {"prompt": "a lighthouse at night", "seed": 2, "strength": 0.5}
    answer = server.post(PATH, {**fields, "image": start})
    [url] = answer.json()["images"]
    assert opened(url).size == (64, 128) and not np.array_equal(pixels(url), pixels(start))
    assert opened(url).info["strength"] == "0.5"
    parts: dict[str, Any] = {name: (None, json.dumps(value)) for name, value in fields.items()}
    file = base64.b64decode(start.partition(",")[2])
    parts["image"] = (None, file, "application/octet-stream")
    [same] = httpx2.post(server.url + PATH, files=parts, timeout=600).json()["images"]
    assert np.array_equal(pixels(same), pixels(url))
    cog = {"input": {**fields, "image": start, "prompt_strength": 0.5}}
    [again] = server.post(PATH, cog).json()["output"]
    assert np.array_equal(pixels(again), pixels(url))
