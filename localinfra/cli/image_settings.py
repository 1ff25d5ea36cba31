"""What `localinfra doctor` reports on image models: how each would run on this machine.

Queries torch in a child process: a broken build of it must not end the doctor.
"""

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from localinfra.children import module_command
from localinfra.errors import ApiError
from localinfra.image.loading import transformer_file
from localinfra.image.placement import decide, part_elements
from localinfra.models import files
from localinfra.models.entries import ImageModelEntry, ModelEntry
from localinfra.models.sources import locate


@dataclass(frozen=True)
class ImageOutlook:
    """How one image model would run, or why it can't."""

    is_fine: bool
    text: str


def look_at_images(entries: Mapping[str, ModelEntry]) -> dict[str, ImageOutlook]:
    """Image model whose files are here → its outlook."""
    here = {
        name: entry
        for name, entry in entries.items()
        if isinstance(entry, ImageModelEntry) and files.state(entry) == "present"
    }
    free = ask_torch() if here else {}
    return {name: outlook(name, entry, free) for name, entry in here.items()}


def outlook(name: str, entry: ImageModelEntry, free: dict[str, int]) -> ImageOutlook:
    """`free`: device → free bytes, from torch; empty if torch can't be loaded."""
    try:
        folder = locate(name, entry.source)
        if not free:
            return ImageOutlook(False, "PyTorch can't be loaded")
        placement = decide(entry, transformer_file(name, entry), part_elements(folder), free)
    except ApiError as error:
        return ImageOutlook(False, error.message)
    return ImageOutlook(True, f"runs on {placement}")


def ask_torch(timeout_s: float = 60) -> dict[str, int]:
    command = module_command("localinfra.image.placement")
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s
        )
    except subprocess.TimeoutExpired:
        return {}
    return msgspec.json.decode(done.stdout, type=dict[str, int]) if not done.returncode else {}
