"""Text of a models.toml → its catalogue, or why it is refused."""

from pathlib import Path

import pytest

from localinfra.config import settings as config_file
from localinfra.errors import ConfigError
from localinfra.models import catalog
from localinfra.models.catalog import Catalog


def loaded(folder: Path, text: str) -> Catalog:
    path = folder / "models.toml"
    path.write_text(text, encoding="utf-8")
    return catalog.load(config_file.load(path))


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        loaded(folder, text)
    return str(caught.value).replace(f"{folder}/", "")
