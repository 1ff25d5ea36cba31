"""Catalogue entries of image pipelines → models in memory.

Blocking: the pool calls it in a thread.
"""

import logging
from pathlib import Path

from localinfra import install
from localinfra.errors import ModelUnavailable
from localinfra.image.model import ImageModel
from localinfra.image.pipeline import FluxPainter
from localinfra.models.entries import ImageModelEntry
from localinfra.models.sources import locate

logger = logging.getLogger(__name__)


def load_image_model(name: str, entry: ImageModelEntry, max_waiting: int) -> ImageModel:
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
    return ImageModel(name, entry, painter, max_waiting)


def transformer_file(name: str, entry: ImageModelEntry) -> Path | None:
    """The file that replaces the folder's transformer. Raises ModelUnavailable if it is missing."""
    return locate(name, entry.transformer, "transformer") if entry.transformer else None
