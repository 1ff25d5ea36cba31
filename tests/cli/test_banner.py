"""What a server says when it has started."""

import re
from pathlib import Path

import pytest

from localinfra.cli.foreground import banner
from localinfra.config.settings import ServerSettings
from localinfra.models.catalog import Catalog
from localinfra.models.entries import (
    EmbeddingModelEntry,
    ImageModelEntry,
    ModelEntry,
    RerankModelEntry,
    TextModelEntry,
)
from localinfra.models.sources import PathSource
from localinfra.runtime import Runtime

HERE = PathSource(Path(__file__))
OTHERS: dict[str, ModelEntry] = {
    "vectors": EmbeddingModelEntry(source=HERE),
    "ranks": RerankModelEntry(source=HERE),
    "paints": ImageModelEntry(source=HERE),
}


def banner_of(entries: dict[str, ModelEntry]) -> str:
    return banner("http://localhost:8000", Runtime(ServerSettings(), Catalog(entries)))


@pytest.mark.parametrize(
    ("name", "route"),
    [("vectors", "embeddings"), ("ranks", "rerank"), ("paints", "images/generations")],
)
def test_the_banner_lists_models_of_every_kind_with_an_example(name: str, route: str) -> None:
    shown = banner_of({name: OTHERS[name]})
    assert f"  {name} ({OTHERS[name].kind})\n" in shown and f"/v1/{route} " in shown
    assert f'"model": "{name}"' in shown and "missing" not in shown


def test_the_banner_leads_to_the_page() -> None:
    assert "page, for a browser: http://localhost:8000\n" in banner_of(OTHERS)


def test_the_banner_prefers_a_chat_model_and_counts_models_without_files() -> None:
    gone = ImageModelEntry(source=PathSource(Path("/nowhere")))
    shown = banner_of({**OTHERS, "chats": TextModelEntry(source=HERE), "gone": gone})
    assert [line for line in shown.splitlines() if re.fullmatch(r"  \w+( \(\w+\))?", line)] == [
        "  chats", "  vectors (embedding)", "  ranks (rerank)", "  paints (image)",
    ]  # fmt: skip
    assert "and 1 more whose files are missing" in shown and "/v1/chat/completions" in shown
    assert "none yet: 1 models" in banner_of({"gone": gone})
