"""What `localinfra doctor` tells of image models: how each would be computed on this machine.

torch is asked in a child process: a broken build of it must not end the doctor.
"""

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from localinfra.errors import ApiError
from localinfra.image.loading import transformer_file
from localinfra.image.placement import decide, part_elements
from localinfra.models import files
from localinfra.models.entries import ImageModelEntry, ModelEntry
from localinfra.models.sources import locate


@dataclass(frozen=True)
class ImageOutlook:
    """Of one image model: how it would be computed, or what is in the way."""

    is_fine: bool
    text: str


def look_at_images(entries: Mapping[str, ModelEntry]) -> dict[str, ImageOutlook]:
    """Of those whose files are here."""
    here = {
        name: entry
        for name, entry in entries.items()
        if isinstance(entry, ImageModelEntry) and files.state(entry) == "present"
    }
    free = ask_torch() if here else {}
    return {name: outlook(name, entry, free) for name, entry in here.items()}


def outlook(name: str, entry: ImageModelEntry, free: dict[str, int]) -> ImageOutlook:
    """`free` bytes of each device, as torch tells; empty where it can't be asked."""
    try:
        folder = locate(name, entry.source)
        if not free:
            return ImageOutlook(False, "PyTorch can't be loaded")
        placement = decide(entry, transformer_file(name, entry), part_elements(folder), free)
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
