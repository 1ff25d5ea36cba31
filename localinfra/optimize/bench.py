"""Opens a file of weights and others made from it side by side, and measures them.

Owns llama.cpp's side of a measurement: contexts set up as for serving, and the files made, in the
caller's folders. `choose` decides on the figures.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec

from localinfra.llama.context import LlamaContext
from localinfra.llama.model import Model, ModelSettings
from localinfra.llama.quantize import QuantizeFailed, quantize
from localinfra.llama.settings import ContextSettings
from localinfra.machine import usable_cores
from localinfra.models.gguf.reader import BadGguf, GgufHeader, read_header
from localinfra.optimize import choose, exact, loss, speed, store
from localinfra.optimize.choose import Loss, MeasuredType, Speed

# Tokens per context: enough for the passage or eight streams. The served context's size changes
# only memory, not speed. A model trained for fewer gets fewer.
NUM_CELLS, MIN_CELLS = 1536, 64

Progress = Callable[[float], None]  # the fraction done


class CannotMeasure(Exception):
    """The file or the machine can't be measured; the message says why."""


class Bench:
    """Use it in a `with` statement, which closes the contexts. The files stay."""

    def __init__(
        self,
        header: GgufHeader,
        settings: ContextSettings,
        folder: Path,
        places: Mapping[str, Path] | None = None,
    ):
        """`folder` is for files in the making. `places`: type → where its file goes once complete;
        one that is there already is used. The other files stay in `folder`.

        Raises CannotMeasure or LoadFailed if the file can't be measured."""
        room = min(NUM_CELLS, header.context_length or NUM_CELLS)
        if room < MIN_CELLS:
            raise CannotMeasure(f"{header.path} has a context of {room} tokens: too few to measure")
        self.original = choose.main_type(header)
        self.files: dict[str, Path] = {}  # type → file
        self._header = header
        self._folder = folder
        self._places = places or {}
        self._room = room  # tokens per sequence
        self._settings = msgspec.structs.replace(settings, num_cells=room, context_length=room)
        self.threads = settings.threads or usable_cores()
        self._models: dict[str, Model] = {}
        self._contexts: dict[str, LlamaContext] = {}
        self._open = ExitStack()
        self._load(self.original, Path(header.path))
        text = loss.PASSAGE.read_text(encoding="utf-8")
        model = self._models[self.original]
        self._tokens = model.tokenize(text, parse_special=False, add_bos=True)

    def __enter__(self) -> "Bench":
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def make(self, type: str, threads: int) -> None:
        """Writes the weights in another type, unless they are in their place, and opens them.
        Raises QuantizeFailed, LoadFailed."""
        path = self._folder / f"{type}.gguf"
        place = self._places.get(type, path)
        if not is_complete(place):
            self._write(type, path, threads)
            if place != path:
                store.settle(path, place)
        self._load(type, place)

    def _write(self, type: str, path: Path, threads: int) -> None:
        quantize(Path(self._header.path), path, type, threads)
        try:
            header = read_header(path)
        except BadGguf as error:  # a full disk leaves an incomplete file
            raise QuantizeFailed(str(error)) from None
        if type == "q8_0":
            exact.improve(self._header, header)

    def speeds(self, progress: Progress) -> tuple[dict[str, Speed], bool]:
        """Type → speed, and whether the speeds are reliable."""
        threads = self.threads, self._settings.batch_threads or self.threads
        return speed.speeds(
            self._contexts, self.original, self._tokens, self._room, threads, progress
        )

    def losses(self, progress: Progress) -> dict[str, Loss]:
        """Type → loss. Make the reference type before."""
        tokens = self._tokens[: min(self._room, loss.MAX_TOKENS)]
        return loss.losses(self._contexts, choose.REFERENCE, self.original, tokens, progress)

    def use_threads(self, count: int) -> None:
        """Reopens the contexts with so many threads."""
        self._settings = msgspec.structs.replace(self._settings, threads=count, batch_threads=count)
        for type in self.files:
            self._contexts[type].close()
            self._open_context(type)

    def measured(
        self,
        types: Sequence[str],
        speeds: dict[str, Speed],
        losses: dict[str, Loss] | None = None,
    ) -> list[MeasuredType]:
        return [
            MeasuredType(
                type,
                self.files[type].stat().st_size,
                speeds.get(type),
                losses[type] if losses else None,
            )
            for type in types
        ]

    def _load(self, type: str, path: Path) -> None:
        model = self._models[type] = Model(path, ModelSettings())
        self._open.callback(model.close)
        if not model.can_generate:
            self._open.close()
            raise CannotMeasure(f"{path} is a {model.description} model: it generates no text")
        self._open_context(type)
        self.files[type] = path

    def _open_context(self, type: str) -> None:
        context = self._contexts[type] = LlamaContext(self._models[type], self._settings)
        self._open.callback(context.close)


def is_complete(path: Path) -> bool:
    try:
        read_header(path)
    except BadGguf:
        return False
    return True
