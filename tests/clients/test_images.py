"""Images as the documents of hosted services tell their users to ask for them: openai for Python
and for Node, and curl. Only base URL and key are ours; the pipeline paints noise."""

import base64
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from client_env import Environment
from live import Served
from PIL import Image

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]

PYTHON = """
import base64, io
from PIL import Image
from openai import OpenAI

client = OpenAI(api_key="any", base_url={url!r})
answer = client.images.generate(prompt="A red bicycle by the sea.", size="1024x1024",
                                quality="standard", n=1)
Image.open(io.BytesIO(base64.b64decode(answer.data[0].b64_json))).save("output.png")
"""

NODE = """
import * as fs from "fs";
import OpenAI, {{ toFile }} from "openai";

const client = new OpenAI({{ baseURL: {url}, apiKey: "any" }});
const made = await client.images.generate({{
  prompt: "A red bicycle by the sea.", size: "1024x1024", n: 1,
}});
const file = Buffer.from(made.data[0].b64_json, "base64");
fs.writeFileSync("output.png", file);
const edited = await client.images.edit({{
  image: await toFile(file, "output.png", {{ type: "image/png" }}),
  prompt: "A blue bicycle by the sea.", size: "256x256",
}});
fs.writeFileSync("edited.png", Buffer.from(edited.data[0].b64_json, "base64"));
const stream = await client.images.generate({{
  prompt: "x", size: "256x256", stream: true, partial_images: 2,
}});
const types = [];
for await (const event of stream) types.push(event.type);
console.log(JSON.stringify(types));
"""


@pytest.fixture
def url(server: Served) -> str:
    return f"{server.url}/v1/openai"


def size(file: Path) -> tuple[int, int]:
    with Image.open(file) as picture:
        return picture.size


def test_openai_for_python(url: str, python: Callable[..., Environment]) -> None:
    openai = python("openai", "pillow")
    openai.run(PYTHON.format(url=url))
    assert size(openai.folder / "output.png") == (1024, 1024)


def test_openai_for_node(url: str, node: Callable[..., Environment]) -> None:
    openai = node("openai")
    types = json.loads(openai.run(NODE.format(url=json.dumps(url))))
    assert size(openai.folder / "output.png") == (1024, 1024)
    assert size(openai.folder / "edited.png") == (256, 256)
    assert types == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]


def curl(url: str, *options: str) -> list[dict[str, str]]:
    command = ["curl", "-sS", url, "-H", "Authorization: Bearer any", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    data: list[dict[str, str]] = json.loads(done.stdout)["data"]
    return data


def test_curl(url: str, tmp_path: Path) -> None:
    body = json.dumps({"prompt": "A red bicycle by the sea.", "size": "1024x1024", "n": 1})
    headers = ("-H", "Content-Type: application/json")
    [made] = curl(f"{url}/images/generations", *headers, "-d", body)
    file = tmp_path / "a.png"
    file.write_bytes(base64.b64decode(made["b64_json"]))
    assert size(file) == (1024, 1024)
    fields = ("-F", f"image=@{file}", "-F", "prompt=2024", "-F", "size=64x64", "-F", "n=2")
    assert len(curl(f"{url}/images/edits", *fields)) == 2
