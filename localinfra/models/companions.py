"""The projector (mmproj file) that came with a GGUF file. Reads folder listings and manifests."""

from pathlib import Path

from localinfra.models import places, quants
from localinfra.models.sources import ModelSource, OllamaSource, PathSource, Source

OLLAMA_OWN = "mmproj.gguf"  # beside our own copy of a model of Ollama's registry


def projector_of(source: Source, model: Path) -> Path | None:
    """The file that belongs to the model, by their places and names; None if there is none, or it
    might as well belong to another model."""
    if isinstance(source, ModelSource):
        return projector_of(source.source, model) if source.source else None
    if isinstance(source, OllamaSource):
        own = model.with_name(OLLAMA_OWN)
        return own if own.exists() else places.ollama_blob(source.path, places.OLLAMA_PROJECTOR)
    snapshot = next((at for at in model.parents if at.parent.name == "snapshots"), None)
    folder = snapshot or model.parent
    try:
        # Other folders may have a whole disk below them.
        paths = folder.rglob("*.gguf") if snapshot else folder.glob("*.gguf")
        names = [path.relative_to(folder).as_posix() for path in paths]
    except OSError:
        return None
    if isinstance(source, PathSource):
        others = set(filter(quants.is_model, names)) - set(quants.parts(model.name))
        if others:
            return None
    found = quants.projector(names, model.relative_to(folder).as_posix())
    return folder / found if found else None
