"""What people write after `pull`."""

from pathlib import Path

import pytest

from localinfra.config.settings import load as load_settings
from localinfra.errors import ApiError
from localinfra.models.catalog import Catalog, load
from localinfra.models.fetch.references import parse

MODELS = """
[model."org/chat"]
kind = "text"
source = "hf:org/m/m.gguf"
aliases = ["tiny"]
[model.local]
kind = "text"
source = "m.gguf"
[model.packed]
kind = "text"
source = "package:no-such-package/m.gguf"
[model.seer]
kind = "text"
source = "hf:org/m/m.gguf"
mmproj = "hf:org/eyes/mmproj-m.gguf"
[model.shut]
kind = "text"
source = "hf:org/m/m.gguf"
mmproj = "hf:org/eyes/mmproj-m.gguf"
vision = false
[model.flux]
kind = "image"
source = "hf:org/flux"
transformer = "hf:org/flux-gguf/q4.gguf"
"""


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    path = tmp_path / "models.toml"
    path.write_text(MODELS)
    return load(load_settings(path))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tiny", ["hf:org/m/m.gguf"]),
        ("seer", ["hf:org/m/m.gguf", "hf:org/eyes/mmproj-m.gguf"]),
        ("shut", ["hf:org/m/m.gguf"]),
        ("org/chat", ["hf:org/m/m.gguf"]),
        ("flux", ["hf:org/flux", "hf:org/flux-gguf/q4.gguf"]),
        ("org/repo", ["hf:org/repo"]),
        ("org/repo:Q8_0", ["hf:org/repo:Q8_0"]),
        ("hf:org/repo/a/m.gguf", ["hf:org/repo/a/m.gguf"]),
        ("ollama:llama3", ["ollama:llama3:latest"]),
        ("https://example.org/m.gguf", ["https://example.org/m.gguf"]),
        ("https://huggingface.co/org/repo", ["hf:org/repo"]),
        ("https://huggingface.co/org/repo/tree/main", ["hf:org/repo"]),
        ("https://huggingface.co/org/repo/blob/main/a/m%20x.gguf", ["hf:org/repo/a/m x.gguf"]),
        ("https://hf.co/org/repo/resolve/main/m.gguf?download=true", ["hf:org/repo/m.gguf"]),
        ("hf.co/org/repo:Q4_K_M", ["hf:org/repo:Q4_K_M"]),
    ],
)
def test_a_reference_names_what_to_fetch(catalog: Catalog, text: str, expected: list[str]) -> None:
    assert [source.text for source in parse(text, catalog)] == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("tiney", r"Nothing is called 'tiney'. Did you mean tiny\?"),
        ("zzz", r"Nothing is called 'zzz'. Pull a name of models.toml, hf:OWNER/REPO"),
        ("local", r"The files of local don't come from a hub; .* there is nothing at .*m.gguf"),
        ("packed", "pip install --no-deps no-such-package"),
        ("https://huggingface.co/org/repo/resolve/dev/m.gguf", "only the branch main"),
        ("https://huggingface.co/org", "expected the page of a model"),
        ("https://huggingface.co/org/repo/resolve/main/../../m.gguf", "stays inside"),
        ("https://huggingface.co/../x", "expected the page of a model"),
        ("https://huggingface.co/%2e%2e/x", "expected the page of a model"),
        ("https://hf.co/org/..", "expected the page of a model"),
        ("hf.co/./x:Q8_0", "expected the page of a model"),
        ("hf.co/.cache/x/resolve/main/m.gguf", "expected the page of a model"),
        ("hf.co/org/repo:..", "expected the page of a model"),
        ("hf.co/org/repo/resolve/../m.gguf", "only the branch main"),
        ("hf:../x", "expected a path"),
        ("hf:org/..:Q8_0", "expected a path"),
        ("hf:org/repo:../x", "expected a path"),
        ("../x", r"Nothing is called '../x'"),
        ("../x:Q8_0", r"Nothing is called '../x:Q8_0'"),
        ("ollama:../x", "expected a path"),
        ("ollama:a/../x", "expected a path"),
        ("ollama:x:..", "expected a path"),
        ("file:///etc/passwd", "expected a path"),
        ("hf:org", "expected a path"),
        ("https://me:secret@example.org/m.gguf", "without a user's name or password"),
        ("", "Nothing is called ''"),
    ],
)
def test_other_references_are_errors_that_say_what_to_write(
    catalog: Catalog, text: str, problem: str
) -> None:
    with pytest.raises(ApiError, match=problem):
        parse(text, catalog)
