"""Catalogue entries of image pipelines → models in memory.

Blocking: the pool calls it in a thread.
"""

import logging
from pathlib import Path

from localinfra import install
from localinfra.errors import ModelUnavailable
from localinfra.footprint import Footprint, Room
from localinfra.image.model import ImageModel
from localinfra.image.pipeline import FluxPainter
from localinfra.image.placement import (
    WORKING_BYTES,
    decide,
    free_memory,
    part_elements,
    torch_device,
    weights,
)
from localinfra.machine import available_memory
from localinfra.models.entries import ImageModelEntry
from localinfra.models.seats import LoadPlan
from localinfra.models.sources import locate

logger = logging.getLogger(__name__)


def load_image_model(
    name: str, entry: ImageModelEntry, max_waiting: int, max_megapixel_steps: int | None = None
) -> ImageModel:
    """Loads the pipeline. Raises ModelUnavailable, saying what to do."""
    folder = locate(name, entry.source)
    if not install.is_installed("diffusers"):
        raise ModelUnavailable(
            f"{name} needs diffusers, which is not installed: {install.extra('images')}",
            "model",
        )
    painter = FluxPainter(folder, entry, transformer_file(name, entry))
    placed = painter.placement
    logger.info("%s runs on %s", name, placed)
    if placed.device == "cpu":
        logger.warning("%s runs on the CPU: an image of a full-size model takes minutes", name)
    return ImageModel(name, entry, painter, max_waiting, max_megapixel_steps)


def image_plan(name: str, entry: ImageModelEntry, room: Room) -> LoadPlan:
    """What the pipeline will take where `room` is for all models together. Raises
    ModelUnavailable if its files are absent or damaged, or it is too large."""
    folder, transformer = locate(name, entry.source), transformer_file(name, entry)
    if not install.is_installed("torch"):
        return LoadPlan()  # the load says what to install
    import torch

    free = {
        device: room.get(torch_device(device), size)
        for device, size in free_memory(torch, available_memory()).items()
    }
    elements = part_elements(folder)
    placement = decide(entry, transformer, elements, free)
    return LoadPlan(
        expected=weights(placement, transformer, elements),
        working=Footprint({torch_device(placement.device): WORKING_BYTES}),
    )


def transformer_file(name: str, entry: ImageModelEntry) -> Path | None:
    """The file that replaces the folder's transformer. Raises ModelUnavailable if it is missing."""
    return locate(name, entry.transformer, "transformer") if entry.transformer else None
