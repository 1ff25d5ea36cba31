"""Catalogue entries of image pipelines → models in memory.

Blocking; the pool calls it in a thread.
"""

import importlib.util
import logging

from localinfra import install
from localinfra.errors import ModelUnavailable
from localinfra.image.model import ImageModel
from localinfra.image.pipeline import FluxPainter
from localinfra.image.placement import Wishes
from localinfra.models.entries import ImageModelEntry
from localinfra.models.sources import locate

logger = logging.getLogger(__name__)


def load_image_model(name: str, entry: ImageModelEntry, max_waiting: int) -> ImageModel:
    """Raises ModelUnavailable with what to do."""
    folder = locate(name, entry.source)
    if importlib.util.find_spec("diffusers") is None:
        raise ModelUnavailable(
            f"{name} needs diffusers, which is not installed: {install.extra('images')}",
            "model",
        )
    painter = FluxPainter(folder, wishes_of(name, entry))
    placed = painter.placement
    logger.info("%s is computed on %s", name, placed)
    if placed.device == "cpu":
        logger.warning("%s has no GPU here: an image of a full-size model takes minutes", name)
    return ImageModel(name, entry, painter, max_waiting)


def wishes_of(name: str, entry: ImageModelEntry) -> Wishes:
    """Raises ModelUnavailable where the transformer's own file is not here."""
    return Wishes(
        device=None if entry.device == "auto" else entry.device,
        dtype=None if entry.dtype == "auto" else entry.dtype,
        offload=None if entry.offload == "auto" else entry.offload,
        quantize=None if entry.quantize == "auto" else entry.quantize,
        vae_tiling=None if entry.vae_tiling == "auto" else entry.vae_tiling,
        vae_slicing=entry.vae_slicing,
        attention=entry.attention,
        compile=entry.compile,
        batch_size=None if entry.images_at_once == "auto" else entry.images_at_once,
        transformer=locate(name, entry.transformer, "transformer") if entry.transformer else None,
    )
