"""Makes `fakes` importable: the tests are no package. Children get the signals of a terminal. And
the pipeline that several modules use. No test sees this user's keys or conversations."""

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from ray_process import RayServer

sys.path.insert(0, str(Path(__file__).parent))

from children import give_children_default_signals

give_children_default_signals()

DATA = tempfile.TemporaryDirectory(prefix="localinfra-data-")  # until the process ends
os.environ["LOCALINFRA_DATA"] = DATA.name

# Examples take as long as a busy machine needs. They are the same in every run, lest a run of a
# good change fails; `--hypothesis-profile search` looks for new ones.
for profile, is_repeatable in {"repeatable": True, "search": False}.items():
    hypothesis.settings.register_profile(
        profile,
        deadline=None,
        derandomize=is_repeatable,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )
hypothesis.settings.load_profile("repeatable")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Of `-n auto`: two for the whole default run, which leaves half of two cores idle. None for
    single files, and for slow tests, which use all cores themselves."""
    is_default = config.option.markexpr == "not slow and not clients and not browser and not ray"
    has_all = config.args == config.getini("testpaths")
    return min(2, os.cpu_count() or 1) if is_default and has_all else 0


@pytest.fixture(autouse=True)
def log_level_as_before() -> Iterator[None]:
    """Commands that run in this process set it, and later tests count the lines they find."""
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)


@pytest.fixture(scope="session")
def tiny_flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real FLUX pipeline with small random weights, which takes 8 s to make."""
    from image_pipeline import make_tiny_flux

    return make_tiny_flux(tmp_path_factory.mktemp("pipeline") / "flux")


@pytest.fixture(scope="session")
def ray_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator["RayServer"]:
    """One Ray of this machine for all tests, which takes half a minute to start."""
    if find_spec("ray") is None:
        pytest.skip("needs Ray: pip install 'localinfra[ray]'")
    from ray_process import MODELS, RayServer

    folder = tmp_path_factory.mktemp("ray")
    (folder / "flux").symlink_to(request.getfixturevalue("tiny_flux"))
    server = RayServer(folder, MODELS)
    yield server
    server.close()
