"""A plugin for pytest: models of the engine's tests are loaded onto the device, with all layers,
whatever the tests say. Without a device it changes nothing."""

from pathlib import Path

import msgspec

from localinfra.llama import model as loading
from localinfra.llama.model import Model, ModelSettings

_load = Model.__init__


def load_onto_device(self: Model, path: Path, settings: ModelSettings) -> None:
    if not settings.vocabulary_only:
        settings = msgspec.structs.replace(settings, gpu_layers=999)
    _load(self, path, settings)


loading.Model.__init__ = load_onto_device  # type: ignore[method-assign]
