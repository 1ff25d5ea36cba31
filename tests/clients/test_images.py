"""Images as the documents of hosted services tell their users to ask for them: openai for Python
and for Node, and curl. Only base URL and key are ours; the pipeline paints noise."""

import base64
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from image_pipeline import make_tiny_flux
from live import LiveServer
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


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("images")
    make_tiny_flux(folder / "flux")
    (folder / "models.toml").write_text('[model."flux"]\nkind = "image"\nsource = "flux"\n')
    server = LiveServer(folder / "models.toml")
    yield f"{server.url}/v1/openai"
    server.close()


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def size(file: Path) -> tuple[int, int]:
    return Image.open(file).size


def test_openai_for_python(url: str, tmp_path: Path) -> None:
    run(tmp_path, sys.executable, "-c", PYTHON.format(url=url))
    assert size(tmp_path / "output.png") == (1024, 1024)


@pytest.mark.skipif(shutil.which("npm") is None, reason="needs Node.js")
def test_openai_for_node(url: str, tmp_path: Path) -> None:
    subprocess.run(["npm", "install", "--silent", "openai"], cwd=tmp_path, check=True)
    (tmp_path / "images.mjs").write_text(NODE.format(url=json.dumps(url)))
    types = json.loads(run(tmp_path, "node", "images.mjs"))
    assert size(tmp_path / "output.png") == (1024, 1024)
    assert size(tmp_path / "edited.png") == (256, 256)
    assert types == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]


def test_curl(url: str, tmp_path: Path) -> None:
    body = {"prompt": "A red bicycle by the sea.", "size": "1024x1024", "n": 1}
    output = run(
        tmp_path, "curl", "-sS", f"{url}/images/generations", "-d", json.dumps(body),
        "-H", "Content-Type: application/json", "-H", "Authorization: Bearer any",
    )  # fmt: skip
    file = base64.b64decode(json.loads(output)["data"][0]["b64_json"])
    assert Image.open(BytesIO(file)).size == (1024, 1024)
    (tmp_path / "a.png").write_bytes(file)
    form = run(
        tmp_path, "curl", "-sS", f"{url}/images/edits", "-F", "image=@a.png", "-F", "prompt=2024",
        "-F", "size=64x64", "-F", "n=2", "-H", "Authorization: Bearer any",
    )  # fmt: skip
    assert len(json.loads(form)["data"]) == 2
