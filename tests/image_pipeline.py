"""A real FLUX pipeline with small random weights, made by the project's own script."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / "scripts" / "make_tiny_flux"


def make_tiny_flux(folder: Path) -> Path:
    done = subprocess.run([sys.executable, SCRIPT, folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder
