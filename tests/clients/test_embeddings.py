"""Embeddings through clients that ask in different ways: all get the same vectors.

openai for Python and for Node ask for base64 unless told otherwise, LangChain sends OpenAI's token
ids, curl gets floats.
"""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from client_env import Environment
from live import Served

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
def expected(server: Served) -> list[list[float]]:
    """What curl gets."""
    body = json.dumps({"model": "minilm", "input": TEXTS})
    command = ["curl", "-sS", f"{server.url}/v1/embeddings", "-d", body]
    command += ["-H", "Content-Type: application/json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    return [item["embedding"] for item in json.loads(done.stdout)["data"]]


def check(output: str, expected: list[list[float]]) -> None:
    assert np.allclose(json.loads(output), expected, atol=1e-6)


@pytest.mark.parametrize("numpy", [[], ["numpy"]], ids=["floats", "base64"])
def test_openai_for_python(
    server: Served,
    expected: list[list[float]],
    python: Callable[..., Environment],
    numpy: list[str],
) -> None:
    program = PYTHON.format(url=f"{server.url}/v1", texts=TEXTS)
    check(python("openai", *numpy).run(program), expected)


@pytest.fixture(scope="session")
def vocabulary(
    python: Callable[..., Environment], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The file that tiktoken would download: litellm's package carries the same one."""
    folder = tmp_path_factory.mktemp("litellm")
    install = [python("langchain-openai").executable, "-m", "pip", "install", "-q", "--no-deps"]
    subprocess.run([*install, "--target", folder, "litellm"], check=True)
    [found] = folder.glob("**/9b5ad71b2ce5302211f9c61530b329a4922fc6a4")
    return found


def test_langchain_with_its_defaults(
    server: Served,
    expected: list[list[float]],
    python: Callable[..., Environment],
    vocabulary: Path,
) -> None:
    langchain = python("langchain-openai")
    program = LANGCHAIN.format(url=f"{server.url}/v1", texts=TEXTS)
    output = langchain.run(program, TIKTOKEN_CACHE_DIR=str(vocabulary.parent))
    check(output, expected)


def test_openai_for_node(
    server: Served, expected: list[list[float]], node: Callable[..., Environment]
) -> None:
    url, texts = json.dumps(f"{server.url}/v1"), json.dumps(TEXTS)
    check(node("openai").run(NODE.format(url=url, texts=texts)), expected)
