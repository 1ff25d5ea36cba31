"""A projector (mmproj file) in memory: pictures → rows that its text model reads, by libmtmd.

The file must have passed `models/gguf/projector.py` and a trial in a process of its own. Decodes
nothing: what the rows mean for a context is in `engine/pictures.py`.
"""

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from localinfra.footprint import Footprint
from localinfra.llama import log
from localinfra.llama.library import llama_cpp, mtmd
from localinfra.llama.load_log import footprint_of
from localinfra.llama.model import LoadFailed, Model
from localinfra.llama.openmp import release_threads, with_threads
from localinfra.picture_parts import EncodingFailed, PartSize, PicturePart
from localinfra.pictures import Pixels

TEXT, IMAGE = 0, 1  # enum mtmd_input_chunk_type


class ProjectorSettings(msgspec.Struct, frozen=True):
    threads: int
    spared: int = 0  # of them, while other work runs
    use_gpu: bool = False
    max_tokens: int | None = None  # of one picture, where the projector has no fixed number
    # What follows the tiles of a picture is all of it, between words of its own or not; None: it
    # has no tiles, or they are not understood.
    has_own_words: bool | None = None


class Projector:
    """Owns the weights and keeps the text model alive. One thread at a time; `sizes` from any.

    Raises LoadFailed.
    """

    def __init__(self, path: Path, model: Model, settings: ProjectorSettings):
        self._pointer: Any = None
        self._model = model
        self._settings = settings
        try:
            self._library = mtmd()
        except (OSError, RuntimeError) as error:
            raise LoadFailed(f"this build of llama.cpp can't see: {error}") from None
        self._library.mtmd_log_set(log.callback, ctypes.c_void_p(0))
        params = self._library.mtmd_context_params_default()
        params.use_gpu = settings.use_gpu
        params.print_timings = False
        params.n_threads = settings.threads
        if settings.max_tokens is not None:
            params.image_max_tokens = settings.max_tokens
            params.image_min_tokens = min(settings.max_tokens, 8)
        log.recent_errors()
        with log.collected() as lines:
            self._pointer = self._library.mtmd_init_from_file(
                os.fsencode(path), model.pointer, params
            )
        if not self._pointer:
            raise LoadFailed(f"{path}: {log.recent_errors() or 'llama.cpp could not load it'}")
        self.footprint: Footprint = footprint_of(lines)
        self.width: int = llama_cpp.llama_model_n_embd_inp(model.pointer)
        self.sees = bool(self._library.mtmd_support_vision(self._pointer))
        # Whether rows see only those before them.
        self.is_causal = not self._library.mtmd_decode_use_non_causal(self._pointer, None)

    def sizes(self, width: int, height: int, *, is_coarse: bool = False) -> list[PartSize]:
        """What a picture of so many pixels becomes, without its content; if it is coarse, without
        tiles. Raises EncodingFailed."""
        lib = self._library
        with ExitStack() as held:
            chunks = self._chunks(held, width, height, None)
            chunks = self._whole(chunks) if is_coarse else chunks
            return [
                PartSize(
                    lib.mtmd_input_chunk_get_n_tokens(chunk),
                    lib.mtmd_input_chunk_get_type(chunk) != TEXT,
                )
                for chunk in chunks
            ]

    def read(
        self,
        pixels: Pixels,
        check: Callable[[], None],
        has_company: Callable[[], bool] = lambda: False,
    ) -> tuple[PicturePart, ...]:
        """Encodes a picture, which takes from milliseconds to minutes; `check` is called between
        its parts and may raise to end it, and `has_company` says whether other work runs, which
        some threads are left to. Raises EncodingFailed."""
        with ExitStack() as held:
            data = (ctypes.c_uint8 * len(pixels.data)).from_buffer_copy(pixels.data)
            chunks = self._chunks(held, pixels.width, pixels.height, data)
            chunks = self._whole(chunks) if pixels.is_coarse else chunks
            try:
                return tuple(self._parts(chunks, check, has_company))
            finally:
                release_threads()  # those of a context could not spin while these sleep

    def close(self) -> None:
        if self._pointer:
            self._library.mtmd_free(self._pointer)
            self._pointer = None

    def _chunks(self, held: ExitStack, width: int, height: int, data: Any) -> list[Any]:
        """A picture between no texts → pointers that live as long as `held`."""
        lib = self._library
        bitmap = lib.mtmd_bitmap_init(width, height, data)
        held.callback(lib.mtmd_bitmap_free, bitmap)
        chunks = lib.mtmd_input_chunks_init()
        held.callback(lib.mtmd_input_chunks_free, chunks)
        part = lib.mtmd_input_part()
        part.bitmap = bitmap
        parts = (ctypes.POINTER(lib.mtmd_input_part) * 1)(ctypes.pointer(part))
        if lib.mtmd_tokenize_from_parts(self._pointer, chunks, parts, 1, False):
            raise EncodingFailed(log.recent_errors() or "llama.cpp can't prepare the picture")
        count = lib.mtmd_input_chunks_size(chunks)
        found = [lib.mtmd_input_chunks_get(chunks, at) for at in range(count)]
        # It looks some of its words up, and takes what it has not found for a token, -1.
        if any(token < 0 for chunk in found for token in self._tokens(chunk)):
            raise EncodingFailed(
                "the model has no words for what its projector writes around parts of a picture: "
                "they don't belong together"
            )
        return found

    def _whole(self, chunks: list[Any]) -> list[Any]:
        """Of a picture in tiles, what shows all of it, with the words around."""
        kinds = [self._library.mtmd_input_chunk_get_type(chunk) != TEXT for chunk in chunks]
        if self._settings.has_own_words is None or kinds.count(True) < 2:
            return chunks
        last = len(kinds) - 1 - kinds[::-1].index(True)
        if self._settings.has_own_words:
            return chunks[last - 1 :]
        return [*chunks[: kinds.index(True)], *chunks[last:]]

    def _tokens(self, chunk: Any) -> list[int]:
        """Those of a text; none of rows."""
        length = ctypes.c_size_t()
        tokens = self._library.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(length))
        return list(tokens[: length.value])

    def _parts(
        self, chunks: list[Any], check: Callable[[], None], has_company: Callable[[], bool]
    ) -> Iterator[PicturePart]:
        lib = self._library
        for chunk in chunks:
            count = lib.mtmd_input_chunk_get_n_tokens(chunk)
            if lib.mtmd_input_chunk_get_type(chunk) == TEXT:
                yield PicturePart(self._tokens(chunk))
                continue
            check()
            threads = self._settings.threads - self._settings.spared * has_company()
            if with_threads(threads, partial(lib.mtmd_encode_chunk, self._pointer, chunk)):
                raise EncodingFailed(log.recent_errors() or "llama.cpp can't encode the picture")
            found = np.ctypeslib.as_array(
                lib.mtmd_get_output_embd(self._pointer), (count, self.width)
            )
            yield PicturePart(rows=found.astype(np.float32, copy=True), grid=self._grid(chunk))

    def _grid(self, chunk: Any) -> tuple[int, int] | None:
        lib = self._library
        if not lib.mtmd_decode_use_mrope(self._pointer):
            return None
        image = lib.mtmd_input_chunk_get_tokens_image(chunk)
        last = lib.mtmd_input_chunk_get_n_tokens(chunk) - 1
        if lib.mtmd_image_tokens_get_decoder_pos(image, 0, last).t:  # a tile, counted like text
            return None
        return lib.mtmd_image_tokens_get_ny(image), lib.mtmd_image_tokens_get_nx(image)
