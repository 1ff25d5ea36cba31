"""Embeddings through clients that ask in different ways: all get the same vectors.

openai for Python and for Node ask for base64 unless told otherwise, LangChain sends OpenAI's token
ids, curl gets floats.
"""

import json
import os
import shutil
import subprocess
import venv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from live import CATALOGUE, LiveServer

pytestmark = [pytest.mark.clients, pytest.mark.timeout(900)]

TEXTS = ["The cat sits on the mat.", "Grüße aus Köln 🎉", "word " * 60]

PYTHON = """
import json, openai
client = openai.OpenAI(base_url={url!r}, api_key="any")
reply = client.embeddings.create(model="minilm", input={texts!r})
print(json.dumps([item.embedding for item in reply.data]))
"""

LANGCHAIN = """
import json
from langchain_openai import OpenAIEmbeddings
embeddings = OpenAIEmbeddings(model="minilm", base_url={url!r}, api_key="any")
print(json.dumps(embeddings.embed_documents({texts!r})))
"""

NODE = """
import OpenAI from "openai";
const client = new OpenAI({{ baseURL: {url}, apiKey: "any" }});
const reply = await client.embeddings.create({{ model: "minilm", input: {texts} }});
console.log(JSON.stringify(reply.data.map((item) => item.embedding)));
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    path = tmp_path_factory.mktemp("models") / "models.toml"
    (path.parent / "damaged.gguf").write_bytes(b"")
    path.write_text(CATALOGUE)
    server = LiveServer(path)
    yield server
    server.close()


@pytest.fixture(scope="module")
def expected(server: LiveServer) -> list[list[float]]:
    """What curl gets."""
    body = json.dumps({"model": "minilm", "input": TEXTS})
    command = ["curl", "-sS", f"{server.url}/v1/embeddings", "-d", body]
    command += ["-H", "Content-Type: application/json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    return [item["embedding"] for item in json.loads(done.stdout)["data"]]


def check(output: str, expected: list[list[float]]) -> None:
    assert np.allclose(json.loads(output), expected, atol=1e-6)


def python(folder: Path, *requirements: str) -> Path:
    venv.create(folder, with_pip=True)
    found = folder / "bin" / "python"
    subprocess.run([found, "-m", "pip", "install", "-q", *requirements], check=True)
    return found


def run(*command: object, **variables: str) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **variables},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("numpy", [[], ["numpy"]], ids=["floats", "base64"])
def test_openai_for_python(
    server: LiveServer, expected: list[list[float]], tmp_path: Path, numpy: list[str]
) -> None:
    program = PYTHON.format(url=f"{server.url}/v1", texts=TEXTS)
    check(run(python(tmp_path / "env", "openai", *numpy), "-c", program), expected)


def test_langchain_with_its_defaults(
    server: LiveServer, expected: list[list[float]], tmp_path: Path
) -> None:
    found = python(tmp_path / "env", "langchain-openai")
    # tiktoken would download its vocabulary; litellm's package carries the same file.
    target = tmp_path / "litellm"
    install = [found, "-m", "pip", "install", "-q", "--no-deps", "--target", target, "litellm"]
    subprocess.run(install, check=True)
    [vocabulary] = target.glob("**/9b5ad71b2ce5302211f9c61530b329a4922fc6a4")
    program = LANGCHAIN.format(url=f"{server.url}/v1", texts=TEXTS)
    output = run(found, "-c", program, TIKTOKEN_CACHE_DIR=str(vocabulary.parent))
    check(output, expected)


@pytest.mark.skipif(shutil.which("npm") is None, reason="needs Node.js")
def test_openai_for_node(server: LiveServer, expected: list[list[float]], tmp_path: Path) -> None:
    subprocess.run(["npm", "install", "--silent", "openai"], cwd=tmp_path, check=True)
    url, texts = json.dumps(f"{server.url}/v1"), json.dumps(TEXTS)
    (tmp_path / "embed.mjs").write_text(NODE.format(url=url, texts=texts))
    check(run("node", tmp_path / "embed.mjs"), expected)
