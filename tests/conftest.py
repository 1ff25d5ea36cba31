"""Makes `fakes` importable: the tests are no package. Children get the signals of a terminal. And
the pipeline that several modules use."""

import sys
from pathlib import Path

import hypothesis
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from children import give_children_default_signals

give_children_default_signals()

# Examples take as long as a busy machine needs.
UNHURRIED = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("unhurried", **UNHURRIED)
hypothesis.settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def tiny_flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real FLUX pipeline with small random weights, which takes 8 s to make."""
    from image_pipeline import make_tiny_flux

    return make_tiny_flux(tmp_path_factory.mktemp("pipeline") / "flux")
