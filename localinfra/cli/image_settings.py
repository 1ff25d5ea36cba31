"""What `localinfra doctor` tells of image models: how each would be computed on this machine.

torch is asked in a child process: a broken build of it must not end the doctor.
"""

import subprocess
import sys
from dataclasses import dataclass

import msgspec

from localinfra import config
from localinfra.errors import ApiError, ConfigError
from localinfra.image.placement import decide, part_elements
from localinfra.loading_images import wishes_of
from localinfra.models import catalog
from localinfra.models.catalog import ImageModelEntry
from localinfra.models.sources import locate


@dataclass(frozen=True)
class ImageOutlook:
    """Of one image model: how it would be computed, or what is in the way. That its files are not
    here is no flaw of the installation."""

    is_fine: bool
    text: str


def look_at_images() -> dict[str, ImageOutlook]:
    try:
        entries = catalog.load(config.load()).entries
    except ConfigError:  # every other command says what is wrong with the file
        return {}
    wanted = {name: e for name, e in entries.items() if isinstance(e, ImageModelEntry)}
    free = ask_torch() if any(entry.source.find() for entry in wanted.values()) else {}
    return {name: outlook(name, entry, free) for name, entry in wanted.items()}


def outlook(name: str, entry: ImageModelEntry, free: dict[str, int]) -> ImageOutlook:
    """`free` bytes of each device, as torch tells; empty where it can't be asked."""
    if entry.source.find() is None:
        return ImageOutlook(True, entry.source.remedy(name))
    try:
        folder = locate(name, entry.source)
        if not free:
            return ImageOutlook(False, "PyTorch can't be loaded")
        placement = decide(wishes_of(name, entry), part_elements(folder), free)
    except ApiError as error:
        return ImageOutlook(False, error.message)
    return ImageOutlook(True, f"computed on {placement}")


def ask_torch(timeout_s: float = 60) -> dict[str, int]:
    command = [sys.executable, "-P", "-m", "localinfra.image.placement"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s
        )
    except subprocess.TimeoutExpired:
        return {}
    return msgspec.json.decode(done.stdout, type=dict[str, int]) if not done.returncode else {}
