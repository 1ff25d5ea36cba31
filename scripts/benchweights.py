"""Weights for a benchmark of `optimize = "lossless"`: decided before, not while it runs."""

import subprocess
from pathlib import Path

from benchlib import PYTHON


def settle(config: Path, model: str) -> None:
    """Measures and keeps faster weights now, unless this machine has: a server would look for them
    while it is idle, and serve the original until then. Call it after `use_environment`."""
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
