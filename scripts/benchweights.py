"""The weights that benchmarks serve. Call these after `use_environment`."""

import subprocess
from pathlib import Path

from benchlib import PYTHON

SHIPPED_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"


def shipped_model() -> str:
    """The path of the file that comes with localinfra."""
    from localinfra.config import settings
    from localinfra.models import catalog
    from localinfra.models.sources import locate

    entry = catalog.load(settings.load()).entries[SHIPPED_MODEL]
    return str(locate(SHIPPED_MODEL, entry.source))


def settle(config: Path, model: str) -> None:
    """Measures and keeps faster weights for `optimize = "lossless"` now, unless this machine has: a
    server would look for them while it is idle, and serve the original until then."""
    from localinfra.config import settings
    from localinfra.models import catalog
    from localinfra.text import faster_weights

    entries = faster_weights.optimized(catalog.load(settings.load(config)).entries)
    if model in entries and faster_weights.decision(entries[model]) is None:
        command: list[str | Path] = [
            PYTHON,
            "-m",
            "localinfra",
            "optimize",
            model,
            "--apply",
            "--config",
            config,
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
