"""What these tests need: Chromium, and the package that drives it. Without, they are skipped.

`pip install 'localinfra[browser]'` and `apt install chromium` bring them, as .ci/browser does.
"""

import importlib.util
import os
import shutil
from pathlib import Path

import pytest

NAMES = ("chromium", "google-chrome", "google-chrome-stable")  # Debian's and Google's
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


def missing() -> str | None:
    """What is missing, as a sentence."""
    if importlib.util.find_spec("playwright") is None:
        return "The page's tests need playwright: pip install 'localinfra[browser]'."
    if CHROMIUM is None:
        return "The page's tests need Chromium: apt install chromium, or name one in $CHROMIUM."
    return None


MISSING = missing()

if MISSING is None:
    from browsing import chromium, open_page, page, screenshots, seeing, server  # noqa: F401 - fixtures


@pytest.fixture(scope="session")
def chromium_path() -> str | None:
    return CHROMIUM


class Skipped(pytest.Module):
    def collect(self) -> list[pytest.Item | pytest.Collector]:
        pytest.skip(MISSING or "")


def pytest_pycollect_makemodule(
    module_path: Path, parent: pytest.Collector
) -> pytest.Module | None:
    """The modules here import playwright, so without it they can't even be read."""
    return None if MISSING is None else Skipped.from_parent(parent, path=module_path)
